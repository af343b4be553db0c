/* Where the samples lie after each operator. Invariant: an output is BATCH_AXIS only where every sample of it is the
 * same function of that sample of the inputs, whatever the number of samples; what is in doubt is mixed. */
#include <string.h>

#include "base/checked.h"
#include "graph/batch.h"
#include "graph/ops/attention.h"
#include "graph/ops/rule.h"

static const Batch mixed = {.kind = BATCH_MIXED};

static Batch at_axis(Batch batch, int axis) {
  batch.axis = axis;
  return batch;
}

/* The batch of what is moved within a sample: what it says of the last axis does not follow. */
static Batch moved(Batch batch, int axis) {
  return batch.address ? mixed : at_axis(batch, axis);
}

static bool same_place(const Batch *a, const Batch *b) {
  return a->axis == b->axis && a->outer == b->outer && a->inner == b->inner;
}

/* Whether an Expand repeats the value along an axis. */
static bool is_expanded(const Graph *g, const Value *v, int axis) {
  const Node *n = v->producer == NO_NODE ? NULL : graph_node(g, v->producer);
  if (!n || n->op != OP_Expand)
    return false;
  Shape from = rule_in(g, n, 0)->shape;
  int own = axis - (v->shape.rank - from.rank);
  return own < 0 || from.dim[own] == 1;
}

/* Whether the contents are known to repeat along an axis. */
static bool repeats(const Graph *g, const Value *v, int axis) {
  size_t inner = dtype_bytes(v->dtype);
  int64_t outer = 1, n = v->shape.dim[axis];
  if (!v->data)
    return is_expanded(g, v, axis);
  for (int i = axis + 1; i < v->shape.rank; i++)
    inner *= (size_t)v->shape.dim[i];
  for (int i = 0; i < axis; i++)
    outer *= v->shape.dim[i];
  for (int64_t o = 0; o < outer; o++)
    for (int64_t k = 1; k < n; k++) {
      const char *first = (const char *)v->data + (size_t)(o * n) * inner;
      if (memcmp(first, first + (size_t)k * inner, inner) != 0)
        return false;
    }
  return true;
}

/* Whether all places along the samples' axis have the same contents: then it does not matter which are a sample's. */
static bool lies_anywhere(const Graph *g, const Value *v, const Batch *in) {
  return in->kind == BATCH_AXIS && in->uniform && repeats(g, v, in->axis);
}

/* One more input that broadcasts, its axes aligned with those of a result of `rank`: what is known of the result so
 * far, and after it. */
static Batch meet(const Graph *g, Batch so_far, const Value *v, Batch in, int rank) {
  if (so_far.kind == BATCH_MIXED || in.kind != BATCH_AXIS)
    return so_far;
  Batch here = at_axis(in, in.axis + rank - v->shape.rank);
  if (so_far.kind == BATCH_NONE)
    return here;
  if (here.axis == so_far.axis && lies_anywhere(g, v, &in))
    return so_far;
  return same_place(&so_far, &here) ? so_far : mixed;
}

/* Inputs without samples must not tell samples apart: along the samples' axis they broadcast or repeat. */
static bool is_one_for_all(const Graph *g, const Value *v, int rank, int axis) {
  int own = axis - (rank - v->shape.rank);
  return own < 0 || v->shape.dim[own] == 1 || repeats(g, v, own);
}

/* Where the samples lie in a result of `rank` axes of inputs that broadcast; its step is the caller's to say. */
static Batch broadcast(const Graph *g, const Node *n, const Batch *in, int rank) {
  Batch result = {0};
  for (int last = 0; last < 2; last++) /* what lies anywhere follows the others */
    for (int i = 0; i < n->n_in; i++)
      if (n->in[i] != NO_VALUE && lies_anywhere(g, rule_in(g, n, i), &in[i]) == last)
        result = meet(g, result, rule_in(g, n, i), in[i], rank);
  for (int i = 0; i < n->n_in && result.kind == BATCH_AXIS; i++)
    if (n->in[i] != NO_VALUE && in[i].kind == BATCH_NONE && !is_one_for_all(g, rule_in(g, n, i), rank, result.axis))
      return mixed;
  return result;
}

