/* Recordings of a stream: they run when they are replayed and not before, again and again, with what lies at their
 * addresses then. */
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "tests/test.h"

#ifdef EMULATED
#include "tests/cuda/emulation.h"
#endif

enum { COUNT = 1000, BYTES = COUNT * sizeof(float) };

typedef struct {
  Stream *s;
  float *given, *got; /* pinned */
  char *data;         /* on the device: what is given, a sum, indices, what is picked */
} Bench;

static void open_bench(Bench *b) {
  void *given, *got, *data;
  ASSERT_OK(backend_cuda.stream_open(0, 1, &b->s));
  ASSERT_OK(backend_cuda.pin(b->s, BYTES, &given));
  ASSERT_OK(backend_cuda.pin(b->s, BYTES, &got));
  ASSERT_OK(backend_cuda.alloc(b->s, 4 * 4096, &data));
  ASSERT_OK(backend_cuda.zero(b->s, data, 4 * 4096));
  ASSERT_OK(backend_cuda.stream_wait(b->s));
  b->given = given;
  b->got = got;
  b->data = data;
}

static void close_bench(Bench *b) {
  backend_cuda.release(b->s, b->data);
  backend_cuda.unpin(b->s, b->given);
  backend_cuda.unpin(b->s, b->got);
  backend_cuda.stream_close(b->s);
#ifdef EMULATED
  assert_int_equal(emulation_allocated(), 0);
#endif
}

/* Adds what is given to the sum, and reads it. */
static void add(const Bench *b) {
  static const Node node = {.op = OP_Accumulate, .name = "add"};
  Tensor in[] = {tensor_at(F32, (Shape){1, {COUNT}}, b->data + 4096), tensor_at(F32, (Shape){1, {COUNT}}, b->data)};
  ASSERT_OK(backend_cuda.copy(b->s, b->data, b->given, BYTES, COPY_HOST_TO_DEVICE));
  ASSERT_OK(backend_cuda.kernels[OP_Accumulate]->run(b->s, &node, in, NULL, NULL, NULL));
  ASSERT_OK(backend_cuda.copy(b->s, b->got, b->data + 4096, BYTES, COPY_DEVICE_TO_HOST));
}

static void fill(float *numbers, float with) {
  for (int i = 0; i < COUNT; i++)
    numbers[i] = with;
}

static void recordings_run_when_they_are_replayed(void **state) {
  (void)state;
  Bench b;
  Recording *recording;
  float expected = 0;
  open_bench(&b);
  fill(b.given, 1000);
  fill(b.got, -1);
  ASSERT_OK(backend_cuda.record_begin(b.s));
  add(&b);
  ASSERT_OK(backend_cuda.record_end(b.s, &recording));
  ASSERT_OK(backend_cuda.stream_wait(b.s));
  assert_true(b.got[0] == -1 && b.got[COUNT - 1] == -1);
  for (int i = 1; i < 20; i++) {
    fill(b.given, (float)i);
    ASSERT_OK(backend_cuda.replay(b.s, recording));
    expected += (float)i;
    if (i % 3 == 0) { /* before and behind what is not replayed */
      add(&b);
      expected += (float)i;
    }
    if (i % 2 == 0)
      ASSERT_OK(backend_cuda.replay(b.s, recording));
    expected += i % 2 == 0 ? (float)i : 0;
    ASSERT_OK(backend_cuda.stream_wait(b.s));
    assert_true(b.got[0] == expected && b.got[COUNT - 1] == expected);
  }
  backend_cuda.recording_free(recording);
  close_bench(&b);
}

static void zeros_are_recorded(void **state) {
  (void)state;
  Bench b;
  Recording *recording;
  open_bench(&b);
  fill(b.given, 3);
  ASSERT_OK(backend_cuda.record_begin(b.s));
  ASSERT_OK(backend_cuda.zero(b.s, b.data + 4096, BYTES));
  add(&b);
  ASSERT_OK(backend_cuda.record_end(b.s, &recording));
  for (int i = 0; i < 3; i++)
    ASSERT_OK(backend_cuda.replay(b.s, recording));
  ASSERT_OK(backend_cuda.stream_wait(b.s));
  assert_true(b.got[0] == 3 && b.got[COUNT - 1] == 3);
  backend_cuda.recording_free(recording);
  close_bench(&b);
}

/* At the wait behind the replay that has it. */
static void faults_of_replays_are_named(void **state) {
  (void)state;
  Bench b;
  Recording *recording;
  int64_t *index;
  Node node = {.op = OP_Gather, .name = "pick"};
  open_bench(&b);
  index = (int64_t *)b.given;
  Tensor in[] = {tensor_at(F32, (Shape){1, {4}}, b.data + 4096), tensor_at(I64, (Shape){1, {1}}, b.data + 8192)},
         out = tensor_at(F32, (Shape){1, {1}}, b.data + 12288);
  *index = 0;
  ASSERT_OK(backend_cuda.kernels[OP_Gather]->run(b.s, &node, in, &out, NULL, NULL));
  ASSERT_OK(backend_cuda.record_begin(b.s));
  ASSERT_OK(backend_cuda.copy(b.s, b.data + 8192, index, sizeof *index, COPY_HOST_TO_DEVICE));
  ASSERT_OK(backend_cuda.kernels[OP_Gather]->run(b.s, &node, in, &out, NULL, NULL));
  ASSERT_OK(backend_cuda.record_end(b.s, &recording));
  for (int i = 0; i < 4; i++) {
    *index = i % 2 ? 4 : 3;
    ASSERT_OK(backend_cuda.replay(b.s, recording));
    if (i % 2)
      ASSERT_FAILS(E_MODEL, "node 'pick' (Gather): index 4 at position 0 is outside axis 0 of [4]",
                   backend_cuda.stream_wait(b.s));
    else
      ASSERT_OK(backend_cuda.stream_wait(b.s));
  }
  backend_cuda.recording_free(recording);
  close_bench(&b);
}

