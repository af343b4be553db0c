/* Convolutions, by cuDNN where it can be loaded. */
#ifndef BACKEND_CUDA_DNN_H
#define BACKEND_CUDA_DNN_H

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels.h"
#include "base/status.h"

/* Of one stream, on the device that was the calling thread's when it was opened. */
typedef struct Dnn Dnn;

/* Where workspaces begin. */
enum { DNN_ALIGNMENT = 256 };

/* X, W and Y lie densely at multiples of 16 bytes. */
typedef struct {
  ConvolutionWay way;
  Convolution shape;
  DType activation, weight; /* of X and Y, of W: float32 or bfloat16; sums are float32 */
  bool on_tensor_cores;     /* operands may be rounded to TF32, if they are float32 */
  size_t workspace_bytes;   /* what cuDNN may use beside them */
} DnnConvolution;

/* A convolution made ready: the engine, and what describes it. */
typedef struct DnnPlan DnnPlan;

/* "cuDNN 9.10.2, …", or why there is none: "own kernels: …". */
const char *dnn_name(void);

/* *dnn is NULL where there is no cuDNN. */
Status dnn_open(cudaStream_t stream, Dnn **dnn);
void dnn_close(Dnn *dnn); /* NULL: nothing */

/* What cuDNN should have beside the operands: room for them in another layout, and for parts of sums. */
size_t dnn_workspace_bytes(const Convolution *shape);

/* Which engine is chosen depends on convolution, card and cuDNN's version alone: the first of its heuristic's whose
 * results repeat, that multiplies operands as they are (or in TF32) and sums in float32, and that does with the
 * workspace. *plan is NULL where there is none. */
Status dnn_prepare(Dnn *dnn, const DnnConvolution *convolution, DnnPlan **plan);
void dnn_release(DnnPlan *plan); /* NULL: nothing */

/* Enqueues. a, b: the operator's inputs: X and W, dY and W, or dY and X. workspace: at a multiple of DNN_ALIGNMENT. */
Status dnn_run(Dnn *dnn, DnnPlan *plan, const void *a, const void *b, void *y, void *workspace);

#endif