/* Whether what an input holds comes from the sample's number. */
static bool counts_samples(const Node *n, const Batch *in) {
  for (int i = 0; i < n->n_in; i++)
    if (n->in[i] != NO_VALUE && in[i].kind == BATCH_AXIS && in[i].step)
      return true;
  return false;
}

void batch_elementwise(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  *out = counts_samples(n, in) ? mixed : broadcast(g, n, in, rule_out(g, n, 0)->shape.rank);
}

/* Rows, of which each place has a part in another. */
void batch_rotary(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  batch_elementwise(g, n, in, out);
  if (out->kind == BATCH_AXIS && out->axis == rule_out(g, n, 0)->shape.rank - 1)
    *out = mixed;
}

/* A + B, A - B: so do their steps. */
void batch_sum(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  *out = broadcast(g, n, in, rule_out(g, n, 0)->shape.rank);
  if (out->kind != BATCH_AXIS || !counts_samples(n, in))
    return;
  if (in[0].address || in[1].address)
    *out = mixed;
  else
    out->step = in[0].step + (n->op == OP_Add ? in[1].step : -in[1].step);
}

static bool is_one_integer(const Value *v, int64_t *number) {
  if (!v->data || shape_elements(v->shape) != 1 || (v->dtype != I64 && v->dtype != I32))
    return false;
  *number = v->dtype == I64 ? *(const int64_t *)v->data : *(const int32_t *)v->data;
  return true;
}

/* A · B: a step times a number. */
void batch_scale(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  int64_t number;
  *out = broadcast(g, n, in, rule_out(g, n, 0)->shape.rank);
  if (out->kind != BATCH_AXIS || !counts_samples(n, in))
    return;
  int side = in[0].step != 0;
  if (in[0].address || in[1].address || in[side].step || !is_one_integer(rule_in(g, n, side), &number) ||
      !checked_mul_i64(in[1 - side].step, number, &out->step))
    *out = mixed;
}

void batch_cast(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  DType to = rule_out(g, n, 0)->dtype;
  *out = in->step && to != I64 && to != I32 ? mixed : *in;
}

/* The order of elements stays: samples have as many elements before and after them. With one sample any axis of size 1
 * at their place might be theirs: the first is. Without elements the first axis of their size is. */
void batch_reshape(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  Shape from = rule_in(g, n, 0)->shape, to = rule_out(g, n, 0)->shape;
  bool last_stays = to.rank && from.rank && to.dim[to.rank - 1] == from.dim[from.rank - 1];
  int64_t places = in->outer * in->inner, samples = places ? from.dim[in->axis] / places : 0;
  int64_t outer = in->outer, before = 1;
  *out = mixed;
  if (in->address && !last_stays)
    return;
  for (int i = 0; i < in->axis; i++)
    outer *= from.dim[i];
  for (int i = 0; i < to.rank; before *= to.dim[i++]) {
    int64_t within = before ? outer / before : 0;
    bool here = shape_elements(from) ? outer % before == 0 && to.dim[i] % (within * samples) == 0 && within > 0 &&
                                           (samples == 1 ? before == outer : to.dim[i] > within)
                                     : to.dim[i] == samples;
    if (!here)
      continue;
    *out = *in;
    out->axis = i;
    out->outer = shape_elements(from) ? within : 1;
    out->inner = shape_elements(from) ? to.dim[i] / (within * samples) : 1;
    return;
  }
}

void batch_transpose(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  int rank;
  const int64_t *perm = node_ints(n, "perm", &rank);
  (void)g;
  for (int i = 0; i < rank; i++)
    if (perm[i] == in->axis)
      *out = moved(*in, i);
}

