/* From nodes to launches: reductions, normalisations and losses; and the workspaces that they take. */
#include "backend/cuda/cuda.h"
#include "backend/reference/reference.h"

/* Whether inputs from `first` on that are there, and outputs, are float32: what is computed beside rows. */
static bool rest_is_wide(const Node *node, const Tensor *in, int first_in, const Tensor *out, int first_out) {
  for (int i = first_in; i < node->n_in; i++)
    if (in[i].dtype == BF16)
      return false;
  for (int i = first_out; i < node->n_out; i++)
    if (out[i].dtype == BF16)
      return false;
  return true;
}

/* The first input and the first output as they like. */
static bool takes_rows(const Node *node, const Tensor *in, const Tensor *out) {
  return rest_is_wide(node, in, 1, out, 1);
}

static bool takes_column_sums(const Node *node, const Tensor *in, const Tensor *out) {
  return rest_is_wide(node, in, 2, out, 0);
}

/* The input's axes, merged where neighbours are both kept or both reduced. */
typedef struct {
  Steps kept, reduced;
  bool along; /* a result's terms lie side by side */
} Fold;

static void push(Steps *s, int64_t dim, int64_t step) {
  int last = s->rank - 1;
  s->n *= dim;
  if (last >= 0 && s->step[0][last] == dim * step) {
    s->dim[last] *= dim;
    s->step[0][last] = step;
  } else {
    s->dim[s->rank] = dim;
    s->step[0][s->rank++] = step;
  }
}

static Fold fold_of(const Node *node, Shape shape) {
  int count, next = 0;
  const int64_t *axes = node_ints(node, "axes", &count);
  Fold f = {.kept = {.n = 1}, .reduced = {.n = 1}};
  int64_t step = shape_elements(shape);
  for (int i = 0; i < shape.rank; i++) {
    bool is_reduced = next < count && axes[next] == i;
    next += is_reduced;
    step = shape.dim[i] ? step / shape.dim[i] : 0;
    if (shape.dim[i] != 1)
      push(is_reduced ? &f.reduced : &f.kept, shape.dim[i], step);
  }
  f.along = f.reduced.rank && f.reduced.step[0][f.reduced.rank - 1] == 1;
  return f;
}

/* Numbers of eight bytes that sums put down. */
static size_t partials(int64_t results, int64_t count, bool along) {
  return sizeof(double) * (size_t)fold_partials(results, count, along);
}

static size_t reduce_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Fold f = fold_of(node, kernel_input(graph, node, 0).shape);
  return partials(f.kept.n, f.reduced.n, f.along);
}

#define REDUCE(op_name, reduction, takes, ok)                                                                          \
  KERNEL(op_name, .accepts = takes, .narrow = takes_mixes, .workspace = reduce_workspace) {                            \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, ok(in->dtype) || in->dtype == BF16);                                                              \
    Fold f = fold_of(node, in->shape);                                                                                 \
    launch_reduce(stream->cuda, reduction, in->dtype, out->dtype, &f.kept, &f.reduced, f.along, in->data, out->data,   \
                  workspace);                                                                                          \
    return cuda_launched(stream, node);                                                                                \
  }
REDUCE(ReduceSum, REDUCTION_SUM, takes_numbers, is_number)
REDUCE(ReduceMean, REDUCTION_MEAN, takes_floats, is_float)
REDUCE(ReduceMax, REDUCTION_MAX, takes_numbers, is_number)

static Lines lines_at(const Node *node, const char *axis, Shape shape) {
  Split3 s = split_at(shape, (int)node_int(node, axis, 0));
  return (Lines){s.outer, s.size, s.inner};
}

#define SOFTMAX(op_name, is_log)                                                                                       \
  KERNEL(op_name, .accepts = takes_floats, .narrow = takes_mixes) {                                                    \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);                                                        \
    launch_softmax(stream->cuda, is_log, in->dtype, out->dtype, lines_at(node, "axis", out->shape), in->data,          \
                   out->data);                                                                                         \
    return cuda_launched(stream, node);                                                                                \
  }
