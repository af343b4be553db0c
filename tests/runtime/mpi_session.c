/* Sessions on the ranks of an MPI world: every rank sees each step's metrics, and they are PyTorch's losses. With
 * ON_CUDA defined, on emulated devices. */
#include <unistd.h>

#include "tests/runtime/session_case.h"

static int rank;

static void every_rank_sees_the_metrics(void **state) {
  (void)state;
  OnnxpipeOptions *options = branches_options();
  OnnxpipeModel *model;
  OnnxpipeSession *session;
  OnnxpipeMetrics m;
  char path[64];
#ifdef ON_CUDA
  must(onnxpipe_options_set(options, "device", "cuda"));
#endif
  must(onnxpipe_open(BRANCHES "model.onnx", options, &model));
  must(onnxpipe_session_open(model, NULL, &session));
  must(onnxpipe_session_metrics(session, &m));
  while (m.step < m.steps) {
    int64_t before = m.step;
    must(onnxpipe_session_step(session));
    if (before % 2 && before + 2 <= m.steps)
      must(onnxpipe_session_step(session));
    must(onnxpipe_session_metrics(session, &m));
    assert_int_equal(m.step, before % 2 && before + 2 <= m.steps ? before + 2 : before + 1);
    assert_true(m.gradient_norm > 0 && m.learning_rate > 0);
    check_loss(m.step, m.loss);
  }
  snprintf(path, sizeof path, "/tmp/onnxpipe-session-%d.onnx", (int)getpid());
  must(onnxpipe_session_save(session, path));
  assert_int_equal(access(path, R_OK), rank ? -1 : 0);
  unlink(path);
  must(onnxpipe_session_close(session));
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
}

int main(void) {
  int size;
  if (onnxpipe_start(NULL, NULL, &rank, &size) != ONNXPIPE_OK) {
    fprintf(stderr, "%s\n", onnxpipe_error());
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_rank_sees_the_metrics)};
  int failed = cmocka_run_group_tests_name("session", tests, NULL, NULL);
  onnxpipe_finish(failed != 0);
  return failed;
}
