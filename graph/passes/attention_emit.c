/* What stands for attention that was found: its masks in one, and the nodes around it. */
#include <math.h>

#include "graph/ops/rule.h"
#include "graph/passes/attention.h"

enum { MOST_DROP_ATTRS = 8 };

/* Whether a constant mask lets an element pass; *clear: it says nothing else. */
static bool passes(const FoundMask *m, const Value *v, int64_t i, bool *clear) {
  if (v->dtype == BOOL)
    return (((const uint8_t *)v->data)[i] != 0) == (m->kind == MASK_ALLOWED);
  double x = v->dtype == F32 ? (double)((const float *)v->data)[i] : ((const double *)v->data)[i];
  x = m->kind == MASK_SUBTRACTED ? -x : x;
  *clear &= x == 0 || x <= ATTENTION_BLOCKED;
  return x == 0;
}

/* The keys first … last that the mask shows to query t, without a gap. */
static bool read_row(const FoundMask *m, const Value *v, int64_t row, int64_t keys, int64_t *first, int64_t *last) {
  int64_t own = v->shape.rank ? v->shape.dim[v->shape.rank - 1] : 1, seen = 0;
  bool clear = true;
  for (int64_t j = 0; j < keys && clear; j++)
    if (passes(m, v, row * own + (own == 1 ? 0 : j), &clear)) {
      *first = seen++ ? *first : j;
      *last = j;
    }
  return clear && seen && seen == *last - *first + 1;
}

static bool same_bound(int64_t *bound, int64_t found) {
  bool same = *bound == INT64_MAX || *bound == found;
  *bound = found;
  return same;
}

/* The mask as bounds: query t sees t - left … t + right, as far as there are such keys, and at least one. */
static bool read_bounds(const Graph *g, const FoundMask *m, Shape scores, int64_t *left, int64_t *right) {
  const Value *v = graph_value(g, m->value);
  int64_t T = scores.dim[2], S = scores.dim[3], first, last, rank = v->shape.rank;
  int64_t lines = rank > 1 ? v->shape.dim[rank - 2] : 1;
  if (!v->data || shape_elements(v->shape) != lines * (rank ? v->shape.dim[rank - 1] : 1))
    return false;
  *left = *right = INT64_MAX;
  for (int64_t t = 0; t < T; t++)
    if (!read_row(m, v, lines == 1 ? 0 : t, S, &first, &last) || (last < S - 1 && !same_bound(right, last - t)) ||
        (first > 0 && !same_bound(left, t - first)))
      return false;
  for (int64_t t = 0; t < T; t++) {
    read_row(m, v, lines == 1 ? 0 : t, S, &first, &last);
    if (last != (*right == INT64_MAX || t + *right > S - 1 ? S - 1 : t + *right) ||
        first != (*left == INT64_MAX || t < *left ? 0 : t - *left))
      return false;
  }
  return true;
}

void attention_read_masks(const Graph *g, AttentionFound *found, MaskRead *last) {
  int n = 0;
  for (int i = 0; i < found->n_masks; i++) {
    const FoundMask *m = &found->mask[i];
    if (last->value != m->value || last->kind != m->kind || !shape_equal(last->scores, found->scores)) {
      *last = (MaskRead){.value = m->value, .kind = m->kind, .scores = found->scores};
      last->bounds = read_bounds(g, m, found->scores, &last->left, &last->right);
    }
    if (!last->bounds) {
      found->mask[n++] = *m;
      continue;
    }
    found->left = last->left < found->left ? last->left : found->left;
    found->right = last->right < found->right ? last->right : found->right;
  }
  found->n_masks = n;
}

/* A mask of three axes at scores [N,T,S], N = B·Hq, as one of four. */
static Status emit_four(Graph *g, const AttentionFound *found, const FoundMask *m, ValueId mask, ValueId *out) {
  Shape s = graph_value(g, mask)->shape, all = found->scores;
  *out = mask;
  if (m->level.rank != 3 || s.rank != 3)
    return OK;
  bool one = s.dim[0] == 1;
  return emit_reshape(g, mask, (Shape){4, {one ? 1 : all.dim[0], one ? 1 : all.dim[1], s.dim[1], s.dim[2]}}, out);
}

/* Joins a further mask to those of its kind. */
static Status join(Graph *g, OpKind op, ValueId *all, ValueId mask) {
  if (*all != NO_VALUE)
    return emit2(g, op, *all, mask, all);
  *all = mask;
  return OK;
}

