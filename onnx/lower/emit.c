/* Writing nodes that stay. Invariant: no node is written that only forwards its input, and no view of a view. */
#include <math.h>
#include <string.h>

#include "graph/op.h"
#include "onnx/lower/lower.h"

enum { INLINE_BYTES = 1024, WRITE_OUT_BYTES = 64 << 10 };

Status term_of(Lower *lower, ValueId id, Term **term) {
  const Value *v = graph_value(lower->graph, id);
  TRY(ARENA_NEW(lower->arena, *term, 1));
  **term = (Term){.kind = TERM_TENSOR, .dtype = v->dtype, .shape = v->shape, .initializer = -1, .value = id};
  return OK;
}

static Node *producer(const Op *op, const Term *term) {
  if (term->value == NO_VALUE)
    return NULL;
  NodeId id = graph_value(op->lower->graph, term->value)->producer;
  return id == NO_NODE ? NULL : graph_node(op->lower->graph, id);
}

Status replay_settle(void *replay, bool possible, bool *does) {
  Replay *r = replay;
  *does = possible;
  if (!r)
    return OK;
  if (r->replaying) {
    *does = possible && (r->at >= r->n || r->idle[r->at]);
    r->at++;
    return OK;
  }
  TRY(ARENA_RESERVE(r->arena, r->idle, r->n, r->capacity, r->n + 1));
  r->idle[r->n++] = possible;
  return OK;
}

Status op_leaves_out(Op *op, bool possible, bool *leaves) {
  return replay_settle(op->lower->replay, possible, leaves);
}

/* A value for an initializer: a parameter, or a constant that is read when the model runs. */
static Status place_initializer(Lower *lower, int index, DType dtype, Shape shape, ValueId *value) {
  const Initializer *init = &lower->model->initializers[index];
  TRY(graph_add_value(lower->graph, init->name, dtype, shape, init->trains ? ROLE_PARAMETER : ROLE_CONSTANT, value));
  graph_value(lower->graph, *value)->initializer = index;
  return OK;
}

/* Known contents as a graph constant of `shape`, once for each shape. */
static Status place_constant(Lower *lower, const Constant *c, Shape shape, ValueId *value) {
  struct {
    const Constant *c;
    Shape shape;
  } key = {c, shape_of(shape.rank, shape.dim)};
  ValueId *placed = map_find(lower->placed, &key, sizeof key);
  if (placed) {
    *value = *placed;
    return OK;
  }
  size_t bytes;
  void *data;
  TRY(shape_bytes(shape, c->dtype, &bytes));
  TRY(budget_repeat(&lower->budget, c, shape, bytes));
  TRY(ARENA_NEW(lower->arena, data, bytes));
  broadcast_copy(dtype_bytes(c->dtype), c->stored, c->data, shape, data);
  const char *name = c->name;
  if (!name && !(name = arena_format(lower->arena, "constant.%zu", lower->graph->n_values)))
    return status_code();
  TRY(graph_add_value(lower->graph, name, c->dtype, shape, ROLE_CONSTANT, value));
  graph_value(lower->graph, *value)->data = data;
  TRY(ARENA_NEW(lower->arena, placed, 1));
  *placed = *value;
  return map_put(lower->placed, &key, sizeof key, placed);
}

/* The stored contents with the rank of the term. */
static Shape compact_shape(const Term *term) {
  Shape shape = {.rank = term->shape.rank}, stored = term->constant->stored;
  for (int i = 0; i < shape.rank; i++) {
    int j = i - (shape.rank - stored.rank);
    shape.dim[i] = j < 0 ? 1 : stored.dim[j];
  }
  return shape;
}

