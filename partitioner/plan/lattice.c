/* Ideals, breadth first. Invariant: an ideal's upper neighbours are listed when it is visited, in the order of nodes
 * that its parent had, and an ideal that is reached twice is found by its hash. */
#include "partitioner/plan/lattice.h"

#include <string.h>

typedef struct {
  Arena *arena;
  const Reduced *graph;
  Lattice *lattice;
  uint64_t *hash;      /* [n_ideals] */
  int *parent, *added; /* [n_ideals] */
  int *table;          /* [slots] number of an ideal + 1 */
  size_t slots, n_above, sets_room, hash_room, parent_room, added_room, first_room, above_room, node_room;
} Maker;

static uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

static uint64_t *set_of(const Lattice *l, int ideal) {
  return l->sets + (size_t)ideal * (size_t)l->words;
}

static Status grow_table(Maker *m) {
  size_t slots = m->slots ? 2 * m->slots : 1024;
  TRY(ARENA_NEW(m->arena, m->table, slots));
  m->slots = slots;
  for (int i = 0; i < m->lattice->n_ideals; i++) {
    size_t at = m->hash[i] & (slots - 1);
    while (m->table[at])
      at = (at + 1) & (slots - 1);
    m->table[at] = i + 1;
  }
  return OK;
}

static bool is_sum(const Lattice *l, int ideal, int from, int node) {
  const uint64_t *a = set_of(l, ideal), *b = set_of(l, from);
  for (int w = 0; w < l->words; w++)
    if (a[w] != (b[w] | (w == node / 64 ? (uint64_t)1 << (node % 64) : 0)))
      return false;
  return true;
}

/* The ideal `from` with the node, made where it is new. */
static Status find_ideal(Maker *m, int from, int node, int *ideal) {
  Lattice *l = m->lattice;
  uint64_t hash = m->hash[from] ^ mix((uint64_t)node);
  size_t at = hash & (m->slots - 1);
  for (; m->table[at]; at = (at + 1) & (m->slots - 1)) {
    *ideal = m->table[at] - 1;
    if (m->hash[*ideal] == hash && is_sum(l, *ideal, from, node))
      return OK;
  }
  size_t n = (size_t)l->n_ideals, words = (size_t)l->words;
  TRY(ARENA_RESERVE(m->arena, l->sets, n * words, m->sets_room, (n + 1) * words));
  TRY(ARENA_RESERVE(m->arena, m->hash, n, m->hash_room, n + 1));
  TRY(ARENA_RESERVE(m->arena, m->parent, n, m->parent_room, n + 1));
  TRY(ARENA_RESERVE(m->arena, m->added, n, m->added_room, n + 1));
  *ideal = l->n_ideals++;
  memcpy(set_of(l, *ideal), set_of(l, from), words * sizeof(uint64_t));
  set_of(l, *ideal)[node / 64] |= (uint64_t)1 << (node % 64);
  m->hash[n] = hash;
  m->parent[n] = from;
  m->added[n] = node;
  m->table[at] = *ideal + 1;
  return 2 * (n + 1) > m->slots ? grow_table(m) : OK;
}

static Status add_above(Maker *m, int ideal, int node) {
  Lattice *l = m->lattice;
  int above;
  TRY(find_ideal(m, ideal, node, &above));
  TRY(ARENA_RESERVE(m->arena, l->above, m->n_above, m->above_room, m->n_above + 1));
  TRY(ARENA_RESERVE(m->arena, l->node, m->n_above, m->node_room, m->n_above + 1));
  l->above[m->n_above] = above;
  l->node[m->n_above++] = node;
  return OK;
}

static bool has_all_before(const Maker *m, int ideal, int node) {
  for (int k = m->graph->before.first[node]; k < m->graph->before.first[node + 1]; k++)
    if (!lattice_has(m->lattice, ideal, m->graph->before.at[k]))
      return false;
  return true;
}

/* What the parent could add, less what was added, and what that makes possible. */
static Status visit(Maker *m, int ideal) {
  Lattice *l = m->lattice;
  const Lists *after = &m->graph->after;
  TRY(ARENA_RESERVE(m->arena, l->above_first, ideal + 1, m->first_room, ideal + 2));
  if (ideal == 0)
    for (int v = 0; v < m->graph->n; v++)
      if (has_all_before(m, 0, v))
        TRY(add_above(m, 0, v));
  int parent = m->parent[ideal], added = m->added[ideal];
  for (size_t k = l->above_first[parent]; ideal > 0 && k < l->above_first[parent + 1]; k++)
    if (l->node[k] != added)
      TRY(add_above(m, ideal, l->node[k]));
  for (int k = after->first[added]; ideal > 0 && k < after->first[added + 1]; k++)
    if (has_all_before(m, ideal, after->at[k]))
      TRY(add_above(m, ideal, after->at[k]));
  l->above_first[ideal + 1] = m->n_above;
  return OK;
}

Status lattice_create(Arena *arena, const Reduced *reduced, size_t most_ideals, Lattice *lattice) {
  Maker m = {.arena = arena, .graph = reduced, .lattice = lattice};
  *lattice = (Lattice){.words = reduced->n / 64 + 1};
  TRY(ARENA_RESERVE(arena, lattice->sets, 0, m.sets_room, lattice->words));
  TRY(ARENA_RESERVE(arena, m.hash, 0, m.hash_room, 1));
  TRY(ARENA_RESERVE(arena, m.parent, 0, m.parent_room, 1));
  TRY(ARENA_RESERVE(arena, m.added, 0, m.added_room, 1));
  TRY(ARENA_RESERVE(arena, lattice->above_first, 0, m.first_room, 1));
  lattice->above_first[0] = 0;
  memset(lattice->sets, 0, (size_t)lattice->words * sizeof *lattice->sets);
  m.hash[0] = 0;
  m.parent[0] = m.added[0] = 0;
  lattice->n_ideals = 1;
  TRY(grow_table(&m));
  for (int i = 0; i < lattice->n_ideals; i++) {
    TRY(visit(&m, i));
    size_t width = lattice->above_first[i + 1] - lattice->above_first[i];
    if ((size_t)lattice->n_ideals > most_ideals || (width < 64 ? most_ideals >> width == 0 : true))
      return OK; /* any of the nodes that can be added can be left out */
  }
  lattice->complete = true;
  return OK;
}
