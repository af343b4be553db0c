/* Attention and rotary positions as ONNX 23 to 28 have them, in elementary operators. Invariant: heads are an axis of
 * their own, [batch, heads, length, size], between the first and the last step of a lowering. */
#include <math.h>
#include <string.h>

#include "onnx/lower/lower.h"

Status op_split_heads(Op *op, Term *x, int64_t heads, Term **out) {
  static const int64_t perm[] = {0, 2, 1, 3};
  Shape s = x->shape;
  if (s.rank == 4)
    return *out = x, OK;
  if (s.rank != 3 || heads < 1 || s.dim[2] % heads)
    return fail(E_SHAPE, "%lld heads in %s", (long long)heads, SHAPE_STR(s));
  TRY(op_reshape(op, x, (Shape){4, {s.dim[0], s.dim[1], heads, s.dim[2] / heads}}, &x));
  return op_transpose(op, x, perm, out);
}

Status op_join_heads(Op *op, Term *x, Term **out) {
  static const int64_t perm[] = {0, 2, 1, 3};
  Shape s = x->shape;
  TRY(op_transpose(op, x, perm, &x));
  return op_reshape(op, x, (Shape){3, {s.dim[0], s.dim[2], s.dim[1] * s.dim[3]}}, out);
}

/* What is attended to what. */
typedef struct {
  Op *op;
  int64_t batch, heads,
      groups; /* of queries; of keys and values, each for as many heads of queries that stand together */
  int64_t queries, keys, past; /* how many; past: of the keys, those that come before the first query */
  Term *lengths;               /* of each sample's keys, [batch,1,1,1]; NULL: all count */
  Term *allowed;               /* what positions allow; NULL: everything */
  Term *mask;                  /* as it is given, but for all keys; NULL: none */
} Attention;

/* A further condition. */
static Status restrict_to(Attention *a, Term *condition) {
  if (!a->allowed)
    return a->allowed = condition, OK;
  return op_emit2(a->op, OP_And, a->allowed, condition, &a->allowed);
}

/* Where queries and keys stand, [queries,1] (of each sample where samples have lengths of their own: the last query is
 * its last key) and [keys]. */
static Status find_positions(Attention *a, Term **query, Term **key) {
  Op *op = a->op;
  TRY(op_iota(op, a->keys, key));
  TRY(op_iota(op, a->queries, query));
  TRY(op_reshape(op, *query, (Shape){2, {a->queries, 1}}, query));
  if (!a->lengths)
    return op_with_number(op, OP_Add, *query, (double)a->past, query);
  TRY(op_with_number(op, OP_Sub, *query, (double)a->queries, query));
  return op_emit2(op, OP_Add, a->lengths, *query, query);
}

static Status find_allowed(Attention *a) {
  Op *op = a->op;
  int64_t left = op_int(op, "left_window_size", -1), right = op_int(op, "right_window_size", -1);
  bool causal = op_int(op, "is_causal", 0);
  Term *query, *key, *bound, *near;
  if (left < -1 || right < -1)
    return fail(E_MODEL, "a window of %lld and %lld", (long long)left, (long long)right);
  if (!causal && left < 0 && right < 0 && !a->lengths)
    return OK;
  TRY(find_positions(a, &query, &key));
  if (causal) {
    TRY(op_emit2(op, OP_LessOrEqual, key, query, &near));
    TRY(restrict_to(a, near));
  }
  if (left >= 0) {
    TRY(op_with_number(op, OP_Sub, query, (double)left, &bound));
    TRY(op_emit2(op, OP_GreaterOrEqual, key, bound, &near));
    TRY(restrict_to(a, near));
  }
  if (right >= 0) {
    TRY(op_with_number(op, OP_Add, query, (double)right, &bound));
    TRY(op_emit2(op, OP_LessOrEqual, key, bound, &near));
    TRY(restrict_to(a, near));
  }
  if (!a->lengths)
    return OK;
  TRY(op_emit2(op, OP_Less, key, a->lengths, &near));
  return restrict_to(a, near);
}

/* The mask forbids the keys that it does not reach. Before opset 24 one column of it is for all. */
static Status find_mask(Attention *a) {
  Op *op = a->op;
  Term *mask = op_in(op, 3), *none, *parts[2];
  Shape s = mask->shape, rest = s, both, scores = {4, {a->batch, a->heads, a->queries, a->keys}};
  if (mask->kind != TERM_TENSOR)
    return OK;
  if (s.rank && s.dim[s.rank - 1] < a->keys && (s.dim[s.rank - 1] != 1 || op->lowering->from > 23)) {
    rest.dim[s.rank - 1] = a->keys - s.dim[s.rank - 1];
    TRY(op_scalar(op, mask, mask->dtype == BOOL ? 0 : -INFINITY, &none));
    TRY(op_expand(op, none, rest, &none));
    parts[0] = mask, parts[1] = none;
    TRY(op_concat(op, parts, 2, s.rank - 1, &mask));
  }
  if (!shape_broadcast(mask->shape, scores, &both) || !shape_equal(both, scores))
    return fail(E_SHAPE, "the mask is %s, the scores are %s", SHAPE_STR(s), SHAPE_STR(scores));
  a->mask = mask;
  return OK;
}