Status term_value(Op *op, Term *term, ValueId *value) {
  Lower *lower = op->lower;
  *value = term->value;
  if (*value != NO_VALUE || term->kind == TERM_ABSENT)
    return OK;
  if (term->kind != TERM_TENSOR)
    return fail(E_MODEL, "a sequence stands where a tensor is needed");
  if (!term->constant) {
    TRY(place_initializer(lower, term->initializer, term->dtype, term->shape, &term->value));
    *value = term->value;
    return OK;
  }
  Shape compact = compact_shape(term), sample = term->shape;
  size_t bytes;
  bool idle;
  for (int i = 0; i < sample.rank; i++) /* the choice is the same for any number of samples */
    if (sample.dim[i] == lower->graph->samples && compact.dim[i] == 1)
      sample.dim[i] = 1;
  TRY(shape_bytes(sample, term->dtype, &bytes));
  TRY(op_leaves_out(op, bytes <= WRITE_OUT_BYTES || shape_equal(compact, term->shape), &idle));
  if (idle) {
    TRY(place_constant(lower, term->constant, term->shape, &term->value));
  } else {
    ValueId small;
    NodeId id;
    Attr attr = attr_ints("shape", term->shape.dim, term->shape.rank);
    TRY(place_constant(lower, term->constant, compact, &small));
    TRY(graph_add_node(lower->graph, OP_Expand, op->name, &small, 1, &attr, 1, NULL, 1, &id));
    TRY(budget_node(lower, graph_node(lower->graph, id)));
    term->value = graph_node(lower->graph, id)->out[0];
  }
  *value = term->value;
  return OK;
}

/* Constants of elementwise nodes stay small where the other inputs broadcast them. */
static Status elementwise_values(Op *op, Term *const *in, int n_in, ValueId *values) {
  Shape used[3], whole = {0}, result;
  bool idle;
  for (int i = 0; i < n_in; i++) {
    used[i] = in[i]->shape;
    if (!shape_broadcast(whole, used[i], &whole))
      return OK; /* the operator's rule says so better */
  }
  for (int i = 0; i < n_in; i++) {
    if (!in[i]->constant || in[i]->value != NO_VALUE || shape_elements(in[i]->shape) == 0)
      continue;
    used[i] = compact_shape(in[i]);
    result = (Shape){0};
    for (int j = 0; j < n_in; j++)
      shape_broadcast(result, used[j], &result);
    TRY(op_leaves_out(op, shape_equal(result, whole), &idle));
    if (idle)
      TRY(place_constant(op->lower, in[i]->constant, used[i], &values[i]));
    else
      used[i] = in[i]->shape;
  }
  return OK;
}

/* Where the batch is fixed, an exporter may have written contents once for each sample. */
static bool repeats_samples(const Lower *lower, const Term *term) {
  for (int i = 0; lower->model->fixed_batch && i < term->shape.rank; i++)
    if (term->shape.dim[i] == lower->model->fixed_batch)
      return true;
  return false;
}

static Status input_values(Op *op, OpKind kind, Term *const *in, int n_in, ValueId *values) {
  for (int i = 0; i < n_in; i++) {
    bool known;
    values[i] = NO_VALUE;
    if (in[i]->kind == TERM_TENSOR && in[i]->initializer >= 0 && !in[i]->constant &&
        ((size_t)shape_elements(in[i]->shape) * dtype_bytes(in[i]->dtype) <=
             INLINE_BYTES || /* gradients like numbers */
         repeats_samples(op->lower, in[i])))
      TRY(term_known(op->lower, in[i], &known));
  }
  if (n_in > 1 && op_def(kind)->traits & OP_ELEMENTWISE)
    TRY(elementwise_values(op, in, n_in, values));
  for (int i = 0; i < n_in; i++)
    if (values[i] == NO_VALUE)
      TRY(term_value(op, in[i], &values[i]));
  return OK;
}

Status op_emit(Op *op, OpKind kind, Term *const *in, int n_in, const Attr *attrs, int n_attrs, Term **out, int n_out) {
  Lower *lower = op->lower;
  bool done;
  ValueId *values;
  NodeId id;
  TRY(op_emit_wide(op, kind, in, n_in, attrs, n_attrs, out, n_out, &done));
  if (done)
    return OK;
  TRY(op_fold(op, kind, in, n_in, attrs, n_attrs, out, n_out, &done));
  if (done)
    return OK;
  TRY(ARENA_NEW(lower->arena, values, n_in));
  TRY(input_values(op, kind, in, n_in, values));
  TRY(graph_add_node(lower->graph, kind, op->name, values, n_in, attrs, n_attrs, NULL, n_out, &id));
  TRY(budget_node(lower, graph_node(lower->graph, id)));
  for (int i = 0; i < n_out; i++)
    TRY(term_of(lower, graph_node(lower->graph, id)->out[i], &out[i]));
  return OK;
}

