/* What the rules share. */
#include "graph/ops/rule.h"

#include <assert.h>
#include <math.h>

void rule_set(Graph *g, Node *n, int i, DType dtype, Shape shape) {
  if (i >= n->n_out || n->out[i] == NO_VALUE)
    return;
  Value *v = rule_out(g, n, i);
  v->dtype = dtype;
  v->shape = shape;
}

Status rule_same(Graph *g, Node *n) {
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, rule_in(g, n, 0)->shape);
  return OK;
}

Status rule_float(const Graph *g, const Node *n, int i) {
  if (!dtype_is_float(rule_in(g, n, i)->dtype))
    return fail(E_UNSUPPORTED, "input '%s' is %s, not a float type", rule_in(g, n, i)->name,
                dtype_name(rule_in(g, n, i)->dtype));
  return OK;
}

Status rule_one_type(const Graph *g, const Node *n) {
  for (int i = 1; i < n->n_in; i++)
    if (rule_has_in(n, i) && rule_in(g, n, i)->dtype != rule_in(g, n, 0)->dtype)
      return fail(E_SHAPE, "types differ: '%s' is %s, '%s' is %s", rule_in(g, n, 0)->name,
                  dtype_name(rule_in(g, n, 0)->dtype), rule_in(g, n, i)->name, dtype_name(rule_in(g, n, i)->dtype));
  return OK;
}

Status rule_first_only(const Graph *g, const Node *n, const ValueId *d_out) {
  for (int i = 1; i < n->n_out; i++)
    if (d_out[i] != NO_VALUE)
      return fail(E_UNSUPPORTED, "the loss depends on output %d ('%s'), which has no gradient", i,
                  rule_out(g, n, i)->name);
  return OK;
}

Status rule_axis(const Node *n, const char *name, int rank, int *axis) {
  int64_t a = node_int(n, name, 0);
  if (a < 0 || a >= rank)
    return fail(E_SHAPE, "%s %lld is outside rank %d", name, (long long)a, rank);
  *axis = (int)a;
  return OK;
}

Status rule_shape(const Graph *g, const Node *n, const char *name, Shape *shape) {
  int rank;
  const int64_t *dims = node_ints(n, name, &rank);
  if (rank > MAX_RANK)
    return fail(E_UNSUPPORTED, "rank %d is above %d", rank, MAX_RANK);
  *shape = shape_of(rank, dims);
  size_t bytes;
  return shape_bytes(*shape, rule_in(g, n, 0)->dtype, &bytes);
}

Status emit1(Graph *g, OpKind op, ValueId a, ValueId *out) {
  return graph_emit(g, op, &a, 1, NULL, 0, out);
}

Status emit2(Graph *g, OpKind op, ValueId a, ValueId b, ValueId *out) {
  return graph_emit(g, op, (ValueId[]){a, b}, 2, NULL, 0, out);
}

Status emit_scalar(Graph *g, ValueId like, double value, ValueId *out) {
  DType dtype = graph_value(g, like)->dtype;
  double most = dtype == I64 ? 0x1p63 : dtype == I32 ? 0x1p31 : INFINITY;
  if (isfinite(most) && !(value >= -most && value < most))
    return fail(E_UNSUPPORTED, "%g is no number of %s", value, dtype_name(dtype));
  float narrow = (float)value;
  int64_t whole = dtype == I64 ? (int64_t)value : 0;
  int32_t small = dtype == I32 ? (int32_t)value : 0;
  const void *data = dtype == F64   ? (const void *)&value
                     : dtype == I64 ? (const void *)&whole
                     : dtype == I32 ? (const void *)&small
                                    : (const void *)&narrow;
  if (dtype != F64 && dtype != F32 && dtype != I64 && dtype != I32)
    return fail(E_UNSUPPORTED, "no gradient in %s", dtype_name(dtype));
  const char *name = arena_format(g->arena, "constant.%zu", g->n_values);
  return name ? graph_add_constant(g, name, dtype, (Shape){0}, data, out) : status_code();
}

bool rule_scalar(const Graph *g, ValueId id, double *scalar) {
  const Value *v = graph_value(g, id);
  if (!v->data || shape_elements(v->shape) != 1)
    return false;
  switch (v->dtype) {
  case F32:
    *scalar = *(const float *)v->data;
    return true;
  case F64:
    *scalar = *(const double *)v->data;
    return true;
  case I64:
    *scalar = (double)*(const int64_t *)v->data;
    return true;
  case I32:
    *scalar = *(const int32_t *)v->data;
    return true;
  default:
    return false;
  }
}

