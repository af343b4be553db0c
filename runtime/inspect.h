/* What a file holds, for people and programs. Inside the room. */
#ifndef RUNTIME_INSPECT_H
#define RUNTIME_INSPECT_H

#include "onnx/model.h"
#include "runtime/options.h"

/* model_inspect's report into `out`, as JSON with the option `json`, else as text. */
Status inspect_run(Model *model, const char *path, const Options *options, FILE *out);

#endif
