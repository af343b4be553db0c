/* First fit, largest first. Invariant: a piece is looked for in two ways that give the same answer: among all that are
 * placed, which lie in a list by offset, or among those that live when it does, which an index of times finds. */
#include "graph/pack.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"

/* A placed piece. */
typedef struct {
  size_t offset, end;
  int first, last;
} Placed;

typedef struct {
  int entry; /* of `links`, or -1 */
} Head;

typedef struct {
  int placed, next; /* index into `pieces`; the next link or -1 */
} Link;

typedef struct {
  const Piece *pieces;
  Placed *by_offset; /* [n_placed]; the first n_sorted lie by offset */
  int n_placed, n_sorted;
  int times;          /* a power of two */
  int *begun, *ended; /* [times + 1]: Fenwick trees that count placed pieces by first and by last */
  Head *spans,
      *firsts; /* [2 * times]: the pieces that live throughout a node of the tree of times; [times]: by first */
  Link *links;
  size_t n_links, links_capacity;
  Placed *found; /* [n] */
} Packer;

/* Larger first; the rest only makes the order total. */
static int by_size(const void *a, const void *b) {
  const Piece *x = a, *y = b;
  if (x->bytes != y->bytes)
    return x->bytes < y->bytes ? 1 : -1;
  if (x->first != y->first)
    return x->first < y->first ? -1 : 1;
  if (x->value != y->value)
    return x->value < y->value ? -1 : 1;
  return x->node < y->node ? -1 : x->node > y->node;
}

