/* Runs kernels on copies, which the backend makes: bfloat16 operands become float32, float32 results are rounded. What
 * is elementwise runs on blocks, everything else on whole operands. Invariant: blocks follow from shapes alone. */
#include "backend/wide.h"

#include <stdlib.h>

#include "backend/reference/reference.h"
#include "graph/memory.h"
#include "graph/op.h"

enum {
  HOST_BLOCK = 1 << 16,   /* elements of a result: what caches hold */
  DEVICE_BLOCK = 1 << 22, /* what keeps a device busy */
  MOST = 16               /* operands, and results, that a kernel is asked about: those behind them are as these */
};

/* A node's operands and results, n_in + n_out of them, and how they are copied. */
typedef struct {
  const Backend *backend;
  int64_t block; /* elements of a result */
  int n_in, n_out;
  bool whole;             /* else in blocks */
  bool rounds;            /* float32 operands first and first + 1 become bfloat16 numbers, too */
  int first;              /* of the two that are multiplied */
  Tensor *tensors;        /* as the kernel gets them */
  size_t *offset;         /* in the workspace; SIZE_MAX: it is no copy */
  size_t kernel_offset;   /* of the kernel's own workspace */
  size_t workspace_bytes; /* all together */
  NodeKernel inner;
} Wide;

static bool is_narrow(const Tensor *t) {
  return t->dtype == BF16;
}

/* Whether the kernel sees the operands as they are. */
static bool takes(const KernelDef *kernel, const Node *node, const Tensor *in, const Tensor *out) {
  int narrow = 0, wide = 0;
  for (int i = 0; i < node->n_in; i++) {
    narrow += in[i].dtype == BF16;
    wide += in[i].dtype == F32;
  }
  for (int i = 0; i < node->n_out; i++) {
    narrow += out[i].dtype == BF16;
    wide += out[i].dtype == F32;
  }
  bool moves = op_def(node->op)->traits & OP_ANY_TYPE && node->op != OP_BitCast && (!wide || node->op == OP_Cast);
  return !narrow || moves || (kernel->narrow && kernel->narrow(node, in, out));
}

/* A node by itself. */
typedef struct {
  Node node;
  Graph graph;
  Value value[2 * MOST], *values[2 * MOST];
  ValueId ids[2 * MOST];
  Tensor in[MOST], out[MOST];
} Alone;

static void set_apart(const Graph *graph, const Node *node, Alone *a) {
  int n_in = node->n_in < MOST ? node->n_in : MOST, n_out = node->n_out < MOST ? node->n_out : MOST;
  a->node = *node;
  a->node.n_in = n_in;
  a->node.n_out = n_out;
  a->node.in = a->ids;
  a->node.out = a->ids + n_in;
  for (int i = 0; i < n_in + n_out; i++) {
    ValueId v = i < n_in ? node->in[i] : node->out[i - n_in];
    Tensor *t = i < n_in ? &a->in[i] : &a->out[i - n_in];
    *t = (Tensor){0};
    a->ids[i] = v == NO_VALUE ? NO_VALUE : (ValueId)i;
    a->values[i] = &a->value[i];
    if (v == NO_VALUE)
      continue;
    a->value[i] = *graph_value(graph, v);
    *t = (Tensor){.dtype = a->value[i].dtype, .shape = a->value[i].shape};
  }
  a->graph = (Graph){.values = a->values, .n_values = (size_t)(n_in + n_out)};
}

/* As if everything were float32. */
static void widen(Alone *a) {
  for (size_t i = 0; i < a->graph.n_values; i++)
    if (a->ids[i] != NO_VALUE && a->value[i].dtype == BF16)
      a->value[i].dtype = F32;
}

static bool has_narrow(const Graph *graph, const Node *node) {
  for (int i = 0; i < node->n_in; i++)
    if (node->in[i] != NO_VALUE && graph_value(graph, node->in[i])->dtype == BF16)
      return true;
  for (int i = 0; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE && graph_value(graph, node->out[i])->dtype == BF16)
      return true;
  return false;
}

/* Whether it writes what lies in bfloat16: accumulators and what updates write are float32. */
static bool writes_narrow(const Node *node, const Tensor *in) {
  unsigned traits = op_def(node->op)->traits;
  bool writes = traits & OP_MUTATES_FIRST && is_narrow(&in[0]);
  for (int i = 0; i < node->n_in && traits & OP_UPDATE; i++)
    writes |= is_narrow(&in[i]);
  return writes;
}

bool wide_accepts(const Backend *backend, const Graph *graph, const Node *node) {
  const KernelDef *kernel = backend->kernels[node->op];
  Alone alone;
  if (!has_narrow(graph, node))
    return kernel->accepts(graph, node);
  set_apart(graph, node, &alone);
  if (writes_narrow(&alone.node, alone.in) || (!takes(kernel, &alone.node, alone.in, alone.out) && !backend->convert))
    return false;
  if (!(op_def(node->op)->traits & OP_ANY_TYPE))
    widen(&alone);
  return kernel->accepts(&alone.graph, &alone.node);
}

