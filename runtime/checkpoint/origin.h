/* First contents from another file: --init-from. Invariant: a tensor of the model comes whole from the file, or as if
 * there were none, and whichever does not is named. */
#ifndef RUNTIME_CHECKPOINT_ORIGIN_H
#define RUNTIME_CHECKPOINT_ORIGIN_H

#include "runtime/job/job.h"

typedef struct Origin Origin;

/* With the options `init-from` and `init-names`, opens FILE.safetensors, FILE.onnx or a checkpoint and finds the
 * model's tensors in it by name: *origin (NULL without). Those that do not train are replaced from then on. Lines of
 * the job say what did not match. E_USAGE where nothing does. Not for two threads at once. */
Status origin_open(Job *job, Origin **origin);
void origin_close(Origin *origin);

/* First contents of a value of the job's graph; *found: the file has them. For several threads at once. */
Status origin_load(const Origin *origin, const Job *job, ValueId value, void *data, size_t bytes, bool *found);
/* OK while the file is what it was. */
Status origin_unchanged(const Origin *origin);

#endif
