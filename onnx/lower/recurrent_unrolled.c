/* Recurrent layers step by step, as plain nodes: any activations, clipping, peepholes, coupled gates. Invariant: the
 * nodes are those of the specification's equations; how many there may be is the graph's budget to say. */
#include <string.h>
#include <strings.h>

#include "onnx/lower/recurrent.h"

static const Activation known[] = {
    {.name = "Relu"},
    {.name = "Tanh"},
    {.name = "Sigmoid"},
    {.name = "Softsign"},
    {.name = "Softplus"},
    {"Affine", 1, 0, true, true},
    {"LeakyRelu", 0.01f, 0, true, false},
    {"ThresholdedRelu", 1, 0, true, false},
    {"ScaledTanh", 1, 1, true, true},
    {"HardSigmoid", 0.2f, 0.5, true, true},
    {"Elu", 1, 0, true, false},
};

Status activation_find(const char *name, size_t length, Activation *activation) {
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strlen(known[i].name) == length && strncasecmp(known[i].name, name, length) == 0) {
      *activation = known[i];
      return OK;
    }
  return fail(E_UNSUPPORTED, "activation '%.*s'", (int)(length < 80 ? length : 80), name);
}

/* The operator of its name, as if it were a node. */
static Status as_operator(Op *op, const Activation *a, Term *x, Term **out) {
  Onnx__NodeProto proto = ONNX__NODE_PROTO__INIT;
  Onnx__AttributeProto numbers[2] = {ONNX__ATTRIBUTE_PROTO__INIT, ONNX__ATTRIBUTE_PROTO__INIT}, *list[2];
  char *names[] = {"alpha", "beta"}, *in[] = {"x"}, *given[] = {"y"};
  const bool takes[] = {a->takes_alpha, a->takes_beta};
  const double values[] = {a->alpha, a->beta};
  const char *reason;
  proto.op_type = (char *)a->name;
  proto.domain = "";
  proto.input = in, proto.output = given;
  proto.n_input = proto.n_output = 1;
  for (int i = 0; i < 2; i++) {
    if (!takes[i])
      continue;
    numbers[i].name = names[i];
    numbers[i].has_type = true;
    numbers[i].type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
    numbers[i].f = (float)values[i];
    list[proto.n_attribute++] = &numbers[i];
  }
  proto.attribute = list;
  Op one = *op;
  one.proto = &proto;
  one.opset = op->opset < 10 ? 10 : op->opset; /* ThresholdedRelu is as old as its use here, not as an operator */
  one.in = &x, one.out = out;
  one.n_in = one.n_out = 1;
  TRY(operator_find(op->lower->arena, &proto, one.opset, NULL, &one.lowering, &reason));
  return one.lowering ? one.lowering->lower(&one) : fail(E_UNSUPPORTED, "activation '%s': %s", a->name, reason);
}

static Status bounded(Op *op, OpKind beyond, double bound, Term *x, Term **out) {
  Term *limit, *outside;
  TRY(op_scalar(op, x, bound, &limit));
  TRY(op_emit2(op, beyond, x, limit, &outside));
  return op_where(op, outside, limit, x, out);
}

/* Activation number i of x, which is clipped before; but the cell of an LSTM is not, as in ONNX Runtime. */
static Status activate(Op *op, const Layer *l, const Direction *d, int i, Term *x, Term **out) {
  const Activation *a = &l->activation[d->number][i];
  if (l->clip > 0 && i < 2) {
    TRY(bounded(op, OP_Less, -l->clip, x, &x));
    TRY(bounded(op, OP_Greater, l->clip, x, &x));
  }
  bool affine = strcmp(a->name, "Affine") == 0, scaled = strcmp(a->name, "ScaledTanh") == 0;
  if (!affine && !scaled)
    return as_operator(op, a, x, out);
  TRY(op_with_number(op, OP_Mul, x, affine ? a->alpha : a->beta, &x));
  if (affine)
    return op_with_number(op, OP_Add, x, a->beta, out);
  TRY(op_emit1(op, OP_Tanh, x, &x));
  return op_with_number(op, OP_Mul, x, a->alpha, out);
}