bool wide_copies(const Backend *backend, const Graph *graph, const Node *node) {
  Alone alone;
  if (!has_narrow(graph, node))
    return false;
  set_apart(graph, node, &alone);
  return !takes(backend->kernels[node->op], &alone.node, alone.in, alone.out);
}

static bool is_elementwise(const KernelDef *kernel, const Node *node) {
  return op_def(node->op)->traits & OP_ELEMENTWISE && node->n_out == 1 && !kernel->workspace && !kernel->prepare;
}

static bool is_rounded(const Wide *w, const Tensor *t, int i) {
  return w->rounds && t->dtype == F32 && (i == w->first || i == w->first + 1);
}

/* Lays out the copies of these operands. own: the kernel's workspace. tensors, offset: NULL where they are not wanted.
 */
static void lay_out(Wide *w, const Node *node, const Tensor *in, const Tensor *out, size_t own) {
  unsigned traits = op_def(node->op)->traits;
  w->n_in = node->n_in;
  w->n_out = node->n_out;
  w->whole = !is_elementwise(w->backend->kernels[node->op], node);
  w->block = w->backend->is_host ? HOST_BLOCK : DEVICE_BLOCK;
  w->first = traits & OP_MUTATES_FIRST ? 1 : 0;
  w->rounds = traits & OP_PRODUCT && (is_narrow(&in[w->first]) || is_narrow(&in[w->first + 1]));
  size_t at = 0;
  for (int i = 0; i < w->n_in + w->n_out; i++) {
    const Tensor *t = i < w->n_in ? &in[i] : &out[i - w->n_in];
    bool copied = is_narrow(t) || (i < w->n_in && is_rounded(w, t, i));
    int64_t elements = !copied ? 0 : w->whole ? shape_elements(t->shape) : least(shape_elements(t->shape), w->block);
    if (w->tensors) {
      w->tensors[i] = *t;
      w->tensors[i].dtype = is_narrow(t) ? F32 : t->dtype;
      w->offset[i] = copied ? at : SIZE_MAX;
    }
    at += memory_units((size_t)elements * sizeof(float));
  }
  w->kernel_offset = at;
  w->workspace_bytes = at + own;
}

size_t wide_workspace(const Backend *backend, const Graph *graph, const Node *node, size_t budget) {
  const KernelDef *kernel = backend->kernels[node->op];
  Alone alone;
  Wide w = {.backend = backend};
  if (!has_narrow(graph, node))
    return kernel->workspace ? kernel->workspace(graph, node, budget) : 0;
  set_apart(graph, node, &alone);
  if (takes(kernel, &alone.node, alone.in, alone.out))
    return kernel->workspace ? kernel->workspace(graph, node, budget) : 0;
  widen(&alone);
  lay_out(&w, &alone.node, alone.in, alone.out,
          kernel->workspace ? kernel->workspace(&alone.graph, &alone.node, budget) : 0);
  for (int i = MOST; i < node->n_in; i++) /* what was not asked about is copied, too */
    if (node->in[i] != NO_VALUE && graph_value(graph, node->in[i])->dtype == BF16)
      w.workspace_bytes += memory_units(2 * graph_value_bytes(graph, node->in[i]));
  for (int i = MOST; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE && graph_value(graph, node->out[i])->dtype == BF16)
      w.workspace_bytes += memory_units(2 * graph_value_bytes(graph, node->out[i]));
  return w.workspace_bytes;
}

/* As float32; what is float32 already, rounded. */
static Status read_operand(const Wide *w, Stream *stream, const Tensor *from, void *to) {
  return w->backend->convert(stream, to, F32, from->data, from->dtype, shape_elements(from->shape));
}

static Status write_result(const Wide *w, Stream *stream, const void *from, void *to, int64_t n) {
  return w->backend->convert(stream, to, BF16, from, F32, n);
}

static Status run_whole(const Wide *w, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                        char *workspace) {
  for (int i = 0; i < w->n_in + w->n_out; i++) {
    const Tensor *t = i < w->n_in ? &in[i] : &out[i - w->n_in];
    w->tensors[i].data = w->offset[i] == SIZE_MAX || !t->data ? t->data : workspace + w->offset[i];
    if (i < w->n_in && w->tensors[i].data != t->data)
      TRY(read_operand(w, stream, t, w->tensors[i].data));
  }
  TRY(w->inner.run(stream, node, w->tensors, w->tensors + w->n_in, workspace + w->kernel_offset, w->inner.state));
  for (int i = 0; i < w->n_out; i++)
    if (w->offset[w->n_in + i] != SIZE_MAX && out[i].data)
      TRY(write_result(w, stream, w->tensors[w->n_in + i].data, out[i].data, shape_elements(out[i].shape)));
  return OK;
}

/* Places `axis` to the end of a shape, of which a block takes `run` along the axis; an operand of fewer axes, or one of
 * size 1 there, has less. */
static Shape block_shape(Shape shape, int rank, int axis, int64_t run) {
  Shape block = shape;
  int own = axis - (rank - shape.rank);
  if (own < 0)
    return block;
  block.rank = shape.rank - own;
  for (int i = own; i < shape.rank; i++)
    block.dim[i - own] = shape.dim[i];
  block.dim[0] = shape.dim[own] == 1 ? 1 : run;
  return block;
}

