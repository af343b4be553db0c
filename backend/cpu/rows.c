/* Operators that go row by row or sum: softmax, normalisations, reductions, losses, norms. Invariant: sums over many
 * tasks are added in the order of the tasks. */
#include <string.h>

#include "backend/cpu/split.h"
#include "backend/reference/parts.h"
#include "backend/reference/reference.h"
#include "graph/narrow.h"

enum { LOSS_ROWS = 64 };

static bool last_axis(const Node *node, const Tensor *t) {
  return node_int(node, "axis", 0) == t->shape.rank - 1;
}

static Status softmax_part(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                           void *state) {
  if (in->dtype != F32 || !last_axis(node, in))
    return reference_Softmax.run(stream, node, in, out, workspace, state);
  int64_t n = in->shape.dim[in->shape.rank - 1], elements = shape_elements(in->shape);
  for (int64_t at = 0; at < elements; at += n)
    stream->isa->softmax((const float *)in->data + at, (float *)out->data + at, n);
  return OK;
}

CPU_KERNEL(Softmax, .accepts = takes_floats, .narrow = split_takes_narrow_rows) {
  CPU_UNUSED;
  return split_leading(stream, node, in, out, (int)node_int(node, "axis", 0), softmax_part);
}

/* Axes before the operator's are independent. */
#define SPLIT_ROWS(op_name, takes)                                                                                     \
  CPU_KERNEL(op_name, .accepts = takes, .narrow = split_takes_narrow_rows) {                                           \
    CPU_UNUSED;                                                                                                        \
    return split_leading(stream, node, in, out, (int)node_int(node, "axis", 0), reference_##op_name.run);              \
  }
SPLIT_ROWS(LogSoftmax, takes_floats)
SPLIT_ROWS(SoftmaxGrad, takes_floats)
SPLIT_ROWS(LogSoftmaxGrad, takes_floats)
SPLIT_ROWS(LayerNormalization, takes_floats)
SPLIT_ROWS(LayerNormalizationGradInput, takes_floats)
SPLIT_ROWS(RMSNormalization, takes_floats)
SPLIT_ROWS(RMSNormalizationGradInput, takes_floats)
SPLIT_ROWS(CumSum, takes_numbers)
SPLIT_ROWS(CumProd, takes_numbers)
SPLIT_ROWS(CumProdGrad, takes_floats)

CPU_KERNEL(Rotary, .accepts = takes_floats, .narrow = split_takes_narrow) {
  CPU_UNUSED;
  return split_leading(stream, node, in, out, out->shape.rank - 1, reference_Rotary.run);
}

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

/* Sums of bfloat16 are float32 where anything reads them as they are. */
static bool sums_narrow(const Node *node, const Tensor *in, const Tensor *out) {
  return node->n_in == 1 && in->dtype == BF16 && out->dtype == F32;
}

static Status reduce(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, Kernel *other) {
  if (in->dtype != F32 && in->dtype != F64 && in->dtype != BF16)
    return other(stream, node, in, out, NULL, NULL);
  Rows r = {.node = node, .in = in, .out = out, .n = reduce_blocks(node, in->shape)};
  if (!r.n)
    return OK;
  r.of_task = items_of_task(r.n, shape_elements(in->shape) / r.n);
  return pool_run(stream->pool, (r.n + r.of_task - 1) / r.of_task, reduce_task, &r);
}

CPU_KERNEL(ReduceSum, .accepts = takes_numbers, .narrow = sums_narrow) {
  CPU_UNUSED;
  return reduce(stream, node, in, out, reference_ReduceSum.run);
}

CPU_KERNEL(ReduceMean, .accepts = takes_floats, .narrow = sums_narrow) {
  CPU_UNUSED;
  return reduce(stream, node, in, out, reference_ReduceMean.run);
}

static Status scale_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Rows *r = context;
  scale_gradient_part(r->node, r->in, r->out, i, i + 1);
  return OK;
}

/* Statistics and the gradient stay float32. */
static bool scale_takes_narrow(const Node *node, const Tensor *in, const Tensor *out) {
  bool wide = out->dtype == F32;
  for (int i = 2; i < node->n_in; i++)
    wide &= in[i].dtype != BF16;
  return wide;
}

CPU_KERNEL(LayerNormalizationGradScale, .accepts = takes_floats, .narrow = scale_takes_narrow) {
  CPU_UNUSED;
  if (out->dtype != F32 && out->dtype != F64)
    return unsupported_type(node, in->dtype);
  Rows r = {.node = node, .in = in, .out = out};
  return pool_run(stream->pool, scale_gradient_blocks(out), scale_task, &r);
}

CPU_KERNEL(RMSNormalizationGradScale, .accepts = takes_floats, .narrow = scale_takes_narrow) {
  return run_LayerNormalizationGradScale(stream, node, in, out, workspace, state);
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
  return reference_SquaredNorm.run(NULL, r->node, in, &sum, NULL, NULL);
}

