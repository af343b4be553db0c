/* The cpu backend: the reference's table with faster entries, over the threads of a stream. Invariant: tasks and the
 * order of every sum follow from shapes and the instruction set; the number of threads changes no bit. */
#ifndef BACKEND_CPU_CPU_H
#define BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/pool.h"

struct Stream {
  Pool *pool;
  const Isa *isa;
  Reading soon[MOST_READINGS]; /* what a product may bring near while it multiplies */
  int n_soon;
};

/* A kernel and its entry, as the reference's. */
#define CPU_KERNEL(op_name, ...)                                                                                       \
  static Kernel run_##op_name;                                                                                         \
  const KernelDef cpu_##op_name = {.run = run_##op_name, __VA_ARGS__};                                                 \
  static Status run_##op_name(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,  \
                              void *state)

#define CPU_UNUSED (void)workspace, (void)state

/* The operators that are faster here. */
#define CPU_OPERATORS(VISIT)                                                                                           \
  VISIT(Add)                                                                                                           \
  VISIT(Sub)                                                                                                           \
  VISIT(Mul)                                                                                                           \
  VISIT(Div)                                                                                                           \
  VISIT(Max)                                                                                                           \
  VISIT(Min)                                                                                                           \
  VISIT(Equal)                                                                                                         \
  VISIT(Greater)                                                                                                       \
  VISIT(GreaterOrEqual)                                                                                                \
  VISIT(Less)                                                                                                          \
  VISIT(LessOrEqual)                                                                                                   \
  VISIT(And)                                                                                                           \
  VISIT(Or)                                                                                                            \
  VISIT(Not)                                                                                                           \
  VISIT(Where)                                                                                                         \
  VISIT(Neg)                                                                                                           \
  VISIT(Abs)                                                                                                           \
  VISIT(Sqrt)                                                                                                          \
  VISIT(Log)                                                                                                           \
  VISIT(Sin)                                                                                                           \
  VISIT(Cos)                                                                                                           \
  VISIT(Mod)                                                                                                           \
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
  VISIT(BitwiseAnd)                                                                                                    \
  VISIT(BitwiseOr)                                                                                                     \
  VISIT(BitwiseXor)                                                                                                    \
  VISIT(BitwiseNot)                                                                                                    \
  VISIT(BitShift)                                                                                                      \
  VISIT(BitCast)                                                                                                       \
  VISIT(Reciprocal)                                                                                                    \
  VISIT(Relu)                                                                                                          \
  VISIT(LeakyRelu)                                                                                                     \
  VISIT(Cast)                                                                                                          \
  VISIT(Clip)                                                                                                          \
  VISIT(ClipGrad)                                                                                                      \
  VISIT(TanhGrad)                                                                                                      \
  VISIT(SigmoidGrad)                                                                                                   \
  VISIT(ReluGrad)                                                                                                      \
  VISIT(LeakyReluGrad)                                                                                                 \
  VISIT(MeanSquaredErrorGrad)                                                                                          \
  VISIT(BinaryCrossEntropyGrad)                                                                                        \
  VISIT(Exp)                                                                                                           \
  VISIT(Tanh)                                                                                                          \
  VISIT(Sigmoid)                                                                                                       \
  VISIT(Erf)                                                                                                           \
  VISIT(Gelu)                                                                                                          \
  VISIT(GeluGrad)                                                                                                      \
  VISIT(Swish)                                                                                                         \
  VISIT(SwiGLU)                                                                                                        \
  VISIT(SwishGrad)                                                                                                     \
  VISIT(SwiGLUGrad)                                                                                                    \
  VISIT(Pow)                                                                                                           \
  VISIT(Accumulate)                                                                                                    \
  VISIT(SgdUpdate)                                                                                                     \
  VISIT(AdamUpdate)                                                                                                    \
  VISIT(AccumulateRows)                                                                                                \
  VISIT(SquaredNormRows)                                                                                               \
  VISIT(SgdUpdateRows)                                                                                                 \
  VISIT(AdamUpdateRows)                                                                                                \
  VISIT(SparseAdamUpdate)                                                                                              \
  VISIT(RecurrentSteps)                                                                                                \
  VISIT(RecurrentStepsGrad)                                                                                            \
  VISIT(Softmax)                                                                                                       \
  VISIT(LogSoftmax)                                                                                                    \
  VISIT(SoftmaxGrad)                                                                                                   \
  VISIT(LogSoftmaxGrad)                                                                                                \
  VISIT(Rotary)                                                                                                        \
  VISIT(Attention)                                                                                                     \
  VISIT(AttentionGrad)                                                                                                 \
  VISIT(LayerNormalization)                                                                                            \
  VISIT(LayerNormalizationGradInput)                                                                                   \
  VISIT(RMSNormalization)                                                                                              \
  VISIT(RMSNormalizationGradInput)                                                                                     \
  VISIT(CumSum)                                                                                                        \
  VISIT(CumProd)                                                                                                       \
  VISIT(CumProdGrad)                                                                                                   \
  VISIT(BatchNormalization)                                                                                            \
  VISIT(BatchNormalizationGradScale)                                                                                   \
  VISIT(BatchNormalizationGradInput)                                                                                   \
  VISIT(Dropout)                                                                                                       \
  VISIT(DropoutGrad)                                                                                                   \
  VISIT(RandomUniform)                                                                                                 \
  VISIT(RandomNormal)                                                                                                  \
  VISIT(DFT)                                                                                                           \
  VISIT(ReduceSum)                                                                                                     \
  VISIT(ReduceMean)                                                                                                    \
  VISIT(LayerNormalizationGradScale)                                                                                   \
  VISIT(RMSNormalizationGradScale)                                                                                     \
  VISIT(SquaredNorm)                                                                                                   \
  VISIT(CrossEntropy)                                                                                                  \
  VISIT(CrossEntropyGrad)                                                                                              \
  VISIT(Concat)                                                                                                        \
  VISIT(Split)                                                                                                         \
  VISIT(Transpose)                                                                                                     \
  VISIT(Expand)                                                                                                        \
  VISIT(Slice)                                                                                                         \
  VISIT(SliceGrad)                                                                                                     \
  VISIT(Gather)                                                                                                        \
  VISIT(GatherGrad)                                                                                                    \
  VISIT(GatherElements)                                                                                                \
  VISIT(ScatterElements)                                                                                               \
  VISIT(TopK)                                                                                                          \
  VISIT(MaxPool)                                                                                                       \
  VISIT(MaxPoolGrad)                                                                                                   \
  VISIT(AveragePool)                                                                                                   \
  VISIT(AveragePoolGrad)                                                                                               \
  VISIT(Resample)                                                                                                      \
  VISIT(PointSample)                                                                                                   \
  VISIT(PointSampleGradInput)                                                                                          \
  VISIT(PointSampleGradPoints)                                                                                         \
  VISIT(ResampleGrad)                                                                                                  \
  VISIT(MatMul)                                                                                                        \
  VISIT(ProductAdd)                                                                                                    \
  VISIT(ProductGelu)                                                                                                   \
  VISIT(ProductGeluGrad)                                                                                               \
  VISIT(ProductCrossEntropy)                                                                                           \
  VISIT(AccumulateMatMul)                                                                                              \
  VISIT(Gemm)                                                                                                          \
  VISIT(Conv)                                                                                                          \
  VISIT(ConvGradInput)                                                                                                 \
  VISIT(ConvGradWeight)

#define DECLARE(op_name) extern const KernelDef cpu_##op_name;
CPU_OPERATORS(DECLARE)
#undef DECLARE

/* A stream that uses these loops: tests compare instruction sets. */
Status cpu_stream_open(int threads, const Isa *isa, Stream **stream);

#endif