/* Elements before place `at` of the axis in row `outer` of those before it, in an operand that broadcasts to `result`.
 */
static int64_t block_offset(Shape shape, Shape result, int axis, int64_t outer, int64_t at) {
  int64_t offset = 0, step = 1;
  for (int i = result.rank - 1, k = shape.rank - 1; k >= 0; i--, k--) {
    int64_t place = i > axis ? 0 : i == axis ? at : outer % result.dim[i];
    outer = i < axis ? outer / result.dim[i] : outer;
    offset += shape.dim[k] == 1 ? 0 : place * step;
    step *= shape.dim[k];
  }
  return offset;
}

static Status run_block(const Wide *w, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                        char *workspace, int axis, int64_t outer, int64_t at, int64_t run) {
  Shape result = out->shape;
  for (int i = 0; i <= w->n_in; i++) {
    const Tensor *t = i < w->n_in ? &in[i] : out;
    Tensor part = *t;
    if (!t->data)
      continue;
    part.shape = block_shape(t->shape, result.rank, axis, run);
    part.data = (char *)t->data + (size_t)block_offset(t->shape, result, axis, outer, at) * dtype_bytes(t->dtype);
    w->tensors[i].shape = part.shape;
    w->tensors[i].data = w->offset[i] == SIZE_MAX ? part.data : workspace + w->offset[i];
    if (i < w->n_in && w->offset[i] != SIZE_MAX)
      TRY(read_operand(w, stream, &part, w->tensors[i].data));
  }
  TRY(w->inner.run(stream, node, w->tensors, w->tensors + w->n_in, NULL, NULL));
  if (w->offset[w->n_in] != SIZE_MAX)
    TRY(write_result(w, stream, w->tensors[w->n_in].data,
                     (uint16_t *)out->data + block_offset(result, result, axis, outer, at),
                     shape_elements(w->tensors[w->n_in].shape)));
  return OK;
}

static Status run_blocks(const Wide *w, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                         char *workspace) {
  Shape result = out->shape;
  int64_t inner = 1, outer = 1, most;
  int axis = result.rank - 1;
  if (!shape_elements(result))
    return OK;
  while (axis > 0 && inner * result.dim[axis] <= w->block)
    inner *= result.dim[axis--];
  for (int i = 0; i < axis; i++)
    outer *= result.dim[i];
  most = w->block / inner;
  for (int64_t o = 0; o < outer; o++)
    for (int64_t at = 0; at < (axis < 0 ? 1 : result.dim[axis]); at += most)
      TRY(run_block(w, stream, node, in, out, workspace, axis, o, at,
                    axis < 0 ? 1 : least(most, result.dim[axis] - at)));
  return OK;
}

static Status run_wide(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, void *workspace,
                       void *state) {
  const Wide *w = state;
  return w->whole ? run_whole(w, stream, node, in, out, workspace) : run_blocks(w, stream, node, in, out, workspace);
}

static void release(void *state) {
  Wide *w = state;
  backend_forget(&w->inner);
  free(w->tensors);
  free(w->offset);
  free(w);
}

static Status prepare_plain(const KernelDef *kernel, Stream *stream, const Node *node, const Tensor *in,
                            const Tensor *out, size_t workspace_bytes, NodeKernel *made) {
  *made = (NodeKernel){.run = kernel->run, .release = kernel->release};
  return kernel->prepare ? kernel->prepare(stream, node, in, out, workspace_bytes, &made->state) : OK;
}

Status wide_prepare(const Backend *backend, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                    size_t workspace_bytes, NodeKernel *made) {
  const KernelDef *kernel = backend->kernels[node->op];
  bool plain = takes(kernel, node, in, out);
  *made = (NodeKernel){0};
  if (writes_narrow(node, in) || (!plain && !backend->convert))
    return fail(E_UNSUPPORTED, "no kernel for %s", dtype_name(BF16));
  if (plain)
    return prepare_plain(kernel, stream, node, in, out, workspace_bytes, made);
  if (kernel->prepare_narrow)
    TRY(kernel->prepare_narrow(stream, node, in, out, workspace_bytes, &made->state));
  if (made->state) {
    made->run = kernel->run;
    made->release = kernel->release;
    return OK;
  }
  Wide *w = calloc(1, sizeof *w);
  size_t n = (size_t)(node->n_in + node->n_out);
  if (w) {
    w->tensors = calloc(n, sizeof *w->tensors);
    w->offset = calloc(n, sizeof *w->offset);
  }
  if (!w || !w->tensors || !w->offset) {
    if (w)
      release(w);
    return fail(E_MEMORY, "out of memory");
  }
  w->backend = backend;
  lay_out(w, node, in, out, 0);
  *made = (NodeKernel){run_wide, w, release};
  Status status = prepare_plain(kernel, stream, node, w->tensors, w->tensors + node->n_in,
                                workspace_bytes - w->kernel_offset, &w->inner);
  if (status != OK) {
    release(w);
    *made = (NodeKernel){0};
  }
  return status;
}
