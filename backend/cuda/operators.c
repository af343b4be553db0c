/* From nodes to launches: elementwise functions, movement, indexing. */
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

static bool tanh_form(const Node *node) {
  return strcmp(node_string(node, "approximate", "none"), "tanh") == 0;
}

static Status unary(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  launch_unary(stream->cuda, node->op, in->dtype, node_float(node, "alpha", 0.01), tanh_form(node),
               shape_elements(out->shape), in->data, out->data);
  return cuda_launched(stream, node);
}

/* A kernel function for each operator of a kind, which takes types that are OK. */
#define OF_KIND(kind, op_name, ok)                                                                                     \
  KERNEL(op_name) {                                                                                                    \
    UNUSED;                                                                                                            \
    DType type = in->dtype;                                                                                            \
    TAKES(type, ok);                                                                                                   \
    return kind(stream, node, in, out);                                                                                \
  }
OF_KIND(unary, Neg, is_number(type))
OF_KIND(unary, Abs, is_number(type))
OF_KIND(unary, Not, type == BOOL || type == U8)
OF_KIND(unary, Sqrt, is_float(type))
OF_KIND(unary, Exp, is_float(type))
OF_KIND(unary, Log, is_float(type))
OF_KIND(unary, Erf, is_float(type))
OF_KIND(unary, Sin, is_float(type))
OF_KIND(unary, Cos, is_float(type))
OF_KIND(unary, Reciprocal, is_float(type))
OF_KIND(unary, Tanh, is_float(type))
OF_KIND(unary, Sigmoid, is_float(type))
OF_KIND(unary, Relu, is_float(type))
OF_KIND(unary, LeakyRelu, is_float(type))
OF_KIND(unary, Gelu, is_float(type))

