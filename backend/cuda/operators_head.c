/* A product and the cross entropy of its rows, some rows at a time. */
#include "backend/cuda/cuda.h"
#include "backend/head.h"
#include "backend/reference/reference.h"

HEAD_FUNCTIONS(backend_cuda)

KERNEL(ProductCrossEntropy, HEAD_FIELDS) {
  const Tensor *w = &in[2], *target = &in[3];
  Classes classes = {.target_type = target->dtype,
                     .ignored = node_int(node, "ignore_index", -100),
                     .lines = {shape_elements(target->shape), w->shape.dim[!node_int(node, "transB", 0)], 1}};
  launch_check_classes(stream->cuda, &classes, cuda_reporter(stream, node), target->data);
  TRY(cuda_launched(stream, node));
  return head_run(&backend_cuda, stream, node, in, out, workspace, state);
}
