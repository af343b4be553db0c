/* Rotary positions. Source: "RoFormer: Enhanced Transformer with Rotary Position Embedding", Su et al. 2021; the halves
 * of a row are the numbers' two coordinates. */
#include "graph/ops/rule.h"

/* X [.., d], cos and sin [.., d], which broadcast to it before the last axis. */
static Status infer_rotary(Graph *g, Node *n) {
  Shape x = rule_in(g, n, 0)->shape, both;
  TRY(rule_float(g, n, 0));
  TRY(rule_one_type(g, n));
  for (int i = 1; i < 3; i++) {
    Shape angles = rule_in(g, n, i)->shape;
    if (!x.rank || x.dim[x.rank - 1] % 2 || !angles.rank || angles.dim[angles.rank - 1] != x.dim[x.rank - 1] ||
        !shape_broadcast(x, angles, &both) || !shape_equal(both, x))
      return fail(E_SHAPE, "X %s, cosines and sines %s", SHAPE_STR(x), SHAPE_STR(angles));
  }
  return rule_same(g, n);
}

/* (-v2, v1) of the halves of a row. */
static Status emit_turned(Graph *g, ValueId v, ValueId *out) {
  Shape shape = graph_value(g, v)->shape, row = shape_of(1, &shape.dim[shape.rank - 1]);
  ValueId in[] = {v, NO_VALUE, NO_VALUE};
  for (int i = 0; i < 2; i++) {
    TRY(emit_scalar(g, v, i, &in[1 + i]));
    TRY(emit_expand(g, in[1 + i], row, &in[1 + i]));
  }
  return graph_emit(g, OP_Rotary, in, 3, NULL, 0, out);
}

/* The same angles back; the sines' is X · turned(dY) where these are back already. */
static Status gradient_rotary(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  bool back = node_int(n, "inverse", 0);
  Attr inverse = attr_int("inverse", !back);
  ValueId x = n->in[0], d = d_out[0], turned;
  if (rule_wants(g, n, 0))
    TRY(graph_emit(g, OP_Rotary, (ValueId[]){d, n->in[1], n->in[2]}, 3, &inverse, 1, &d_in[0]));
  if (rule_wants(g, n, 1))
    TRY(emit2(g, OP_Mul, d, x, &d_in[1]));
  if (!rule_wants(g, n, 2))
    return OK;
  TRY(emit_turned(g, back ? d : x, &turned));
  return emit2(g, OP_Mul, back ? x : d, turned, &d_in[2]);
}

ENTRY(Rotary, 3, 3, 1, 1, 0, infer_rotary, gradient_rotary, NULL, batch_rotary)
