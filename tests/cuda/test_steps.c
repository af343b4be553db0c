/* What a training step asks of the device, counted on the emulated one. */
#include "tests/cuda/emulation.h"
#include "tests/runtime/reference_case.h"
#include "tests/test.h"

typedef struct {
  int waits, allocations;
} Counts;

/* What a run of so many steps takes. */
static Counts count(const char *name, int ranks, int steps) {
  Counts before = {emulation_waits(), emulation_allocations()};
  json_t *json = read_case(name);
  OnnxpipeOptions *options = case_options(name, json);
  OnnxpipeModel *model;
  Losses losses = {0};
  char path[256];
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", name);
  set(options, "device", "cuda:0");
  set_number(options, "ranks", ranks);
  set_number(options, "steps", steps);
  if (onnxpipe_open(path, options, &model) != ONNXPIPE_OK ||
      onnxpipe_train(model, stdout, take_loss, &losses) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  assert_int_equal(losses.n, steps);
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  json_decref(json);
  return (Counts){emulation_waits() - before.waits, emulation_allocations() - before.allocations};
}

/* A rank's host waits for the losses and faults, for the gradients' norms, and for the end of the update, whatever the
 * numbers of microbatches, parameters, denominators, and what crosses to ranks of this process. */
static void a_step_waits_three_times(void **state) {
  (void)state;
  static const char *const names[] = {"surrogate", "nanogpt_loss", "surrogate"};
  static const int ranks[] = {1, 1, 2};
  for (int i = 0; i < 3; i++) {
    Counts two = count(names[i], ranks[i], 2), four = count(names[i], ranks[i], 4);
    assert_int_equal(four.waits - two.waits, 2 * 3);
  }
}

static void a_step_allocates_nothing(void **state) {
  (void)state;
  for (int ranks = 1; ranks <= 2; ranks++) {
    Counts two = count("surrogate", ranks, 2), four = count("surrogate", ranks, 4);
    assert_int_equal(four.allocations, two.allocations);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_step_waits_three_times),
      cmocka_unit_test(a_step_allocates_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
