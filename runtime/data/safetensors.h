/* Arrays in .safetensors files: eight bytes, the header's length; a header in JSON, which has every tensor's type,
 * shape and place; the tensors' bytes. (github.com/huggingface/safetensors, "Format".) */
#ifndef RUNTIME_DATA_SAFETENSORS_H
#define RUNTIME_DATA_SAFETENSORS_H

#include <stdio.h>

#include "runtime/data/data.h"

/* Maps the file: nothing is copied. The arrays lie in the order of their bytes; array_file_close closes it. Fails E_IO
 * / E_MODEL with the path, the tensor and the numbers in front: a header that is no JSON or says the same name twice,
 * an unknown type, places that do not fit type and shape, overlap, leave holes or lie outside. Not for two threads at
 * once. */
Status safetensors_open(const char *path, ArrayFile *file);

/* E_MODEL where the format has no way to write such a name: it is text in UTF-8, and not "__metadata__". */
Status safetensors_check_name(const char *name);

/* Writes the arrays, those of wider types first, so that each is aligned to its type: *bytes of them in all, *crc32
 * over all that was written (each may be NULL). Fails E_IO with the reason alone. */
Status safetensors_write(FILE *stream, const Array *arrays, int n_arrays, size_t *bytes, uint32_t *crc32);

/* The same into a file, aside, synced and renamed. Fails with the path in front. */
Status safetensors_file_write(const char *path, const Array *arrays, int n_arrays);

#endif
