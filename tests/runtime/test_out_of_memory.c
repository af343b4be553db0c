/* Every allocation made to fail, one at a time: no hang, no crash, and no success whose result is not the one that a
 * machine with enough memory gives. A failure has one line that speaks of memory. With ONNXPIPE_TEST_ALL set every
 * allocation has its turn, by itself and with all that follow; else a sample, evenly spread, another one each time the
 * program's work changes. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/failing_memory.h"
#include "tests/runtime/session_case.h"

enum { MOST_OUTPUTS = 3, MOST_WORDS = 24, PATIENCE_SECONDS = 60 };

/* What is run, and what it leaves. */
typedef struct {
  const char *name, *subcommand, *model;
  const char *words[MOST_WORDS];     /* option, value, …; "@name" is a file in the folder */
  const char *outputs[MOST_OUTPUTS]; /* options that name files */
  int sample;                        /* allocations that fail where not all do */
} Work;

/* What came of it. */
typedef struct {
  OnnxpipeStatus status;
  char message[4096];
  char *bytes[1 + MOST_OUTPUTS]; /* standard output's, then the files' */
  size_t n[1 + MOST_OUTPUTS];
} Result;

static char folder[64];
static char what[256]; /* is being done, for whoever has to say that it hung or crashed */

static void say_and_end(int number) {
  const char *how = number == SIGALRM ? "\nhangs: " : "\ncrashes: ";
  (void)!write(STDERR_FILENO, how, strlen(how));
  (void)!write(STDERR_FILENO, what, strlen(what));
  (void)!write(STDERR_FILENO, "\n", 1);
  signal(SIGABRT, SIG_DFL);
  abort();
}

static char *in_folder(const char *name, char path[128]) {
  snprintf(path, 128, "%s/%s", folder, name);
  return path;
}

static void slurp(const char *path, char **bytes, size_t *n) {
  FILE *file = fopen(path, "rb");
  *bytes = NULL;
  *n = 0;
  if (!file)
    return;
  fseek(file, 0, SEEK_END);
  *n = (size_t)ftell(file);
  rewind(file);
  *bytes = malloc(*n + 1);
  assert_int_equal(fread(*bytes, 1, *n, file), *n);
  fclose(file);
}

static OnnxpipeStatus act(const Work *work, const OnnxpipeOptions *options, FILE *out) {
  OnnxpipeModel *model;
  OnnxpipeStatus status;
  if (strcmp(work->subcommand, "simulate") == 0)
    return onnxpipe_simulate(options, out, NULL);
  if ((status = onnxpipe_open(work->model, options, &model)) != ONNXPIPE_OK)
    return status;
  status = strcmp(work->subcommand, "inspect") == 0 ? onnxpipe_inspect(model, out)
           : strcmp(work->subcommand, "plan") == 0  ? onnxpipe_plan(model, out)
           : strcmp(work->subcommand, "run") == 0   ? onnxpipe_run(model, out)
                                                    : onnxpipe_train(model, out, NULL, NULL);
  onnxpipe_close(model);
  return status;
}

/* From the command line's words to the end, as tools/ does it. */
static OnnxpipeStatus attempt(const Work *work, FILE *out) {
  OnnxpipeOptions *options = onnxpipe_options_create();
  OnnxpipeStatus status = options ? ONNXPIPE_OK : ONNXPIPE_FAILED;
  char path[128];
  for (int i = 0; status == ONNXPIPE_OK && work->words[i]; i += 2)
    status =
        onnxpipe_options_set(options, work->words[i],
                             *work->words[i + 1] == '@' ? in_folder(work->words[i + 1] + 1, path) : work->words[i + 1]);
  for (int i = 0; status == ONNXPIPE_OK && i < MOST_OUTPUTS && work->outputs[i]; i++)
    status = onnxpipe_options_set(options, work->outputs[i], in_folder(work->outputs[i], path));
  if (status == ONNXPIPE_OK)
    status = act(work, options, out);
  onnxpipe_options_destroy(options);
  return status;
}

static Result run(const Work *work, long k, bool for_good) {
  Result result = {0};
  char path[128];
  for (int i = 0; i < MOST_OUTPUTS && work->outputs[i]; i++)
    unlink(strcat(in_folder(work->outputs[i], path), ".data")); /* with its own weights it gets the same name again */
  for (int i = 0; i < MOST_OUTPUTS && work->outputs[i]; i++)
    unlink(in_folder(work->outputs[i], path));
  FILE *out = fopen(in_folder("out", path), "wb");
  assert_non_null(out);
  snprintf(what, sizeof what, "%s, where allocation %ld fails%s", work->name, k, for_good ? " and all behind it" : "");
  alarm(PATIENCE_SECONDS);
  memory_fail_at(k, for_good);
  result.status = attempt(work, out);
  memory_recover();
  alarm(0);
  fclose(out);
  snprintf(result.message, sizeof result.message, "%s", onnxpipe_error());
  slurp(in_folder("out", path), &result.bytes[0], &result.n[0]);
  for (int i = 0; i < MOST_OUTPUTS && work->outputs[i]; i++)
    slurp(in_folder(work->outputs[i], path), &result.bytes[1 + i], &result.n[1 + i]);
  return result;
}

static void forget(Result *result) {
  for (int i = 0; i <= MOST_OUTPUTS; i++)
    free(result->bytes[i]);
}

static bool speaks_of_memory(const char *message) {
  return strcasestr(message, "memory") || strcasestr(message, "malloc") ||
         strcasestr(message, "resource temporarily unavailable"); /* threads */
}

