/* Normalisation over all axes but axis 1, by the statistics of what is there, and what keeps running ones. Invariant:
 * where samples lie along another axis than 1 they meet in the statistics, which are mixed; what comes out still counts
 * as sample by sample (batch_couples). */
#include "graph/ops/rule.h"

static int64_t channels(const Graph *g, const Node *n, int x) {
  return rule_in(g, n, x)->shape.dim[1];
}

/* X [N,K,…]. */
static Status check_data(const Graph *g, const Node *n, int x) {
  TRY(rule_float(g, n, x));
  TRY(rule_one_type(g, n));
  if (rule_in(g, n, x)->shape.rank < 2)
    return fail(E_SHAPE, "X is %s: it has no channels on axis 1", SHAPE_STR(rule_in(g, n, x)->shape));
  return OK;
}

/* Inputs first … end-1 are [K]. */
static Status check_statistics(const Graph *g, const Node *n, int x, int first, int end) {
  for (int i = first; i < end; i++) {
    Shape shape = rule_in(g, n, i)->shape;
    if (shape.rank != 1 || shape.dim[0] != channels(g, n, x))
      return fail(E_SHAPE, "'%s' is %s, X %s has %lld channels", rule_in(g, n, i)->name, SHAPE_STR(shape),
                  SHAPE_STR(rule_in(g, n, x)->shape), (long long)channels(g, n, x));
  }
  return OK;
}

/* Scale (and bias) [C], of which channel k has number k mod C. */
static Status check_scale(const Graph *g, const Node *n, int x, int i) {
  Shape shape = rule_in(g, n, i)->shape;
  if (shape.rank != 1 || (shape.dim[0] ? channels(g, n, x) % shape.dim[0] : channels(g, n, x)))
    return fail(E_SHAPE, "'%s' is %s, X %s has %lld channels", rule_in(g, n, i)->name, SHAPE_STR(shape),
                SHAPE_STR(rule_in(g, n, x)->shape), (long long)channels(g, n, x));
  return OK;
}

static Status check_cotangent(const Graph *g, const Node *n) {
  TRY(check_data(g, n, 1));
  if (!shape_equal(rule_in(g, n, 0)->shape, rule_in(g, n, 1)->shape))
    return fail(E_SHAPE, "cotangent is %s, X %s", SHAPE_STR(rule_in(g, n, 0)->shape),
                SHAPE_STR(rule_in(g, n, 1)->shape));
  return OK;
}

static Status infer_batch_norm(Graph *g, Node *n) {
  TRY(check_data(g, n, 0));
  TRY(check_scale(g, n, 0, 1));
  TRY(check_scale(g, n, 0, 2));
  if (!shape_equal(rule_in(g, n, 1)->shape, rule_in(g, n, 2)->shape))
    return fail(E_SHAPE, "scale is %s, bias %s", SHAPE_STR(rule_in(g, n, 1)->shape),
                SHAPE_STR(rule_in(g, n, 2)->shape));
  DType dtype = rule_in(g, n, 0)->dtype;
  Shape statistics = shape_of(1, &rule_in(g, n, 0)->shape.dim[1]);
  rule_set(g, n, 0, dtype, rule_in(g, n, 0)->shape);
  for (int i = 1; i < n->n_out; i++)
    rule_set(g, n, i, dtype, statistics);
  return OK;
}

static Status infer_grad_scale(Graph *g, Node *n) {
  TRY(check_cotangent(g, n));
  TRY(check_statistics(g, n, 1, 2, 4));
  for (int i = 0; i < n->n_out; i++)
    rule_set(g, n, i, rule_in(g, n, 0)->dtype, rule_in(g, n, 2)->shape);
  return OK;
}

static Status infer_grad_input(Graph *g, Node *n) {
  TRY(check_cotangent(g, n));
  TRY(check_scale(g, n, 1, 2));
  TRY(check_statistics(g, n, 1, 3, 7));
  return rule_same(g, n);
}

