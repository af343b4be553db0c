/* Studies: times of ranks to times of stages, limits, schedules in text form, what is refused, JSON, the terminal and
 * the page. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "partitioner/report/study.h"
#include "tests/test.h"

#define ASSERT_NEAR(a, b)                                                                                              \
  do {                                                                                                                 \
    double a_ = (a), b_ = (b);                                                                                         \
    if (!(fabs(a_ - b_) <= 1e-9))                                                                                      \
      FAIL_TEST("%s is %.15g, not %.15g", #a, a_, b_);                                                                 \
  } while (0)

enum { MOST_RANKS = 32 };

static Arena *arena;
static double forward[MOST_RANKS], input[MOST_RANKS], weight[MOST_RANKS], limit[MOST_RANKS];

static int set_up(void **state) {
  (void)state;
  arena = arena_create();
  return !arena;
}

static int tear_down(void **state) {
  (void)state;
  arena_destroy(arena);
  return 0;
}

static StudyRequest ask(const char *schedule, int ranks, int microbatches, double f, double b, double w) {
  for (int rank = 0; rank < ranks; rank++) {
    forward[rank] = f;
    input[rank] = b;
    weight[rank] = w;
  }
  return (StudyRequest){.ranks = ranks,
                        .microbatches = microbatches,
                        .forward_ms = forward,
                        .backward_input_ms = input,
                        .backward_weight_ms = weight,
                        .backward_input_frees = 0.5,
                        .schedule = schedule};
}

static void limit_to(StudyRequest *request, double microbatches) {
  for (int rank = 0; rank < request->ranks; rank++)
    limit[rank] = microbatches;
  request->memory_limit_microbatches = limit;
}

static double reached(const StudyResult *result) {
  return result->objective == OBJECTIVE_SPAN ? result->simulation.longest_span_seconds
                                             : result->simulation.makespan_seconds;
}

/* (p - 1) / (m + p - 1), whatever F, B and W are, and the work of a rank m (F + B + W): the first stage has B in its W.
 */
static void equal_stages_are_as_known(void **state) {
  (void)state;
  static const char *const names[] = {"gpipe", "1f1b", "zb-h1"};
  for (size_t n = 0; n < sizeof names / sizeof *names; n++)
    for (int p = 1; p <= 6; p++)
      for (int m = 1; m <= 9; m += 4) {
        StudyRequest request = ask(names[n], p, m, 2, 3, 4);
        StudyResult result;
        ASSERT_OK(study_run(arena, &request, &result));
        for (int rank = 0; rank < p; rank++)
          ASSERT_NEAR(result.simulation.work_seconds[rank], m * 9e-3);
        if (n < 2)
          ASSERT_NEAR(result.simulation.bubble, (p - 1.0) / (m + p - 1));
        assert_true(reached(&result) >= result.lower_bound_seconds * (1 - 1e-12));
        assert_true(result.gap >= -1e-12);
        for (int rank = 0; rank < p && n < 2; rank++)
          ASSERT_NEAR(result.simulation.peak_memory[rank], n == 0 ? m : m < p - rank ? m : p - rank);
      }
}

/* Two or three stages a rank: each a half or a third of the rank, and no latency where a V turns on one rank. */
static void chunks_divide_a_rank(void **state) {
  (void)state;
  StudyRequest request = ask("zb-v", 2, 1, 2, 4, 6);
  StudyResult result;
  request.p2p_ms = 100;
  ASSERT_OK(study_run(arena, &request, &result));
  assert_int_equal(result.schedule.stages, 4);
  ASSERT_NEAR(result.timing.activation[3], 0.5);
  /* down and up again, forward and backward: 4 hops; F of 4 stages, B of 4 (the first's with its W), W of the first */
  ASSERT_NEAR(result.simulation.makespan_seconds, (4 * 100 + 4 * 1 + 4 * 2 + 3) * 1e-3);
  ASSERT_NEAR(result.simulation.peak_memory[0], 1);
  request = ask("interleaved-1f1b", 2, 4, 3, 6, 9);
  request.chunks = 3;
  ASSERT_OK(study_run(arena, &request, &result));
  assert_int_equal(result.schedule.stages, 6);
  ASSERT_NEAR(result.timing.forward_seconds[5], 1e-3);
  ASSERT_NEAR(result.simulation.work_seconds[1], 4 * 18e-3);
  ASSERT_NEAR(result.simulation.peak_memory[0], 7 / 3.);
}

