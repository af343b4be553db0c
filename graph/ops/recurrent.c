/* Recurrent layers: the steps of one direction as one node, behind the product X W' of all steps, and its gradient.
 * Invariant: what a step's product needs of the step before is inside the node; everything that no step waits for (X
 * W', the gradients of W, R and the bias) is a product or sum over all steps outside. */
#include "graph/ops/recurrent.h"

#include <string.h>

#include "graph/ops/rule.h"

const char *const recurrent_cells[CELL_COUNT] = {"tanh", "relu", "gru", "gru_reset_after", "lstm"};

bool recurrent_of(const Node *n, Recurrent *r) {
  static const int gates[] = {1, 1, 3, 3, 4}, biases[] = {1, 1, 3, 4, 4}, saved[] = {0, 0, 3, 4, 5};
  const char *name = node_string(n, "cell", "");
  for (int c = 0; c < CELL_COUNT; c++)
    if (strcmp(name, recurrent_cells[c]) == 0) {
      *r = (Recurrent){(RecurrentCell)c, node_int(n, "reverse", 0) != 0, gates[c], biases[c], saved[c]};
      return true;
    }
  return false;
}

static Status find_cell(const Node *n, Recurrent *r) {
  return recurrent_of(n, r) ? OK : fail(E_UNSUPPORTED, "cell is '%s'", node_string(n, "cell", ""));
}

/* Input i, where it is present, has this shape and type. */
static Status need(const Graph *g, const Node *n, int i, DType dtype, Shape shape) {
  if (!rule_has_in(n, i))
    return OK;
  if (!shape_equal(rule_in(g, n, i)->shape, shape))
    return fail(E_SHAPE, "'%s' is %s, not %s", rule_in(g, n, i)->name, SHAPE_STR(rule_in(g, n, i)->shape),
                SHAPE_STR(shape));
  if (rule_in(g, n, i)->dtype != dtype)
    return fail(E_UNSUPPORTED, "'%s' is %s, not %s", rule_in(g, n, i)->name, dtype_name(rule_in(g, n, i)->dtype),
                dtype_name(dtype));
  return OK;
}

static Status need_lengths(const Graph *g, const Node *n, int i, int64_t samples) {
  if (!rule_has_in(n, i))
    return OK;
  DType dtype = rule_in(g, n, i)->dtype;
  return need(g, n, i, dtype == I64 ? I64 : I32, shape_of(1, &samples));
}

/* [.., blocks · units] */
static Status widened(Shape s, int blocks, Shape *wide) {
  *wide = s;
  if (__builtin_mul_overflow(s.dim[s.rank - 1], (int64_t)blocks, &wide->dim[s.rank - 1]))
    return fail(E_SHAPE, "%s is too large", SHAPE_STR(s));
  return OK;
}

/* [T,N,H] and [N,H] by R [gates · H, H] and a tensor of all steps. */
static Status layer_shapes(const Graph *g, const Node *n, const Recurrent *r, int matrix, int steps, Shape *all,
                           Shape *one) {
  Shape p = rule_in(g, n, steps)->shape, square = rule_in(g, n, matrix)->shape, own;
  TRY(rule_float(g, n, matrix));
  if (p.rank != 3 || square.rank != 2)
    return fail(E_SHAPE, "the steps are %s, R is %s", SHAPE_STR(p), SHAPE_STR(square));
  *all = (Shape){3, {p.dim[0], p.dim[1], square.dim[1]}};
  *one = (Shape){2, {p.dim[1], square.dim[1]}};
  TRY(widened(shape_of(1, &square.dim[1]), r->gates, &own));
  return need(g, n, matrix, rule_in(g, n, matrix)->dtype, (Shape){2, {own.dim[0], square.dim[1]}});
}

static int count_outputs(const Recurrent *r) {
  return r->cell == CELL_LSTM ? 5 : r->saved ? 4 : 3;
}

