/* Chunks of equal objects and a list of the free ones. Invariant: an object is on the list, or somebody has it. */
#include "runtime/transport/pool.h"

#include <stdlib.h>

enum { CHUNK = 64 };

Status object_take(Pool *pool, void **object) {
  if (!pool->free_list) {
    void **chunks = realloc(pool->chunks, (pool->n_chunks + 1) * sizeof *chunks);
    if (!chunks)
      return fail(E_MEMORY, "out of memory");
    pool->chunks = chunks;
    if (!(chunks[pool->n_chunks] = calloc(CHUNK, pool->bytes)))
      return fail(E_MEMORY, "out of memory");
    pool->n_chunks++;
    for (size_t i = 0; i < CHUNK; i++)
      object_give(pool, object_at(pool, object_size(pool) - 1 - i));
  }
  *object = pool->free_list;
  pool->free_list = *(void **)*object;
  return OK;
}

void object_give(Pool *pool, void *object) {
  *(void **)object = pool->free_list;
  pool->free_list = object;
}

size_t object_size(const Pool *pool) {
  return pool->n_chunks * CHUNK;
}

void *object_at(const Pool *pool, size_t i) {
  return (char *)pool->chunks[i / CHUNK] + i % CHUNK * pool->bytes;
}

void object_destroy(Pool *pool) {
  for (size_t i = 0; i < pool->n_chunks; i++)
    free(pool->chunks[i]);
  free(pool->chunks);
  *pool = (Pool){.bytes = pool->bytes};
}
