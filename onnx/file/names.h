/* Names to numbers: a Map of strings. Nobody outside onnx/ includes this. */
#ifndef ONNX_FILE_NAMES_H
#define ONNX_FILE_NAMES_H

#include <stdint.h>
#include <string.h>

#include "onnx/file/map.h"

typedef struct {
  Arena *arena;
  Map *map; /* values are 1 + the number */
} NameMap;

/* An empty map that lives in the arena. */
static inline Status names_create(Arena *arena, NameMap *names) {
  names->arena = arena;
  return map_create(arena, &names->map);
}

/* The number of a name, or -1. */
static inline int names_find(const NameMap *names, const char *name) {
  return (int)(intptr_t)map_find(names->map, name, strlen(name)) - 1;
}

/* Sets a name's number (not negative), new or not. */
static inline Status names_put(NameMap *names, const char *name, int value) {
  return map_put(names->map, name, strlen(name), (void *)((intptr_t)value + 1));
}

#endif
