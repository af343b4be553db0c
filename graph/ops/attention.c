/* Scaled dot-product attention without its matrix of weights: forward keeps of each query the largest score and the
 * logarithm of the sum of exp(score - largest), by which the gradient finds the weights again. Their sum would not do:
 * beside a score of -1e9, as masks make it, no digit of a logarithm is left. */
#include "graph/ops/attention.h"

#include "graph/ops/rule.h"

static int64_t clamp(int64_t x, int64_t least, int64_t most) {
  return x < least ? least : x > most ? most : x;
}

static const char *const rows_of[] = {"q_rows", "k_rows", "v_rows"};

/* [offset, step] of an operand in rows; NULL: it is not. */
static const int64_t *operand_rows(const Node *n, int i) {
  int count;
  const int64_t *rows = node_ints(n, rows_of[i], &count);
  return count == 2 ? rows : NULL;
}

static bool has_rows(const Node *n) {
  return operand_rows(n, 0) || operand_rows(n, 1) || operand_rows(n, 2) || node_int(n, "y_rows", 0);
}

/* Whose input holds the operand. */
static int input_of(const Node *n, int i) {
  while (i && !rule_has_in(n, i))
    i--;
  return i;
}

static int cotangent_of(const Node *n, int input) {
  int at = 0;
  for (int i = 0; i < input; i++)
    at += rule_has_in(n, i);
  return at;
}

static AttentionPlace place_of(const Node *n, int i, int64_t heads, int64_t count, int64_t size, Shape in) {
  const int64_t *rows = i < 3 ? operand_rows(n, i) : NULL;
  AttentionPlace p = {.batch = heads * count * size, .head = count * size, .row = size};
  if (i < 3) {
    p.input = input_of(n, i);
    p.cotangent = cotangent_of(n, p.input);
  }
  if (rows) {
    p.offset = rows[0];
    p.head = rows[1];
    p.row = in.dim[2];
    p.batch = count * p.row;
  } else if (i == 3 && node_int(n, "y_rows", 0)) {
    p.head = size;
    p.row = heads * size;
  }
  return p;
}

Attention attention_of(const Node *n, const Shape in[3]) {
  Shape q = in[0], k = in[input_of(n, 1)], v = in[input_of(n, 2)];
  bool rows = has_rows(n);
  Attention a = {.batch = q.dim[0],
                 .heads = rows ? node_int(n, "heads", 0) : q.dim[1],
                 .groups = rows ? node_int(n, "groups", 0) : k.dim[1],
                 .queries = operand_rows(n, 0) ? q.dim[1] : q.dim[2],
                 .keys = operand_rows(n, 1) ? k.dim[1] : k.dim[2],
                 .size = rows ? node_int(n, "size", 0) : q.dim[3],
                 .value_size = rows ? node_int(n, "value_size", 0) : v.dim[3],
                 .scale = node_float(n, "scale", 1)};
  a.left = clamp(node_int(n, "left", INT64_MAX), -a.keys, a.queries);
  a.right = clamp(node_int(n, "right", INT64_MAX), -a.queries, a.keys);
  a.operand[0] = place_of(n, 0, a.heads, a.queries, a.size, q);
  a.operand[1] = place_of(n, 1, a.groups, a.keys, a.size, k);
  a.operand[2] = place_of(n, 2, a.groups, a.keys, a.value_size, v);
  a.result = place_of(n, 3, a.heads, a.queries, a.value_size, (Shape){0});
  return a;
}

Attention attention_in(const Graph *g, const Node *n) {
  Shape in[3] = {rule_in(g, n, 0)->shape};
  for (int i = 1; i < 3; i++)
    if (rule_has_in(n, i))
      in[i] = rule_in(g, n, i)->shape;
  return attention_of(n, in);
}

/* Operand i as the attributes say, heads of `size` elements in rows of `count`; count -1: any. */
static Status check_operand(const Graph *g, const Node *n, int i, int64_t batch, int64_t heads, int64_t *count,
                            int64_t size) {
  const int64_t *rows = operand_rows(n, i);
  Shape s = rule_in(g, n, input_of(n, i))->shape;
  bool fits = rows ? s.rank == 3 && rows[0] >= 0 && rows[1] >= 1 && (heads == 1 || rows[1] >= size) &&
                         rows[0] <= s.dim[2] - size && (s.dim[2] - size - rows[0]) / rows[1] >= heads - 1
                   : s.rank == 4 && rule_has_in(n, i) && s.dim[1] == heads && s.dim[3] == size;
  if (!fits || s.dim[0] != batch || (*count >= 0 && *count != s.dim[rows ? 1 : 2]))
    return fail(E_SHAPE, "%c is %s, not %lld heads of %lld elements%s", "QKV"[i], SHAPE_STR(s), (long long)heads,
                (long long)size, rows ? " in rows" : "");
  *count = s.dim[rows ? 1 : 2];
  return OK;
}

