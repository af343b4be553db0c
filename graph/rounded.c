/* Which weights are kept in bfloat16, too. Invariant: a product of a weight and one of what it rounds to are the same,
 * bit for bit. */
#include "graph/rounded.h"

#include "graph/memory.h"
#include "graph/op.h"

enum { GEMM_ROW = 2, PRODUCT_BESIDE = 2, HEAD_W = 2 };

bool node_rounds(const Graph *g, const Node *node, int k) {
  if (node->precision != PRECISION_BF16 || node->in[k] == NO_VALUE || graph_value(g, node->in[k])->dtype != F32)
    return false;
  switch (node->op) {
  case OP_MatMul:
    return true;
  case OP_Gemm: /* a row is added in the result's type */
  case OP_ProductGelu:
    return k != GEMM_ROW || graph_value(g, node->out[0])->dtype == BF16;
  case OP_ProductGeluGrad:
    return k < PRODUCT_BESIDE;
  case OP_ProductAdd:
    return k != PRODUCT_BESIDE && (k < PRODUCT_BESIDE || graph_value(g, node->out[0])->dtype == BF16);
  case OP_AccumulateMatMul:
    return k > 0;
  case OP_ProductCrossEntropy:
    return k == HEAD_W;
  default:
    return false;
  }
}

ValueId graph_viewed(const Graph *g, ValueId value) {
  for (NodeId from = graph_value(g, value)->producer; from != NO_NODE; from = graph_value(g, value)->producer) {
    const Node *node = graph_node(g, from);
    if (!(op_def(node->op)->traits & OP_VIEW))
      break;
    value = node->in[0];
  }
  return value;
}

/* Updates write parameters, and nobody constants. */
static bool may_be_kept(const Graph *g, ValueId value) {
  Role role = graph_value(g, value)->role;
  return memory_is_stored(g, value) && (role == ROLE_PARAMETER || role == ROLE_CONSTANT);
}

void graph_keep_rounded(Graph *g, int backend) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    for (int k = 0; k < node->n_in; k++)
      if (node_rounds(g, node, k) && may_be_kept(g, graph_viewed(g, node->in[k]))) {
        graph_value(g, node->in[k])->rounded_on |= (uint8_t)(1u << backend);
        graph_value(g, graph_viewed(g, node->in[k]))->rounded_on |= (uint8_t)(1u << backend);
      }
  }
}

bool graph_is_rounded(const Graph *g, ValueId value, int rank) {
  return graph_value(g, value)->rounded_on >> (g->backend_of_rank ? g->backend_of_rank[rank] : 0) & 1;
}
