/* Packing: the same offsets as first fit by its definition, for pieces of every kind of life, and soon also for many.
 */
#include <stdlib.h>
#include <time.h>

#include "graph/pack.h"
#include "tests/random_graph.h"

enum { PIECES = 600 };

/* Lives of one instant, short ones, all lengths, or all at once. */
static void draw(uint64_t *seed, Piece *pieces, int n, int kind) {
  int times = kind == 0 ? n : 1 + (int)random_below(seed, 300);
  for (int i = 0; i < n; i++) {
    int first = (int)random_below(seed, (unsigned)times);
    unsigned longest = kind == 0 ? 1 : kind == 1 ? 4 : (unsigned)times;
    int last = kind == 3 ? times - 1 : first + (int)random_below(seed, longest);
    pieces[i] = (Piece){.bytes = 64 * (1 + random_below(seed, random_below(seed, 2) ? 4 : 400)),
                        .first = kind == 3 ? 0 : first,
                        .last = last < times ? last : times - 1,
                        .value = (ValueId)i,
                        .node = NO_NODE};
  }
}

static bool meet(const Piece *a, const Piece *b) {
  return a->first <= b->last && b->first <= a->last && a->offset < b->offset + b->bytes &&
         b->offset < a->offset + a->bytes;
}

/* The first of 0 and the ends of those before where piece i meets none of them. */
static size_t first_fit(const Piece *pieces, int i) {
  size_t best = SIZE_MAX;
  for (int k = -1; k < i; k++) {
    Piece piece = pieces[i];
    bool free = true;
    piece.offset = k < 0 ? 0 : pieces[k].offset + pieces[k].bytes;
    for (int j = 0; j < i && free && piece.offset < best; j++)
      free = !meet(&piece, &pieces[j]);
    if (free && piece.offset < best)
      best = piece.offset;
  }
  return best;
}

static void offsets_are_first_fit(void **state) {
  (void)state;
  static Piece pieces[PIECES];
  for (uint64_t round = 1; round <= 24; round++) {
    uint64_t seed = round;
    int n = 1 + (int)random_below(&seed, PIECES);
    size_t total = 0, end = 0;
    draw(&seed, pieces, n, (int)(round % 4));
    ASSERT_OK(pack(pieces, n, &total));
    for (int i = 0; i < n; i++) {
      assert_true(!i || pieces[i - 1].bytes >= pieces[i].bytes);
      assert_int_equal(pieces[i].offset, first_fit(pieces, i));
      end = pieces[i].offset + pieces[i].bytes > end ? pieces[i].offset + pieces[i].bytes : end;
    }
    assert_int_equal(total, end);
  }
}

/* Where every piece had to be compared with every other, this took minutes. */
static void many_are_packed_soon(void **state) {
  (void)state;
  enum { MANY = 200000 };
  Piece *pieces = malloc(MANY * sizeof *pieces);
  assert_non_null(pieces);
  for (int i = 0; i < MANY; i++) {
    int last = i + i % 3;
    pieces[i] = (Piece){.bytes = 64 * (size_t)(1 + i * 7919ll % 971),
                        .first = i,
                        .last = last < MANY ? last : MANY - 1,
                        .value = (ValueId)i,
                        .node = NO_NODE};
  }
  size_t total = 0;
  clock_t begun = clock();
  ASSERT_OK(pack(pieces, MANY, &total));
  assert_true((double)(clock() - begun) / CLOCKS_PER_SEC < 20);
  free(pieces);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(offsets_are_first_fit), cmocka_unit_test(many_are_packed_soon)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
