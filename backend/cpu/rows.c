/* Operators that go row by row or sum: softmax, normalisations, reductions, losses, norms. Invariant: sums over many
 * tasks are added in the order of the tasks. */
#include <string.h>

#include "backend/cpu/split.h"
#include "backend/reference/parts.h"
#include "backend/reference/reference.h"

enum { NORM_RUN = 65536, NORM_TASKS = 1024, LOSS_ROWS = 64 };

static bool last_axis(const Node *node, const Tensor *t) {
  return node_int(node, "axis", 0) == t->shape.rank - 1;
}

static Status softmax_part(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace) {
  if (in->dtype != F32 || !last_axis(node, in))
    return reference_Softmax(stream, node, in, out, workspace);
  int64_t n = in->shape.dim[in->shape.rank - 1], elements = shape_elements(in->shape);
  for (int64_t at = 0; at < elements; at += n)
    stream->isa->softmax((const float *)in->data + at, (float *)out->data + at, n);
  return OK;
}

CPU_KERNEL(Softmax) {
  (void)workspace;
  return split_leading(stream, node, in, out, (int)node_int(node, "axis", 0), softmax_part);
}

/* Axes before the operator's are independent. */
#define SPLIT_ROWS(op_name)                                                                                            \
  CPU_KERNEL(op_name) {                                                                                                \
    (void)workspace;                                                                                                   \
    return split_leading(stream, node, in, out, (int)node_int(node, "axis", 0), reference_##op_name);                  \
  }
SPLIT_ROWS(LogSoftmax)
SPLIT_ROWS(SoftmaxGrad)
SPLIT_ROWS(LogSoftmaxGrad)
SPLIT_ROWS(LayerNormalization)
SPLIT_ROWS(LayerNormalizationGradInput)
SPLIT_ROWS(RMSNormalization)
SPLIT_ROWS(RMSNormalizationGradInput)
SPLIT_ROWS(CumSum)

typedef struct {
  const Node *node;
  const Tensor *in, *out;
  const Isa *isa;
  int64_t n, of_task;
  double *sums;
} Rows;

static Status reduce_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Rows *r = context;
  reduce_part(r->node, r->in, r->out, i * r->of_task, least((i + 1) * r->of_task, r->n));
  return OK;
}

static Status reduce(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, Kernel *other) {
  if (in->dtype != F32 && in->dtype != F64)
    return other(stream, node, in, out, NULL);
  Rows r = {.node = node, .in = in, .out = out, .n = reduce_blocks(node, in->shape)};
  if (!r.n)
    return OK;
  r.of_task = items_of_task(r.n, shape_elements(in->shape) / r.n);
  return pool_run(stream->pool, (r.n + r.of_task - 1) / r.of_task, reduce_task, &r);
}

CPU_KERNEL(ReduceSum) {
  (void)workspace;
  return reduce(stream, node, in, out, reference_ReduceSum);
}

CPU_KERNEL(ReduceMean) {
  (void)workspace;
  return reduce(stream, node, in, out, reference_ReduceMean);
}

static Status scale_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Rows *r = context;
  scale_gradient_part(r->node, r->in, r->out, i, i + 1);
  return OK;
}

CPU_KERNEL(LayerNormalizationGradScale) {
  (void)workspace;
  if (in->dtype != F32 && in->dtype != F64)
    return unsupported_type(node, in->dtype);
  Rows r = {.node = node, .in = in, .out = out};
  return pool_run(stream->pool, scale_gradient_blocks(out), scale_task, &r);
}

CPU_KERNEL(RMSNormalizationGradScale) {
  return cpu_LayerNormalizationGradScale(stream, node, in, out, workspace);
}

static Status norm_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Rows *r = context;
  Tensor in[8], sum = {.dtype = F64, .data = &r->sums[i]};
  int64_t at = i * r->of_task, n = least(r->n - at, r->of_task);
  for (int k = 0; k < r->node->n_in; k++)
    in[k] = (Tensor){.dtype = r->in[k].dtype,
                     .shape = shape_of(1, &n),
                     .data = (char *)r->in[k].data + (size_t)at * dtype_bytes(r->in[k].dtype)};
  return reference_SquaredNorm(NULL, r->node, in, &sum, NULL);
}