/* What is the same for all steps. */
typedef struct {
  Term *matrix[4]; /* R's blocks [H,H], where they are used apart */
  Term *bias;      /* [G H]: both together, but for a block that the reset multiplies */
  Term *reset_bias, *peephole[3];
} Weights;

static Status cut(Op *op, Term *t, int axis, int n, int64_t units, Term **out) {
  int64_t sizes[8];
  for (int i = 0; i < n; i++)
    sizes[i] = units;
  return op_split(op, t, axis, sizes, n, out);
}

static Status prepare(Op *op, const Layer *l, const Direction *d, Weights *w) {
  Term *blocks[8], *sums[4];
  *w = (Weights){0};
  if (l->gates == 3)
    TRY(cut(op, d->matrix, 0, 3, l->units, w->matrix));
  if (d->peephole->kind != TERM_ABSENT)
    TRY(cut(op, d->peephole, 0, 3, l->units, w->peephole));
  if (d->bias->kind == TERM_ABSENT)
    return OK;
  TRY(cut(op, d->bias, 0, 2 * l->gates, l->units, blocks));
  for (int i = 0; i < l->gates; i++)
    if (l->gates == 3 && i == 2 && l->reset_after)
      sums[i] = blocks[i], w->reset_bias = blocks[3 + i];
    else
      TRY(op_emit2(op, OP_Add, blocks[i], blocks[l->gates + i], &sums[i]));
  return op_concat(op, sums, l->gates, 0, &w->bias);
}

/* x + a b; x where there is no a. */
static Status add_scaled(Op *op, Term *x, Term *a, Term *b, Term **out) {
  *out = x;
  if (!a)
    return OK;
  TRY(op_emit2(op, OP_Mul, a, b, &b));
  return op_emit2(op, OP_Add, x, b, out);
}

/* p: the step's products and bias [N,G H]. */
static Status lstm_step(Op *op, const Layer *l, const Direction *d, const Weights *w, Term *p, Term **h, Term **c) {
  Term *t, *gate[4], *kept;
  TRY(op_matmul(op, *h, false, d->matrix, true, &t));
  TRY(op_emit2(op, OP_Add, p, t, &p));
  TRY(cut(op, p, 1, 4, l->units, gate)); /* i, o, f, c */
  TRY(add_scaled(op, gate[0], w->peephole[0], *c, &gate[0]));
  TRY(activate(op, l, d, 0, gate[0], &gate[0]));
  if (l->input_forget) {
    TRY(op_scalar(op, gate[0], 1, &t));
    TRY(op_emit2(op, OP_Sub, t, gate[0], &gate[2]));
  } else {
    TRY(add_scaled(op, gate[2], w->peephole[2], *c, &gate[2]));
    TRY(activate(op, l, d, 0, gate[2], &gate[2]));
  }
  TRY(activate(op, l, d, 1, gate[3], &gate[3]));
  TRY(op_emit2(op, OP_Mul, gate[2], *c, &kept));
  TRY(op_emit2(op, OP_Mul, gate[0], gate[3], &t));
  TRY(op_emit2(op, OP_Add, kept, t, c));
  TRY(add_scaled(op, gate[1], w->peephole[1], *c, &gate[1]));
  TRY(activate(op, l, d, 0, gate[1], &gate[1]));
  TRY(activate(op, l, d, 2, *c, &t));
  return op_emit2(op, OP_Mul, gate[1], t, h);
}

static Status gru_step(Op *op, const Layer *l, const Direction *d, const Weights *w, Term *p, Term **h) {
  Term *gate[3], *t;
  TRY(cut(op, p, 1, 3, l->units, gate)); /* z, r, h */
  for (int i = 0; i < 2; i++) {
    TRY(op_matmul(op, *h, false, w->matrix[i], true, &t));
    TRY(op_emit2(op, OP_Add, gate[i], t, &gate[i]));
    TRY(activate(op, l, d, 0, gate[i], &gate[i]));
  }
  if (l->reset_after) {
    TRY(op_matmul(op, *h, false, w->matrix[2], true, &t));
    if (w->reset_bias)
      TRY(op_emit2(op, OP_Add, t, w->reset_bias, &t));
    TRY(op_emit2(op, OP_Mul, gate[1], t, &t));
  } else {
    TRY(op_emit2(op, OP_Mul, gate[1], *h, &t));
    TRY(op_matmul(op, t, false, w->matrix[2], true, &t));
  }
  TRY(op_emit2(op, OP_Add, gate[2], t, &t));
  TRY(activate(op, l, d, 1, t, &t));
  TRY(op_scalar(op, t, 1, &gate[1]));
  TRY(op_emit2(op, OP_Sub, gate[1], gate[0], &gate[1]));
  TRY(op_emit2(op, OP_Mul, gate[1], t, &t));
  return add_scaled(op, t, gate[0], *h, h);
}