Status op_emit1(Op *op, OpKind kind, Term *a, Term **out) {
  return op_emit(op, kind, &a, 1, NULL, 0, out, 1);
}

Status op_emit2(Op *op, OpKind kind, Term *a, Term *b, Term **out) {
  return op_emit(op, kind, (Term *[]){a, b}, 2, NULL, 0, out, 1);
}

Status op_where(Op *op, Term *condition, Term *a, Term *b, Term **out) {
  return op_emit(op, OP_Where, (Term *[]){condition, a, b}, 3, NULL, 0, out, 1);
}

Status op_cast(Op *op, Term *a, DType to, Term **out) {
  Attr attr = attr_int("to", to);
  if (a->dtype == to) {
    *out = a;
    return OK;
  }
  return op_emit(op, OP_Cast, &a, 1, &attr, 1, out, 1);
}

/* Whether both shapes are the same but for axes of size 1. */
static bool same_but_ones(Shape a, Shape b) {
  int i = 0, j = 0;
  for (;; i++, j++) {
    while (i < a.rank && a.dim[i] == 1)
      i++;
    while (j < b.rank && b.dim[j] == 1)
      j++;
    if (i == a.rank || j == b.rank)
      return i == a.rank && j == b.rank;
    if (a.dim[i] != b.dim[j])
      return false;
  }
}

/* A known term seen with other axes of size 1: its repeats stay repeats. */
static Status reshape_known(Op *op, const Term *a, Shape shape, Term **out) {
  Shape stored = {.rank = shape.rank}, compact = compact_shape(a);
  for (int i = 0, j = 0; i < shape.rank; i++) {
    stored.dim[i] = 1;
    if (shape.dim[i] == 1)
      continue;
    while (a->shape.dim[j] == 1)
      j++;
    stored.dim[i] = compact.dim[j++];
  }
  const Constant *c;
  TRY(constant_make(op->lower, a->constant->name, a->dtype, stored, a->constant->data, &c));
  return term_broadcast(op->lower, c, shape, out);
}

Status op_reshape(Op *op, Term *a, Shape shape, Term **out) {
  bool known, idle;
  size_t bytes;
  TRY(op_leaves_out(op, shape_equal(a->shape, shape), &idle));
  if (idle) {
    *out = a;
    return OK;
  }
  TRY(shape_bytes(shape, a->dtype, &bytes));
  TRY(term_known(op->lower, a, &known));
  if (known && bytes && same_but_ones(a->shape, shape))
    return reshape_known(op, a, shape, out);
  const Node *before = producer(op, a);
  if (before && before->op == OP_Reshape) {
    TRY(term_of(op->lower, before->in[0], &a));
    TRY(op_leaves_out(op, shape_equal(a->shape, shape), &idle));
    if (idle) {
      *out = a;
      return OK;
    }
  }
  Attr attr = attr_ints("shape", shape.dim, shape.rank);
  return op_emit(op, OP_Reshape, &a, 1, &attr, 1, out, 1);
}

/* perm that swaps the last two axes and nothing else. */
static bool swaps_last(const int64_t *perm, int rank) {
  for (int i = 0; i < rank - 2; i++)
    if (perm[i] != i)
      return false;
  return rank >= 2 && perm[rank - 2] == rank - 1 && perm[rank - 1] == rank - 2;
}

static bool is_transpose(const Node *node) {
  return node && node->op == OP_Transpose;
}