static void unless_along(int axis, Batch result, Batch *out) {
  *out = result.kind == BATCH_AXIS && result.axis == axis ? mixed : result;
}

static Batch look_into(const Graph *g, const Value *indices, Batch in);

/* One behind the other along the samples' own axis: places before them add up. */
static bool joins_places(const Node *n, const Batch *in, int axis, Batch *out) {
  Batch joined = in[0];
  for (int i = 0; i < n->n_in; i++) {
    if (in[i].kind != BATCH_AXIS || in[i].axis != axis || in[i].inner != in[0].inner || in[i].step || in[i].address)
      return false;
    joined.outer += i ? in[i].outer : 0;
  }
  *out = joined;
  return true;
}

/* Parts of one step keep it; in front of others along the last axis, the sample's own number makes an address. */
void batch_concat(const Graph *g, const Node *n, const Batch *given, Batch *out) {
  int axis = (int)node_int(n, "axis", 0), last = rule_out(g, n, 0)->shape.rank - 1, parts = n->n_in;
  bool same = true, rest = false;
  if (joins_places(n, given, axis, out))
    return;
  Batch in[MAX_RANK]; /* an address has as many parts as what it points into has axes */
  if (parts > MAX_RANK || axis != last) {
    unless_along(axis, counts_samples(n, given) ? mixed : broadcast(g, n, given, last + 1), out);
    return;
  }
  for (int i = 0; i < parts; i++)
    in[i] = i ? given[i] : look_into(g, rule_in(g, n, 0), given[0]);
  unless_along(axis, broadcast(g, n, in, last + 1), out);
  for (int i = 0; i < parts; i++) {
    same &= in[i].step == in[0].step && !in[i].address;
    rest |= i && in[i].step;
  }
  if (out->kind != BATCH_AXIS || !counts_samples(n, in))
    return;
  if (same)
    out->step = in[0].step;
  else if (in[0].step == 1 && !in[0].address && rule_in(g, n, 0)->shape.dim[last] == 1 && !rest)
    out->step = out->address = true;
  else
    *out = mixed;
}

void batch_split(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  (void)g;
  for (int i = 0; i < n->n_out; i++)
    unless_along((int)node_int(n, "axis", 0), moved(*in, in->axis), &out[i]);
}

static bool has_axis(const Node *n, int axis) {
  int count;
  const int64_t *axes = node_ints(n, "axes", &count);
  for (int i = 0; i < count; i++)
    if (axes[i] == axis)
      return true;
  return false;
}

void batch_slice(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  (void)g;
  *out = has_axis(n, in->axis) ? mixed : moved(*in, in->axis);
}

void batch_expand(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  Shape from = rule_in(g, n, 0)->shape, to = rule_out(g, n, 0)->shape;
  bool last_stays = from.dim[from.rank - 1] == to.dim[to.rank - 1];
  *out = in->address && !last_stays ? mixed : at_axis(*in, in->axis + to.rank - from.rank);
}

static int64_t integer_at(const Value *v, int64_t i) {
  return v->dtype == I64 ? ((const int64_t *)v->data)[i] : ((const int32_t *)v->data)[i];
}

bool batch_read_steps(const Value *v, int axis, int64_t each, Batch *batch) {
  int64_t outer = 1, inner = 1, n = v->shape.dim[axis], last = v->shape.dim[v->shape.rank - 1];
  bool even = true, address = axis < v->shape.rank - 1, first = true;
  if ((v->dtype != I64 && v->dtype != I32) || !v->data || n < 2 * each || !shape_elements(v->shape))
    return false;
  for (int i = 0; i < axis; i++)
    outer *= v->shape.dim[i];
  for (int i = axis + 1; i < v->shape.rank; i++)
    inner *= v->shape.dim[i];
  *batch = (Batch){.kind = BATCH_AXIS, .axis = axis, .outer = 1, .inner = each};
  for (int64_t o = 0; o < outer; o++)
    for (int64_t k = 0; k < each * inner; k++) {
      int64_t at = o * n * inner + k, here = integer_at(v, at), step;
      if (__builtin_sub_overflow(integer_at(v, at + each * inner), here, &step))
        return false;
      for (int64_t s = 1; s < n / each; s++)
        if (!checked_add_i64(here, step, &here) || integer_at(v, at + s * each * inner) != here)
          return false;
      if (first)
        batch->step = step;
      first = false;
      even &= step == batch->step;
      address &= step == (k % last == 0);
    }
  batch->address = address && !even;
  batch->step = batch->address ? 1 : batch->step;
  return even || address;
}

