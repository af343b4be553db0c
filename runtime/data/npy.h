/* The header of an .npy array: its type and shape, then dense bytes. (NumPy Enhancement Proposal 1.) */
#ifndef RUNTIME_DATA_NPY_H
#define RUNTIME_DATA_NPY_H

#include "graph/tensor.h"

/* Room for any header that npy_write_header makes. */
enum { NPY_HEADER_BYTES = 512 };

/* Reads the header of an array of `total` bytes, of which the first `n` are at hand (all, or at least the header);
 * *begin: where the elements begin; *fortran: the first axis runs fastest. Fails E_MODEL: no header, big-endian, a type
 * that is not there, a size that differs from the shape. */
Status npy_read_header(const unsigned char *bytes, size_t n, uint64_t total, DType *dtype, Shape *shape, bool *fortran,
                       size_t *begin);

/* Writes the header of version 1.0 and returns its length, a multiple of 64. */
size_t npy_write_header(DType dtype, Shape shape, char header[NPY_HEADER_BYTES]);

#endif
