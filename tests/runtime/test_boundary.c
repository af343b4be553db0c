/* Which way a boundary takes, by where its two ranks are. */
#include <string.h>

#include "runtime/executor/boundary.h"
#include "tests/test.h"

enum { HOST, THREAD_0, THREAD_0_AGAIN, THREAD_1, PROCESS_0, PROCESS_0_AGAIN, PROCESS_1, OLDER_2, WITHOUT_3, PLACES };

/* Threads are of process 0 and have not asked for NCCL; the others are processes of their own. */
static const RankPlace places[PLACES] = {
    [HOST] = {.process = 9, .is_host = true},
    [THREAD_0] = {.device = {1}},
    [THREAD_0_AGAIN] = {.device = {1}},
    [THREAD_1] = {.device = {2}},
    [PROCESS_0] = {.process = 1, .nccl = 22809, .device = {1}},
    [PROCESS_0_AGAIN] = {.process = 2, .nccl = 22809, .device = {1}},
    [PROCESS_1] = {.process = 3, .nccl = 22809, .device = {2}},
    [OLDER_2] = {.process = 4, .nccl = 22700, .device = {3}},
    [WITHOUT_3] = {.process = 5, .device = {4}},
};

static void each_pair_has_its_best_way(void **state) {
  (void)state;
  static const struct {
    int a, b;
    Way way;
  } pairs[] = {
      {HOST, HOST, WAY_HOST},
      {HOST, THREAD_0, WAY_STAGED},
      {HOST, PROCESS_1, WAY_STAGED},
      {THREAD_0, THREAD_1, WAY_COPY},
      {THREAD_0, THREAD_0_AGAIN, WAY_COPY},
      {PROCESS_0, PROCESS_1, WAY_NCCL},
      {PROCESS_0, PROCESS_0_AGAIN, WAY_STAGED}, /* NCCL refuses two ranks on one device */
      {PROCESS_0, OLDER_2, WAY_STAGED},
      {PROCESS_0, WITHOUT_3, WAY_STAGED},
      {WITHOUT_3, THREAD_0, WAY_STAGED},
  };
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    assert_int_equal(boundary_way(&places[pairs[i].a], &places[pairs[i].b]), pairs[i].way);
    assert_int_equal(boundary_way(&places[pairs[i].b], &places[pairs[i].a]), pairs[i].way);
  }
}

static void ranks_of_a_run_are_placed(void **state) {
  (void)state;
  Arena *arena = arena_create();
  RankDevice *devices;
  RankPlace at[3];
  Boundaries b;
  ASSERT_OK(devices_parse(arena, "cpu,reference,cpu", 3, &devices));
  for (int r = 0; r < 3; r++)
    ASSERT_OK(boundary_place(devices, r, false, &at[r]));
  ASSERT_OK(boundaries_open(arena, devices, at, 3, &b));
  for (int r = 0; r < 3; r++)
    for (int s = 0; s < 3; s++)
      assert_int_equal(boundary_between(&b, r, s), WAY_HOST);
  assert_null(b.copies);
  boundaries_close(&b);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_pair_has_its_best_way),
      cmocka_unit_test(ranks_of_a_run_are_placed),
  };
  return cmocka_run_group_tests_name("boundary", tests, NULL, NULL);
}
