/* Searches for a better packing than first fit. A depth-first search places one piece after the other below a
 * capacity, each as low as those that are placed allow, in the order of their offsets: every packing can be brought
 * into this form by letting its pieces fall, lowest first. It turns back as soon as some time cannot hold what is still
 * to be placed there, and splits where no piece that is left links earlier with later times (the ideas are those of
 * MiniMalloc, Moffitt 2024). What to prefer among pieces is an order, and an order that fails fails late: so a search
 * is given up after some dead ends, and begun anew with another order, capacity and patience (Luby's sequence); the
 * orders put first what lives at times that were dead ends before. Invariant: `minimum` of a piece that is not placed
 * is the highest end of those placed that it meets. Everything is counted in integers: a machine gives what another
 * does. */
#include <string.h>

#include "base/arena.h"
#include "graph/pack.h"

enum {
  MOST_PIECES = 8192, /* that are searched for; the recursion is as deep */
  MOST_LINKS = 1 << 23,
  DEAD_ENDS = 64,     /* before another beginning, and every other time also */
  PATIENCE = 1000000, /* steps, times Luby's number */
  GONE = INT32_MAX    /* `minimum` of what is placed */
};

typedef struct {
  int32_t *where, old;
} Undo;

typedef struct {
  int32_t offset;
  int piece;
} Choice;

typedef struct {
  Arena *arena;
  int n, sections; /* times at which different pieces live; none lives at a subset of the times of another */
  int32_t *size, *offset, *best; /* [n], in units; `offset` of what is placed */
  int32_t *minimum;              /* [n] */
  int *first, *last, *rank;      /* [n]; rank: the smaller is preferred among equal offsets */
  int *near_begin, *near;        /* [n + 1], which pieces meet a piece */
  int *alive_begin, *alive;      /* [sections + 1], which pieces live then */
  int32_t *floor, *left;         /* [sections]: below is nothing to be had, and what is still to be placed */
  int32_t *full;                 /* [sections]: of all pieces */
  int32_t *links;                /* [sections]: pieces not placed that live in this one and the next */
  int32_t *weight;               /* [sections]: dead ends */
  int64_t *key;                  /* [n] */
  int32_t capacity;
  uint64_t steps, most_steps, patience;
  int64_t dead_ends, most_dead_ends;
  Undo *undo;
  size_t n_undo, undo_capacity;
  int *pieces; /* lists of the searches under way */
  size_t n_pieces, pieces_capacity;
  Choice *choices;
  size_t n_choices, choices_capacity;
  uint64_t seed;
} Search;

/* A part of the problem that is independent of the rest: pieces in s->pieces, of which some may be placed. */
typedef struct {
  size_t list;
  int n;
  int from, to;   /* sections */
  int32_t offset; /* at least, and in this rank */
  int rank;
} Part;

typedef enum { FOUND, NOTHING, GIVEN_UP } Outcome;

static Status set(Search *s, int32_t *where, int32_t value) {
  TRY(ARENA_RESERVE(s->arena, s->undo, s->n_undo, s->undo_capacity, s->n_undo + 1));
  s->undo[s->n_undo++] = (Undo){where, *where};
  *where = value;
  return OK;
}

