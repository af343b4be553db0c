/* From nodes to launches: products, reductions, normalisations, losses and updates; and the workspaces that they take.
 */
#include <stdlib.h>

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
  size_t b, blas;
} Room;

static Room room_of(const Node *node, const Tensor *in) {
  Room room = {0};
  if (precision_of(node, in) == PRECISION_BF16) {
    room.b = (size_t)round_up(shape_elements(in[0].shape) * 2, BLAS_ALIGNMENT);
    room.blas = room.b + (size_t)round_up(shape_elements(in[1].shape) * 2, BLAS_ALIGNMENT);
  }
  return room;
}

/* Workspaces begin at multiples of MEMORY_ALIGNMENT. */
enum { ALIGNING = BLAS_ALIGNMENT - MEMORY_ALIGNMENT };

/* The first multiple of BLAS_ALIGNMENT. */
static char *align_workspace(void *workspace) {
  return (char *)(((uintptr_t)workspace + BLAS_ALIGNMENT - 1) / BLAS_ALIGNMENT * BLAS_ALIGNMENT);
}

static bool is_nothing(const Product *p) {
  return !p->k || !p->batches || !p->m || !p->n;
}

/* A and B are inputs `first` and first + 1. Their copies are needed; cuBLASLt does with the budget. */
static size_t product_bytes(const Graph *graph, const Node *node, int first, size_t budget) {
  Tensor in[] = {kernel_input(graph, node, first), kernel_input(graph, node, first + 1)};
  Product p = product_of(node, in);
  BlasProduct row = blas_product(node, in, &p);
  size_t wish = blas_workspace_bytes(&row);
  return is_nothing(&p) ? 0 : room_of(node, in).blas + (wish < budget ? wish : budget) + ALIGNING;
}

/* What is worked out before a product runs. A row is as many `whole` ones as it takes, and the rest. */
typedef struct {
  Product product;
  BlasProduct row;
  Room room;
  BlasPlan *whole, *rest; /* of BLAS_BATCHES batches or of all; NULL where there is none */
} Prepared;

static void product_release(void *state) {
  Prepared *r = state;
  blas_release(r->whole);
  blas_release(r->rest);
  free(r);
}

static Status prepare_part(Stream *stream, const Prepared *r, int64_t batches, size_t room, BlasPlan **plan) {
  BlasProduct part = r->row;
  part.batches = batches;
  size_t wish = blas_workspace_bytes(&part);
  part.workspace_bytes = wish < room ? wish : room;
  return batches ? blas_prepare(stream->blas, &part, plan) : OK;
}

/* in: A and B. */
static Status prepare(Stream *stream, const Node *node, const Tensor *in, bool adds, size_t workspace_bytes,
                      void **state) {
  Prepared *r = calloc(1, sizeof *r);
  if (!r)
    return fail(E_MEMORY, "out of memory");
  r->product = product_of(node, in);
  *state = r;
  r->row.adds = adds;
  if (is_nothing(&r->product))
    return OK;
  r->row = blas_product(node, in, &r->product);
  r->row.adds = adds;
  r->room = room_of(node, in);
  size_t room = workspace_bytes - r->room.blas - ALIGNING;
  Status status = cuda_enter(stream);
  if (status == OK)
    status = prepare_part(stream, r, least(r->row.batches, BLAS_BATCHES), room, &r->whole);
  if (status == OK && r->row.batches > BLAS_BATCHES)
    status = prepare_part(stream, r, r->row.batches % BLAS_BATCHES, room, &r->rest);
  if (status == OK)
    return OK;
  product_release(r);
  *state = NULL;
  return status;
}

static Status product_prepare(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                              size_t workspace_bytes, void **state) {
  (void)out;
  return prepare(stream, node, in, false, workspace_bytes, state);
}

static Status accumulate_prepare(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                                 size_t workspace_bytes, void **state) {
  (void)out;
  return prepare(stream, node, in + 1, !node_int(node, "begins", 0), workspace_bytes, state);
}

static size_t product_workspace(const Graph *graph, const Node *node, size_t budget) {
  return product_bytes(graph, node, 0, budget);
}

static size_t accumulate_workspace(const Graph *graph, const Node *node, size_t budget) {
  return product_bytes(graph, node, 1, budget);
}

#define PRODUCT                                                                                                        \
  .accepts = takes_floats, .workspace = product_workspace, .prepare = product_prepare, .release = product_release

