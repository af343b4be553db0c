/* PyTorch's losses and gradients, through the public functions, on threads of one process: the cases of models/, on
 * both host backends, on 1 to 4 ranks, with naive, gpipe and 1f1b, and 1, 2 and 4 microbatches; every other schedule on
 * 2 and 4 ranks with 4 microbatches, and the cpu backend with 1 and 2 threads; on 2 and 4 ranks with recomputation. For
 * one backend and number of microbatches, losses and saved files are the same bytes however it was cut. In bf16, losses
 * within 2 %.
 *
 * With ON_CUDA defined, on CUDA devices, or emulated ones, instead; an argument names the only precision to run in.
 * With OVER_NCCL, too, on 2 to 4 emulated devices whose ranks exchange as processes do, over NCCL.
 *
 * With ONNXPIPE_TEST_SAMPLE set, only two steps of some of the combinations run: what a sanitizer build has time for.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "partitioner/schedule/schedule.h"
#include "runtime/data/data.h"
#include "runtime/onnxpipe.h"
#include "tests/runtime/reference_case.h"
#include "tests/test.h"

#ifdef OVER_NCCL
#ifdef EMULATED
#include "tests/cuda/emulation.h"
#endif

extern bool boundary_threads_are_processes;
#endif

/* With which numbers of microbatches: all; 4, the only one of what was exported with a batch of 2; 1, where samples
 * meet in the statistics of batch normalisation; or 2, of a large model in few combinations, one of them on the
 * reference backend. */
typedef enum { ALL, FOUR, ONE, TWO } Microbatches;
static const int most_microbatches[] = {[ALL] = 4, [FOUR] = 4, [ONE] = 1, [TWO] = 2};

static const struct Case {
  const char *name;
  Microbatches counts;
} cases[] = {{"nanogpt", ALL},
             {"surrogate", ALL},
             {"branches", ALL},
             {"dlrm", ALL},
             {"gpt2", FOUR},
             {"gpt2_default_export", FOUR},
             {"gpt2_fixed_batch", FOUR},
             {"llama", FOUR},
             {"nanogpt_loss", FOUR},
             {"fresh_surrogate_legacy", FOUR},
             {"resnet", ONE},
#if !defined EMULATED || !(defined OVER_NCCL || defined __SANITIZE_ADDRESS__) /* where it takes many minutes */
             {"unet3d", TWO},
#endif
             {"fresh_gpt2_default", FOUR}};
enum { SAMPLE_STEPS = 2, MOST_RANKS = 4 };

static bool sample;
static char folder[64];

static const char *in_folder(const char *name, char path[128]) {
  snprintf(path, 128, "%s/%s", folder, name);
  return path;
}

/* tolerance 0: the case's own. */
static void check_losses(const json_t *json, const Losses *got, double tolerance, const char *what) {
  const json_t *expected = json_object_get(json, "losses_float64");
  if (tolerance == 0)
    tolerance = json_number_value(json_object_get(json, "relative_tolerance"));
  assert_int_equal(got->n, sample ? SAMPLE_STEPS : (int)json_array_size(expected));
  for (int i = 0; i < got->n; i++) {
    double loss = json_number_value(json_array_get(expected, (size_t)i));
    if (!(fabs(got->losses[i] - loss) <= tolerance * fabs(loss)))
      FAIL_TEST("%s: loss %.9g at step %d, PyTorch has %.9g", what, got->losses[i], i + 1, loss);
  }
}

static void compare_gradient(const Array *want, const Array *have, const char *what) {
  assert_true(shape_equal(want->shape, have->shape));
  int64_t n = shape_elements(want->shape);
  double *w = malloc((size_t)n * 2 * sizeof(double)), *h = w + n, largest = 0;
  ASSERT_OK(array_convert(want, 0, n, F64, w));
  ASSERT_OK(array_convert(have, 0, n, F64, h));
  for (int64_t k = 0; k < n; k++)
    largest = fmax(largest, fabs(w[k]));
  double tolerance = fmax(1e-5 * largest, 1e-8);
  for (int64_t k = 0; k < n; k++)
    if (!(fabs(w[k] - h[k]) <= tolerance))
      FAIL_TEST("%s: gradient of '%s' differs by %g at %lld, its largest element is %g", what, want->name, w[k] - h[k],
                (long long)k, largest);
  free(w);
}

