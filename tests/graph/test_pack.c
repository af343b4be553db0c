/* Packing: the same offsets as first fit by its definition, for pieces of every kind of life, and soon also for many;
 * searching finds what exhaustion does for a few, and a packing without waste. */
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
    ASSERT_OK(pack(pieces, n, PACK_FIRST_FIT, &total));
    for (int i = 0; i < n; i++) {
      assert_true(!i || pieces[i - 1].bytes >= pieces[i].bytes);
      assert_int_equal(pieces[i].offset, first_fit(pieces, i));
      end = pieces[i].offset + pieces[i].bytes > end ? pieces[i].offset + pieces[i].bytes : end;
    }
    assert_int_equal(total, end);
  }
}

/* The least end of first fit over all orders, which is the least of all. */
static size_t least(Piece *pieces, int n, int at, size_t end) {
  size_t best = SIZE_MAX;
  if (at == n)
    return end;
  for (int k = at; k < n; k++) {
    Piece swapped = pieces[at];
    pieces[at] = pieces[k];
    pieces[k] = swapped;
    pieces[at].offset = first_fit(pieces, at);
    size_t top = pieces[at].offset + pieces[at].bytes;
    top = least(pieces, n, at + 1, top > end ? top : end);
    best = top < best ? top : best;
    swapped = pieces[at];
    pieces[at] = pieces[k];
    pieces[k] = swapped;
  }
  return best;
}

static void check_apart(const Piece *pieces, int n, size_t total) {
  for (int i = 0; i < n; i++) {
    assert_true(pieces[i].offset + pieces[i].bytes <= total);
    for (int k = 0; k < i; k++)
      assert_false(meet(&pieces[i], &pieces[k]));
  }
}

static size_t bound_of(const Piece *pieces, int n) {
  size_t bound;
  ASSERT_OK(pack_bound(pieces, n, &bound));
  return bound;
}

static void few_are_packed_as_well_as_can_be(void **state) {
  (void)state;
  int searched = 0;
  for (uint64_t round = 1; round <= 300; round++) {
    Piece pieces[7];
    uint64_t seed = round;
    size_t total = 0, first = 0;
    int n = 4 + (int)(round % 4);
    for (int i = 0; i < n; i++) {
      int begin = (int)random_below(&seed, 6);
      pieces[i] = (Piece){.bytes = 64 * (1 + random_below(&seed, 9)),
                          .first = begin,
                          .last = begin + (int)random_below(&seed, 4),
                          .value = (ValueId)i,
                          .node = NO_NODE};
    }
    size_t best = least(pieces, n, 0, 0);
    ASSERT_OK(pack(pieces, n, PACK_FIRST_FIT, &first));
    ASSERT_OK(pack(pieces, n, PACK_THOROUGH, &total));
    assert_int_equal(total, best);
    assert_true(total >= bound_of(pieces, n));
    check_apart(pieces, n, total);
    searched += first > total;
  }
  assert_true(searched > 10);
}

/* Whatever is drawn, the search makes nothing worse, and gives the same again. */
static void a_search_is_repeatable(void **state) {
  (void)state;
  enum { SOME = 150 };
  static Piece pieces[SOME], again[SOME];
  for (uint64_t round = 1; round <= 12; round++) {
    uint64_t seed = round, same = round;
    size_t total = 0, first = 0, repeated = 0;
    int n = 20 + (int)random_below(&seed, SOME - 20);
    same = seed;
    draw(&seed, pieces, n, (int)(round % 4));
    draw(&same, again, n, (int)(round % 4));
    ASSERT_OK(pack(again, n, PACK_FIRST_FIT, &first));
    ASSERT_OK(pack(again, n, 3000000, &repeated));
    ASSERT_OK(pack(pieces, n, 3000000, &total));
    check_apart(pieces, n, total);
    assert_true(total <= first && total >= bound_of(pieces, n));
    assert_int_equal(total, repeated);
    for (int i = 0; i < n; i++)
      for (int k = 0; k < n; k++)
        if (pieces[i].value == again[k].value)
          assert_int_equal(pieces[i].offset, again[k].offset);
  }
}