static void unlike_ranks_keep_their_times(void **state) {
  (void)state;
  StudyRequest request = ask("1f1b", 3, 2, 1, 1, 1);
  StudyResult result;
  forward[1] = 5;
  weight[2] = 7;
  ASSERT_OK(study_run(arena, &request, &result));
  ASSERT_NEAR(result.simulation.work_seconds[0], 6e-3);
  ASSERT_NEAR(result.simulation.work_seconds[1], 14e-3);
  ASSERT_NEAR(result.simulation.work_seconds[2], 18e-3);
}

static void limits_hold(void **state) {
  (void)state;
  StudyResult result;
  StudyRequest request = ask("1f1b", 4, 8, 1, 1, 1);
  limit_to(&request, 4);
  ASSERT_OK(study_run(arena, &request, &result));
  limit[1] = 2.5;
  ASSERT_FAILS(E_LIMIT, "schedule 1f1b: rank 1, action 8, 1F2: activations reach 3, the limit is 2.5",
               study_run(arena, &request, &result));
  assert_false(result.refused);
  request.schedule = "auto";
  ASSERT_OK(study_run(arena, &request, &result));
  for (int rank = 0; rank < 4; rank++)
    assert_true(result.simulation.peak_memory[rank] <= limit[rank] + 1e-9);
  limit[2] = 0.5;
  assert_int_equal(study_run(arena, &request, &result), E_LIMIT);
  assert_non_null(strstr(status_message(), "rank 2"));
  /* 7 thirds of a microbatch are 7 thirds, however they are summed */
  request = ask("interleaved-1f1b", 2, 4, 1, 1, 1);
  request.chunks = 3;
  limit_to(&request, 7 / 3.);
  ASSERT_OK(study_run(arena, &request, &result));
}

static void bounds_are_below_everything(void **state) {
  (void)state;
  unsigned seed = 1;
  for (int i = 0; i < 40; i++) {
    int p = 1 + i % 5, m = 1 + rand_r(&seed) % 9;
    for (int n = 0; schedule_names[n]; n++) {
      StudyRequest request = ask(schedule_names[n], p, m, 1, 1, 1);
      StudyResult result;
      for (int rank = 0; rank < p; rank++) {
        forward[rank] = rand_r(&seed) % 8;
        input[rank] = rand_r(&seed) % 8;
        weight[rank] = 1 + rand_r(&seed) % 8;
      }
      request.p2p_ms = rand_r(&seed) % 4;
      request.objective = rand_r(&seed) % 2 ? OBJECTIVE_SPAN : OBJECTIVE_MAKESPAN;
      ASSERT_OK(study_run(arena, &request, &result));
      assert_true(result.lower_bound_seconds > 0);
      if (!(result.gap >= -1e-9))
        FAIL_TEST("%s, %d ranks, %d microbatches: gap %g", schedule_names[n], p, m, result.gap);
    }
  }
}

static void auto_is_no_worse_than_names(void **state) {
  (void)state;
  StudyResult named, found;
  StudyRequest request = ask("zb-v", 4, 8, 2, 2, 1);
  request.p2p_ms = 0.2;
  limit_to(&request, 4);
  forward[2] = 3;
  ASSERT_OK(study_run(arena, &request, &named));
  request.schedule = "auto";
  ASSERT_OK(study_run(arena, &request, &found));
  assert_string_equal(found.schedule.name, "auto");
  assert_true(reached(&found) <= reached(&named) + 1e-12);
  ASSERT_NEAR(found.lower_bound_seconds, named.lower_bound_seconds);
  request.chunks = 1;
  ASSERT_OK(study_run(arena, &request, &found));
  assert_int_equal(found.schedule.stages, 4);
}

/* ---- schedules in text form ---- */

static const char whole[] = "0F0 0SEND_F0 0F1 [0SEND_F1 0RECV_B0] 0BW0 0RECV_B1 0BW1\n"
                            "1RECV_F0 1F0 1RECV_F1 1BW0 1SEND_B0 1F1 1BW1 1SEND_B1\n";
static const char computes[] = "0F0 0F1 0BW0 0BW1\n1F0 1BW0 1F1 1BW1\n";

static void text_is_a_schedule(void **state) {
  (void)state;
  StudyResult first, second;
  StudyRequest request = ask("auto", 2, 2, 1, 1, 1);
  request.schedule_text = whole;
  ASSERT_OK(study_run(arena, &request, &first));
  assert_string_equal(first.schedule.name, "file");
  request.schedule_text = computes;
  ASSERT_OK(study_run(arena, &request, &second));
  ASSERT_NEAR(first.simulation.makespan_seconds, 9e-3);
  ASSERT_NEAR(second.simulation.makespan_seconds, 9e-3);
  assert_true(second.schedule.lists[0].n_actions == 8);
  limit_to(&request, 1);
  assert_int_equal(study_run(arena, &request, &second), E_LIMIT);
  assert_true(second.refused);
  assert_int_equal(second.refused_at.rank, 0);
}

