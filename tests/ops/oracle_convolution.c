/* Naive definitions of convolution and its gradients: every product of an element of X with one of W that counts
 * towards an element of Y, once. */
#include "tests/ops/oracle.h"

typedef struct {
  Shape x, w, y;
  const int64_t *strides, *dilations, *pads; /* NULL: as ONNX says */
} Operands;

static Operands operands(const OracleCall *c, Shape x, Shape w, Shape y) {
  int n;
  return (Operands){
      x, w, y, node_ints(c->node, "strides", &n), node_ints(c->node, "dilations", &n), node_ints(c->node, "pads", &n)};
}

/* The element of X that tap q of W meets at position p of Y; -1: a zero of the padding. */
static int64_t met(const Operands *o, Position p, Position q) {
  int64_t filters_of_group = o->w.dim[0] * o->w.dim[1] / (o->x.dim[1] ? o->x.dim[1] : 1);
  Position at = {{p.at[0], p.at[1] / (filters_of_group ? filters_of_group : 1) * o->w.dim[1] + q.at[1]}};
  for (int i = 2; i < o->x.rank; i++) {
    at.at[i] = p.at[i] * (o->strides ? o->strides[i - 2] : 1) + q.at[i] * (o->dilations ? o->dilations[i - 2] : 1) -
               (o->pads ? o->pads[i - 2] : 0);
    if (at.at[i] < 0 || at.at[i] >= o->x.dim[i])
      return -1;
  }
  return element_at(o->x, at);
}

enum { X, W, Y };

/* The operand number `to` as the sum of products of the other two. */
static void contract(const Operands *o, double *operand[3], int to) {
  const Shape *shapes[] = {&o->x, &o->w, &o->y};
  int64_t taps = o->w.dim[0] ? shape_elements(o->w) / o->w.dim[0] : 0;
  for (int64_t i = 0; i < shape_elements(*shapes[to]); i++)
    operand[to][i] = 0;
  for (int64_t i = 0; i < shape_elements(o->y); i++) {
    Position p = position_of(o->y, i);
    for (int64_t j = p.at[1] * taps; j < (p.at[1] + 1) * taps; j++) {
      int64_t at[] = {met(o, p, position_of(o->w, j)), j, i};
      if (at[X] >= 0)
        operand[to][at[to]] += operand[(to + 1) % 3][at[(to + 1) % 3]] * operand[(to + 2) % 3][at[(to + 2) % 3]];
    }
  }
}

void oracle_Conv(const OracleCall *c) {
  Operands o = operands(c, c->in_shape[0], c->in_shape[1], c->out_shape[0]);
  contract(&o, (double *[]){c->in[0], c->in[1], c->out[0]}, Y);
}

void oracle_ConvGradInput(const OracleCall *c) {
  Operands o = operands(c, c->out_shape[0], c->in_shape[1], c->in_shape[0]);
  contract(&o, (double *[]){c->out[0], c->in[1], c->in[0]}, X);
}

void oracle_ConvGradWeight(const OracleCall *c) {
  Operands o = operands(c, c->in_shape[1], c->out_shape[0], c->in_shape[0]);
  contract(&o, (double *[]){c->in[1], c->out[0], c->in[0]}, W);
}
