/* Attention and rotary positions as ONNX 23 has them, in elementary operators. Invariant: heads are an axis of their
 * own, [batch, heads, length, size], between the first and the last step of a lowering. */
#include <math.h>
#include <string.h>

#include "onnx/lower/lower.h"

/* [batch, length, heads size] to [batch, heads, length, size]; four axes stay. */
static Status split_heads(Op *op, Term *x, int64_t heads, Term **out) {
  static const int64_t perm[] = {0, 2, 1, 3};
  Shape s = x->shape;
  if (s.rank == 4)
    return *out = x, OK;
  if (s.rank != 3 || heads < 1 || s.dim[2] % heads)
    return fail(E_SHAPE, "%lld heads in %s", (long long)heads, SHAPE_STR(s));
  TRY(op_reshape(op, x, (Shape){4, {s.dim[0], s.dim[1], heads, s.dim[2] / heads}}, &x));
  return op_transpose(op, x, perm, out);
}

static Status join_heads(Op *op, Term *x, Term **out) {
  static const int64_t perm[] = {0, 2, 1, 3};
  Shape s = x->shape;
  TRY(op_transpose(op, x, perm, &x));
  return op_reshape(op, x, (Shape){3, {s.dim[0], s.dim[2], s.dim[1] * s.dim[3]}}, out);
}

/* Each head of x for `group` heads of the queries that stand together. */
static Status repeat_heads(Op *op, Term *x, int64_t group, Term **out) {
  Shape s = x->shape;
  if (group == 1)
    return *out = x, OK;
  TRY(op_reshape(op, x, (Shape){5, {s.dim[0], s.dim[1], 1, s.dim[2], s.dim[3]}}, &x));
  TRY(op_expand(op, x, (Shape){5, {s.dim[0], s.dim[1], group, s.dim[2], s.dim[3]}}, &x));
  return op_reshape(op, x, (Shape){4, {s.dim[0], s.dim[1] * group, s.dim[2], s.dim[3]}}, out);
}

/* scores where allowed, minus infinity elsewhere. */
static Status forbid(Op *op, Term *scores, Term *allowed, Term **out) {
  Term *minus;
  TRY(op_scalar(op, scores, -INFINITY, &minus));
  return op_where(op, allowed, scores, minus, out);
}

/* Query i sees keys 0 … i: [queries, keys]. */
static Status earlier(Op *op, Shape scores, Term **allowed) {
  Term *query, *key;
  TRY(op_iota(op, scores.dim[2], &query));
  TRY(op_iota(op, scores.dim[3], &key));
  TRY(op_reshape(op, query, (Shape){2, {scores.dim[2], 1}}, &query));
  return op_emit2(op, OP_LessOrEqual, key, query, allowed);
}

/* Which queries see no key at all, [.., queries, 1], by the mask; NULL where it is known that there is none. */
static Status blind_queries(Op *op, Shape scores, Term **blind) {
  Term *mask = op_in(op, 3), *allowed, *minus;
  int64_t last = mask->shape.rank - 1;
  *blind = NULL;
  if (mask->kind != TERM_TENSOR)
    return OK; /* a query sees the first key at least */
  if (last < 0) {
    last = 0;
    TRY(op_reshape(op, mask, (Shape){1, {1}}, &mask));
  }
  TRY(op_scalar(op, op->in[0], -INFINITY, &minus));
  if (mask->dtype == BOOL) {
    Term *zero;
    TRY(op_scalar(op, op->in[0], 0, &zero));
    TRY(op_where(op, mask, zero, minus, &mask));
  }
  if (op_int(op, "is_causal", 0)) {
    TRY(earlier(op, scores, &allowed));
    TRY(op_where(op, allowed, mask, minus, &mask));
    last = mask->shape.rank - 1;
  }
  TRY(op_reduce(op, OP_ReduceMax, mask, &last, 1, true, &mask));
  TRY(op_emit2(op, OP_Equal, mask, minus, &mask));
  bool known, any = false;
  TRY(term_known(op->lower, mask, &known));
  for (int64_t i = 0; known && i < shape_elements(mask->constant->stored); i++)
    any |= ((const uint8_t *)mask->constant->data)[i] != 0;
  if (!known || any)
    *blind = mask;
  return OK;
}

