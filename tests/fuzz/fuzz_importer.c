/* A file gives a model or one line; a model tells everything about itself, its weights can be read, and what it is
 * saved as opens again. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "onnx/model.h"
#include "tests/fuzz/fuzz.h"

static void check_refusal(const char *path) {
  fuzz_check(strncmp(status_message(), path, strlen(path)) == 0, "a message does not begin with the file");
  fuzz_check(strchr(status_message(), '\n') == NULL, "a message has two lines");
}

static void read_weights(const Model *model) {
  int n;
  const Initializer *list = model_initializers(model, &n);
  for (int i = 0; i < n; i++) {
    size_t bytes;
    fuzz_check(shape_bytes(list[i].shape, list[i].dtype, &bytes) == OK, "an initializer has a shape without a size");
    if (bytes > 1 << 24)
      continue;
    void *data = malloc(bytes ? bytes : 1);
    if (data)
      model_read_initializer(model, i, data, bytes);
    free(data);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  char path[FUZZ_PATH];
  int file = fuzz_file(data, bytes, path);
  Model *model;
  json_t *report;
  if (model_open(path, NULL, &model) != OK) {
    check_refusal(path);
  } else {
    read_weights(model);
    if (model_inspect(model, NULL, &report) == OK)
      json_decref(report);
    else
      check_refusal(path);
    model_close(model);
  }
  close(file);
  return 0;
}
