/* A hash table with open addressing. Invariant: at most half of it is full. */
#include "onnx/names.h"

#include <stdint.h>
#include <string.h>

static size_t slot_of(const NameMap *map, const char *name) {
  uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
  for (const char *c = name; *c; c++)
    hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
  size_t slot = (hash ^ hash >> 32) & (map->capacity - 1);
  while (map->names[slot] && strcmp(map->names[slot], name) != 0)
    slot = (slot + 1) & (map->capacity - 1);
  return slot;
}

static Status allocate(NameMap *map, size_t capacity) {
  map->capacity = capacity;
  TRY(ARENA_NEW(map->arena, map->names, capacity));
  return ARENA_NEW(map->arena, map->values, capacity);
}

Status names_create(Arena *arena, NameMap *map) {
  *map = (NameMap){.arena = arena};
  return allocate(map, 16);
}

int names_find(const NameMap *map, const char *name) {
  size_t slot = slot_of(map, name);
  return map->names[slot] ? map->values[slot] : -1;
}

Status names_put(NameMap *map, const char *name, int value) {
  if (2 * (map->count + 1) > map->capacity) {
    NameMap old = *map;
    TRY(allocate(map, 2 * old.capacity));
    for (size_t i = 0; i < old.capacity; i++)
      if (old.names[i]) {
        size_t slot = slot_of(map, old.names[i]);
        map->names[slot] = old.names[i];
        map->values[slot] = old.values[i];
      }
  }
  size_t slot = slot_of(map, name);
  map->count += map->names[slot] == NULL;
  map->names[slot] = name;
  map->values[slot] = value;
  return OK;
}