/* Rounds A and B into the workspace. */
static void reduce_operands(Stream *stream, const Tensor *in, const Room *room, char *workspace, const char *at[2]) {
  at[0] = workspace;
  at[1] = workspace + room->b;
  launch_reduce_precision(stream->cuda, shape_elements(in[0].shape), in[0].data, workspace);
  launch_reduce_precision(stream->cuda, shape_elements(in[1].shape), in[1].data, workspace + room->b);
}

/* in: A and B. */
static Status multiply(Stream *stream, const Node *node, const Prepared *r, const Tensor *in, const Tensor *out,
                       void *workspace) {
  TAKES(in->dtype, is_float(in->dtype));
  const Product *p = &r->product;
  int64_t size = (int64_t)dtype_bytes(in->dtype), results = p->batches * p->m * p->n;
  if (!results)
    return OK;
  if (!p->k && r->row.adds)
    return OK;
  if (!p->k)
    return backend_cuda.zero(stream, out->data, (size_t)(results * size));
  int64_t operand = (int64_t)dtype_bytes(r->row.type), batches;
  const char *at[2] = {in[0].data, in[1].data};
  workspace = align_workspace(workspace);
  if (r->row.type == BF16)
    reduce_operands(stream, in, &r->room, workspace, at);
  for (int64_t i = 0; i < p->batches; i += batches) {
    int64_t a, b, left = r->row.batches - i % r->row.batches;
    product_batch(p, i, &a, &b);
    batches = least(left, BLAS_BATCHES);
    const BlasPlan *plan = batches == least(r->row.batches, BLAS_BATCHES) ? r->whole : r->rest;
    if (blas_run(stream->blas, stream->cuda, plan, at[0] + a * p->m * p->k * operand, at[1] + b * p->k * p->n * operand,
                 (char *)out->data + i * p->m * p->n * size, (char *)workspace + r->room.blas) != OK) {
      node_context(node);
      return status_code();
    }
  }
  return cuda_launched(stream, node);
}

KERNEL(MatMul, PRODUCT) {
  return multiply(stream, node, state, in, out, workspace);
}

KERNEL(AccumulateMatMul, .accepts = takes_floats, .workspace = accumulate_workspace, .prepare = accumulate_prepare,
       .release = product_release) {
  (void)out;
  return multiply(stream, node, state, in + 1, in, workspace);
}

KERNEL(Gemm, PRODUCT) {
  TRY(run_MatMul(stream, node, in, out, workspace, state));
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
  KERNEL(op_name, .accepts = takes, .workspace = reduce_workspace) {                                                   \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, ok(in->dtype));                                                                                   \
    Fold f = fold_of(node, in->shape);                                                                                 \
    launch_reduce(stream->cuda, reduction, in->dtype, &f.kept, &f.reduced, f.along, in->data, out->data, workspace);   \
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
  KERNEL(op_name, .accepts = takes_floats) {                                                                           \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_float(in->dtype));                                                                             \
    launch_softmax(stream->cuda, is_log, in->dtype, lines_at(node, "axis", out->shape), in->data, out->data);          \
    return cuda_launched(stream, node);                                                                                \
  }
SOFTMAX(Softmax, false)
SOFTMAX(LogSoftmax, true)

#define SOFTMAX_GRAD(op_name, is_log)                                                                                  \
  KERNEL(op_name, .accepts = takes_floats) {                                                                           \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_float(in->dtype));                                                                             \
    launch_softmax_grad(stream->cuda, is_log, in->dtype, lines_at(node, "axis", out->shape), in[0].data, in[1].data,   \
                        out->data);                                                                                    \
    return cuda_launched(stream, node);                                                                                \
  }
SOFTMAX_GRAD(SoftmaxGrad, false)
SOFTMAX_GRAD(LogSoftmaxGrad, true)

KERNEL(LayerNormalization, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Split3 s = split_from(in->shape, (int)node_int(node, "axis", 0));
  launch_norm(stream->cuda, in->dtype, s.outer, s.size, node_float(node, "epsilon", 1e-5), in[0].data, in[1].data,
              node->n_in > 2 ? in[2].data : NULL, out[0].data, out[1].data, out[2].data);
  return cuda_launched(stream, node);
}

KERNEL(RMSNormalization, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Split3 s = split_from(in->shape, (int)node_int(node, "axis", 0));
  launch_norm(stream->cuda, in->dtype, s.outer, s.size, node_float(node, "epsilon", 1e-5), in[0].data, in[1].data, NULL,
              out[0].data, NULL, out[1].data);
  return cuda_launched(stream, node);
}