static Status infer_steps(Graph *g, Node *n) {
  Recurrent r;
  Shape all, one, wide, bias;
  DType dtype = rule_in(g, n, STEPS_P)->dtype;
  TRY(find_cell(n, &r));
  TRY(layer_shapes(g, n, &r, STEPS_R, STEPS_P, &all, &one));
  if (n->n_out != count_outputs(&r))
    return fail(E_SHAPE, "%d outputs, not %d", n->n_out, count_outputs(&r));
  if (r.cell != CELL_LSTM && rule_has_in(n, STEPS_C0))
    return fail(E_SHAPE, "a cell without a state of its own has a first one");
  TRY(widened(all, r.gates, &wide));
  TRY(widened(shape_of(1, &one.dim[1]), r.biases, &bias));
  TRY(need(g, n, STEPS_P, rule_in(g, n, STEPS_R)->dtype, wide));
  TRY(need(g, n, STEPS_B, dtype, bias));
  TRY(need(g, n, STEPS_H0, dtype, one));
  TRY(need(g, n, STEPS_C0, dtype, one));
  TRY(need_lengths(g, n, STEPS_LENGTHS, one.dim[0]));
  TRY(widened(all, r.saved, &wide));
  int last = r.cell == CELL_LSTM ? 2 : 1;
  rule_set(g, n, 0, dtype, all);
  for (int i = 1; i <= last; i++)
    rule_set(g, n, i, dtype, one);
  rule_set(g, n, last + 1, dtype, all);
  if (r.saved)
    rule_set(g, n, last + 2, dtype, wide);
  return OK;
}

static Status infer_steps_grad(Graph *g, Node *n) {
  Recurrent r;
  Shape all, one, wide;
  DType dtype = rule_in(g, n, STEPS_GRAD_R)->dtype;
  TRY(find_cell(n, &r));
  TRY(layer_shapes(g, n, &r, STEPS_GRAD_R, STEPS_GRAD_PREV, &all, &one));
  bool third = r.cell == CELL_LSTM || r.cell == CELL_GRU_AFTER;
  if (n->n_out != 2 + third)
    return fail(E_SHAPE, "%d outputs, not %d", n->n_out, 2 + third);
  TRY(widened(all, r.saved ? r.saved : 1, &wide));
  TRY(need(g, n, STEPS_GRAD_PREV, dtype, all));
  TRY(need(g, n, STEPS_GRAD_SAVED, dtype, wide));
  TRY(need(g, n, STEPS_GRAD_Y, dtype, all));
  TRY(need(g, n, STEPS_GRAD_H, dtype, one));
  TRY(need(g, n, STEPS_GRAD_C, dtype, one));
  TRY(need_lengths(g, n, STEPS_GRAD_LENGTHS, one.dim[0]));
  TRY(widened(all, r.gates, &wide));
  rule_set(g, n, 0, dtype, wide);
  rule_set(g, n, 1, dtype, one);
  if (third)
    rule_set(g, n, 2, dtype, r.cell == CELL_LSTM ? one : wide);
  return OK;
}

/* One block of H along the last axis, from block `at` on. */
static Status emit_blocks(Graph *g, ValueId a, int64_t units, int at, int blocks, ValueId *out) {
  int axis = graph_value(g, a)->shape.rank - 1;
  int64_t along = axis, start = at * units, end = (at + blocks) * units, step = 1;
  Attr attrs[] = {attr_ints("axes", &along, 1), attr_ints("starts", &start, 1), attr_ints("ends", &end, 1),
                  attr_ints("steps", &step, 1)};
  return graph_emit(g, OP_Slice, &a, 1, attrs, 4, out);
}

/* [T,N,K] as [T N, K] */
static Status emit_flat(Graph *g, ValueId a, ValueId *out) {
  Shape s = graph_value(g, a)->shape;
  return emit_reshape(g, a, (Shape){2, {s.dim[0] * s.dim[1], s.dim[2]}}, out);
}

/* d' h over all steps: [K, H] */
static Status emit_outer(Graph *g, ValueId d, ValueId h, ValueId *out) {
  TRY(emit_flat(g, d, &d));
  TRY(emit_flat(g, h, &h));
  return emit_matmul(g, d, true, h, false, out);
}

/* dR = dS' h over all steps, dS the gradients of R h; of a GRU that resets before, h~ saw r h. */
static Status emit_matrix(Graph *g, const Node *n, const Recurrent *r, int prev, ValueId dS, ValueId *out) {
  int64_t units = rule_out(g, n, 0)->shape.dim[2];
  ValueId h = n->out[prev], part[2], reset;
  Attr axis = attr_int("axis", 0);
  if (r->cell != CELL_GRU)
    return emit_outer(g, dS, h, out);
  TRY(emit_blocks(g, n->out[prev + 1], units, 1, 1, &reset));
  TRY(emit2(g, OP_Mul, reset, h, &reset));
  TRY(emit_blocks(g, dS, units, 0, 2, &part[0]));
  TRY(emit_blocks(g, dS, units, 2, 1, &part[1]));
  TRY(emit_outer(g, part[0], h, &part[0]));
  TRY(emit_outer(g, part[1], reset, &part[1]));
  return graph_emit(g, OP_Concat, part, 2, &axis, 1, out);
}