/* The sums lie here: there are never many. */
CPU_KERNEL(SquaredNorm, .accepts = takes_floats) {
  CPU_UNUSED;
  double sums[NORM_TASKS], sum = 0;
  Rows r = {.node = node, .in = in, .n = shape_elements(in->shape), .sums = sums};
  r.of_task = norm_of_task(r.n);
  int64_t tasks = (r.n + r.of_task - 1) / r.of_task;
  TRY(pool_run(stream->pool, tasks, norm_task, &r));
  for (int64_t i = 0; i < tasks; i++)
    sum += sums[i];
  *(double *)out->data = sum;
  return OK;
}

/* Rows of logits whose classes lie side by side. */
static bool fast_classes(const Node *node, const Tensor *in) {
  return (in->dtype == F32 || in->dtype == BF16) && node_int(node, "class_axis", 0) == in->shape.rank - 1;
}

/* Logits and their gradient as they are; what is summed is float32. */
static bool loss_takes_narrow(const Node *node, const Tensor *in, const Tensor *out) {
  int64_t classes = in->shape.rank ? in->shape.dim[in->shape.rank - 1] : 1;
  return node_int(node, "class_axis", 0) == in->shape.rank - 1 && classes * 4 <= POOL_SCRATCH_BYTES &&
         (node->op == OP_CrossEntropy ? out[1].dtype == F32 : in[2].dtype == F32);
}

static Status loss_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  Rows *r = context;
  int64_t classes = r->in->shape.dim[r->in->shape.rank - 1], class;
  bool is_narrow = r->in->dtype == BF16;
  double loss = 0;
  for (int64_t row = i * LOSS_ROWS; row < least((i + 1) * LOSS_ROWS, r->n); row++) {
    const float *x = (const float *)r->in->data + row * classes;
    const uint16_t *narrow = (const uint16_t *)r->in->data + row * classes;
    bool ignored;
    TRY(class_at(r->node, &r->in[1], row, classes, &class, &ignored));
    double lse = !classes ? 0 : is_narrow ? r->isa->bf16.log_sum_exp(narrow, classes) : r->isa->log_sum_exp(x, classes);
    ((float *)r->out[1].data)[row] = (float)lse;
    loss += ignored ? 0 : lse - (double)(is_narrow ? bf16_value(narrow[class]) : x[class]);
  }
  r->sums[i] = loss;
  return OK;
}

/* A number a task. */
static size_t loss_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  return ((size_t)shape_elements(graph_value(graph, node->in[1])->shape) / LOSS_ROWS + 1) * sizeof(double);
}

CPU_KERNEL(CrossEntropy, .accepts = takes_floats, .narrow = loss_takes_narrow, .workspace = loss_workspace) {
  if (!fast_classes(node, in))
    return reference_CrossEntropy.run(stream, node, in, out, workspace, state);
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

/* The slopes of one row, which may lie where its logits do. */
static void find_slopes(const Rows *r, int64_t row, int64_t classes, int64_t class, float scale, void *scratch) {
  const LoopsBf16 *loops = &r->isa->bf16;
  float log_sum = ((const float *)r->in[2].data)[row], at_class;
  bool from_narrow = r->in->dtype == BF16, to_narrow = r->out->dtype == BF16;
  const uint16_t *x = (const uint16_t *)r->in->data + row * classes;
  uint16_t *dx = (uint16_t *)r->out->data + row * classes;
  float *wide_dx = to_narrow ? scratch : (float *)r->out->data + row * classes;
  if (from_narrow && to_narrow) {
    loops->widen(x + class, &at_class, 1);
    loops->scaled_exp(x, log_sum, scale, dx, classes);
    r->isa->scaled_exp(&at_class, log_sum, scale, &at_class, 1);
    at_class -= scale;
    loops->narrow(&at_class, dx + class, 1);
    return;
  }
  const float *wide_x = from_narrow ? wide_dx : (const float *)r->in->data + row * classes;
  if (from_narrow)
    loops->widen(x, wide_dx, classes);
  r->isa->scaled_exp(wide_x, log_sum, scale, wide_dx, classes);
  wide_dx[class] -= scale;
  if (to_narrow)
    loops->narrow(wide_dx, dx, classes);
}

static Status loss_grad_task(void *context, int64_t i, void *scratch) {
  Rows *r = context;
  int64_t classes = r->in->shape.dim[r->in->shape.rank - 1], class;
  float scale = (float)*(const double *)r->in[3].data;
  for (int64_t row = i * r->of_task; row < least((i + 1) * r->of_task, r->n); row++) {
    bool ignored;
    TRY(class_at(r->node, &r->in[1], row, classes, &class, &ignored));
    size_t bytes = dtype_bytes(r->out->dtype) * (size_t)classes;
    if (ignored)
      memset((char *)r->out->data + (size_t)row * bytes, 0, bytes);
    else
      find_slopes(r, row, classes, class, scale, scratch);
  }
  return OK;
}

CPU_KERNEL(CrossEntropyGrad, .accepts = takes_floats, .narrow = loss_takes_narrow) {
  if (!fast_classes(node, in))
    return reference_CrossEntropyGrad.run(stream, node, in, out, workspace, state);
  Rows r = {.node = node, .in = in, .out = out, .isa = stream->isa, .n = shape_elements(in[1].shape)};
  r.of_task = items_of_task(r.n ? r.n : 1, in->shape.dim[in->shape.rank - 1]);
  return pool_run(stream->pool, (r.n + r.of_task - 1) / r.of_task, loss_grad_task, &r);
}