/* What takes longer does so by the timers, too. */
static void timers_tell_apart(void **state) {
  (void)state;
  Bench b;
  Event *timers[3];
  double first, both, second;
  open_bench(&b);
  fill(b.given, 1);
  for (int i = 0; i < 3; i++)
    ASSERT_OK(backend_cuda.timer_create(b.s, &timers[i]));
  add(&b);
  for (int round = 0; round < 2; round++) {
    ASSERT_OK(backend_cuda.event_record(b.s, timers[0]));
    add(&b);
    ASSERT_OK(backend_cuda.event_record(b.s, timers[1]));
    for (int i = 0; i < 50; i++)
      add(&b);
    ASSERT_OK(backend_cuda.event_record(b.s, timers[2]));
    ASSERT_OK(backend_cuda.stream_wait(b.s));
    ASSERT_OK(backend_cuda.timer_seconds(timers[0], timers[1], &first));
    ASSERT_OK(backend_cuda.timer_seconds(timers[1], timers[2], &second));
    ASSERT_OK(backend_cuda.timer_seconds(timers[0], timers[2], &both));
    assert_true(first >= 0 && second > 0 && both >= second && both < 60);
  }
  for (int i = 0; i < 3; i++)
    backend_cuda.event_destroy(timers[i]);
  close_bench(&b);
}

/* Timers that are recorded tell of the last replay. */
static void recorded_timers_tell(void **state) {
  (void)state;
  Bench b;
  Event *timers[3];
  Recording *recording;
  double inside, behind;
  open_bench(&b);
  fill(b.given, 1);
  for (int i = 0; i < 3; i++)
    ASSERT_OK(backend_cuda.timer_create(b.s, &timers[i]));
  ASSERT_OK(backend_cuda.record_begin(b.s));
  ASSERT_OK(backend_cuda.event_record(b.s, timers[0]));
  for (int i = 0; i < 50; i++)
    add(&b);
  ASSERT_OK(backend_cuda.event_record(b.s, timers[1]));
  ASSERT_OK(backend_cuda.record_end(b.s, &recording));
  for (int round = 0; round < 3; round++) {
    ASSERT_OK(backend_cuda.event_record(b.s, timers[2]));
    ASSERT_OK(backend_cuda.replay(b.s, recording));
    ASSERT_OK(backend_cuda.stream_wait(b.s));
    ASSERT_OK(backend_cuda.timer_seconds(timers[0], timers[1], &inside));
    ASSERT_OK(backend_cuda.timer_seconds(timers[2], timers[1], &behind));
    assert_true(inside > 0 && behind >= inside && behind < 60);
  }
#ifdef EMULATED /* nothing reads a timer that is on its way */
  emulation_seed(0);
  ASSERT_OK(backend_cuda.replay(b.s, recording));
  assert_int_equal(backend_cuda.timer_seconds(timers[0], timers[1], &inside), E_DEVICE);
  ASSERT_OK(backend_cuda.stream_wait(b.s));
#endif
  backend_cuda.recording_free(recording);
  for (int i = 0; i < 3; i++)
    backend_cuda.event_destroy(timers[i]);
  close_bench(&b);
}

#ifdef EMULATED
static Status wait_inside(const Bench *b) {
  return backend_cuda.stream_wait(b->s);
}

static Status take_memory_inside(const Bench *b) {
  void *memory;
  return backend_cuda.alloc(b->s, 64, &memory);
}

static Status copy_inside(const Bench *b) {
  float one = 1;
  return backend_cuda.copy(b->s, b->data, &one, sizeof one, COPY_HOST_TO_DEVICE);
}

static Status nothing_inside(const Bench *b) {
  (void)b;
  return OK;
}

/* A recording that went wrong leaves the stream as it was. */
static void what_cannot_be_kept_fails(void **state) {
  (void)state;
  static const struct {
    const char *call; /* that fails; NULL: none has to */
    Status (*inside)(const Bench *);
  } ways[] = {{NULL, wait_inside},
              {NULL, take_memory_inside},
              {NULL, copy_inside},
              {"cudaStreamBeginCapture", nothing_inside},
              {"cudaStreamEndCapture", nothing_inside},
              {"cudaGraphInstantiateWithFlags", nothing_inside}};
  Bench b;
  open_bench(&b);
  fill(b.given, 1);
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    Recording *recording = NULL;
    if (ways[i].call)
      emulation_fail(ways[i].call, 0);
    Status status = backend_cuda.record_begin(b.s);
    if (status == OK) {
      add(&b);
      assert_int_equal(ways[i].inside(&b), ways[i].call ? OK : E_DEVICE);
      status = backend_cuda.record_end(b.s, &recording);
    }
    assert_int_equal(status, E_DEVICE);
    assert_null(recording);
    add(&b);
    ASSERT_OK(backend_cuda.stream_wait(b.s));
    assert_true(b.got[0] == (float)(i + 1));
  }
  close_bench(&b);
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(recordings_run_when_they_are_replayed),
      cmocka_unit_test(zeros_are_recorded),
      cmocka_unit_test(faults_of_replays_are_named),
      cmocka_unit_test(timers_tell_apart),
      cmocka_unit_test(recorded_timers_tell),
#ifdef EMULATED
      cmocka_unit_test(what_cannot_be_kept_fails),
#endif
  };
  DeviceSpec device;
  if (backend_cuda.describe(0, &device) != OK) {
    fprintf(stderr, "skipped: %s\n", status_message());
    return 77;
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