/* Indices without samples that are known, of a graph whose number of samples is fixed: might they count samples? */
static Batch look_into(const Graph *g, const Value *indices, Batch in) {
  Batch found;
  for (int i = 0; in.kind == BATCH_NONE && i < indices->shape.rank; i++)
    if (indices->data && indices->shape.dim[i] == g->samples && batch_read_steps(indices, i, 1, &found) && found.step)
      return found;
  return in;
}

/* Whether sample s reads its own part of an axis: what it would read as sample 0 lies within that. */
static bool reads_its_own(const Value *indices, const Batch *in, const Batch *data) {
  int64_t outer = 1, inner = 1, all = in->axis < indices->shape.rank ? indices->shape.dim[in->axis] : 0;
  if (!indices->data || data->outer != 1 || in->address || in->step != data->inner || in->outer != 1)
    return false;
  for (int i = 0; i < in->axis; i++)
    outer *= indices->shape.dim[i];
  for (int i = in->axis + 1; i < indices->shape.rank; i++)
    inner *= indices->shape.dim[i];
  for (int64_t o = 0; o < outer; o++)
    for (int64_t k = 0; k < in->inner * inner; k++) {
      int64_t own = integer_at(indices, o * all * inner + k);
      if (own < 0 || own >= data->inner)
        return false;
    }
  return true;
}

static Batch without_step(Batch batch, int axis) {
  batch.step = 0;
  batch.address = batch.uniform = false;
  return at_axis(batch, axis);
}

void batch_gather(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  const Value *indices = rule_in(g, n, 1);
  int axis = (int)node_int(n, "axis", 0), added = indices->shape.rank - 1;
  bool along = in[0].kind == BATCH_AXIS && in[0].axis == axis;
  Batch at = along ? look_into(g, indices, in[1]) : in[1];
  *out = mixed;
  if (along && at.kind == BATCH_AXIS) {
    if (reads_its_own(indices, &at, &in[0]) && !in[0].step)
      *out = without_step(at, axis + at.axis);
  } else if (along || (in[0].kind == BATCH_AXIS && at.kind == BATCH_AXIS)) {
    return;
  } else if (at.kind == BATCH_AXIS) {
    *out = at.step ? mixed : at_axis(at, axis + at.axis);
  } else {
    *out = moved(in[0], in[0].axis + (in[0].axis > axis ? added : 0));
  }
}

void batch_gathernd(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  const Value *indices = rule_in(g, n, 1);
  int batch = (int)node_int(n, "batch_dims", 0), lead = indices->shape.rank - 1;
  int depth = (int)indices->shape.dim[lead];
  bool data = in[0].kind == BATCH_AXIS;
  Batch at = data && in[0].axis == batch ? look_into(g, indices, in[1]) : in[1];
  *out = mixed;
  if (data && (in[0].step || in[0].address))
    return;
  if (data && in[0].axis < batch) { /* beside each sample its own indices */
    if (at.kind == BATCH_AXIS ? same_place(&in[0], &at) && !at.step : is_one_for_all(g, indices, lead + 1, in[0].axis))
      *out = in[0];
  } else if (data && at.kind == BATCH_AXIS) { /* each sample's own number, and what it reads of itself */
    bool own = at.address || (depth == 1 && at.step == 1 && reads_its_own(indices, &at, &in[0]));
    if (own && in[0].axis == batch && in[0].outer == 1 && in[0].inner == 1 && at.axis < lead)
      *out = without_step(at, at.axis);
  } else if (data) {
    if (in[0].axis >= batch + depth)
      *out = at_axis(in[0], lead + in[0].axis - batch - depth);
  } else if (at.axis < lead && !at.step &&
             (at.axis >= batch || is_one_for_all(g, rule_in(g, n, 0), rule_in(g, n, 0)->shape.rank, at.axis))) {
    *out = at;
  }
}

