/* Schedules: the named rows against golden files and known formulas, their text form, hostile text, the grid. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "partitioner/schedule/schedule.h"
#include "tests/partitioner/schedule_machine.h"
#include "tests/test.h"

#define ASSERT_NEAR(a, b)                                                                                              \
  do {                                                                                                                 \
    double a_ = (a), b_ = (b);                                                                                         \
    if (!(fabs(a_ - b_) <= 1e-12))                                                                                     \
      FAIL_TEST("%s is %.15g, not %.15g", #a, a_, b_);                                                                 \
  } while (0)

static char *text_of(const Schedule *schedule) {
  Text text = {0};
  schedule_write(schedule, &text);
  assert_non_null(text_whole(&text));
  return text.data;
}

static void generate(Arena *arena, const char *name, int ranks, int microbatches, Schedule *schedule) {
  int chunks;
  ASSERT_OK(schedule_usual_chunks(name, &chunks));
  ASSERT_OK(schedule_generate(arena, name, ranks, chunks, microbatches, NULL, schedule));
}

/* ---- times ---- */

typedef struct {
  double f, b, w, latency; /* one microbatch on one rank; of every hop between ranks */
  bool waits;              /* SENDs hold their buffers until the peer posts its RECV */
} Times;

typedef struct {
  double *end[3], *sent[2], *received[2]; /* [stages * microbatches]: of F, B, W; posted F, B; -1: not yet */
  double *begin, *free;                   /* [ranks] */
} Clock;

static double *at(const Schedule *schedule, double *table, int stage, int microbatch) {
  return &table[stage * schedule->microbatches + microbatch];
}

/* Delays *start until what was noted there; false: it was not yet. */
static bool after(const Schedule *schedule, double *table, int stage, int microbatch, double more, double *start) {
  double time = *at(schedule, table, stage, microbatch);
  *start = fmax(*start, time + more);
  return time >= 0;
}

/* When a compute action can begin; false: not known yet. */
static bool can_start(const Schedule *schedule, const Times *times, const Clock *clock, Action action, double *start) {
  int stage = action.stage, m = action.microbatch, depth = schedule->send_depth;
  bool forward = action.kind == ACTION_F, has_b = schedule->joined || schedule_has_b(NULL, stage);
  bool has_next = stage + 1 < schedule->stages;
  const int *rank = schedule->rank_of_stage;
  bool known = forward || after(schedule, clock->end[0], stage, m, 0, start);
  if (forward && stage > 0)
    known &= after(schedule, clock->end[0], stage - 1, m, rank[stage] == rank[stage - 1] ? 0 : times->latency, start);
  if (action.kind == ACTION_W && has_b)
    known &= after(schedule, clock->end[1], stage, m, 0, start);
  else if (!forward && has_next)
    known &= after(schedule, clock->end[1], stage + 1, m, rank[stage] == rank[stage + 1] ? 0 : times->latency, start);
  if (!times->waits || m < depth)
    return known;
  if (forward && has_next && rank[stage] != rank[stage + 1])
    known &= after(schedule, clock->sent[0], stage, m - depth, 0, start) &&
             after(schedule, clock->received[0], stage + 1, m - depth, 0, start);
  if (!forward && action.kind != ACTION_W && stage > 0 && rank[stage] != rank[stage - 1])
    known &= after(schedule, clock->sent[1], stage, m - depth, 0, start) &&
             after(schedule, clock->received[1], stage - 1, m - depth, 0, start);
  return known;
}

static double duration(const Schedule *schedule, const Times *times, Action action) {
  double chunks = (double)schedule->stages / schedule->ranks;
  bool both = action.kind == ACTION_BW || (action.kind == ACTION_W && action.stage == 0);
  return (action.kind == ACTION_F   ? times->f
          : both                    ? times->b + times->w
          : action.kind == ACTION_B ? times->b
                                    : times->w) /
         chunks;
}

static bool run_rank(const Schedule *schedule, const Times *times, Clock *clock, int rank, int *position) {
  const ActionList *list = &schedule->lists[rank];
  int before = *position;
  for (; *position < list->n_actions; ++*position) {
    Action action = list->actions[*position];
    bool is_forward = action.kind == ACTION_SEND_F || action.kind == ACTION_RECV_F;
    if (!action_is_compute(action)) {
      double *table = (is_send(action) ? clock->sent : clock->received)[!is_forward];
      *at(schedule, table, action.stage, action.microbatch) = fmax(clock->free[rank], 0);
      continue;
    }
    double start = fmax(clock->free[rank], 0);
    if (!can_start(schedule, times, clock, action, &start))
      break;
    if (clock->begin[rank] < 0)
      clock->begin[rank] = start;
    clock->free[rank] = start + duration(schedule, times, action);
    *at(schedule,
        clock->end[action.kind == ACTION_F   ? 0
                   : action.kind == ACTION_W ? 2
                                             : 1],
        action.stage, action.microbatch) = clock->free[rank];
  }
  return *position > before;
}