/* Places a piece and raises what it raises. *fits: nothing seems to hinder the rest. */
static Status put(Search *s, int i, int32_t at, bool *fits) {
  int32_t end = at + s->size[i];
  int from = s->first[i], to = s->last[i];
  s->offset[i] = at;
  TRY(set(s, &s->minimum[i], GONE));
  for (int t = from; t <= to; t++) {
    TRY(set(s, &s->floor[t], end));
    TRY(set(s, &s->left[t], s->left[t] - s->size[i]));
    if (t < to)
      TRY(set(s, &s->links[t], s->links[t] - 1));
  }
  for (int k = s->near_begin[i]; k < s->near_begin[i + 1]; k++) {
    int other = s->near[k];
    if (s->minimum[other] >= end)
      continue;
    TRY(set(s, &s->minimum[other], end));
    from = s->first[other] < from ? s->first[other] : from;
    to = s->last[other] > to ? s->last[other] : to;
    *fits &= end + s->size[other] <= s->capacity;
  }
  s->steps += (uint64_t)(s->near_begin[i + 1] - s->near_begin[i]);
  for (int t = from; t <= to && *fits; t++) {
    if (!s->left[t])
      continue;
    int32_t lowest = GONE;
    for (int k = s->alive_begin[t]; k < s->alive_begin[t + 1]; k++)
      lowest = s->minimum[s->alive[k]] < lowest ? s->minimum[s->alive[k]] : lowest;
    s->steps += (uint64_t)(s->alive_begin[t + 1] - s->alive_begin[t]);
    if (lowest > s->floor[t])
      TRY(set(s, &s->floor[t], lowest));
  }
  return OK;
}

static void take_back(Search *s, size_t n_undo) {
  while (s->n_undo > n_undo) {
    s->n_undo--;
    *s->undo[s->n_undo].where = s->undo[s->n_undo].old;
  }
}

/* Whether every time can hold what is left, above this offset. */
static bool holds(Search *s, const Part *part, int32_t offset) {
  s->steps += (uint64_t)(part->to - part->from);
  for (int t = part->from; t < part->to; t++) {
    int32_t floor = s->floor[t] > offset ? s->floor[t] : offset;
    if (s->left[t] && s->left[t] > s->capacity - floor) {
      s->weight[t] += 16;
      return false;
    }
  }
  return true;
}

/* The pieces that may come next, by offset and rank: none beyond where another could still fit below. */
static Status list_choices(Search *s, const Part *part, int *n_left) {
  int32_t limit = GONE;
  int left = 0;
  for (int k = 0; k < part->n; k++) {
    int i = s->pieces[part->list + (size_t)k];
    left += s->minimum[i] != GONE;
    if (s->minimum[i] != GONE && s->minimum[i] + s->size[i] < limit)
      limit = s->minimum[i] + s->size[i];
  }
  s->steps += 2 * (uint64_t)part->n;
  size_t begin = s->n_choices;
  for (int k = 0; k < part->n; k++) {
    int i = s->pieces[part->list + (size_t)k];
    int32_t at = s->minimum[i];
    if (at >= limit || at < part->offset || (at == part->offset && s->rank[i] < part->rank))
      continue;
    TRY(ARENA_RESERVE(s->arena, s->choices, s->n_choices, s->choices_capacity, s->n_choices + 1));
    size_t to = s->n_choices++;
    for (; to > begin && (s->choices[to - 1].offset > at ||
                          (s->choices[to - 1].offset == at && s->rank[s->choices[to - 1].piece] > s->rank[i]));
         to--)
      s->choices[to] = s->choices[to - 1];
    s->choices[to] = (Choice){at, i};
    s->steps += s->n_choices - to;
  }
  *n_left = left;
  return OK;
}

static Status solve(Search *s, Part part, Outcome *outcome);

/* Solves what is left of a part, in the parts into which it falls. */
static Status solve_rest(Search *s, const Part *part, int n_left, int32_t offset, int rank, Outcome *outcome) {
  *outcome = FOUND;
  for (int from = part->from, to; from < part->to && *outcome == FOUND; from = to) {
    for (to = from; to < part->to - 1 && s->links[to] > 0;)
      to++;
    to++;
    if (!s->left[from] && to - from == 1)
      continue;
    Part rest = {.list = part->list, .n = part->n, .from = from, .to = to, .offset = offset, .rank = rank};
    size_t n_pieces = s->n_pieces;
    if (to - from < part->to - part->from || n_left < part->n / 2) {
      TRY(ARENA_RESERVE(s->arena, s->pieces, s->n_pieces, s->pieces_capacity, s->n_pieces + (size_t)part->n));
      rest.list = s->n_pieces;
      for (int k = 0; k < part->n; k++) {
        int i = s->pieces[part->list + (size_t)k];
        if (s->minimum[i] != GONE && s->first[i] >= from && s->first[i] < to)
          s->pieces[s->n_pieces++] = i;
      }
      rest.n = (int)(s->n_pieces - rest.list);
      s->steps += (uint64_t)part->n;
    }
    TRY(solve(s, rest, outcome));
    s->n_pieces = n_pieces;
  }
  return OK;
}

