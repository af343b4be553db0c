/* Kernels that know float32 only, over operands of which some are bfloat16. Where no operand is, these ask and run the
 * kernel itself. */
#ifndef BACKEND_WIDE_H
#define BACKEND_WIDE_H

#include "backend/backend.h"

/* Whether the node, of which the backend has a kernel, runs: the kernel takes it as it is, or on copies in float32. */
bool wide_accepts(const Backend *backend, const Graph *graph, const Node *node);
/* Whether a node that is accepted runs on copies. */
bool wide_copies(const Backend *backend, const Graph *graph, const Node *node);
/* What it takes beside its operands: the kernel's workspace, and the copies. */
size_t wide_workspace(const Backend *backend, const Graph *graph, const Node *node, size_t budget);
/* backend_prepare, without the node's name in a failure. */
Status wide_prepare(const Backend *backend, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                    size_t workspace_bytes, NodeKernel *made);

#endif