/* 1 - work / the longest span of a rank, first F to last W. */
static double bubble(const Schedule *schedule, Times times) {
  Clock clock;
  int cells = schedule->stages * schedule->microbatches, n = 7 * cells + 2 * schedule->ranks;
  double *memory = malloc((size_t)n * sizeof *memory);
  for (int i = 0; i < n; i++)
    memory[i] = -1;
  for (int i = 0; i < 7; i++)
    *(i < 3 ? &clock.end[i] : i < 5 ? &clock.sent[i - 3] : &clock.received[i - 5]) = memory + i * cells;
  clock.begin = memory + 7 * cells;
  clock.free = clock.begin + schedule->ranks;
  int *position = calloc((size_t)schedule->ranks, sizeof *position);
  for (bool moved = true; moved;) {
    moved = false;
    for (int rank = 0; rank < schedule->ranks; rank++)
      moved |= run_rank(schedule, &times, &clock, rank, &position[rank]);
  }
  double span = 0;
  for (int rank = 0; rank < schedule->ranks; rank++) {
    assert_int_equal(position[rank], schedule->lists[rank].n_actions);
    span = fmax(span, clock.free[rank] - clock.begin[rank]);
  }
  free(position);
  free(memory);
  return 1 - schedule->microbatches * (times.f + times.b + times.w) / span;
}

/* The most chunks' worth of activations on each rank, where B frees this fraction. */
static void peaks(const Schedule *schedule, double frees, double *peak) {
  double activation[64];
  for (int stage = 0; stage < schedule->stages; stage++)
    activation[stage] = 1;
  ScheduleLimits limits = {activation, frees, NULL};
  schedule_peaks(schedule, NULL, &limits, peak);
}

static double highest_peak(const Schedule *schedule, double frees) {
  double peak[64], highest = 0;
  peaks(schedule, frees, peak);
  for (int rank = 0; rank < schedule->ranks; rank++)
    highest = fmax(highest, peak[rank]);
  return highest;
}

/* ---- tests ---- */

/* Every row for 1..8 ranks, 1..9 microbatches and several stages a rank passes the proof, runs, reads back as itself,
 * and no rank waits for its buffers where all actions take equally long. */
static void rows_pass_the_proof(void **state) {
  (void)state;
  unsigned seed = 3;
  for (int n = 0; schedule_names[n]; n++)
    for (int ranks = 1; ranks <= 8; ranks++)
      for (int microbatches = 1; microbatches <= 9; microbatches++)
        for (int chunks = 1; chunks <= 3; chunks++) {
          Arena *arena = arena_create();
          Schedule schedule, again;
          if (schedule_generate(arena, schedule_names[n], ranks, chunks, microbatches, NULL, &schedule) != OK) {
            assert_non_null(strstr(status_message(), "stages a rank, not"));
            arena_destroy(arena);
            continue;
          }
          ASSERT_OK(schedule_check(&schedule, NULL));
          assert_int_equal(schedule.receive_ahead, 1);
          if (ranks <= 4)
            assert_int_equal(machine_run(&schedule, NULL, seed++), RAN_RIGHT);
          double unit = bubble(&schedule, (Times){.f = 1, .b = 1, .w = 1});
          ASSERT_NEAR(bubble(&schedule, (Times){.f = 1, .b = 1, .w = 1, .waits = true}), unit);
          char *text = text_of(&schedule);
          ASSERT_OK(schedule_read(arena, text, &again));
          ASSERT_OK(schedule_check(&again, NULL));
          char *second = text_of(&again);
          assert_string_equal(text, second);
          free(text);
          free(second);
          arena_destroy(arena);
        }
}

static void forward_alone_runs(void **state) {
  (void)state;
  for (int ranks = 1; ranks <= 4; ranks++)
    for (int chunks = 1; chunks <= 2; chunks++) {
      Arena *arena = arena_create();
      Schedule schedule;
      ASSERT_OK(schedule_generate(arena, "forward", ranks, chunks, 5, NULL, &schedule));
      ASSERT_OK(schedule_check(&schedule, NULL));
      assert_int_equal(machine_run(&schedule, NULL, 1), RAN_RIGHT);
      ASSERT_NEAR(highest_peak(&schedule, 0), 1);
      arena_destroy(arena);
    }
}

