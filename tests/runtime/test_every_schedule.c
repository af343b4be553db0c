/* Every schedule trains the reference cases bitwise alike: 2 and 4 ranks, 1 to 9 microbatches, `auto` and all names,
 * against one rank with naive. Two steps of microbatches of one sample (two, where the model was exported for two).
 *
 * One backend for each number of microbatches by turns. With ONNXPIPE_TEST_SAMPLE set, some of all this. */
#include <unistd.h>

#include "partitioner/schedule.h"
#include "tests/runtime/reference_case.h"

enum { MOST_MICROBATCHES = 9 };

static const struct Case {
  const char *name;
  int samples; /* a microbatch */
} cases[] = {{"nanogpt", 1},     {"surrogate", 1},           {"branches", 1},         {"dlrm", 1},
             {"gpt2", 1},        {"gpt2_default_export", 1}, {"gpt2_fixed_batch", 2}, {"llama", 1},
             {"nanogpt_loss", 1}};

static bool sample;
static char saved[64];

/* What a training gave. */
typedef struct {
  Losses losses;
  char *file;
  size_t bytes;
} Trained;

static Trained train(OnnxpipeModel *model, OnnxpipeOptions *options, int ranks, const char *schedule,
                     const char *what) {
  Trained trained = {0};
  set_number(options, "ranks", ranks);
  set(options, "schedule", schedule);
  if (onnxpipe_train(model, stdout, take_loss, &trained.losses) != ONNXPIPE_OK)
    FAIL_TEST("%s: %s", what, onnxpipe_error());
  assert_int_equal(trained.losses.n, 2);
  trained.file = slurp(saved, &trained.bytes);
  return trained;
}

static void compare(OnnxpipeModel *model, OnnxpipeOptions *options, int ranks, const char *schedule, const char *name,
                    int microbatches, const Trained *alone) {
  char what[128];
  snprintf(what, sizeof what, "%s, %d ranks, %s, %d microbatches", name, ranks, schedule, microbatches);
  Trained trained = train(model, options, ranks, schedule, what);
  if (memcmp(&trained.losses, &alone->losses, sizeof trained.losses) != 0)
    FAIL_TEST("%s: other losses than with one rank", what);
  if (trained.bytes != alone->bytes || memcmp(trained.file, alone->file, trained.bytes) != 0)
    FAIL_TEST("%s: other weights than with one rank", what);
  free(trained.file);
}

static void is_bitwise_alike(void **state) {
  const struct Case *c = *state;
  json_t *json = read_case(c->name);
  OnnxpipeOptions *options = case_options(c->name, json);
  OnnxpipeModel *model;
  char path[256];
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", c->name);
  set_number(options, "steps", 2);
  set_number(options, "threads", 1);
  set(options, "save", saved);
  if (onnxpipe_open(path, options, &model) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  for (int m = 1; m <= MOST_MICROBATCHES; m++) {
    if (sample && (m + (c - cases)) % 3)
      continue;
    set_number(options, "microbatches", m);
    set_number(options, "batch", m * c->samples);
    set(options, "device", m % 2 ? "cpu" : "reference");
    Trained alone = train(model, options, 1, "naive", c->name);
    for (int ranks = 2; ranks <= 4; ranks += 2)
      for (int s = -1; s < 0 || schedule_names[s]; s++)
        if (!sample || (m + s + ranks) % 9 == 0)
          compare(model, options, ranks, s < 0 ? "auto" : schedule_names[s], c->name, m, &alone);
    free(alone.file);
  }
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  json_decref(json);
}

int main(void) {
  enum { CASES = sizeof cases / sizeof *cases };
  struct CMUnitTest tests[CASES];
  sample = getenv("ONNXPIPE_TEST_SAMPLE") != NULL;
  snprintf(saved, sizeof saved, "/tmp/onnxpipe-schedules-XXXXXX");
  int descriptor = mkstemp(saved);
  if (descriptor < 0)
    return 1;
  close(descriptor);
  for (int i = 0; i < CASES; i++)
    tests[i] =
        (struct CMUnitTest){.name = cases[i].name, .test_func = is_bitwise_alike, .initial_state = (void *)&cases[i]};
  int failed = cmocka_run_group_tests_name("every schedule", tests, NULL, NULL);
  unlink(saved);
  return failed;
}
