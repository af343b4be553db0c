/* Layers of models that keep a state instead of all keys: linear attention, the causal convolution in front of it, and
 * the gates. Invariant: a layer over a whole sequence gives what its steps one by one would; the steps are taken in
 * chunks, each a few products, and the state goes from chunk to chunk. */
#include <math.h>
#include <string.h>

#include "onnx/lower/lower.h"

/* x sigmoid(alpha x) */
static Status swish_of(Op *op, Term *x, double alpha, Term **out) {
  Attr attr = attr_float("alpha", alpha);
  return op_emit(op, OP_Swish, &x, 1, &attr, 1, out, 1);
}

static Status swish(Op *op) {
  return swish_of(op, op->in[0], op_float(op, "alpha", 1), &op->out[0]);
}

static Status swiglu(Op *op) {
  Attr alpha = attr_float("alpha", op_float(op, "alpha", 1));
  if (!shape_equal(op->in[0]->shape, op->in[1]->shape))
    return fail(E_SHAPE, "the gate is %s, what it multiplies %s", SHAPE_STR(op->in[0]->shape),
                SHAPE_STR(op->in[1]->shape));
  return op_emit(op, OP_SwiGLU, op->in, 2, &alpha, 1, &op->out[0], 1);
}

static Status causal_conv(Op *op) {
  Term *x = op->in[0], *w = op->in[1], *bias = op_in(op, 2), *past = op_in(op, 3), *y;
  Shape s = x->shape, before = s;
  Attr each = attr_int("group", s.rank > 1 ? s.dim[1] : 0);
  const char *activation;
  TRY(op_string(op, "activation", "none", &activation));
  bool silu = strcmp(activation, "silu") == 0 || strcmp(activation, "swish") == 0;
  if (!silu && strcmp(activation, "none") != 0)
    return fail(E_UNSUPPORTED, "activation is '%s'", activation);
  if (s.rank != 3 || w->shape.rank != 3 || w->shape.dim[0] != s.dim[1] || w->shape.dim[1] != 1 || w->shape.dim[2] < 1)
    return fail(E_SHAPE, "input %s, weight %s", SHAPE_STR(s), SHAPE_STR(w->shape));
  before.dim[2] = w->shape.dim[2] - 1;
  if (past->kind == TERM_ABSENT) {
    TRY(op_scalar(op, x, 0, &past));
    TRY(op_expand(op, past, before, &past));
  }
  if (!shape_equal(past->shape, before))
    return fail(E_SHAPE, "past_state is %s, not %s", SHAPE_STR(past->shape), SHAPE_STR(before));
  TRY(op_concat(op, (Term *[]){past, x}, 2, 2, &x));
  if (op_wants(op, 1))
    TRY(op_slice(op, x, 2, s.dim[2], s.dim[2] + before.dim[2], &op->out[1]));
  TRY(op_emit(op, OP_Conv, (Term *[]){x, w}, 2, &each, 1, &y, 1));
  TRY(op_add_bias(op, y, bias, op->n_in > 2 ? op->proto->input[2] : "", &y));
  return silu ? swish_of(op, y, 1, &op->out[0]) : (op->out[0] = y, OK);
}

/* ---- LinearAttention: S = exp(g) S + k (x) u, o = scale Sᵀ q, with u = v, or u = beta (v - exp(g) Sᵀ k) ---- */

/* Steps of a chunk. What the delta rule solves for is exact in few, and so is a decay of its own for each part of a
 * key; otherwise the sum of many decays keeps enough digits. */
enum { FEW_STEPS = 8, MANY_STEPS = 64 };

/* Of a chunk: [batch, heads, steps, size], heads of keys; `each`: heads of queries for one of them, which stand
 * together. decay and beta: NULL where the rule has none. */
typedef struct {
  Op *op;
  int64_t batch, heads, each, steps, key, value;
  Term *q, *k, *v, *decay, *beta; /* decay: [.., key or 1], summed from the chunk's beginning; beta [.., 1] */
  double scale;
} Chunk;

static Shape shape5(const Chunk *c, int64_t a, int64_t b, int64_t d) {
  return (Shape){5, {c->batch, c->heads, a, b, d}};
}