static Status emit_bias(Graph *g, const Recurrent *r, int64_t units, ValueId dP, ValueId dS, ValueId *out) {
  int64_t axes[] = {0, 1};
  ValueId part[2];
  Attr axis = attr_int("axis", 0);
  if (r->cell != CELL_GRU_AFTER)
    return emit_reduce_sum(g, dP, axes, 2, false, out);
  TRY(emit_reduce_sum(g, dS, axes, 2, false, &part[0]));
  TRY(emit_reduce_sum(g, dP, axes, 2, false, &part[1]));
  TRY(emit_blocks(g, part[1], units, 2, 1, &part[1]));
  return graph_emit(g, OP_Concat, part, 2, &axis, 1, out);
}

static Status gradient_steps(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Recurrent r;
  TRY(find_cell(n, &r));
  bool lstm = r.cell == CELL_LSTM;
  int prev = lstm ? 3 : 2;
  for (int i = prev; i < n->n_out; i++)
    if (d_out[i] != NO_VALUE)
      return fail(E_UNSUPPORTED, "output %d has no gradient", i);
  ValueId in[] = {n->in[STEPS_R],
                  n->out[prev],
                  r.saved ? n->out[prev + 1] : n->out[0],
                  d_out[0],
                  d_out[1],
                  lstm ? d_out[2] : NO_VALUE,
                  rule_has_in(n, STEPS_LENGTHS) ? n->in[STEPS_LENGTHS] : NO_VALUE};
  NodeId id;
  TRY(graph_add_node(g, OP_RecurrentStepsGrad, n->name, in, 7, n->attrs, n->n_attrs, NULL,
                     lstm || r.cell == CELL_GRU_AFTER ? 3 : 2, &id));
  const ValueId *d = graph_node(g, id)->out;
  ValueId dP = d[0], dS = r.cell == CELL_GRU_AFTER ? d[2] : dP;
  if (rule_wants(g, n, STEPS_P))
    d_in[STEPS_P] = dP;
  if (rule_wants(g, n, STEPS_H0))
    d_in[STEPS_H0] = d[1];
  if (rule_wants(g, n, STEPS_C0))
    d_in[STEPS_C0] = d[2];
  if (rule_wants(g, n, STEPS_R))
    TRY(emit_matrix(g, n, &r, prev, dS, &d_in[STEPS_R]));
  int64_t units = rule_out(g, n, 0)->shape.dim[2];
  return rule_wants(g, n, STEPS_B) ? emit_bias(g, &r, units, dP, dS, &d_in[STEPS_B]) : OK;
}

/* A product [N,H] · R a step, and about twenty operations an element of the gates. */
static Cost cost_of_steps(const Graph *g, const Node *n, int matrix, int steps) {
  Shape p = rule_in(g, n, steps)->shape, r = rule_in(g, n, matrix)->shape;
  double rows = (double)p.dim[0] * (double)p.dim[1];
  Cost cost = {.flops = rows * (double)r.dim[0] * (2.0 * (double)r.dim[1] + 20)};
  for (int i = 0; i < n->n_in; i++)
    if (rule_has_in(n, i))
      cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  for (int i = 0; i < n->n_out; i++)
    cost.bytes += (double)graph_value_bytes(g, n->out[i]);
  return cost;
}

static Cost cost_steps(const Graph *g, const Node *n) {
  return cost_of_steps(g, n, STEPS_R, STEPS_P);
}

static Cost cost_steps_grad(const Graph *g, const Node *n) {
  return cost_of_steps(g, n, STEPS_GRAD_R, STEPS_GRAD_PREV);
}

ENTRY(RecurrentSteps, 2, 6, 3, 5, 0, infer_steps, gradient_steps, cost_steps, batch_recurrent)
ENTRY(RecurrentStepsGrad, 3, 7, 2, 3, 0, infer_steps_grad, NULL, cost_steps_grad, NULL)
