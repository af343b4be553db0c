/* Products that are a parameter's gradient go into its accumulator as they are made: the sum begins with what is there.
 * Nobody writes, keeps and reads the product by itself. */
#include "graph/passes/passes.h"

/* The product whose one use it is to be accumulated; NULL: it is none. */
static const Node *product_of(const Graph *g, const int *uses, ValueId id) {
  NodeId producer = graph_value(g, id)->producer;
  const Node *product = producer == NO_NODE ? NULL : graph_node(g, producer);
  return product && product->op == OP_MatMul && uses[id] == 1 ? product : NULL;
}

static Status find(const Graph *g, const Instead **instead) {
  int *uses;
  TRY(graph_uses(g, &uses));
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    const Node *product = node->op == OP_Accumulate ? product_of(g, uses, node->in[1]) : NULL;
    if (!product || graph_value(g, node->in[0])->role != ROLE_GRADIENT)
      continue;
    const ValueId in[] = {node->in[0], product->in[0], product->in[1]};
    Instead *made;
    TRY(ARENA_NEW(g->arena, made, 1));
    *made = (Instead){.op = OP_AccumulateMatMul, .n_in = 3, .attrs = product->attrs, .n_attrs = product->n_attrs};
    made->in = arena_copy(g->arena, in, sizeof in);
    if (!made->in)
      return status_code();
    instead[i] = made;
  }
  return OK;
}

const Pass pass_accumulate = {"accumulate", NULL, 0, find};