static void refuse(const char *text, Status code, const char *message, bool shown, SchedulePlace place) {
  StudyResult result;
  StudyRequest request = ask("auto", 2, 2, 1, 1, 1);
  request.schedule_text = text;
  ASSERT_FAILS(code, message, study_run(arena, &request, &result));
  assert_int_equal(result.refused, shown);
  if (!shown)
    return;
  assert_int_equal(result.refused_at.rank, place.rank);
  assert_int_equal(result.refused_at.position, place.position);
}

static void wrong_texts_are_refused(void **state) {
  (void)state;
  refuse("nonsense", E_MODEL, "line 1, column 1: a stage expected", false, (SchedulePlace){0, 0});
  refuse("0F0 0BW0\n1F0 1BW0\n", E_USAGE, "the schedule has 2 ranks and 1 microbatches, not 2 and 2", false,
         (SchedulePlace){0, 0});
  refuse("0F0 1F0 0F1 1F1 1BW0 0BW0 1BW1 0BW1\n-\n", E_USAGE, "the schedule has no stage on rank 1", false,
         (SchedulePlace){0, 0});
  refuse("0F0 0F1\n1F0 1F1\n", E_MODEL, "schedule file has no backward", true, (SchedulePlace){-1, -1});
  refuse("0F0 0BW0 0F1 0BW1\n1F0 1F1 1BW0 1BW1\n", E_MODEL,
         "schedule file: rank 0, compute action 1, 0BW0: waits for ever for 1BW0", true, (SchedulePlace){0, 1});
  refuse("0F1 0F0 0BW0 0BW1\n1F0 1BW0 1F1 1BW1\n", E_MODEL,
         "schedule file: rank 0, action 0, 0F1: each kind runs in increasing microbatch order", true,
         (SchedulePlace){0, 0});
}

static void wrong_numbers_are_refused(void **state) {
  (void)state;
  StudyResult result;
  StudyRequest request = ask("1f1b", 2, 2, 1, 1, 1);
  input[1] = -1;
  ASSERT_FAILS(E_USAGE, "backward-input-ms of rank 1 is -1: a time is 0 or more", study_run(arena, &request, &result));
  request = ask("1f1b", 2, 2, NAN, 1, 1);
  assert_int_equal(study_run(arena, &request, &result), E_USAGE);
  request = ask("1f1b", 2, 2, 0, 0, 0);
  ASSERT_FAILS(E_USAGE, "every time is 0: there is nothing to schedule", study_run(arena, &request, &result));
  request = ask("1f1b", 0, 2, 1, 1, 1);
  assert_int_equal(study_run(arena, &request, &result), E_USAGE);
  request = ask("1f1b", 2, 2, 1, 1, 1);
  request.p2p_ms = -1;
  assert_int_equal(study_run(arena, &request, &result), E_USAGE);
  request.p2p_ms = 0;
  request.backward_input_frees = 1.5;
  assert_int_equal(study_run(arena, &request, &result), E_USAGE);
  request.backward_input_frees = 0.5;
  limit_to(&request, 0);
  assert_int_equal(study_run(arena, &request, &result), E_USAGE);
  request = ask("1f1c", 2, 2, 1, 1, 1);
  ASSERT_FAILS(E_USAGE, "there is no schedule '1f1c'", study_run(arena, &request, &result));
  request = ask("forward", 2, 2, 1, 1, 1);
  ASSERT_FAILS(E_USAGE, "schedule forward has no backward", study_run(arena, &request, &result));
  request = ask("zb-v", 2, 2, 1, 1, 1);
  request.chunks = 3;
  ASSERT_FAILS(E_USAGE, "schedule zb-v has 2 stages a rank, not 3", study_run(arena, &request, &result));
  request = ask("1f1b", 32, 65536, 1, 1, 1);
  request.chunks = 4;
  assert_int_equal(study_run(arena, &request, &result), E_USAGE);
}

/* ---- what is shown ---- */

typedef Status Writer(const StudyResult *, FILE *);

/* The caller frees it. */
static char *written(const StudyResult *result, Writer *writer) {
  static char *text; /* gcc takes a local one for what is returned */
  static size_t size;
  FILE *file = open_memstream(&text, &size);
  ASSERT_OK(writer(result, file));
  fclose(file);
  return text;
}

