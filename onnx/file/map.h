/* A table from byte strings to pointers, inside an arena. Invariant: a key is there at most once; keys are copied. */
#ifndef ONNX_FILE_MAP_H
#define ONNX_FILE_MAP_H

#include <stddef.h>

#include "base/arena.h"

typedef struct Map Map;

/* An empty map that lives in the arena. */
Status map_create(Arena *arena, Map **map);
/* NULL where there is none. */
void *map_find(const Map *map, const void *key, size_t bytes);
/* Puts or replaces; the value is not NULL. */
Status map_put(Map *map, const void *key, size_t bytes, void *value);

#endif
