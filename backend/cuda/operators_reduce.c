/* From nodes to launches: products, reductions, normalisations, losses and updates; and the workspaces that they take.
 */
#include "backend/cuda/cuda.h"
#include "backend/reference/product.h"
#include "backend/reference/reference.h"
#include "graph/memory.h"
#include "graph/optimizer.h"

/* Float64 is not reduced. */
static Precision precision_of(const Node *node, const Tensor *in) {
  return in->dtype == F32 ? node->precision : PRECISION_FLOAT32;
}

/* A product as rows of batched ones: the batches of its innermost loop. The first row begins where tensors do; others
 * at any matrix. */
static BlasProduct blas_product(const Node *node, const Tensor *in, const Product *p) {
  int last = p->batch.rank - 1;
  DType type = precision_of(node, in) == PRECISION_BF16 ? BF16 : in->dtype;
  int64_t batches = p->batches == 1 ? 1 : p->batch.dim[last];
  bool one_row = batches == p->batches && batches <= BLAS_BATCHES;
  return (BlasProduct){.type = type,
                       .is_tf32 = precision_of(node, in) == PRECISION_TF32,
                       .transpose_a = node_int(node, "transA", 0),
                       .transpose_b = node_int(node, "transB", 0),
                       .m = p->m,
                       .n = p->n,
                       .k = p->k,
                       .batches = batches,
                       .a_step = p->batch.stride[0][last] * p->m * p->k,
                       .b_step = p->batch.stride[1][last] * p->k * p->n,
                       .alpha = node_float(node, "alpha", 1),
                       .alignment = one_row ? 64 : dtype_bytes(type)};
}

/* A product's workspace from the first multiple of BLAS_ALIGNMENT on: A and B as bfloat16 where they are reduced to it,
 * then cuBLASLt's. */
typedef struct {
  size_t b, blas, end;
} Room;

static Room room_of(const Node *node, const Tensor *in, const BlasProduct *row) {
  Room room = {0};
  if (precision_of(node, in) == PRECISION_BF16) {
    room.b = (size_t)round_up(shape_elements(in[0].shape) * 2, BLAS_ALIGNMENT);
    room.blas = room.b + (size_t)round_up(shape_elements(in[1].shape) * 2, BLAS_ALIGNMENT);
  }
  room.end = room.blas + blas_workspace_bytes(row);
  return room;
}

/* The first multiple of BLAS_ALIGNMENT: workspaces begin at multiples of MEMORY_ALIGNMENT. */
static char *align_workspace(void *workspace) {
  return (char *)(((uintptr_t)workspace + BLAS_ALIGNMENT - 1) / BLAS_ALIGNMENT * BLAS_ALIGNMENT);
}

/* The bytes of a product's workspace; 0: nothing is multiplied. */
static size_t product_bytes(const Node *node, const Tensor *in) {
  Product p = product_of(node, in);
  BlasProduct row = blas_product(node, in, &p);
  if (!p.k || !p.batches || !p.m || !p.n)
    return 0;
  return room_of(node, in, &row).end + BLAS_ALIGNMENT - MEMORY_ALIGNMENT;
}

/* Rounds A and B into the workspace. */
static void reduce_operands(Stream *stream, const Tensor *in, const Room *room, char *workspace, const char *at[2]) {
  at[0] = workspace;
  at[1] = workspace + room->b;
  launch_reduce_precision(stream->cuda, shape_elements(in[0].shape), in[0].data, workspace);
  launch_reduce_precision(stream->cuda, shape_elements(in[1].shape), in[1].data, workspace + room->b);
}