/* dX of a row. LayerNormalization: dY, X, scale, mean, inv; RMSNormalization: no mean. */
static Status norm_grad_input(Stream *stream, const Node *node, const Tensor *in, const void *mean, const void *inv,
                              const Tensor *out) {
  TAKES(in->dtype, is_float(in->dtype));
  Split3 s = split_from(out->shape, (int)node_int(node, "axis", 0));
  launch_norm_grad(stream->cuda, in->dtype, s.outer, s.size, in[0].data, in[1].data, in[2].data, mean, inv, out->data);
  return cuda_launched(stream, node);
}

KERNEL(LayerNormalizationGradInput, .accepts = takes_floats) {
  UNUSED;
  return norm_grad_input(stream, node, in, in[3].data, in[4].data, out);
}

KERNEL(RMSNormalizationGradInput, .accepts = takes_floats) {
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
  TAKES(in->dtype, is_float(in->dtype));
  Split3 s = split_from(in[1].shape, (int)node_int(node, "axis", 0));
  launch_scale_grad(stream->cuda, in->dtype, s.outer, s.size, in[0].data, in[1].data, mean, inv, out->data, workspace);
  return cuda_launched(stream, node);
}

KERNEL(LayerNormalizationGradScale, .accepts = takes_floats, .workspace = norm_grad_scale_workspace) {
  UNUSED;
  return norm_grad_scale(stream, node, in, in[2].data, in[3].data, out, workspace);
}

KERNEL(RMSNormalizationGradScale, .accepts = takes_floats, .workspace = norm_grad_scale_workspace) {
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

KERNEL(CrossEntropy, .accepts = takes_floats, .workspace = cross_entropy_workspace) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Classes classes = classes_of(node, in);
  int64_t positions = classes.lines.outer * classes.lines.inner;
  double *losses = workspace;
  launch_cross_entropy(stream->cuda, in->dtype, &classes, cuda_reporter(stream, node), in[0].data, in[1].data,
                       out[1].data, losses);
  launch_sum(stream->cuda, positions, losses, out[0].data, losses + positions);
  return cuda_launched(stream, node);
}

KERNEL(CrossEntropyGrad, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Classes classes = classes_of(node, in);
  launch_cross_entropy_grad(stream->cuda, in->dtype, &classes, cuda_reporter(stream, node), in[0].data, in[1].data,
                            in[2].data, in[3].data, out->data);
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
  KERNEL(op_name, .accepts = takes_floats, .workspace = sum_workspace) {                                               \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_float(in->dtype));                                                                             \
    launch_loss(stream->cuda, loss, in->dtype, shape_elements(in->shape), in[0].data, in[1].data, out->data,           \
                workspace);                                                                                            \
    return cuda_launched(stream, node);                                                                                \
  }                                                                                                                    \
  KERNEL(op_name##Grad, .accepts = takes_floats) {                                                                     \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_float(in->dtype));                                                                             \
    launch_loss_grad(stream->cuda, loss, in->dtype, shape_elements(out->shape), in[0].data, in[1].data, in[2].data,    \
                     out->data);                                                                                       \
    return cuda_launched(stream, node);                                                                                \
  }
PAIRED_LOSS(MeanSquaredError, LOSS_SQUARES)
PAIRED_LOSS(BinaryCrossEntropy, LOSS_LOGITS)

KERNEL(Accumulate, .accepts = takes_floats) {
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

KERNEL(SquaredNorm, .accepts = takes_floats, .workspace = sum_workspace) {
  UNUSED;
  const void *groups[MOST_GROUPS];
  TAKES(in->dtype, is_float(in->dtype));
  TRY(take_groups(node, in, node->n_in, groups));
  launch_squared_norm(stream->cuda, in->dtype, shape_elements(in->shape), node->n_in, groups, out->data, workspace);
  return cuda_launched(stream, node);
}

typedef void Launch(cudaStream_t s, DType type, int64_t n, const UpdateWork *work);

static Status update(Stream *stream, const Node *node, const Tensor *in, Launch *launch) {
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
  launch(stream->cuda, in->dtype, shape_elements(in->shape), &work);
  return cuda_launched(stream, node);
}

KERNEL(SgdUpdate, .accepts = takes_floats) {
  UNUSED;
  return update(stream, node, in, launch_sgd);
}

KERNEL(AdamUpdate, .accepts = takes_floats) {
  UNUSED;
  return update(stream, node, in, launch_adam);
}