/* exp(g_t - g_s) where t is behind s (or is s, unless `strictly`), 0 elsewhere: [.., steps, steps, key or 1]. */
static Status decay_between(const Chunk *c, bool strictly, Term **out) {
  Op *op = c->op;
  int64_t n = c->steps, size = c->decay ? c->decay->shape.dim[3] : 1;
  Term *step, *other, *behind, *minus, *later, *sooner;
  TRY(op_iota(op, n, &step));
  TRY(op_reshape(op, step, (Shape){3, {n, 1, 1}}, &other));
  TRY(op_reshape(op, step, (Shape){2, {n, 1}}, &step));
  TRY(op_emit2(op, strictly ? OP_Greater : OP_GreaterOrEqual, other, step, &behind));
  if (!c->decay)
    return op_cast(op, behind, c->q->dtype, out);
  TRY(op_reshape(op, c->decay, shape5(c, n, 1, size), &later));
  TRY(op_reshape(op, c->decay, shape5(c, 1, n, size), &sooner));
  TRY(op_emit2(op, OP_Sub, later, sooner, &later));
  TRY(op_scalar(op, later, -INFINITY, &minus));
  TRY(op_where(op, behind, later, minus, &later));
  return op_emit1(op, OP_Exp, later, out);
}

/* x_t · k_s, decayed from s to t: x [batch, heads, each steps, key] gives [.., each steps, steps]. */
static Status decayed_products(const Chunk *c, Term *x, int64_t each, bool strictly, Term **out) {
  Op *op = c->op;
  int64_t n = c->steps;
  Shape rows = {4, {c->batch, c->heads, each * n, n}}, wide = {5, {c->batch, c->heads, each, n, n}};
  Term *decay, *keys;
  TRY(decay_between(c, strictly, &decay));
  if (c->decay && c->decay->shape.dim[3] != 1) { /* every part of a key by itself */
    int64_t last = 5;
    TRY(op_reshape(op, decay, (Shape){6, {c->batch, c->heads, 1, n, n, c->key}}, &decay));
    TRY(op_reshape(op, c->k, (Shape){6, {c->batch, c->heads, 1, 1, n, c->key}}, &keys));
    TRY(op_reshape(op, x, (Shape){6, {c->batch, c->heads, each, n, 1, c->key}}, &x));
    TRY(op_emit2(op, OP_Mul, decay, keys, &keys));
    TRY(op_emit2(op, OP_Mul, x, keys, &x));
    TRY(op_reduce(op, OP_ReduceSum, x, &last, 1, false, &x));
    return op_reshape(op, x, rows, out);
  }
  if (c->decay)
    TRY(op_reshape(op, decay, (Shape){5, {c->batch, c->heads, 1, n, n}}, &decay));
  else
    TRY(op_reshape(op, decay, (Shape){2, {n, n}}, &decay));
  TRY(op_matmul(op, x, false, c->k, true, &x));
  TRY(op_reshape(op, x, wide, &x));
  TRY(op_emit2(op, OP_Mul, x, decay, &x));
  return op_reshape(op, x, rows, out);
}

/* What the state says of x, decayed since the chunk's beginning: [batch, heads, each steps, value]. */
static Status recall(const Chunk *c, Term *x, int64_t each, Term *state, Term **out) {
  Op *op = c->op;
  Shape rows = x->shape;
  if (c->decay) {
    Term *decay;
    TRY(op_emit1(op, OP_Exp, c->decay, &decay));
    TRY(op_reshape(op, decay, shape5(c, 1, c->steps, decay->shape.dim[3]), &decay));
    TRY(op_reshape(op, x, shape5(c, each, c->steps, c->key), &x));
    TRY(op_emit2(op, OP_Mul, x, decay, &x));
    TRY(op_reshape(op, x, rows, &x));
  }
  return op_matmul(op, x, false, state, false, out);
}

/* (I + A)⁻¹ x of a strictly lower triangular A [steps, steps], whose powers end: (I - A) (I + A²) (I + A⁴) … x. */
static Status solve(const Chunk *c, Term *a, Term *x, Term **out) {
  Term *part;
  TRY(op_matmul(c->op, a, false, x, false, &part));
  TRY(op_emit2(c->op, OP_Sub, x, part, &x));
  for (int64_t power = 2; power < c->steps; power *= 2) {
    TRY(op_matmul(c->op, a, false, a, false, &a));
    TRY(op_matmul(c->op, a, false, x, false, &part));
    TRY(op_emit2(c->op, OP_Add, x, part, &x));
  }
  *out = x;
  return OK;
}

