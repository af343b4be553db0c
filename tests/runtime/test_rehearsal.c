/* What a rehearsal runs is what training runs. Linked with --wrap, to look at memory before and after. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/executor/internal.h"
#include "runtime/onnxpipe.h"
#include "tests/test.h"

enum { TABLES, FULL, SEEN_NUMBERS };
static int
    seen[SEEN_NUMBERS]; /* under the lock: tables whose update was rehearsed, and of these with all rows written */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

Status __real_executor_rehearse(Executor *e, const StepWork *work, const double *scalars, int microbatches,
                                Rehearsal *r);
Status __wrap_executor_rehearse(Executor *e, const StepWork *work, const double *scalars, int microbatches,
                                Rehearsal *r);

static char *read_table(Executor *e, const Node *update, size_t *bytes) {
  *bytes = graph_value_bytes(e->graph, update->in[0]);
  char *data = malloc(*bytes);
  assert_non_null(data);
  ASSERT_OK(executor_read(e, update->in[0], data, *bytes));
  return data;
}

static bool all_rows_differ(const Graph *g, const Node *update, const char *before, const char *after) {
  Shape shape = graph_value(g, update->in[0])->shape;
  size_t row = graph_value_bytes(g, update->in[0]) / (size_t)shape.dim[0];
  for (int64_t i = 0; i < shape.dim[0]; i++)
    if (memcmp(before + (size_t)i * row, after + (size_t)i * row, row) == 0)
      return false;
  return true;
}

/* The updates of tables that were called, and what they wrote. */
Status __wrap_executor_rehearse(Executor *e, const StepWork *work, const double *scalars, int microbatches,
                                Rehearsal *r) {
  enum { MOST = 16 };
  const Node *tables[MOST];
  char *before[MOST];
  size_t bytes;
  int n = 0;
  for (int i = 0; i < e->n_updates && n < MOST; i++)
    if (e->updates[i].call.node->op == OP_AdamUpdateRows) {
      tables[n] = e->updates[i].call.node;
      before[n] = read_table(e, tables[n], &bytes);
      n++;
    }
  Status status = __real_executor_rehearse(e, work, scalars, microbatches, r);
  pthread_mutex_lock(&lock);
  for (int i = 0; i < n; i++) {
    char *after = read_table(e, tables[i], &bytes);
    seen[TABLES] += r->calls[tables[i]->id] > 0;
    seen[FULL] += r->calls[tables[i]->id] > 0 && all_rows_differ(e->graph, tables[i], before[i], after);
    free(before[i]);
    free(after);
  }
  pthread_mutex_unlock(&lock);
  return status;
}

/* With weight decay every row of a table is written, not those that were looked up alone; so it is when updates are
 * timed. */
static void updates_are_rehearsed_as_they_run(void **state) {
  (void)state;
  char folder[] = "/tmp/onnxpipe-rehearsal-XXXXXX", command[128];
  OnnxpipeModel *model;
  OnnxpipeOptions *options = onnxpipe_options_create();
  assert_non_null(mkdtemp(folder));
  setenv("XDG_CACHE_HOME", folder, 1);
  const char *const words[][2] = {{"data", SOURCE_DIR "/models/dlrm/data.npz"},
                                  {"ranks", "2"},
                                  {"batch", "4"},
                                  {"threads", "1"},
                                  {"optimizer", "adamw"},
                                  {"steps", "1"}};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    assert_int_equal(onnxpipe_options_set(options, words[i][0], words[i][1]), ONNXPIPE_OK);
  assert_int_equal(onnxpipe_open(SOURCE_DIR "/models/dlrm/model.onnx", options, &model), ONNXPIPE_OK);
  if (onnxpipe_train(model, NULL, NULL, NULL) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  assert_true(seen[TABLES] > 0);
  assert_int_equal(seen[FULL], seen[TABLES]);
  snprintf(command, sizeof command, "rm -r %s", folder);
  assert_int_equal(system(command), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(updates_are_rehearsed_as_they_run)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
