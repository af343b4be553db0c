/* How near the planner's arenas come to what must live at once: `arena_bench FILE…` prints for each its name, the bytes
 * that `pack` takes, its lower bound (the most bytes alive at one time) and seconds. A file is a table of buffers, in
 * lines `id,lower,upper,size` under one such title: `size` bytes that live over [lower, upper). */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/each_file.h"
#include "graph/pack.h"

typedef struct {
  int64_t lower, upper;
  size_t bytes;
} Buffer;

typedef struct {
  Buffer *buffers;
  int64_t *times;
  Piece *pieces;
  int n;
} Problem;

static Status read_line(const char *line, int number, Buffer *buffer) {
  int64_t lower, upper, size;
  int end = 0;
  if (sscanf(line, "%*[^,],%" SCNd64 ",%" SCNd64 ",%" SCNd64 " %n", &lower, &upper, &size, &end) != 3 || line[end] ||
      lower >= upper || size < 0)
    return fail(E_USAGE, "line %d is no 'id,lower,upper,size' with lower < upper and size ≥ 0", number);
  *buffer = (Buffer){lower, upper, (size_t)size};
  return OK;
}

static Status read_lines(Arena *arena, FILE *file, Problem *p) {
  char line[256];
  size_t n = 0, capacity = 0;
  for (int number = 1; fgets(line, sizeof line, file); number++) {
    line[strcspn(line, "\r\n")] = 0;
    if (number == 1 || !*line)
      continue;
    TRY(ARENA_RESERVE(arena, p->buffers, n, capacity, n + 1));
    TRY(read_line(line, number, &p->buffers[n++]));
  }
  p->n = (int)n;
  return OK;
}

static int compare(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? -1 : x > y;
}

/* How many of the times are before this one. */
static int before(const Problem *p, int64_t time) {
  int low = 0, high = 2 * p->n;
  while (low < high) {
    int middle = (low + high) / 2;
    if (p->times[middle] < time)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static Status make_pieces(Arena *arena, Problem *p) {
  TRY(ARENA_NEW(arena, p->times, 2 * p->n));
  TRY(ARENA_NEW(arena, p->pieces, p->n));
  for (int i = 0; i < p->n; i++) {
    p->times[2 * i] = p->buffers[i].lower;
    p->times[2 * i + 1] = p->buffers[i].upper;
  }
  qsort(p->times, 2 * (size_t)p->n, sizeof *p->times, compare);
  for (int i = 0; i < p->n; i++) {
    const Buffer *buffer = &p->buffers[i];
    p->pieces[i] = (Piece){.bytes = buffer->bytes,
                           .first = before(p, buffer->lower),
                           .last = before(p, buffer->upper) - 1,
                           .value = (ValueId)i,
                           .node = NO_NODE};
  }
  return OK;
}

static bool apart(const Piece *a, const Piece *b) {
  return a->last < b->first || b->last < a->first || a->offset + a->bytes <= b->offset ||
         b->offset + b->bytes <= a->offset;
}

static Status check(const Problem *p, size_t total) {
  for (int i = 0; i < p->n; i++) {
    if (p->pieces[i].offset + p->pieces[i].bytes > total)
      return fail(E_USAGE, "a buffer ends beyond the arena");
    for (int k = 0; k < i; k++)
      if (!apart(&p->pieces[i], &p->pieces[k]))
        return fail(E_USAGE, "two buffers share bytes");
  }
  return OK;
}

static Status measure(Arena *arena, const char *name) {
  Problem p = {0};
  size_t total = 0, bound;
  FILE *file = fopen(name, "r");
  if (!file)
    return fail(E_IO, "%s", strerror(errno));
  Status status = read_lines(arena, file, &p);
  fclose(file);
  TRY(status);
  TRY(make_pieces(arena, &p));
  double begun = clock_seconds();
  TRY(pack(p.pieces, p.n, PACK_THOROUGH, &total));
  double seconds = clock_seconds() - begun;
  TRY(check(&p, total));
  TRY(pack_bound(p.pieces, p.n, &bound));
  printf("%s %zu %zu %.3f\n", name, total, bound, seconds);
  return OK;
}

int main(int n, char **names) {
  return each_file("arena_bench", n, names, measure);
}
