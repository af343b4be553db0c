/* What is drawn: by the counter of the graph, the node's number, the sample's and the element's within it; the last two
 * say `per_sample`, `outer` and `inner` (batch_place_draws): [outer, samples, inner] elements, or one draw for all.
 * Invariant: what a sample gets does not depend on which microbatch it is in. */
#include "graph/ops/rule.h"

static Status check_counter(const Graph *g, const Node *n, int i) {
  const Value *counter = rule_in(g, n, i);
  if (counter->dtype != I64 || counter->shape.rank != 1 || counter->shape.dim[0] != COUNTER_NUMBERS)
    return fail(E_SHAPE, "'%s' is %s %s, a counter is int64 [%d]", counter->name, dtype_name(counter->dtype),
                SHAPE_STR(counter->shape), COUNTER_NUMBERS);
  return OK;
}

Status rule_draws(const Graph *g, const Node *n, int counter) {
  double ratio = node_float(n, "ratio", 0.5);
  TRY(check_counter(g, n, counter));
  if (!(ratio >= 0 && ratio <= 1))
    return fail(E_SHAPE, "ratio is %g, not between 0 and 1", ratio);
  return OK;
}

static Status infer_dropout(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  TRY(rule_draws(g, n, 1));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, rule_in(g, n, 0)->shape);
  rule_set(g, n, 1, BOOL, rule_in(g, n, 0)->shape);
  return OK;
}

static Status gradient_dropout(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Attr ratio = attr_float("ratio", node_float(n, "ratio", 0.5));
  return graph_emit(g, OP_DropoutGrad, (ValueId[]){d_out[0], n->out[1]}, 2, &ratio, 1, &d_in[0]);
}

static Status infer_dropout_grad(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  if (rule_in(g, n, 1)->dtype != BOOL || !shape_equal(rule_in(g, n, 0)->shape, rule_in(g, n, 1)->shape))
    return fail(E_SHAPE, "the mask is %s %s, dY %s", dtype_name(rule_in(g, n, 1)->dtype),
                SHAPE_STR(rule_in(g, n, 1)->shape), SHAPE_STR(rule_in(g, n, 0)->shape));
  return rule_same(g, n);
}

static Status infer_draw(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  TRY(check_counter(g, n, 1));
  return rule_same(g, n);
}

/* Every output lies as what it is shaped like. */
static void batch_as_first(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  (void)g;
  for (int i = 0; i < n->n_out; i++) {
    out[i] = in[0];
    out[i].step = 0;
    out[i].address = false;
  }
}

static Cost cost_draw(const Graph *g, const Node *n) {
  return (Cost){.flops = 30.0 * (double)shape_elements(rule_in(g, n, 0)->shape),
                .bytes = 2.0 * (double)graph_value_bytes(g, n->in[0])};
}

ENTRY(Dropout, 2, 2, 2, 2, OP_RANDOM, infer_dropout, gradient_dropout, cost_draw, batch_as_first)
ENTRY(DropoutGrad, 2, 2, 1, 1, OP_IN_PLACE, infer_dropout_grad, NULL, NULL, NULL)
ENTRY(RandomUniform, 2, 2, 1, 1, OP_RANDOM | OP_STOPS, infer_draw, NULL, cost_draw, batch_as_first)
ENTRY(RandomNormal, 2, 2, 1, 1, OP_RANDOM | OP_STOPS, infer_draw, NULL, cost_draw, batch_as_first)