static int by_offset(const void *a, const void *b) {
  const Placed *x = a, *y = b;
  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void count_at(const Packer *p, int *tree, int time) {
  for (int at = time + 1; at <= p->times; at += at & -at)
    tree[at]++;
}

/* Placed pieces with a time before this one. */
static int count_before(const int *tree, int time) {
  int sum = 0;
  for (int at = time; at > 0; at -= at & -at)
    sum += tree[at];
  return sum;
}

static Status hang(Packer *p, Arena *arena, Head *head, int piece) {
  TRY(ARENA_RESERVE(arena, p->links, p->n_links, p->links_capacity, p->n_links + 1));
  p->links[p->n_links] = (Link){piece, head->entry};
  head->entry = (int)p->n_links++;
  return OK;
}

static Status note(Packer *p, Arena *arena, int i) {
  const Piece *piece = &p->pieces[i];
  count_at(p, p->begun, piece->first);
  count_at(p, p->ended, piece->last);
  TRY(hang(p, arena, &p->firsts[piece->first], i));
  for (int low = piece->first + p->times, high = piece->last + p->times + 1; low < high; low /= 2, high /= 2) {
    if (low & 1)
      TRY(hang(p, arena, &p->spans[low++], i));
    if (high & 1)
      TRY(hang(p, arena, &p->spans[--high], i));
  }
  p->by_offset[p->n_placed++] = (Placed){piece->offset, piece->offset + piece->bytes, piece->first, piece->last};
  return OK;
}

/* Merges in what has been placed since the list was last looked at. */
static void sort_list(Packer *p) {
  int n = p->n_placed - p->n_sorted, low = p->n_sorted, to = p->n_placed;
  if (!n)
    return;
  Placed *fresh = memcpy(p->found, &p->by_offset[low], (size_t)n * sizeof *fresh);
  qsort(fresh, (size_t)n, sizeof *fresh, by_offset);
  while (n > 0)
    p->by_offset[--to] =
        low > 0 && p->by_offset[low - 1].offset > fresh[n - 1].offset ? p->by_offset[--low] : fresh[--n];
  p->n_sorted = p->n_placed;
}

static int take(const Packer *p, Head head, int n) {
  for (int link = head.entry; link >= 0; link = p->links[link].next) {
    const Piece *piece = &p->pieces[p->links[link].placed];
    p->found[n++] = (Placed){piece->offset, piece->offset + piece->bytes, piece->first, piece->last};
  }
  return n;
}

/* Those that live when the piece does, by offset: alive when it begins, or begun while it lives. */
static int find(const Packer *p, const Piece *piece) {
  int n = 0;
  for (int at = piece->first + p->times; at >= 1; at /= 2)
    n = take(p, p->spans[at], n);
  for (int time = piece->first + 1; time <= piece->last; time++)
    n = take(p, p->firsts[time], n);
  if (n)
    qsort(p->found, (size_t)n, sizeof *p->found, by_offset);
  return n;
}

/* The lowest offset between these, which lie by offset. */
static size_t lowest(const Placed *placed, int n, const Piece *piece) {
  size_t offset = 0;
  for (int k = 0; k < n && placed[k].offset < offset + piece->bytes; k++)
    if (placed[k].first <= piece->last && piece->first <= placed[k].last && placed[k].end > offset)
      offset = placed[k].end;
  return offset;
}

static size_t place(Packer *p, const Piece *piece) {
  int alive =
      p->n_placed - count_before(p->ended, piece->first) - (p->n_placed - count_before(p->begun, piece->last + 1));
  int steps = 4; /* what sorting takes of each, about */
  for (int n = alive; n > 1; n /= 2)
    steps++;
  if ((double)alive * steps + (piece->last - piece->first) >= p->n_placed) {
    sort_list(p);
    return lowest(p->by_offset, p->n_placed, piece);
  }
  return lowest(p->found, find(p, piece), piece);
}

static Status prepare(Packer *p, Arena *arena, int n) {
  int last = 0;
  for (int i = 0; i < n; i++)
    last = p->pieces[i].last > last ? p->pieces[i].last : last;
  for (p->times = 1; p->times <= last;)
    p->times *= 2;
  TRY(ARENA_NEW(arena, p->by_offset, n));
  TRY(ARENA_NEW(arena, p->found, n));
  TRY(ARENA_NEW(arena, p->begun, p->times + 1));
  TRY(ARENA_NEW(arena, p->ended, p->times + 1));
  TRY(ARENA_NEW(arena, p->spans, 2 * p->times));
  TRY(ARENA_NEW(arena, p->firsts, p->times));
  for (int i = 0; i < 2 * p->times; i++)
    p->spans[i].entry = -1;
  for (int i = 0; i < p->times; i++)
    p->firsts[i].entry = -1;
  return OK;
}

static Status place_all(Packer *p, Arena *arena, Piece *pieces, int n, size_t *total) {
  TRY(prepare(p, arena, n));
  for (int i = 0; i < n; i++) {
    size_t end;
    pieces[i].offset = place(p, &pieces[i]);
    if (!checked_add(pieces[i].offset, pieces[i].bytes, &end) || end > SIZE_MAX / 2)
      return fail(E_LIMIT, "sizes overflow");
    *total = end > *total ? end : *total;
    TRY(note(p, arena, i));
  }
  return OK;
}

Status pack_bound(const Piece *pieces, int n, size_t *bound) {
  size_t times = 0, alive = 0;
  for (int i = 0; i < n; i++)
    times = (size_t)pieces[i].last >= times ? (size_t)pieces[i].last + 1 : times;
  size_t *born = calloc(2 * times + 1, sizeof *born), *dead = born + times;
  if (!born)
    return fail(E_MEMORY, "out of memory");
  for (int i = 0; i < n; i++) {
    born[pieces[i].first] += pieces[i].bytes;
    dead[pieces[i].last] += pieces[i].bytes;
  }
  *bound = 0;
  for (size_t t = 0; t < times; t++) {
    alive += born[t];
    *bound = alive > *bound ? alive : *bound;
    alive -= dead[t];
  }
  free(born);
  return OK;
}

static Status fill(Packer *p, Arena *arena, const Piece *fixed, int n_fixed, size_t room, Piece *pieces, int n) {
  Piece *all;
  TRY(ARENA_NEW(arena, all, n_fixed + n));
  memcpy(all, fixed, (size_t)n_fixed * sizeof *all);
  memcpy(all + n_fixed, pieces, (size_t)n * sizeof *all);
  p->pieces = all;
  TRY(prepare(p, arena, n_fixed + n));
  for (int i = 0; i < n_fixed; i++)
    TRY(note(p, arena, i));
  for (int i = 0; i < n; i++) {
    size_t offset = pieces[i].bytes <= room ? place(p, &pieces[i]) : SIZE_MAX;
    pieces[i].offset = offset <= room && pieces[i].bytes <= room - offset ? offset : SIZE_MAX;
    if (pieces[i].offset == SIZE_MAX)
      continue;
    all[n_fixed + i].offset = offset;
    TRY(note(p, arena, n_fixed + i));
  }
  return OK;
}

Status pack_within(const Piece *fixed, int n_fixed, size_t room, Piece *pieces, int n) {
  if (!n)
    return OK;
  Arena *arena = arena_create();
  Packer p = {0};
  if (!arena)
    return status_code();
  qsort(pieces, (size_t)n, sizeof *pieces, by_size);
  Status status = fill(&p, arena, fixed, n_fixed, room, pieces, n);
  arena_destroy(arena);
  return status;
}

static Status pack_all(Packer *p, Arena *arena, Piece *pieces, int n, uint64_t steps, size_t *total) {
  size_t end = 0, bound;
  TRY(place_all(p, arena, pieces, n, &end));
  if (steps && end > *total) {
    TRY(pack_bound(pieces, n, &bound));
    size_t goal = bound > *total ? bound : *total;
    if (end > goal)
      TRY(pack_search(pieces, n, bound, goal, steps, &end));
  }
  *total = end > *total ? end : *total;
  return OK;
}

Status pack(Piece *pieces, int n, uint64_t steps, size_t *total) {
  if (!n)
    return OK;
  Arena *arena = arena_create();
  Packer p = {.pieces = pieces};
  if (!arena)
    return status_code();
  qsort(pieces, (size_t)n, sizeof *pieces, by_size);
  Status status = pack_all(&p, arena, pieces, n, steps, total);
  arena_destroy(arena);
  return status;
}