/* What each step writes, u [batch, heads, steps, value]. */
static Status writes(const Chunk *c, Term *state, Term **out) {
  Op *op = c->op;
  Term *known, *among;
  *out = c->v;
  if (!c->beta)
    return OK;
  if (state) {
    TRY(recall(c, c->k, 1, state, &known));
    TRY(op_emit2(op, OP_Sub, c->v, known, out));
  }
  TRY(op_emit2(op, OP_Mul, *out, c->beta, out));
  TRY(decayed_products(c, c->k, 1, true, &among));
  TRY(op_emit2(op, OP_Mul, among, c->beta, &among));
  return solve(c, among, *out, out);
}

/* The state behind the chunk. */
static Status next_state(const Chunk *c, Term *u, Term **state) {
  static const int64_t perm[] = {0, 1, 3, 2};
  Op *op = c->op;
  Term *k = c->k, *all, *rest, *fresh;
  if (c->decay) {
    TRY(op_slice(op, c->decay, 2, c->steps - 1, c->steps, &all));
    TRY(op_emit2(op, OP_Sub, all, c->decay, &rest));
    TRY(op_emit1(op, OP_Exp, rest, &rest));
    TRY(op_emit2(op, OP_Mul, k, rest, &k));
    if (*state) {
      TRY(op_emit1(op, OP_Exp, all, &all));
      TRY(op_transpose(op, all, perm, &all));
      TRY(op_emit2(op, OP_Mul, *state, all, state));
    }
  }
  TRY(op_matmul(op, k, true, u, false, &fresh));
  return *state ? op_emit2(op, OP_Add, *state, fresh, state) : (*state = fresh, OK);
}

static Status take_chunk(Chunk *c, Term **state, Term **out) {
  Op *op = c->op;
  Term *u, *before;
  Attr attrs[] = {attr_int("axis", 2), attr_int("exclusive", 0), attr_int("reverse", 0)};
  if (c->decay)
    TRY(op_emit(op, OP_CumSum, &c->decay, 1, attrs, 3, &c->decay, 1));
  TRY(op_reshape(op, c->q, (Shape){4, {c->batch, c->heads, c->each * c->steps, c->key}}, &c->q));
  TRY(writes(c, *state, &u));
  TRY(decayed_products(c, c->q, c->each, false, out));
  TRY(op_matmul(op, *out, false, u, false, out));
  if (*state) {
    TRY(recall(c, c->q, c->each, *state, &before));
    TRY(op_emit2(op, OP_Add, before, *out, out));
  }
  TRY(op_with_number(op, OP_Mul, *out, c->scale, out));
  TRY(op_reshape(op, *out, (Shape){4, {c->batch, c->heads * c->each, c->steps, c->value}}, out));
  return next_state(c, u, state);
}

/* Input i, [batch, steps, n], as [batch, heads, steps, n / heads]: of `size`, or of 1, or for all heads alike. */
static Status unpack(Op *op, const Chunk *c, int i, int64_t heads, bool alike, int64_t size, Term **out) {
  Shape s = op_in(op, i)->shape;
  int64_t n = s.rank == 3 ? s.dim[2] : 0;
  if (s.rank != 3 || s.dim[0] != c->batch || s.dim[1] != c->steps ||
      (n != heads * size && n != heads && !(alike && n == 1)))
    return fail(E_SHAPE, "input %d is %s, for %lld heads", i, SHAPE_STR(s), (long long)heads);
  return op_split_heads(op, op_in(op, i), n == 1 ? 1 : heads, out);
}

