/* Losses as nodes. A mean is differentiated as a sum whose cotangent is 1 / the whole batch's denominator
 * (graph->loss_scale, written before the step), so accumulation over microbatches is exact. */
#ifndef GRAPH_LOSS_H
#define GRAPH_LOSS_H

#include "graph/graph.h"

typedef enum { LOSS_AUTO, LOSS_CROSS_ENTROPY, LOSS_MSE, LOSS_BCE_WITH_LOGITS, LOSS_MODEL, LOSS_COUNT } LossKind;

typedef struct {
  LossKind kind;         /* LOSS_AUTO: cross_entropy for integer targets, else mse; resolved in place */
  ValueId output;        /* the prediction */
  DType target_dtype;    /* of the data file's target: I64 or the prediction's float type */
  Shape target_shape;    /* of one microbatch */
  int64_t ignore_index;  /* cross_entropy: targets with this value count neither in the sum nor the denominator */
  int microbatches;      /* LOSS_MODEL: how many make a batch */
  int class_axis;        /* cross_entropy: -1 finds the one axis of the prediction, not its batch's, that the target
                            lacks */
  int target_batch_axis; /* along which the target counts samples */
  const char *coupled;   /* set: why the loss of a batch is not that of its microbatches; NULL: it is */
} LossSpec;

/* "cross_entropy" …; LOSS_COUNT for an unknown name. */
LossKind loss_find(const char *name);
const char *loss_name(LossKind kind);

/* Adds graph->target (ROLE_INPUT "target"), graph->loss_scale and the node that makes graph->loss_sum; resolves
 * spec->kind and spec->class_axis. Fails E_SHAPE with both shapes when the target does not fit the prediction, or when
 * two class axes would, E_USAGE for a class axis that the prediction lacks.
 * LOSS_MODEL takes no target: the output is the loss, one number. Where a batch has several microbatches, the graph's
 * own means are averaged, and what divides by a number of counted targets divides by graph->denominators instead. Fails
 * E_UNSUPPORTED naming the node through which the batch's loss is no mean over its samples.
 * Either way spec->coupled says so where there is one microbatch, for which every loss is right. */
Status loss_append(Graph *graph, LossSpec *spec);

/* E_UNSUPPORTED: more than one microbatch, and why not. */
Status loss_refuse(const char *coupled);

/* The denominator that `count` targets (dense, of spec->target_dtype) contribute: targets that are not ignored
 * (cross_entropy) or elements (mse, bce); the microbatches of LOSS_MODEL, whose targets may be NULL. Fails E_MODEL
 * naming a class index outside 0 … classes-1, with its position. */
Status loss_denominator(const Graph *graph, const LossSpec *spec, const void *targets, size_t count, double *out);

#endif