/* Sums over channels that have the same scale. */
static Status to_scale(Graph *g, ValueId d, Shape scale, ValueId *out) {
  int64_t all = graph_value(g, d)->shape.dim[0], axis = 0;
  *out = d;
  if (all == scale.dim[0])
    return OK;
  TRY(emit_reshape(g, d, (Shape){2, {all / scale.dim[0], scale.dim[0]}}, &d));
  return emit_reduce_sum(g, d, &axis, 1, false, out);
}

/* dX wants the two sums, too. */
static Status gradient_batch_norm(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  ValueId dY = d_out[0], X = n->in[0], mean = n->out[1], inv = n->out[2];
  Shape scale = rule_in(g, n, 1)->shape;
  NodeId sums;
  TRY(rule_first_only(g, n, d_out));
  TRY(graph_add_node(g, OP_BatchNormalizationGradScale, n->name, (ValueId[]){dY, X, mean, inv}, 4, NULL, 0, NULL, 2,
                     &sums));
  ValueId dScale = graph_node(g, sums)->out[0], dBias = graph_node(g, sums)->out[1];
  if (rule_wants(g, n, 0))
    TRY(graph_emit(g, OP_BatchNormalizationGradInput, (ValueId[]){dY, X, n->in[1], mean, inv, dScale, dBias}, 7, NULL,
                   0, &d_in[0]));
  if (rule_wants(g, n, 1))
    TRY(to_scale(g, dScale, scale, &d_in[1]));
  return rule_wants(g, n, 2) ? to_scale(g, dBias, scale, &d_in[2]) : OK;
}

/* Samples among the channels stay apart, where each has its scales from the first on. Elsewhere they meet; in a
 * BatchNormalization of the file they do so by what it is (`couples`), and each stays in its place. */
static void batch_batch_norm(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  int64_t scales = rule_in(g, n, 1)->shape.dim[0];
  bool vectors = in[1].kind == BATCH_NONE && in[2].kind == BATCH_NONE;
  bool among_channels = in[0].kind == BATCH_AXIS && in[0].axis == 1;
  for (int i = 0; i < n->n_out; i++)
    out[i].kind = BATCH_MIXED;
  if (!vectors || (among_channels ? scales && in[0].inner % scales : !node_int(n, "couples", 0)))
    return;
  out[0] = in[0];
  for (int i = 1; i < n->n_out && among_channels; i++) {
    out[i] = in[0];
    out[i].axis = 0;
  }
}

static Status infer_update_statistics(Graph *g, Node *n) {
  TRY(rule_float(g, n, 0));
  TRY(rule_one_type(g, n));
  if (!shape_equal(rule_in(g, n, 0)->shape, rule_in(g, n, 1)->shape))
    return fail(E_SHAPE, "the statistic is %s, the running one %s", SHAPE_STR(rule_in(g, n, 1)->shape),
                SHAPE_STR(rule_in(g, n, 0)->shape));
  return OK;
}

static Cost cost_passes(const Graph *g, const Node *n, double passes) {
  double bytes = (double)graph_value_bytes(g, n->in[0]), elements = (double)shape_elements(rule_in(g, n, 0)->shape);
  return (Cost){.flops = 8 * elements, .bytes = passes * bytes};
}

static Cost cost_forward(const Graph *g, const Node *n) {
  return cost_passes(g, n, 4);
}

static Cost cost_grad_scale(const Graph *g, const Node *n) {
  return cost_passes(g, n, 2);
}

static Cost cost_grad_input(const Graph *g, const Node *n) {
  return cost_passes(g, n, 3);
}

ENTRY(BatchNormalization, 3, 3, 4, 4, OP_SCALES | OP_COUPLES, infer_batch_norm, gradient_batch_norm, cost_forward,
      batch_batch_norm)
ENTRY(BatchNormalizationGradScale, 4, 4, 2, 2, 0, infer_grad_scale, NULL, cost_grad_scale, NULL)
ENTRY(BatchNormalizationGradInput, 7, 7, 1, 1, 0, infer_grad_input, NULL, cost_grad_input, NULL)
ENTRY(UpdateStatistics, 2, 2, 0, 0, OP_MUTATES_FIRST, infer_update_statistics, NULL, NULL, NULL)
