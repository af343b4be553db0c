/* One case: a model bound to its inputs, and every value in memory. */
#ifndef TESTS_CONFORMANCE_H
#define TESTS_CONFORMANCE_H

#include "backend/backend.h"
#include "onnx/model.h"
#include "runtime/data/data.h"

enum { MOST_TENSORS = 256 };

typedef struct {
  Array arrays[MOST_TENSORS];
  int n;
  char *bytes;
} TensorFile;

typedef struct {
  Arena *arena;
  Model *model;
  Graph *graph;
  TensorFile in;
  Tensor *tensors; /* by ValueId */
} Case;

/* Opens, reads and binds case `number` of the folder, without passes where `no_fuse`; close it also where that fails.
 */
Status case_open(const char *folder, int number, bool no_fuse, Case *c);
void case_close(Case *c);
/* Memory for every value of the graph as it is now, with the contents of inputs, constants and initializers. */
Status case_fill(Case *c);
/* Runs nodes [0, end). */
Status case_run(const Case *c, const Backend *backend, Stream *stream, size_t end);

/* Compares gradients of the case's float64 inputs with differences; *text says how it went: "ok", "none" and why,
 * "failed" and where. */
void case_gradients(const char *folder, int number, const char **what, const char **why, Case *c);

#endif
