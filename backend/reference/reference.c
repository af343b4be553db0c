/* The reference backend's table and its device, the host. */
#include "backend/reference/reference.h"

#include <string.h>
#include <unistd.h>

#include "graph/narrow.h"

const KernelDef *const reference_kernels[OP_COUNT] = {
#define OP(name) [OP_##name] = &reference_##name,
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

static DType type_of(const Graph *graph, const Node *node, int i) {
  return graph_value(graph, node->in[i])->dtype;
}

static bool is_number(DType type) {
  return type == F32 || type == F64 || type == I64 || type == I32;
}

bool takes_any(const Graph *graph, const Node *node) {
  (void)graph;
  (void)node;
  return true;
}

bool takes_comparable(const Graph *graph, const Node *node) {
  DType type = type_of(graph, node, 0);
  return is_number(type) || type == U8 || type == BOOL;
}

bool takes_numbers(const Graph *graph, const Node *node) {
  return is_number(type_of(graph, node, 0));
}

bool takes_floats(const Graph *graph, const Node *node) {
  DType type = type_of(graph, node, 0);
  return type == F32 || type == F64;
}

bool takes_pooled(const Graph *graph, const Node *node) {
  DType type = type_of(graph, node, 0);
  return is_number(type) || type == I8 || type == U8;
}

bool takes_powers(const Graph *graph, const Node *node) {
  return takes_numbers(graph, node) && is_number(type_of(graph, node, 1));
}

Tensor kernel_input(const Graph *graph, const Node *node, int i) {
  const Value *v = graph_value(graph, node->in[i]);
  return (Tensor){.dtype = v->dtype, .shape = v->shape};
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

WIDE_LOOPS static void widen_all(const uint16_t *from, float *to, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    to[i] = bf16_value(from[i]);
}

WIDE_LOOPS static void round_all(const float *from, float *to, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    to[i] = bf16_value(bf16_bits(from[i]));
}

WIDE_LOOPS static void narrow_all(const float *from, uint16_t *to, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    to[i] = bf16_bits(from[i]);
}

Status host_convert(Stream *stream, void *to, DType to_type, const void *from, DType from_type, int64_t n) {
  (void)stream;
  if (from_type == BF16)
    widen_all(from, to, n);
  else if (to_type == BF16)
    narrow_all(from, to, n);
  else
    round_all(from, to, n);
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
    .describe = describe,
    .stream_open = stream_open,
    .stream_close = stream_close,
};
