/* Scaled dot-product attention without its matrix of weights: forward keeps of each query the largest score and the
 * logarithm of the sum of exp(score - largest), by which the gradient finds the weights again. Their sum would not do:
 * beside a score of -1e9, as masks make it, no digit of a logarithm is left. */
#include "graph/ops/attention.h"

#include "graph/ops/rule.h"

static int64_t clamp(int64_t x, int64_t least, int64_t most) {
  return x < least ? least : x > most ? most : x;
}

Attention attention_of(const Node *n, Shape q, Shape k, Shape v) {
  return (Attention){.batch = q.dim[0],
                     .heads = q.dim[1],
                     .groups = k.dim[1],
                     .queries = q.dim[2],
                     .keys = k.dim[2],
                     .size = q.dim[3],
                     .value_size = v.dim[3],
                     .scale = node_float(n, "scale", 1),
                     .left = clamp(node_int(n, "left", INT64_MAX), -k.dim[2], q.dim[2]),
                     .right = clamp(node_int(n, "right", INT64_MAX), -q.dim[2], k.dim[2])};
}

static Attention attention_in(const Graph *g, const Node *n) {
  return attention_of(n, rule_in(g, n, ATTENTION_Q)->shape, rule_in(g, n, ATTENTION_K)->shape,
                      rule_in(g, n, ATTENTION_V)->shape);
}

/* Q [B,Hq,T,D], K [B,Hkv,S,D], V [B,Hkv,S,Dv] of one type, a mask that broadcasts to [B,Hq,T,S]. */
static Status check(const Graph *g, const Node *n) {
  const Value *of[] = {rule_in(g, n, ATTENTION_Q), rule_in(g, n, ATTENTION_K), rule_in(g, n, ATTENTION_V)};
  Shape q = of[0]->shape, k = of[1]->shape, v = of[2]->shape, both;
  TRY(rule_float(g, n, 0));
  if (of[1]->dtype != of[0]->dtype || of[2]->dtype != of[0]->dtype)
    return fail(E_SHAPE, "types differ: Q is %s, K %s, V %s", dtype_name(of[0]->dtype), dtype_name(of[1]->dtype),
                dtype_name(of[2]->dtype));
  if (q.rank != 4 || k.rank != 4 || v.rank != 4 || k.dim[0] != q.dim[0] || v.dim[0] != q.dim[0] || k.dim[1] < 1 ||
      q.dim[1] % k.dim[1] || v.dim[1] != k.dim[1] || v.dim[2] != k.dim[2] || k.dim[3] != q.dim[3])
    return fail(E_SHAPE, "Q %s, K %s and V %s do not go together", SHAPE_STR(q), SHAPE_STR(k), SHAPE_STR(v));
  if (!rule_has_in(n, attention_mask_input(n)))
    return OK;
  const Value *mask = rule_in(g, n, attention_mask_input(n));
  Shape scores = {4, {q.dim[0], q.dim[1], q.dim[2], k.dim[2]}};
  if (mask->dtype != BOOL && mask->dtype != of[0]->dtype)
    return fail(E_SHAPE, "the mask is %s, Q %s", dtype_name(mask->dtype), dtype_name(of[0]->dtype));
  if (!shape_broadcast(mask->shape, scores, &both) || !shape_equal(both, scores))
    return fail(E_SHAPE, "the mask is %s, the scores are %s", SHAPE_STR(mask->shape), SHAPE_STR(scores));
  return OK;
}

static void result_shapes(const Attention *a, Shape *y, Shape *stats) {
  *y = (Shape){4, {a->batch, a->heads, a->queries, a->value_size}};
  *stats = shape_of(3, y->dim);
}

static Status infer_attention(Graph *g, Node *n) {
  Shape y, stats;
  TRY(check(g, n));
  Attention a = attention_in(g, n);
  DType dtype = rule_in(g, n, 0)->dtype;
  result_shapes(&a, &y, &stats);
  rule_set(g, n, 0, dtype, y);
  rule_set(g, n, 1, dtype, stats);
  rule_set(g, n, 2, dtype, stats);
  return OK;
}

static Status infer_attention_grad(Graph *g, Node *n) {
  Shape y, stats;
  TRY(check(g, n));
  Attention a = attention_in(g, n);
  result_shapes(&a, &y, &stats);
  for (int i = ATTENTION_GRAD_Y; i <= ATTENTION_GRAD_DY; i++) {
    Shape wanted = i == ATTENTION_GRAD_Y || i == ATTENTION_GRAD_DY ? y : stats;
    const Value *v = rule_in(g, n, i);
    if (!shape_equal(v->shape, wanted) || v->dtype != rule_in(g, n, 0)->dtype)
      return fail(E_SHAPE, "'%s' is %s %s, not %s %s", v->name, dtype_name(v->dtype), SHAPE_STR(v->shape),
                  dtype_name(rule_in(g, n, 0)->dtype), SHAPE_STR(wanted));
  }
  for (int i = 0; i < 3; i++)
    rule_set(g, n, i, rule_in(g, n, i)->dtype, rule_in(g, n, i)->shape);
  return OK;
}

static Status gradient_attention(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  bool masked = rule_has_in(n, ATTENTION_MASK);
  ValueId mask = masked ? n->in[ATTENTION_MASK] : NO_VALUE;
  ValueId in[] = {n->in[0], n->in[1], n->in[2], n->out[0], n->out[1], n->out[2], d_out[0], mask};
  NodeId id;
  TRY(rule_first_only(g, n, d_out));
  if (rule_wants(g, n, ATTENTION_MASK))
    return fail(E_UNSUPPORTED, "the mask '%s' is to be trained", rule_in(g, n, ATTENTION_MASK)->name);
  TRY(graph_add_node(g, OP_AttentionGrad, n->name, in, masked ? 8 : 7, n->attrs, n->n_attrs, NULL, 3, &id));
  for (int i = 0; i < 3; i++)
    if (rule_wants(g, n, i))
      d_in[i] = graph_node(g, id)->out[i];
  return OK;
}

/* `products` numbers are multiplied and added for each query and each key that it sees, and a weight is found. */
static Cost cost_pairs(const Graph *g, const Node *n, const Attention *a, double products) {
  Cost cost = {0, 0};
  double pairs = 0;
  for (int i = 0; i < n->n_in; i++)
    cost.bytes += rule_has_in(n, i) ? (double)graph_value_bytes(g, n->in[i]) : 0;
  for (int i = 0; i < n->n_out; i++)
    cost.bytes += (double)graph_value_bytes(g, n->out[i]);
  for (int64_t t = 0; t < a->queries; t++) {
    int64_t seen = attention_end(a, t) - attention_first(a, t);
    pairs += seen > 0 ? (double)seen : 0;
  }
  cost.flops = (double)a->batch * (double)a->heads * pairs * (2 * products + 20);
  return cost;
}

static Cost cost_attention(const Graph *g, const Node *n) {
  Attention a = attention_in(g, n);
  return cost_pairs(g, n, &a, (double)(a.size + a.value_size));
}

static Cost cost_attention_grad(const Graph *g, const Node *n) {
  Attention a = attention_in(g, n);
  return cost_pairs(g, n, &a, (double)(3 * a.size + 2 * a.value_size));
}

ENTRY(Attention, 3, 4, 3, 3, 0, infer_attention, gradient_attention, cost_attention, batch_attention)
ENTRY(AttentionGrad, 7, 8, 3, 3, 0, infer_attention_grad, NULL, cost_attention_grad, NULL)