/* tests/partitioner/golden/NAME_pP_mM.txt. GOLDEN_WRITE=1 in the environment writes them anew. */
static void rows_equal_golden_files(void **state) {
  (void)state;
  static const int sizes[][2] = {{2, 3}, {4, 8}};
  for (int n = 0; schedule_names[n]; n++)
    for (int size = 0; size < 2; size++) {
      Arena *arena = arena_create();
      Schedule schedule;
      char path[512], golden[16384] = {0};
      generate(arena, schedule_names[n], sizes[size][0], sizes[size][1], &schedule);
      char *text = text_of(&schedule);
      snprintf(path, sizeof path, "%s/tests/partitioner/golden/%s_p%d_m%d.txt", SOURCE_DIR, schedule_names[n],
               sizes[size][0], sizes[size][1]);
      if (getenv("GOLDEN_WRITE")) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(text, file);
        fclose(file);
      }
      FILE *file = fopen(path, "r");
      if (!file)
        FAIL_TEST("%s is missing", path);
      assert_true(fread(golden, 1, sizeof golden - 1, file) > 0);
      fclose(file);
      assert_string_equal(text, golden);
      free(text);
      arena_destroy(arena);
    }
}

static void bubbles_and_peaks_are_as_known(void **state) {
  (void)state;
  for (int p = 1; p <= 8; p++)
    for (int m = 1; m <= 9; m++) {
      Arena *arena = arena_create();
      Schedule schedule;
      double peak[8], known = (double)(p - 1) / (m + p - 1);
      generate(arena, "gpipe", p, m, &schedule);
      ASSERT_NEAR(bubble(&schedule, (Times){.f = 1, .b = 1, .w = 1}), known);
      peaks(&schedule, 0, peak);
      for (int rank = 0; rank < p; rank++)
        ASSERT_NEAR(peak[rank], m);
      generate(arena, "1f1b", p, m, &schedule);
      ASSERT_NEAR(bubble(&schedule, (Times){.f = 1, .b = 1, .w = 1}), known);
      peaks(&schedule, 0, peak);
      for (int rank = 0; rank < p; rank++)
        ASSERT_NEAR(peak[rank], m < p - rank ? m : p - rank);
      generate(arena, "naive", p, m, &schedule);
      ASSERT_NEAR(highest_peak(&schedule, 0), 1);
      arena_destroy(arena);
    }
}

/* Narayanan et al. 2021: p (1 + (p - 1) / (p v)) microbatches' worth, bubble / work = (p - 1) / (m v). */
static void interleaving_is_as_known(void **state) {
  (void)state;
  for (int p = 2; p <= 8; p++)
    for (int v = 1; v <= 3; v++)
      for (int groups = 2; groups <= 4; groups++) {
        Arena *arena = arena_create();
        Schedule schedule;
        int m = p * groups;
        ASSERT_OK(schedule_generate(arena, "interleaved-1f1b", p, v, m, NULL, &schedule));
        double share = bubble(&schedule, (Times){.f = 1, .b = 1, .w = 1});
        ASSERT_NEAR(share / (1 - share), (double)(p - 1) / (m * v));
        ASSERT_NEAR(highest_peak(&schedule, 0), p * v + p - 1);
        arena_destroy(arena);
      }
}

/* Qi et al. 2023: (p - 1)(F + B - W) for zb-h1, nothing for zb-h2 and zb-v where F = B = W; memory of 1f1b's p, 2 p -
 * 1, p. Qi et al. 2024: (p + 2) / 2 and (p + 4) / 3 microbatches' worth. */