static Status multiply(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace) {
  TAKES(in->dtype, is_float(in->dtype));
  Product p = product_of(node, in);
  int64_t size = (int64_t)dtype_bytes(in->dtype), results = p.batches * p.m * p.n;
  if (!results)
    return OK;
  if (!p.k)
    return backend_cuda.zero(stream, out->data, (size_t)(results * size));
  BlasProduct row = blas_product(node, in, &p), part = row;
  Room room = room_of(node, in, &row);
  int64_t operand = (int64_t)dtype_bytes(row.type);
  const char *at[2] = {in[0].data, in[1].data};
  workspace = align_workspace(workspace);
  if (row.type == BF16)
    reduce_operands(stream, in, &room, workspace, at);
  for (int64_t i = 0; i < p.batches; i += part.batches) {
    int64_t a, b;
    product_batch(&p, i, &a, &b);
    part.batches = least(row.batches - i % row.batches, BLAS_BATCHES);
    if (blas_run(stream->blas, stream->cuda, &part, at[0] + a * p.m * p.k * operand, at[1] + b * p.k * p.n * operand,
                 (char *)out->data + i * p.m * p.n * size, (char *)workspace + room.blas) != OK) {
      node_context(node);
      return status_code();
    }
  }
  return cuda_launched(stream, node);
}

KERNEL(MatMul) {
  return multiply(stream, node, in, out, workspace);
}