void batch_trilu(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  *out = in->step || in->axis >= rule_in(g, n, 0)->shape.rank - 2 ? mixed : *in;
}

/* What runs along one axis: sums so far, softmax. */
void batch_line(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  (void)g;
  unless_along((int)node_int(n, "axis", 0), in->step ? mixed : *in, out);
}

/* One index for each element: beside each sample its own. */
void batch_scatter_elements(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  Shape shape = rule_out(g, n, 0)->shape;
  Batch all = counts_samples(n, in) ? mixed : broadcast(g, n, in, shape.rank);
  unless_along((int)node_int(n, "axis", 0), all, out);
  for (int i = 0; out->kind == BATCH_AXIS && i < n->n_in; i++)
    if (rule_in(g, n, i)->shape.dim[all.axis] != shape.dim[all.axis]) /* only some of the samples */
      *out = mixed;
}

/* An input of a ScatterND whose samples must lie at `axis`, where those of the result lie at `all`. */
static bool goes_along(const Graph *g, const Node *n, int i, const Batch *in, Batch all, int axis) {
  const Value *v = rule_has_in(n, i) ? rule_in(g, n, i) : NULL;
  Batch expected = at_axis(all, axis);
  if (!v)
    return true;
  if (in[i].kind == BATCH_AXIS)
    return same_place(&in[i], &expected) && !in[i].step;
  return is_one_for_all(g, v, v->shape.rank, axis);
}

void batch_scatter_nd(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  const Value *indices = rule_in(g, n, 1);
  int lead = indices->shape.rank - 1, depth = (int)indices->shape.dim[lead];
  Batch data = rule_has_in(n, 2) ? in[2] : (Batch){0}, own = batch_along(0);
  Batch at = look_into(g, indices, in[1]);
  *out = mixed;
  if (at.kind == BATCH_AXIS) { /* each sample's own number, and what it puts into itself */
    Batch whole = data.kind == BATCH_AXIS ? data : own;
    bool is_own = at.address || (depth == 1 && at.step == 1 && reads_its_own(indices, &at, &whole));
    if (is_own && at.axis < lead && goes_along(g, n, 0, in, at, at.axis) && goes_along(g, n, 2, in, own, 0))
      *out = own;
    return;
  }
  Batch all = data.kind == BATCH_AXIS ? data : at_axis(in[0], in[0].axis - lead + depth);
  if (in[1].kind == BATCH_NONE && all.axis >= depth && !all.step && goes_along(g, n, 2, in, all, all.axis) &&
      goes_along(g, n, 0, in, all, all.axis - depth + lead))
    *out = all;
}

void batch_top_k(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  batch_line(g, n, in, &out[0]);
  batch_line(g, n, in, &out[1]);
}

void batch_reduce(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  int count, dropped = 0;
  const int64_t *axes = node_ints(n, "axes", &count);
  (void)g;
  for (int i = 0; i < count; i++)
    dropped += axes[i] < in->axis;
  *out =
      in->step || has_axis(n, in->axis) ? mixed : at_axis(*in, in->axis - (node_int(n, "keepdims", 1) ? 0 : dropped));
}

/* One side of a product, as if it had its rows and columns last: where its samples are in the result, which has `rank`
 * axes; mixed where the product sums over them. `other` has no samples among its own rows or columns. */
