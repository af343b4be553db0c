/* Samples out of pieces. Invariant: what was read counts only after its file was found unchanged. */
#include "runtime/data/column.h"

#include <sys/mman.h>
#include <unistd.h>

Shape column_shape(const Column *column, int64_t samples) {
  Shape shape = column->shape;
  if (column->axis >= 0)
    shape.dim[column->axis] = samples;
  return shape;
}

const Piece *column_locate(const Column *column, int64_t sample, int64_t *within) {
  int low = 0, high = column->n_pieces;
  sample += column->begin;
  while (high - low > 1) {
    int middle = low + (high - low) / 2;
    *(column->pieces[middle].first <= sample ? &low : &high) = middle;
  }
  *within = column->axis < 0 || column->repeats ? 0 : sample - column->pieces[low].first;
  return &column->pieces[low];
}

/* How many of the samples from `at` on lie side by side in one piece. */
static int64_t count_neighbours(const Column *column, const Piece *piece, int64_t within, const int64_t *indices,
                                int64_t at, int64_t count) {
  int64_t run = 1, left = column->repeats ? 1 : piece->array.shape.dim[column->axis] - within;
  while (run < left && at + run < count && (!indices || indices[at + run] == indices[at] + run))
    run++;
  return run;
}

/* *file: that of the last piece that was read. */
static Status copy_samples(const Column *column, const int64_t *indices, int64_t count, DType dtype, char *to,
                           const ArrayFile **file) {
  int64_t outer = 1, row = 1, within;
  *file = column->pieces[0].file;
  if (column->axis < 0)
    return array_convert(&column->pieces[0].array, 0, shape_elements(column->shape), dtype, to);
  for (int i = 0; i < column->shape.rank; i++)
    *(i < column->axis ? &outer : &row) *= i == column->axis ? 1 : column->shape.dim[i];
  for (int64_t o = 0; o < outer; o++)
    for (int64_t i = 0, run; i < count; i += run) { /* neighbours go in one piece */
      const Piece *piece = column_locate(column, indices ? indices[i] : i, &within);
      run = count_neighbours(column, piece, within, indices, i, count);
      int64_t first = (o * piece->array.shape.dim[column->axis] + within) * row;
      *file = piece->file;
      TRY(array_convert(&piece->array, first, run * row, dtype, to));
      to += (size_t)(run * row) * dtype_bytes(dtype);
    }
  return OK;
}

/* OK where the files are what they were that these samples lie in; else *file is the one that is not. */
static Status check_files(const Column *column, const int64_t *indices, int64_t count, const ArrayFile **file) {
  const ArrayFile *last = NULL;
  int64_t within, n = column->axis < 0 ? 1 : column->n_pieces > 1 ? count : count > 0;
  for (int64_t i = 0; i < n; i++) {
    const Piece *piece = column_locate(column, column->axis >= 0 && indices ? indices[i] : i, &within);
    if (!piece->file || piece->file == last)
      continue;
    last = piece->file;
    Status status = array_file_unchanged(last);
    if (status != OK) {
      *file = last;
      return status;
    }
  }
  return OK;
}

Status column_gather(const Column *column, const int64_t *indices, int64_t count, DType dtype, void *data) {
  const ArrayFile *file;
  Status status = copy_samples(column, indices, count, dtype, data, &file);
  Status unchanged = check_files(column, indices, count, &file);
  if (unchanged != OK) /* before what was read is found wrong */
    status = unchanged;
  if (status != OK && file)
    status_context("%s: ", file->path);
  return status;
}

static void advise(const Array *array, int64_t first, int64_t count) {
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), width = dtype_bytes(array->dtype);
  uintptr_t begin = (uintptr_t)array->data + (uintptr_t)first * width, end = begin + (uintptr_t)count * width;
  begin = begin / page * page;
  madvise((void *)begin, end - begin, MADV_WILLNEED);
}

void column_prefetch(const Column *column, const int64_t *indices, int64_t count) {
  int64_t outer = 1, row = 1, within;
  if (column->axis < 0 || column->repeats)
    return;
  for (int i = 0; i < column->shape.rank; i++)
    *(i < column->axis ? &outer : &row) *= i == column->axis ? 1 : column->shape.dim[i];
  for (int64_t o = 0; o < outer; o++)
    for (int64_t i = 0, run; i < count; i += run) {
      const Piece *piece = column_locate(column, indices[i], &within);
      run = count_neighbours(column, piece, within, indices, i, count);
      advise(&piece->array, (o * piece->array.shape.dim[column->axis] + within) * row, run * row);
    }
}
