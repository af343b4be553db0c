/* Names to numbers, for files with many names. Nobody outside onnx/ includes this. The names are not copied. */
#ifndef ONNX_NAMES_H
#define ONNX_NAMES_H

#include "base/arena.h"
#include "base/status.h"

typedef struct {
  Arena *arena;
  const char **names; /* [capacity], NULL where free */
  int *values;
  size_t capacity, count; /* capacity is a power of two */
} NameMap;

/* An empty map that lives in the arena. */
Status names_create(Arena *arena, NameMap *map);
/* The number of a name, or -1. */
int names_find(const NameMap *map, const char *name);
/* Sets a name's number (not negative), new or not. */
Status names_put(NameMap *map, const char *name, int value);

#endif
