/* Operators that move elements: reshape, transpose, concat, split, slice, expand, triangles, ranges. */
#include <limits.h>
#include <string.h>

#include "base/checked.h"
#include "graph/ops/rule.h"

static Status infer_reshape(Graph *g, Node *n) {
  Shape from = rule_in(g, n, 0)->shape, to;
  TRY(rule_shape(g, n, "shape", &to));
  if (shape_elements(from) != shape_elements(to))
    return fail(E_SHAPE, "%s has %lld elements, %s has %lld", SHAPE_STR(from), (long long)shape_elements(from),
                SHAPE_STR(to), (long long)shape_elements(to));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, to);
  return OK;
}

static Status gradient_reshape(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit_reshape(g, d_out[0], rule_in(g, n, 0)->shape, &d_in[0]);
}

static Status infer_transpose(Graph *g, Node *n) {
  Shape from = rule_in(g, n, 0)->shape, to = {.rank = from.rank};
  int count;
  const int64_t *perm = node_ints(n, "perm", &count);
  bool seen[MAX_RANK] = {false};
  if (count != from.rank)
    return fail(E_SHAPE, "perm has %d axes, the input %s", count, SHAPE_STR(from));
  for (int i = 0; i < count; i++) {
    if (perm[i] < 0 || perm[i] >= count || seen[perm[i]])
      return fail(E_SHAPE, "perm is no permutation of %d axes", count);
    seen[perm[i]] = true;
    to.dim[i] = from.dim[perm[i]];
  }
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, to);
  return OK;
}

static Status gradient_transpose(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  int count;
  const int64_t *perm = node_ints(n, "perm", &count);
  int64_t inverse[MAX_RANK];
  for (int i = 0; i < count; i++)
    inverse[perm[i]] = i;
  return emit_transpose(g, d_out[0], inverse, count, &d_in[0]);
}

static Status infer_concat(Graph *g, Node *n) {
  int axis;
  Shape shape = rule_in(g, n, 0)->shape;
  TRY(rule_one_type(g, n));
  TRY(rule_axis(n, "axis", shape.rank, &axis));
  for (int i = 1; i < n->n_in; i++) {
    Shape next = rule_in(g, n, i)->shape;
    Shape fits = next;
    if (next.rank == shape.rank)
      fits.dim[axis] = shape.dim[axis];
    if (!shape_equal(fits, shape))
      return fail(E_SHAPE, "inputs differ outside axis %d: %s, %s", axis, SHAPE_STR(rule_in(g, n, 0)->shape),
                  SHAPE_STR(next));
    if (!checked_add_i64(shape.dim[axis], next.dim[axis], &shape.dim[axis]))
      return fail(E_SHAPE, "axis %d grows beyond all bounds: %s, %s", axis, SHAPE_STR(rule_in(g, n, 0)->shape),
                  SHAPE_STR(next));
  }
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, shape);
  return OK;
}

static Status emit_slice(Graph *g, ValueId a, int axis, int64_t start, int64_t end, ValueId *out) {
  int64_t step = 1, axis64 = axis;
  Attr attrs[] = {attr_ints("axes", &axis64, 1), attr_ints("starts", &start, 1), attr_ints("ends", &end, 1),
                  attr_ints("steps", &step, 1)};
  return graph_emit(g, OP_Slice, &a, 1, attrs, 4, out);
}

static Status gradient_concat(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  int axis = (int)node_int(n, "axis", 0);
  int64_t at = 0;
  for (int i = 0; i < n->n_in; i++) {
    int64_t size = rule_in(g, n, i)->shape.dim[axis];
    if (rule_wants(g, n, i))
      TRY(emit_slice(g, d_out[0], axis, at, at + size, &d_in[i]));
    at += size;
  }
  return OK;
}