/* Every element of a row is one operand's. */
static Status check_cover(const Graph *g, const Node *n, const Attention *a, int input) {
  Shape s = rule_in(g, n, input)->shape;
  int64_t head[3] = {0}, at[3]; /* of each operand: the head, and where in it, below 0 before the first */
  for (int i = 0; i < 3; i++)
    at[i] = -a->operand[i].offset;
  for (int64_t c = 0; s.rank == 3 && c < s.dim[2]; c++) {
    int owners = 0;
    for (int i = 0; i < 3; i++) {
      const AttentionPlace *p = &a->operand[i];
      int64_t size = i == 2 ? a->value_size : a->size;
      owners += p->input == input && at[i] >= 0 && head[i] < (i ? a->groups : a->heads) && at[i] < size;
      if (++at[i] == p->head) {
        at[i] = 0;
        head[i]++;
      }
    }
    if (owners != 1)
      return fail(E_SHAPE, "%d operands have element %lld of a row of %s", owners, (long long)c, SHAPE_STR(s));
  }
  return OK;
}

static Status check_rows(const Graph *g, const Node *n) {
  int64_t heads = node_int(n, "heads", 0), groups = node_int(n, "groups", 0), size = node_int(n, "size", 0);
  int64_t value_size = node_int(n, "value_size", 0), batch = rule_in(g, n, 0)->shape.dim[0], queries = -1, keys = -1;
  if (heads < 1 || groups < 1 || heads % groups || size < 1 || value_size < 1)
    return fail(E_SHAPE, "%lld heads, %lld groups, sizes %lld and %lld", (long long)heads, (long long)groups,
                (long long)size, (long long)value_size);
  TRY(check_operand(g, n, 0, batch, heads, &queries, size));
  TRY(check_operand(g, n, 1, batch, groups, &keys, size));
  TRY(check_operand(g, n, 2, batch, groups, &keys, value_size));
  Attention a = attention_in(g, n);
  for (int i = 0; i < 3; i++)
    if (rule_has_in(n, i))
      TRY(check_cover(g, n, &a, i));
  return OK;
}

/* Q [B,Hq,T,D], K [B,Hkv,S,D], V [B,Hkv,S,Dv]. */
static Status check_apart(const Graph *g, const Node *n) {
  for (int i = 1; i < 3; i++)
    if (!rule_has_in(n, i))
      return fail(E_MODEL, "input %d is missing", i);
  Shape q = rule_in(g, n, 0)->shape, k = rule_in(g, n, 1)->shape, v = rule_in(g, n, 2)->shape;
  if (q.rank != 4 || k.rank != 4 || v.rank != 4 || k.dim[0] != q.dim[0] || v.dim[0] != q.dim[0] || k.dim[1] < 1 ||
      q.dim[1] % k.dim[1] || v.dim[1] != k.dim[1] || v.dim[2] != k.dim[2] || k.dim[3] != q.dim[3])
    return fail(E_SHAPE, "Q %s, K %s and V %s do not go together", SHAPE_STR(q), SHAPE_STR(k), SHAPE_STR(v));
  return OK;
}

/* Operands of one type, a mask that broadcasts to [B,Hq,T,S]. */
static Status check(const Graph *g, const Node *n) {
  DType dtype = rule_in(g, n, 0)->dtype;
  Shape both;
  TRY(rule_float(g, n, 0));
  for (int i = 1; i < 3; i++)
    if (rule_has_in(n, i) && rule_in(g, n, i)->dtype != dtype)
      return fail(E_SHAPE, "types differ: Q is %s, %c %s", dtype_name(dtype), "QKV"[i],
                  dtype_name(rule_in(g, n, i)->dtype));
  TRY(has_rows(n) ? check_rows(g, n) : check_apart(g, n));
  if (attention_drops(n))
    TRY(rule_draws(g, n, attention_counter_input(n)));
  if (!rule_has_in(n, attention_mask_input(n)))
    return OK;
  const Value *mask = rule_in(g, n, attention_mask_input(n));
  Attention a = attention_in(g, n);
  Shape scores = {4, {a.batch, a.heads, a.queries, a.keys}};
  if (mask->dtype != BOOL && mask->dtype != dtype)
    return fail(E_SHAPE, "the mask is %s, Q %s", dtype_name(mask->dtype), dtype_name(dtype));
  if (!shape_broadcast(mask->shape, scores, &both) || !shape_equal(both, scores))
    return fail(E_SHAPE, "the mask is %s, the scores are %s", SHAPE_STR(mask->shape), SHAPE_STR(scores));
  return OK;
}

