#include "backend/head.h"

#include <stdlib.h>

#include "backend/reference/parts.h"
#include "backend/reference/reference.h"
#include "graph/memory.h"
#include "graph/narrow.h"

/* Of the node. */
enum { ACCUMULATOR, X, W, TARGET, SCALE, BIAS };
enum { D_X, LOSS, D_BIAS };

enum {
  MOST_OPERANDS = 6,
  DEVICE_PARTS = 8,    /* so many times the node's rows keep a device busy */
  DEVICE_MULTIPLE = 64 /* and their operands begin where whole ones do */
};

/* One operator on some rows, with a graph of its own: its inputs and its outputs, in their order. */
typedef struct {
  Graph graph;
  Node node;
  Value value[MOST_OPERANDS], *values[MOST_OPERANDS];
  ValueId ids[MOST_OPERANDS];
  Attr attrs[3];
  Tensor operand[MOST_OPERANDS];
  NodeKernel kernel; /* prepared */
  size_t workspace_bytes;
} Step;

typedef enum { LOGITS, LOSSES, LOSS_ADD, SLOPES, TOWARDS_X, TOWARDS_W, BIAS_SUM, BIAS_ADD, STEPS } StepKind;

/* Offsets in the workspace. */
typedef struct {
  size_t logits, log_sum_exp, loss, bias, w, step, end;
} Places;

typedef struct {
  const Backend *backend;
  int64_t n, d, v, rows; /* X [n,d], W [d,v] or [v,d]; rows at a time */
  bool transposed;       /* W is [v,d] */
  bool biased;
  bool keeps_w;        /* as it was rounded before */
  bool rounds_w;       /* once, for the products of all rows */
  DType logits;        /* their type */
  Step step[2][STEPS]; /* of `rows`, and of those that are left */
} Head;

static Tensor tensor_of(DType dtype, int rank, const int64_t *dim) {
  return (Tensor){.dtype = dtype, .shape = shape_of(rank, dim)};
}

/* Sets up an operator on tensors of these types and shapes, for good: it points into itself. */
static void set(const Backend *backend, Step *s, OpKind op, const Node *of, const Attr *attrs, int n_attrs,
                const Tensor *operands, int n_in, int n_out) {
  s->node = (Node){.op = op,
                   .name = of->name,
                   .precision = of->precision,
                   .in = s->ids,
                   .out = s->ids + n_in,
                   .n_in = n_in,
                   .n_out = n_out,
                   .attrs = s->attrs,
                   .n_attrs = n_attrs};
  for (int i = 0; i < n_attrs; i++)
    s->attrs[i] = attrs[i];
  for (int i = 0; i < n_in + n_out; i++) {
    s->operand[i] = operands[i];
    s->ids[i] = (ValueId)i;
    s->values[i] = &s->value[i];
    s->value[i] = (Value){.dtype = operands[i].dtype, .shape = operands[i].shape, .producer = NO_NODE};
  }
  s->graph = (Graph){.values = s->values, .n_values = (size_t)(n_in + n_out)};
  s->workspace_bytes = backend_workspace_bytes(backend, &s->graph, &s->node);
}

/* What is done with m rows, in order. */
static void set_steps(const Head *h, const Node *node, const Tensor *in, DType d_x_type, int64_t m, Step step[STEPS]) {
  static const int64_t rows_axis[] = {0};
  DType statistics = dtype_computed(h->logits);
  const Backend *backend = h->backend;
  bool t = h->transposed;
  Tensor x = tensor_of(in[X].dtype, 2, (int64_t[]){m, h->d}), w = in[W], target = tensor_of(in[TARGET].dtype, 1, &m);
  Tensor logits = tensor_of(h->logits, 2, (int64_t[]){m, h->v}), lse = tensor_of(statistics, 1, &m);
  Tensor d_x = tensor_of(d_x_type, 2, (int64_t[]){m, h->d}), loss = tensor_of(F64, 0, NULL);
  Tensor bias = tensor_of(statistics, 1, &h->v);
  w.dtype = h->rounds_w || h->keeps_w ? BF16 : w.dtype;
  w.rounded = NULL;
  Attr as_w = attr_int("transB", t), as_x = attr_int("transB", !t);
  Attr classes[] = {attr_int("class_axis", 1), attr_int("ignore_index", node_int(node, "ignore_index", -100))};
  Attr sums[] = {attr_int("transA", 1), attr_int("begins", 0)};
  Attr over_rows[] = {attr_ints("axes", rows_axis, 1), attr_int("keepdims", 0)};
  set(backend, &step[LOGITS], h->biased ? OP_Gemm : OP_MatMul, node, &as_w, 1,
      h->biased ? (Tensor[]){x, w, bias, logits} : (Tensor[]){x, w, logits}, 2 + h->biased, 1);
  set(backend, &step[LOSSES], OP_CrossEntropy, node, classes, 2, (Tensor[]){logits, target, loss, lse}, 2, 2);
  set(backend, &step[LOSS_ADD], OP_Accumulate, node, NULL, 0, (Tensor[]){loss, loss}, 2, 0);
  set(backend, &step[SLOPES], OP_CrossEntropyGrad, node, classes, 2, (Tensor[]){logits, target, lse, in[SCALE], logits},
      4, 1);
  set(backend, &step[TOWARDS_X], OP_MatMul, node, &as_x, 1, (Tensor[]){logits, w, d_x}, 2, 1);
  set(backend, &step[TOWARDS_W], OP_AccumulateMatMul, node, sums, 2,
      t ? (Tensor[]){in[ACCUMULATOR], logits, x} : (Tensor[]){in[ACCUMULATOR], x, logits}, 3, 0);
  if (!h->biased)
    return;
  set(backend, &step[BIAS_SUM], OP_ReduceSum, node, over_rows, 2, (Tensor[]){logits, bias}, 1, 1);
  set(backend, &step[BIAS_ADD], OP_Accumulate, node, NULL, 0, (Tensor[]){bias, bias}, 2, 0);
}