static Status read_layer(Op *op, Chunk *c) {
  const char *rule;
  int64_t heads = op_int(op, "q_num_heads", 0);
  Shape q = op->in[0]->shape, v = op->in[2]->shape;
  TRY(op_string(op, "update_rule", "gated_delta", &rule));
  bool gated = strncmp(rule, "gated", 5) == 0, delta = strcmp(gated ? rule + 5 : rule, gated ? "_delta" : "delta") == 0;
  if (!delta && strcmp(rule, "gated") != 0 && strcmp(rule, "linear") != 0)
    return fail(E_UNSUPPORTED, "update_rule is '%s'", rule);
  if (gated != op_has(op, 4) || delta != op_has(op, 5))
    return fail(E_MODEL, "update_rule '%s' with%s decay and with%s beta", rule, op_has(op, 4) ? "" : "out",
                op_has(op, 5) ? "" : "out");
  c->heads = op_int(op, "kv_num_heads", 0);
  if (q.rank != 3 || v.rank != 3 || heads < 1 || c->heads < 1 || heads % c->heads || q.dim[2] % heads ||
      v.dim[2] % c->heads || q.dim[1] < 1)
    return fail(E_SHAPE, "queries %s, values %s, %lld and %lld heads", SHAPE_STR(q), SHAPE_STR(v), (long long)heads,
                (long long)c->heads);
  c->batch = q.dim[0], c->steps = q.dim[1], c->each = heads / c->heads;
  c->key = q.dim[2] / heads, c->value = v.dim[2] / c->heads;
  c->scale = op_float(op, "scale", 0);
  c->scale = c->scale != 0 ? c->scale : 1 / sqrt((double)c->key);
  TRY(op_split_heads(op, op->in[0], heads, &c->q));
  TRY(unpack(op, c, 1, c->heads, false, c->key, &c->k));
  TRY(unpack(op, c, 2, c->heads, false, c->value, &c->v));
  if (gated)
    TRY(unpack(op, c, 4, c->heads, false, c->key, &c->decay));
  return delta ? unpack(op, c, 5, c->heads, true, 1, &c->beta) : OK;
}

/* A part of the steps for each chunk; NULL stays. */
static Status cut(Op *op, Term *x, const int64_t *sizes, int n, Term ***parts) {
  TRY(ARENA_NEW(op->lower->arena, *parts, n));
  return x ? op_split(op, x, 2, sizes, n, *parts) : OK;
}

static Status linear_attention(Op *op) {
  Chunk c = {.op = op};
  Term **q, **k, **v, **decay, **beta, **out, *state = NULL, *past = op_in(op, 3);
  int64_t *sizes;
  TRY(read_layer(op, &c));
  Shape kept = {4, {c.batch, c.heads, c.key, c.value}};
  if (past->kind == TERM_TENSOR && !shape_equal(past->shape, kept))
    return fail(E_SHAPE, "past_state is %s, not %s", SHAPE_STR(past->shape), SHAPE_STR(kept));
  if (past->kind == TERM_TENSOR)
    TRY(op_cast(op, past, c.q->dtype, &state));
  int64_t most = c.beta || (c.decay && c.decay->shape.dim[3] != 1) ? FEW_STEPS : MANY_STEPS, steps = c.steps;
  if (steps > (int64_t)MANY_STEPS << 16)
    return fail(E_LIMIT, "%lld steps", (long long)steps);
  int n = (int)((steps + most - 1) / most);
  TRY(ARENA_NEW(op->lower->arena, sizes, n));
  for (int i = 0; i < n; i++)
    sizes[i] = i < n - 1 ? most : steps - (n - 1) * most;
  TRY(cut(op, c.q, sizes, n, &q));
  TRY(cut(op, c.k, sizes, n, &k));
  TRY(cut(op, c.v, sizes, n, &v));
  TRY(cut(op, c.decay, sizes, n, &decay));
  TRY(cut(op, c.beta, sizes, n, &beta));
  TRY(ARENA_NEW(op->lower->arena, out, n));
  for (int i = 0; i < n; i++) {
    c.steps = sizes[i];
    c.q = q[i], c.k = k[i], c.v = v[i], c.decay = decay[i], c.beta = beta[i];
    TRY(take_chunk(&c, &state, &out[i]));
  }
  if (op_wants(op, 1))
    TRY(op_cast(op, state, past->kind == TERM_TENSOR ? past->dtype : c.q->dtype, &op->out[1]));
  TRY(op_concat(op, out, n, 2, &op->out[0]));
  return op_join_heads(op, op->out[0], &op->out[0]);
}

const Lowering lowerings_linear_attention[] = {
    {"Swish", 24, OPSET_LAST, 1, 1, 1, swish, "alpha:f"},
    {"SwiGLU", 28, OPSET_LAST, 2, 2, 1, swiglu, "alpha:f"},
    {"CausalConvWithState", 27, OPSET_LAST, 2, 4, 2, causal_conv, "activation:s"},
    {"LinearAttention", 27, OPSET_LAST, 3, 6, 2, linear_attention,
     "chunk_size:i kv_num_heads:i! q_num_heads:i! scale:f update_rule:s"},
    {0},
};
