/* The logarithm of a softmax, which keeps its digits and one tensor less as one node. */
#include "graph/passes/passes.h"

static Status find(const Graph *g, const Instead **instead) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *log = g->nodes[i];
    NodeId producer = log->op == OP_Log ? graph_value(g, log->in[0])->producer : NO_NODE;
    const Node *softmax = producer == NO_NODE ? NULL : graph_node(g, producer);
    Instead *made;
    if (!softmax || softmax->op != OP_Softmax)
      continue;
    TRY(ARENA_NEW(g->arena, made, 1));
    *made = (Instead){
        .op = OP_LogSoftmax, .in = softmax->in, .n_in = 1, .attrs = softmax->attrs, .n_attrs = softmax->n_attrs};
    instead[i] = made;
  }
  return OK;
}

const Pass pass_log_softmax = {"log-softmax", NULL, 0, find};
