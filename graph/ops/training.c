/* Losses (sums in float64, whose cotangent is 1 / the batch's denominator), accumulation, optimizer steps. */
#include <limits.h>

#include "graph/ops/rule.h"

static Status infer_cross_entropy(Graph *g, Node *n) {
  Shape logits = rule_in(g, n, 0)->shape, target = rule_in(g, n, 1)->shape, expected = {0};
  int axis;
  DType dtype = rule_in(g, n, 1)->dtype;
  TRY(rule_float(g, n, 0));
  TRY(rule_axis(n, "class_axis", logits.rank, &axis));
  for (int i = 0; i < logits.rank; i++)
    if (i != axis)
      expected.dim[expected.rank++] = logits.dim[i];
  if (!shape_equal(expected, target) || (dtype != I64 && dtype != I32))
    return fail(E_SHAPE, "logits %s with classes on axis %d need integer targets %s, have %s %s", SHAPE_STR(logits),
                axis, SHAPE_STR(expected), dtype_name(dtype), SHAPE_STR(target));
  rule_set(g, n, 0, F64, (Shape){0});
  rule_set(g, n, 1, rule_in(g, n, 0)->dtype, target);
  return OK;
}

static Status gradient_cross_entropy(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  TRY(rule_first_only(g, n, d_out));
  return emit_like(g, n, OP_CrossEntropyGrad, (ValueId[]){n->in[0], n->in[1], n->out[1], d_out[0]}, 4, NULL, &d_in[0]);
}

/* Accumulator, X [.., d], W, target, scale, perhaps a bias [v]: dX, the loss, the bias's gradient. */
static Status infer_product_cross_entropy(Graph *g, Node *n) {
  Shape x = rule_in(g, n, 1)->shape, w = rule_in(g, n, 2)->shape, target = rule_in(g, n, 3)->shape;
  bool t = node_int(n, "transB", 0), biased = n->n_in == 6;
  TRY(rule_float(g, n, 0));
  TRY(rule_integers(g, n, 3));
  for (int i = 1; i < n->n_in; i += i == 2 ? 3 : 1)
    if (rule_in(g, n, i)->dtype != rule_in(g, n, 0)->dtype)
      return fail(E_SHAPE, "'%s' is %s, '%s' is %s", rule_in(g, n, 0)->name, dtype_name(rule_in(g, n, 0)->dtype),
                  rule_in(g, n, i)->name, dtype_name(rule_in(g, n, i)->dtype));
  if (w.rank != 2 || !x.rank || x.dim[x.rank - 1] != w.dim[t] ||
      shape_elements(target) != shape_elements(shape_of(x.rank - 1, x.dim)))
    return fail(E_SHAPE, "X %s, W %s%s, targets %s", SHAPE_STR(x), SHAPE_STR(w), t ? " transposed" : "",
                SHAPE_STR(target));
  if (!shape_equal(rule_in(g, n, 0)->shape, w))
    return fail(E_SHAPE, "the accumulator is %s, W %s", SHAPE_STR(rule_in(g, n, 0)->shape), SHAPE_STR(w));
  if (rule_in(g, n, 4)->dtype != F64 || rule_in(g, n, 4)->shape.rank || node_int(n, "rows", 0) < 1)
    return fail(E_SHAPE, "the scale is %s %s, and there are %lld rows at a time", dtype_name(rule_in(g, n, 4)->dtype),
                SHAPE_STR(rule_in(g, n, 4)->shape), (long long)node_int(n, "rows", 0));
  Shape columns = shape_of(1, &w.dim[!t]);
  if (biased != (n->n_out == 3) || (biased && !shape_equal(rule_in(g, n, 5)->shape, columns)))
    return fail(E_SHAPE, "%d inputs, %d outputs: a bias is %s, and has a gradient", n->n_in, n->n_out,
                SHAPE_STR(columns));
  rule_set(g, n, 0, rule_in(g, n, 1)->dtype, x);
  rule_set(g, n, 1, F64, (Shape){0});
  if (biased)
    rule_set(g, n, 2, rule_in(g, n, 5)->dtype, columns);
  return OK;
}

