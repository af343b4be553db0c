/* Which gradients are kept as rows, and the nodes that do. Invariant: a group's rows and places have room for every
 * lookup of a step. */
#include "graph/rows.h"

#include "graph/op.h"
#include "graph/ops/rule.h"

static int64_t lookups(const Graph *g, const Node *gather) {
  return shape_elements(rule_in(g, gather, 1)->shape);
}

static bool is_lookup(const Graph *g, const Node *node, ValueId table) {
  return node->op == OP_Gather && node->in[0] == table && node_int(node, "axis", 0) == 0 && lookups(g, node) > 0;
}

bool rows_fit(const Graph *g, ValueId parameter, const NodeId *uses, size_t n) {
  const Value *table = graph_value(g, parameter);
  double bytes = (double)graph_value_bytes(g, parameter), kept = 0;
  if (bytes == 0 || table->shape.rank + 1 > MAX_RANK || g->microbatches < 1)
    return false;
  for (size_t i = 0; i < n; i++) {
    const Node *node = graph_node(g, uses[i]);
    if (!is_lookup(g, node, parameter))
      return false;
    kept +=
        (double)g->microbatches * (double)lookups(g, node) * (bytes / (double)table->shape.dim[0] + sizeof(int64_t));
  }
  return table->keep == KEEP_ROWS || kept < bytes * (double)n;
}

static Status add_value(Graph *g, ValueId parameter, const char *what, int k, DType dtype, Shape shape, ValueId *id) {
  const char *name = arena_format(g->arena, "%s/%s.%d", graph_value(g, parameter)->name, what, k);
  if (!name)
    return status_code();
  TRY(graph_add_value(g, name, dtype, shape, ROLE_GRADIENT, id));
  graph_value(g, *id)->parameter = parameter;
  graph_value(g, *id)->group = k;
  return OK;
}

Status rows_accumulate(Graph *g, const Node *gather, ValueId cotangent, int k, UseGroup *group) {
  ValueId parameter = gather->in[0];
  const Value *table = graph_value(g, parameter);
  Shape places = {2, {g->microbatches, lookups(g, gather)}}, rows = places;
  Attr size = attr_int("rows", table->shape.dim[0]);
  NodeId id;
  for (int i = 1; i < table->shape.rank; i++)
    rows.dim[rows.rank++] = table->shape.dim[i];
  TRY(gather_cotangent(g, gather, cotangent, &cotangent));
  TRY(add_value(g, parameter, "rows", k, table->dtype, rows, &group->gradient));
  TRY(add_value(g, parameter, "places", k, I64, places, &group->places));
  return graph_add_node(g, OP_AccumulateRows, table->name,
                        (ValueId[]){group->gradient, group->places, cotangent, gather->in[1]}, 4, &size, 1, NULL, 0,
                        &id);
}