/* Softmax over the keys; 0 for a query that sees none. */
static Status attention_weights(Op *op, Term *scores, Term **out) {
  Attr axis = attr_int("axis", 3);
  Term *blind, *zero;
  TRY(blind_queries(op, scores->shape, &blind));
  TRY(op_emit(op, OP_Softmax, &scores, 1, &axis, 1, out, 1));
  if (!blind)
    return OK;
  TRY(op_scalar(op, *out, 0, &zero));
  return op_where(op, blind, zero, *out, out);
}

static Status attention_scores(Op *op, Term *q, Term *k, Term **out) {
  double scale = op_float(op, "scale", 1 / sqrt((double)q->shape.dim[3])), cap = op_float(op, "softcap", 0);
  Term *scores, *mask = op_in(op, 3);
  TRY(op_matmul(op, q, false, k, true, &scores));
  TRY(op_with_number(op, OP_Mul, scores, scale, &scores));
  if (cap > 0) {
    TRY(op_with_number(op, OP_Div, scores, cap, &scores));
    TRY(op_emit1(op, OP_Tanh, scores, &scores));
    TRY(op_with_number(op, OP_Mul, scores, cap, &scores));
  }
  if (op_int(op, "is_causal", 0)) {
    Term *allowed;
    TRY(earlier(op, scores->shape, &allowed));
    TRY(forbid(op, scores, allowed, &scores));
  }
  if (mask->kind == TERM_TENSOR && mask->dtype == BOOL)
    TRY(forbid(op, scores, mask, &scores));
  else if (mask->kind == TERM_TENSOR)
    TRY(op_emit2(op, OP_Add, scores, mask, &scores));
  *out = scores;
  return OK;
}

static Status attention(Op *op) {
  Term *q, *k, *v, *scores, *y;
  if (op_has(op, 4) || op_has(op, 5) || op_wants(op, 1) || op_wants(op, 2) || op_wants(op, 3))
    return fail(E_UNSUPPORTED, "keys and values of the past, or outputs but the first");
  int64_t precision = op_int(op, "softmax_precision", 0);
  if (precision && dtype_from_onnx((int32_t)precision) != op->in[0]->dtype)
    return fail(E_UNSUPPORTED, "softmax_precision is %lld", (long long)precision);
  TRY(split_heads(op, op->in[0], op_int(op, "q_num_heads", 0), &q));
  TRY(split_heads(op, op->in[1], op_int(op, "kv_num_heads", 0), &k));
  TRY(split_heads(op, op->in[2], op_int(op, "kv_num_heads", 0), &v));
  if (q->shape.rank != 4 || k->shape.rank != 4 || v->shape.rank != 4 || k->shape.dim[1] < 1 ||
      v->shape.dim[1] != k->shape.dim[1] || q->shape.dim[1] % k->shape.dim[1])
    return fail(E_SHAPE, "queries %s, keys %s, values %s", SHAPE_STR(q->shape), SHAPE_STR(k->shape),
                SHAPE_STR(v->shape));
  int64_t group = q->shape.dim[1] / k->shape.dim[1];
  TRY(repeat_heads(op, k, group, &k));
  TRY(repeat_heads(op, v, group, &v));
  TRY(attention_scores(op, q, k, &scores));
  TRY(attention_weights(op, scores, &scores));
  TRY(op_matmul(op, scores, false, v, false, &y));
  return op->in[0]->shape.rank == 3 ? join_heads(op, y, &op->out[0]) : (op->out[0] = y, OK);
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
  TRY(split_heads(op, op->in[0], op_int(op, "num_heads", 0), &x));
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
  return op->in[0]->shape.rank == 3 ? join_heads(op, parts[0], &op->out[0]) : (op->out[0] = parts[0], OK);
}

const Lowering lowerings_attention[] = {
    {"Attention", 23, OPSET_LAST, 3, 6, 4, attention,
     "is_causal:b kv_num_heads:i q_num_heads:i qk_matmul_output_mode:i scale:f softcap:f softmax_precision:d"},
    {"RotaryEmbedding", 23, OPSET_LAST, 3, 4, 1, rotary_embedding, "interleaved:b num_heads:i rotary_embedding_dim:i"},
    {0},
};
