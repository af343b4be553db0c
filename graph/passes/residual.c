/* Where a residual goes past a normalisation, the gradient of what both read is the sum of what comes back past it and
 * of the norm's own. The node that makes the latter adds the former as it writes: one pass over the rows and one tensor
 * less. */
#include "graph/ops/rule.h"
#include "graph/passes/passes.h"

enum { MOST_IN = 6 };

/* The gradient of a normalisation's input that nothing but the sum reads, and that adds nothing yet; NULL: it is none.
 * A sum of another forward node may lie in another stage. */
static const Node *norm_of(const Graph *g, const int *uses, const Node *sum, ValueId id) {
  NodeId producer = graph_value(g, id)->producer;
  const Node *norm = producer == NO_NODE ? NULL : graph_node(g, producer);
  if (!norm || uses[id] != 1 || norm->origin != sum->origin || norm->phase == PHASE_F)
    return NULL;
  bool bare = (norm->op == OP_LayerNormalizationGradInput && norm->n_in == 5) ||
              (norm->op == OP_RMSNormalizationGradInput && norm->n_in == 4);
  return bare && shape_equal(rule_out(g, norm, 0)->shape, rule_out(g, sum, 0)->shape) ? norm : NULL;
}

static Status find(const Graph *g, const Instead **instead) {
  int *uses;
  TRY(graph_uses(g, &uses));
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < 2 && g->nodes[i]->op == OP_Add && !instead[i]; k++) {
      const Node *sum = g->nodes[i], *norm = norm_of(g, uses, sum, sum->in[k]);
      ValueId past = sum->in[1 - k], in[MOST_IN];
      if (!norm || !shape_equal(graph_value(g, past)->shape, rule_out(g, sum, 0)->shape))
        continue;
      for (int j = 0; j < norm->n_in; j++)
        in[j] = norm->in[j];
      in[norm->n_in] = past;
      Instead both = {.op = norm->op, .n_in = norm->n_in + 1, .attrs = norm->attrs, .n_attrs = norm->n_attrs};
      TRY(instead_make(g, both, in, &instead[i]));
    }
  return OK;
}

const Pass pass_residual = {"residual", NULL, 0, find};
