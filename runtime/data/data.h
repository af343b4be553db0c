/* Arrays of an .npz file, or the one of an .npy file, named after it. An archive is read through libzip; what is stored
 * is mapped (its bytes are read, unchecked, when used), deflated members are inflated with their
 * checksum: once for all processes of a machine that open the file before array_file_settle, where that is much. */
#ifndef RUNTIME_DATA_DATA_H
#define RUNTIME_DATA_DATA_H

#include "base/arena.h"
#include "base/mapped.h"
#include "graph/tensor.h"
#include "runtime/data/spill.h"

typedef struct {
  const char *name;
  DType dtype;
  Shape shape;
  const void *data; /* dense, C order; not aligned when mapped: read it through array_convert */
} Array;

typedef struct {
  Arena *arena;
  const char *path;
  Array *arrays;
  bool *was_fortran; /* [n_arrays]: the file has it in Fortran order, memory in C order */
  bool *repeats;     /* [n_arrays]: data is one sample, which all are like; NULL: of none */
  int n_arrays;
  int descriptor;
  FileStamp stamp; /* when it was opened */
  Mapped map;
  Spill spill; /* what was inflated, where it is much */
} ArrayFile;

/* Names are those of the members without ".npy". Memory stays within the sizes that the members state, which may not
 * be more than deflate can hold or this machine has. Fails E_IO / E_MODEL with the path, the member and the numbers in
 * front: not a zip, no .npy inside, big-endian, an unknown type, a size that differs from the shape. */
Status array_file_open(const char *path, ArrayFile *file);
/* Maps a file of no format of its own: an .npy file is read as one, any other has no arrays. Fails E_IO, and E_MODEL
 * for an empty file. */
Status array_file_open_flat(const char *path, ArrayFile *file);
/* Everybody who shares what was inflated has opened the file. */
void array_file_settle(ArrayFile *file);
void array_file_close(ArrayFile *file);
/* OK while the file is what it was when it was opened, else E_IO with the reason alone: what was read since then may be
 * anything. Cheap. */
Status array_file_unchanged(const ArrayFile *file);
/* NULL where there is none of that name. */
const Array *array_find(const ArrayFile *file, const char *name);
/* Elements of `array` from element `first` on, `count` of them, converted to `dtype` (integers among themselves with a
 * range check, floats among themselves), into data. E_SHAPE for other pairs, E_MODEL for a value out of range. */
Status array_convert(const Array *array, int64_t first, int64_t count, DType dtype, void *data);

/* Results in float32 as a model's output of this type has them: float16 where it is that; what NumPy has no type for
 * stays float32, rounded to the type's numbers. The array's data may be written to. */
void array_store_as(Array *array, DType stored);

/* Writes an .npz (stored, uncompressed), aside, synced and renamed. */
Status array_file_write(const char *path, const Array *arrays, int n_arrays);

#endif
