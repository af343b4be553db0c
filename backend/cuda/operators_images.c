/* From nodes to launches: convolution, pooling, resampling. */
#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "backend/reference/parts.h"
#include "backend/reference/reference.h"
#include "graph/memory.h"

enum { ALIGNING = DNN_ALIGNMENT - MEMORY_ALIGNMENT };

/* What own kernels cannot do without, and what cuDNN may use within the budget, whichever runs: a plan is made where
 * nobody knows. */
static size_t convolution_workspace(const Graph *graph, const Node *node, ConvolutionWay way, size_t budget) {
  Convolution c = convolution_in(graph, node);
  DType type = kernel_input(graph, node, 0).dtype;
  size_t own = (size_t)convolution_partials(&c, way) * dtype_bytes(type), wish = dnn_workspace_bytes(&c);
  if (type != F32)
    return own;
  wish = (wish < budget ? wish : budget) + ALIGNING;
  return wish > own ? wish : own;
}

/* What is worked out before a convolution runs. */
typedef struct {
  Convolution shape;
  DnnPlan *plan;        /* NULL: own kernels */
  size_t rounded_bytes; /* of the workspace: W's, which is float32 and is multiplied as bfloat16 numbers */
} PreparedConvolution;

static void convolution_release(void *state) {
  PreparedConvolution *r = state;
  dnn_release(r->plan);
  free(r);
}

/* Keeps the convolution, with cuDNN's plan for it, if there is one. */
static Status make_ready(Stream *stream, const DnnConvolution *c, size_t rounded_bytes, PreparedConvolution **out) {
  PreparedConvolution *r = calloc(1, sizeof *r);
  if (!r)
    return fail(E_MEMORY, "out of memory");
  r->shape = c->shape;
  r->rounded_bytes = rounded_bytes;
  Status status = c->workspace_bytes ? cuda_dnn(stream) : OK;
  if (status == OK && c->workspace_bytes && stream->dnn)
    status = dnn_prepare(stream->dnn, c, &r->plan);
  if (status == OK)
    *out = r;
  else
    convolution_release(r);
  return status;
}

/* Float32 is cuDNN's, where it has the convolution. What was copied from bfloat16 may be rounded to TF32. */
static Status prepare_convolution(Stream *stream, const Node *node, const Tensor *in, const Convolution *shape,
                                  ConvolutionWay way, size_t workspace_bytes, void **state) {
  bool asks = in->dtype == F32 && workspace_bytes > ALIGNING;
  PreparedConvolution *r = NULL;
  DnnConvolution c = {.way = way,
                      .shape = *shape,
                      .activation = F32,
                      .weight = F32,
                      .on_tensor_cores = node->precision != PRECISION_FLOAT32,
                      .workspace_bytes = asks ? workspace_bytes - ALIGNING : 0};
  TRY(make_ready(stream, &c, 0, &r));
  *state = r;
  return OK;
}

/* Activations and their gradients in bfloat16, as they are, where cuDNN has that; W is rounded, its gradient is not.
 * The workspace has room for copies, which are then not made. */
static Status prepare_narrow_convolution(Stream *stream, const Tensor *w, const Tensor *x, const Tensor *y,
                                         const Convolution *shape, ConvolutionWay way, size_t workspace_bytes,
                                         void **state) {
  bool rounds = way != CONVOLUTION_TOWARDS_WEIGHT && w->dtype == F32;
  size_t rounded = rounds ? memory_units((size_t)shape_elements(w->shape) * dtype_bytes(BF16)) : 0;
  PreparedConvolution *r = NULL;
  if (x->dtype != BF16 || y->dtype != BF16 || workspace_bytes <= rounded + ALIGNING)
    return OK;
  DnnConvolution c = {.way = way,
                      .shape = *shape,
                      .activation = BF16,
                      .weight = rounds ? BF16 : w->dtype,
                      .on_tensor_cores = true,
                      .workspace_bytes = workspace_bytes - rounded - ALIGNING};
  TRY(make_ready(stream, &c, rounded, &r));
  if (r->plan)
    *state = r;
  else
    convolution_release(r);
  return OK;
}

static Status convolve(Stream *stream, const Node *node, ConvolutionWay way, const Tensor *in, const Tensor *out,
                       void *workspace, const PreparedConvolution *r) {
  const void *second = in[1].data;
  TAKES(in->dtype, is_float(in->dtype) || (r->plan && in->dtype == BF16));
  if (!r->plan) {
    launch_convolution(stream->cuda, in->dtype, &r->shape, way, in[0].data, in[1].data, out->data, workspace);
    return cuda_launched(stream, node);
  }
  if (r->rounded_bytes) {
    launch_convert(stream->cuda, F32, BF16, shape_elements(in[1].shape), second, workspace);
    TRY(cuda_launched(stream, node));
    second = workspace;
  }
  uintptr_t from = (uintptr_t)workspace + r->rounded_bytes + DNN_ALIGNMENT - 1;
  if (dnn_run(stream->dnn, r->plan, in[0].data, second, out->data, (void *)(from / DNN_ALIGNMENT * DNN_ALIGNMENT)) ==
      OK)
    return OK;
  node_context(node);
  return status_code();
}