static Status pair(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  launch_pair(stream->cuda, node->op, in->dtype, node_float(node, "alpha", 0.01), tanh_form(node),
              shape_elements(out->shape), in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}
OF_KIND(pair, TanhGrad, is_float(type))
OF_KIND(pair, SigmoidGrad, is_float(type))
OF_KIND(pair, ReluGrad, is_float(type))
OF_KIND(pair, LeakyReluGrad, is_float(type))
OF_KIND(pair, GeluGrad, is_float(type))

static Status binary(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  Steps steps = broadcast(out->shape, in, 2);
  launch_binary(stream->cuda, node->op, in->dtype, node_int(node, "fmod", 0), &steps, in[0].data, in[1].data,
                out->data);
  return cuda_launched(stream, node);
}
OF_KIND(binary, Add, is_number(type))
OF_KIND(binary, Sub, is_number(type))
OF_KIND(binary, Mul, is_number(type))
OF_KIND(binary, Div, is_number(type))
OF_KIND(binary, Max, is_number(type))
OF_KIND(binary, Min, is_number(type))
OF_KIND(binary, Mod, is_number(type))
OF_KIND(binary, Equal, is_number(type) || type == BOOL || type == U8)
OF_KIND(binary, Greater, is_number(type) || type == BOOL || type == U8)
OF_KIND(binary, GreaterOrEqual, is_number(type) || type == BOOL || type == U8)
OF_KIND(binary, Less, is_number(type) || type == BOOL || type == U8)
OF_KIND(binary, LessOrEqual, is_number(type) || type == BOOL || type == U8)
OF_KIND(binary, And, type == BOOL || type == U8)
OF_KIND(binary, Or, type == BOOL || type == U8)

KERNEL(Pow) {
  UNUSED;
  TAKES(in[0].dtype, is_number(in[0].dtype));
  TAKES(in[1].dtype, is_number(in[1].dtype));
  Steps steps = broadcast(out->shape, in, 2);
  launch_power(stream->cuda, in[0].dtype, in[1].dtype, &steps, in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(Where) {
  UNUSED;
  Steps steps = broadcast(out->shape, in, 3);
  launch_where(stream->cuda, dtype_bytes(out->dtype), &steps, in[0].data, in[1].data, in[2].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(Cast) {
  UNUSED;
  launch_cast(stream->cuda, in->dtype, out->dtype, shape_elements(out->shape), in->data, out->data);
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

static size_t tensor_bytes(const Tensor *tensor) {
  return (size_t)shape_elements(tensor->shape) * dtype_bytes(tensor->dtype);
}

KERNEL(Reshape) {
  UNUSED;
  return backend_cuda.copy(stream, out->data, in->data, tensor_bytes(out), COPY_DEVICE_TO_DEVICE);
}

static Status move(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  Nest nest;
  if (node->op == OP_SliceGrad)
    TRY(backend_cuda.zero(stream, out->data, tensor_bytes(out)));
  nest_init(&nest, node, in, out);
  copy_nest(stream, &nest, dtype_bytes(in->dtype), in->data, out->data);
  return cuda_launched(stream, node);
}
OF_KIND(move, Transpose, type != DTYPE_NONE)
OF_KIND(move, Expand, type != DTYPE_NONE)
OF_KIND(move, Slice, type != DTYPE_NONE)
OF_KIND(move, SliceGrad, type != DTYPE_NONE)

/* `part` elements of each of `outer` rows. */
static void copy_parts(Stream *stream, size_t size, int64_t outer, int64_t part, const char *from, int64_t from_row,
                       char *to, int64_t to_row) {
  Nest nest = {0};
  nest_push(&nest, outer, from_row, to_row);
  nest_push(&nest, part, 1, 1);
  copy_nest(stream, &nest, size, from, to);
}

KERNEL(Concat) {
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

KERNEL(Split) {
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

KERNEL(Trilu) {
  UNUSED;
  int64_t k = node_int(node, "k", 0), rows = in->shape.dim[in->shape.rank - 2];
  launch_trilu(stream->cuda, dtype_bytes(in->dtype), node_int(node, "upper", 1), k, rows,
               in->shape.dim[in->shape.rank - 1], shape_elements(in->shape), in->data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(Range) {
  UNUSED;
  TAKES(in->dtype, is_number(in->dtype));
  launch_range(stream->cuda, in->dtype, shape_elements(out->shape), in[0].data, in[2].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(CumSum) {
  UNUSED;
  TAKES(in->dtype, is_number(in->dtype));
  Split3 s = split_at(in->shape, (int)node_int(node, "axis", 0));
  launch_cumsum(stream->cuda, in->dtype, (Lines){s.outer, s.size, s.inner}, node_int(node, "exclusive", 0),
                node_int(node, "reverse", 0), in->data, out->data);
  return cuda_launched(stream, node);
}

/* Gather and GatherND, and their transposes, as one. */
static Picks picks_of(const Node *node, Shape data, const Tensor *indices) {
  Picks p = {.index_type = indices->dtype, .depth = 1, .outer = 1, .slices = 1, .inner = 1, .shape = data};
  p.rows = p.rows_per_batch = shape_elements(indices->shape);
  if (node->op == OP_Gather || node->op == OP_GatherGrad) {
    p.axis = (int)node_int(node, "axis", 0);
    Split3 s = split_at(data, p.axis);
    p.outer = s.outer;
    p.slices = s.size;
    p.inner = s.inner;
  } else {
    int last = indices->shape.rank - 1;
    p.axis = (int)node_int(node, "batch_dims", 0);
    p.depth = (int)indices->shape.dim[last];
    p.rows = p.rows_per_batch = 1;
    for (int i = 0; i < last; i++) {
      p.rows *= indices->shape.dim[i];
      p.rows_per_batch *= i < p.axis ? 1 : indices->shape.dim[i];
    }
    for (int i = 0; i < data.rank; i++)
      *(i < p.axis + p.depth ? &p.slices : &p.inner) *= data.dim[i];
  }
  if (p.rows_per_batch == 0) /* no row divides by it */
    p.rows_per_batch = 1;
  return p;
}

static Status gather(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  Picks picks = picks_of(node, in[0].shape, &in[1]);
  launch_gather(stream->cuda, dtype_bytes(in->dtype), &picks, cuda_reporter(stream, node), in[0].data, in[1].data,
                out->data);
  return cuda_launched(stream, node);
}
OF_KIND(gather, Gather, type != DTYPE_NONE)
OF_KIND(gather, GatherND, type != DTYPE_NONE)

KERNEL(GatherGrad) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Picks picks = picks_of(node, out->shape, &in[1]);
  if (picks.rows && picks.slices >= INT64_MAX / 2 / picks.rows) {
    fail(E_UNSUPPORTED, "%lld indices into %lld slices are too many", (long long)picks.rows, (long long)picks.slices);
    node_context(node);
    return E_UNSUPPORTED;
  }
  TRY(backend_cuda.zero(stream, out->data, tensor_bytes(out)));
  launch_scatter_add(stream->cuda, in->dtype, &picks, cuda_reporter(stream, node), in[0].data, in[1].data, workspace,
                     out->data);
  return cuda_launched(stream, node);
}

KERNEL(GatherNDGrad) {
  return cuda_GatherGrad(stream, node, in, out, workspace);
}