static int steps_of(const Head *h) {
  return h->biased ? STEPS : BIAS_SUM;
}

/* A device's own bits depend on its library, so it may take more rows than the node says. */
static int64_t rows_of(const Backend *backend, const Node *node) {
  int64_t rows = node_int(node, "rows", 1);
  return backend->is_host ? rows : round_up(DEVICE_PARTS * rows, DEVICE_MULTIPLE);
}

static void measure(const Backend *backend, const Node *node, const Tensor *in, bool keeps_w, Head *h) {
  h->backend = backend;
  h->keeps_w = keeps_w;
  h->transposed = node_int(node, "transB", 0);
  h->d = in[W].shape.dim[h->transposed];
  h->v = in[W].shape.dim[!h->transposed];
  h->n = shape_elements(in[TARGET].shape);
  h->rows = least(rows_of(backend, node), h->n);
  h->biased = node->n_in > BIAS;
  h->logits = in[X].dtype != F64 && node_int(node, "narrow", 0) ? BF16 : in[X].dtype;
  h->rounds_w = !backend->is_host && !keeps_w && h->logits == BF16 && in[X].dtype == BF16 && in[W].dtype == F32;
}

static size_t left_of(const Head *h) {
  return h->rows ? (size_t)(h->n % h->rows) : 0;
}

static Places lay_out(const Head *h) {
  Places p = {0};
  size_t statistic = dtype_bytes(dtype_computed(h->logits)), rows = (size_t)h->rows, v = (size_t)h->v;
  p.log_sum_exp = memory_units(rows * v * dtype_bytes(h->logits));
  p.loss = p.log_sum_exp + memory_units(rows * statistic);
  p.bias = p.loss + memory_units(sizeof(double));
  p.w = p.bias + (h->biased ? memory_units(v * statistic) : 0);
  p.step = p.end = p.w + (h->rounds_w ? memory_units(v * (size_t)h->d * dtype_bytes(BF16)) : 0);
  for (int left = 0; left < 2; left++)
    for (int i = 0; i < steps_of(h); i++)
      if (p.step + h->step[left][i].workspace_bytes > p.end)
        p.end = p.step + h->step[left][i].workspace_bytes;
  return p;
}

static void set_all(const Backend *backend, const Node *node, const Tensor *in, bool keeps_w, DType d_x, Head *h) {
  measure(backend, node, in, keeps_w, h);
  if (h->rows)
    set_steps(h, node, in, d_x, h->rows, h->step[0]);
  if (left_of(h))
    set_steps(h, node, in, d_x, (int64_t)left_of(h), h->step[1]);
}

/* Whichever type dX has: who asks may have no outputs. */
size_t head_workspace(const Backend *backend, const Graph *graph, const Node *node) {
  Tensor in[BIAS + 1] = {{0}};
  Head h = {0};
  for (int i = 0; i < node->n_in; i++)
    in[i] = kernel_input(graph, node, i);
  const Value *w = graph_value(graph, node->in[W]); /* a view may come from another stage */
  bool keeps_w = backend->keeps_rounded && w->rounded_on && w->producer == NO_NODE;
  set_all(backend, node, in, keeps_w, dtype_computed(in[X].dtype), &h);
  size_t wide = lay_out(&h).end;
  if (h.logits != BF16)
    return wide;
  set_all(backend, node, in, keeps_w, BF16, &h);
  size_t narrow = lay_out(&h).end;
  return wide > narrow ? wide : narrow;
}

void head_release(void *state) {
  Head *h = state;
  for (int left = 0; left < 2; left++)
    for (int i = 0; i < STEPS; i++)
      backend_forget(&h->step[left][i].kernel);
  free(h);
}

