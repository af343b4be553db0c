/* Every schedule trains the reference cases bitwise alike: 2 and 4 ranks, 1 to 9 microbatches, `auto`, one from a file
 * and all names, with and without recomputation by turns, against one rank with naive. Two steps of microbatches of one
 * sample (two, where the model was exported for two). Messages go through strict_transport.c.
 *
 * One backend for each number of microbatches by turns. With ONNXPIPE_TEST_SAMPLE set, some of all this. */
#include <unistd.h>

#include "partitioner/schedule/schedule.h"
#include "tests/runtime/reference_case.h"

enum { MOST_MICROBATCHES = 9 };

static const struct Case {
  const char *name;
  int samples; /* a microbatch */
  bool frozen; /* --eval-mode */
} cases[] = {
    {"resnet", 1, true}, {"nanogpt", 1, false},     {"surrogate", 1, false},           {"branches", 1, false},
    {"dlrm", 1, false},  {"gpt2", 1, false},        {"gpt2_default_export", 1, false}, {"gpt2_fixed_batch", 2, false},
    {"llama", 1, false}, {"nanogpt_loss", 1, false}};

static bool sample;
static char saved[64], schedule_file[64];

/* As no name has it: two microbatches in flight on every rank, whatever stands behind it. */
static void write_schedule(int ranks, int microbatches) {
  FILE *file = fopen(schedule_file, "w");
  assert_non_null(file);
  for (int r = 0; r < ranks; r++) {
    for (int m = 0; m <= microbatches; m++) {
      if (m < microbatches)
        fprintf(file, "%dF%d ", r, m);
      if (m > 0)
        fprintf(file, "%dBW%d ", r, m - 1);
    }
    fprintf(file, "\n");
  }
  assert_int_equal(fclose(file), 0);
}

/* What a training gave. */
typedef struct {
  Losses losses;
  char *file;
  size_t bytes;
} Trained;

static Trained train(OnnxpipeModel *model, OnnxpipeOptions *options, int ranks, const char *schedule,
                     const char *recompute, const char *what) {
  Trained trained = {0};
  set_number(options, "ranks", ranks);
  set(options, "recompute", recompute);
  set(options, schedule ? "schedule" : "schedule-file", schedule ? schedule : schedule_file);
  remove_saved(saved);
  if (onnxpipe_train(model, stdout, take_loss, &trained.losses) != ONNXPIPE_OK)
    FAIL_TEST("%s: %s", what, onnxpipe_error());
  assert_int_equal(trained.losses.n, 2);
  trained.file = slurp(saved, &trained.bytes);
  return trained;
}

static void compare(OnnxpipeModel *model, OnnxpipeOptions *options, int ranks, const char *schedule, bool again,
                    const char *name, int microbatches, const Trained *alone) {
  char what[128];
  snprintf(what, sizeof what, "%s, %d ranks, %s, %d microbatches%s", name, ranks, schedule ? schedule : "from a file",
           microbatches, again ? ", recomputation" : "");
  Trained trained = train(model, options, ranks, schedule, again ? "full" : "none", what);
  if (memcmp(&trained.losses, &alone->losses, sizeof trained.losses) != 0)
    FAIL_TEST("%s: other losses than with one rank", what);
  if (trained.bytes != alone->bytes || memcmp(trained.file, alone->file, trained.bytes) != 0)
    FAIL_TEST("%s: other weights than with one rank", what);
  free(trained.file);
}

/* The case's model with options of its own: an option that was given cannot be taken back. */
static OnnxpipeModel *open_case(const struct Case *c, OnnxpipeOptions **options) {
  json_t *json = read_case(c->name);
  OnnxpipeModel *model;
  char path[256];
  *options = case_options(c->name, json);
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", c->name);
  set_number(*options, "steps", 2);
  set_number(*options, "threads", 1);
  set(*options, "save", saved);
  if (c->frozen)
    set(*options, "eval-mode", "");
  if (onnxpipe_open(path, *options, &model) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  json_decref(json);
  return model;
}

static void set_work(OnnxpipeOptions *options, const struct Case *c, int microbatches) {
  set_number(options, "microbatches", microbatches);
  set_number(options, "batch", microbatches * c->samples);
  set(options, "device", microbatches % 2 ? "cpu" : "reference");
}

static void is_bitwise_alike(void **state) {
  const struct Case *c = *state;
  OnnxpipeOptions *options, *file_options;
  OnnxpipeModel *model = open_case(c, &options), *file_model = open_case(c, &file_options);
  for (int m = 1; m <= MOST_MICROBATCHES; m++) {
    if (sample && (m + (c - cases)) % 3)
      continue;
    set_work(options, c, m);
    set_work(file_options, c, m);
    Trained alone = train(model, options, 1, "naive", "none", c->name);
    for (int ranks = 2; ranks <= 4; ranks += 2) {
      for (int s = -1; s < 0 || schedule_names[s]; s++)
        if (!sample || (m + s + ranks) % 9 == 0)
          compare(model, options, ranks, s < 0 ? "auto" : schedule_names[s], (m + s + ranks / 2) % 2 != 0, c->name, m,
                  &alone);
      write_schedule(ranks, m);
      if (!sample || (m + ranks) % 3 == 0)
        compare(file_model, file_options, ranks, NULL, (m + ranks / 2) % 2 != 0, c->name, m, &alone);
    }
    free(alone.file);
  }
  onnxpipe_close(model);
  onnxpipe_close(file_model);
  onnxpipe_options_destroy(options);
  onnxpipe_options_destroy(file_options);
}

int main(void) {
  enum { CASES = sizeof cases / sizeof *cases };
  struct CMUnitTest tests[CASES];
  sample = getenv("ONNXPIPE_TEST_SAMPLE") != NULL;
  char *const made[] = {saved, schedule_file};
  for (int i = 0; i < 2; i++) {
    snprintf(made[i], sizeof saved, "/tmp/onnxpipe-schedules-XXXXXX");
    int descriptor = mkstemp(made[i]);
    if (descriptor < 0)
      return 1;
    close(descriptor);
  }
  for (int i = 0; i < CASES; i++)
    tests[i] =
        (struct CMUnitTest){.name = cases[i].name, .test_func = is_bitwise_alike, .initial_state = (void *)&cases[i]};
  int failed = cmocka_run_group_tests_name("every schedule", tests, NULL, NULL);
  remove_saved(saved);
  unlink(schedule_file);
  return failed;
}
