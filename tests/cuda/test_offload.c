/* The optimizer's state on the host: losses and weights have the bits of runs that keep it on the device, whatever
 * ranks and devices there are, and a model trains that does not fit otherwise. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/cuda/emulation.h"
#include "tests/runtime/reference_case.h"
#include "tests/test.h"

enum { STEPS = 4 };

typedef struct {
  const char *option, *value;
} Setting;

typedef struct {
  const char *model;
  Setting settings[8];
} Run;

static char folder[] = "/tmp/test_offload_XXXXXX";
static char large[64]; /* not empty: a model in the case's place */

static void remove_folder(void) {
  char command[64];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  if (system(command) != 0)
    fprintf(stderr, "%s stays\n", folder);
}

typedef struct {
  double losses[2 * STEPS], validation;
  char *weights;
  size_t bytes;
} Trained;

static void keep(void *context, const OnnxpipeMetrics *m) {
  Trained *trained = context;
  assert_in_range(m->step, 1, 2 * STEPS);
  trained->losses[m->step - 1] = m->loss;
}

static void set_all(OnnxpipeOptions *options, const Setting *settings) {
  for (; settings && settings->option; settings++)
    set(options, settings->option, settings->value);
}

static OnnxpipeModel *open_run(const Run *run, const Setting *more, OnnxpipeOptions **options) {
  json_t *json = read_case(run->model);
  OnnxpipeModel *model;
  char path[256];
  *options = case_options(run->model, json);
  bool epochs = strcmp(run->settings[0].option ? run->settings[0].option : "", "epochs") == 0;
  if (epochs) {
    onnxpipe_options_destroy(*options);
    *options = onnxpipe_options_create();
    set(*options, "data", SOURCE_DIR "/models/surrogate/data.npz");
    set(*options, "quiet", "");
  } else {
    set_number(*options, "steps", STEPS);
  }
  set_all(*options, run->settings);
  set_all(*options, more);
  json_decref(json);
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", run->model);
  if (*large)
    snprintf(path, sizeof path, "%s", large);
  if (onnxpipe_open(path, *options, &model) != ONNXPIPE_OK)
    FAIL_TEST("%s: %s", run->model, onnxpipe_error());
  return model;
}

static void close_run(OnnxpipeModel *model, OnnxpipeOptions *options) {
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  assert_int_equal(emulation_allocated(), 0);
}

static void train(const Run *run, const Setting *more, Trained *trained) {
  OnnxpipeOptions *options;
  char path[64];
  snprintf(path, sizeof path, "%s/saved.onnx", folder);
  *trained = (Trained){0};
  OnnxpipeModel *model = open_run(run, more, &options);
  set(options, "save", path);
  if (onnxpipe_train(model, NULL, keep, trained) != ONNXPIPE_OK)
    FAIL_TEST("%s: %s", run->model, onnxpipe_error());
  close_run(model, options);
  trained->weights = slurp(path, &trained->bytes);
  remove_saved(path);
}

static void must_be_same(const char *what, const Trained *a, const Trained *b) {
  for (int k = 0; k < 2 * STEPS; k++)
    if (a->losses[k] != b->losses[k])
      FAIL_TEST("%s, step %d: %.17g, and %.17g with --offload", what, k + 1, a->losses[k], b->losses[k]);
  if (a->bytes != b->bytes || memcmp(a->weights, b->weights, a->bytes) != 0)
    FAIL_TEST("%s: --offload has other weights", what);
}

/* Of one run with and without, and on other devices. */
static void check(const Run *run, const Setting *const *places, int n) {
  Trained plain, other;
  train(run, places[0], &plain);
  for (int i = 0; i < n; i++) {
    Setting more[8] = {{"offload", "optimizer"}};
    for (int k = 0; places[i][k].option; k++)
      more[1 + k] = places[i][k];
    train(run, more, &other);
    must_be_same(run->model, &plain, &other);
    free(other.weights);
  }
  free(plain.weights);
}

