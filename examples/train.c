/* Trains a model in a loop of its own, and stops early when the loss is good enough. Alone or under mpirun:
 *
 *   cc train.c -o train $(pkg-config --cflags --libs onnxpipe)
 *   ./train model.onnx data.npz trained.onnx
 *   mpirun --allow-run-as-root --oversubscribe -n 4 ./train model.onnx data.npz trained.onnx */
#include <onnxpipe.h>
#include <stdio.h>

static OnnxpipeStatus train(const char *path, OnnxpipeOptions *options, const char *trained, int rank) {
  OnnxpipeModel *model = NULL;
  OnnxpipeSession *session = NULL;
  OnnxpipeMetrics m = {0};
  OnnxpipeStatus status = onnxpipe_open(path, options, &model);
  if (status == ONNXPIPE_OK)
    status = onnxpipe_session_open(model, stdout, &session);
  do {
    if (status == ONNXPIPE_OK)
      status = onnxpipe_session_step(session);
    if (status == ONNXPIPE_OK)
      status = onnxpipe_session_metrics(session, &m); /* the same on every rank, so that all stop together */
    if (status == ONNXPIPE_OK && rank == 0)
      printf("step %d of %d: loss %.6f\n", (int)m.step, (int)m.steps, m.loss);
  } while (status == ONNXPIPE_OK && m.step < m.steps && m.loss > 0.1);
  if (status == ONNXPIPE_OK)
    status = onnxpipe_session_save(session, trained);
  if (status != ONNXPIPE_OK && *onnxpipe_error())
    fprintf(stderr, "train: %s\n", onnxpipe_error());
  onnxpipe_session_close(session);
  onnxpipe_close(model);
  return status;
}

int main(int argc, char **argv) {
  static const char *const settings[][2] = {{"batch", "16"}, {"steps", "6"}, {"lr", "3e-3"}};
  int rank, size;
  OnnxpipeStatus status = onnxpipe_start(NULL, NULL, &rank, &size);
  OnnxpipeOptions *options = onnxpipe_options_create();
  for (int i = 0; i < 3 && status == ONNXPIPE_OK; i++)
    status = onnxpipe_options_set(options, settings[i][0], settings[i][1]);
  if (status == ONNXPIPE_OK && argc == 4)
    status = onnxpipe_options_set(options, "data", argv[2]);
  status = status == ONNXPIPE_OK && argc == 4 ? train(argv[1], options, argv[3], rank) : ONNXPIPE_USAGE;
  onnxpipe_options_destroy(options);
  onnxpipe_finish(status != ONNXPIPE_OK);
  return status;
}