Status emit_reshape(Graph *g, ValueId a, Shape shape, ValueId *out) {
  if (shape_equal(graph_value(g, a)->shape, shape)) {
    *out = a;
    return OK;
  }
  Attr attr = attr_ints("shape", shape.dim, shape.rank);
  return graph_emit(g, OP_Reshape, &a, 1, &attr, 1, out);
}

Status emit_cast(Graph *g, ValueId a, DType dtype, ValueId *out) {
  if (graph_value(g, a)->dtype == dtype) {
    *out = a;
    return OK;
  }
  Attr to = attr_int("to", dtype);
  return graph_emit(g, OP_Cast, &a, 1, &to, 1, out);
}

Status emit_scale(Graph *g, ValueId a, double factor, ValueId *out) {
  ValueId scalar;
  if (factor == 1) {
    *out = a;
    return OK;
  }
  TRY(emit_scalar(g, a, factor, &scalar));
  return emit2(g, OP_Mul, a, scalar, out);
}

Status emit_where(Graph *g, ValueId condition, ValueId a, ValueId b, ValueId *out) {
  return graph_emit(g, OP_Where, (ValueId[]){condition, a, b}, 3, NULL, 0, out);
}

Status emit_expand(Graph *g, ValueId a, Shape shape, ValueId *out) {
  if (shape_equal(graph_value(g, a)->shape, shape)) {
    *out = a;
    return OK;
  }
  Attr attr = attr_ints("shape", shape.dim, shape.rank);
  return graph_emit(g, OP_Expand, &a, 1, &attr, 1, out);
}

Status emit_transpose(Graph *g, ValueId a, const int64_t *perm, int n, ValueId *out) {
  Attr attr = attr_ints("perm", perm, n);
  return graph_emit(g, OP_Transpose, &a, 1, &attr, 1, out);
}

Status emit_matmul(Graph *g, ValueId a, bool trans_a, ValueId b, bool trans_b, ValueId *out) {
  Attr attrs[] = {attr_int("transA", trans_a), attr_int("transB", trans_b)};
  return graph_emit(g, OP_MatMul, (ValueId[]){a, b}, 2, attrs, 2, out);
}

Status emit_reduce_sum(Graph *g, ValueId a, const int64_t *axes, int n, bool keepdims, ValueId *out) {
  Attr attrs[] = {attr_ints("axes", axes, n), attr_int("keepdims", keepdims)};
  return graph_emit(g, OP_ReduceSum, &a, 1, attrs, 2, out);
}

Status emit_unbroadcast(Graph *g, ValueId a, Shape shape, ValueId *out) {
  Shape wide = graph_value(g, a)->shape;
  assert(wide.rank >= shape.rank);
  int64_t axes[MAX_RANK];
  int n = 0, lead = wide.rank - shape.rank;
  for (int i = 0; i < wide.rank; i++)
    if (i < lead || (shape.dim[i - lead] == 1 && wide.dim[i] != 1))
      axes[n++] = i;
  ValueId sum = a;
  if (n)
    TRY(emit_reduce_sum(g, a, axes, n, true, &sum));
  return emit_reshape(g, sum, shape, out);
}

Status emit_like(Graph *g, const Node *n, OpKind op, const ValueId *in, int n_in, const Attr *extra, ValueId *out) {
  Attr *attrs;
  int count = n->n_attrs;
  TRY(ARENA_NEW(g->arena, attrs, count + 1));
  for (int i = 0; i < count; i++)
    attrs[i] = n->attrs[i];
  if (extra)
    attrs[count++] = *extra;
  return graph_emit(g, op, in, n_in, attrs, count, out);
}

Status rule_integers(const Graph *g, const Node *n, int i) {
  DType dtype = rule_in(g, n, i)->dtype;
  if (dtype != I64 && dtype != I32)
    return fail(E_SHAPE, "indices '%s' are %s, not int64 or int32", rule_in(g, n, i)->name, dtype_name(dtype));
  return OK;
}

Cost cost_pick(const Graph *g, const Node *n) {
  Cost cost = {.bytes = 2 * (double)graph_value_bytes(g, n->out[0])};
  for (int i = 1; i < n->n_in; i++)
    cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  return cost;
}

Cost cost_move(const Graph *g, const Node *n) {
  Cost cost = {0, 0};
  for (int i = 0; i < n->n_in; i++)
    cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  for (int i = 0; i < n->n_out; i++)
    if (n->out[i] != NO_VALUE)
      cost.bytes += (double)graph_value_bytes(g, n->out[i]);
  return cost;
}
