/* The reference backend's table and its device, the host. */
#include "backend/reference/reference.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

Kernel *const reference_kernels[OP_COUNT] = {
#define OP(name) [OP_##name] = reference_##name,
#include "graph/ops.def"
#undef OP
};

void walk_init(Walk *walk, Shape out, const Tensor *in, int n_in) {
  int64_t stride[3][MAX_RANK] = {{0}};
  for (int k = 0; k < n_in; k++) {
    int64_t step = 1;
    for (int i = out.rank - 1, j = in[k].shape.rank - 1; j >= 0; i--, j--) {
      stride[k][i] = in[k].shape.dim[j] == 1 ? 0 : step;
      step *= in[k].shape.dim[j];
    }
  }
  walk->rank = 0;
  for (int i = 0; i < out.rank; i++) {
    if (out.dim[i] == 1)
      continue;
    int last = walk->rank - 1;
    bool merge = last >= 0;
    for (int k = 0; merge && k < n_in; k++)
      merge = walk->stride[k][last] == stride[k][i] * out.dim[i];
    if (!merge)
      last = walk->rank++;
    walk->dim[last] = merge ? walk->dim[last] * out.dim[i] : out.dim[i];
    for (int k = 0; k < n_in; k++)
      walk->stride[k][last] = stride[k][i];
  }
  if (walk->rank == 0) {
    walk->rank = 1;
    walk->dim[0] = 1;
    for (int k = 0; k < 3; k++)
      walk->stride[k][0] = 0;
  }
}

int64_t walk_runs(const Walk *walk) {
  int64_t runs = walk->dim[walk->rank - 1] ? 1 : 0;
  for (int i = 0; i < walk->rank - 1; i++)
    runs *= walk->dim[i];
  return runs;
}

void walk_offsets(const Walk *walk, int64_t run, int n_in, int64_t offset[3]) {
  for (int k = 0; k < 3; k++)
    offset[k] = 0;
  for (int i = walk->rank - 2; i >= 0; i--) {
    int64_t at = run % walk->dim[i];
    run /= walk->dim[i];
    for (int k = 0; k < n_in; k++)
      offset[k] += at * walk->stride[k][i];
  }
}

Split3 split_at(Shape shape, int axis) {
  Split3 s = {1, shape.rank ? shape.dim[axis] : 1, 1};
  for (int i = 0; i < axis; i++)
    s.outer *= shape.dim[i];
  for (int i = axis + 1; i < shape.rank; i++)
    s.inner *= shape.dim[i];
  return s;
}

Split3 split_from(Shape shape, int axis) {
  Split3 s = {1, 1, 1};
  for (int i = 0; i < shape.rank; i++)
    *(i < axis ? &s.outer : &s.size) *= shape.dim[i];
  return s;
}

Status unsupported_type(const Node *node, DType dtype) {
  Status status = fail(E_UNSUPPORTED, "no kernel for %s", dtype_name(dtype));
  node_context(node);
  return status;
}

static bool takes(OpKind op, DType dtype) {
  bool is_float = dtype == F32 || dtype == F64, is_number = is_float || dtype == I64 || dtype == I32;
  switch (op) {
  case OP_Where: /* by size of an element, or by a rule of shapes that leaves one type */
  case OP_Cast:
  case OP_Reshape:
  case OP_Transpose:
  case OP_Concat:
  case OP_Split:
  case OP_Slice:
  case OP_SliceGrad:
  case OP_Expand:
  case OP_Gather:
  case OP_GatherND:
  case OP_Trilu:
  case OP_And:
  case OP_Or:
  case OP_Not:
  case OP_CountTargets:
    return true;
  case OP_Equal:
  case OP_Greater:
  case OP_GreaterOrEqual:
  case OP_Less:
  case OP_LessOrEqual:
    return is_number || dtype == U8 || dtype == BOOL;
  case OP_Add:
  case OP_Sub:
  case OP_Mul:
  case OP_Div:
  case OP_Pow:
  case OP_Max:
  case OP_Min:
  case OP_Mod:
  case OP_Neg:
  case OP_Abs:
  case OP_Range:
  case OP_CumSum:
  case OP_ReduceSum:
  case OP_ReduceMax:
    return is_number;
  default:
    return is_float;
  }
}

bool reference_accepts(const Graph *graph, const Node *node) {
  bool all = takes(node->op, graph_value(graph, node->in[0])->dtype);
  return all && (node->op != OP_Pow || takes(OP_Pow, graph_value(graph, node->in[1])->dtype));
}

/* There is one host: streams have nothing to tell apart. */
struct Stream {
  char nothing;
};
static Stream host;

static Status describe(int device, DeviceSpec *spec) {
  (void)device;
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  *spec = (DeviceSpec){.name = "reference",
                       .memory_bytes = (size_t)pages * (size_t)page,
                       .flops_per_second = 1e10,
                       .bytes_per_second = 5e9,
                       .node_overhead_seconds = 2e-7};
  return OK;
}

static Status stream_open(int device, int threads, Stream **stream) {
  (void)device;
  (void)threads;
  *stream = &host;
  return OK;
}

static void stream_close(Stream *stream) {
  (void)stream;
}

Status host_wait(Stream *stream) {
  (void)stream;
  return OK;
}

Status host_alloc(Stream *stream, size_t bytes, void **memory) {
  (void)stream;
  size_t rounded = (bytes + 63) & ~(size_t)63;
  *memory = aligned_alloc(64, rounded ? rounded : 64);
  if (!*memory)
    return fail(E_MEMORY, "an arena of %zu bytes cannot be allocated", bytes);
  memset(*memory, 0, rounded);
  return OK;
}

void host_release(Stream *stream, void *memory) {
  (void)stream;
  free(memory);
}

Status host_copy(Stream *stream, void *to, const void *from, size_t bytes, CopyKind kind) {
  (void)stream;
  (void)kind;
  if (bytes)
    memcpy(to, from, bytes);
  return OK;
}

Status host_zero(Stream *stream, void *memory, size_t bytes) {
  (void)stream;
  memset(memory, 0, bytes);
  return OK;
}

Status host_event_create(Stream *stream, Event **event) {
  (void)stream;
  *event = NULL;
  return OK;
}

void host_event_destroy(Event *event) {
  (void)event;
}

Status host_event_pass(Stream *stream, Event *event) {
  (void)stream;
  (void)event;
  return OK;
}

const Backend backend_reference = {
    .name = "reference",
    HOST_BACKEND,
    .kernels = reference_kernels,
    .workspace_bytes = reference_workspace_bytes,
    .describe = describe,
    .stream_open = stream_open,
    .stream_close = stream_close,
};
