/* The gate of a feed-forward layer, swish(a) b. One node keeps a and b alone, and writes both gradients in one pass
 * over them; a Swish and a product keep what lies between, too. */
#include "graph/ops/rule.h"
#include "graph/passes/passes.h"

/* The Swish that makes the value, and that nothing else reads; NULL: it is none. */
static const Node *gate_of(const Graph *g, const int *uses, ValueId id) {
  NodeId producer = graph_value(g, id)->producer;
  const Node *swish = producer == NO_NODE ? NULL : graph_node(g, producer);
  return swish && swish->op == OP_Swish && uses[id] == 1 ? swish : NULL;
}

static Status find(const Graph *g, const Instead **instead) {
  int *uses;
  TRY(graph_uses(g, &uses));
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < 2 && g->nodes[i]->op == OP_Mul && !instead[i]; k++) {
      const Node *product = g->nodes[i], *swish = gate_of(g, uses, product->in[k]);
      ValueId other = product->in[1 - k];
      if (!swish || !shape_equal(graph_value(g, other)->shape, rule_out(g, swish, 0)->shape))
        continue;
      Instead both = {.op = OP_SwiGLU, .n_in = 2, .attrs = swish->attrs, .n_attrs = swish->n_attrs};
      TRY(instead_make(g, both, (ValueId[]){swish->in[0], other}, &instead[i]));
    }
  return OK;
}

const Pass pass_swiglu = {"swiglu", NULL, 0, find};
