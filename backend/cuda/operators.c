/* From nodes to launches: elementwise functions and movement. */
#include <math.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "backend/reference/parts.h"
#include "backend/reference/reference.h"

/* How the inputs run along the output. */
static Steps broadcast(Shape shape, const Tensor *in, int n_in) {
  Walk w;
  walk_init(&w, shape, in, n_in);
  Steps s = {.rank = w.rank, .n = shape_elements(shape)};
  for (int i = 0; i < w.rank; i++) {
    s.dim[i] = w.dim[i];
    for (int k = 0; k < n_in; k++)
      s.step[k][i] = w.stride[k][i];
  }
  return s;
}

static Types types_of(const Node *node, const Tensor *in, const Tensor *out) {
  Types types = {.out = out->dtype};
  for (int i = 0; i < node->n_in && i < 3; i++)
    types.in[i] = in[i].dtype;
  return types;
}

/* A kernel function for each function of a kind, which takes types that are OK. */
#define UNARY(op_name, takes, ok)                                                                                      \
  KERNEL(op_name, .accepts = takes, .narrow = takes_mixes) {                                                           \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, ok(in->dtype));                                                                                   \
    launch_unary(stream->cuda, UNARY_##op_name, types_of(node, in, out), node_float(node, "alpha", 0.01),              \
                 gelu_is_tanh(node), shape_elements(out->shape), in->data, out->data);                                 \
    return cuda_launched(stream, node);                                                                                \
  }
UNARY(Neg, takes_numbers, is_stored_number)
UNARY(Abs, takes_numbers, is_stored_number)
UNARY(Sqrt, takes_floats, is_stored)
UNARY(Exp, takes_floats, is_stored)
UNARY(Log, takes_floats, is_stored)
UNARY(Erf, takes_floats, is_stored)
UNARY(Sin, takes_floats, is_stored)
UNARY(Cos, takes_floats, is_stored)
UNARY(Tan, takes_floats, is_stored)
UNARY(Asin, takes_floats, is_stored)
UNARY(Acos, takes_floats, is_stored)
UNARY(Atan, takes_floats, is_stored)
UNARY(Sinh, takes_floats, is_stored)
UNARY(Cosh, takes_floats, is_stored)
UNARY(Asinh, takes_floats, is_stored)
UNARY(Acosh, takes_floats, is_stored)
UNARY(Atanh, takes_floats, is_stored)
UNARY(Floor, takes_floats, is_stored)
UNARY(Ceil, takes_floats, is_stored)
UNARY(Round, takes_floats, is_stored)
UNARY(Reciprocal, takes_floats, is_stored)
UNARY(Tanh, takes_floats, is_stored)
UNARY(Sigmoid, takes_floats, is_stored)
UNARY(Relu, takes_floats, is_stored)
UNARY(LeakyRelu, takes_floats, is_stored)
UNARY(Gelu, takes_floats, is_stored)

KERNEL(Not, .accepts = takes_any) {
  UNUSED;
  launch_not(stream->cuda, shape_elements(out->shape), in->data, out->data);
  return cuda_launched(stream, node);
}

#define PAIR(op_name)                                                                                                  \
  KERNEL(op_name, .accepts = takes_floats, .narrow = takes_mixes) {                                                    \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_stored(in->dtype));                                                                            \
    launch_pair(stream->cuda, PAIR_##op_name, types_of(node, in, out), node_float(node, "alpha", 0.01),                \
                gelu_is_tanh(node), shape_elements(out->shape), in[0].data, in[1].data, out->data);                    \
    return cuda_launched(stream, node);                                                                                \
  }
PAIR(TanhGrad)
PAIR(SigmoidGrad)
PAIR(ReluGrad)
PAIR(LeakyReluGrad)
PAIR(GeluGrad)

