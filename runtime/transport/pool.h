/* Objects of one size that are taken and given back many times and never move. Not thread-safe. */
#ifndef RUNTIME_TRANSPORT_POOL_H
#define RUNTIME_TRANSPORT_POOL_H

#include <stddef.h>

#include "base/status.h"

typedef struct {
  size_t bytes; /* of one object, which begins with a pointer that is the pool's while the object is free */
  void **chunks;
  size_t n_chunks;
  void *free_list;
} Pool;

/* An object with stale contents (zeros at first). Allocates only while more are out than ever before. */
Status object_take(Pool *pool, void **object);
void object_give(Pool *pool, void *object);
/* All objects, taken or not: indices 0 … object_size - 1. */
size_t object_size(const Pool *pool);
void *object_at(const Pool *pool, size_t i);
void object_destroy(Pool *pool);

#endif
