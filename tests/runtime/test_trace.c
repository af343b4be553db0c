/* The ring of spans: what is kept when there is no room, and the order in which it comes out. */
#include "runtime/executor/trace.h"
#include "tests/test.h"

enum { EVENTS = 8 };

static Trace *create(Arena **arena, int64_t first, int64_t last) {
  Trace *trace;
  assert_non_null(*arena = arena_create());
  ASSERT_OK(trace_create(*arena, EVENTS * sizeof(TraceEvent), first, last, false, &trace));
  return trace;
}

static void add(Trace *trace, double begin, double end, int kind) {
  trace_add(trace, (TraceEvent){.begin = begin, .end = end, .kind = (uint8_t)kind});
}

/* A step of three spans, which end before the step does. */
static void record_step(Trace *trace, int64_t step) {
  double t = 10. * (double)step;
  trace_step(trace, step);
  if (!trace_on(trace))
    return;
  add(trace, t + 1, t + 2, ACTION_F);
  add(trace, t + 2, t + 3, ACTION_BW);
  add(trace, t, t + 4, TRACE_STEP);
}

static void the_last_steps_stay(void **state) {
  (void)state;
  Arena *arena;
  Trace *trace = create(&arena, 0, INT64_MAX);
  size_t n;
  assert_true(trace->ended < trace->began);
  for (int64_t step = 5; step < 9; step++)
    record_step(trace, step);
  assert_int_equal(trace->n, 12);
  assert_int_equal(trace->began, 5);
  assert_int_equal(trace->ended, 8);
  assert_int_equal(trace->first_whole, 7); /* of step 6 two spans are left */
  const TraceEvent *events = trace_sorted(trace, &n);
  assert_int_equal(n, EVENTS);
  for (size_t i = 0; i + 1 < n; i++)
    assert_true(events[i].begin <= events[i + 1].begin);
  assert_int_equal(events[2].kind, TRACE_STEP);
  assert_int_equal(events[2].step, 7);
  arena_destroy(arena);
}

static void other_steps_are_not_recorded(void **state) {
  (void)state;
  Arena *arena;
  Trace *trace = create(&arena, 1, 2);
  for (int64_t step = 0; step < 5; step++)
    record_step(trace, step);
  assert_int_equal(trace->n, 6);
  assert_int_equal(trace->began, 1);
  assert_int_equal(trace->ended, 2);
  assert_int_equal(trace->first_whole, 0);
  assert_false(trace_on(NULL) || trace_on(trace));
  trace_step(NULL, 1);
  arena_destroy(arena);
}

/* Equal times: the step, then what is in it, kernels last; what is posted together ends together. */
static void outer_spans_come_first(void **state) {
  (void)state;
  Arena *arena;
  Trace *trace = create(&arena, 0, INT64_MAX);
  size_t n;
  trace_step(trace, 0);
  add(trace, 1, 2, TRACE_KERNEL);
  add(trace, 1, 2, ACTION_F);
  add(trace, 1, 2, TRACE_STEP);
  add(trace, 3, 3, ACTION_SEND_F);
  add(trace, 4, 4, ACTION_RECV_B);
  trace_end_last(trace, 2);
  const TraceEvent *events = trace_sorted(trace, &n);
  static const int kinds[] = {TRACE_STEP, ACTION_F, TRACE_KERNEL, ACTION_SEND_F, ACTION_RECV_B};
  assert_int_equal(n, 5);
  for (size_t i = 0; i < n; i++)
    assert_int_equal(events[i].kind, kinds[i]);
  assert_true(events[3].end == events[4].end && events[3].end > 4);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_last_steps_stay),
                                     cmocka_unit_test(other_steps_are_not_recorded),
                                     cmocka_unit_test(outer_spans_come_first)};
  return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
