/* Operators that pick elements by index and put them there: gathers, their transposes, scatters, the k largest.
 * Invariant: what is put at one place is put there in the order of the indices, so the last one stays. */
#include <string.h>

#include "graph/ops/rule.h"

static Status gather_shape(Graph *g, Node *n, Shape data, Shape *out) {
  Shape indices = rule_in(g, n, 1)->shape;
  int axis;
  TRY(rule_axis(n, "axis", data.rank, &axis));
  TRY(rule_integers(g, n, 1));
  if (data.rank - 1 + indices.rank > MAX_RANK)
    return fail(E_UNSUPPORTED, "rank %d is above %d", data.rank - 1 + indices.rank, MAX_RANK);
  *out = (Shape){.rank = data.rank - 1 + indices.rank};
  memcpy(out->dim, data.dim, (size_t)axis * sizeof data.dim[0]);
  memcpy(out->dim + axis, indices.dim, (size_t)indices.rank * sizeof data.dim[0]);
  memcpy(out->dim + axis + indices.rank, data.dim + axis + 1, (size_t)(data.rank - axis - 1) * sizeof data.dim[0]);
  return OK;
}

static Status infer_gather(Graph *g, Node *n) {
  Shape shape;
  TRY(gather_shape(g, n, rule_in(g, n, 0)->shape, &shape));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, shape);
  return OK;
}

/* What was looked up in row `row` hands no gradient on. */
static Status drop_row(Graph *g, const Node *n, int64_t row, ValueId d_out, ValueId *masked) {
  Shape indices = rule_in(g, n, 1)->shape, shape = graph_value(g, d_out)->shape;
  int axis = (int)node_int(n, "axis", 0);
  ValueId number, is_row, from_end, zero;
  for (int i = 0; i < shape.rank; i++)
    shape.dim[i] = i < axis || i >= axis + indices.rank ? 1 : indices.dim[i - axis];
  TRY(emit_scalar(g, n->in[1], (double)row, &number));
  TRY(emit2(g, OP_Equal, n->in[1], number, &is_row));
  TRY(emit_scalar(g, n->in[1], (double)(row - rule_in(g, n, 0)->shape.dim[axis]), &number));
  TRY(emit2(g, OP_Equal, n->in[1], number, &from_end));
  TRY(emit2(g, OP_Or, is_row, from_end, &is_row));
  TRY(emit_reshape(g, is_row, shape, &is_row));
  TRY(emit_scalar(g, d_out, 0, &zero));
  return emit_where(g, is_row, zero, d_out, masked);
}

Status gather_cotangent(Graph *g, const Node *n, ValueId d_out, ValueId *rows) {
  int64_t row = n->op == OP_Gather ? node_int(n, "no_gradient_row", -1) : -1;
  *rows = d_out;
  return row >= 0 ? drop_row(g, n, row, d_out, rows) : OK;
}

static Status gradient_gather(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId gradient;
  TRY(gather_cotangent(g, n, d_out[0], &gradient));
  Attr shape = attr_ints("shape", rule_in(g, n, 0)->shape.dim, rule_in(g, n, 0)->shape.rank);
  OpKind op = n->op == OP_Gather ? OP_GatherGrad : OP_GatherNDGrad;
  return emit_like(g, n, op, (ValueId[]){gradient, n->in[1]}, 2, &shape, &d_in[0]);
}

static Status gathernd_shape(Graph *g, Node *n, Shape data, Shape *out) {
  Shape indices = rule_in(g, n, 1)->shape;
  int64_t batch = node_int(n, "batch_dims", 0);
  TRY(rule_integers(g, n, 1));
  int64_t depth = indices.rank ? indices.dim[indices.rank - 1] : 0;
  if (batch < 0 || indices.rank < 1 || batch >= indices.rank || depth < 1 || batch + depth > data.rank)
    return fail(E_SHAPE, "indices %s do not address data %s with batch_dims %lld", SHAPE_STR(indices), SHAPE_STR(data),
                (long long)batch);
  for (int i = 0; i < batch; i++)
    if (indices.dim[i] != data.dim[i])
      return fail(E_SHAPE, "batch dimensions differ: data %s, indices %s", SHAPE_STR(data), SHAPE_STR(indices));
  int tail = data.rank - (int)(batch + depth);
  if (indices.rank - 1 + tail > MAX_RANK)
    return fail(E_UNSUPPORTED, "rank %d is above %d", indices.rank - 1 + tail, MAX_RANK);
  *out = shape_of(indices.rank - 1, indices.dim);
  for (int i = 0; i < tail; i++)
    out->dim[out->rank++] = data.dim[batch + depth + i];
  return OK;
}