/* What training prints has times in it; its files tell what it made. */
static int differing(const Work *work, const Result *a, const Result *b) {
  for (int i = strcmp(work->subcommand, "train") == 0; i <= MOST_OUTPUTS; i++)
    if (a->n[i] != b->n[i] || (a->n[i] && memcmp(a->bytes[i], b->bytes[i], a->n[i]) != 0))
      return i;
  return -1;
}

/* Training may have gone well, and its save not. */
static bool is_failure(const Work *work, OnnxpipeStatus status) {
  return status == ONNXPIPE_FAILED || (status == ONNXPIPE_UNSAVED && strcmp(work->subcommand, "train") == 0);
}

/* How many complaints there are. */
static int check(const Work *work, long k, bool for_good, const Result *whole) {
  Result result = run(work, k, for_good);
  int bad = 0, differs = result.status == ONNXPIPE_OK ? differing(work, &result, whole) : -1;
  if (differs >= 0) {
    print_error("%s: ends well, but %s %s (%zu bytes of %zu)\n", what, differs ? work->outputs[differs - 1] : "output",
                result.n[differs] ? "differs" : "is missing", result.n[differs], whole->n[differs]);
    bad++;
  } else if (result.status != ONNXPIPE_OK && memory_has_failed() &&
             (!is_failure(work, result.status) || !speaks_of_memory(result.message))) {
    print_error("%s: status %d, '%s'\n", what, result.status, result.message);
    bad++;
  }
  forget(&result);
  return bad;
}

static void sweep(void **state) {
  const Work *work = *state;
  signal(SIGSEGV, say_and_end); /* cmocka's own says nothing of where */
  Result whole = run(work, 0, false), again = run(work, 0, false);
  if (whole.status != ONNXPIPE_OK)
    FAIL_TEST("%s: %s", work->name, whole.message);
  long n = memory_count();
  assert_true(n > 0);
  assert_int_equal(differing(work, &whole, &again), -1);
  int tried = 0, bad = 0, all = getenv("ONNXPIPE_TEST_ALL") != NULL;
  for (int for_good = 0; for_good < 2; for_good++) {
    double step = all || n < work->sample ? 1 : (double)n / work->sample * (1 + for_good);
    for (double k = 1; k <= (double)n + 1; k += step, tried++)
      bad += check(work, (long)k, for_good, &whole);
  }
  print_message("%s: %ld allocations, %d tries\n", work->name, n, tried);
  forget(&whole);
  forget(&again);
  assert_int_equal(bad, 0);
}

#define MODEL(name) SOURCE_DIR "/models/" name "/model.onnx"
#define TRAINING                                                                                                       \
  "data", BRANCHES "data.npz", "batch", "4", "microbatches", "2", "steps", "2", "schedule", "1f1b", "device", "cpu",   \
      "threads", "1"

static Work works[] = {
    {"inspect", "inspect", MODEL("branches"), {"json", ""}, .sample = 200},
    {"inspect, text", "inspect", MODEL("gpt2_default_export"), .sample = 60},
    {"plan",
     "plan",
     MODEL("branches"),
     {"ranks", "2", "schedule", "1f1b", "microbatches", "2"},
     {"output-plan", "report"},
     200},
    {"auto", "plan", MODEL("branches"), {"ranks", "2"}, {"output-plan"}, 30},
    {"simulate",
     "simulate",
     NULL,
     {"ranks", "3", "microbatches", "4", "forward-ms", "1,2,1", "backward-input-ms", "1", "backward-weight-ms", "1"},
     {"report"},
     100},
    {"simulate --json",
     "simulate",
     NULL,
     {"json", "", "ranks", "2", "microbatches", "4", "forward-ms", "1", "backward-input-ms", "1", "backward-weight-ms",
      "1", "schedule", "zb-h1"},
     .sample = 100},
    {"train", "train", MODEL("branches"), {TRAINING, "verbose", ""}, {"save", "dump-gradients"}, 200},
    {"train on two ranks",
     "train",
     MODEL("branches"),
     {TRAINING, "ranks", "2", "verbose", "", "clip-norm", "1"},
     {"save", "dump-gradients"},
     300},
    {"train as planned",
     "train",
     MODEL("branches"),
     {"data", BRANCHES "data.npz", "batch", "4", "steps", "1", "plan", "@plan", "metrics", "@metrics", "shuffle", ""},
     {"save"},
     100},
    {"train with a file of weights",
     "train",
     MODEL("llama"),
     {"data", SOURCE_DIR "/models/llama/data.npz", "batch", "2", "steps", "1", "schedule", "1f1b", "device", "cpu",
      "threads", "2"},
     {"save"},
     30},
    {"run", "run", MODEL("branches"), {"data", BRANCHES "data.npz", "quiet", ""}, {"out"}, 100},
};

/* What is not ours: some of libzip's failures forget a few bytes. */
const char *__lsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void) {
  return "leak:libzip.so\n";
}

int main(void) {
  strcpy(folder, "/tmp/onnxpipe-sweep-XXXXXX");
  if (!mkdtemp(folder))
    return 1;
  signal(SIGALRM, say_and_end);
  signal(SIGSEGV, say_and_end);
  signal(SIGABRT, say_and_end);
  Work plan = {"a plan",
               "plan",
               MODEL("branches"),
               {"batch", "4", "ranks", "2", "microbatches", "2", "loss", "cross_entropy", "output-plan", "@plan"},
               .sample = 0};
  Result planned = run(&plan, 0, false);
  forget(&planned);
  struct CMUnitTest tests[sizeof works / sizeof *works];
  for (size_t i = 0; i < sizeof works / sizeof *works; i++)
    tests[i] = (struct CMUnitTest){.name = works[i].name, .test_func = sweep, .initial_state = &works[i]};
  int failures = cmocka_run_group_tests(tests, NULL, NULL);
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command) || failures;
}
