/* Sequences of tensors, which exist only while the file is lowered. Invariant: their length and the positions that
 * address them are known. */
#include <string.h>

#include "onnx/lower/lower.h"

static Status make(Op *op, Term *const *parts, int n, Term **out) {
  TRY(ARENA_NEW(op->lower->arena, *out, 1));
  **out = (Term){.kind = TERM_SEQUENCE, .initializer = -1, .value = NO_VALUE, .n_parts = n};
  (*out)->parts = arena_copy(op->lower->arena, parts, (size_t)n * sizeof *parts);
  return (*out)->parts ? OK : status_code();
}

static Status need_sequence(const Op *op) {
  if (op->in[0]->kind != TERM_SEQUENCE)
    return fail(E_MODEL, "input '%s' is no sequence", op->proto->input[0]);
  return OK;
}

/* Position by input i, counted from the end when negative; `room` 1 allows one past the last. */
static Status position(Op *op, int i, int room, int *at) {
  int64_t asked;
  int n = op->in[0]->n_parts + room;
  TRY(op_known_int(op, i, &asked));
  int64_t p = asked + (asked < 0 ? op->in[0]->n_parts : 0);
  if (p < 0 || p >= n)
    return fail(E_MODEL, "position %lld in a sequence of %d", (long long)asked, op->in[0]->n_parts);
  *at = (int)p;
  return OK;
}

/* Sizes from input 1: absent (ones), one number (chunks of it) or a list. */
static Status part_sizes(Op *op, int64_t dim, const int64_t **sizes, int *n) {
  int64_t *list, chunk = 1;
  if (op_has(op, 1)) {
    TRY(op_known_ints(op, 1, sizes, n));
    if (op->in[1]->shape.rank)
      return OK;
    chunk = (*sizes)[0];
  }
  int64_t parts = chunk < 1 ? 0 : dim / chunk + (dim % chunk != 0);
  if (chunk < 1 || parts > 1 << 20)
    return fail(E_SHAPE, "an axis of %lld in parts of %lld", (long long)dim, (long long)chunk);
  *n = (int)parts;
  TRY(ARENA_NEW(op->lower->arena, list, *n));
  for (int i = 0; i < *n; i++)
    list[i] = i + 1 < *n || dim % chunk == 0 ? chunk : dim % chunk;
  *sizes = list;
  return OK;
}

static Status split_to_sequence(Op *op) {
  const int64_t *sizes;
  Term **parts, *x = op->in[0];
  int axis, n;
  TRY(op_axis(op, "axis", 0, x->shape.rank, &axis));
  TRY(part_sizes(op, x->shape.dim[axis], &sizes, &n));
  if (n == 0)
    return make(op, NULL, 0, &op->out[0]);
  TRY(ARENA_NEW(op->lower->arena, parts, n));
  TRY(op_split(op, x, axis, sizes, n, parts));
  for (int i = 0; i < n && !op_has(op, 1) && !op_int(op, "keepdims", 1); i++) {
    Shape s = {0};
    for (int j = 0; j < x->shape.rank; j++)
      if (j != axis)
        s.dim[s.rank++] = x->shape.dim[j];
    TRY(op_reshape(op, parts[i], s, &parts[i]));
  }
  return make(op, parts, n, &op->out[0]);
}

static Status sequence_at(Op *op) {
  int at = 0;
  TRY(need_sequence(op));
  TRY(position(op, 1, 0, &at));
  op->out[0] = op->in[0]->parts[at];
  return OK;
}

static Status sequence_length(Op *op) {
  TRY(need_sequence(op));
  int64_t n = op->in[0]->n_parts;
  return term_make(op->lower, NULL, I64, (Shape){0}, &n, &op->out[0]);
}

static Status sequence_construct(Op *op) {
  return make(op, op->in, op->n_in, &op->out[0]);
}

static Status sequence_empty(Op *op) {
  return make(op, NULL, 0, &op->out[0]);
}

static Status sequence_insert(Op *op) {
  TRY(need_sequence(op));
  int at = op->in[0]->n_parts, n = at + 1;
  Term **parts;
  if (op_has(op, 2))
    TRY(position(op, 2, 1, &at));
  TRY(ARENA_NEW(op->lower->arena, parts, n));
  for (int i = 0; i < n; i++)
    parts[i] = i == at ? op->in[1] : op->in[0]->parts[i - (i > at)];
  return make(op, parts, n, &op->out[0]);
}

static Status sequence_erase(Op *op) {
  TRY(need_sequence(op));
  int at = op->in[0]->n_parts - 1, n = at;
  Term **parts;
  if (n < 0)
    return fail(E_MODEL, "the sequence is empty");
  if (op_has(op, 1))
    TRY(position(op, 1, 0, &at));
  TRY(ARENA_NEW(op->lower->arena, parts, n));
  for (int i = 0; i < n; i++)
    parts[i] = op->in[0]->parts[i + (i >= at)];
  return make(op, parts, n, &op->out[0]);
}

/* new_axis: the parts are stacked, else joined. */
static Status concat_from_sequence(Op *op) {
  TRY(need_sequence(op));
  bool stack = op_int(op, "new_axis", 0);
  int n = op->in[0]->n_parts, axis;
  if (n == 0)
    return fail(E_SHAPE, "the sequence is empty");
  TRY(op_axis(op, "axis", 0, op->in[0]->parts[0]->shape.rank + stack, &axis));
  Term **parts = op->in[0]->parts;
  return stack ? op_stack(op, parts, n, axis, &op->out[0]) : op_concat(op, parts, n, axis, &op->out[0]);
}

/* An optional value is what it holds, or absent; that is known while the file is lowered. */
static Status optional(Op *op) {
  op->out[0] = op_in(op, 0);
  return OK;
}

static Status optional_has_element(Op *op) {
  uint8_t has = op_has(op, 0);
  return term_make(op->lower, NULL, BOOL, (Shape){0}, &has, &op->out[0]);
}

static Status optional_get_element(Op *op) {
  op->out[0] = op_in(op, 0);
  return op_has(op, 0) ? OK : fail(E_MODEL, "the optional value is empty");
}

#define ROW(name, least, most, lower, attributes)                                                                      \
  { #name, 11, OPSET_LAST, least, most, 1, lower, attributes }

const Lowering lowerings_sequence[] = {
    ROW(SplitToSequence, 1, 2, split_to_sequence, "axis:i keepdims:b"),
    ROW(SequenceAt, 2, 2, sequence_at, ""),
    ROW(SequenceLength, 1, 1, sequence_length, ""),
    ROW(SequenceConstruct, 1, MANY, sequence_construct, ""),
    ROW(SequenceEmpty, 0, 0, sequence_empty, "dtype:d"),
    ROW(SequenceInsert, 2, 3, sequence_insert, ""),
    ROW(SequenceErase, 1, 2, sequence_erase, ""),
    ROW(ConcatFromSequence, 1, 1, concat_from_sequence, "axis:i! new_axis:b"),
    {"Optional", 15, OPSET_LAST, 0, 1, 1, optional, "type:T"},
    {"OptionalHasElement", 15, OPSET_LAST, 0, 1, 1, optional_has_element, ""},
    {"OptionalGetElement", 15, OPSET_LAST, 0, 1, 1, optional_get_element, ""},
    {0},
};