static Status infer_gathernd(Graph *g, Node *n) {
  Shape shape;
  TRY(gathernd_shape(g, n, rule_in(g, n, 0)->shape, &shape));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, shape);
  return OK;
}

static Status infer_gather_grad(Graph *g, Node *n) {
  Shape data, part;
  TRY(rule_shape(g, n, "shape", &data));
  TRY(n->op == OP_GatherGrad ? gather_shape(g, n, data, &part) : gathernd_shape(g, n, data, &part));
  if (!shape_equal(part, rule_in(g, n, 0)->shape))
    return fail(E_SHAPE, "cotangent is %s, expected %s", SHAPE_STR(rule_in(g, n, 0)->shape), SHAPE_STR(part));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, data);
  return OK;
}

/* Input 1 points into an axis of `data` for every element of its own shape, which lies within data's elsewhere. */
static Status elements_fit(const Graph *g, const Node *n, Shape data) {
  Shape at = rule_in(g, n, 1)->shape;
  int axis;
  TRY(rule_axis(n, "axis", data.rank, &axis));
  TRY(rule_integers(g, n, 1));
  bool fits = at.rank == data.rank;
  for (int i = 0; fits && i < at.rank; i++)
    fits = i == axis || at.dim[i] <= data.dim[i];
  return fits ? OK : fail(E_SHAPE, "data %s, indices %s along axis %d", SHAPE_STR(data), SHAPE_STR(at), axis);
}

static Status infer_gather_elements(Graph *g, Node *n) {
  Shape data = rule_in(g, n, 0)->shape;
  TRY(elements_fit(g, n, data));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, rule_in(g, n, 1)->shape);
  return OK;
}

/* ---- scatters: updates, indices, data? ---- */

static const char *reduction_of(const Node *n) {
  return node_string(n, "reduction", "none");
}

static Status check_reduction(const Node *n) {
  static const char *const reductions[] = {"none", "add", "mul", "max", "min"};
  for (size_t i = 0; i < sizeof reductions / sizeof *reductions; i++)
    if (strcmp(reduction_of(n), reductions[i]) == 0)
      return OK;
  return fail(E_UNSUPPORTED, "reduction is '%s'", reduction_of(n));
}

static Status infer_scatter(Graph *g, Node *n) {
  Shape data, part, updates = rule_in(g, n, 0)->shape;
  TRY(check_reduction(n));
  if (rule_has_in(n, 2))
    data = rule_in(g, n, 2)->shape;
  else
    TRY(rule_shape(g, n, "shape", &data));
  if (rule_has_in(n, 2) && rule_in(g, n, 2)->dtype != rule_in(g, n, 0)->dtype)
    return fail(E_SHAPE, "types differ: updates are %s, data %s", dtype_name(rule_in(g, n, 0)->dtype),
                dtype_name(rule_in(g, n, 2)->dtype));
  if (n->op == OP_ScatterElements) {
    TRY(elements_fit(g, n, data));
    part = rule_in(g, n, 1)->shape;
  } else {
    TRY(gathernd_shape(g, n, data, &part));
  }
  if (!shape_equal(part, updates))
    return fail(E_SHAPE, "updates are %s, expected %s", SHAPE_STR(updates), SHAPE_STR(part));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, data);
  return OK;
}

/* What lies in `from`, which is shaped as the result, where each update goes. */
static Status emit_where_put(Graph *g, const Node *n, ValueId from, ValueId *out) {
  bool elements = n->op == OP_ScatterElements;
  Attr attr = elements ? attr_int("axis", node_int(n, "axis", 0)) : attr_int("batch_dims", 0);
  return graph_emit(g, elements ? OP_GatherElements : OP_GatherND, (ValueId[]){from, n->in[1]}, 2, &attr, 1, out);
}

/* Other updates at the same places of `data`, or of zeros of this shape where it is NO_VALUE. */
static Status emit_put(Graph *g, const Node *n, ValueId updates, ValueId data, Shape shape, const char *reduction,
                       ValueId *out) {
  bool zeros = data == NO_VALUE;
  Attr attrs[] = {attr_int("axis", node_int(n, "axis", 0)), attr_string("reduction", reduction),
                  attr_ints("shape", shape.dim, shape.rank)};
  return graph_emit(g, n->op, (ValueId[]){updates, n->in[1], data}, zeros ? 2 : 3, attrs, zeros ? 3 : 2, out);
}