static const Setting alone[] = {{"device", "cuda:0"}, {NULL, NULL}};
static const Setting two[] = {{"device", "cuda:1,cuda:0"}, {"ranks", "2"}, {NULL, NULL}};
static const Setting three[] = {{"device", "cuda:0,cuda:1,cuda:2"}, {"ranks", "3"}, {NULL, NULL}};
static const Setting mixed[] = {{"device", "cuda:0,cpu"}, {"ranks", "2"}, {NULL, NULL}};

/* Many pieces, parameters cut; tied ones; momentum; tables of which rows are kept, whole and sparse updates. */
static void the_bits_are_the_same(void **state) {
  (void)state;
  static const Run runs[] = {
      {"surrogate", {{"clip-norm", "0.5"}, {"microbatches", "2"}}},
      {"nanogpt", {{"microbatches", "2"}}},
      {"nanogpt", {{"microbatches", "2"}, {"precision", "bf16"}}},
      {"resnet", {{"microbatches", "1"}}},
      {"dlrm", {{"optimizer", "adamw"}, {"lr", "0.001"}, {"microbatches", "2"}}},
      {"dlrm", {{"optimizer", "sparse_adam"}, {"lr", "0.001"}, {"clip-norm", "1"}, {"microbatches", "2"}}},
      {"dlrm", {{"momentum", "0.9"}, {"nesterov", ""}, {"microbatches", "2"}}},
  };
  static const Setting *const places[] = {alone, two, three};
  for (size_t i = 0; i < sizeof runs / sizeof *runs; i++)
    check(&runs[i], places, 3);
}

static void a_cpu_rank_keeps_its_own(void **state) {
  (void)state;
  static const Run run = {"surrogate", {{"microbatches", "2"}}};
  static const Setting *const places[] = {mixed};
  check(&run, places, 1);
}

/* An epoch's rest is a graph of its own over the same states; validation computes between the steps. */
static void rests_and_validation_go_between(void **state) {
  (void)state;
  static const Run run = {"surrogate",
                          {{"epochs", "2"},
                           {"last-batch", "exact"},
                           {"validation-split", "0.025"},
                           {"batch", "64"},
                           {"every", "1"},
                           {"microbatches", "2"}}};
  static const Setting *const places[] = {alone, two};
  check(&run, places, 2);
}

static void train_part(const Run *run, bool offloads, const char *steps, const char *from, const char *to,
                       Trained *trained) {
  Setting more[8] = {{"device", "cuda:0"}, {"offload", offloads ? "optimizer" : "none"}, {"steps", steps}};
  int n = 3;
  if (from)
    more[n++] = (Setting){"resume", from};
  if (to)
    more[n++] = (Setting){"checkpoint", to};
  train(run, more, trained);
}

/* A run that offloads goes on where another one was, and the other way round. */
static void checkpoints_hold_the_states(void **state) {
  (void)state;
  static const Run run = {"surrogate", {{"microbatches", "2"}}};
  Trained whole;
  train_part(&run, false, "4", NULL, NULL, &whole);
  for (int way = 0; way < 4; way++) {
    char at[64];
    Trained begun, ended;
    snprintf(at, sizeof at, "%s/run%d", folder, way);
    train_part(&run, way & 1, "2", NULL, at, &begun);
    train_part(&run, way & 2, "4", at, NULL, &ended);
    memcpy(ended.losses, begun.losses, 2 * sizeof *begun.losses);
    must_be_same("resumed", &whole, &ended);
    free(begun.weights);
    free(ended.weights);
  }
  free(whole.weights);
}

/* Parts of what plans say of one rank. */
typedef struct {
  double parameters, gradients, states, host, window, total, limit;
} Memory;

