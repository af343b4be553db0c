/* Numbers rounded to those of a narrower type, which stay as wide as they are. */
#include "graph/narrow.h"
#include "graph/ops/rule.h"

static Status infer_narrow(Graph *g, Node *n) {
  int64_t to = node_int(n, "to", DTYPE_NONE);
  TRY(rule_float(g, n, 0));
  if (to <= DTYPE_NONE || to >= DTYPE_COUNT || !dtype_is_narrow((DType)to))
    return fail(E_UNSUPPORTED, "type %lld is no narrow one", (long long)to);
  return rule_same(g, n);
}

/* Straight through: the steps have no slope, what they follow has 1. */
static Status gradient_narrow(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  (void)g, (void)n;
  d_in[0] = d_out[0];
  return OK;
}

ENTRY(Narrow, 1, 1, 1, 1, OP_ELEMENTWISE, infer_narrow, gradient_narrow, NULL, batch_elementwise)