Status op_transpose(Op *op, Term *a, const int64_t *perm, Term **out) {
  int rank = a->shape.rank, last = -1, n;
  const Batch none = {0}, *batch = a->value == NO_VALUE ? &none : &graph_value(op->lower->graph, a->value)->batch;
  int64_t both[MAX_RANK];
  bool ordered = true, identity = true, idle;
  Shape shape = {.rank = rank};
  for (int i = 0; i < rank; i++) {
    identity &= perm[i] == i;
    shape.dim[i] = a->shape.dim[perm[i]];
    if (shape.dim[i] != 1 || (batch->kind == BATCH_AXIS && perm[i] == batch->axis)) {
      ordered &= perm[i] > last;
      last = (int)perm[i];
    }
  }
  if (identity) {
    *out = a;
    return OK;
  }
  TRY(op_leaves_out(op, ordered, &idle));
  if (idle) /* only axes of size 1 move */
    return op_reshape(op, a, shape, out);
  const Node *before = producer(op, a);
  if (is_transpose(before)) {
    const int64_t *first = node_ints(before, "perm", &n);
    identity = true;
    for (int i = 0; i < rank; i++) {
      both[i] = first[perm[i]];
      identity &= both[i] == i;
    }
    if (identity)
      return term_of(op->lower, before->in[0], out);
    if (!swaps_last(perm, rank)) { /* a swap is better left to the product that reads it */
      TRY(term_of(op->lower, before->in[0], &a));
      perm = both;
    }
  }
  Attr attr = attr_ints("perm", perm, rank);
  return op_emit(op, OP_Transpose, &a, 1, &attr, 1, out, 1);
}

/* Stays where the contents are not known even if the shape does not change: with one sample it might look so. */
Status op_expand(Op *op, Term *a, Shape shape, Term **out) {
  Attr attr = attr_ints("shape", shape.dim, shape.rank);
  return op_emit(op, OP_Expand, &a, 1, &attr, 1, out, 1);
}

Status op_slice(Op *op, Term *a, int axis, int64_t start, int64_t end, Term **out) {
  int64_t axis64 = axis, step = 1;
  bool idle;
  TRY(op_leaves_out(op, start == 0 && end == a->shape.dim[axis], &idle));
  if (idle) {
    *out = a;
    return OK;
  }
  Attr attrs[] = {attr_ints("axes", &axis64, 1), attr_ints("starts", &start, 1), attr_ints("ends", &end, 1),
                  attr_ints("steps", &step, 1)};
  return op_emit(op, OP_Slice, &a, 1, attrs, 4, out, 1);
}

Status op_concat(Op *op, Term *const *in, int n_in, int axis, Term **out) {
  Attr attr = attr_int("axis", axis);
  Term **parts;
  int n = 0;
  TRY(ARENA_NEW(op->lower->arena, parts, n_in));
  for (int i = 0; i < n_in; i++) /* empty parts of the same rank add nothing */
    if (in[i]->shape.rank != in[0]->shape.rank || axis >= in[i]->shape.rank || in[i]->shape.dim[axis] != 0)
      parts[n++] = in[i];
  if (n == 0)
    parts[n++] = in[0];
  if (n == 1) {
    *out = parts[0];
    return OK;
  }
  return op_emit(op, OP_Concat, parts, n, &attr, 1, out, 1);
}

Status op_stack(Op *op, Term *const *parts, int n, int axis, Term **out) {
  Term **apart;
  TRY(ARENA_NEW(op->lower->arena, apart, n));
  for (int i = 0; i < n; i++) {
    Shape s = parts[i]->shape, wide = {.rank = s.rank + 1};
    if (parts[i]->kind != TERM_TENSOR)
      return fail(E_MODEL, "part %d of what is stacked is no tensor", i);
    if (s.rank == MAX_RANK || s.rank < axis)
      return fail(E_SHAPE, "a part is %s, the new axis %d", SHAPE_STR(s), axis);
    for (int j = 0; j <= s.rank; j++)
      wide.dim[j] = j == axis ? 1 : s.dim[j - (j > axis)];
    TRY(op_reshape(op, parts[i], wide, &apart[i]));
  }
  return op_concat(op, apart, n, axis, out);
}

Status op_split(Op *op, Term *a, int axis, const int64_t *sizes, int n, Term **out) {
  Attr attrs[] = {attr_int("axis", axis), attr_ints("split", sizes, n)};
  if (n == 1 && sizes[0] == a->shape.dim[axis]) {
    out[0] = a;
    return OK;
  }
  return op_emit(op, OP_Split, &a, 1, attrs, 2, out, n);
}

