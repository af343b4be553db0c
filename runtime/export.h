/* What a checkpoint holds, as a file for others: onnxpipe export. */
#ifndef RUNTIME_EXPORT_H
#define RUNTIME_EXPORT_H

#include <stdio.h>

#include "runtime/options.h"

/* Into the file of the option "output-model", by its end: the model (.onnx: `model`, or where that is NULL the one that
 * the checkpoint names) with the checkpoint's weights; or trained tensors and running statistics alone (.safetensors,
 * .npz). `checkpoint` may be a folder of them: the newest whole one; says to `out` which. */
Status export_run(const char *checkpoint, const char *model, const Options *options, FILE *out);

#endif