static void json_says_all(void **state) {
  (void)state;
  StudyResult result, again;
  StudyRequest request = ask("zb-h1", 3, 5, 1, 2, 3);
  request.p2p_ms = 0.1;
  ASSERT_OK(study_run(arena, &request, &result));
  char *text = written(&result, study_json);
  json_error_t error;
  json_t *object = json_loads(text, 0, &error);
  assert_non_null(object);
  assert_int_equal(json_object_size(object), 8);
  assert_string_equal(json_string_value(json_object_get(object, "schedule")), "zb-h1");
  ASSERT_NEAR(json_real_value(json_object_get(object, "makespan_ms")), result.simulation.makespan_seconds * 1e3);
  ASSERT_NEAR(json_real_value(json_object_get(object, "longest_span_ms")),
              result.simulation.longest_span_seconds * 1e3);
  ASSERT_NEAR(json_real_value(json_object_get(object, "bubble")), result.simulation.bubble);
  ASSERT_NEAR(json_real_value(json_object_get(object, "lower_bound")), result.lower_bound_seconds * 1e3);
  ASSERT_NEAR(json_real_value(json_object_get(object, "gap")), result.gap);
  json_t *peaks = json_object_get(object, "peak_memory");
  assert_int_equal(json_array_size(peaks), 3);
  ASSERT_NEAR(json_real_value(json_array_get(peaks, 0)), 3);
  request.schedule_text = json_string_value(json_object_get(object, "text"));
  ASSERT_OK(study_run(arena, &request, &again));
  assert_string_equal(again.schedule.name, "zb-h1");
  ASSERT_NEAR(again.simulation.makespan_seconds, result.simulation.makespan_seconds);
  json_decref(object);
  free(text);
}

static void lines_fit(void **state) {
  (void)state;
  StudyResult result;
  StudyRequest request = ask("1f1b", 12, 40, 1, 2, 3);
  limit_to(&request, 12);
  ASSERT_OK(study_run(arena, &request, &result));
  for (int columns = 40; columns <= 200; columns += 20) {
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    ASSERT_OK(study_print(&result, file, columns, false));
    fclose(file);
    int rows = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
      assert_in_range(end - line, 1, columns);
      rows += strncmp(line, "rank ", 5) == 0;
    }
    assert_in_range(rows, 12, 14);
    assert_true(columns > 100 || strstr(text, "(the first "));
    free(text);
  }
}

/* Nothing from elsewhere, no mark left, every rank and action there, and no page that is larger than it needs. */
static void pages_stand_alone(void **state) {
  (void)state;
  StudyResult result;
  StudyRequest request = ask("zb-v", 32, 256, 1, 2, 3);
  request.p2p_ms = 0.1;
  ASSERT_OK(study_run(arena, &request, &result));
  result.schedule.name = "</script><b>&";
  char *text = written(&result, study_report_html);
  size_t commas = 0, ranks = 0;
  char *data = strstr(text, "\"actions\": ["), *end = strstr(text, "]};\n");
  assert_non_null(data);
  assert_true(end > data);
  for (char *c = data; c < end; c++) {
    commas += *c == ',';
    ranks += *c == '[';
  }
  assert_int_equal(ranks, 1 + 32);
  /* 64 stages with F, B and W but the first's B; six numbers each */
  assert_int_equal(commas + 1, 6 * (64 * 3 - 1) * 256);
  assert_true(strlen(text) < 2000000);
  assert_null(strstr(text, "://"));
  assert_null(strstr(text, "<b>&"));
  assert_non_null(strstr(text, "&lt;/script&gt;"));
  static const char *const marks[] = {"@TITLE@", "@SUBTITLE@", "@NUMBERS@", "@MEMORY@", "@TABLE@", "@DATA@"};
  for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
    assert_null(strstr(text, marks[i]));
  free(text);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(equal_stages_are_as_known),
      TEST(chunks_divide_a_rank),
      TEST(unlike_ranks_keep_their_times),
      TEST(limits_hold),
      TEST(bounds_are_below_everything),
      TEST(auto_is_no_worse_than_names),
      TEST(text_is_a_schedule),
      TEST(wrong_texts_are_refused),
      TEST(wrong_numbers_are_refused),
      TEST(json_says_all),
      TEST(lines_fit),
      TEST(pages_stand_alone),
  };
  return cmocka_run_group_tests_name("study", tests, NULL, NULL);
}
