#include "partitioner/plan/again.h"

#include "graph/op.h"
#include "graph/recompute.h"

json_t *plan_again_json(const Plan *plan, int stage) {
  const Graph *g = plan->graph;
  json_t *list = json_array();
  int item = 0, first = -1;
  for (size_t i = 0; i <= g->n_nodes && list; i++) {
    bool forward = i < g->n_nodes && g->nodes[i]->phase == PHASE_F;
    bool again = forward && plan->again && plan->again[i] && g->nodes[i]->stage == stage;
    if (again && first < 0)
      first = item;
    if (!again && first >= 0) {
      if (json_array_append_new(list, json_pack("[i, i]", first, item - 1)) != 0) {
        json_decref(list);
        return NULL;
      }
      first = -1;
    }
    item += forward;
  }
  return list;
}

/* A pair, from `next` on; *last: its second number. */
static Status read_pair(const json_t *pair, const Plan *plan, int stage, const NodeId *forward, int n_forward,
                        json_int_t next, json_int_t *last, bool *again) {
  json_int_t first = json_integer_value(json_array_get(pair, 0));
  *last = json_integer_value(json_array_get(pair, 1));
  if (json_array_size(pair) != 2 || first < next || *last < first || *last >= n_forward ||
      plan->stage_of[forward[first]] != stage || plan->stage_of[forward[*last]] != stage)
    return fail(E_MODEL, "'again' has nodes %lld to %lld: out of order, or not of the stage", (long long)first,
                (long long)*last);
  for (json_int_t i = first; i <= *last; i++) {
    const Node *node = graph_node(plan->graph, forward[i]);
    if (!recompute_may(plan->graph, node))
      return fail(E_MODEL, "'again' has node %lld, '%s' (%s), which runs once", (long long)i, node->name,
                  op_def(node->op)->name);
    again[forward[i]] = true;
  }
  return OK;
}

static Status read_stage(const json_t *json, const Plan *plan, int stage, const NodeId *forward, int n_forward,
                         bool *again, bool *any) {
  const json_t *list = json_object_get(json, "again");
  json_int_t last = -1;
  if (!json_is_array(list))
    return fail(E_MODEL, "'again' is %s", list ? "not an array" : "missing");
  for (size_t i = 0; i < json_array_size(list); i++)
    TRY(read_pair(json_array_get(list, i), plan, stage, forward, n_forward, last + 1, &last, again));
  *any |= json_array_size(list) > 0;
  return OK;
}

Status plan_again_read(Arena *arena, const json_t *stages, const NodeId *forward, int n_forward, Plan *plan) {
  bool *again, any = false;
  TRY(ARENA_NEW(arena, again, plan->graph->n_nodes));
  for (int s = 0; s < plan->stages; s++)
    if (read_stage(json_array_get(stages, (size_t)s), plan, s, forward, n_forward, again, &any) != OK) {
      status_context("stage %d: ", s);
      return status_code();
    }
  plan->again = any ? again : NULL;
  return OK;
}
