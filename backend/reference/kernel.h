/* What the reference kernels share, and the host kernels of other backends that are written the same way. */
#ifndef BACKEND_REFERENCE_KERNEL_H
#define BACKEND_REFERENCE_KERNEL_H

#include "backend/reference/reference.h"

/* A kernel and its entry, of which the fields beside `run` are given: KERNEL(Neg, .accepts = takes_numbers) { … }. */
#define KERNEL(op_name, ...)                                                                                           \
  static Kernel run_##op_name;                                                                                         \
  const KernelDef reference_##op_name = {.run = run_##op_name, __VA_ARGS__};                                           \
  static Status run_##op_name(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,  \
                              void *state)

#define UNUSED (void)stream, (void)node, (void)workspace, (void)state

#define CASE(TYPE, call)                                                                                               \
  case TYPE:                                                                                                           \
    return call;

/* A kernel over float32 and float64 whose typed functions Name_f32 and Name_f64 come from an .inc file. */
#define FLOAT_KERNEL(op_name)                                                                                          \
  KERNEL(op_name, .accepts = takes_floats) {                                                                           \
    UNUSED;                                                                                                            \
    switch (in[0].dtype) {                                                                                             \
      CASE(F32, op_name##_f32(node, in, out))                                                                          \
      CASE(F64, op_name##_f64(node, in, out))                                                                          \
    default:                                                                                                           \
      return unsupported_type(node, in[0].dtype);                                                                      \
    }                                                                                                                  \
  }

/* For kernels that serve float32, and float64 otherwise. */
static inline Status float_type(const Node *node, DType dtype) {
  return dtype == F32 || dtype == F64 ? OK : unsupported_type(node, dtype);
}

/* Sums TERM, an expression of i, for i = 0 … n-1 into the double `sum`: term i goes to partial sum i mod LANES, and the
 * partial sums are added pairwise. The order depends on n alone. */
enum { LANES = 16 };
#define LANE_SUM(sum, n, TERM)                                                                                         \
  do {                                                                                                                 \
    double lane_[LANES] = {0};                                                                                         \
    int64_t whole_ = (n) - (n) % LANES;                                                                                \
    for (int64_t at_ = 0; at_ < whole_; at_ += LANES)                                                                  \
      for (int l_ = 0; l_ < LANES; l_++) {                                                                             \
        int64_t i = at_ + l_;                                                                                          \
        lane_[l_] += TERM;                                                                                             \
      }                                                                                                                \
    for (int64_t i = whole_; i < (n); i++)                                                                             \
      lane_[i - whole_] += TERM;                                                                                       \
    for (int half_ = LANES / 2; half_; half_ /= 2)                                                                     \
      for (int l_ = 0; l_ < half_; l_++)                                                                               \
        lane_[l_] += lane_[l_ + half_];                                                                                \
    (sum) = lane_[0];                                                                                                  \
  } while (0)

#endif