/* Three products; W is read twice and the accumulator read and written for each of so many rows. */
static Cost cost_product_cross_entropy(const Graph *g, const Node *n) {
  double weight = (double)graph_value_bytes(g, n->in[0]), x = (double)graph_value_bytes(g, n->in[1]);
  double rows = (double)shape_elements(rule_in(g, n, 3)->shape), at_once = (double)node_int(n, "rows", 1);
  double elements = (double)shape_elements(rule_in(g, n, 2)->shape);
  return (Cost){.flops = 6 * rows * elements,
                .bytes = 4 * weight * (rows < at_once ? 1 : rows / at_once) + 3 * x +
                         (double)graph_value_bytes(g, n->in[3])};
}

static Status infer_count_targets(Graph *g, Node *n) {
  DType dtype = rule_in(g, n, 0)->dtype;
  if (dtype != I64 && dtype != I32)
    return fail(E_SHAPE, "targets '%s' are %s, not int64 or int32", rule_in(g, n, 0)->name, dtype_name(dtype));
  rule_set(g, n, 0, F64, (Shape){0});
  return OK;
}

static Status infer_paired_loss(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  TRY(rule_one_type(g, n));
  if (!shape_equal(rule_in(g, n, 0)->shape, rule_in(g, n, 1)->shape))
    return fail(E_SHAPE, "prediction %s, target %s", SHAPE_STR(rule_in(g, n, 0)->shape),
                SHAPE_STR(rule_in(g, n, 1)->shape));
  rule_set(g, n, 0, F64, (Shape){0});
  return OK;
}

static Status gradient_paired_loss(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  OpKind op = n->op == OP_MeanSquaredError ? OP_MeanSquaredErrorGrad : OP_BinaryCrossEntropyGrad;
  return graph_emit(g, op, (ValueId[]){n->in[0], n->in[1], d_out[0]}, 3, NULL, 0, &d_in[0]);
}

static Status check_like_first(const Graph *g, const Node *n, int i) {
  if (rule_in(g, n, i)->dtype != rule_in(g, n, 0)->dtype ||
      !shape_equal(rule_in(g, n, i)->shape, rule_in(g, n, 0)->shape))
    return fail(E_SHAPE, "'%s' is %s %s, '%s' is %s %s", rule_in(g, n, 0)->name, dtype_name(rule_in(g, n, 0)->dtype),
                SHAPE_STR(rule_in(g, n, 0)->shape), rule_in(g, n, i)->name, dtype_name(rule_in(g, n, i)->dtype),
                SHAPE_STR(rule_in(g, n, i)->shape));
  return OK;
}

static Status infer_accumulate(Graph *g, Node *n) {
  return check_like_first(g, n, 1);
}

/* The accumulators of one parameter. */
static Status infer_squared_norm(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  for (int i = 1; i < n->n_in; i++)
    TRY(check_like_first(g, n, i));
  rule_set(g, n, 0, F64, (Shape){0});
  return OK;
}

/* Parameter, scalars, states, at least one accumulator. */
static Status infer_update(Graph *g, Node *n) {
  int64_t states = node_int(n, "states", 0);
  if (states < 0 || states > n->n_in - 3)
    return fail(E_SHAPE, "%lld states and an accumulator in %d inputs", (long long)states, n->n_in);
  for (int i = 2; i < n->n_in; i++)
    TRY(check_like_first(g, n, i));
  return OK;
}

/* ---- tables whose gradients are rows: graph/rows.h ---- */

/* Inputs i and i + 1: rows [microbatches, lookups, row…] of a table of this type and their places. */
static Status check_rows(const Graph *g, const Node *n, int i, DType dtype, const int64_t *row, int row_rank) {
  const Value *rows = rule_in(g, n, i), *places = rule_in(g, n, i + 1);
  bool fits =
      rows->dtype == dtype && places->dtype == I64 && places->shape.rank == 2 && rows->shape.rank == 2 + row_rank;
  for (int k = 0; fits && k < rows->shape.rank; k++)
    fits = rows->shape.dim[k] == (k < 2 ? places->shape.dim[k] : row[k - 2]);
  return fits ? OK
              : fail(E_SHAPE, "rows are %s %s, their places %s %s, a row %s %s", dtype_name(rows->dtype),
                     SHAPE_STR(rows->shape), dtype_name(places->dtype), SHAPE_STR(places->shape), dtype_name(dtype),
                     SHAPE_STR(shape_of(row_rank, row)));
}

