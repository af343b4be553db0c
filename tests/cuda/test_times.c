/* When devices were at a step's actions, as a timeline has it: by timers, which recordings have, on the host's clock.
 */
#include <math.h>

#include "tests/cuda/emulation.h"
#include "tests/runtime/reference_case.h"
#include "tests/test.h"

extern size_t tape_most_launches; /* of a step that is recorded as one */

enum { STEPS = 4, MICROBATCHES = 3, ROOM = 1 << 14 };

typedef struct {
  const char *devices;
  int ranks;
  const char *more; /* an option without a value, or NULL */
} Case;

static char path[64];

/* What is printed at the end comes into `text`. */
static json_t *train(const Case *c, bool traced, Losses *losses, char text[ROOM]) {
  OnnxpipeOptions *options = onnxpipe_options_create();
  OnnxpipeModel *model;
  FILE *out = tmpfile();
  assert_non_null(out);
  set(options, "data", SOURCE_DIR "/models/surrogate/data.npz");
  set(options, "no-measure", "");
  set(options, "device", c->devices);
  set_number(options, "ranks", c->ranks);
  set(options, "schedule", "1f1b");
  set_number(options, "microbatches", MICROBATCHES);
  set_number(options, "batch", 12);
  set_number(options, "steps", STEPS);
  if (traced)
    set(options, "trace", path);
  if (traced && c->more)
    set(options, c->more, "");
  if (onnxpipe_open(SOURCE_DIR "/models/surrogate/model.onnx", options, &model) != ONNXPIPE_OK ||
      onnxpipe_train(model, out, take_loss, losses) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  assert_int_equal(emulation_allocated(), 0);
  rewind(out);
  text[fread(text, 1, ROOM - 1, out)] = '\0';
  fclose(out);
  return traced ? json_load_file(path, 0, NULL) : NULL;
}

static double number(const json_t *event, const char *key) {
  const json_t *value = json_object_get(event, key);
  return json_number_value(value ? value : json_object_get(json_object_get(event, "args"), key));
}

static const char *text_of(const json_t *event, const char *key) {
  return json_string_value(json_object_get(event, key));
}

/* The first span of a line in a step, of that name; NULL: there is none. A device's is there once. */
static const json_t *find(const json_t *trace, int ranks, int line, int step, const char *name) {
  const json_t *found = NULL;
  size_t i;
  json_t *event;
  json_array_foreach(json_object_get(trace, "traceEvents"), i, event) {
    if (strcmp(text_of(event, "ph"), "X") || number(event, "tid") != line + 1 || number(event, "step") != step ||
        strcmp(text_of(event, "name"), name))
      continue;
    if (found && line >= ranks)
      FAIL_TEST("%s of step %d twice on line %d", name, step, line);
    found = found ? found : event;
  }
  return found;
}

static const json_t *must_find(const json_t *trace, int ranks, int line, int step, const char *name) {
  const json_t *found = find(trace, ranks, line, step, name);
  if (!found)
    FAIL_TEST("no %s of step %d on line %d", name, step, line);
  return found;
}

static double begin(const json_t *event) {
  return number(event, "ts");
}

static double end(const json_t *event) {
  return number(event, "ts") + number(event, "dur");
}

/* Between `from` and `to`, but for what clocks may be apart. */
static void check_within(double from, const json_t *event, double to, double error) {
  if (!(begin(event) >= from - error && end(event) <= to + error))
    FAIL_TEST("%s of step %g: %f to %f is not within %f to %f, %f apart at most", text_of(event, "name"),
              number(event, "step"), begin(event), end(event), from, to, error);
}

/* Every action, behind the moment when the host was at it and before the host had waited for the device; a microbatch
 * goes from rank to rank. */
static void check_step(const json_t *trace, int ranks, int step, double error) {
  for (int r = 0; r < ranks; r++) {
    const json_t *whole = must_find(trace, ranks, r, step, "step"),
                 *done = must_find(trace, ranks, r, step, "wait device");
    double last = -INFINITY;
    for (int m = 0; m < MICROBATCHES; m++) {
      char forward[16], backward[16];
      snprintf(forward, sizeof forward, "%dF%d", r, m);
      snprintf(backward, sizeof backward, "%dBW%d", r, m);
      const json_t *f = must_find(trace, ranks, ranks + r, step, forward),
                   *b = must_find(trace, ranks, ranks + r, step, backward);
      check_within(begin(must_find(trace, ranks, r, step, forward)), f, begin(b), error);
      check_within(begin(must_find(trace, ranks, r, step, backward)), b, end(done), error);
      if (r) {
        snprintf(forward, sizeof forward, "%dF%d", r - 1, m);
        check_within(end(must_find(trace, ranks, ranks + r - 1, step, forward)), f, INFINITY, 2 * error);
      }
      last = fmax(last, end(b));
    }
    const json_t *norms = must_find(trace, ranks, ranks + r, step, "gradient norms"),
                 *update = must_find(trace, ranks, ranks + r, step, "update");
    check_within(last, norms, end(done), 0);
    check_within(end(done), update, INFINITY, error);
    assert_true(begin(whole) < begin(norms));
  }
}

/* A line's spans follow each other; a device's line has a name. */
static void check_lines(const json_t *trace, int ranks) {
  double at[8] = {0};
  size_t i;
  int named = 0;
  json_t *event;
  json_array_foreach(json_object_get(trace, "traceEvents"), i, event) {
    int line = (int)number(event, "tid") - 1;
    assert_in_range(line, 0, 2 * ranks - 1);
    if (!strcmp(text_of(event, "name"), "thread_name") && line >= ranks) {
      const char *name = text_of(json_object_get(event, "args"), "name");
      named++;
      assert_non_null(strstr(name, "device of rank "));
    }
    if (line < ranks || strcmp(text_of(event, "ph"), "X"))
      continue;
    if (!(begin(event) >= at[line]))
      FAIL_TEST("%s of step %g begins at %f, what is before ends at %f", text_of(event, "name"), number(event, "step"),
                begin(event), at[line]);
    at[line] = end(event) - 1e-3; /* what is printed is rounded */
  }
  assert_int_equal(named, ranks);
}

/* Recorded as one, or by actions; launched one by one. */
static void timelines_have_devices(void **state) {
  (void)state;
  static const Case cases[] = {{"cuda:0", 1, NULL}, {"cuda:0,cuda:1", 2, NULL}, {"cuda:0,cuda:1", 2, "trace-kernels"}};
  for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
    const Case *c = &cases[i / 2];
    Losses plain = {0}, losses = {0};
    static char text[ROOM];
    tape_most_launches = i % 2 ? 0 : 16384;
    train(c, false, &plain, text);
    json_t *trace = train(c, true, &losses, text);
    assert_non_null(trace);
    assert_memory_equal(&losses, &plain, sizeof losses);
    double error = number(json_object_get(trace, "otherData"), "clock_error_us") + 1;
    assert_true(error > 1 && error < 1e6);
    check_lines(trace, c->ranks);
    for (int step = 1; step <= STEPS; step++)
      if (c->ranks > 1)
        check_step(trace, c->ranks, step, error);
    assert_non_null(find(trace, c->ranks, c->ranks, STEPS, "update"));
    assert_true(!c->more == (strstr(text, " recording") != NULL));
    json_decref(trace);
  }
  tape_most_launches = 16384;
}

/* What a device took is known without a timeline, too, where it is the rank's alone. */
static void busy_devices_are_told(void **state) {
  (void)state;
  static const Case cases[] = {{"cuda:0,cuda:1", 2, NULL}, {"cuda:0,cuda:0", 2, NULL}};
  for (int i = 0; i < 2; i++) {
    static char text[ROOM];
    Losses losses = {0};
    train(&cases[i], false, &losses, text);
    const char *busy = strstr(text, "busy: rank 0 ");
    if (i ? busy != NULL : !busy || strstr(busy, " 0 %") || !strstr(busy, "%, 1 "))
      FAIL_TEST("%s", text);
  }
}

static int prepare(void **state) {
  (void)state;
  snprintf(path, sizeof path, "/tmp/onnxpipe-times-XXXXXX");
  return mkstemp(path) < 0;
}

static int tidy(void **state) {
  (void)state;
  return unlink(path);
}

int main(void) {
  setenv("COLUMNS", "500", 1); /* no line is broken */
  const struct CMUnitTest tests[] = {cmocka_unit_test(timelines_have_devices), cmocka_unit_test(busy_devices_are_told)};
  return cmocka_run_group_tests_name("times", tests, prepare, tidy);
}
