/* What the host's half of the CUDA backend shares. Invariant: a kernel function only enqueues; what a device kernel
 * finds wrong stays in stream->fault until the host waits. */
#ifndef BACKEND_CUDA_CUDA_H
#define BACKEND_CUDA_CUDA_H

#include "backend/backend.h"
#include "backend/cuda/blas.h"
#include "backend/cuda/dnn.h"
#include "backend/cuda/kernels.h"

struct Stream {
  int device;
  cudaStream_t cuda;
  Blas *blas;
  Dnn *dnn;      /* NULL: there is no cuDNN, or no convolution has asked for it */
  bool records;  /* what is put on it is kept, and does not run yet */
  Fault *fault;  /* pinned */
  int *claimed;  /* on the device: whether someone writes the fault */
  int *finished; /* on the device: blocks of the launch that runs, 0 between launches */
};

/* The operators that have kernels here. */
#define CUDA_OPERATORS(VISIT)                                                                                          \
  VISIT(Add)                                                                                                           \
  VISIT(Sub)                                                                                                           \
  VISIT(Mul)                                                                                                           \
  VISIT(Div)                                                                                                           \
  VISIT(Pow)                                                                                                           \
  VISIT(Max)                                                                                                           \
  VISIT(Min)                                                                                                           \
  VISIT(Mod)                                                                                                           \
  VISIT(Equal)                                                                                                         \
  VISIT(Greater)                                                                                                       \
  VISIT(GreaterOrEqual)                                                                                                \
  VISIT(Less)                                                                                                          \
  VISIT(LessOrEqual)                                                                                                   \
  VISIT(And)                                                                                                           \
  VISIT(Or)                                                                                                            \
  VISIT(Not)                                                                                                           \
  VISIT(Where)                                                                                                         \
  VISIT(BitwiseAnd)                                                                                                    \
  VISIT(BitwiseOr)                                                                                                     \
  VISIT(BitwiseXor)                                                                                                    \
  VISIT(BitwiseNot)                                                                                                    \
  VISIT(BitShift)                                                                                                      \
  VISIT(BitCast)                                                                                                       \
  VISIT(Neg)                                                                                                           \
  VISIT(Abs)                                                                                                           \
  VISIT(Sqrt)                                                                                                          \
  VISIT(Exp)                                                                                                           \
  VISIT(Log)                                                                                                           \
  VISIT(Erf)                                                                                                           \
  VISIT(Sin)                                                                                                           \
  VISIT(Cos)                                                                                                           \
  VISIT(Tan)                                                                                                           \
  VISIT(Asin)                                                                                                          \
  VISIT(Acos)                                                                                                          \
  VISIT(Atan)                                                                                                          \
  VISIT(Sinh)                                                                                                          \
  VISIT(Cosh)                                                                                                          \
  VISIT(Asinh)                                                                                                         \
  VISIT(Acosh)                                                                                                         \
  VISIT(Atanh)                                                                                                         \
  VISIT(Floor)                                                                                                         \
  VISIT(Ceil)                                                                                                          \
  VISIT(Round)                                                                                                         \
  VISIT(Reciprocal)                                                                                                    \
  VISIT(Tanh)                                                                                                          \
  VISIT(Sigmoid)                                                                                                       \
  VISIT(Relu)                                                                                                          \
  VISIT(LeakyRelu)                                                                                                     \
  VISIT(Gelu)                                                                                                          \
  VISIT(Swish)                                                                                                         \
  VISIT(SwiGLU)                                                                                                        \
  VISIT(Clip)                                                                                                          \
  VISIT(Cast)                                                                                                          \
  VISIT(Narrow)                                                                                                        \
  VISIT(Reshape)                                                                                                       \
  VISIT(Transpose)                                                                                                     \
  VISIT(Concat)                                                                                                        \
  VISIT(Split)                                                                                                         \
  VISIT(Slice)                                                                                                         \
  VISIT(Expand)                                                                                                        \
  VISIT(Gather)                                                                                                        \
  VISIT(GatherND)                                                                                                      \
  VISIT(GatherElements)                                                                                                \
  VISIT(ScatterElements)                                                                                               \
  VISIT(ScatterND)                                                                                                     \
  VISIT(TopK)                                                                                                          \
  VISIT(Trilu)                                                                                                         \
  VISIT(Range)                                                                                                         \
  VISIT(CumSum)                                                                                                        \
  VISIT(CumProd)                                                                                                       \
  VISIT(ReduceSum)                                                                                                     \
  VISIT(ReduceMean)                                                                                                    \
  VISIT(ReduceMax)                                                                                                     \
  VISIT(MatMul)                                                                                                        \
  VISIT(Gemm)                                                                                                          \
  VISIT(ProductAdd)                                                                                                    \
  VISIT(ProductGelu)                                                                                                   \
  VISIT(ProductGeluGrad)                                                                                               \
  VISIT(Attention)                                                                                                     \
  VISIT(AttentionGrad)                                                                                                 \
  VISIT(Rotary)                                                                                                        \
  VISIT(Softmax)                                                                                                       \
  VISIT(LogSoftmax)                                                                                                    \
  VISIT(LayerNormalization)                                                                                            \
  VISIT(RMSNormalization)                                                                                              \
  VISIT(RecurrentSteps)                                                                                                \
  VISIT(SegmentReduce)                                                                                                 \
  VISIT(TanhGrad)                                                                                                      \
  VISIT(SigmoidGrad)                                                                                                   \
  VISIT(ReluGrad)                                                                                                      \
  VISIT(LeakyReluGrad)                                                                                                 \
  VISIT(GeluGrad)                                                                                                      \
  VISIT(SwishGrad)                                                                                                     \
  VISIT(SwiGLUGrad)                                                                                                    \
  VISIT(ClipGrad)                                                                                                      \
  VISIT(SliceGrad)                                                                                                     \
  VISIT(GatherGrad)                                                                                                    \
  VISIT(GatherNDGrad)                                                                                                  \
  VISIT(CumProdGrad)                                                                                                   \
  VISIT(SegmentReduceGrad)                                                                                             \
  VISIT(SoftmaxGrad)                                                                                                   \
  VISIT(LogSoftmaxGrad)                                                                                                \
  VISIT(LayerNormalizationGradInput)                                                                                   \
  VISIT(LayerNormalizationGradScale)                                                                                   \
  VISIT(RMSNormalizationGradInput)                                                                                     \
  VISIT(RMSNormalizationGradScale)                                                                                     \
  VISIT(RecurrentStepsGrad)                                                                                            \
  VISIT(CrossEntropy)                                                                                                  \
  VISIT(CrossEntropyGrad)                                                                                              \
  VISIT(ProductCrossEntropy)                                                                                           \
  VISIT(CountTargets)                                                                                                  \
  VISIT(MeanSquaredError)                                                                                              \
  VISIT(MeanSquaredErrorGrad)                                                                                          \
  VISIT(BinaryCrossEntropy)                                                                                            \
  VISIT(BinaryCrossEntropyGrad)                                                                                        \
  VISIT(Accumulate)                                                                                                    \
  VISIT(AccumulateMatMul)                                                                                              \
  VISIT(SquaredNorm)                                                                                                   \
  VISIT(SgdUpdate)                                                                                                     \
  VISIT(Conv)                                                                                                          \
  VISIT(ConvGradInput)                                                                                                 \
  VISIT(ConvGradWeight)                                                                                                \
  VISIT(MaxPool)                                                                                                       \
  VISIT(MaxUnpool)                                                                                                     \
  VISIT(MaxPoolGrad)                                                                                                   \
  VISIT(AveragePool)                                                                                                   \
  VISIT(AveragePoolGrad)                                                                                               \
  VISIT(Resample)                                                                                                      \
  VISIT(ResampleGrad)                                                                                                  \
  VISIT(GridSample)                                                                                                    \
  VISIT(GridSampleGradInput)                                                                                           \
  VISIT(GridSampleGradGrid)                                                                                            \
  VISIT(RoiAlign)                                                                                                      \
  VISIT(RoiAlignGrad)                                                                                                  \
  VISIT(MaxRoiPool)                                                                                                    \
  VISIT(MaxRoiPoolGrad)                                                                                                \
  VISIT(PointSample)                                                                                                   \
  VISIT(PointSampleGradInput)                                                                                          \
  VISIT(PointSampleGradPoints)                                                                                         \
  VISIT(Det)                                                                                                           \
  VISIT(DetGrad)                                                                                                       \
  VISIT(DFT)                                                                                                           \
  VISIT(BatchNormalization)                                                                                            \
  VISIT(BatchNormalizationGradInput)                                                                                   \
  VISIT(BatchNormalizationGradScale)                                                                                   \
  VISIT(UpdateStatistics)                                                                                              \
  VISIT(Dropout)                                                                                                       \
  VISIT(RandomUniform)                                                                                                 \
  VISIT(RandomNormal)                                                                                                  \
  VISIT(DropoutGrad)                                                                                                   \
  VISIT(AdamUpdate)                                                                                                    \
  VISIT(AccumulateRows)                                                                                                \
  VISIT(SquaredNormRows)                                                                                               \
  VISIT(SgdUpdateRows)                                                                                                 \
  VISIT(AdamUpdateRows)                                                                                                \
  VISIT(SparseAdamUpdate)