static Status try_choice(Search *s, const Part *part, int n_left, Choice choice, Outcome *outcome) {
  size_t n_undo = s->n_undo;
  bool fits = true;
  *outcome = NOTHING;
  TRY(put(s, choice.piece, choice.offset, &fits));
  if (fits && holds(s, part, choice.offset))
    TRY(solve_rest(s, part, n_left - 1, choice.offset, s->rank[choice.piece], outcome));
  take_back(s, n_undo);
  if (*outcome == FOUND)
    s->best[choice.piece] = choice.offset;
  s->dead_ends += *outcome == NOTHING;
  return OK;
}

static Status solve(Search *s, Part part, Outcome *outcome) {
  int n_left;
  size_t begin = s->n_choices;
  TRY(list_choices(s, &part, &n_left));
  size_t end = s->n_choices;
  *outcome = n_left ? NOTHING : FOUND;
  for (size_t k = begin; k < end && *outcome == NOTHING; k++) {
    if ((s->dead_ends > s->most_dead_ends && s->steps > s->patience) || s->steps > s->most_steps)
      *outcome = GIVEN_UP;
    else
      TRY(try_choice(s, &part, n_left, s->choices[k], outcome));
  }
  s->n_choices = begin;
  return OK;
}

/* Below `below`; xorshift. */
static int64_t draw(Search *s, int64_t below) {
  s->seed ^= s->seed << 13;
  s->seed ^= s->seed >> 7;
  s->seed ^= s->seed << 17;
  return (int64_t)((s->seed >> 20) % (uint64_t)below);
}

/* 64 times the binary logarithm of x ≥ 1, about: linear between powers. */
static int64_t logarithm(int64_t x) {
  int bits = 0;
  while (x >> bits > 1)
    bits++;
  return 64 * (int64_t)bits + (bits > 6 ? (x - (INT64_C(1) << bits)) >> (bits - 6) : ((x << 6) >> bits) - 64);
}

static void merge_by_key(Search *s, int *order, int *other, int n) {
  if (n < 2)
    return;
  int half = n / 2, a = 0, b = half;
  merge_by_key(s, order, other, half);
  merge_by_key(s, order + half, other, n - half);
  for (int k = 0; k < n; k++)
    other[k] = b == n || (a < half && s->key[order[a]] >= s->key[order[b]]) ? order[a++] : order[b++];
  memcpy(order, other, (size_t)n * sizeof *order);
}

/* Preferred are pieces that are large, live long, and live when much does, or when much failed; how far, is drawn. */
static void draw_order(Search *s, bool first, int *order, int *other) {
  int64_t by_size = first ? 16 : draw(s, 32) - 5, by_life = first ? 32 : draw(s, 48) - 8;
  int64_t by_load = first ? 8 : draw(s, 18) * draw(s, 18), noise = first || draw(s, 2) ? 0 : draw(s, 740);
  int64_t by_weight = first || draw(s, 2) ? 0 : draw(s, 32);
  for (int i = 0; i < s->n; i++) {
    int32_t load = 1, weight = 16;
    for (int t = s->first[i]; t <= s->last[i]; t++) {
      load = s->full[t] > load ? s->full[t] : load;
      weight = s->weight[t] > weight ? s->weight[t] : weight;
    }
    s->key[i] = by_size * logarithm(s->size[i]) + by_life * logarithm(s->last[i] - s->first[i] + 1) +
                by_load * logarithm(load) + by_weight * logarithm(weight) + (noise ? draw(s, noise) : 0);
    order[i] = i;
  }
  merge_by_key(s, order, other, s->n);
  for (int k = 0; k < s->n; k++)
    s->rank[order[k]] = k;
  for (int t = 0; t < s->sections; t++)
    s->weight[t] -= s->weight[t] / 20;
}