/* The masks as one: what is seen, or what is added. */
static Status emit_masks(Graph *g, const AttentionFound *found, ValueId like, const ValueId *in, ValueId *out) {
  ValueId seen = NO_VALUE, added = NO_VALUE;
  for (int i = 0; i < found->n_masks; i++) {
    const FoundMask *m = &found->mask[i];
    bool is_bool = m->kind == MASK_ALLOWED || m->kind == MASK_FORBIDDEN;
    ValueId mask, nothing, fill;
    TRY(emit_four(g, found, m, in[i], &mask));
    if (is_bool && m->fill == -INFINITY) {
      if (m->kind == MASK_FORBIDDEN)
        TRY(emit1(g, OP_Not, mask, &mask));
      TRY(join(g, OP_And, &seen, mask));
      continue;
    }
    if (m->kind == MASK_SUBTRACTED)
      TRY(emit1(g, OP_Neg, mask, &mask));
    if (is_bool) { /* a row of which all is filled weighs all alike */
      TRY(emit_scalar(g, like, 0, &nothing));
      TRY(emit_scalar(g, like, m->fill, &fill));
      bool allowed = m->kind == MASK_ALLOWED;
      TRY(emit_where(g, mask, allowed ? nothing : fill, allowed ? fill : nothing, &mask));
    }
    TRY(join(g, OP_Add, &added, mask));
  }
  *out = seen != NO_VALUE ? seen : added;
  if (seen == NO_VALUE || added == NO_VALUE)
    return OK;
  ValueId minus;
  TRY(emit_scalar(g, like, -INFINITY, &minus));
  return emit_where(g, seen, added, minus, out);
}

static Status emit_operand(Graph *g, const AttentionFound *found, int i, ValueId in, ValueId *out) {
  *out = in;
  if (found->n_perm[i])
    TRY(emit_transpose(g, in, found->perm[i], found->n_perm[i], out));
  return emit_reshape(g, *out, found->shape[i], out);
}

/* in: what Q, K, V are made of; the masks; the condition of rows that give 0; the counter. */
static Status emit_attention(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  const AttentionFound *found = (const AttentionFound *)instead;
  ValueId to[5], y, zero;
  NodeId id;
  Attr attrs[3 + MOST_DROP_ATTRS] = {attr_float("scale", found->scale)};
  int n_attrs = 1;
  if (found->left != INT64_MAX)
    attrs[n_attrs++] = attr_int("left", found->left);
  if (found->right != INT64_MAX)
    attrs[n_attrs++] = attr_int("right", found->right);
  for (int i = 0; i < 3; i++)
    TRY(emit_operand(g, found, i, in[i], &to[i]));
  TRY(emit_masks(g, found, in[0], in + 3, &to[3]));
  for (int i = 0; found->drop && i < found->drop->n_attrs; i++)
    attrs[n_attrs++] = found->drop->attrs[i];
  if (found->drop)
    attrs[n_attrs++] = attr_int("drawn", found->scores.dim[3]);
  to[4] = found->drop ? in[instead->n_in - 1] : NO_VALUE;
  TRY(graph_add_node(g, OP_Attention, "", to,
                     found->drop         ? 5
                     : to[3] == NO_VALUE ? 3
                                         : 4,
                     attrs, n_attrs, NULL, 3, &id));
  y = graph_node(g, id)->out[0];
  if (found->blind != NO_VALUE) {
    TRY(emit_scalar(g, y, 0, &zero));
    TRY(emit_where(g, in[3 + found->n_masks], zero, y, &y));
  }
  return emit_reshape(g, y, found->result, out);
}

Status attention_instead(const Graph *g, AttentionFound *found) {
  ValueId in[3 + MOST_MASKS + 2];
  int n = 0;
  for (; n < 3; n++)
    in[n] = found->in[n];
  for (int i = 0; i < found->n_masks; i++)
    in[n++] = found->mask[i].value;
  if (found->blind != NO_VALUE)
    in[n++] = found->blind;
  if (found->drop)
    in[n++] = found->drop->in[1];
  found->instead = (Instead){.n_in = n, .emit = emit_attention};
  found->instead.in = arena_copy(g->arena, in, (size_t)n * sizeof *in);
  return found->instead.in ? OK : status_code();
}