/* a where allowed, minus infinity elsewhere. */
static Status forbid(Op *op, Term *x, Term *allowed, Term **out) {
  Term *minus;
  TRY(op_scalar(op, op->in[0], -INFINITY, &minus));
  return op_where(op, allowed, x, minus, out);
}

/* Which queries see no key at all, [.., queries, 1]; NULL where it is known that there is none. */
static Status blind_queries(Attention *a, Term **blind) {
  Op *op = a->op;
  Term *bias = a->mask, *minus;
  bool windows = op_int(op, "left_window_size", -1) >= 0 || op_int(op, "right_window_size", -1) >= 0;
  *blind = NULL;
  if (!bias && !windows && !a->lengths)
    return OK; /* a query sees the first key at least */
  TRY(op_scalar(op, op->in[0], -INFINITY, &minus));
  if (!bias || bias->dtype == BOOL) {
    TRY(op_scalar(op, op->in[0], 0, &bias));
    if (a->mask)
      TRY(forbid(op, bias, a->mask, &bias));
  }
  if (a->allowed)
    TRY(forbid(op, bias, a->allowed, &bias));
  if (bias->shape.rank == 0)
    TRY(op_reshape(op, bias, (Shape){1, {1}}, &bias));
  int64_t last = bias->shape.rank - 1;
  TRY(op_reduce(op, OP_ReduceMax, bias, &last, 1, true, &bias));
  TRY(op_emit2(op, OP_Equal, bias, minus, &bias));
  bool known, any = false;
  TRY(term_known(op->lower, bias, &known));
  for (int64_t i = 0; known && i < shape_elements(bias->constant->stored); i++)
    any |= ((const uint8_t *)bias->constant->data)[i] != 0;
  if (!known || any)
    *blind = bias;
  return OK;
}

/* Output 3 is what the scores are after step `mode`. */
static void show(Op *op, int64_t mode, Term *scores) {
  if (op_wants(op, 3) && op_int(op, "qk_matmul_output_mode", 0) == mode)
    op->out[3] = scores;
}

/* Softmax over the keys; 0 for a query that sees none. It is as exact as asked for, and no less than its input: what
 * narrower types would round stays. */
static Status attention_weights(Attention *a, Term *scores, Term **out) {
  Op *op = a->op;
  Attr axis = attr_int("axis", 3);
  Term *blind, *zero;
  int64_t asked = op_int(op, "softmax_precision", 0);
  DType own = scores->dtype, type = asked ? dtype_from_onnx((int32_t)asked) : own;
  if (asked && !dtype_is_float(type))
    return fail(E_UNSUPPORTED, "softmax_precision is %lld", (long long)asked);
  TRY(blind_queries(a, &blind));
  TRY(op_cast(op, scores, type == F64 ? F64 : own, &scores));
  TRY(op_emit(op, OP_Softmax, &scores, 1, &axis, 1, out, 1));
  TRY(op_cast(op, *out, own, out));
  if (!blind)
    return OK;
  TRY(op_scalar(op, *out, 0, &zero));
  return op_where(op, blind, zero, *out, out);
}

/* Heads of queries that share keys stand side by side: one product for all of them. */
static Status regroup(Attention *a, Term *x, bool together, Term **out) {
  int64_t size = x->shape.dim[3], each = a->heads / a->groups;
  if (each == 1)
    return *out = x, OK;
  Shape s = {4, {a->batch, together ? a->groups : a->heads, together ? each * a->queries : a->queries, size}};
  return op_reshape(a->op, x, s, out);
}

static Status attention_scores(Attention *a, Term *q, Term *k, Term **out) {
  Op *op = a->op;
  double scale = op_float(op, "scale", 1 / sqrt((double)q->shape.dim[3])), cap = op_float(op, "softcap", 0);
  Term *scores;
  TRY(regroup(a, q, true, &q));
  TRY(op_matmul(op, q, false, k, true, &scores));
  TRY(regroup(a, scores, false, &scores));
  TRY(op_with_number(op, OP_Mul, scores, scale, &scores));
  show(op, 0, scores);
  if (cap > 0) {
    TRY(op_with_number(op, OP_Div, scores, cap, &scores));
    TRY(op_emit1(op, OP_Tanh, scores, &scores));
    TRY(op_with_number(op, OP_Mul, scores, cap, &scores));
  }
  show(op, 1, scores);
  if (a->allowed)
    TRY(forbid(op, scores, a->allowed, &scores));
  if (a->mask && a->mask->dtype == BOOL)
    TRY(forbid(op, scores, a->mask, &scores));
  else if (a->mask)
    TRY(op_emit2(op, OP_Add, scores, a->mask, &scores));
  show(op, 2, scores);
  *out = scores;
  return OK;
}