/* Every trained tensor's that kept its name, within 1e-5 of its largest element, or 1e-8. */
static void check_gradients(const char *name, const json_t *json, const char *path, const char *what) {
  ArrayFile expected, got;
  char reference[256];
  size_t i;
  json_t *kept;
  snprintf(reference, sizeof reference, SOURCE_DIR "/models/%s/first_gradients.npz", name);
  ASSERT_OK(array_file_open(reference, &expected));
  ASSERT_OK(array_file_open(path, &got));
  assert_true(got.n_arrays >= (int)json_integer_value(json_object_get(json, "named_parameters")));
  json_array_foreach(json_object_get(json, "trainable"), i, kept) {
    const char *tensor = json_string_value(kept);
    const Array *want = array_find(&expected, tensor), *have = array_find(&got, tensor);
    if (!want || !have)
      FAIL_TEST("%s: no gradient of '%s'", what, tensor);
    compare_gradient(want, have, what);
  }
  array_file_close(&expected);
  array_file_close(&got);
}

/* What the first combination gave that all others have to give. */
typedef struct {
  Losses losses;
  char *file;
  size_t bytes;
} First;

/* One case while it runs. */
typedef struct {
  const char *name;
  json_t *json;
  OnnxpipeModel *model;
  OnnxpipeOptions *options;
  const char *device, *precision;
  double tolerance; /* of losses, where the precision is reduced */
  int microbatches, threads;
  Microbatches counts;
  First first;
} Run;

static void run_combination(Run *run, int ranks, const char *schedule) {
  char what[192], save[128], gradients[128];
  snprintf(what, sizeof what, "%s, %s in %s, %d ranks, %d threads, %s, %d microbatches", run->name, run->device,
           run->precision, ranks, run->threads, schedule, run->microbatches);
  set(run->options, "device", run->device);
  set(run->options, "precision", run->precision);
  set_number(run->options, "threads", run->threads);
  set_number(run->options, "ranks", ranks);
  set_number(run->options, "microbatches", run->microbatches);
  set(run->options, "schedule", schedule);
  set(run->options, "recompute", ranks % 2 ? "none" : "full");
  set(run->options, "save", in_folder("saved.onnx", save));
  remove_saved(save);
  set(run->options, "dump-gradients", in_folder("gradients.npz", gradients));
  Losses losses = {0};
  if (onnxpipe_train(run->model, stdout, take_loss, &losses) != ONNXPIPE_OK)
    FAIL_TEST("%s: %s", what, onnxpipe_error());
  check_losses(run->json, &losses, run->tolerance, what);
  if (run->tolerance == 0)
    check_gradients(run->name, run->json, gradients, what);
  size_t bytes;
  char *file = slurp(save, &bytes);
  First *first = &run->first;
  if (!first->file) {
    *first = (First){losses, file, bytes};
    return;
  }
  if (memcmp(losses.losses, first->losses.losses, sizeof losses.losses) != 0)
    FAIL_TEST("%s: other losses than with one rank", what);
  if (bytes != first->bytes || memcmp(file, first->file, bytes) != 0)
    FAIL_TEST("%s: other weights than with 1 rank", what);
  free(file);
}

#ifdef OVER_NCCL
/* Cut on as many devices as ranks, with the bits of one; and with a rank on the host in between, which need not have
 * them. With an interleaved schedule a pair of ranks exchanges in both directions what goes up and what goes down. */
static void run_devices(Run *run) {
  DeviceSpec last;
  run->microbatches = most_microbatches[run->counts];
  run->threads = 1;
  run->device = "cuda";
  run_combination(run, 1, "naive");
  for (int ranks = 2; ranks <= MOST_RANKS && backend_cuda.describe(ranks - 1, &last) == OK; ranks++)
    if (!sample || ranks == 2 + (int)strlen(run->name) % 3)
      run_combination(run, ranks, ranks == 2 ? "interleaved-1f1b" : ranks == 3 ? "1f1b" : "gpipe");
  free(run->first.file);
  run->first = (First){0};
  if (sample && strcmp(run->name, "dlrm") != 0)
    return;
  run->device = "cuda:0,cuda:1,cpu,cuda:1";
  run_combination(run, 4, "1f1b");
  free(run->first.file);
  run->first = (First){0};
}
#elif defined ON_CUDA
static const char *only_precision;

/* On devices alone, cut or not, in every precision; and with one rank of three on the host, which need not give the
 * same bits. */