#define DECLARE(op_name) extern const KernelDef cuda_##op_name;
CUDA_OPERATORS(DECLARE)
#undef DECLARE

/* E_DEVICE: "cuda:0: what: out of memory (cudaErrorMemoryAllocation)"; OK for cudaSuccess. */
Status cuda_check(int device, cudaError_t error, const char *what);

/* Makes the stream's device the calling thread's. */
Status cuda_enter(const Stream *stream);

/* Opens the stream's cuDNN, where there is one: it takes memory that programs without convolutions keep. */
Status cuda_dnn(Stream *stream);

/* What every kernel function returns: whether its launches were accepted. */
Status cuda_launched(const Stream *stream, const Node *node);

/* E_UNSUPPORTED where `count` numbers that point to so many places cannot be sorted by place in 63 bits. */
Status cuda_sortable(const Node *node, int64_t count, int64_t places);

/* How so many elements of the node are drawn. */
Drawing cuda_drawing(const Node *node, int64_t elements);

/* The work of a norm or an update, but for keys and partial sums, and the places that the operands do not have yet. */
Status cuda_take_parameter(const Node *node, const Tensor *in, const Tensor *out, ParameterWork *work);

/* Backend.join of norms and updates. */
Status cuda_join(Stream *stream, const JoinedCall *calls, int n, NodeKernel *kernel, bool *taken);

