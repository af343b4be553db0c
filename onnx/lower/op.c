/* What a lowering reads of its node: attributes and inputs. Invariant: the table's row was checked before, so the
 * attributes that are there have the kinds that the row says and the required inputs are present. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "onnx/lower/lower.h"

/* Of a shape, of axes, of the sizes of parts. */
enum { MOST_INTS = 1 << 16 };

const Onnx__AttributeProto *op_attribute(const Op *op, const char *name) {
  for (size_t i = 0; i < op->proto->n_attribute; i++) {
    const Onnx__AttributeProto *a = op->proto->attribute[i];
    if (!a->name || strcmp(a->name, name) != 0)
      continue;
    if (a->ref_attr_name && *a->ref_attr_name)
      return op->frame->attributes ? map_find(op->frame->attributes, a->ref_attr_name, strlen(a->ref_attr_name)) : NULL;
    return a;
  }
  return NULL;
}

int64_t op_int(const Op *op, const char *name, int64_t absent) {
  const Onnx__AttributeProto *a = op_attribute(op, name);
  return a ? a->i : absent;
}

double op_float(const Op *op, const char *name, double absent) {
  const Onnx__AttributeProto *a = op_attribute(op, name);
  return a ? a->f : absent;
}

Status op_string(const Op *op, const char *name, const char *absent, const char **text) {
  const Onnx__AttributeProto *a = op_attribute(op, name);
  *text = absent;
  if (!a)
    return OK;
  char *copy;
  TRY(ARENA_NEW(op->lower->arena, copy, a->s.len + 1));
  if (a->s.len)
    memcpy(copy, a->s.data, a->s.len);
  *text = copy;
  return OK;
}

void op_ints(const Op *op, const char *name, const int64_t **ints, int *n) {
  const Onnx__AttributeProto *a = op_attribute(op, name);
  *ints = a ? a->ints : NULL;
  *n = a && a->n_ints < INT_MAX ? (int)a->n_ints : 0;
}

Term *op_in(const Op *op, int i) {
  static Term absent = {.kind = TERM_ABSENT, .initializer = -1, .value = NO_VALUE};
  return i < op->n_in ? op->in[i] : &absent;
}

bool op_has(const Op *op, int i) {
  return op_in(op, i)->kind != TERM_ABSENT;
}

bool op_wants(const Op *op, int i) {
  return i < op->n_out && *op->proto->output[i];
}

Status op_axis(const Op *op, const char *name, int64_t absent, int rank, int *axis) {
  int64_t given = op_int(op, name, absent);
  *axis = axis_normalize(given, rank);
  return *axis < 0 ? fail(E_SHAPE, "axis %lld is outside rank %d", (long long)given, rank) : OK;
}

static Status need_known(Op *op, int i) {
  bool known;
  Term *term = op_in(op, i);
  if (term->kind == TERM_ABSENT)
    return fail(E_MODEL, "input %d is missing", i);
  TRY(term_given(op->lower, term, &known));
  if (known)
    return OK;
  return fail(E_UNSUPPORTED, "input %d ('%s') is not known before the model runs", i, op->proto->input[i]);
}

Status op_known_ints(Op *op, int i, const int64_t **ints, int *n) {
  Term *term = op_in(op, i);
  int64_t count = shape_elements(term->shape);
  if (term->kind == TERM_TENSOR && count > MOST_INTS) /* before anybody writes them out */
    return fail(E_LIMIT, "input %d ('%s') has %lld numbers, and no operator takes more than %d there", i,
                op->proto->input[i], (long long)count, MOST_INTS);
  TRY(need_known(op, i));
  if (dtype_is_float(term->dtype) || term->dtype == BOOL)
    return fail(E_MODEL, "input %d ('%s') is %s, not integers", i, op->proto->input[i], dtype_name(term->dtype));
  return term_ints(op->lower, term, ints, n);
}

Status op_known_int(Op *op, int i, int64_t *number) {
  const int64_t *list;
  int n;
  TRY(op_known_ints(op, i, &list, &n));
  if (n != 1)
    return fail(E_MODEL, "input %d ('%s') has %d numbers, not one", i, op->proto->input[i], n);
  *number = list[0];
  return OK;
}

Status op_known_number(Op *op, int i, double *number) {
  TRY(need_known(op, i));
  if (term_number(op_in(op, i), number))
    return OK;
  return fail(E_MODEL, "input %d ('%s') is %s %s, not one number", i, op->proto->input[i],
              dtype_name(op_in(op, i)->dtype), SHAPE_STR(op_in(op, i)->shape));
}

static int by_value(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

Status op_axes(Op *op, const char *attribute, int input, int rank, int64_t axes[MAX_RANK], int *n) {
  const int64_t *given;
  int count;
  *n = -1;
  if (op_attribute(op, attribute))
    op_ints(op, attribute, &given, &count);
  else if (op_has(op, input))
    TRY(op_known_ints(op, input, &given, &count));
  else
    return OK;
  if (count > rank)
    return fail(E_SHAPE, "%d axes for rank %d", count, rank);
  for (int i = 0; i < count; i++) {
    axes[i] = axis_normalize(given[i], rank);
    if (axes[i] < 0)
      return fail(E_SHAPE, "axis %lld is outside rank %d", (long long)given[i], rank);
  }
  qsort(axes, (size_t)count, sizeof *axes, by_value);
  for (int i = 1; i < count; i++)
    if (axes[i] == axes[i - 1])
      return fail(E_SHAPE, "axis %lld is given twice", (long long)axes[i]);
  *n = count;
  return OK;
}
