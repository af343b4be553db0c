/* ProductCrossEntropy: so many rows of the product at a time, each by the backend's own kernels of the operators that
 * it stands for. Invariant: the logits never stand whole, and on the host their bits are those of the operators by
 * themselves; which rows go together is the node's attribute, of which a device takes a multiple. */
#ifndef BACKEND_HEAD_H
#define BACKEND_HEAD_H

#include "backend/backend.h"

/* For a KernelDef: as its fields, of the backend whose kernels are taken. The state is the steps, prepared. */
size_t head_workspace(const Backend *backend, const Graph *graph, const Node *node);
Status head_prepare(const Backend *backend, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                    void **state);
/* On the host, fails for a target that is no class; a device's entry looks at them before. */
Status head_run(const Backend *backend, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                void *workspace, void *state); /* without a state it makes one */
void head_release(void *state);

/* KernelDef.narrow: where the logits are bfloat16, X, W and dX may be either. */
bool head_takes_narrow(const Node *node, const Tensor *in, const Tensor *out);

/* The fields of the backend's entry, after its functions. */
#define HEAD_FUNCTIONS(backend)                                                                                        \
  static size_t workspace_of_head(const Graph *graph, const Node *node, size_t budget) {                               \
    (void)budget;                                                                                                      \
    return head_workspace(&(backend), graph, node);                                                                    \
  }                                                                                                                    \
  static Status prepare_head(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,                    \
                             size_t workspace_bytes, void **state) {                                                   \
    (void)workspace_bytes;                                                                                             \
    return head_prepare(&(backend), stream, node, in, out, state);                                                     \
  }
#define HEAD_FIELDS                                                                                                    \
  .accepts = takes_floats, .narrow = head_takes_narrow, .workspace = workspace_of_head, .prepare = prepare_head,       \
  .release = head_release

#endif
