/* Searches samples. Invariant: a sample is read in pieces, whatever its size. */
#include "runtime/data/blame.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PIECE = 512 };

/* "array 'x', sample 5, element [0,2]": `at` is the element within the sample, or within the array where sample < 0. */
static void name_element(const Array *array, int64_t sample, int64_t at, char text[BLAME_BYTES]) {
  int first = sample < 0 ? 0 : 1;
  int used = snprintf(text, BLAME_BYTES, "array '%.200s'", array->name);
  if (sample >= 0)
    used += snprintf(text + used, (size_t)(BLAME_BYTES - used), ", sample %lld", (long long)sample);
  for (int i = first; i < array->shape.rank && used < BLAME_BYTES; i++) {
    int64_t below = 1;
    for (int k = i + 1; k < array->shape.rank; k++)
      below *= array->shape.dim[k];
    used += snprintf(text + used, (size_t)(BLAME_BYTES - used), "%s%lld%s", i == first ? ", element [" : ",",
                     (long long)(at / below % array->shape.dim[i]), i + 1 == array->shape.rank ? "]" : "");
  }
}

bool blame_class(const Array *array, const int64_t *indices, int64_t n, int64_t classes, int64_t ignore_index,
                 int64_t *value, char text[BLAME_BYTES]) {
  int64_t row = shape_elements(dataset_shape(array, 1)), piece[PIECE];
  for (int64_t i = 0; i < n; i++)
    for (int64_t at = 0; at < row; at += PIECE) {
      int64_t count = row - at < PIECE ? row - at : PIECE;
      if (array_convert(array, indices[i] * row + at, count, I64, piece) != OK)
        return false;
      for (int64_t k = 0; k < count; k++)
        if (piece[k] != ignore_index && (piece[k] < 0 || piece[k] >= classes)) {
          name_element(array, indices[i], at + k, text);
          *value = piece[k];
          return true;
        }
    }
  return false;
}

/* The first NaN, or the first infinity, of `count` elements from `first` on; -1: none. */
static int64_t find(const Array *array, int64_t first, int64_t count, bool nan) {
  double piece[PIECE];
  for (int64_t at = 0; at < count; at += PIECE) {
    int64_t n = count - at < PIECE ? count - at : PIECE;
    if (array_convert(array, first + at, n, F64, piece) != OK)
      return -1;
    for (int64_t k = 0; k < n; k++)
      if (nan ? isnan(piece[k]) : isinf(piece[k]))
        return at + k;
  }
  return -1;
}

static bool blame_array(const Array *array, bool by_sample, const int64_t *indices, int64_t n, bool nan,
                        char text[BLAME_BYTES]) {
  int64_t row = by_sample ? shape_elements(dataset_shape(array, 1)) : shape_elements(array->shape);
  for (int64_t i = 0; i < (by_sample ? n : 1) && dtype_is_float(array->dtype); i++) {
    int64_t at = find(array, by_sample ? indices[i] * row : 0, row, nan);
    if (at < 0)
      continue;
    name_element(array, by_sample ? indices[i] : -1, at, text);
    strncat(text, nan ? " is NaN" : " is infinite", BLAME_BYTES - 1 - strlen(text));
    return true;
  }
  return false;
}

bool blame_not_finite(const Dataset *data, const int64_t *indices, int64_t n, char text[BLAME_BYTES]) {
  for (int nan = 1; nan >= 0; nan--) {
    for (int i = 0; i < data->n_inputs; i++)
      if (blame_array(data->arrays[i], data->by_sample[i], indices, n, nan, text))
        return true;
    if (data->target && blame_array(data->target, true, indices, n, nan, text))
      return true;
  }
  return false;
}