KERNEL(Gemm) {
  TRY(multiply(stream, node, in, out, workspace));
  if (node->n_in < 3 || !in[2].data)
    return OK;
  Tensor both[] = {in[2], *out};
  Walk w;
  walk_init(&w, out->shape, both, 2);
  Steps steps = {.rank = w.rank, .n = shape_elements(out->shape)};
  for (int i = 0; i < w.rank; i++) {
    steps.dim[i] = w.dim[i];
    steps.step[0][i] = w.stride[0][i];
    steps.step[1][i] = w.stride[1][i];
  }
  launch_add_scaled(stream->cuda, in->dtype, node_float(node, "beta", 1), &steps, in[2].data, out->data);
  return cuda_launched(stream, node);
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

static Status reduce(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace) {
  TAKES(in->dtype, is_float(in->dtype) || (is_number(in->dtype) && node->op != OP_ReduceMean));
  Fold f = fold_of(node, in->shape);
  launch_reduce(stream->cuda, node->op, in->dtype, &f.kept, &f.reduced, f.along, in->data, out->data, workspace);
  return cuda_launched(stream, node);
}

KERNEL(ReduceSum) {
  return reduce(stream, node, in, out, workspace);
}

KERNEL(ReduceMean) {
  return reduce(stream, node, in, out, workspace);
}

KERNEL(ReduceMax) {
  return reduce(stream, node, in, out, workspace);
}

static Lines lines_at(const Node *node, const char *axis, Shape shape) {
  Split3 s = split_at(shape, (int)node_int(node, axis, 0));
  return (Lines){s.outer, s.size, s.inner};
}

static Status softmax(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  TAKES(in->dtype, is_float(in->dtype));
  Lines lines = lines_at(node, "axis", out->shape);
  if (node->op == OP_Softmax || node->op == OP_LogSoftmax)
    launch_softmax(stream->cuda, node->op, in->dtype, lines, in->data, out->data);
  else
    launch_softmax_grad(stream->cuda, node->op, in->dtype, lines, in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(Softmax) {
  UNUSED;
  return softmax(stream, node, in, out);
}

KERNEL(LogSoftmax) {
  UNUSED;
  return softmax(stream, node, in, out);
}

KERNEL(SoftmaxGrad) {
  UNUSED;
  return softmax(stream, node, in, out);
}

KERNEL(LogSoftmaxGrad) {
  UNUSED;
  return softmax(stream, node, in, out);
}

KERNEL(LayerNormalization) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Split3 s = split_from(in->shape, (int)node_int(node, "axis", 0));
  launch_norm(stream->cuda, in->dtype, s.outer, s.size, node_float(node, "epsilon", 1e-5), in[0].data, in[1].data,
              node->n_in > 2 ? in[2].data : NULL, out[0].data, out[1].data, out[2].data);
  return cuda_launched(stream, node);
}

KERNEL(RMSNormalization) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Split3 s = split_from(in->shape, (int)node_int(node, "axis", 0));
  launch_norm(stream->cuda, in->dtype, s.outer, s.size, node_float(node, "epsilon", 1e-5), in[0].data, in[1].data, NULL,
              out[0].data, NULL, out[1].data);
  return cuda_launched(stream, node);
}

static Status norm_grad_input(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  TAKES(in->dtype, is_float(in->dtype));
  bool centred = node->op == OP_LayerNormalizationGradInput;
  Split3 s = split_from(out->shape, (int)node_int(node, "axis", 0));
  launch_norm_grad(stream->cuda, in->dtype, s.outer, s.size, in[0].data, in[1].data, in[2].data,
                   centred ? in[3].data : NULL, in[centred ? 4 : 3].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(LayerNormalizationGradInput) {
  UNUSED;
  return norm_grad_input(stream, node, in, out);
}

KERNEL(RMSNormalizationGradInput) {
  UNUSED;
  return norm_grad_input(stream, node, in, out);
}

KERNEL(LayerNormalizationGradScale) {
  TAKES(in->dtype, is_float(in->dtype));
  bool centred = node->op == OP_LayerNormalizationGradScale;
  Split3 s = split_from(in[1].shape, (int)node_int(node, "axis", 0));
  launch_scale_grad(stream->cuda, in->dtype, s.outer, s.size, in[0].data, in[1].data, centred ? in[2].data : NULL,
                    in[centred ? 3 : 2].data, out->data, workspace);
  return cuda_launched(stream, node);
}

KERNEL(RMSNormalizationGradScale) {
  return cuda_LayerNormalizationGradScale(stream, node, in, out, workspace);
}

static Classes classes_of(const Node *node, const Tensor *in) {
  return (Classes){.target_type = in[1].dtype,
                   .ignored = node_int(node, "ignore_index", -100),
                   .lines = lines_at(node, "class_axis", in->shape)};
}

/* Workspace: the positions' losses, then what their sum takes. */
KERNEL(CrossEntropy) {
  TAKES(in->dtype, is_float(in->dtype));
  Classes classes = classes_of(node, in);
  int64_t positions = classes.lines.outer * classes.lines.inner;
  double *losses = workspace;
  launch_cross_entropy(stream->cuda, in->dtype, &classes, cuda_reporter(stream, node), in[0].data, in[1].data,
                       out[1].data, losses);
  launch_loss(stream->cuda, OP_CrossEntropy, F64, positions, 0, losses, NULL, out[0].data, losses + positions);
  return cuda_launched(stream, node);
}

KERNEL(CrossEntropyGrad) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Classes classes = classes_of(node, in);
  launch_cross_entropy_grad(stream->cuda, in->dtype, &classes, cuda_reporter(stream, node), in[0].data, in[1].data,
                            in[2].data, in[3].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(CountTargets) {
  launch_loss(stream->cuda, node->op, in->dtype, shape_elements(in->shape), node_int(node, "ignore_index", -100),
              in->data, NULL, out->data, workspace);
  return cuda_launched(stream, node);
}

static Status loss(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace) {
  TAKES(in->dtype, is_float(in->dtype));
  launch_loss(stream->cuda, node->op, in->dtype, shape_elements(in->shape), 0, in[0].data, in[1].data, out->data,
              workspace);
  return cuda_launched(stream, node);
}

KERNEL(MeanSquaredError) {
  return loss(stream, node, in, out, workspace);
}

KERNEL(BinaryCrossEntropy) {
  return loss(stream, node, in, out, workspace);
}

static Status loss_grad(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  TAKES(in->dtype, is_float(in->dtype));
  launch_loss_grad(stream->cuda, node->op, in->dtype, shape_elements(out->shape), in[0].data, in[1].data, in[2].data,
                   out->data);
  return cuda_launched(stream, node);
}

KERNEL(MeanSquaredErrorGrad) {
  UNUSED;
  return loss_grad(stream, node, in, out);
}

KERNEL(BinaryCrossEntropyGrad) {
  UNUSED;
  return loss_grad(stream, node, in, out);
}

KERNEL(Accumulate) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  launch_accumulate(stream->cuda, in->dtype, shape_elements(in->shape), in[1].data, in[0].data);
  return cuda_launched(stream, node);
}

static Status take_groups(const Node *node, const Tensor *in, int n, const void *groups[MOST_GROUPS]) {
  if (n < 1 || n > MOST_GROUPS) {
    fail(E_UNSUPPORTED, "%d accumulators, 1 to %d can be", n, MOST_GROUPS);
    node_context(node);
    return E_UNSUPPORTED;
  }
  for (int k = 0; k < n; k++)
    groups[k] = in[k].data;
  return OK;
}

KERNEL(SquaredNorm) {
  const void *groups[MOST_GROUPS];
  TAKES(in->dtype, is_float(in->dtype));
  TRY(take_groups(node, in, node->n_in, groups));
  launch_squared_norm(stream->cuda, in->dtype, shape_elements(in->shape), node->n_in, groups, out->data, workspace);
  return cuda_launched(stream, node);
}

static Status update(Stream *stream, const Node *node, const Tensor *in) {
  TAKES(in->dtype, is_float(in->dtype));
  int states = (int)node_int(node, "states", 0);
  UpdateWork work = {.n_groups = node->n_in - 2 - states,
                     .parameter = in[0].data,
                     .momentum = states ? in[2].data : NULL,
                     .variance = states > 1 ? in[3].data : NULL,
                     .scalars = in[1].data,
                     .momentum_factor = node_float(node, "momentum", 0),
                     .decay = node_float(node, "weight_decay", 0),
                     .nesterov = node_int(node, "nesterov", 0),
                     .decoupled = node_int(node, "decoupled", 0),
                     .beta1 = node_float(node, "beta1", 0.9),
                     .beta2 = node_float(node, "beta2", 0.999),
                     .epsilon = node_float(node, "epsilon", 1e-8)};
  TRY(take_groups(node, in + 2 + states, work.n_groups, work.groups));
  launch_update(stream->cuda, node->op, in->dtype, shape_elements(in->shape), &work);
  return cuda_launched(stream, node);
}

KERNEL(SgdUpdate) {
  UNUSED;
  return update(stream, node, in);
}

KERNEL(AdamUpdate) {
  UNUSED;
  return update(stream, node, in);
}

/* Numbers of eight bytes that a node's reductions put down. */
static int64_t partials(const Node *node, const Tensor *in) {
  int64_t n = shape_elements(in->shape);
  switch (node->op) {
  case OP_ReduceSum:
  case OP_ReduceMean:
  case OP_ReduceMax: {
    Fold f = fold_of(node, in->shape);
    return fold_partials(f.kept.n, f.reduced.n, f.along);
  }
  case OP_LayerNormalizationGradScale:
  case OP_RMSNormalizationGradScale: {
    Split3 s = split_from(in[1].shape, (int)node_int(node, "axis", 0));
    return fold_partials(s.size, s.outer, false);
  }
  case OP_CrossEntropy: {
    Lines lines = lines_at(node, "class_axis", in->shape);
    return lines.outer * lines.inner + fold_partials(1, lines.outer * lines.inner, true);
  }
  case OP_CountTargets:
  case OP_MeanSquaredError:
  case OP_BinaryCrossEntropy:
  case OP_SquaredNorm:
    return fold_partials(1, n, true);
  case OP_GatherGrad:
  case OP_GatherNDGrad: /* sorted indices, from one half to the other */
    return 2 * shape_elements(in[1].shape);
  default:
    return 0;
  }
}

size_t cuda_workspace_bytes(const Graph *graph, const Node *node) {
  Tensor in[2] = {{0}};
  for (int i = 0; i < 2 && i < node->n_in; i++)
    if (node->in[i] != NO_VALUE) {
      const Value *v = graph_value(graph, node->in[i]);
      in[i] = (Tensor){.dtype = v->dtype, .shape = v->shape};
    }
  if (node->op == OP_MatMul || node->op == OP_Gemm)
    return product_bytes(node, in);
  return (size_t)partials(node, in) * 8;
}
