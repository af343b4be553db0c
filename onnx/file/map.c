/* Open addressing, at most half full. Invariant: a probe from a key's hash meets the key before a free slot. */
#include "onnx/file/map.h"

#include <stdint.h>
#include <string.h>

typedef struct {
  uint64_t hash;
  const void *key;
  size_t bytes;
  void *value; /* NULL: free */
} Slot;

struct Map {
  Arena *arena;
  Slot *slots;
  size_t n_slots, used;
};

static uint64_t hash_bytes(const void *key, size_t bytes) {
  const uint8_t *at = key;
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < bytes; i++)
    h = (h ^ at[i]) * 0x100000001b3u;
  return h ^ h >> 29;
}

static Slot *slot_of(Slot *slots, size_t n, uint64_t hash, const void *key, size_t bytes) {
  for (size_t i = hash & (n - 1);; i = (i + 1) & (n - 1)) {
    Slot *slot = &slots[i];
    if (!slot->value ||
        (slot->hash == hash && slot->bytes == bytes && (bytes == 0 || memcmp(slot->key, key, bytes) == 0)))
      return slot;
  }
}

Status map_create(Arena *arena, Map **map) {
  TRY(ARENA_NEW(arena, *map, 1));
  (*map)->arena = arena;
  (*map)->n_slots = 16;
  return ARENA_NEW(arena, (*map)->slots, (*map)->n_slots);
}

void *map_find(const Map *map, const void *key, size_t bytes) {
  return slot_of(map->slots, map->n_slots, hash_bytes(key, bytes), key, bytes)->value;
}

static Status double_slots(Map *map) {
  Slot *slots;
  size_t n = map->n_slots * 2;
  TRY(ARENA_NEW(map->arena, slots, n));
  for (size_t i = 0; i < map->n_slots; i++) {
    const Slot *old = &map->slots[i];
    if (old->value)
      *slot_of(slots, n, old->hash, old->key, old->bytes) = *old;
  }
  map->slots = slots;
  map->n_slots = n;
  return OK;
}

Status map_put(Map *map, const void *key, size_t bytes, void *value) {
  uint64_t hash = hash_bytes(key, bytes);
  Slot *slot = slot_of(map->slots, map->n_slots, hash, key, bytes);
  if (slot->value) {
    slot->value = value;
    return OK;
  }
  if (2 * (map->used + 1) > map->n_slots) {
    TRY(double_slots(map));
    slot = slot_of(map->slots, map->n_slots, hash, key, bytes);
  }
  void *copy = arena_copy(map->arena, key, bytes);
  if (!copy)
    return status_code();
  *slot = (Slot){.hash = hash, .key = copy, .bytes = bytes, .value = value};
  map->used++;
  return OK;
}