/* Groups from input `first` on: rows and places, of which there are some, or an accumulator. */
static Status check_groups(const Graph *g, const Node *n, int first, DType dtype, Shape table) {
  int found = 0;
  for (int i = first; i < n->n_in; i++) {
    const Value *value = rule_in(g, n, i);
    if (value->dtype == dtype && shape_equal(value->shape, table))
      continue;
    if (table.rank < 1 || i + 1 == n->n_in)
      return fail(E_SHAPE, "'%s' %s is no gradient of a table %s", value->name, SHAPE_STR(value->shape),
                  SHAPE_STR(table));
    TRY(check_rows(g, n, i, dtype, table.dim + 1, table.rank - 1));
    found++;
    i++;
  }
  return found ? OK
               : fail(E_SHAPE, "%d inputs are no rows and places of a table %s", n->n_in - first, SHAPE_STR(table));
}

/* Rows, places, a microbatch's cotangents and indices. */
static Status infer_accumulate_rows(Graph *g, Node *n) {
  Shape rows = rule_in(g, n, 0)->shape, cotangent = rule_in(g, n, 2)->shape, indices = rule_in(g, n, 3)->shape;
  TRY(rule_float(g, n, 0));
  TRY(rule_integers(g, n, 3));
  if (rows.rank < 2 || rows.dim[0] < 1)
    return fail(E_SHAPE, "rows are %s", SHAPE_STR(rows));
  TRY(check_rows(g, n, 0, rule_in(g, n, 2)->dtype, rows.dim + 2, rows.rank - 2));
  bool fits = cotangent.rank == indices.rank + rows.rank - 2 && shape_elements(indices) == rows.dim[1];
  for (int i = 0; fits && i < cotangent.rank; i++)
    fits = cotangent.dim[i] == (i < indices.rank ? indices.dim[i] : rows.dim[i - indices.rank + 2]);
  return fits ? OK
              : fail(E_SHAPE, "rows are %s, cotangents %s, indices %s", SHAPE_STR(rows), SHAPE_STR(cotangent),
                     SHAPE_STR(indices));
}

static Status infer_squared_norm_rows(Graph *g, Node *n) {
  Shape table;
  TRY(rule_float(g, n, 0));
  TRY(rule_shape(g, n, "shape", &table));
  TRY(check_groups(g, n, 0, rule_in(g, n, 0)->dtype, table));
  rule_set(g, n, 0, F64, (Shape){0});
  return OK;
}

static bool is_sparse_adam(const Node *n) {
  return n->op == OP_SparseAdamUpdate;
}

/* Table, scalars, states, groups. */
static Status infer_update_rows(Graph *g, Node *n) {
  int64_t states = node_int(n, "states", 0);
  TRY(rule_float(g, n, 0));
  if ((n->op == OP_SgdUpdateRows ? states < 0 || states > 1 : states != 2) || states > n->n_in - 4)
    return fail(E_SHAPE, "%lld states and an accumulator in %d inputs", (long long)states, n->n_in);
  for (int i = 2; i < 2 + states; i++)
    TRY(check_like_first(g, n, i));
  TRY(check_groups(g, n, 2 + (int)states, rule_in(g, n, 0)->dtype, rule_in(g, n, 0)->shape));
  for (int i = 2 + (int)states; is_sparse_adam(n) && i < n->n_in; i += 2)
    if (rule_in(g, n, i)->shape.rank == rule_in(g, n, 0)->shape.rank)
      return fail(E_SHAPE, "'%s' %s is an accumulator, not rows", rule_in(g, n, i)->name,
                  SHAPE_STR(rule_in(g, n, i)->shape));
  return OK;
}

static Cost cost_loss(const Graph *g, const Node *n) {
  return (Cost){.flops = 20.0 * (double)shape_elements(rule_in(g, n, 0)->shape),
                .bytes = 2.0 * (double)graph_value_bytes(g, n->in[0])};
}

/* Reads everything, writes the parameter (or accumulator) and its states. */
static Cost cost_update(const Graph *g, const Node *n) {
  Cost cost = {0, 0};
  for (int i = 0; i < n->n_in; i++)
    cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  cost.bytes += (double)graph_value_bytes(g, n->in[0]) * (1 + (double)node_int(n, "states", 0));
  cost.flops = 12.0 * (double)shape_elements(rule_in(g, n, 0)->shape);
  return cost;
}