static OnnxpipeStatus plan(const Run *run, const char *limit, const char *offload, Memory *memory) {
  OnnxpipeOptions *options;
  char path[64];
  Setting more[] = {{"device", "cuda:0"}, {"offload", offload}, {"memory-limit", limit}, {NULL, NULL}};
  snprintf(path, sizeof path, "%s/plan.json", folder);
  OnnxpipeModel *model = open_run(run, more, &options);
  set(options, "output-plan", path);
  OnnxpipeStatus status = onnxpipe_plan(model, NULL);
  if (status == ONNXPIPE_OK) {
    json_t *json = json_load_file(path, 0, NULL);
    const json_t *rank = json_array_get(json_object_get(json, "memory"), 0);
    assert_non_null(rank);
    *memory = (Memory){.parameters = json_number_value(json_object_get(rank, "parameter_bytes")),
                       .gradients = json_number_value(json_object_get(rank, "gradient_bytes")),
                       .states = json_number_value(json_object_get(rank, "state_bytes")),
                       .host = json_number_value(json_object_get(rank, "host_bytes")),
                       .window = json_number_value(json_object_get(rank, "window_bytes")),
                       .total = json_number_value(json_object_get(rank, "total_bytes"))};
    assert_string_equal(json_string_value(json_object_get(json, "offload")), offload);
    json_decref(json);
  }
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  return status;
}