/* Keys or values behind those of the past; output `present` has them all. */
static Status behind_past(Op *op, int past, int present, Term **x) {
  if (op_has(op, past))
    TRY(op_concat(op, (Term *[]){op_in(op, past), *x}, 2, 2, x));
  if (op_wants(op, present))
    op->out[present] = *x;
  return OK;
}

static Status key_lengths(Attention *a) {
  Term *lengths = op_in(a->op, 6);
  if (lengths->kind == TERM_ABSENT)
    return OK;
  if (lengths->shape.rank != 1 || lengths->shape.dim[0] != a->batch || op_has(a->op, 4))
    return fail(E_MODEL, "nonpad_kv_seqlen %s for %lld samples%s", SHAPE_STR(lengths->shape), (long long)a->batch,
                op_has(a->op, 4) ? ", beside keys of the past" : "");
  TRY(op_cast(a->op, lengths, I64, &lengths));
  return op_reshape(a->op, lengths, (Shape){4, {a->batch, 1, 1, 1}}, &a->lengths);
}

static bool fit(const Shape *q, const Shape *k, const Shape *v) {
  return q->rank == 4 && k->rank == 4 && v->rank == 4 && k->dim[0] == q->dim[0] && v->dim[0] == q->dim[0] &&
         k->dim[1] >= 1 && v->dim[1] == k->dim[1] && q->dim[1] % k->dim[1] == 0 && v->dim[2] == k->dim[2];
}

static Status attention(Op *op) {
  Attention a = {.op = op};
  Term *q, *k, *v, *scores, *y;
  int64_t mode = op_int(op, "qk_matmul_output_mode", 0);
  if (op_has(op, 4) != op_has(op, 5) || mode < 0 || mode > 3)
    return fail(E_MODEL, "keys of the past without values, or qk_matmul_output_mode %lld", (long long)mode);
  TRY(op_split_heads(op, op->in[0], op_int(op, "q_num_heads", 0), &q));
  TRY(op_split_heads(op, op->in[1], op_int(op, "kv_num_heads", 0), &k));
  TRY(op_split_heads(op, op->in[2], op_int(op, "kv_num_heads", 0), &v));
  if (k->shape.rank == 4)
    a.past = op_has(op, 4) && op_in(op, 4)->shape.rank == 4 ? op_in(op, 4)->shape.dim[2] : 0;
  TRY(behind_past(op, 4, 1, &k));
  TRY(behind_past(op, 5, 2, &v));
  if (!fit(&q->shape, &k->shape, &v->shape))
    return fail(E_SHAPE, "queries %s, keys %s, values %s", SHAPE_STR(q->shape), SHAPE_STR(k->shape),
                SHAPE_STR(v->shape));
  a.batch = q->shape.dim[0], a.heads = q->shape.dim[1], a.groups = k->shape.dim[1];
  a.queries = q->shape.dim[2], a.keys = k->shape.dim[2];
  TRY(key_lengths(&a));
  TRY(find_allowed(&a));
  TRY(find_mask(&a));
  TRY(attention_scores(&a, q, k, &scores));
  TRY(attention_weights(&a, scores, &scores));
  show(op, 3, scores);
  TRY(regroup(&a, scores, true, &scores));
  TRY(op_matmul(op, scores, false, v, false, &y));
  TRY(regroup(&a, y, false, &y));
  return op->in[0]->shape.rank == 3 ? op_join_heads(op, y, &op->out[0]) : (op->out[0] = y, OK);
}

/* Rows of a table by position, [batch, 1, length, size]; without positions the table is [batch, length, size]. */
static Status rotary_table(Op *op, int i, Term **out) {
  Term *table = op_in(op, i), *positions = op_in(op, 3);
  Attr axis = attr_int("axis", 0);
  if (positions->kind == TERM_TENSOR)
    TRY(op_emit(op, OP_Gather, (Term *[]){table, positions}, 2, &axis, 1, &table, 1));
  Shape s = table->shape;
  if (s.rank != 3)
    return fail(E_SHAPE, "rows of positions are %s", SHAPE_STR(s));
  return op_reshape(op, table, (Shape){4, {s.dim[0], 1, s.dim[1], s.dim[2]}}, out);
}

