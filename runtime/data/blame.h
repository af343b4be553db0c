/* Which sample of a data file a failure comes from. For messages: the arrays are read once more. */
#ifndef RUNTIME_DATA_BLAME_H
#define RUNTIME_DATA_BLAME_H

#include "runtime/data/dataset.h"

enum { BLAME_BYTES = 512 };

/* The first element of the samples `indices` [n] of `column`, whole numbers, that is no class: "array 'target', sample
 * 5, element [3]", counted from 0 (of several shards: "array 'target' of b.npz, sample 5, …", of its own), and its
 * *value. False where all are. */
bool blame_class(const Column *column, const int64_t *indices, int64_t n, int64_t classes, int64_t ignore_index,
                 int64_t *value, char text[BLAME_BYTES]);

/* The first NaN among the samples, or where there is none the first infinity, in the arrays of the model's inputs and
 * the target: "array 'x', sample 5, element [0,2] is NaN". False where all are finite. */
bool blame_not_finite(const Dataset *data, const int64_t *indices, int64_t n, char text[BLAME_BYTES]);

#endif
