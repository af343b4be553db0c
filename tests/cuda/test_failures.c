/* Runs whose ranks exchange over wires, and one of which fails: all end, with its name, and nothing is left behind. */
#include <stdbool.h>
#include <string.h>

#include "tests/cuda/emulation.h"
#include "tests/runtime/reference_case.h"
#include "tests/test.h"

extern bool boundary_threads_are_processes; /* over NCCL; else by copies */

/* The message that training ends with. */
static const char *train(const char *name, const char *option, const char *value, OnnxpipeProgress *progress) {
  json_t *json = read_case(name);
  OnnxpipeOptions *options = case_options(name, json);
  OnnxpipeModel *model;
  char path[256];
  static char message[512];
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/model.onnx", name);
  set(options, "device", "cuda:0,cuda:1,cuda:2");
  set(options, "ranks", "3");
  set(options, "microbatches", "4");
  set(options, option, value);
  if (onnxpipe_open(path, options, &model) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
  assert_int_not_equal(onnxpipe_train(model, stdout, progress, NULL), ONNXPIPE_OK);
  snprintf(message, sizeof message, "%s", onnxpipe_error());
  onnxpipe_close(model);
  onnxpipe_options_destroy(options);
  json_decref(json);
  assert_int_equal(emulation_allocated(), 0);
  return message;
}

static void a_loss_that_is_no_number_ends_all(void **state) {
  boundary_threads_are_processes = *state != NULL;
  const char *message = train("surrogate", "lr", "1e30", NULL);
  if (!strstr(message, "the loss of microbatch 0 is") && !strstr(message, "is not finite"))
    FAIL_TEST("%s", message);
}

static void kill_rank_1(void *context, const OnnxpipeMetrics *m) {
  (void)context;
  if (m->step == 2)
    emulation_nccl_kill(1);
}

static void a_peer_that_is_gone_is_named(void **state) {
  (void)state;
  boundary_threads_are_processes = true;
  const char *message = train("surrogate", "steps", "8", kill_rank_1);
  if (!strstr(message, "NCCL") || !strstr(message, "rank 1: remote process exited"))
    FAIL_TEST("%s", message);
}

int main(void) {
  emulation_devices(3, (size_t)1 << 30);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_loss_that_is_no_number_ends_all),
      {"a_loss_that_is_no_number_ends_all, over NCCL", a_loss_that_is_no_number_ends_all, NULL, NULL, (void *)"nccl"},
      cmocka_unit_test(a_peer_that_is_gone_is_named),
  };
  return cmocka_run_group_tests_name("failures", tests, NULL, NULL);
}