/* The two halves of the last axis, or its even and odd elements. */
static Status rotary_halves(Op *op, Term *x, bool interleaved, Term *half[2]) {
  Shape s = x->shape;
  int64_t n = s.dim[3] / 2;
  for (int i = 0; i < 2; i++) {
    if (!interleaved) {
      TRY(op_slice(op, x, 3, i * n, (i + 1) * n, &half[i]));
      continue;
    }
    Term *pairs;
    TRY(op_reshape(op, x, (Shape){5, {s.dim[0], s.dim[1], s.dim[2], n, 2}}, &pairs));
    TRY(op_slice(op, pairs, 4, i, i + 1, &pairs));
    TRY(op_reshape(op, pairs, (Shape){4, {s.dim[0], s.dim[1], s.dim[2], n}}, &half[i]));
  }
  return OK;
}

static Status rotary_join(Op *op, Term *half[2], bool interleaved, Term **out) {
  Shape s = half[0]->shape;
  if (!interleaved)
    return op_concat(op, half, 2, 3, out);
  for (int i = 0; i < 2; i++)
    TRY(op_reshape(op, half[i], (Shape){5, {s.dim[0], s.dim[1], s.dim[2], s.dim[3], 1}}, &half[i]));
  TRY(op_concat(op, half, 2, 4, out));
  return op_reshape(op, *out, (Shape){4, {s.dim[0], s.dim[1], s.dim[2], 2 * s.dim[3]}}, out);
}

/* (a, b) to (a cos - b sin, a sin + b cos) */
static Status rotate(Op *op, Term *x, Term *cosine, Term *sine, bool interleaved, Term **out) {
  Term *half[2], *turned[2], *p, *q;
  TRY(rotary_halves(op, x, interleaved, half));
  TRY(op_emit2(op, OP_Mul, half[0], cosine, &p));
  TRY(op_emit2(op, OP_Mul, half[1], sine, &q));
  TRY(op_emit2(op, OP_Sub, p, q, &turned[0]));
  TRY(op_emit2(op, OP_Mul, half[0], sine, &p));
  TRY(op_emit2(op, OP_Mul, half[1], cosine, &q));
  TRY(op_emit2(op, OP_Add, p, q, &turned[1]));
  return rotary_join(op, turned, interleaved, out);
}

static Status rotary_embedding(Op *op) {
  Term *x, *cosine, *sine, *parts[2];
  bool interleaved = op_int(op, "interleaved", 0);
  TRY(op_split_heads(op, op->in[0], op_int(op, "num_heads", 0), &x));
  int64_t size = x->shape.rank == 4 ? x->shape.dim[3] : 0, turned = op_int(op, "rotary_embedding_dim", 0);
  turned = turned ? turned : size;
  if (turned < 2 || turned > size || turned % 2)
    return fail(E_SHAPE, "rotary_embedding_dim is %lld of heads of %lld", (long long)turned, (long long)size);
  TRY(rotary_table(op, 1, &cosine));
  TRY(rotary_table(op, 2, &sine));
  TRY(op_slice(op, cosine, 3, 0, turned / 2 < cosine->shape.dim[3] ? turned / 2 : cosine->shape.dim[3], &cosine));
  TRY(op_slice(op, sine, 3, 0, turned / 2 < sine->shape.dim[3] ? turned / 2 : sine->shape.dim[3], &sine));
  TRY(op_slice(op, x, 3, 0, turned, &parts[0]));
  TRY(rotate(op, parts[0], cosine, sine, interleaved, &parts[0]));
  if (turned < size) {
    TRY(op_slice(op, x, 3, turned, size, &parts[1]));
    TRY(op_concat(op, parts, 2, 3, &parts[0]));
  }
  return op->in[0]->shape.rank == 3 ? op_join_heads(op, parts[0], &op->out[0]) : (op->out[0] = parts[0], OK);
}

#define ATTENTION                                                                                                      \
  "is_causal:b kv_num_heads:i q_num_heads:i qk_matmul_output_mode:i scale:f softcap:f softmax_precision:d"

const Lowering lowerings_attention[] = {
    {"Attention", 23, 23, 3, 6, 4, attention, ATTENTION},
    {"Attention", 24, 24, 3, 7, 4, attention, ATTENTION},
    {"Attention", 25, OPSET_LAST, 3, 7, 4, attention, ATTENTION " left_window_size:i right_window_size:i"},
    {"RotaryEmbedding", 23, OPSET_LAST, 3, 4, 1, rotary_embedding, "interleaved:b num_heads:i rotary_embedding_dim:i"},
    {0},
};
