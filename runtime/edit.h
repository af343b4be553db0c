/* A model with other nodes, as another file. Inside the room. */
#ifndef RUNTIME_EDIT_H
#define RUNTIME_EDIT_H

#include "onnx/model.h"
#include "runtime/options.h"

/* model_rewrite with what the options say; a line for each change into `out`. */
Status edit_run(Model *model, const Options *options, FILE *out);

#endif
