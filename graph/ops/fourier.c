/* Discrete Fourier transforms along an axis; the last axis holds real numbers
 * (size 1) or real and imaginary parts (size 2). Y_k = scale · sum over j of
 * X_j exp(∓2πi jk / length) for k = 0 … places-1, where X is 0 behind its end.
 * Its gradient is a transform of the other direction. */
#include "graph/ops/rule.h"

/* What is longer lies in no memory, and sizes need not overflow. */
#define LONGEST (INT64_C(1) << 44)

/* X [..., n, ..., 1 or 2] -> Y [..., places, ..., 1 or 2] */
static Status infer_dft(Graph *g, Node *n) {
  Shape x = rule_in(g, n, 0)->shape, y = x;
  int last = x.rank - 1, axis;
  int64_t length = node_int(n, "length", 0), places = node_int(n, "places", 0), parts = node_int(n, "parts", 2);
  bool hermitian = node_int(n, "hermitian", 0);
  TRY(rule_float(g, n, 0));
  if (x.rank < 2)
    return fail(E_SHAPE, "X %s has no axis for a transform", SHAPE_STR(x));
  TRY(rule_axis(n, "axis", last, &axis));
  if (x.dim[last] != 2 && (hermitian || x.dim[last] != 1))
    return fail(E_SHAPE, "the last axis of X %s holds no %s numbers", SHAPE_STR(x),
                hermitian ? "complex" : "real or complex");
  if (length > LONGEST)
    return fail(E_SHAPE, "a transform of length %lld", (long long)length);
  if (length < 1 || places < 0 || places > length || x.dim[axis] > (hermitian ? length / 2 + 1 : length))
    return fail(E_SHAPE, "%lld places of a transform of length %lld of %lld", (long long)places, (long long)length,
                (long long)x.dim[axis]);
  if (parts != 1 && (hermitian || parts != 2))
    return fail(E_SHAPE, "%lld parts of a number", (long long)parts);
  y.dim[axis] = places;
  y.dim[last] = parts;
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, y);
  return OK;
}

/* How often element k of one side of a spectrum stands in the whole: 2, and 1
 * where it is its own other side. */
static Status emit_both_sides(Graph *g, const Node *n, ValueId dx, ValueId *out) {
  Shape x = rule_in(g, n, 0)->shape, shape;
  int axis = (int)node_int(n, "axis", 0);
  int64_t length = node_int(n, "length", 0), places = x.dim[axis];
  double *times;
  ValueId weights;
  shape = shape_of(x.rank - axis, (int64_t[MAX_RANK]){places, 1, 1, 1, 1, 1, 1, 1});
  TRY(ARENA_NEW(g->arena, times, places));
  for (int64_t k = 0; k < places; k++)
    times[k] = k == 0 || 2 * k == length ? 1 : 2;
  TRY(graph_add_constant(g, "sides", F64, shape, times, &weights));
  TRY(emit_cast(g, weights, rule_in(g, n, 0)->dtype, &weights));
  return emit2(g, OP_Mul, dx, weights, out);
}

static Status gradient_dft(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Shape x = rule_in(g, n, 0)->shape;
  int64_t axis = node_int(n, "axis", 0);
  Attr attrs[] = {attr_int("axis", axis),
                  attr_int("length", node_int(n, "length", 0)),
                  attr_int("inverse", !node_int(n, "inverse", 0)),
                  attr_float("scale", node_float(n, "scale", 1)),
                  attr_int("places", x.dim[axis]),
                  attr_int("parts", x.dim[x.rank - 1])};
  TRY(graph_emit(g, OP_DFT, d_out, 1, attrs, 6, &d_in[0]));
  return node_int(n, "hermitian", 0) ? emit_both_sides(g, n, d_in[0], &d_in[0]) : OK;
}

/* 5 n log2 n operations a line, as everybody counts. */
static Cost cost_dft(const Graph *g, const Node *n) {
  Shape x = rule_in(g, n, 0)->shape;
  double length = (double)node_int(n, "length", 1), steps = 1, lines = 1;
  for (double l = 2; l < length; l *= 2)
    steps++;
  for (int i = 0; i < x.rank - 1; i++)
    lines *= i == node_int(n, "axis", 0) ? 1 : (double)x.dim[i];
  return (Cost){.flops = 5 * length * steps * lines,
                .bytes = (double)(graph_value_bytes(g, n->in[0]) + graph_value_bytes(g, n->out[0]))};
}

/* Samples along the axis itself meet, and so would real and imaginary parts. */
static void batch_dft(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  if (in->axis == rule_in(g, n, 0)->shape.rank - 1)
    *out = (Batch){.kind = BATCH_MIXED};
  else
    batch_line(g, n, in, out);
}

ENTRY(DFT, 1, 1, 1, 1, OP_LINEAR, infer_dft, gradient_dft, cost_dft, batch_dft)
