/* What a training step asks of the device, counted on the emulated one. */
#include "tests/cuda/emulation.h"
#include "tests/runtime/reference_case.h"
#include "tests/test.h"

extern size_t tape_most_launches; /* of a step that is recorded as one */

typedef struct {
  int waits, allocations, launches;
} Counts;

/* What a run of so many steps takes, and its losses. */
static Counts run(const char *name, int ranks, int steps, Losses *losses) {
  Counts before = {emulation_waits(), emulation_allocations(), emulation_launches()};
  json_t *json = read_case(name);
  OnnxpipeOptions *options = case_options(name, json);
  OnnxpipeModel *model;
  char path[256];
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", name);
  set(options, "device", "cuda:0");
  set_number(options, "ranks", ranks);
  set_number(options, "steps", steps);
  if (onnxpipe_open(path, options, &model) != ONNXPIPE_OK ||
      onnxpipe_train(model, stdout, take_loss, losses) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  assert_int_equal(losses->n, steps);
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  json_decref(json);
  return (Counts){emulation_waits() - before.waits, emulation_allocations() - before.allocations,
                  emulation_launches() - before.launches};
}

static Counts count(const char *name, int ranks, int steps) {
  Losses losses = {0};
  return run(name, ranks, steps, &losses);
}

/* A rank's host waits for the losses, faults and norms of gradients, together, whatever the numbers of microbatches,
 * parameters, denominators, and what crosses to ranks of this process. */
static void a_step_waits_once(void **state) {
  (void)state;
  static const char *const names[] = {"surrogate", "nanogpt_loss", "surrogate"};
  static const int ranks[] = {1, 1, 2};
  for (int i = 0; i < 3; i++) {
    Counts two = count(names[i], ranks[i], 2), four = count(names[i], ranks[i], 4);
    assert_int_equal(four.waits - two.waits, 2);
  }
}

/* From the third on: all up to the norms, and the update. */
static void a_step_is_two_launches(void **state) {
  (void)state;
  static const char *const names[] = {"surrogate", "nanogpt_loss", "nanogpt"};
  for (int i = 0; i < 3; i++) {
    Counts two = count(names[i], 1, 2), four = count(names[i], 1, 4);
    assert_int_equal(four.launches - two.launches, 2 * 2);
  }
}

/* A step that is too long for one recording is recorded by actions, what cannot be recorded runs as it is: the bits are
 * the same. */
static void recordings_change_no_bits(void **state) {
  (void)state;
  static const char *const failing[] = {"cudaStreamBeginCapture", "cudaGraphInstantiateWithFlags"};
  for (int ranks = 1; ranks <= 2; ranks++) {
    Losses expected = {0}, losses = {0};
    run("surrogate", ranks, 5, &expected);
    tape_most_launches = 0;
    run("surrogate", ranks, 5, &losses);
    assert_memory_equal(&losses, &expected, sizeof losses);
    for (int i = 0; i < 4; i++) {
      tape_most_launches = i % 2 ? 0 : 16384;
      losses = (Losses){0};
      emulation_fail(failing[i % 2], i / 2);
      run("surrogate", ranks, 5, &losses);
      assert_memory_equal(&losses, &expected, sizeof losses);
    }
    tape_most_launches = 16384;
  }
}

static void a_step_allocates_nothing(void **state) {
  (void)state;
  for (int ranks = 1; ranks <= 2; ranks++) {
    Counts two = count("surrogate", ranks, 2), four = count("surrogate", ranks, 4);
    assert_int_equal(four.allocations, two.allocations);
  }
}

static void take_any_loss(void *context, const OnnxpipeMetrics *m) {
  assert_in_range(m->step, 1, MOST_STEPS);
  ((double *)context)[m->step - 1] = m->loss;
}

static void train_case(const char *name, OnnxpipeOptions *options, double *losses) {
  OnnxpipeModel *model;
  char path[256];
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", name);
  if (onnxpipe_open(path, options, &model) != ONNXPIPE_OK ||
      onnxpipe_train(model, stdout, take_any_loss, losses) != ONNXPIPE_OK)
    FAIL_TEST("%s: %s", name, onnxpipe_error());
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

static OnnxpipeOptions *narrow_case(const char *name, const char *optimizer, int ranks, int steps) {
  json_t *json = read_case(name);
  OnnxpipeOptions *options = case_options(name, json);
  set(options, "device", "cuda:0");
  set(options, "precision", "bf16");
  if (optimizer) { /* one that does without the numbers of the case's */
    set(options, "optimizer", optimizer);
    set(options, "beta1", "0.9");
    set(options, "beta2", "0.999");
    set(options, "eps", "1e-8");
  }
  set_number(options, "ranks", ranks);
  set_number(options, "microbatches", 2);
  set_number(options, "steps", steps);
  json_decref(json);
  return options;
}

/* What products read is rounded anew from the weights when a run goes on, and written by the update while it does: the
 * bits are the same, also of a table that is the head as well, whose rows are updated apart, and that lies on two
 * ranks.
 */
static void updates_write_what_weights_round_to(void **state) {
  (void)state;
  static const struct {
    const char *name, *optimizer;
    int ranks;
  } cases[] = {{"surrogate", "sgd", 2}, {"nanogpt", NULL, 2}, {"nanogpt", "sgd", 1}};
  enum { HALF = 2, STEPS = 3 };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char folder[] = "/tmp/onnxpipe-steps-XXXXXX", command[64];
    double straight[MOST_STEPS] = {0}, resumed[MOST_STEPS] = {0};
    const char *name = cases[i].name, *optimizer = cases[i].optimizer;
    assert_non_null(mkdtemp(folder));
    train_case(name, narrow_case(name, optimizer, cases[i].ranks, STEPS), straight);
    OnnxpipeOptions *options = narrow_case(name, optimizer, cases[i].ranks, HALF);
    set(options, "checkpoint", folder);
    train_case(name, options, resumed);
    options = onnxpipe_options_create();
    set(options, "resume", folder);
    set(options, "quiet", "");
    set_number(options, "steps", STEPS);
    train_case(name, options, resumed);
    for (int k = 0; k < STEPS; k++)
      if (straight[k] != resumed[k])
        FAIL_TEST("%s: loss %.17g at step %d, %.17g in one run", name, resumed[k], k + 1, straight[k]);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
  }
}

/* Every kind of node has a number, and times leave nothing behind. */
static void profiles_are_whole(void **state) {
  (void)state;
  char text[16384];
  FILE *out = tmpfile();
  OnnxpipeOptions *options = onnxpipe_options_create();
  OnnxpipeModel *model;
  int known, kinds;
  assert_non_null(out);
  set(options, "data", SOURCE_DIR "/models/surrogate/data.npz");
  set(options, "device", "cuda:0");
  if (onnxpipe_open(SOURCE_DIR "/models/surrogate/model.onnx", options, &model) != ONNXPIPE_OK ||
      onnxpipe_profile(model, out) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  rewind(out);
  text[fread(text, 1, sizeof text - 1, out)] = '\0';
  fclose(out);
  const char *at = strstr(text, "measured for ");
  assert_non_null(at);
  assert_int_equal(sscanf(at, "measured for %d of %d kinds", &known, &kinds), 2);
  assert_true(kinds > 5 && known == kinds);
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  assert_int_equal(emulation_allocated(), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_step_waits_once),         cmocka_unit_test(a_step_is_two_launches),
      cmocka_unit_test(recordings_change_no_bits), cmocka_unit_test(a_step_allocates_nothing),
      cmocka_unit_test(profiles_are_whole),        cmocka_unit_test(updates_write_what_weights_round_to),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