/* Copies the cotangents. */
static Cost cost_accumulate_rows(const Graph *g, const Node *n) {
  return (Cost){.bytes = 2.0 * (double)graph_value_bytes(g, n->in[2]) + (double)graph_value_bytes(g, n->in[3])};
}

/* Reads the gradient, and reads and writes the table and its states: all of them, or as many rows as there are at most.
 */
static Cost cost_rows(const Graph *g, const Node *n) {
  Cost cost = {0, 0};
  int states = (int)node_int(n, "states", 0), first = op_def(n->op)->traits & OP_UPDATE ? 2 + states : 0;
  bool whole = n->op == OP_AdamUpdateRows || states == 1 || node_float(n, "weight_decay", 0) != 0;
  double elements = 0;
  for (int i = first; i < n->n_in; i++) {
    whole |= first && rule_in(g, n, i)->dtype != I64 && rule_in(g, n, i)->shape.rank == rule_in(g, n, 0)->shape.rank;
    cost.bytes += (double)graph_value_bytes(g, n->in[i]);
    elements += rule_in(g, n, i)->dtype == I64 ? 0 : (double)shape_elements(rule_in(g, n, i)->shape);
  }
  if (whole && first)
    elements = (double)shape_elements(rule_in(g, n, 0)->shape);
  if (first)
    cost.bytes += elements * (double)dtype_bytes(rule_in(g, n, 0)->dtype) * (2 + 2 * states);
  cost.flops = 12.0 * elements;
  return cost;
}

ENTRY(CrossEntropy, 2, 2, 2, 2, 0, infer_cross_entropy, gradient_cross_entropy, cost_loss, batch_cross_entropy)
ENTRY(CrossEntropyGrad, 4, 4, 1, 1, OP_IN_PLACE, rule_same, NULL, cost_loss, NULL)
ENTRY(ProductCrossEntropy, 5, 6, 2, 3, OP_MUTATES_FIRST | OP_PRODUCT, infer_product_cross_entropy, NULL,
      cost_product_cross_entropy, NULL)
ENTRY(CountTargets, 1, 1, 1, 1, 0, infer_count_targets, NULL, NULL, NULL)
ENTRY(MeanSquaredError, 2, 2, 1, 1, 0, infer_paired_loss, gradient_paired_loss, cost_loss, NULL)
ENTRY(MeanSquaredErrorGrad, 3, 3, 1, 1, OP_IN_PLACE, rule_same, NULL, cost_loss, NULL)
ENTRY(BinaryCrossEntropy, 2, 2, 1, 1, 0, infer_paired_loss, gradient_paired_loss, cost_loss, NULL)
ENTRY(BinaryCrossEntropyGrad, 3, 3, 1, 1, OP_IN_PLACE, rule_same, NULL, cost_loss, NULL)
ENTRY(Accumulate, 2, 2, 0, 0, OP_MUTATES_FIRST, infer_accumulate, NULL, cost_update, NULL)
ENTRY(SquaredNorm, 1, MAX_GROUPS, 1, 1, 0, infer_squared_norm, NULL, NULL, NULL)
ENTRY(SgdUpdate, 3, INT_MAX, 0, 0, OP_UPDATE, infer_update, NULL, cost_update, NULL)
ENTRY(AdamUpdate, 5, INT_MAX, 0, 0, OP_UPDATE, infer_update, NULL, cost_update, NULL)
ENTRY(AccumulateRows, 4, 4, 0, 0, OP_MUTATES_FIRST, infer_accumulate_rows, NULL, cost_accumulate_rows, NULL)
ENTRY(SquaredNormRows, 2, 2 * MAX_GROUPS, 1, 1, 0, infer_squared_norm_rows, NULL, cost_rows, NULL)
ENTRY(SgdUpdateRows, 4, INT_MAX, 0, 0, OP_UPDATE, infer_update_rows, NULL, cost_rows, NULL)
ENTRY(AdamUpdateRows, 6, INT_MAX, 0, 0, OP_UPDATE, infer_update_rows, NULL, cost_rows, NULL)
ENTRY(SparseAdamUpdate, 6, INT_MAX, 0, 0, OP_UPDATE, infer_update_rows, NULL, cost_rows, NULL)
