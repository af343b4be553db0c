/* Products that are a parameter's gradient go into its accumulator as they are made: the sum begins with what is there.
 * Nobody writes, keeps and reads the product by itself. Where a step has one microbatch nothing is there: the product
 * takes its place, and the accumulator needs no zeros before. */
#include "graph/passes/passes.h"

/* The product whose one use it is to be accumulated; NULL: it is none. */
static const Node *product_of(const Graph *g, const int *uses, ValueId id) {
  NodeId producer = graph_value(g, id)->producer;
  const Node *product = producer == NO_NODE ? NULL : graph_node(g, producer);
  return product && product->op == OP_MatMul && uses[id] == 1 ? product : NULL;
}

/* What becomes of the product; with `begins` where there is no other in a step. */
static Status make(const Graph *g, ValueId accumulator, const Node *product, const Instead **instead) {
  const ValueId in[] = {accumulator, product->in[0], product->in[1]};
  Instead *made;
  Attr *attrs;
  int n = product->n_attrs;
  TRY(ARENA_NEW(g->arena, made, 1));
  TRY(ARENA_NEW(g->arena, attrs, n + 1));
  for (int i = 0; i < n; i++)
    attrs[i] = product->attrs[i];
  if (g->microbatches == 1)
    attrs[n++] = attr_int("begins", 1);
  *made = (Instead){.op = OP_AccumulateMatMul, .n_in = 3, .attrs = attrs, .n_attrs = n};
  made->in = arena_copy(g->arena, in, sizeof in);
  *instead = made;
  return made->in ? OK : status_code();
}

static Status find(const Graph *g, const Instead **instead) {
  int *uses;
  TRY(graph_uses(g, &uses));
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    const Node *product = node->op == OP_Accumulate ? product_of(g, uses, node->in[1]) : NULL;
    if (product && graph_value(g, node->in[0])->role == ROLE_GRADIENT)
      TRY(make(g, node->in[0], product, &instead[i]));
  }
  return OK;
}

const Pass pass_accumulate = {"accumulate", NULL, 0, find};