static Batch through_product(const Node *n, const Value *v, Batch in, bool left, bool other_is_vector, int rank) {
  int own = v->shape.rank, axis = in.axis;
  bool swapped = node_int(n, left ? "transA" : "transB", 0);
  if (in.kind != BATCH_AXIS)
    return in;
  if (own < 2 || in.step)
    return mixed;
  if (axis < own - 2)
    return at_axis(in, axis + (rank - (other_is_vector ? 1 : 2)) - (own - 2));
  if ((axis == own - 2) != (left != swapped))
    return mixed;
  return at_axis(in, left && !other_is_vector ? rank - 2 : rank - 1);
}

/* Stacks broadcast, so the side without samples must be one for all of them. */
static bool stack_is_one_for_all(const Graph *g, const Value *v, int rank, int rows_and_columns, int axis) {
  int stack = v->shape.rank - 2, own = axis - (rank - rows_and_columns - stack);
  return stack <= 0 || axis >= rank - rows_and_columns || own < 0 || v->shape.dim[own] == 1 || repeats(g, v, own);
}

void batch_matmul(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  const Value *a = rule_in(g, n, 0), *b = rule_in(g, n, 1);
  int rank = rule_out(g, n, 0)->shape.rank, ends = (a->shape.rank > 1) + (b->shape.rank > 1);
  Batch left = through_product(n, a, in[0], true, b->shape.rank < 2, rank);
  Batch right = through_product(n, b, in[1], false, a->shape.rank < 2, rank);
  *out = mixed;
  if (left.kind == BATCH_MIXED || right.kind == BATCH_MIXED)
    return;
  if (left.kind == BATCH_AXIS && right.kind == BATCH_AXIS) {
    if (left.axis != right.axis || left.axis >= rank - ends)
      return;
    if (same_place(&left, &right) || lies_anywhere(g, b, &in[1]))
      *out = left;
    else if (lies_anywhere(g, a, &in[0]))
      *out = right;
  } else if (left.kind == BATCH_AXIS) {
    *out = stack_is_one_for_all(g, b, rank, ends, left.axis) ? left : mixed;
  } else {
    *out = stack_is_one_for_all(g, a, rank, ends, right.axis) ? right : mixed;
  }
}

/* The row, input i, is added to every sample's rows. */
static void add_row(const Graph *g, const Node *n, const Batch *in, int i, Batch *out) {
  if (rule_has_in(n, i) && (in[i].kind != BATCH_NONE || out->axis == rule_out(g, n, 0)->shape.rank - 1))
    *out = mixed;
}

void batch_product_gelu(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  batch_matmul(g, n, in, out);
  add_row(g, n, in, 2, out);
  for (int i = 1; i < n->n_out; i++)
    out[i] = *out;
}

void batch_product_add(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  const Value *y = rule_out(g, n, 0), *more = rule_in(g, n, 2);
  Batch product;
  batch_matmul(g, n, in, &product);
  *out = meet(g, product, more, in[2], y->shape.rank);
  if (out->kind == BATCH_AXIS && ((in[2].kind == BATCH_NONE && !is_one_for_all(g, more, y->shape.rank, out->axis)) ||
                                  (product.kind == BATCH_NONE && !is_one_for_all(g, y, y->shape.rank, out->axis))))
    *out = mixed;
  add_row(g, n, in, 3, out);
}

void batch_gemm(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  Batch left = through_product(n, rule_in(g, n, 0), in[0], true, false, 2);
  Batch right = through_product(n, rule_in(g, n, 1), in[1], false, false, 2);
  *out = mixed;
  if (left.kind == BATCH_MIXED || right.kind == BATCH_MIXED || (left.kind == BATCH_AXIS && right.kind == BATCH_AXIS))
    return;
  *out = left.kind == BATCH_AXIS ? left : right;
  if (!rule_has_in(n, 2))
    return;
  *out = meet(g, *out, rule_in(g, n, 2), in[2], 2);
  if (out->kind == BATCH_AXIS && in[2].kind == BATCH_NONE && !is_one_for_all(g, rule_in(g, n, 2), 2, out->axis))
    *out = mixed;
}