static void run_devices(Run *run) {
  static const struct {
    const char *device, *precision;
    double tolerance;
  } ways[] = {{"cuda", "float32", 0},
              {"cuda:0,cpu,cuda:0", "float32", 0},
              {"cuda", "tf32", 0.0025},
              {"cuda", "bf16", 0.02},
              {"cuda:0,cpu,cuda:0", "bf16", 0.02}};
  run->microbatches = most_microbatches[run->counts];
  run->threads = 1;
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    if (only_precision && strcmp(ways[i].precision, only_precision) != 0)
      continue;
    run->device = ways[i].device;
    run->precision = ways[i].precision;
    run->tolerance = ways[i].tolerance;
    bool alone = strcmp(run->device, "cuda") == 0, reduced = run->tolerance > 0;
    if (sample && reduced && (!alone || strcmp(run->precision, "tf32") == 0))
      continue;
    if (alone && !(sample && reduced))
      run_combination(run, 1, "naive");
    run_combination(run, 3, "1f1b");
    free(run->first.file);
    run->first = (First){0};
  }
}
#else
static bool is_named(const char *schedule) {
  return strcmp(schedule, "naive") == 0 || strcmp(schedule, "gpipe") == 0 || strcmp(schedule, "1f1b") == 0;
}

/* Every combination of one number of microbatches on one backend. */
static void run_sweep(Run *run) {
  int most = run->counts == TWO && strcmp(run->device, "reference") == 0 ? 1 : MOST_RANKS;
  for (int ranks = 1; ranks <= most; ranks++)
    for (int s = 0; schedule_names[s]; s++) {
      bool more = run->microbatches == 4 && ranks % 2 == 0, picked = ranks == 1 ? s == 0 : (s + ranks) % 7 == 0;
      if (sample || run->counts == TWO ? !picked : !is_named(schedule_names[s]) && !more)
        continue;
      run->threads = strcmp(run->device, "cpu") == 0 && (s + ranks) % 2 ? 2 : 1;
      run_combination(run, ranks, schedule_names[s]);
    }
  free(run->first.file);
  run->first = (First){0};
}

/* Stored in bfloat16: the same bytes on 1 and 3 ranks, 1 and 2 threads. */
static void run_narrow(Run *run) {
  run->microbatches = most_microbatches[run->counts];
  run->precision = "bf16";
  run->tolerance = 0.02;
  run->threads = 1;
  run_combination(run, 1, "naive");
  run->threads = 2;
  run_combination(run, 3, "1f1b");
  free(run->first.file);
  run->first = (First){0};
  run->precision = "float32";
  run->tolerance = 0;
}

static void run_devices(Run *run) {
  for (int d = 0; d < 2; d++) {
    for (run->microbatches = 1; run->microbatches <= 4; run->microbatches *= 2)
      if (run->microbatches == most_microbatches[run->counts] || (run->counts == ALL && !sample)) {
        run->device = d ? "cpu" : "reference";
        run_sweep(run);
      }
    if (d || run->counts != TWO)
      run_narrow(run);
  }
}
#endif

static void run_case(const struct Case *c) {
  Run run = {.name = c->name, .counts = c->counts, .json = read_case(c->name), .precision = "float32"};
  char path[256];
  run.options = case_options(c->name, run.json);
  if (sample)
    set_number(run.options, "steps", SAMPLE_STEPS);
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", c->name);
  if (onnxpipe_open(path, run.options, &run.model) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  run_devices(&run);
  onnxpipe_close(run.model);
  onnxpipe_options_destroy(run.options);
  json_decref(run.json);
}

static void reproduces_pytorch(void **state) {
  run_case(*state);
}

int main(int argc, char **argv) {
  (void)argc, (void)argv;
#ifdef ON_CUDA
  DeviceSpec device;
#ifdef OVER_NCCL
  enum { LAST = 1 };
  boundary_threads_are_processes = true;
#ifdef EMULATED
  emulation_devices(MOST_RANKS, (size_t)1 << 30);
#endif
#else
  enum { LAST = 0 };
  only_precision = argv[1];
#endif
  if (backend_cuda.describe(LAST, &device) != OK) {
    fprintf(stderr, "skipped: %s\n", status_message());
    return 77;
  }
#endif
  sample = getenv("ONNXPIPE_TEST_SAMPLE") != NULL;
  snprintf(folder, sizeof folder, "/tmp/onnxpipe-cases-XXXXXX");
  if (!mkdtemp(folder))
    return 1;
  enum { CASES = sizeof cases / sizeof *cases };
  struct CMUnitTest tests[CASES];
  for (int i = 0; i < CASES; i++)
    tests[i] =
        (struct CMUnitTest){.name = cases[i].name, .test_func = reproduces_pytorch, .initial_state = (void *)&cases[i]};
  int failed = cmocka_run_group_tests_name("reference cases", tests, NULL, NULL);
  char path[128];
  remove_saved(in_folder("saved.onnx", path));
  unlink(in_folder("gradients.npz", path));
  rmdir(folder);
  return failed;
}