/* The sums lie here: there are never many. */
CPU_KERNEL(SquaredNorm) {
  (void)workspace;
  double sums[NORM_TASKS], sum = 0;
  Rows r = {.node = node, .in = in, .n = shape_elements(in->shape), .sums = sums};
  r.of_task = r.n / NORM_TASKS < NORM_RUN ? NORM_RUN : r.n / NORM_TASKS + 1;
  int64_t tasks = (r.n + r.of_task - 1) / r.of_task;
  TRY(pool_run(stream->pool, tasks, norm_task, &r));
  for (int64_t i = 0; i < tasks; i++)
    sum += sums[i];
  *(double *)out->data = sum;
  return OK;
}

/* Rows of logits whose classes lie side by side. */
static bool fast_classes(const Node *node, const Tensor *in) {
  return in->dtype == F32 && node_int(node, "class_axis", 0) == in->shape.rank - 1;
}

static Status loss_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  Rows *r = context;
  int64_t classes = r->in->shape.dim[r->in->shape.rank - 1], class;
  double loss = 0;
  for (int64_t row = i * LOSS_ROWS; row < least((i + 1) * LOSS_ROWS, r->n); row++) {
    const float *x = (const float *)r->in->data + row * classes;
    bool ignored;
    TRY(class_at(r->node, &r->in[1], row, classes, &class, &ignored));
    double lse = classes ? r->isa->log_sum_exp(x, classes) : 0;
    ((float *)r->out[1].data)[row] = (float)lse;
    loss += ignored ? 0 : lse - (double)x[class];
  }
  r->sums[i] = loss;
  return OK;
}

CPU_KERNEL(CrossEntropy) {
  if (!fast_classes(node, in))
    return reference_CrossEntropy(stream, node, in, out, workspace);
  Rows r = {
      .node = node, .in = in, .out = out, .isa = stream->isa, .n = shape_elements(in[1].shape), .sums = workspace};
  int64_t tasks = (r.n + LOSS_ROWS - 1) / LOSS_ROWS;
  double loss = 0;
  TRY(pool_run(stream->pool, tasks, loss_task, &r));
  for (int64_t i = 0; i < tasks; i++)
    loss += r.sums[i];
  *(double *)out->data = loss;
  return OK;
}

static Status loss_grad_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  Rows *r = context;
  int64_t classes = r->in->shape.dim[r->in->shape.rank - 1], class;
  float scale = (float)*(const double *)r->in[3].data;
  for (int64_t row = i * r->of_task; row < least((i + 1) * r->of_task, r->n); row++) {
    const float *x = (const float *)r->in->data + row * classes;
    float *dx = (float *)r->out->data + row * classes;
    bool ignored;
    TRY(class_at(r->node, &r->in[1], row, classes, &class, &ignored));
    if (ignored) {
      memset(dx, 0, (size_t)classes * sizeof *dx);
      continue;
    }
    r->isa->scaled_exp(x, ((const float *)r->in[2].data)[row], scale, dx, classes);
    dx[class] -= scale;
  }
  return OK;
}

CPU_KERNEL(CrossEntropyGrad) {
  if (!fast_classes(node, in))
    return reference_CrossEntropyGrad(stream, node, in, out, workspace);
  Rows r = {.node = node, .in = in, .out = out, .isa = stream->isa, .n = shape_elements(in[1].shape)};
  r.of_task = items_of_task(r.n ? r.n : 1, in->shape.dim[in->shape.rank - 1]);
  return pool_run(stream->pool, (r.n + r.of_task - 1) / r.of_task, loss_grad_task, &r);
}

size_t rows_workspace_bytes(const Graph *graph, const Node *node) {
  if (node->op == OP_CrossEntropy)
    return ((size_t)shape_elements(graph_value(graph, node->in[1])->shape) / LOSS_ROWS + 1) * sizeof(double);
  return 0;
}