/* Normalisation from `axis` on; statistics keep the rank. */
void batch_rows(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  bool apart = in[0].kind == BATCH_AXIS && in[0].axis < node_int(n, "axis", 0);
  (void)g;
  for (int i = 1; i < n->n_in; i++)
    apart &= in[i].kind == BATCH_NONE;
  for (int i = 0; i < n->n_out; i++)
    out[i] = apart ? in[0] : mixed;
}

/* The sum is everybody's; log_sum_exp lies as the targets do. */
void batch_cross_entropy(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  int classes = (int)node_int(n, "class_axis", 0);
  (void)g;
  out[0] = out[1] = mixed;
  if (in[0].kind == BATCH_AXIS && in[0].axis != classes)
    out[1] = at_axis(in[0], in[0].axis - (in[0].axis > classes));
}

/* Tensors of all steps [T,N,..] have the samples second, states and lengths [N,..] first; weights have none. */
void batch_recurrent(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  static const int own[] = {1, -1, -1, 0, 0, 0}; /* axis of the samples of each input */
  Batch found = {0};
  for (int i = 0; i < n->n_out; i++)
    out[i] = mixed;
  for (int i = 0; i < n->n_in; i++) {
    if (in[i].kind != BATCH_AXIS)
      continue;
    if (in[i].axis != own[i] || in[i].step || in[i].address ||
        (found.kind && (found.outer != in[i].outer || found.inner != in[i].inner)))
      return;
    found = without_step(in[i], 1);
  }
  for (int i = 0; i < n->n_in; i++)
    if (rule_has_in(n, i) && in[i].kind == BATCH_NONE && own[i] >= 0 &&
        !is_one_for_all(g, rule_in(g, n, i), rule_in(g, n, i)->shape.rank, own[i]))
      return;
  for (int i = 0; i < n->n_out; i++)
    out[i] = at_axis(found, rule_out(g, n, i)->shape.rank - 2);
}

/* Whether an input of Attention is [B,rows,W]. */
static bool in_rows(const Graph *g, const Node *n, int i) {
  return i < ATTENTION_MASK && rule_in(g, n, i)->shape.rank == 3;
}

/* Q, K, V and the mask [B,H,..] broadcast along the axes of samples and heads; where heads share keys, these are no
 * place for samples, and neither are they where heads lie within rows. */
void batch_attention(const Graph *g, const Node *n, const Batch *in, Batch *out) {
  Batch found = {0};
  int n_in = n->n_in < ATTENTION_COUNTER ? n->n_in : ATTENTION_COUNTER;
  Attention a = attention_in(g, n);
  bool one_axis = a.heads != a.groups || rule_out(g, n, 0)->shape.rank == 3, strange = counts_samples(n, in);
  for (int last = 0; last < 2; last++) /* what lies anywhere follows the others */
    for (int i = 0; i < n_in; i++) {
      if (n->in[i] == NO_VALUE)
        continue;
      bool rows = in_rows(g, n, i);
      one_axis |= rows;
      strange |= rows && in[i].kind == BATCH_AXIS && in[i].axis != 0;
      if (lies_anywhere(g, rule_in(g, n, i), &in[i]) == last)
        found = meet(g, found, rule_in(g, n, i), in[i], rows ? 3 : 4);
    }
  for (int i = 0; i < n_in && found.kind == BATCH_AXIS; i++)
    strange |= n->in[i] != NO_VALUE && in[i].kind == BATCH_NONE &&
               !is_one_for_all(g, rule_in(g, n, i), in_rows(g, n, i) ? 3 : 4, found.axis);
  bool apart = !strange && found.kind == BATCH_AXIS && (found.axis == 0 || (found.axis == 1 && !one_axis));
  out[0] = out[1] = out[2] = apart ? found : mixed;
}