static Status rnn_step(Op *op, const Layer *l, const Direction *d, Term *p, Term **h) {
  Term *t;
  TRY(op_matmul(op, *h, false, d->matrix, true, &t));
  TRY(op_emit2(op, OP_Add, p, t, &t));
  return activate(op, l, d, 0, t, h);
}

/* Samples whose sequence is over keep their state and give 0. */
static Status hold(Op *op, const Direction *d, int64_t t, const Term *h, Term *before, Term **state, Term **y) {
  Term *number, *counts, *zero;
  Shape column = {2, {d->lengths->shape.dim[0], 1}};
  TRY(op_scalar(op, d->lengths, (double)t, &number));
  TRY(op_emit2(op, OP_Greater, d->lengths, number, &counts));
  TRY(op_reshape(op, counts, column, &counts));
  TRY(op_scalar(op, h, 0, &zero));
  if (y)
    TRY(op_where(op, counts, *state, zero, y));
  return op_where(op, counts, *state, before, state);
}

static Status one_step(Op *op, const Layer *l, Direction *d, const Weights *w, int64_t t, Term *p, Term **y) {
  Term *h = d->h, *c = d->c;
  if (l->gates == 4)
    TRY(lstm_step(op, l, d, w, p, &d->h, &d->c));
  else
    TRY(l->gates == 3 ? gru_step(op, l, d, w, p, &d->h) : rnn_step(op, l, d, p, &d->h));
  *y = d->h;
  if (d->lengths->kind == TERM_ABSENT)
    return OK;
  if (l->gates == 4)
    TRY(hold(op, d, t, c, c, &d->c, NULL));
  return hold(op, d, t, h, h, &d->h, y);
}

/* Zeros [N,H] that samples share. */
static Status zeros(Op *op, const Layer *l, Term **state) {
  Term *zero;
  TRY(op_scalar(op, op->in[0], 0, &zero));
  return op_expand(op, zero, (Shape){2, {l->samples, l->units}}, state);
}

static Status all_steps(Op *op, const Layer *l, Direction *d) {
  Weights w;
  Term **steps, *p = d->products;
  int64_t T = l->steps, *ones;
  if (T < 1 || T > 1 << 15)
    return fail(E_UNSUPPORTED, "%lld steps with other activations than the usual ones: at most %d", (long long)T,
                1 << 15);
  if (d->h->kind == TERM_ABSENT)
    TRY(zeros(op, l, &d->h));
  if (d->c->kind == TERM_ABSENT)
    TRY(zeros(op, l, &d->c));
  TRY(prepare(op, l, d, &w));
  if (w.bias)
    TRY(op_emit2(op, OP_Add, p, w.bias, &p));
  TRY(ARENA_NEW(op->lower->arena, steps, T));
  TRY(ARENA_NEW(op->lower->arena, ones, T));
  for (int64_t t = 0; t < T; t++)
    ones[t] = 1;
  TRY(op_split(op, p, 0, ones, (int)T, steps));
  for (int64_t k = 0; k < T; k++) {
    int64_t t = d->reverse ? T - 1 - k : k;
    TRY(op_reshape(op, steps[t], (Shape){2, {l->samples, l->gates * l->units}}, &p));
    TRY(one_step(op, l, d, &w, t, p, &steps[t]));
  }
  for (int64_t t = 0; t < T; t++)
    TRY(op_reshape(op, steps[t], (Shape){3, {1, l->samples, l->units}}, &steps[t]));
  return op_concat(op, steps, (int)T, 0, &d->y);
}

Status as_nodes(Op *op, const Layer *l, Direction *d) {
  int before = graph_unroll_begin(op->lower->graph);
  Status status = all_steps(op, l, d);
  graph_unroll_end(op->lower->graph, before);
  return status;
}
