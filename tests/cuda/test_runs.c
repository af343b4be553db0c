/* Runs whose ranks exchange over wires: they say so, and where one fails all end, with its name, and nothing is left
 * behind. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/cuda/emulation.h"
#include "tests/runtime/reference_case.h"
#include "tests/test.h"

extern bool boundary_threads_are_processes; /* over NCCL; else by copies */

static OnnxpipeModel *open_one(const char *name, OnnxpipeOptions *options, const char *devices, const char *ranks,
                               const char *microbatches) {
  OnnxpipeModel *model;
  char path[256];
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/data.npz", name);
  set(options, "data", path);
  set(options, "device", devices);
  set(options, "ranks", ranks);
  set(options, "microbatches", microbatches);
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", name);
  if (onnxpipe_open(path, options, &model) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  return model;
}

static OnnxpipeModel *open_model(OnnxpipeOptions *options, const char *devices, const char *ranks) {
  return open_one("surrogate", options, devices, ranks, "4");
}

static void close_model(OnnxpipeModel *model, OnnxpipeOptions *options) {
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  assert_int_equal(emulation_allocated(), 0);
}

/* The message that training ends with. */
static const char *train(const char *option, const char *value, OnnxpipeProgress *progress) {
  static char message[512];
  OnnxpipeOptions *options = onnxpipe_options_create();
  set(options, "quiet", "");
  set(options, option, value);
  OnnxpipeModel *model = open_model(options, "cuda:0,cuda:1,cuda:2", "3");
  assert_int_not_equal(onnxpipe_train(model, stdout, progress, NULL), ONNXPIPE_OK);
  snprintf(message, sizeof message, "%s", onnxpipe_error());
  close_model(model, options);
  return message;
}

/* Boundaries with a device, each once. */
static void ways_are_printed(void **state) {
  char text[16384];
  FILE *out = tmpfile();
  OnnxpipeOptions *options = onnxpipe_options_create();
  assert_non_null(out);
  boundary_threads_are_processes = *state != NULL;
  set(options, "dry-run", "");
  OnnxpipeModel *model = open_model(options, "cuda:0,cuda:1,cpu,cpu", "4");
  if (onnxpipe_train(model, out, NULL, NULL) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  rewind(out);
  text[fread(text, 1, sizeof text - 1, out)] = '\0';
  fclose(out);
  const char *first = strstr(text, *state ? "boundary 0-1  nccl\n" : "boundary 0-1  device copy\n");
  if (!first || !strstr(first, "boundary 1-2  pinned host memory\n") || strstr(text, "boundary 2-3"))
    FAIL_TEST("%s", text);
  if (!strstr(text, "\nmakespan ")) /* ranks wait for each other before they update */
    FAIL_TEST("%s", text);
  close_model(model, options);
}

/* The lines of the plan, or of a dry run of training. */
static void run_and_read(const char *plan, const char *option, const char *value, char text[16384]) {
  FILE *out = tmpfile();
  OnnxpipeOptions *options = onnxpipe_options_create();
  OnnxpipeModel *model;
  bool plans = strcmp(option, "device") == 0;
  assert_non_null(out);
  set(options, "data", SOURCE_DIR "/models/surrogate/data.npz");
  set(options, plans ? "output-plan" : "plan", plan);
  set(options, option, value);
  if (plans) {
    set(options, "ranks", "3");
    set(options, "precision", "bf16");
  }
  if (onnxpipe_open(SOURCE_DIR "/models/surrogate/model.onnx", options, &model) != ONNXPIPE_OK ||
      (plans ? onnxpipe_plan(model, out) : onnxpipe_train(model, out, NULL, NULL)) != ONNXPIPE_OK)
    FAIL_TEST("%s %s: %s", option, value, onnxpipe_error());
  rewind(out);
  text[fread(text, 1, 16383, out)] = '\0';
  fclose(out);
  close_model(model, options);
}

/* Who convolves is printed where something does. */
static void convolutions_are_told(void **state) {
  (void)state;
  static const char *const models[] = {"resnet", "surrogate"};
  for (int i = 0; i < 2; i++) {
    char path[256], data[256], text[16384];
    FILE *out = tmpfile();
    OnnxpipeOptions *options = onnxpipe_options_create();
    OnnxpipeModel *model;
    assert_non_null(out);
    snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", models[i]);
    snprintf(data, sizeof data, SOURCE_DIR "/models/%s/data.npz", models[i]);
    set(options, "data", data);
    set(options, "device", "cuda");
    set(options, "dry-run", "");
    if (onnxpipe_open(path, options, &model) != ONNXPIPE_OK || onnxpipe_train(model, out, NULL, NULL) != ONNXPIPE_OK)
      FAIL_TEST("%s", onnxpipe_error());
    rewind(out);
    text[fread(text, 1, sizeof text - 1, out)] = '\0';
    fclose(out);
    if ((strstr(text, "\nconvolution   cuDNN 9.0.0, own kernels") != NULL) != (i == 0))
      FAIL_TEST("%s: %s", models[i], text);
    close_model(model, options);
  }
}

/* Devices and precision are the plan's where nobody says them: one for all spread over what is there, or a list. */
static void a_plan_holds_devices_and_precision(void **state) {
  (void)state;
  static const char *const devices[][2] = {{"cuda", "cuda:0 (emulated device), cuda:1 (emulated device), cuda:2 ("},
                                           {"cuda:2,cpu,cuda:1", "cuda:2 (emulated device), cpu, cuda:1 ("}};
  char path[] = "/tmp/test_runs_XXXXXX", text[16384];
  int descriptor = mkstemp(path);
  assert_true(descriptor >= 0);
  close(descriptor);
  boundary_threads_are_processes = false;
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    run_and_read(path, "device", devices[i][0], text);
    run_and_read(path, "steps", "1", text);
    if (!strstr(text, devices[i][1]) || !strstr(text, "precision     bf16 activations"))
      FAIL_TEST("%s", text);
  }
  unlink(path);
}

/* What a dry run prints, its costs measured in `cache`. */
static void dry_run(const char *cache, const char *devices, const char *ranks, char text[16384]) {
  FILE *out = tmpfile();
  OnnxpipeOptions *options = onnxpipe_options_create();
  assert_non_null(out);
  setenv("XDG_CACHE_HOME", cache, 1);
  setenv("COLUMNS", "500", 1); /* no line is broken */
  set(options, "dry-run", "");
  OnnxpipeModel *model = open_model(options, devices, ranks);
  if (onnxpipe_train(model, out, NULL, NULL) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  rewind(out);
  text[fread(text, 1, 16383, out)] = '\0';
  fclose(out);
  close_model(model, options);
}

/* The number behind these words; negative: they are not there. */
static double behind(const char *text, const char *words) {
  const char *at = strstr(text, words);
  return at ? strtod(at + strlen(words), NULL) : -1;
}

/* Buses and wires have rates that were measured, and that are known the next time; wires where there are any. */
static void links_are_measured(void **state) {
  static const char BUS[] = "whose bus has ", WIRE[] = "; between devices ";
  char cache[] = "/tmp/onnxpipe-runs-XXXXXX", text[16384], command[64], before[4096];
  const char *own = getenv("XDG_CACHE_HOME");
  snprintf(before, sizeof before, "%s", own ? own : "/nowhere");
  assert_non_null(mkdtemp(cache));
  boundary_threads_are_processes = *state != NULL;
  dry_run(cache, "cuda:0,cuda:1,cuda:2", "3", text);
  double bus = behind(text, BUS), wire = behind(text, WIRE);
  if (!(bus > 0 && wire > 0) || strstr(text, "from before"))
    FAIL_TEST("%s", text);
  dry_run(cache, "cuda:0,cuda:1,cuda:2", "3", text);
  if (behind(text, BUS) != bus || behind(text, WIRE) != wire || !strstr(text, "from before"))
    FAIL_TEST("%g and %g before: %s", bus, wire, text);
  dry_run(cache, "cuda:0,cpu", "2", text);
  if (!(behind(text, BUS) > 0) || behind(text, WIRE) >= 0)
    FAIL_TEST("%s", text);
  dry_run(cache, "cpu", "2", text);
  if (behind(text, BUS) >= 0 || behind(text, WIRE) >= 0)
    FAIL_TEST("%s", text);
  unsetenv("COLUMNS");
  setenv("XDG_CACHE_HOME", before, 1);
  snprintf(command, sizeof command, "rm -r %s", cache);
  assert_int_equal(system(command), 0);
}

static void a_loss_that_is_no_number_ends_all(void **state) {
  boundary_threads_are_processes = *state != NULL;
  const char *message = train("lr", "1e30", NULL);
  if (!strstr(message, "the loss of microbatch 0 is") && !strstr(message, "is not finite"))
    FAIL_TEST("%s", message);
}

enum { STEPS = 3 };

static void keep_loss(void *context, const OnnxpipeMetrics *m) {
  ((double *)context)[m->step - 1] = m->loss;
}

static void train_some(const char *name, const char *devices, const char *ranks, double losses[STEPS]) {
  OnnxpipeOptions *options = onnxpipe_options_create();
  set(options, "quiet", "");
  set_number(options, "steps", STEPS);
  OnnxpipeModel *model = open_one(name, options, devices, ranks, "2");
  if (onnxpipe_train(model, NULL, keep_loss, losses) != ONNXPIPE_OK)
    FAIL_TEST("%s on %s: %s", name, devices, onnxpipe_error());
  close_model(model, options);
}

/* Fourier transforms, and bags of rows: the host's losses, and on any devices the same bits. */
static void models_train_as_on_the_host(void **state) {
  (void)state;
  static const char *const names[] = {"fresh/fno_dynamo", "padded_bag"};
  boundary_threads_are_processes = false;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    double host[STEPS], one[STEPS], two[STEPS];
    train_some(names[i], "cpu", "1", host);
    train_some(names[i], "cuda:0", "1", one);
    train_some(names[i], "cuda:2,cuda:1", "2", two);
    for (int k = 0; k < STEPS; k++)
      if (!(fabs(one[k] - host[k]) <= 1e-5 * fabs(host[k])) || one[k] != two[k])
        FAIL_TEST("%s, step %d: %.9g on the host, %.9g and %.9g on devices", names[i], k + 1, host[k], one[k], two[k]);
  }
}

/* An epoch's rest: steps of whole batches over wires and of the rest through the host take turns. */
static void train_rest(const char *devices, const char *ranks, double losses[2 * STEPS]) {
  OnnxpipeOptions *options = onnxpipe_options_create();
  set(options, "quiet", "");
  set(options, "epochs", "2");
  set(options, "last-batch", "exact");
  set(options, "validation-split", "0.025"); /* leaves 156: 2 batches of 64, and 28 */
  set(options, "batch", "64");
  set(options, "clip-norm", "0.5");
  OnnxpipeModel *model = open_model(options, devices, ranks);
  if (onnxpipe_train(model, NULL, keep_loss, losses) != ONNXPIPE_OK)
    FAIL_TEST("%s: %s", devices, onnxpipe_error());
  close_model(model, options);
}

static void an_epochs_rest_trains_as_on_the_host(void **state) {
  static const char *const devices[] = {"cuda:0", "cuda:1,cuda:0", "cuda:0,cuda:1,cuda:2"}, *const ranks[] = {"1", "2",
                                                                                                              "3"};
  double host[2 * STEPS], losses[3][2 * STEPS];
  boundary_threads_are_processes = *state != NULL;
  train_rest("cpu", "1", host);
  for (int i = 0; i < 3; i++)
    train_rest(devices[i], ranks[i], losses[i]);
  for (int k = 0; k < 2 * STEPS; k++)
    if (!(fabs(losses[0][k] - host[k]) <= 1e-4 * fabs(host[k])) || losses[1][k] != losses[0][k] ||
        losses[2][k] != losses[0][k])
      FAIL_TEST("step %d: %.9g on the host, %.9g, %.9g and %.9g on devices", k + 1, host[k], losses[0][k], losses[1][k],
                losses[2][k]);
}

static void kill_rank_1(void *context, const OnnxpipeMetrics *m) {
  (void)context;
  if (m->step == 2)
    emulation_nccl_kill(1);
}

static void a_peer_that_is_gone_is_named(void **state) {
  (void)state;
  boundary_threads_are_processes = true;
  const char *message = train("steps", "8", kill_rank_1);
  if (!strstr(message, "NCCL") || !strstr(message, "rank 1: remote process exited"))
    FAIL_TEST("%s", message);
}

int main(void) {
  emulation_devices(3, (size_t)1 << 30);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ways_are_printed),
      {"ways_are_printed, over NCCL", ways_are_printed, NULL, NULL, (void *)"nccl"},
      cmocka_unit_test(a_plan_holds_devices_and_precision),
      cmocka_unit_test(convolutions_are_told),
      cmocka_unit_test(links_are_measured),
      {"links_are_measured, over NCCL", links_are_measured, NULL, NULL, (void *)"nccl"},
      cmocka_unit_test(models_train_as_on_the_host),
      cmocka_unit_test(an_epochs_rest_trains_as_on_the_host),
      {"an_epochs_rest_trains_as_on_the_host, over NCCL", an_epochs_rest_trains_as_on_the_host, NULL, NULL,
       (void *)"nccl"},
      cmocka_unit_test(a_loss_that_is_no_number_ends_all),
      {"a_loss_that_is_no_number_ends_all, over NCCL", a_loss_that_is_no_number_ends_all, NULL, NULL, (void *)"nccl"},
      cmocka_unit_test(a_peer_that_is_gone_is_named),
  };
  return cmocka_run_group_tests_name("runs", tests, NULL, NULL);
}
