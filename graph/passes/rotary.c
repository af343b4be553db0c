/* Rotary positions that are spelled out, x cos + (-x2, x1) sin of the halves x1, x2 of x: seven nodes, each of which
 * reads and writes all of it, and as many backward. Behind a transpose of heads they go before it: then attention reads
 * what they write, and the transpose vanishes. */
#include "graph/autodiff.h"
#include "graph/ops/rule.h"
#include "graph/passes/passes.h"

static const Node *producer(const Graph *g, ValueId id, OpKind op) {
  NodeId node = graph_value(g, id)->producer;
  return node == NO_NODE || graph_node(g, node)->op != op ? NULL : graph_node(g, node);
}

/* What the value is the lower (0) or upper half of, along the last axis; NO_VALUE: of nothing. */
static ValueId whole_of(const Graph *g, ValueId id, int which) {
  const Node *slice = producer(g, id, OP_Slice), *split = producer(g, id, OP_Split);
  const Node *n = slice ? slice : split;
  int count, others;
  if (!n)
    return NO_VALUE;
  Shape x = rule_in(g, n, 0)->shape;
  int64_t d = x.rank ? x.dim[x.rank - 1] : 0;
  if (d % 2 || graph_value(g, id)->shape.dim[x.rank - 1] != d / 2)
    return NO_VALUE;
  if (split)
    return n->n_out == 2 && node_int(n, "axis", 0) == x.rank - 1 && n->out[which] == id ? n->in[0] : NO_VALUE;
  const int64_t *axes = node_ints(n, "axes", &count), *starts = node_ints(n, "starts", &others);
  const int64_t *steps = node_ints(n, "steps", &others);
  return count == 1 && axes[0] == x.rank - 1 && starts[0] == which * d / 2 && (!others || steps[0] == 1) ? n->in[0]
                                                                                                         : NO_VALUE;
}

/* What is turned by a right angle to give the value: (-x2, x1); NO_VALUE: nothing. */
static ValueId turned(const Graph *g, ValueId id) {
  const Node *joined = producer(g, id, OP_Concat);
  if (!joined || joined->n_in != 2 || node_int(joined, "axis", 0) != graph_value(g, id)->shape.rank - 1)
    return NO_VALUE;
  const Node *negative = producer(g, joined->in[0], OP_Neg);
  ValueId x = whole_of(g, joined->in[1], 0);
  return negative && x != NO_VALUE && whole_of(g, negative->in[0], 1) == x ? x : NO_VALUE;
}

/* in: x, cos, sin of x cos + turned(x) sin, where the sum's input k is the first product. */
static bool find_at(const Graph *g, const Node *sum, int k, ValueId in[3]) {
  const Node *straight = producer(g, sum->in[k], OP_Mul), *across = producer(g, sum->in[1 - k], OP_Mul);
  if (!straight || !across)
    return false;
  for (int i = 0; i < 2; i++) {
    in[0] = turned(g, across->in[i]);
    in[2] = across->in[1 - i];
    if (in[0] == NO_VALUE || (straight->in[0] != in[0] && straight->in[1] != in[0]))
      continue;
    in[1] = straight->in[straight->in[0] == in[0]];
    return true;
  }
  return false;
}

static bool fits(const Graph *g, const Node *sum, const bool *wants, const ValueId in[3]) {
  Shape x = graph_value(g, in[0])->shape;
  bool all = dtype_is_float(graph_value(g, in[0])->dtype) && shape_equal(x, rule_out(g, sum, 0)->shape);
  for (int i = 1; i < 3; i++) {
    Shape s = graph_value(g, in[i])->shape;
    all = all && s.rank && s.dim[s.rank - 1] == x.dim[x.rank - 1] && !wants[in[i]];
  }
  return all;
}

/* The angles as they broadcast before a transpose, *ok: by a mere reshape. */
static Shape before(Shape angles, const int64_t *perm, int rank, bool *ok) {
  Shape at = {.rank = rank};
  int last = -1;
  for (int i = 0; i < rank; i++) {
    int own = i - (rank - angles.rank);
    at.dim[perm[i]] = own < 0 ? 1 : angles.dim[own];
    if (at.dim[perm[i]] == 1)
      continue;
    *ok &= perm[i] > last;
    last = (int)perm[i];
  }
  return at;
}

static Status emit_rotary(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  const Node *turn = producer(g, in[0], OP_Transpose);
  ValueId operand[] = {in[0], in[1], in[2]};
  int rank = 0;
  const int64_t *perm = turn ? node_ints(turn, "perm", &rank) : NULL;
  bool moves = turn && perm[rank - 1] == rank - 1;
  Shape angles[3] = {{0}};
  for (int i = 1; i < 3 && moves; i++)
    angles[i] = before(graph_value(g, in[i])->shape, perm, rank, &moves);
  for (int i = 1; i < 3 && moves; i++)
    TRY(emit_reshape(g, in[i], angles[i], &operand[i]));
  if (moves)
    operand[0] = turn->in[0];
  TRY(graph_emit(g, instead->op, operand, 3, NULL, 0, out));
  return moves ? emit_transpose(g, *out, perm, rank, out) : OK;
}

static Status find(const Graph *g, const Instead **instead) {
  bool *wants;
  TRY(ARENA_NEW(g->arena, wants, g->n_values));
  autodiff_wants(g, wants);
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < 2 && g->nodes[i]->op == OP_Add && !instead[i]; k++) {
      ValueId in[3];
      if (!find_at(g, g->nodes[i], k, in) || !fits(g, g->nodes[i], wants, in))
        continue;
      TRY(instead_make(g, (Instead){.op = OP_Rotary, .n_in = 3, .emit = emit_rotary}, in, &instead[i]));
    }
  return OK;
}

const Pass pass_rotary = {"rotary", NULL, 0, find};