static void zero_bubbles_are_as_known(void **state) {
  (void)state;
  for (int p = 1; p <= 8; p++) {
    Arena *arena = arena_create();
    Schedule schedule;
    int m = 4 * p;
    generate(arena, "zb-h1", p, m, &schedule);
    for (int w = 1; w <= 3; w++) {
      double share = bubble(&schedule, (Times){.f = 3, .b = 3, .w = w});
      ASSERT_NEAR(share / (1 - share), (p - 1) * (6. - w) / (m * (6 + w)));
    }
    ASSERT_NEAR(highest_peak(&schedule, 0), p);
    generate(arena, "zb-h2", p, m, &schedule);
    ASSERT_NEAR(bubble(&schedule, (Times){.f = 1, .b = 1, .w = 1}), 0);
    ASSERT_NEAR(highest_peak(&schedule, 0), 2 * p - 1);
    generate(arena, "zb-v", p, m, &schedule);
    ASSERT_NEAR(bubble(&schedule, (Times){.f = 1, .b = 1, .w = 1}), 0);
    ASSERT_NEAR(highest_peak(&schedule, 0.5), 2 * p);
    generate(arena, "v-half", p, m, &schedule);
    assert_true(highest_peak(&schedule, 0) <= 2 * ((p + 2) / 2));
    assert_true(bubble(&schedule, (Times){.f = 1, .b = 1, .w = 1}) <= p / (2. * m) + 1e-12);
    generate(arena, "v-min", p, m, &schedule);
    assert_true(highest_peak(&schedule, 0) <= 2 * ((p + 4) / 3));
    assert_true(bubble(&schedule, (Times){.f = 1, .b = 1, .w = 1}) <= 2 * p / (3. * m) + 1e-12);
    arena_destroy(arena);
  }
}

/* Measured times of real models, and the bubbles of the authors' own schedulers with memory for as many microbatches as
 * there are ranks. */
static void zero_bubbles_match_their_authors(void **state) {
  (void)state;
  static const struct {
    int p, m;
    double f, b, w, latency, zb, zbv;
  } settings[] = {{8, 24, 18.522, 18.086, 9.337, 0.601, 0.15852, 0.07028},
                  {8, 64, 18.522, 18.086, 9.337, 0.601, 0.06598, 0.02756},
                  {8, 24, 29.718, 29.444, 19.927, 0.527, 0.1323, 0.04032},
                  {8, 64, 29.718, 29.444, 19.927, 0.527, 0.05408, 0.01551},
                  {16, 48, 11.347, 11.248, 8.132, 0.377, 0.13973, 0.04983},
                  {16, 128, 11.347, 11.248, 8.132, 0.377, 0.05741, 0.01929},
                  {32, 96, 10.419, 10.204, 7.715, 0.408, 0.14214, 0.05308}};
  for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
    Arena *arena = arena_create();
    Schedule schedule;
    Times times = {settings[i].f, settings[i].b, settings[i].w, settings[i].latency, false};
    generate(arena, "zb-h1", settings[i].p, settings[i].m, &schedule);
    assert_true(bubble(&schedule, times) <= settings[i].zb + 0.0001);
    generate(arena, "zb-v", settings[i].p, settings[i].m, &schedule);
    assert_true(bubble(&schedule, times) <= settings[i].zbv + 0.003);
    assert_true(highest_peak(&schedule, 0.5) <= 2 * settings[i].p);
    arena_destroy(arena);
  }
}

static void wrong_requests_are_refused(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Schedule schedule;
  int chunks;
  ASSERT_FAILS(E_USAGE, "there is no schedule '2f2b'", schedule_generate(arena, "2f2b", 2, 1, 2, NULL, &schedule));
  ASSERT_FAILS(E_USAGE, "there is no schedule '2f2b'", schedule_usual_chunks("2f2b", &chunks));
  ASSERT_FAILS(E_USAGE, "schedule zb-v has 2 stages a rank, not 1",
               schedule_generate(arena, "zb-v", 2, 1, 2, NULL, &schedule));
  ASSERT_FAILS(E_USAGE, "schedule 1f1b: 2 ranks, 1 stages a rank, 70000 microbatches: too few or too many",
               schedule_generate(arena, "1f1b", 2, 1, 70000, NULL, &schedule));
  ASSERT_FAILS(E_USAGE, "schedule 1f1b: 0 ranks, 1 stages a rank, 1 microbatches: too few or too many",
               schedule_generate(arena, "1f1b", 0, 1, 1, NULL, &schedule));
  arena_destroy(arena);
}