/* x, w, y: where the kernel finds them. */
#define CONVOLUTION(op_name, way, x, w, y)                                                                             \
  static size_t workspace_##op_name(const Graph *graph, const Node *node, size_t budget) {                             \
    return convolution_workspace(graph, node, way, budget);                                                            \
  }                                                                                                                    \
  static Status prepare_##op_name(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,               \
                                  size_t workspace_bytes, void **state) {                                              \
    Convolution c = convolution_of(node, (x)->shape, (w)->shape, (y)->shape);                                          \
    return prepare_convolution(stream, node, in, &c, way, workspace_bytes, state);                                     \
  }                                                                                                                    \
  static Status prepare_narrow_##op_name(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,        \
                                         size_t workspace_bytes, void **state) {                                       \
    Convolution c = convolution_of(node, (x)->shape, (w)->shape, (y)->shape);                                          \
    return prepare_narrow_convolution(stream, w, x, y, &c, way, workspace_bytes, state);                               \
  }                                                                                                                    \
  KERNEL(op_name, .accepts = takes_floats, .workspace = workspace_##op_name, .prepare = prepare_##op_name,             \
         .prepare_narrow = prepare_narrow_##op_name, .release = convolution_release) {                                 \
    return convolve(stream, node, way, in, out, workspace, state);                                                     \
  }
CONVOLUTION(Conv, CONVOLUTION_FORWARD, in, in + 1, out)
CONVOLUTION(ConvGradInput, CONVOLUTION_TOWARDS_INPUT, out, in + 1, in)
CONVOLUTION(ConvGradWeight, CONVOLUTION_TOWARDS_WEIGHT, in + 1, out, in)

static Status pools_of(const Node *node, Shape x, Pools *p) {
  *p = (Pools){.divisor = (int)node_int(node, "divisor", 1), .columns = node_int(node, "storage_order", 0) != 0};
  TRY(window_of(node, x, &p->w));
  p->planes = x.dim[0] * x.dim[1];
  p->from = p->w.in[0] * p->w.in[1] * p->w.in[2];
  p->to = p->w.out[0] * p->w.out[1] * p->w.out[2];
  return OK;
}

/* All of one type. */
static bool takes_alike(const Node *node, const Tensor *in, const Tensor *out) {
  bool alike = out->dtype == BF16;
  for (int i = 0; i < node->n_in; i++)
    alike &= in[i].dtype == BF16;
  return alike;
}

KERNEL(MaxPool, .accepts = takes_numbers, .narrow = takes_alike) {
  UNUSED;
  Pools p;
  TAKES(in->dtype, is_stored_number(in->dtype));
  TRY(pools_of(node, in->shape, &p));
  launch_max_pool(stream->cuda, in->dtype, &p, in->data, out->data, node->n_out > 1 ? out[1].data : NULL);
  return cuda_launched(stream, node);
}

KERNEL(AveragePool, .accepts = takes_floats, .narrow = takes_alike) {
  UNUSED;
  Pools p;
  TAKES(in->dtype, is_stored(in->dtype));
  TRY(pools_of(node, in->shape, &p));
  launch_average_pool(stream->cuda, in->dtype, &p, in->data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(MaxPoolGrad, .accepts = takes_floats, .narrow = takes_alike) {
  UNUSED;
  Pools p;
  TAKES(in->dtype, is_stored(in->dtype));
  TRY(pools_of(node, out->shape, &p));
  launch_pool_grad(stream->cuda, in->dtype, &p, in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(AveragePoolGrad, .accepts = takes_floats, .narrow = takes_alike) {
  UNUSED;
  Pools p;
  TAKES(in->dtype, is_stored(in->dtype));
  TRY(pools_of(node, out->shape, &p));
  launch_pool_grad(stream->cuda, in->dtype, &p, in[0].data, NULL, out->data);
  return cuda_launched(stream, node);
}

static Lines resampled(const Node *node, Shape x) {
  Split3 s = split_at(x, (int)node_int(node, "axis", 0));
  return (Lines){s.outer, s.size, s.inner};
}

KERNEL(Resample, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_resample(stream->cuda, in->dtype, resampled(node, in->shape), in[1].shape.dim[0], in[1].shape.dim[1],
                  in[1].data, in[2].data, in->data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(ResampleGrad, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_resample_grad(stream->cuda, in->dtype, resampled(node, out->shape), in[1].shape.dim[0], in[1].shape.dim[1],
                       in[1].data, in[2].data, in->data, out->data);
  return cuda_launched(stream, node);
}