/* A model that is weights above all. */
static void make_large(void) {
  OnnxpipeOptions *options = onnxpipe_options_create();
  OnnxpipeModel *model;
  snprintf(large, sizeof large, "%s/large.onnx", folder);
  set(options, "replace-head", "classes=30000");
  set(options, "output-model", large);
  set(options, "quiet", "");
  if (onnxpipe_open(SOURCE_DIR "/models/branches/model.onnx", options, &model) != ONNXPIPE_OK ||
      onnxpipe_edit(model, NULL) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

/* Parameters, gradients and states take 1.7 times the limit. */
static void a_model_trains_that_does_not_fit(void **state) {
  (void)state;
  static const Run run = {"branches", {{"batch", "2"}, {"microbatches", "2"}, {"recompute", "none"}}};
  make_large();
  Memory plain, offloaded;
  char limit[32];
  assert_int_equal(plan(&run, "1G", "none", &plain), ONNXPIPE_OK);
  assert_true(plain.host == 0 && plain.window == 0);
  snprintf(limit, sizeof limit, "%.0f", (plain.parameters + plain.gradients + plain.states) / 1.7);
  assert_int_equal(plan(&run, limit, "none", &plain), ONNXPIPE_FAILED);
  if (!strstr(onnxpipe_error(), "the limit is"))
    FAIL_TEST("%s", onnxpipe_error());
  if (plan(&run, limit, "optimizer", &offloaded) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  assert_true(offloaded.host == plain.states && offloaded.states == offloaded.window);
  assert_true(offloaded.total <= strtod(limit, NULL));
  Trained whole, small;
  Setting within[] = {{"device", "cuda:0"}, {"memory-limit", limit}, {"offload", "optimizer"}, {NULL, NULL}};
  train(&run, alone, &whole);
  train(&run, within, &small);
  must_be_same("within the limit", &whole, &small);
  *large = '\0';
  free(whole.weights);
  free(small.weights);
}

typedef struct {
  int waits, allocations;
} Counts;

static Counts count(const char *steps) {
  static const Run run = {"surrogate", {{"microbatches", "2"}}};
  Counts before = {emulation_waits(), emulation_allocations()};
  Setting more[] = {{"device", "cuda:0"}, {"offload", "optimizer"}, {"steps", steps}, {NULL, NULL}};
  Trained trained;
  train(&run, more, &trained);
  free(trained.weights);
  return (Counts){emulation_waits() - before.waits, emulation_allocations() - before.allocations};
}

static void a_step_waits_once_and_allocates_nothing(void **state) {
  (void)state;
  Counts two_steps = count("2"), four = count("4");
  assert_int_equal(four.waits - two_steps.waits, 2);
  assert_int_equal(four.allocations, two_steps.allocations);
}

/* Where memory, a stream or an event is not to be had, the run ends and leaves nothing behind. */
static void what_fails_leaves_nothing(void **state) {
  (void)state;
  static const Run run = {"surrogate", {{"microbatches", "2"}}};
  static const char *const calls[] = {"cudaHostAlloc", "cudaMalloc", "cudaStreamCreateWithFlags",
                                      "cudaEventCreateWithFlags", "cudaMemcpyAsync"};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    for (int after = 0; after < 6; after++) {
      OnnxpipeOptions *options;
      OnnxpipeModel *model = open_run(&run, alone, &options);
      set(options, "offload", "optimizer");
      emulation_fail(calls[i], after);
      OnnxpipeStatus status = onnxpipe_train(model, NULL, NULL, NULL);
      emulation_fail("", 0);
      if (status != ONNXPIPE_OK && !strstr(onnxpipe_error(), "cuda:0"))
        FAIL_TEST("%s", onnxpipe_error());
      close_run(model, options);
    }
}

/* Of a device that has nothing but arenas, the window among them, and what streams keep. */
static void what_lies_beside_arenas_is_told(void **state) {
  (void)state;
  OnnxpipeOptions *options = onnxpipe_options_create();
  OnnxpipeModel *model;
  char text[16384];
  double taken, beside;
  FILE *out = tmpfile();
  assert_non_null(out);
  set(options, "data", SOURCE_DIR "/models/surrogate/data.npz");
  set(options, "steps", "3");
  set(options, "no-measure", "");
  set_all(options, alone);
  set(options, "offload", "optimizer");
  if (onnxpipe_open(SOURCE_DIR "/models/surrogate/model.onnx", options, &model) != ONNXPIPE_OK ||
      onnxpipe_train(model, out, NULL, NULL) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  rewind(out);
  text[fread(text, 1, sizeof text - 1, out)] = '\0';
  fclose(out);
  const char *at = strstr(text, "cuda:0: ");
  if (!strstr(text, "\nresident on a device beside its arena: ") || !at ||
      sscanf(at, "cuda:0: %lf MiB taken, %lf KiB of it beside", &taken, &beside) != 2 || taken < 1 || beside > 1024)
    FAIL_TEST("%s", text);
  close_run(model, options);
}

static void idle_offloads_are_refused(void **state) {
  (void)state;
  static const struct {
    Run run;
    const char *device, *says;
  } refused[] = {
      {{"surrogate", {{NULL, NULL}}}, "cpu", "--offload optimizer needs a GPU (--device cuda): cpu computes in"},
      {{"dlrm", {{NULL, NULL}}}, "cuda:0", "--offload optimizer does nothing with --optimizer sgd without --momentum"}};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    OnnxpipeOptions *options;
    Setting more[] = {{"device", refused[i].device}, {"offload", "optimizer"}, {NULL, NULL}};
    OnnxpipeModel *model = open_run(&refused[i].run, more, &options);
    assert_int_equal(onnxpipe_train(model, NULL, NULL, NULL), ONNXPIPE_USAGE);
    if (!strstr(onnxpipe_error(), refused[i].says))
      FAIL_TEST("%s", onnxpipe_error());
    close_run(model, options);
  }
}

int main(void) {
  emulation_devices(3, (size_t)1 << 30);
  assert_non_null(mkdtemp(folder));
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_bits_are_the_same),
      cmocka_unit_test(a_cpu_rank_keeps_its_own),
      cmocka_unit_test(rests_and_validation_go_between),
      cmocka_unit_test(checkpoints_hold_the_states),
      cmocka_unit_test(a_model_trains_that_does_not_fit),
      cmocka_unit_test(a_step_waits_once_and_allocates_nothing),
      cmocka_unit_test(what_fails_leaves_nothing),
      cmocka_unit_test(what_lies_beside_arenas_is_told),
      cmocka_unit_test(idle_offloads_are_refused),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  remove_folder();
  return failed;
}