/* A number, as large as this value. */
static Status emit_fill(Graph *g, ValueId like, double number, ValueId *out) {
  TRY(emit_scalar(g, like, number, out));
  return emit_expand(g, *out, graph_value(g, like)->shape, out);
}

/* 1 where a is b, 0 elsewhere, in a's type. */
static Status emit_is(Graph *g, ValueId a, ValueId b, ValueId *out) {
  TRY(emit2(g, OP_Equal, a, b, out));
  return emit_cast(g, *out, graph_value(g, a)->dtype, out);
}

/* Which updates stay, since none follows at their place: each is numbered, and the numbers are put in the same way. */
static Status emit_stays(Graph *g, const Node *n, ValueId *stays) {
  Shape rows = rule_in(g, n, 1)->shape, places = rule_out(g, n, 0)->shape, wide = rule_in(g, n, 0)->shape;
  ValueId number[3], mine, last;
  if (n->op == OP_ScatterND) { /* a number for each row */
    places = shape_of((int)rows.dim[rows.rank - 1], places.dim);
    rows.rank--;
    for (int i = rows.rank; i < wide.rank; i++)
      wide.dim[i] = 1;
  }
  int64_t numbers[] = {0, shape_elements(rows), 1};
  for (int i = 0; i < 3; i++)
    TRY(graph_add_constant(g, "number", I64, (Shape){0}, &numbers[i], &number[i]));
  Attr count = attr_int("count", numbers[1]);
  TRY(graph_emit(g, OP_Range, number, 3, &count, 1, &mine));
  TRY(emit_reshape(g, mine, rows, &mine));
  TRY(emit_put(g, n, mine, NO_VALUE, places, "none", &last));
  TRY(emit_where_put(g, n, last, &last));
  TRY(emit2(g, OP_Equal, mine, last, stays));
  return emit_reshape(g, *stays, wide, stays);
}

static Status gradient_put(Graph *g, const Node *n, ValueId d_out, ValueId *d_in) {
  ValueId zero, stays;
  if (rule_wants(g, n, 2)) {
    TRY(emit_fill(g, n->in[0], 0, &zero));
    TRY(emit_put(g, n, zero, d_out, rule_out(g, n, 0)->shape, "none", &d_in[2]));
  }
  if (!rule_wants(g, n, 0))
    return OK;
  TRY(emit_where_put(g, n, d_out, &d_in[0]));
  TRY(emit_stays(g, n, &stays));
  TRY(emit_scalar(g, d_out, 0, &zero));
  return emit_where(g, stays, d_in[0], zero, &d_in[0]);
}

/* The largest and the smallest: what is equal to the result shares the cotangent evenly, as torch.scatter_reduce. */
static Status gradient_extreme(Graph *g, const Node *n, ValueId d_out, ValueId *d_in) {
  ValueId data, kept, won, share;
  if (rule_has_in(n, 2)) {
    data = n->in[2];
  } else {
    TRY(emit_fill(g, n->out[0], 0, &data));
  }
  TRY(emit_where_put(g, n, n->out[0], &won));
  TRY(emit_is(g, n->in[0], won, &won));
  TRY(emit_is(g, data, n->out[0], &kept));
  TRY(emit_put(g, n, won, kept, rule_out(g, n, 0)->shape, "add", &share));
  TRY(emit2(g, OP_Div, d_out, share, &share));
  if (rule_wants(g, n, 2))
    TRY(emit2(g, OP_Mul, share, kept, &d_in[2]));
  if (!rule_wants(g, n, 0))
    return OK;
  TRY(emit_where_put(g, n, share, &share));
  return emit2(g, OP_Mul, share, won, &d_in[0]);
}

/* The product of the others, by dividing the product of those that are not 0. */
static Status gradient_others(Graph *g, const Node *n, ValueId d_out, ValueId *d_in) {
  ValueId zero, one, is_zero, zeros, product, none;
  TRY(emit_scalar(g, d_out, 0, &zero));
  TRY(emit_scalar(g, d_out, 1, &one));
  TRY(emit2(g, OP_Equal, n->in[0], zero, &is_zero));
  TRY(emit_where(g, is_zero, one, n->in[0], &one));
  TRY(emit_cast(g, is_zero, graph_value(g, d_out)->dtype, &is_zero));
  TRY(emit_put(g, n, is_zero, NO_VALUE, rule_out(g, n, 0)->shape, "add", &zeros));
  TRY(emit_where_put(g, n, zeros, &zeros));
  TRY(emit2(g, OP_Equal, zeros, is_zero, &none)); /* of the others is 0 */
  TRY(emit_put(g, n, one, n->in[2], (Shape){0}, "mul", &product));
  TRY(emit2(g, OP_Mul, d_out, product, &product));
  TRY(emit_where_put(g, n, product, &product));
  TRY(emit2(g, OP_Div, product, one, &product));
  return emit_where(g, none, product, zero, &d_in[0]);
}