static inline Reporter cuda_reporter(const Stream *stream, const Node *node) {
  return (Reporter){stream->claimed, stream->fault, node};
}

/* A kernel and its entry, as the reference's. Launches go to the calling thread's device, which has to be the stream's,
 * whichever thread calls. */
#define KERNEL(op_name, ...)                                                                                           \
  static Kernel run_##op_name;                                                                                         \
  static Status enter_##op_name(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,                 \
                                void *workspace, void *state) {                                                        \
    TRY(cuda_enter(stream));                                                                                           \
    return run_##op_name(stream, node, in, out, workspace, state);                                                     \
  }                                                                                                                    \
  const KernelDef cuda_##op_name = {.run = enter_##op_name, __VA_ARGS__};                                              \
  static Status run_##op_name(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,  \
                              void *state)

#define UNUSED (void)stream, (void)node, (void)in, (void)out, (void)workspace, (void)state

/* Fails E_UNSUPPORTED for a type of in[0] that is not among these. */
#define TAKES(type, ok)                                                                                                \
  do {                                                                                                                 \
    if (!(ok))                                                                                                         \
      return unsupported_type(node, type);                                                                             \
  } while (0)

static inline size_t tensor_bytes(const Tensor *tensor) {
  return (size_t)shape_elements(tensor->shape) * dtype_bytes(tensor->dtype);
}

static inline bool is_float(DType type) {
  return type == F32 || type == F64;
}

/* A float as it may be stored: where an entry says `narrow`. */
static inline bool is_stored(DType type) {
  return is_float(type) || type == BF16;
}

/* Such an entry: any mix of float32 and bfloat16. */
static inline bool takes_mixes(const Node *node, const Tensor *in, const Tensor *out) {
  (void)node, (void)in, (void)out;
  return true;
}

static inline bool is_number(DType type) {
  return is_float(type) || type == I64 || type == I32;
}

static inline bool is_stored_number(DType type) {
  return is_number(type) || type == BF16;
}

#endif