/* Pieces that fill a rectangle without a gap, cut from it at random: first fit wastes what a search finds. */
static void what_was_cut_is_put_together(void **state) {
  (void)state;
  enum { CUTS = 24 };
  Piece pieces[CUTS + 1];
  for (uint64_t round = 1; round <= 8; round++) {
    uint64_t seed = round * 77;
    int n = 1;
    size_t total = 0;
    pieces[0] = (Piece){.bytes = 64 * 960, .last = 63, .value = 0, .node = NO_NODE};
    while (n <= CUTS) {
      Piece *from = &pieces[random_below(&seed, (unsigned)n)], *part = &pieces[n];
      bool by_time = random_below(&seed, 2);
      if (by_time ? from->first == from->last : from->bytes < 128)
        continue;
      *part = *from;
      part->value = (ValueId)n++;
      if (by_time) {
        from->last = from->first + (int)random_below(&seed, (unsigned)(from->last - from->first));
        part->first = from->last + 1;
      } else {
        from->bytes = 64 * (1 + random_below(&seed, (unsigned)(from->bytes / 64 - 1)));
        part->bytes -= from->bytes;
      }
    }
    ASSERT_OK(pack(pieces, n, 100000000, &total));
    assert_int_equal(total, 64 * 960);
    check_apart(pieces, n, total);
  }
}

/* What is fixed stays; the rest lies between, or nowhere: where it lies nowhere, there was no room for it. */
static void rooms_are_filled(void **state) {
  (void)state;
  static Piece pieces[PIECES];
  int placed = 0, left = 0;
  for (uint64_t round = 1; round <= 24; round++) {
    uint64_t seed = round;
    int n = 40 + (int)random_below(&seed, 200), fixed = n / 2, kept = fixed;
    size_t room = 0;
    draw(&seed, pieces, n, (int)(round % 4));
    ASSERT_OK(pack(pieces, fixed, PACK_FIRST_FIT, &room));
    ASSERT_OK(pack_within(pieces, fixed, room, pieces + fixed, n - fixed));
    for (int i = fixed; i < n; i++) {
      assert_true(i == fixed || pieces[i - 1].bytes >= pieces[i].bytes);
      Piece piece = pieces[i];
      pieces[i] = pieces[kept];
      pieces[kept] = piece;
      assert_true(piece.offset == SIZE_MAX ? first_fit(pieces, kept) + piece.bytes > room
                                           : piece.offset == first_fit(pieces, kept));
      kept += piece.offset != SIZE_MAX;
      left += piece.offset == SIZE_MAX;
    }
    check_apart(pieces, kept, room);
    placed += kept - fixed;
  }
  assert_true(placed > 100 && left > 100);
}

/* What lies in room that is there anyway is not searched for. */
static void room_that_is_there_is_enough(void **state) {
  (void)state;
  Piece pieces[] = {{.bytes = 64, .last = 2}, {.bytes = SIZE_MAX / 2 - 63, .first = 1, .last = 3}};
  size_t total = 1000;
  ASSERT_OK(pack(pieces, 1, PACK_THOROUGH, &total));
  assert_int_equal(total, 1000);
  ASSERT_FAILS(E_LIMIT, "sizes overflow", pack(pieces, 2, PACK_THOROUGH, &total));
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
  ASSERT_OK(pack(pieces, MANY, PACK_FIRST_FIT, &total));
  assert_true((double)(clock() - begun) / CLOCKS_PER_SEC < 20);
  free(pieces);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(offsets_are_first_fit),  cmocka_unit_test(few_are_packed_as_well_as_can_be),
      cmocka_unit_test(a_search_is_repeatable), cmocka_unit_test(what_was_cut_is_put_together),
      cmocka_unit_test(rooms_are_filled),       cmocka_unit_test(room_that_is_there_is_enough),
      cmocka_unit_test(many_are_packed_soon)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