KERNEL(Swish, .accepts = takes_floats, .narrow = takes_mixes) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  launch_unary(stream->cuda, UNARY_Swish, types_of(node, in, out), node_float(node, "alpha", 1), false,
               shape_elements(out->shape), in->data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(SwishGrad, .accepts = takes_floats, .narrow = takes_mixes) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  launch_pair(stream->cuda, PAIR_SwishGrad, types_of(node, in, out), node_float(node, "alpha", 1), false,
              shape_elements(out->shape), in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(SwiGLU, .accepts = takes_floats, .narrow = takes_mixes) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  launch_swiglu(stream->cuda, types_of(node, in, out), node_float(node, "alpha", 1), shape_elements(out->shape),
                in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

/* dY as it likes, A and B of one type, the results of one. */
static bool takes_alike(const Node *node, const Tensor *in, const Tensor *out) {
  (void)node;
  return in[1].dtype == in[2].dtype && out[0].dtype == out[1].dtype;
}

KERNEL(SwiGLUGrad, .accepts = takes_floats, .narrow = takes_alike) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  launch_swiglu_grad(stream->cuda, types_of(node, in, out), node_float(node, "alpha", 1), shape_elements(out->shape),
                     in[0].data, in[1].data, in[2].data, out[0].data, out[1].data);
  return cuda_launched(stream, node);
}

KERNEL(Clip, .accepts = takes_floats, .narrow = takes_mixes) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  launch_clip(stream->cuda, types_of(node, in, out), node_float(node, "min", -INFINITY),
              node_float(node, "max", INFINITY), shape_elements(out->shape), in->data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(ClipGrad, .accepts = takes_floats, .narrow = takes_mixes) {
  UNUSED;
  TAKES(in->dtype, is_stored(in->dtype));
  launch_clip_grad(stream->cuda, types_of(node, in, out), node_float(node, "min", -INFINITY),
                   node_float(node, "max", INFINITY), shape_elements(out->shape), in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

#define ARITHMETIC(op_name)                                                                                            \
  KERNEL(op_name, .accepts = takes_numbers, .narrow = takes_mixes) {                                                   \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_stored_number(in->dtype));                                                                     \
    Steps steps = broadcast(out->shape, in, 2);                                                                        \
    launch_arithmetic(stream->cuda, ARITHMETIC_##op_name, types_of(node, in, out), &steps, in[0].data, in[1].data,     \
                      out->data);                                                                                      \
    return cuda_launched(stream, node);                                                                                \
  }
ARITHMETIC(Add)
ARITHMETIC(Sub)
ARITHMETIC(Mul)
ARITHMETIC(Div)
ARITHMETIC(Max)
ARITHMETIC(Min)

KERNEL(Mod, .accepts = takes_numbers) {
  UNUSED;
  TAKES(in->dtype, is_number(in->dtype));
  Steps steps = broadcast(out->shape, in, 2);
  launch_modulo(stream->cuda, in->dtype, node_int(node, "fmod", 0), &steps, in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

#define COMPARISON(op_name, takes)                                                                                     \
  KERNEL(op_name, .accepts = takes, .narrow = takes_mixes) {                                                           \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_stored_number(in->dtype) || in->dtype == BOOL || in->dtype == U8);                             \
    Steps steps = broadcast(out->shape, in, 2);                                                                        \
    launch_comparison(stream->cuda, COMPARISON_##op_name, types_of(node, in, out), &steps, in[0].data, in[1].data,     \
                      out->data);                                                                                      \
    return cuda_launched(stream, node);                                                                                \
  }
COMPARISON(Equal, takes_comparable)
COMPARISON(Greater, takes_comparable)
COMPARISON(GreaterOrEqual, takes_comparable)
COMPARISON(Less, takes_comparable)
COMPARISON(LessOrEqual, takes_comparable)
COMPARISON(And, takes_any)
COMPARISON(Or, takes_any)

static bool takes_narrow_powers(const Node *node, const Tensor *in, const Tensor *out) {
  (void)node, (void)out;
  bool base = in[0].dtype == F32 || in[0].dtype == BF16;
  return base && (in[1].dtype == F32 || in[1].dtype == BF16);
}

KERNEL(Pow, .accepts = takes_powers, .narrow = takes_narrow_powers) {
  UNUSED;
  TAKES(in[0].dtype, is_stored_number(in[0].dtype));
  TAKES(in[1].dtype, is_stored_number(in[1].dtype));
  Steps steps = broadcast(out->shape, in, 2);
  launch_power(stream->cuda, types_of(node, in, out), &steps, in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(Where, .accepts = takes_any, .narrow = takes_mixes) {
  UNUSED;
  Steps steps = broadcast(out->shape, in, 3);
  launch_where(stream->cuda, types_of(node, in, out), &steps, in[0].data, in[1].data, in[2].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(Cast, .accepts = takes_any) {
  UNUSED;
  launch_cast(stream->cuda, in->dtype, out->dtype, shape_elements(out->shape), in->data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(Narrow, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_narrow(stream->cuda, in->dtype, (DType)node_int(node, "to", F16), node_int(node, "saturate", 1),
                shape_elements(out->shape), in->data, out->data);
  return cuda_launched(stream, node);
}

static Status run_bits(Stream *stream, const Node *node, BitFunction function, const Tensor *in, const Tensor *out) {
  Steps steps = broadcast(out->shape, in, 2);
  launch_bits(stream->cuda, function, out->dtype, &steps, in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

#define BITS(op_name, function)                                                                                        \
  KERNEL(op_name, .accepts = takes_any) {                                                                              \
    UNUSED;                                                                                                            \
    return run_bits(stream, node, function, in, out);                                                                  \
  }
BITS(BitwiseAnd, BITS_And)
BITS(BitwiseOr, BITS_Or)
BITS(BitwiseXor, BITS_Xor)
BITS(BitShift, node_int(node, "right", 0) ? BITS_ShiftRight : BITS_ShiftLeft)

KERNEL(BitwiseNot, .accepts = takes_any) {
  UNUSED;
  launch_bit_not(stream->cuda, dtype_bytes(in->dtype), shape_elements(in->shape), in->data, out->data);
  return cuda_launched(stream, node);
}

/* A loop nest as one launch. */
static void copy_nest(Stream *stream, const Nest *nest, size_t size, const void *from, void *to) {
  Steps s = {.rank = nest->rank, .n = 1};
  for (int i = 0; i < nest->rank; i++) {
    s.dim[i] = nest->dim[i];
    s.step[0][i] = nest->from[i];
    s.step[1][i] = nest->to[i];
    s.n *= nest->dim[i];
  }
  if (s.n)
    launch_copy(stream->cuda, size, &s, (const char *)from + nest->from_offset * (int64_t)size,
                (char *)to + nest->to_offset * (int64_t)size);
}

#define COPY(op_name)                                                                                                  \
  KERNEL(op_name, .accepts = takes_any) {                                                                              \
    UNUSED;                                                                                                            \
    return backend_cuda.copy(stream, out->data, in->data, tensor_bytes(out), COPY_DEVICE_TO_DEVICE);                   \
  }
COPY(Reshape)
COPY(BitCast)

static Status move(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  Nest nest;
  nest_init(&nest, node, in, out);
  copy_nest(stream, &nest, dtype_bytes(in->dtype), in->data, out->data);
  return cuda_launched(stream, node);
}
#define MOVE(op_name)                                                                                                  \
  KERNEL(op_name, .accepts = takes_any) {                                                                              \
    UNUSED;                                                                                                            \
    return move(stream, node, in, out);                                                                                \
  }
MOVE(Transpose)
MOVE(Expand)
MOVE(Slice)

KERNEL(SliceGrad, .accepts = takes_any) {
  UNUSED;
  TRY(backend_cuda.zero(stream, out->data, tensor_bytes(out)));
  return move(stream, node, in, out);
}

/* `part` elements of each of `outer` rows. */
static void copy_parts(Stream *stream, size_t size, int64_t outer, int64_t part, const char *from, int64_t from_row,
                       char *to, int64_t to_row) {
  Nest nest = {0};
  nest_push(&nest, outer, from_row, to_row);
  nest_push(&nest, part, 1, 1);
  copy_nest(stream, &nest, size, from, to);
}

KERNEL(Concat, .accepts = takes_any) {
  UNUSED;
  int axis = (int)node_int(node, "axis", 0);
  Split3 whole = split_at(out->shape, axis);
  size_t size = dtype_bytes(out->dtype);
  char *to = out->data;
  for (int k = 0; k < node->n_in; k++) {
    int64_t part = in[k].shape.dim[axis] * whole.inner;
    copy_parts(stream, size, whole.outer, part, in[k].data, part, to, whole.size * whole.inner);
    to += (size_t)part * size;
  }
  return cuda_launched(stream, node);
}

KERNEL(Split, .accepts = takes_any) {
  UNUSED;
  int count;
  const int64_t *sizes = node_ints(node, "split", &count);
  Split3 whole = split_at(in->shape, (int)node_int(node, "axis", 0));
  size_t size = dtype_bytes(in->dtype);
  const char *from = in->data;
  for (int k = 0; k < count; k++) {
    int64_t part = sizes[k] * whole.inner;
    if (out[k].data)
      copy_parts(stream, size, whole.outer, part, from, whole.size * whole.inner, out[k].data, part);
    from += (size_t)part * size;
  }
  return cuda_launched(stream, node);
}

KERNEL(Trilu, .accepts = takes_any) {
  UNUSED;
  int64_t k = node_int(node, "k", 0), rows = in->shape.dim[in->shape.rank - 2];
  launch_trilu(stream->cuda, dtype_bytes(in->dtype), node_int(node, "upper", 1), k, rows,
               in->shape.dim[in->shape.rank - 1], shape_elements(in->shape), in->data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(Range, .accepts = takes_numbers) {
  UNUSED;
  TAKES(in->dtype, is_number(in->dtype));
  launch_range(stream->cuda, in->dtype, shape_elements(out->shape), in[0].data, in[2].data, out->data);
  return cuda_launched(stream, node);
}

static Lines lines_along(const Node *node, Shape shape) {
  Split3 s = split_at(shape, (int)node_int(node, "axis", 0));
  return (Lines){s.outer, s.size, s.inner};
}

#define RUNNING(op_name, running)                                                                                      \
  KERNEL(op_name, .accepts = takes_numbers) {                                                                          \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_number(in->dtype));                                                                            \
    launch_running(stream->cuda, running, in->dtype, lines_along(node, in->shape), node_int(node, "exclusive", 0),     \
                   node_int(node, "reverse", 0), in->data, out->data);                                                 \
    return cuda_launched(stream, node);                                                                                \
  }
RUNNING(CumSum, RUNNING_SUM)
RUNNING(CumProd, RUNNING_PRODUCT)

KERNEL(CumProdGrad, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_product_grad(stream->cuda, in->dtype, lines_along(node, in->shape), node_int(node, "exclusive", 0),
                      node_int(node, "reverse", 0), in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}