static void bad_text_is_refused(void **state) {
  (void)state;
  static const struct {
    const char *text, *message;
  } cases[] = {
      {"", "a schedule without ranks"},
      {"# nothing\n\n", "a schedule without ranks"},
      {"0F0 x\n", "line 1, column 5: a stage expected"},
      {"0F0\n  1G0\n", "line 2, column 4: F, B, W, BW, SEND_F, RECV_F, SEND_B or RECV_B expected after the stage"},
      {"0F\n", "line 1, column 3: a microbatch expected"},
      {"0F0,0W0\n", "line 1, column 4: a blank or ] expected after an action"},
      {"70000F0\n", "line 1, column 1: a stage is larger than 65535"},
      {"0F99999999999999999999\n", "line 1, column 3: a microbatch is larger than 65535"},
      {"0F0 [0SEND_F0\n", "line 1, column 14: [ without ]"},
      {"0F0 0SEND_F0]\n", "line 1, column 13: ] without ["},
      {"0F0 [[0SEND_F0]]\n", "line 1, column 6: [ inside ["},
      {"0F0\n0W0\n", "line 2, column 1: stage 0 is on rank 0 and on rank 1"},
      {"0F0\n- 1F0\n", "line 2, column 3: nothing may follow -"},
      {"0F0\nschedule late\n", "line 2, column 1: the line `schedule` must be the first"},
      {"schedule \n0F0\n", "line 1, column 10: a name expected after schedule"},
      {"schedule a depth 2\n0F0\n", "line 1, column 12: send_depth or receive_ahead expected"},
      {"schedule a send_depth two\n0F0\n", "line 1, column 23: a send_depth expected"},
      {"65535F65535\n", "65536 stages and 65536 microbatches are named, but there are 1 forward actions"},
      {"0F0 2F0 2F1\n", "3 stages and 2 microbatches are named, but there are 3 forward actions"},
      {"0F0 2F0 2F0\n", "stage 1 is on no rank"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    Arena *arena = arena_create();
    Schedule schedule;
    ASSERT_FAILS(E_USAGE, cases[i].message, schedule_read(arena, cases[i].text, &schedule));
    arena_destroy(arena);
  }
}

/* Whatever bytes a text has: a schedule or one line of error, from the reader or the proof; and it can be drawn. */
static void damaged_text_is_survived(void **state) {
  (void)state;
  static const char letters[] = "0123456789FBWSENDRCV_[] \n-#\tschedule\x80";
  unsigned seed = 5;
  int runs = 0;
  for (int round = 0; round < 3000; round++) {
    Arena *arena = arena_create();
    Schedule schedule, damaged;
    SchedulePlace where;
    generate(arena, schedule_names[round % 9], 1 + rand_r(&seed) % 3, 1 + rand_r(&seed) % 3, &schedule);
    char *text = text_of(&schedule);
    for (int k = 1 + rand_r(&seed) % 3; k > 0; k--)
      text[rand_r(&seed) % strlen(text)] = letters[rand_r(&seed) % (sizeof letters - 1)];
    if (schedule_read(arena, text, &damaged) == OK) {
      FILE *file = fopen("/dev/null", "w");
      bool proved = schedule_prove(&damaged, NULL, NULL, &where) == OK;
      ASSERT_OK(schedule_print_grid(&damaged, file, 80, &where));
      fclose(file);
      if (proved)
        assert_int_equal(machine_run(&damaged, NULL, seed), RAN_RIGHT);
      runs += proved;
    }
    assert_null(strchr(status_message(), '\n'));
    free(text);
    arena_destroy(arena);
  }
  assert_true(runs > 0);
}

static void grid_shows_the_error(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Schedule schedule;
  SchedulePlace where;
  ASSERT_OK(schedule_read(arena,
                          "0F0 0SEND_F0 0F1 [0SEND_F1 0RECV_B0] 0BW0 0RECV_B1 0BW1\n"
                          "1RECV_F0 1F0 [1SEND_B0 1RECV_F1] 1BW0 1F1 1BW1 1SEND_B1\n",
                          &schedule));
  assert_int_equal(schedule_prove(&schedule, NULL, NULL, &where), E_USAGE);
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  ASSERT_OK(schedule_print_grid(&schedule, file, 60, &where));
  fclose(file);
  assert_string_equal(text, "step     0     1     2     3     4     5     6     7    \n"
                            "rank 0 | 0F0   0F1               0BW0  -           0BW1 \n"
                            "rank 1 |       1F0  >1BW0< -     1F1   1BW1  -    \n"
                            "rank 1, from action 0: 1RECV_F0 1F0 >1SEND_B0< 1RECV_F1 1BW0 ...\n");
  free(text);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_pass_the_proof),
      cmocka_unit_test(forward_alone_runs),
      cmocka_unit_test(rows_equal_golden_files),
      cmocka_unit_test(bubbles_and_peaks_are_as_known),
      cmocka_unit_test(interleaving_is_as_known),
      cmocka_unit_test(zero_bubbles_are_as_known),
      cmocka_unit_test(zero_bubbles_match_their_authors),
      cmocka_unit_test(wrong_requests_are_refused),
      cmocka_unit_test(bad_text_is_refused),
      cmocka_unit_test(damaged_text_is_survived),
      cmocka_unit_test(grid_shows_the_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