static Status infer_split(Graph *g, Node *n) {
  Shape shape = rule_in(g, n, 0)->shape;
  int axis, count;
  const int64_t *sizes = node_ints(n, "split", &count);
  TRY(rule_axis(n, "axis", shape.rank, &axis));
  if (count != n->n_out)
    return fail(E_SHAPE, "%d sizes for %d outputs", count, n->n_out);
  int64_t rest = shape.dim[axis];
  for (int i = 0; i < count; i++) {
    Shape part = shape;
    part.dim[axis] = sizes[i];
    if (sizes[i] < 0 || sizes[i] > rest)
      return fail(E_SHAPE, "size %lld of part %d, %lld are left of axis %d of %s", (long long)sizes[i], i,
                  (long long)rest, axis, SHAPE_STR(shape));
    rest -= sizes[i];
    rule_set(g, n, i, rule_in(g, n, 0)->dtype, part);
  }
  if (rest)
    return fail(E_SHAPE, "the sizes leave %lld of axis %d of %s", (long long)rest, axis, SHAPE_STR(shape));
  return OK;
}

/* Also of an absent part. */
static Shape part_shape(const Graph *g, const Node *n, int i) {
  int count;
  Shape shape = rule_in(g, n, 0)->shape;
  shape.dim[node_int(n, "axis", 0)] = node_ints(n, "split", &count)[i];
  return shape;
}

static Status gradient_split(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId *parts;
  TRY(ARENA_NEW(g->arena, parts, n->n_out));
  for (int i = 0; i < n->n_out; i++) {
    parts[i] = d_out[i];
    if (parts[i] == NO_VALUE) { /* an unused part has a cotangent of zeros */
      ValueId zero;
      TRY(emit_scalar(g, n->in[0], 0, &zero));
      TRY(emit_expand(g, zero, part_shape(g, n, i), &parts[i]));
    }
  }
  Attr axis = attr_int("axis", node_int(n, "axis", 0));
  return graph_emit(g, OP_Concat, parts, n->n_out, &axis, 1, &d_in[0]);
}

/* The Slice attributes, checked against a shape. What the importer writes is clamped: starts lie in 0 … dim,
 * ends in -1 … dim. */
static Status slice_shape(const Node *n, Shape from, Shape *to) {
  int count, starts_n, ends_n, steps_n;
  const int64_t *axes = node_ints(n, "axes", &count), *starts = node_ints(n, "starts", &starts_n);
  const int64_t *ends = node_ints(n, "ends", &ends_n), *steps = node_ints(n, "steps", &steps_n);
  bool seen[MAX_RANK] = {false};
  if (starts_n != count || ends_n != count || steps_n != count)
    return fail(E_SHAPE, "%d axes, %d starts, %d ends, %d steps", count, starts_n, ends_n, steps_n);
  *to = from;
  for (int i = 0; i < count; i++) {
    int64_t axis = axes[i], start = starts[i], end = ends[i], step = steps[i];
    if (axis < 0 || axis >= from.rank || seen[axis] || step == 0)
      return fail(E_SHAPE, "axis %lld, step %lld in a slice of %s", (long long)axis, (long long)step, SHAPE_STR(from));
    seen[axis] = true;
    int64_t dim = from.dim[axis];
    if (start < 0 || start > dim || end < -1 || end > dim || (step < 0 && start == dim && end < start))
      return fail(E_SHAPE, "slice %lld:%lld:%lld leaves axis %lld of %s", (long long)start, (long long)end,
                  (long long)step, (long long)axis, SHAPE_STR(from));
    int64_t span = step > 0 ? end - start : start - end;
    uint64_t stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    to->dim[axis] = span <= 0 ? 0 : (int64_t)(((uint64_t)span - 1) / stride) + 1;
  }
  return OK;
}

static Status infer_slice(Graph *g, Node *n) {
  Shape shape;
  TRY(slice_shape(n, rule_in(g, n, 0)->shape, &shape));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, shape);
  return OK;
}

static Status gradient_slice(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Attr shape = attr_ints("shape", rule_in(g, n, 0)->shape.dim, rule_in(g, n, 0)->shape.rank);
  return emit_like(g, n, OP_SliceGrad, d_out, 1, &shape, &d_in[0]);
}