/* 1 1 2 1 1 2 4 … (Luby, Sinclair, Zuckerman 1993), from 1. */
static int64_t luby(int64_t k) {
  for (;;) {
    int64_t power = 1;
    while (power * 2 - 1 < k)
      power *= 2;
    if (power * 2 - 1 == k)
      return power;
    k -= power - 1;
  }
}

/* One beginning. */
static Status attempt(Search *s, Outcome *outcome) {
  Part all = {.n = s->n, .to = s->sections, .rank = -1};
  s->n_pieces = s->n_choices = s->n_undo = 0;
  s->dead_ends = 0;
  TRY(ARENA_RESERVE(s->arena, s->pieces, 0, s->pieces_capacity, (size_t)s->n));
  for (int i = 0; i < s->n; i++)
    s->pieces[s->n_pieces++] = i;
  return solve_rest(s, &all, s->n, 0, -1, outcome);
}

/* The goal, or anything in the upper half of what is left between it and what is known. */
static int32_t draw_capacity(Search *s, int32_t goal, int32_t known) {
  int64_t range = known - 1 - goal;
  return draw(s, 3) ? (int32_t)(known - 1 - draw(s, 1 + range / 2)) : goal;
}

static Status search(Search *s, int32_t goal, int32_t *known, int32_t *offsets) {
  int *order, *other;
  TRY(ARENA_NEW(s->arena, order, s->n));
  TRY(ARENA_NEW(s->arena, other, s->n));
  for (int64_t k = 1; *known > goal && s->steps < s->most_steps; k++) {
    Outcome outcome;
    draw_order(s, k == 1, order, other);
    s->capacity = draw_capacity(s, goal, *known);
    s->most_dead_ends = DEAD_ENDS;
    s->steps += 64 * (uint64_t)s->n;
    s->patience = s->steps + (k % 2 ? 0 : PATIENCE * (uint64_t)luby(k / 2));
    TRY(attempt(s, &outcome));
    if (outcome == NOTHING)
      goal = s->capacity + 1; /* proved */
    if (outcome != FOUND)
      continue;
    *known = 0;
    for (int i = 0; i < s->n; i++) {
      offsets[i] = s->best[i];
      *known = s->best[i] + s->size[i] > *known ? s->best[i] + s->size[i] : *known;
    }
  }
  return OK;
}

/* Times become sections: only those at which a piece dies before the next is born. */
static Status make_sections(Search *s, const Piece *pieces, int times) {
  int *begins, *section;
  bool *dies;
  TRY(ARENA_NEW(s->arena, begins, times + 1));
  TRY(ARENA_NEW(s->arena, section, times + 1));
  TRY(ARENA_NEW(s->arena, dies, times + 1));
  for (int i = 0; i < s->n; i++) {
    begins[pieces[i].first]++;
    dies[pieces[i].last] = true;
  }
  bool died = false;
  for (int t = 0; t < times; t++) {
    s->sections += died && begins[t] > 0;
    died &= begins[t] == 0;
    section[t] = s->sections;
    died |= dies[t];
  }
  s->sections++;
  for (int i = 0; i < s->n; i++) {
    s->first[i] = section[pieces[i].first];
    s->last[i] = section[pieces[i].last];
  }
  return OK;
}

