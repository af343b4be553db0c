/* What feeds one input: an array of a data set, whole or in pieces that lie in several files and follow each other
 * along the axis of samples. Read-only, shared by the ranks of a process. */
#ifndef RUNTIME_DATA_COLUMN_H
#define RUNTIME_DATA_COLUMN_H

#include "runtime/data/data.h"

typedef struct {
  Array array;
  const ArrayFile *file; /* that holds it */
  int64_t first;         /* samples before it */
} Piece;

typedef struct {
  const char *name;
  DType dtype;
  Shape shape;   /* with all samples */
  int axis;      /* which counts samples; -1: the array is given once */
  bool repeats;  /* every sample is like the only one that a piece holds; the axis is 0 */
  int64_t begin; /* sample 0 is this one of the pieces */
  Piece *pieces; /* [n_pieces], at least one */
  int n_pieces;
} Column;

/* The column's shape with this many samples; as it is where it is given once. */
Shape column_shape(const Column *column, int64_t samples);
/* The piece that sample `sample` lies in, and which of its own it is. The first piece where the column has no axis. */
const Piece *column_locate(const Column *column, int64_t sample, int64_t *within);

/* `count` samples, those of `indices` (NULL: the first ones), converted to dtype, into data: column_shape(count). All
 * of it where the column has no axis. Fails as array_convert does, and E_IO where a file that was read is no longer
 * what it was, with that file's path in front. Thread-safe. */
Status column_gather(const Column *column, const int64_t *indices, int64_t count, DType dtype, void *data);

/* Asks for these samples to be read from the disk while something else is done. */
void column_prefetch(const Column *column, const int64_t *indices, int64_t count);

#endif
