/* Searches samples. Invariant: a sample is read in pieces, whatever its size. */
#include "runtime/data/blame.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PIECE = 512 };

/* "array 'x', sample 5, element [0,2]": `at` is the element within the sample, or within the array where it is given
 * once. */
static void name_element(const Column *column, int64_t sample, int64_t at, char text[BLAME_BYTES]) {
  Shape shape = column_shape(column, 1);
  int64_t within;
  int axis = column->axis, used = snprintf(text, BLAME_BYTES, "array '%.120s'", column->name);
  const Piece *piece = column_locate(column, sample, &within);
  const char *before = ", element [";
  if (column->n_pieces > 1)
    used += snprintf(text + used, (size_t)(BLAME_BYTES - used), " of %.200s", piece->file->path);
  if (axis >= 0)
    used += snprintf(text + used, (size_t)(BLAME_BYTES - used), ", sample %lld", (long long)within);
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

/* The piece of a sample, element `at` of the sample in it, and how many of it lie there side by side, PIECE at most. */
static const Array *find_element(const Column *column, int64_t sample, int64_t at, int64_t *element, int64_t *count) {
  int64_t inner = 1, within;
  const Array *array = &column_locate(column, sample, &within)->array;
  for (int i = column->axis + 1; i < array->shape.rank; i++)
    inner *= array->shape.dim[i];
  *count = inner - at % inner < PIECE ? inner - at % inner : PIECE;
  *element = at;
  if (column->axis >= 0)
    *element = (at / inner * array->shape.dim[column->axis] + within) * inner + at % inner;
  return array;
}

bool blame_class(const Column *column, const int64_t *indices, int64_t n, int64_t classes, int64_t ignore_index,
                 int64_t *value, char text[BLAME_BYTES]) {
  int64_t row = shape_elements(column_shape(column, 1)), piece[PIECE], count, first;
  for (int64_t i = 0; i < n; i++)
    for (int64_t at = 0; at < row; at += count) {
      const Array *array = find_element(column, indices[i], at, &first, &count);
      if (array_convert(array, first, count, I64, piece) != OK)
        return false;
      for (int64_t k = 0; k < count; k++)
        if (piece[k] != ignore_index && (piece[k] < 0 || piece[k] >= classes)) {
          name_element(column, indices[i], at + k, text);
          *value = piece[k];
          return true;
        }
    }
  return false;
}

/* The first NaN of a sample, or the first infinity; -1: none. */
static int64_t find(const Column *column, int64_t sample, bool nan) {
  double piece[PIECE];
  int64_t row = shape_elements(column_shape(column, 1)), count, first;
  for (int64_t at = 0; at < row; at += count) {
    const Array *array = find_element(column, sample, at, &first, &count);
    if (array_convert(array, first, count, F64, piece) != OK)
      return -1;
    for (int64_t k = 0; k < count; k++)
      if (nan ? isnan(piece[k]) : isinf(piece[k]))
        return at + k;
  }
  return -1;
}

static bool blame_column(const Column *column, const int64_t *indices, int64_t n, bool nan, char text[BLAME_BYTES]) {
  for (int64_t i = 0; i < (column->axis >= 0 ? n : 1) && dtype_is_float(column->dtype); i++) {
    int64_t at = find(column, indices[i], nan);
    if (at < 0)
      continue;
    name_element(column, indices[i], at, text);
    strncat(text, nan ? " is NaN" : " is infinite", BLAME_BYTES - 1 - strlen(text));
    return true;
  }
  return false;
}

bool blame_not_finite(const Dataset *data, const int64_t *indices, int64_t n, char text[BLAME_BYTES]) {
  for (int nan = 1; nan >= 0; nan--) {
    for (int i = 0; i < data->n_inputs; i++)
      if (blame_column(&data->columns[i], indices, n, nan, text))
        return true;
    if (data->target && blame_column(data->target, indices, n, nan, text))
      return true;
  }
  return false;
}