SOFTMAX(Softmax, false)
SOFTMAX(LogSoftmax, true)

#define SOFTMAX_GRAD(op_name, is_log)                                                                                  \
  KERNEL(op_name, .accepts = takes_floats, .narrow = takes_mixes) {                                                    \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);                                                        \
    launch_softmax_grad(stream->cuda, is_log, in[0].dtype, in[1].dtype, out->dtype,                                    \
                        lines_at(node, "axis", out->shape), in[0].data, in[1].data, out->data);                        \
    return cuda_launched(stream, node);                                                                                \
  }
SOFTMAX_GRAD(SoftmaxGrad, false)
SOFTMAX_GRAD(LogSoftmaxGrad, true)

KERNEL(LayerNormalization, .accepts = takes_floats, .narrow = takes_rows) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);
  Split3 s = split_from(in->shape, (int)node_int(node, "axis", 0));
  launch_norm(stream->cuda, in->dtype, out->dtype, s.outer, s.size, node_float(node, "epsilon", 1e-5), in[0].data,
              in[1].data, node->n_in > 2 ? in[2].data : NULL, out[0].data, out[1].data, out[2].data);
  return cuda_launched(stream, node);
}

KERNEL(RMSNormalization, .accepts = takes_floats, .narrow = takes_rows) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);
  Split3 s = split_from(in->shape, (int)node_int(node, "axis", 0));
  launch_norm(stream->cuda, in->dtype, out->dtype, s.outer, s.size, node_float(node, "epsilon", 1e-5), in[0].data,
              in[1].data, NULL, out[0].data, NULL, out[1].data);
  return cuda_launched(stream, node);
}

/* Behind what its operator has: what is added, or nothing. */
static const Tensor *added_to_norm_grad(const Node *node, const Tensor *in) {
  int more = node->op == OP_LayerNormalizationGradInput ? 5 : 4;
  return node->n_in > more ? &in[more] : NULL;
}

/* dY, X and the output as they like, and what is added as the output. */
static bool takes_norm_grad(const Node *node, const Tensor *in, const Tensor *out) {
  const Tensor *more = added_to_norm_grad(node, in);
  bool wide = !more || more->dtype == out->dtype;
  for (const Tensor *t = &in[2]; t < (more ? more : &in[node->n_in]); t++)
    wide &= t->dtype != BF16;
  return wide;
}

/* dX of a row. LayerNormalization: dY, X, scale, mean, inv, more?; RMSNormalization: no mean. */
static Status norm_grad_input(Stream *stream, const Node *node, const Tensor *in, const void *mean, const void *inv,
                              const Tensor *out) {
  const Tensor *more = added_to_norm_grad(node, in);
  TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);
  Split3 s = split_from(out->shape, (int)node_int(node, "axis", 0));
  launch_norm_grad(stream->cuda, in[0].dtype, in[1].dtype, out->dtype, s.outer, s.size, in[0].data, in[1].data,
                   in[2].data, mean, inv, more ? more->data : NULL, out->data);
  return cuda_launched(stream, node);
}

KERNEL(LayerNormalizationGradInput, .accepts = takes_floats, .narrow = takes_norm_grad) {
  UNUSED;
  return norm_grad_input(stream, node, in, in[3].data, in[4].data, out);
}

KERNEL(RMSNormalizationGradInput, .accepts = takes_floats, .narrow = takes_norm_grad) {
  UNUSED;
  return norm_grad_input(stream, node, in, NULL, in[3].data, out);
}

static size_t norm_grad_scale_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Split3 s = split_from(kernel_input(graph, node, 1).shape, (int)node_int(node, "axis", 0));
  return partials(s.size, s.outer, false);
}

