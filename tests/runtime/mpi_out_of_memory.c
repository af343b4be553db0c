/* Two steps of training on the ranks of an MPI world, one of which runs out of memory: its allocation K fails, alone or
 * with all that follow. For test_out_of_memory_mpi.c: ends as tools/ does, with one line or with the weights saved. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/onnxpipe.h"
#include "tests/failing_memory.h"

static void report(void *context, const char *message) {
  (void)context;
  fprintf(stderr, "sweep: %s\n", message);
}

static OnnxpipeStatus train(const char *path) {
  const char *const words[][2] = {{"data", SOURCE_DIR "/models/branches/data.npz"},
                                  {"batch", "4"},
                                  {"microbatches", "2"},
                                  {"steps", "2"},
                                  {"schedule", "1f1b"},
                                  {"device", "cpu"},
                                  {"threads", "1"},
                                  {"clip-norm", "1"},
                                  {"quiet", ""},
                                  {"save", path}};
  OnnxpipeOptions *options = onnxpipe_options_create();
  OnnxpipeModel *model;
  OnnxpipeStatus status = options ? ONNXPIPE_OK : ONNXPIPE_FAILED;
  for (size_t i = 0; status == ONNXPIPE_OK && i < sizeof words / sizeof *words; i++)
    status = onnxpipe_options_set(options, words[i][0], words[i][1]);
  if (status == ONNXPIPE_OK &&
      (status = onnxpipe_open(SOURCE_DIR "/models/branches/model.onnx", options, &model)) == ONNXPIPE_OK) {
    status = onnxpipe_train(model, NULL, NULL, NULL);
    onnxpipe_close(model);
  }
  onnxpipe_options_destroy(options);
  return status;
}

/* rank K for_good path */
int main(int argc, char **argv) {
  int rank, size;
  if (argc != 5)
    return 2;
  OnnxpipeStatus status = onnxpipe_start(report, NULL, &rank, &size);
  long k = atol(argv[2]);
  if (status == ONNXPIPE_OK) {
    memory_fail_at(rank == atoi(argv[1]) ? k : 0, strcmp(argv[3], "0") != 0);
    status = train(argv[4]);
    long n = memory_count();
    memory_recover();
    if (!k && rank == atoi(argv[1]))
      fprintf(stderr, "allocations: %ld\n", n);
  }
  if (status != ONNXPIPE_OK && *onnxpipe_error())
    fprintf(stderr, "sweep: %s\n", onnxpipe_error());
  onnxpipe_finish(status != ONNXPIPE_OK);
  return (int)status;
}
