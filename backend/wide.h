/* Kernels that know float32 only, over operands of which some are bfloat16. Where no operand is, these ask and run the
 * kernel itself. */
#ifndef BACKEND_WIDE_H
#define BACKEND_WIDE_H

#include "backend/backend.h"

/* Whether the node runs: the kernel takes it as it is, or, `copies`, on copies in float32. */
bool wide_accepts(const KernelDef *kernel, bool copies, const Graph *graph, const Node *node);
/* What it takes beside its operands: the kernel's workspace, and the copies. */
size_t wide_workspace(const KernelDef *kernel, const Graph *graph, const Node *node, size_t budget);
/* backend_prepare of this kernel, without the node's name in a failure. */
Status wide_prepare(const KernelDef *kernel, bool copies, Stream *stream, const Node *node, const Tensor *in,
                    const Tensor *out, size_t workspace_bytes, NodeKernel *made);

#endif
