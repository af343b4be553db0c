/* What the lowerings of recurrent layers share. */
#ifndef ONNX_LOWER_RECURRENT_H
#define ONNX_LOWER_RECURRENT_H

#include "onnx/lower/lower.h"

/* A function of the specification's list. */
typedef struct {
  const char *name; /* ONNX's operator, Affine or ScaledTanh */
  double alpha, beta;
  bool takes_alpha, takes_beta;
} Activation;

typedef struct {
  int directions, gates, activations;
  bool batch_first, reverse, input_forget, reset_after;
  int64_t steps, samples, units;
  double clip; /* 0: none */
  Activation activation[2][3];
} Layer;

/* Steps first: the products [T,N,G H] of all steps, R [G H,H], the bias [2 G H], peepholes [3 H], the state [N,H], at
 * first and at last, and what the steps give [T,N,H]. Any but the first two may be absent. */
typedef struct {
  int number;
  bool reverse;
  Term *products, *matrix, *bias, *peephole, *lengths, *h, *c, *y;
} Direction;

/* By its name of `length` letters, in any case; with the values that it has where none are given. */
Status activation_find(const char *name, size_t length, Activation *activation);

/* A direction as plain nodes for each step: Y, and the last states. */
Status as_nodes(Op *op, const Layer *layer, Direction *direction);

#endif
