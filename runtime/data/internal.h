/* How files of arrays are read. Inside the folder. */
#ifndef RUNTIME_DATA_INTERNAL_H
#define RUNTIME_DATA_INTERNAL_H

#include "runtime/data/data.h"

/* E_MEMORY where `bytes` more than *total are more than this machine has; else adds them. */
Status array_charge(uint64_t bytes, uint64_t *total);
/* Room for n arrays. */
Status array_file_reserve(ArrayFile *file, size_t n);
/* Adds the .npy array that the n bytes are, which stay; `name` is the arena's. Memory that Fortran order takes is
 * charged to *total. Fails as npy_read_header does. */
Status array_file_add(ArrayFile *file, const char *name, const uint8_t *bytes, uint64_t n, uint64_t *total);

/* Reads the members of the mapped file. */
Status npz_read(ArrayFile *file);

#endif
