/* Rows of a table summed bag by bag, and the gradient. Invariant: a bag's rows are added in their order. */
#include <string.h>

#include "graph/ops/rule.h"

static Status check_mode(const Node *n) {
  const char *mode = node_string(n, "mode", "sum");
  if (strcmp(mode, "sum") != 0 && strcmp(mode, "mean") != 0 && strcmp(mode, "max") != 0)
    return fail(E_UNSUPPORTED, "mode is '%s'", mode);
  return OK;
}

static Status check_offsets(const Graph *g, const Node *n) {
  const Value *offsets = rule_in(g, n, 1);
  if (offsets->dtype != I64 && offsets->dtype != I32)
    return fail(E_UNSUPPORTED, "offsets are %s", dtype_name(offsets->dtype));
  if (rule_in(g, n, 0)->shape.rank < 1 || offsets->shape.rank != 1)
    return fail(E_SHAPE, "rows are %s, offsets %s", SHAPE_STR(rule_in(g, n, 0)->shape), SHAPE_STR(offsets->shape));
  return check_mode(n);
}

static Status infer_segment(Graph *g, Node *n) {
  Shape s = rule_in(g, n, 0)->shape;
  TRY(rule_float(g, n, 0));
  TRY(check_offsets(g, n));
  s.dim[0] = rule_in(g, n, 1)->shape.dim[0];
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, s);
  return OK;
}

/* dY, offsets, the rows (for max; else absent). */
static Status infer_segment_grad(Graph *g, Node *n) {
  Shape dY = rule_in(g, n, 0)->shape, rows;
  TRY(rule_float(g, n, 0));
  TRY(check_offsets(g, n));
  TRY(rule_shape(g, n, "shape", &rows));
  if (dY.rank != rows.rank || dY.dim[0] != rule_in(g, n, 1)->shape.dim[0] ||
      memcmp(dY.dim + 1, rows.dim + 1, (size_t)(rows.rank - 1) * sizeof *rows.dim) != 0)
    return fail(E_SHAPE, "cotangent is %s, rows %s, offsets %s", SHAPE_STR(dY), SHAPE_STR(rows),
                SHAPE_STR(rule_in(g, n, 1)->shape));
  if (rule_has_in(n, 2) ? !shape_equal(rule_in(g, n, 2)->shape, rows)
                        : strcmp(node_string(n, "mode", "sum"), "max") == 0)
    return fail(E_SHAPE, "rows are missing or not %s", SHAPE_STR(rows));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, rows);
  return OK;
}

static Status gradient_segment(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Shape rows = rule_in(g, n, 0)->shape;
  Attr shape = attr_ints("shape", rows.dim, rows.rank);
  bool max = strcmp(node_string(n, "mode", "sum"), "max") == 0;
  ValueId in[] = {d_out[0], n->in[1], max ? n->in[0] : NO_VALUE};
  return emit_like(g, n, OP_SegmentReduceGrad, in, 3, &shape, &d_in[0]);
}

ENTRY(SegmentReduce, 2, 2, 1, 1, 0, infer_segment, gradient_segment, NULL, NULL)
ENTRY(SegmentReduceGrad, 2, 3, 1, 1, 0, infer_segment_grad, NULL, NULL, NULL)
