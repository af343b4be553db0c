/* States that pass through a window, and graphs that reach for them where they lie: whoever comes second finds what the
 * first one left, however far streams are behind each other. */
#include <stdio.h>

#include "graph/memory.h"
#include "runtime/executor/shuttle.h"
#include "tests/cuda/emulation.h"
#include "tests/test.h"

enum { COUNT = 64, BYTES = COUNT * sizeof(float), SEEDS = 40, ROUNDS = 4 };

typedef struct {
  Stream *s;
  Shuttle *shuttle;
  float *state, *numbers[2], *seen[2]; /* pinned; of both turns */
  void *device;
} Bench;

static void pin(const Bench *b, float **memory) {
  void *pinned;
  ASSERT_OK(backend_cuda.pin(b->s, BYTES, &pinned));
  *memory = pinned;
}

static void open_bench(Bench *b, uint64_t seed) {
  emulation_seed(seed);
  ASSERT_OK(backend_cuda.stream_open(0, 1, &b->s));
  pin(b, &b->state);
  for (int i = 0; i < 2; i++) {
    pin(b, &b->numbers[i]);
    pin(b, &b->seen[i]);
  }
  ASSERT_OK(backend_cuda.alloc(b->s, BYTES, &b->device));
  ASSERT_OK(shuttle_open(&backend_cuda, b->s, 0, WINDOW_SLOTS * BYTES, &b->shuttle));
}

static void close_bench(Bench *b) {
  shuttle_close(b->shuttle);
  backend_cuda.release(b->s, b->device);
  backend_cuda.unpin(b->s, b->state);
  for (int i = 0; i < 2; i++) {
    backend_cuda.unpin(b->s, b->numbers[i]);
    backend_cuda.unpin(b->s, b->seen[i]);
  }
  backend_cuda.stream_close(b->s);
  assert_int_equal(emulation_allocated(), 0);
}

static void fill(float *numbers, float with) {
  for (int i = 0; i < COUNT; i++)
    numbers[i] = with;
}

/* An update whose state passes through a slot: it has `numbers` behind it. */
static void update_in_window(const Bench *b, int slot, int turn) {
  Span span = {.offset = 0, .host = (char *)b->state, .bytes = BYTES};
  ASSERT_OK(shuttle_bring(b->shuttle, slot, &span, 1));
  ASSERT_OK(shuttle_arrive(b->shuttle, slot));
  ASSERT_OK(backend_cuda.copy(b->s, b->seen[turn], shuttle_slot(b->shuttle, slot), BYTES, COPY_DEVICE_TO_HOST));
  ASSERT_OK(backend_cuda.copy(b->s, shuttle_slot(b->shuttle, slot), b->numbers[turn], BYTES, COPY_HOST_TO_DEVICE));
  ASSERT_OK(shuttle_return(b->shuttle, slot, &span, 1));
}

/* The same where the state lies. */
static void update_in_place(const Bench *b, int turn) {
  ASSERT_OK(backend_cuda.copy(b->s, b->device, b->state, BYTES, COPY_HOST_TO_DEVICE));
  ASSERT_OK(backend_cuda.copy(b->s, b->seen[turn], b->device, BYTES, COPY_DEVICE_TO_HOST));
  ASSERT_OK(backend_cuda.copy(b->s, b->device, b->numbers[turn], BYTES, COPY_HOST_TO_DEVICE));
  ASSERT_OK(backend_cuda.copy(b->s, b->state, b->device, BYTES, COPY_DEVICE_TO_HOST));
}

/* Graphs of one store take turns: `places` says of each update where; two of them in slots of their own. */
static void take_turns(void **state) {
  (void)state;
  enum { IN_PLACE = -1 };
  static const int places[][2] = {{0, IN_PLACE}, {IN_PLACE, 2}, {1, 3}, {IN_PLACE, IN_PLACE}};
  for (size_t c = 0; c < sizeof places / sizeof *places; c++)
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
      Bench b;
      open_bench(&b, seed);
      fill(b.state, 0);
      for (int round = 0; round < ROUNDS; round++) {
        for (int turn = 0; turn < 2; turn++) {
          int slot = places[c][turn];
          fill(b.numbers[turn], (float)(2 * round + turn + 1));
          ASSERT_OK(shuttle_begin(b.shuttle, slot == IN_PLACE));
          if (slot == IN_PLACE)
            update_in_place(&b, turn);
          else
            update_in_window(&b, slot, turn);
        }
        ASSERT_OK(backend_cuda.stream_wait(b.s));
        for (int turn = 0; turn < 2; turn++)
          if (b.seen[turn][0] != (float)(2 * round + turn) || b.seen[turn][COUNT - 1] != b.seen[turn][0])
            FAIL_TEST("case %zu, seed %d: turn %d of round %d found %g", c, (int)seed, turn, round, b.seen[turn][0]);
      }
      ASSERT_OK(shuttle_wait(b.shuttle));
      assert_true(b.state[0] == 2 * ROUNDS && b.state[COUNT - 1] == 2 * ROUNDS);
      close_bench(&b);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(take_turns)};
  return cmocka_run_group_tests_name("shuttle", tests, NULL, NULL);
}
