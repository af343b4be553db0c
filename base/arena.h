/* An arena owns everything of one graph, plan or schedule; one call frees it. Not thread-safe. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

#include "base/status.h"

typedef struct Arena Arena;

/* A new, empty arena; NULL (with the message set) if memory is out. */
Arena *arena_create(void);

/* From now on the arena takes at most so many bytes in all (a new one has no limit); what would go beyond fails
 * E_LIMIT, with `whose` in its message: "the import". `whose` outlives the arena. */
void arena_limit(Arena *arena, size_t bytes, const char *whose);

/* What of its limit is left; SIZE_MAX where there is none. */
size_t arena_left(const Arena *arena);

/* Frees the arena and all it handed out. NULL is fine. */
void arena_destroy(Arena *arena);

/* `count` zeroed elements of `size` bytes, 64-byte aligned when larger than 64 bytes, 16 otherwise. NULL with
 * the message set (E_MEMORY, E_LIMIT) when the product overflows or memory or the limit is out. A count of 0 gives a
 * valid pointer. */
void *arena_alloc(Arena *arena, size_t count, size_t size);

/* Grows an array that lives in the arena to hold at least `need` elements, doubling; the old storage stays
 * with the arena. Updates *capacity. NULL as arena_alloc. */
void *arena_grow(Arena *arena, void *array, size_t count, size_t *capacity, size_t need, size_t size);

/* Copies of a string, of bytes, of formatted text. NULL as arena_alloc. */
char *arena_string(Arena *arena, const char *text);
void *arena_copy(Arena *arena, const void *data, size_t bytes);
char *arena_format(Arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* TRY(ARENA_NEW(arena, p, n)): p = n zeroed elements of its type. */
#define ARENA_NEW(arena, pointer, count)                                                                               \
  (((pointer) = arena_alloc((arena), (size_t)(count), sizeof *(pointer))) ? OK : status_code())

/* TRY(ARENA_RESERVE(arena, p, count, capacity, need)): p has room for `need` elements; it is what it was where memory
 * is out. */
#define ARENA_RESERVE(arena, pointer, count, capacity, need)                                                           \
  ((size_t)(need) <= (capacity)                                                                                        \
       ? OK                                                                                                            \
       : arena_reserve((arena), &(pointer), (size_t)(count), &(capacity), (size_t)(need), sizeof *(pointer)))
/* The same with the address of the pointer, whatever it points to. */
Status arena_reserve(Arena *arena, void *pointer, size_t count, size_t *capacity, size_t need, size_t size);

#endif