Status head_prepare(const Backend *backend, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                    void **state) {
  Head *h = calloc(1, sizeof *h);
  Status status = OK;
  if (!h)
    return fail(E_MEMORY, "out of memory");
  set_all(backend, node, in, backend->keeps_rounded && in[W].rounded, out[D_X].dtype, h);
  for (int left = 0; left < 2; left++)
    for (int i = 0; i < steps_of(h) && status == OK; i++) {
      Step *s = &h->step[left][i];
      if (s->graph.n_values)
        status = backend_prepare(backend, stream, &s->node, s->operand, s->operand + s->node.n_in, s->workspace_bytes,
                                 &s->kernel);
    }
  if (status != OK)
    head_release(h);
  else
    *state = h;
  return status;
}

bool head_takes_narrow(const Node *node, const Tensor *in, const Tensor *out) {
  return node_int(node, "narrow", 0) && (node->n_in <= BIAS || (in[BIAS].dtype == F32 && out[D_BIAS].dtype == F32));
}

static void *at(const Tensor *t, int64_t element) {
  return (char *)t->data + (size_t)element * dtype_bytes(t->dtype);
}

/* One step on these operands, in their order. */
static Status run(Stream *stream, Step *s, void *const *data, void *workspace) {
  for (int i = 0; i < s->node.n_in + s->node.n_out; i++)
    s->operand[i].data = data[i];
  return s->kernel.run(stream, &s->node, s->operand, s->operand + s->node.n_in, workspace, s->kernel.state);
}

/* Rows from `row` on. */
static Status run_rows(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, char *workspace, Head *h,
                       int64_t row) {
  Places p = lay_out(h);
  Step *step = h->step[h->n - row < h->rows];
  void *logits = workspace, *lse = workspace + p.log_sum_exp, *work = workspace + p.step;
  void *loss = row ? workspace + p.loss : out[LOSS].data;
  void *w = h->keeps_w ? in[W].rounded : h->rounds_w ? workspace + p.w : in[W].data;
  void *x = at(&in[X], row * h->d), *target = at(&in[TARGET], row), *sum = in[ACCUMULATOR].data;
  void *bias = workspace + p.bias;
  step[TOWARDS_W].attrs[1].i = row == 0 && node_int(node, "begins", 0);
  TRY(run(stream, &step[LOGITS], h->biased ? (void *[]){x, w, in[BIAS].data, logits} : (void *[]){x, w, logits}, work));
  TRY(run(stream, &step[LOSSES], (void *[]){logits, target, loss, lse}, work));
  if (row)
    TRY(run(stream, &step[LOSS_ADD], (void *[]){out[LOSS].data, loss}, work));
  TRY(run(stream, &step[SLOPES], (void *[]){logits, target, lse, in[SCALE].data, logits}, work));
  TRY(run(stream, &step[TOWARDS_X], (void *[]){logits, w, at(&out[D_X], row * h->d)}, work));
  TRY(run(stream, &step[TOWARDS_W], h->transposed ? (void *[]){sum, logits, x} : (void *[]){sum, x, logits}, work));
  if (!h->biased)
    return OK;
  TRY(run(stream, &step[BIAS_SUM], (void *[]){logits, row ? bias : out[D_BIAS].data}, work));
  return row ? run(stream, &step[BIAS_ADD], (void *[]){out[D_BIAS].data, bias}, work) : OK;
}

static Status zero(Stream *stream, const Head *h, const Tensor *t) {
  return h->backend->zero(stream, t->data, (size_t)shape_elements(t->shape) * dtype_bytes(t->dtype));
}

/* A microbatch of no rows. */
static Status run_nothing(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, const Head *h) {
  TRY(zero(stream, h, &out[LOSS]));
  if (node_int(node, "begins", 0))
    TRY(zero(stream, h, &in[ACCUMULATOR]));
  return h->biased ? zero(stream, h, &out[D_BIAS]) : OK;
}

static Status run_all(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, char *workspace, Head *h) {
  int64_t class;
  bool ignored;
  for (int64_t i = 0; i < h->n && h->backend->is_host; i++) /* told by its place among all of them */
    TRY(class_at(node, &in[TARGET], i, h->v, &class, &ignored));
  if (h->n == 0)
    return run_nothing(stream, node, in, out, h);
  if (h->rounds_w)
    TRY(h->backend->convert(stream, workspace + lay_out(h).w, BF16, in[W].data, F32, h->v * h->d));
  for (int64_t row = 0; row < h->n; row += h->rows)
    TRY(run_rows(stream, node, in, out, workspace, h, row));
  return OK;
}

Status head_run(const Backend *backend, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                void *workspace, void *state) {
  if (in[ACCUMULATOR].dtype != F32 && in[ACCUMULATOR].dtype != F64)
    return unsupported_type(node, in[ACCUMULATOR].dtype);
  if (state)
    return run_all(stream, node, in, out, workspace, state);
  TRY(head_prepare(backend, stream, node, in, out, &state));
  Status status = run_all(stream, node, in, out, workspace, state);
  head_release(state);
  return status;
}