static Status list_alive(Search *s) {
  TRY(ARENA_NEW(s->arena, s->alive_begin, s->sections + 2));
  TRY(ARENA_NEW(s->arena, s->floor, s->sections));
  TRY(ARENA_NEW(s->arena, s->left, s->sections));
  TRY(ARENA_NEW(s->arena, s->full, s->sections));
  TRY(ARENA_NEW(s->arena, s->links, s->sections));
  TRY(ARENA_NEW(s->arena, s->weight, s->sections));
  for (int i = 0; i < s->n; i++)
    for (int t = s->first[i]; t <= s->last[i]; t++) {
      s->alive_begin[t + 2]++;
      s->left[t] = s->full[t] += s->size[i];
      s->links[t] += t < s->last[i];
    }
  for (int t = 0; t < s->sections; t++)
    s->alive_begin[t + 2] += s->alive_begin[t + 1];
  TRY(ARENA_NEW(s->arena, s->alive, s->alive_begin[s->sections + 1]));
  for (int i = 0; i < s->n; i++)
    for (int t = s->first[i]; t <= s->last[i]; t++)
      s->alive[s->alive_begin[t + 1]++] = i;
  return OK;
}

/* *few: not more than MOST_LINKS. */
static Status list_near(Search *s, bool *few) {
  size_t n = 0, capacity = 0;
  TRY(ARENA_NEW(s->arena, s->near_begin, s->n + 1));
  for (int i = 0; i < s->n; i++) {
    for (int k = 0; k < s->n; k++) {
      if (k == i || s->first[k] > s->last[i] || s->first[i] > s->last[k])
        continue;
      TRY(ARENA_RESERVE(s->arena, s->near, n, capacity, n + 1));
      s->near[n++] = k;
    }
    s->near_begin[i + 1] = (int)n;
    if (n > MOST_LINKS)
      return OK;
  }
  *few = true;
  return OK;
}

static size_t common_divisor(size_t a, size_t b) {
  while (b) {
    size_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

static Status prepare(Search *s, const Piece *pieces, size_t unit, bool *few) {
  int times = 0;
  TRY(ARENA_NEW(s->arena, s->size, s->n));
  TRY(ARENA_NEW(s->arena, s->offset, s->n));
  TRY(ARENA_NEW(s->arena, s->best, s->n));
  TRY(ARENA_NEW(s->arena, s->minimum, s->n));
  TRY(ARENA_NEW(s->arena, s->first, s->n));
  TRY(ARENA_NEW(s->arena, s->last, s->n));
  TRY(ARENA_NEW(s->arena, s->rank, s->n));
  TRY(ARENA_NEW(s->arena, s->key, s->n));
  size_t lives = 0;
  for (int i = 0; i < s->n; i++) {
    s->size[i] = (int32_t)(pieces[i].bytes / unit);
    times = pieces[i].last >= times ? pieces[i].last + 1 : times;
  }
  TRY(make_sections(s, pieces, times));
  for (int i = 0; i < s->n; i++)
    lives += (size_t)(s->last[i] - s->first[i]) + 1;
  if (lives > MOST_LINKS)
    return OK;
  TRY(list_alive(s));
  return list_near(s, few);
}

static Status search_in_units(Search *s, Piece *pieces, size_t goal, size_t unit, size_t *end) {
  bool few = false;
  int32_t known = (int32_t)(*end / unit), *offsets;
  TRY(prepare(s, pieces, unit, &few));
  TRY(ARENA_NEW(s->arena, offsets, s->n));
  if (!few)
    return OK;
  TRY(search(s, (int32_t)((goal + unit - 1) / unit), &known, offsets));
  for (int i = 0; known < (int32_t)(*end / unit) && i < s->n; i++)
    pieces[i].offset = (size_t)offsets[i] * unit;
  *end = (size_t)known * unit;
  return OK;
}

Status pack_search(Piece *pieces, int n, size_t bound, size_t goal, uint64_t steps, size_t *end) {
  size_t unit = 0;
  for (int i = 0; i < n; i++)
    unit = common_divisor(unit, pieces[i].bytes);
  if (n > MOST_PIECES || !unit || *end / unit > INT32_MAX / 2 || goal < bound)
    return OK;
  Search s = {.arena = arena_create(), .n = n, .most_steps = steps, .seed = UINT64_C(88172645463325252)};
  if (!s.arena)
    return status_code();
  Status status = search_in_units(&s, pieces, goal, unit, end);
  arena_destroy(s.arena);
  return status;
}
