/* Out of device memory, before the first step: by the plan, and where others hold what the plan counted on. The message
 * names rank, stage, need and limit. */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "tests/cuda/emulation.h"
#include "tests/runtime/session_case.h"

enum { DEVICE_BYTES = 64 << 20 };

static int steps;

static void count_step(void *context, const OnnxpipeMetrics *metrics) {
  (void)context;
  (void)metrics;
  steps++;
}

/* What training `branches` on these devices fails with. */
static void fails(const char *ranks, const char *device, char message[1024]) {
  OnnxpipeOptions *options = branches_options();
  OnnxpipeModel *model;
  must(onnxpipe_options_set(options, "ranks", ranks));
  must(onnxpipe_options_set(options, "device", device));
  must(onnxpipe_options_set(options, "microbatches", "2"));
  must(onnxpipe_options_set(options, "schedule", "1f1b"));
  must(onnxpipe_open(BRANCHES "model.onnx", options, &model));
  steps = 0;
  assert_int_equal(onnxpipe_train(model, NULL, count_step, NULL), ONNXPIPE_FAILED);
  assert_int_equal(steps, 0);
  snprintf(message, 1024, "%s", onnxpipe_error());
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

static void must_hold(const char *message, const char *const *parts) {
  for (; *parts; parts++)
    if (!strstr(message, *parts))
      FAIL_TEST("'%s' does not say '%s'", message, *parts);
}

/* The plan does not fit what the device has; ranks of one device share it. */
static void a_plan_that_does_not_fit_is_refused(void **state) {
  (void)state;
  char message[1024];
  emulation_devices(1, 100000);
  fails("1", "cuda", message);
  must_hold(message, (const char *[]){"rank 0 (stage 0) lacks ", "B, the limit is ", "a limit of ", NULL});
  fails("2", "cuda:0", message);
  must_hold(message, (const char *[]){" (stage ", ") lacks ", "B, the limit is ", "a limit of ", NULL});
}

/* Somebody else has taken most of the device. */
static void a_device_that_is_full_is_named(void **state) {
  (void)state;
  Stream *stream;
  void *taken;
  char message[1024], has[64];
  emulation_devices(1, DEVICE_BYTES);
  ASSERT_OK(backend_cuda.stream_open(0, 1, &stream));
  ASSERT_OK(backend_cuda.alloc(stream, DEVICE_BYTES - 8192, &taken));
  snprintf(has, sizeof has, "free of %d bytes", DEVICE_BYTES);
  fails("2", "cpu,cuda:0", message);
  must_hold(message, (const char *[]){"rank 1 (stage 1): an arena of ", " does not fit cuda:0, which has ", has, NULL});
  backend_cuda.release(stream, taken);
  backend_cuda.stream_close(stream);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_plan_that_does_not_fit_is_refused),
      cmocka_unit_test(a_device_that_is_full_is_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