static void result_shapes(const Node *n, const Attention *a, Shape *y, Shape *stats) {
  *stats = (Shape){3, {a->batch, a->heads, a->queries}};
  *y = node_int(n, "y_rows", 0) ? (Shape){3, {a->batch, a->queries, a->heads * a->value_size}}
                                : (Shape){4, {a->batch, a->heads, a->queries, a->value_size}};
}

static Status infer_attention(Graph *g, Node *n) {
  Shape y, stats;
  TRY(check(g, n));
  Attention a = attention_in(g, n);
  DType dtype = rule_in(g, n, 0)->dtype;
  result_shapes(n, &a, &y, &stats);
  rule_set(g, n, 0, dtype, y);
  rule_set(g, n, 1, dtype, stats);
  rule_set(g, n, 2, dtype, stats);
  return OK;
}

static Status infer_attention_grad(Graph *g, Node *n) {
  Shape y, stats;
  TRY(check(g, n));
  Attention a = attention_in(g, n);
  result_shapes(n, &a, &y, &stats);
  for (int i = ATTENTION_GRAD_Y; i <= ATTENTION_GRAD_DY; i++) {
    Shape wanted = i == ATTENTION_GRAD_Y || i == ATTENTION_GRAD_DY ? y : stats;
    if (!rule_has_in(n, i))
      return fail(E_MODEL, "input %d is missing", i);
    const Value *v = rule_in(g, n, i);
    if (!shape_equal(v->shape, wanted) || v->dtype != rule_in(g, n, 0)->dtype)
      return fail(E_SHAPE, "'%s' is %s %s, not %s %s", v->name, dtype_name(v->dtype), SHAPE_STR(v->shape),
                  dtype_name(rule_in(g, n, 0)->dtype), SHAPE_STR(wanted));
  }
  if (n->n_out != cotangent_of(n, 3))
    return fail(E_SHAPE, "%d outputs for %d inputs", n->n_out, cotangent_of(n, 3));
  for (int i = 0, at = 0; i < 3; i++)
    if (rule_has_in(n, i))
      rule_set(g, n, at++, rule_in(g, n, i)->dtype, rule_in(g, n, i)->shape);
  return OK;
}

static Status gradient_attention(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  bool masked = rule_has_in(n, ATTENTION_MASK);
  ValueId mask = masked ? n->in[ATTENTION_MASK] : NO_VALUE;
  ValueId counter = attention_drops(n) ? n->in[ATTENTION_COUNTER] : NO_VALUE;
  ValueId in[] = {n->in[0], n->in[1], n->in[2], n->out[0], n->out[1], n->out[2], d_out[0], mask, counter};
  int n_in = counter != NO_VALUE ? ATTENTION_GRAD_COUNTER + 1 : ATTENTION_GRAD_MASK + masked;
  NodeId id;
  TRY(rule_first_only(g, n, d_out));
  if (rule_wants(g, n, ATTENTION_MASK))
    return fail(E_UNSUPPORTED, "the mask '%s' is to be trained", rule_in(g, n, ATTENTION_MASK)->name);
  TRY(graph_add_node(g, OP_AttentionGrad, n->name, in, n_in, n->attrs, n->n_attrs, NULL, cotangent_of(n, 3), &id));
  for (int i = 0; i < 3; i++)
    if (rule_wants(g, n, i))
      d_in[i] = graph_node(g, id)->out[cotangent_of(n, i)];
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

ENTRY(Attention, 1, 5, 3, 3, OP_ATTENDS, infer_attention, gradient_attention, cost_attention, batch_attention)
ENTRY(AttentionGrad, 1, 9, 1, 3, OP_ATTENDS, infer_attention_grad, NULL, cost_attention_grad, NULL)
