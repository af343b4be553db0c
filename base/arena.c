/* Chunks of memory in a list. Invariant: every pointer handed out lies in exactly one chunk of the list. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { CHUNK_BYTES = 64 * 1024, WIDE = 64, NARROW = 16 };

typedef struct Chunk {
  struct Chunk *next;
  size_t used, bytes; /* of the whole chunk, this header included */
} Chunk;

struct Arena {
  Chunk *head;
  size_t taken, limit; /* bytes of all chunks, and how many they may be; 0: any */
  const char *whose;
};

Arena *arena_create(void) {
  Arena *arena = calloc(1, sizeof *arena);
  if (!arena)
    fail(E_MEMORY, "out of memory");
  return arena;
}

void arena_limit(Arena *arena, size_t bytes, const char *whose) {
  arena->limit = bytes;
  arena->whose = whose;
}

size_t arena_left(const Arena *arena) {
  if (!arena->limit)
    return SIZE_MAX;
  return arena->taken < arena->limit ? arena->limit - arena->taken : 0;
}

void arena_destroy(Arena *arena) {
  if (!arena)
    return;
  for (Chunk *chunk = arena->head; chunk;) {
    Chunk *next = chunk->next;
    free(chunk);
    chunk = next;
  }
  free(arena);
}

static size_t align_up(size_t n, size_t to) {
  return (n + to - 1) & ~(to - 1);
}

void *arena_alloc(Arena *arena, size_t count, size_t size) {
  size_t bytes;
  if (!checked_mul(count, size, &bytes) || bytes > SIZE_MAX / 2) {
    fail(E_MEMORY, "out of memory: %zu elements of %zu bytes", count, size);
    return NULL;
  }
  size_t alignment = bytes > WIDE ? WIDE : NARROW;
  Chunk *chunk = arena->head;
  size_t at = chunk ? align_up(chunk->used, alignment) : 0;
  if (!chunk || at + bytes > chunk->bytes) {
    size_t header = align_up(sizeof *chunk, WIDE);
    size_t total = align_up(header + bytes, WIDE);
    if (total < CHUNK_BYTES)
      total = CHUNK_BYTES;
    if (total > arena_left(arena)) {
      fail(E_LIMIT, "%zu bytes more are above the limit of %s, %zu bytes", bytes, arena->whose, arena->limit);
      return NULL;
    }
    Chunk *fresh = aligned_alloc(WIDE, total);
    if (!fresh) {
      fail(E_MEMORY, "out of memory: %zu bytes", bytes);
      return NULL;
    }
    arena->taken += total;
    fresh->bytes = total;
    fresh->used = header;
    if (chunk && total > CHUNK_BYTES) { /* a big one stands behind, so that the head keeps its free room */
      fresh->next = chunk->next;
      chunk->next = fresh;
    } else {
      fresh->next = chunk;
      arena->head = fresh;
    }
    chunk = fresh;
    at = header;
  }
  chunk->used = at + bytes;
  return memset((char *)chunk + at, 0, bytes);
}

void *arena_grow(Arena *arena, void *array, size_t count, size_t *capacity, size_t need, size_t size) {
  size_t room = *capacity ? *capacity : 8;
  while (room < need)
    room = room < SIZE_MAX / 2 ? room * 2 : need; /* arena_alloc refuses what is too large */
  void *grown = arena_alloc(arena, room, size);
  if (!grown)
    return NULL;
  if (count)
    memcpy(grown, array, count * size);
  *capacity = room;
  return grown;
}

Status arena_reserve(Arena *arena, void *pointer, size_t count, size_t *capacity, size_t need, size_t size) {
  void *array, *grown;
  memcpy(&array, pointer, sizeof array);
  if (!(grown = arena_grow(arena, array, count, capacity, need, size)))
    return status_code();
  memcpy(pointer, &grown, sizeof grown);
  return OK;
}

char *arena_string(Arena *arena, const char *text) {
  return arena_copy(arena, text, strlen(text) + 1);
}

void *arena_copy(Arena *arena, const void *data, size_t bytes) {
  void *copy = arena_alloc(arena, bytes, 1);
  if (copy && bytes)
    memcpy(copy, data, bytes);
  return copy;
}

char *arena_format(Arena *arena, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int length = vsnprintf(NULL, 0, format, args);
  va_end(args);
  char *text = arena_alloc(arena, (size_t)length + 1, 1);
  if (!text)
    return NULL;
  va_start(args, format);
  vsnprintf(text, (size_t)length + 1, format, args);
  va_end(args);
  return text;
}