/* dScale. LayerNormalization: dY, X, mean, inv; RMSNormalization: no mean. */
static Status norm_grad_scale(Stream *stream, const Node *node, const Tensor *in, const void *mean, const void *inv,
                              const Tensor *out, void *workspace) {
  TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);
  Split3 s = split_from(in[1].shape, (int)node_int(node, "axis", 0));
  launch_scale_grad(stream->cuda, in[0].dtype, in[1].dtype, s.outer, s.size, in[0].data, in[1].data, mean, inv,
                    out->data, workspace);
  return cuda_launched(stream, node);
}

KERNEL(LayerNormalizationGradScale, .accepts = takes_floats, .narrow = takes_column_sums,
       .workspace = norm_grad_scale_workspace) {
  UNUSED;
  return norm_grad_scale(stream, node, in, in[2].data, in[3].data, out, workspace);
}

KERNEL(RMSNormalizationGradScale, .accepts = takes_floats, .narrow = takes_column_sums,
       .workspace = norm_grad_scale_workspace) {
  UNUSED;
  return norm_grad_scale(stream, node, in, NULL, in[2].data, out, workspace);
}

static Classes classes_of(const Node *node, const Tensor *in) {
  return (Classes){.target_type = in[1].dtype,
                   .ignored = node_int(node, "ignore_index", -100),
                   .lines = lines_at(node, "class_axis", in->shape)};
}

/* The positions' losses, then what their sum takes. */
static size_t cross_entropy_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  int64_t positions = shape_elements(kernel_input(graph, node, 1).shape);
  return sizeof(double) * (size_t)positions + partials(1, positions, true);
}

KERNEL(CrossEntropy, .accepts = takes_floats, .narrow = takes_rows, .workspace = cross_entropy_workspace) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);
  Classes classes = classes_of(node, in);
  int64_t positions = classes.lines.outer * classes.lines.inner;
  double *losses = workspace;
  launch_cross_entropy(stream->cuda, in->dtype, &classes, cuda_reporter(stream, node), in[0].data, in[1].data,
                       out[1].data, losses);
  launch_sum(stream->cuda, positions, losses, out[0].data, losses + positions);
  return cuda_launched(stream, node);
}

KERNEL(CrossEntropyGrad, .accepts = takes_floats, .narrow = takes_rows) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);
  Classes classes = classes_of(node, in);
  launch_cross_entropy_grad(stream->cuda, in->dtype, out->dtype, &classes, cuda_reporter(stream, node), in[0].data,
                            in[1].data, in[2].data, in[3].data, out->data);
  return cuda_launched(stream, node);
}

/* One sum over all. */
static size_t sum_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  return partials(1, shape_elements(kernel_input(graph, node, 0).shape), true);
}

KERNEL(CountTargets, .accepts = takes_any, .workspace = sum_workspace) {
  UNUSED;
  launch_count(stream->cuda, in->dtype, shape_elements(in->shape), node_int(node, "ignore_index", -100), in->data,
               out->data, workspace);
  return cuda_launched(stream, node);
}

#define PAIRED_LOSS(op_name, loss)                                                                                     \
  KERNEL(op_name, .accepts = takes_floats, .narrow = takes_mixes, .workspace = sum_workspace) {                        \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_float(in->dtype) || in->dtype == BF16);                                                        \
    launch_loss(stream->cuda, loss, in[0].dtype, in[1].dtype, shape_elements(in->shape), in[0].data, in[1].data,       \
                out->data, workspace);                                                                                 \
    return cuda_launched(stream, node);                                                                                \
  }                                                                                                                    \
  KERNEL(op_name##Grad, .accepts = takes_floats, .narrow = takes_mixes) {                                              \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_stored(in->dtype));                                                                            \
    Types types = {.in = {in[0].dtype, in[1].dtype}, .out = out->dtype};                                               \
    launch_loss_grad(stream->cuda, loss, types, shape_elements(out->shape), in[0].data, in[1].data, in[2].data,        \
                     out->data);                                                                                       \
    return cuda_launched(stream, node);                                                                                \
  }
PAIRED_LOSS(MeanSquaredError, LOSS_SQUARES)
PAIRED_LOSS(BinaryCrossEntropy, LOSS_LOGITS)