Status op_reduce(Op *op, OpKind kind, Term *a, const int64_t *axes, int n, bool keepdims, Term **out) {
  Attr attrs[] = {attr_ints("axes", axes, n), attr_int("keepdims", keepdims)};
  if (n == 0) {
    *out = a;
    return OK;
  }
  return op_emit(op, kind, &a, 1, attrs, 2, out, 1);
}

/* Reads through a swap of the last two axes. */
static Status peel_swap(Op *op, Term **a, bool *transposed) {
  int n;
  const Node *before = producer(op, *a);
  if (!is_transpose(before) || !swaps_last(node_ints(before, "perm", &n), (*a)->shape.rank))
    return OK;
  *transposed = !*transposed;
  return term_of(op->lower, before->in[0], a);
}

Status op_matmul(Op *op, Term *a, bool trans_a, Term *b, bool trans_b, Term **out) {
  TRY(peel_swap(op, &a, &trans_a));
  TRY(peel_swap(op, &b, &trans_b));
  Attr attrs[] = {attr_int("transA", trans_a), attr_int("transB", trans_b)};
  return op_emit(op, OP_MatMul, (Term *[]){a, b}, 2, attrs, 2, out, 1);
}

Status op_gemm(Op *op, Term *a, Term *b, Term *c, double alpha, double beta, bool trans_a, bool trans_b, Term **out) {
  TRY(peel_swap(op, &a, &trans_a));
  TRY(peel_swap(op, &b, &trans_b));
  Attr attrs[] = {attr_float("alpha", alpha), attr_float("beta", beta), attr_int("transA", trans_a),
                  attr_int("transB", trans_b)};
  return op_emit(op, OP_Gemm, (Term *[]){a, b, c}, c->kind == TERM_ABSENT ? 2 : 3, attrs, 4, out, 1);
}

Status op_before_log_softmax(Op *op, const Term *a, int axis, Term **out) {
  const Node *before = producer(op, a);
  *out = NULL;
  if (!before || before->op != OP_LogSoftmax || node_int(before, "axis", 0) != axis)
    return OK;
  return term_of(op->lower, before->in[0], out);
}

/* The bits of the nearest integer to zero; those of an end of the type's range for what is beyond it, or is no number.
 */
static uint64_t integer_bits(double number, DType dtype) {
  int bits = 8 * (int)dtype_bytes(dtype);
  bool is_unsigned = dtype == U8 || dtype == U16 || dtype == U32 || dtype == U64;
  double beyond = ldexp(1, is_unsigned ? bits : bits - 1), least = is_unsigned ? 0 : -beyond;
  if (!(number > least))
    return is_unsigned ? 0 : (uint64_t)(INT64_MIN >> (64 - bits));
  if (number >= beyond)
    return UINT64_MAX >> (is_unsigned ? 64 - bits : 65 - bits);
  return number < 0 ? (uint64_t)(int64_t)number : (uint64_t)number;
}

Status op_scalar(Op *op, const Term *like, double number, Term **out) {
  union {
    float f;
    double d;
    uint64_t bits; /* little-endian: a narrower integer is its beginning */
  } data = {0};
  if (like->dtype == F32)
    data.f = (float)number;
  else if (like->dtype == F64)
    data.d = number;
  else if (like->dtype == BOOL)
    data.bits = number != 0;
  else if (!dtype_is_float(like->dtype))
    data.bits = integer_bits(number, like->dtype);
  else
    return fail(E_UNSUPPORTED, "type %s", dtype_name(like->dtype));
  return term_make(op->lower, NULL, like->dtype, (Shape){0}, &data, out);
}

Status op_with_number(Op *op, OpKind kind, Term *a, double number, Term **out) {
  Term *scalar;
  TRY(op_scalar(op, a, number, &scalar));
  return op_emit2(op, kind, a, scalar, out);
}

Status op_iota(Op *op, int64_t count, Term **out) {
  int64_t *numbers;
  TRY(budget_need(&op->lower->budget, (size_t)count * sizeof *numbers, (double)count));
  TRY(ARENA_NEW(op->lower->arena, numbers, count));
  for (int64_t i = 0; i < count; i++)
    numbers[i] = i;
  return term_make(op->lower, NULL, I64, shape_of(1, &count), numbers, out);
}
