/* Searches samples. Invariant: a sample is read in pieces, whatever its size. */
#include "runtime/data/blame.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PIECE = 512 };

/* "array 'x', sample 5, element [0,2]": `at` is the element within the sample, or within the array where axis < 0. */
static void name_element(const Array *array, int axis, int64_t sample, int64_t at, char text[BLAME_BYTES]) {
  Shape shape = axis < 0 ? array->shape : dataset_shape(array, axis, 1);
  int used = snprintf(text, BLAME_BYTES, "array '%.200s'", array->name);
  const char *before = ", element [";
  if (axis >= 0)
    used += snprintf(text + used, (size_t)(BLAME_BYTES - used), ", sample %lld", (long long)sample);
  for (int i = 0; i < shape.rank && used < BLAME_BYTES; i++) {
    int64_t below = 1;
    for (int k = i + 1; k < shape.rank; k++)
      below *= shape.dim[k];
    if (i == axis)
      continue;
    used +=
        snprintf(text + used, (size_t)(BLAME_BYTES - used), "%s%lld", before, (long long)(at / below % shape.dim[i]));
    before = ",";
  }
  if (*before == ',' && before[1] == '\0' && used < BLAME_BYTES)
    snprintf(text + used, (size_t)(BLAME_BYTES - used), "]");
}

/* A sample's elements, or an array's where axis < 0. */
static int64_t count_elements(const Array *array, int axis) {
  return shape_elements(axis < 0 ? array->shape : dataset_shape(array, axis, 1));
}

/* Element `at` of a sample, and how many of it lie there side by side, PIECE at most. */
static int64_t find_element(const Array *array, int axis, int64_t sample, int64_t at, int64_t *count) {
  int64_t inner = 1;
  for (int i = axis + 1; i < array->shape.rank; i++)
    inner *= array->shape.dim[i];
  *count = inner - at % inner < PIECE ? inner - at % inner : PIECE;
  return axis < 0 ? at : (at / inner * array->shape.dim[axis] + sample) * inner + at % inner;
}

bool blame_class(const Array *array, int axis, const int64_t *indices, int64_t n, int64_t classes, int64_t ignore_index,
                 int64_t *value, char text[BLAME_BYTES]) {
  int64_t row = count_elements(array, axis), piece[PIECE], count;
  for (int64_t i = 0; i < n; i++)
    for (int64_t at = 0; at < row; at += count) {
      int64_t first = find_element(array, axis, indices[i], at, &count);
      if (array_convert(array, first, count, I64, piece) != OK)
        return false;
      for (int64_t k = 0; k < count; k++)
        if (piece[k] != ignore_index && (piece[k] < 0 || piece[k] >= classes)) {
          name_element(array, axis, indices[i], at + k, text);
          *value = piece[k];
          return true;
        }
    }
  return false;
}

/* The first NaN of a sample, or the first infinity; -1: none. */
static int64_t find(const Array *array, int axis, int64_t sample, bool nan) {
  double piece[PIECE];
  int64_t row = count_elements(array, axis), count;
  for (int64_t at = 0; at < row; at += count) {
    int64_t first = find_element(array, axis, sample, at, &count);
    if (array_convert(array, first, count, F64, piece) != OK)
      return -1;
    for (int64_t k = 0; k < count; k++)
      if (nan ? isnan(piece[k]) : isinf(piece[k]))
        return at + k;
  }
  return -1;
}

static bool blame_array(const Array *array, int axis, const int64_t *indices, int64_t n, bool nan,
                        char text[BLAME_BYTES]) {
  for (int64_t i = 0; i < (axis >= 0 ? n : 1) && dtype_is_float(array->dtype); i++) {
    int64_t at = find(array, axis, indices[i], nan);
    if (at < 0)
      continue;
    name_element(array, axis, indices[i], at, text);
    strncat(text, nan ? " is NaN" : " is infinite", BLAME_BYTES - 1 - strlen(text));
    return true;
  }
  return false;
}

bool blame_not_finite(const Dataset *data, const int64_t *indices, int64_t n, char text[BLAME_BYTES]) {
  for (int nan = 1; nan >= 0; nan--) {
    for (int i = 0; i < data->n_inputs; i++)
      if (blame_array(data->arrays[i], data->axis[i], indices, n, nan, text))
        return true;
    if (data->target && blame_array(data->target, data->target_axis, indices, n, nan, text))
      return true;
  }
  return false;
}