static Status infer_slice_grad(Graph *g, Node *n) {
  Shape whole, part;
  TRY(rule_shape(g, n, "shape", &whole));
  TRY(slice_shape(n, whole, &part));
  if (!shape_equal(part, rule_in(g, n, 0)->shape))
    return fail(E_SHAPE, "the slice of %s is %s, the cotangent %s", SHAPE_STR(whole), SHAPE_STR(part),
                SHAPE_STR(rule_in(g, n, 0)->shape));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, whole);
  return OK;
}

static Status infer_expand(Graph *g, Node *n) {
  Shape to, both;
  TRY(rule_shape(g, n, "shape", &to));
  if (!shape_broadcast(rule_in(g, n, 0)->shape, to, &both) || !shape_equal(both, to))
    return fail(E_SHAPE, "%s does not expand to %s", SHAPE_STR(rule_in(g, n, 0)->shape), SHAPE_STR(to));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, to);
  return OK;
}

static Status gradient_expand(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  (void)g;
  (void)n;
  d_in[0] = d_out[0];
  return OK;
}

static Status infer_trilu(Graph *g, Node *n) {
  if (rule_in(g, n, 0)->shape.rank < 2)
    return fail(E_SHAPE, "needs rank 2 or more, has %s", SHAPE_STR(rule_in(g, n, 0)->shape));
  return rule_same(g, n);
}

static Status gradient_trilu(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  return emit_like(g, n, OP_Trilu, d_out, 1, NULL, &d_in[0]);
}

static Status infer_range(Graph *g, Node *n) {
  int64_t count = node_int(n, "count", 0);
  TRY(rule_one_type(g, n));
  for (int i = 0; i < 3; i++)
    if (shape_elements(rule_in(g, n, i)->shape) != 1)
      return fail(E_SHAPE, "'%s' is %s, not one number", rule_in(g, n, i)->name, SHAPE_STR(rule_in(g, n, i)->shape));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, shape_of(1, &count));
  return OK;
}

static Status infer_cumsum(Graph *g, Node *n) {
  int axis;
  TRY(rule_axis(n, "axis", rule_in(g, n, 0)->shape.rank, &axis));
  return rule_same(g, n);
}

static Status gradient_cumsum(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Attr attrs[] = {attr_int("axis", node_int(n, "axis", 0)), attr_int("exclusive", node_int(n, "exclusive", 0)),
                  attr_int("reverse", !node_int(n, "reverse", 0))};
  return graph_emit(g, OP_CumSum, d_out, 1, attrs, 3, &d_in[0]);
}

ENTRY(Reshape, 1, 1, 1, 1, OP_VIEW | OP_LINEAR | OP_ANY_TYPE, infer_reshape, gradient_reshape, NULL, batch_reshape)
ENTRY(Transpose, 1, 1, 1, 1, OP_PERMUTES | OP_LINEAR | OP_ANY_TYPE, infer_transpose, gradient_transpose, cost_move,
      batch_transpose)
ENTRY(Concat, 1, INT_MAX, 1, 1, OP_LINEAR | OP_ANY_TYPE, infer_concat, gradient_concat, cost_move, batch_concat)
ENTRY(Split, 1, 1, 1, INT_MAX, OP_LINEAR | OP_ANY_TYPE, infer_split, gradient_split, cost_move, batch_split)
ENTRY(Slice, 1, 1, 1, 1, OP_LINEAR | OP_ANY_TYPE, infer_slice, gradient_slice, cost_pick, batch_slice)
ENTRY(SliceGrad, 1, 1, 1, 1, 0, infer_slice_grad, NULL, cost_move, NULL)
ENTRY(Expand, 1, 1, 1, 1, OP_LINEAR | OP_ANY_TYPE, infer_expand, gradient_expand, cost_move, batch_expand)
ENTRY(Trilu, 1, 1, 1, 1, OP_LINEAR | OP_ANY_TYPE, infer_trilu, gradient_trilu, cost_move, batch_trilu)
ENTRY(Range, 3, 3, 1, 1, 0, infer_range, NULL, NULL, NULL)
ENTRY(CumSum, 1, 1, 1, 1, OP_LINEAR, infer_cumsum, gradient_cumsum, NULL, batch_line)