static Status gradient_product(Graph *g, const Node *n, ValueId d_out, ValueId *d_in) {
  ValueId ones;
  if (!rule_has_in(n, 2)) /* 0 whatever the updates are */
    return emit_fill(g, n->in[0], 0, &d_in[0]);
  if (rule_wants(g, n, 2)) {
    TRY(emit_fill(g, n->in[2], 1, &ones));
    TRY(emit_put(g, n, n->in[0], ones, (Shape){0}, "mul", &ones));
    TRY(emit2(g, OP_Mul, d_out, ones, &d_in[2]));
  }
  return rule_wants(g, n, 0) ? gradient_others(g, n, d_out, d_in) : OK;
}

static Status gradient_scatter(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  const char *reduction = reduction_of(n);
  if (strcmp(reduction, "none") == 0)
    return gradient_put(g, n, d_out[0], d_in);
  if (strcmp(reduction, "mul") == 0)
    return gradient_product(g, n, d_out[0], d_in);
  if (strcmp(reduction, "add") != 0)
    return gradient_extreme(g, n, d_out[0], d_in);
  if (rule_wants(g, n, 2))
    d_in[2] = d_out[0];
  return rule_wants(g, n, 0) ? emit_where_put(g, n, d_out[0], &d_in[0]) : OK;
}

/* dY to where each element came from, added to zeros. */
static Status emit_give_back(Graph *g, const Node *n, ValueId d_out, ValueId indices, ValueId *d_in) {
  Shape data = rule_in(g, n, 0)->shape;
  Attr attrs[] = {attr_int("axis", node_int(n, "axis", 0)), attr_string("reduction", "add"),
                  attr_ints("shape", data.dim, data.rank)};
  return graph_emit(g, OP_ScatterElements, (ValueId[]){d_out, indices}, 2, attrs, 3, d_in);
}

static Status gradient_gather_elements(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit_give_back(g, n, d_out[0], n->in[1], &d_in[0]);
}

/* ---- the k largest ---- */

static Status infer_top_k(Graph *g, Node *n) {
  Shape shape = rule_in(g, n, 0)->shape;
  int64_t k = node_int(n, "k", 0);
  int axis;
  TRY(rule_axis(n, "axis", shape.rank, &axis));
  if (k < 0 || k > shape.dim[axis])
    return fail(E_SHAPE, "k is %lld, axis %d of %s", (long long)k, axis, SHAPE_STR(shape));
  shape.dim[axis] = k;
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, shape);
  rule_set(g, n, 1, I64, shape);
  return OK;
}

static Status gradient_top_k(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit_give_back(g, n, d_out[0], n->out[1], &d_in[0]);
}

ENTRY(Gather, 2, 2, 1, 1, OP_ANY_TYPE, infer_gather, gradient_gather, cost_pick, batch_gather)
ENTRY(GatherGrad, 2, 2, 1, 1, 0, infer_gather_grad, NULL, cost_move, NULL)
ENTRY(GatherND, 2, 2, 1, 1, OP_ANY_TYPE, infer_gathernd, gradient_gather, cost_pick, batch_gathernd)
ENTRY(GatherNDGrad, 2, 2, 1, 1, 0, infer_gather_grad, NULL, cost_move, NULL)
ENTRY(GatherElements, 2, 2, 1, 1, OP_ANY_TYPE, infer_gather_elements, gradient_gather_elements, cost_pick,
      batch_scatter_elements)
ENTRY(ScatterElements, 2, 3, 1, 1, 0, infer_scatter, gradient_scatter, cost_move, batch_scatter_elements)
ENTRY(ScatterND, 2, 3, 1, 1, 0, infer_scatter, gradient_scatter, cost_move, batch_scatter_nd)
ENTRY(TopK, 1, 1, 2, 2, 0, infer_top_k, gradient_top_k, cost_move, batch_top_k)
