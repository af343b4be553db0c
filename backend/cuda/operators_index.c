/* From nodes to launches: picking and putting by index, bags of rows. */
#include <string.h>

#include "backend/cuda/cuda.h"
#include "backend/reference/parts.h"
#include "backend/reference/reference.h"

/* Gather and its transpose: one index into an axis. */
static Picks picks_one(const Node *node, Shape data, const Tensor *indices) {
  int axis = (int)node_int(node, "axis", 0);
  Split3 s = split_at(data, axis);
  int64_t rows = shape_elements(indices->shape);
  return (Picks){.index_type = indices->dtype,
                 .axis = axis,
                 .depth = 1,
                 .rows = rows,
                 .rows_per_batch = rows ? rows : 1, /* something divides by it */
                 .outer = s.outer,
                 .slices = s.size,
                 .inner = s.inner,
                 .shape = data};
}

/* GatherND and its transpose: an index into each of some axes. */
static Picks picks_many(const Node *node, Shape data, const Tensor *indices) {
  int last = indices->shape.rank - 1, axis = (int)node_int(node, "batch_dims", 0);
  Picks p = {.index_type = indices->dtype,
             .axis = axis,
             .depth = (int)indices->shape.dim[last],
             .rows = 1,
             .rows_per_batch = 1,
             .outer = 1,
             .slices = 1,
             .inner = 1,
             .shape = data};
  for (int i = 0; i < last; i++) {
    p.rows *= indices->shape.dim[i];
    p.rows_per_batch *= i < axis ? 1 : indices->shape.dim[i];
  }
  for (int i = 0; i < data.rank; i++)
    *(i < axis + p.depth ? &p.slices : &p.inner) *= data.dim[i];
  if (p.rows_per_batch == 0)
    p.rows_per_batch = 1;
  return p;
}

/* GatherElements and its transposes: an element each. */
static Picks picks_elements(const Node *node, Shape data, const Tensor *indices) {
  int64_t rows = shape_elements(indices->shape);
  return (Picks){.index_type = indices->dtype,
                 .axis = (int)node_int(node, "axis", 0),
                 .depth = 1,
                 .rows = rows,
                 .rows_per_batch = 1,
                 .outer = 1,
                 .slices = shape_elements(data),
                 .inner = 1,
                 .shape = data,
                 .points = indices->shape};
}

/* Rows of a float32 table as bfloat16, gradients the other way. */
static bool takes_both_ways(const Node *node, const Tensor *in, const Tensor *out) {
  (void)node, (void)in, (void)out;
  return true;
}

static Status gather(Stream *stream, const Node *node, const Picks *picks, const Tensor *in, const Tensor *out) {
  launch_gather(stream->cuda, in->dtype, out->dtype, picks, cuda_reporter(stream, node), in[0].data, in[1].data,
                out->data);
  return cuda_launched(stream, node);
}

#define GATHER(op_name, picks)                                                                                         \
  KERNEL(op_name, .accepts = takes_any, .narrow = takes_both_ways) {                                                   \
    UNUSED;                                                                                                            \
    Picks p = picks(node, in[0].shape, &in[1]);                                                                        \
    return gather(stream, node, &p, in, out);                                                                          \
  }
GATHER(Gather, picks_one)
GATHER(GatherND, picks_many)
GATHER(GatherElements, picks_elements)

/* Sorted indices, from one half to the other. */
static size_t scatter_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  return 2 * sizeof(uint64_t) * (size_t)shape_elements(graph_value(graph, node->in[1])->shape);
}

Status cuda_sortable(const Node *node, int64_t count, int64_t places) {
  if (!count || places < INT64_MAX / 2 / count)
    return OK;
  fail(E_UNSUPPORTED, "%lld indices into %lld slices are too many", (long long)count, (long long)places);
  node_context(node);
  return E_UNSUPPORTED;
}

static Status scatter(Stream *stream, const Node *node, PutFunction put, const Picks *picks, const Tensor *in,
                      const Tensor *out, void *workspace) {
  TRY(cuda_sortable(node, picks->rows, picks->slices));
  launch_scatter(stream->cuda, put, in->dtype, out->dtype, picks, cuda_reporter(stream, node), in[0].data, in[1].data,
                 workspace, out->data);
  return cuda_launched(stream, node);
}

#define GATHER_GRAD(op_name, picks)                                                                                    \
  KERNEL(op_name, .accepts = takes_floats, .narrow = takes_both_ways, .workspace = scatter_workspace) {                \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, is_stored(in->dtype));                                                                            \
    Picks p = picks(node, out->shape, &in[1]);                                                                         \
    TRY(backend_cuda.zero(stream, out->data, tensor_bytes(out)));                                                      \
    return scatter(stream, node, PUT_SUM, &p, in, out, workspace);                                                     \
  }
GATHER_GRAD(GatherGrad, picks_one)
GATHER_GRAD(GatherNDGrad, picks_many)

static PutFunction put_of(const Node *node) {
  static const struct {
    const char *reduction;
    PutFunction put;
  } puts[] = {{"add", PUT_ADD}, {"mul", PUT_MULTIPLY}, {"max", PUT_MAX}, {"min", PUT_MIN}};
  const char *reduction = node_string(node, "reduction", "none");
  for (size_t i = 0; i < sizeof puts / sizeof *puts; i++)
    if (strcmp(reduction, puts[i].reduction) == 0)
      return puts[i].put;
  return PUT_LAST;
}

/* Updates onto the data, or onto zeros where there is none. */
static Status begin_puts(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  return node->n_in < 3 ? backend_cuda.zero(stream, out->data, tensor_bytes(out))
                        : backend_cuda.copy(stream, out->data, in[2].data, tensor_bytes(out), COPY_DEVICE_TO_DEVICE);
}

#define SCATTER(op_name, picks)                                                                                        \
  KERNEL(op_name, .accepts = takes_puts, .workspace = scatter_workspace) {                                             \
    UNUSED;                                                                                                            \
    TAKES(in->dtype, put_of(node) == PUT_LAST || is_number(in->dtype));                                                \
    Picks p = picks(node, out->shape, &in[1]);                                                                         \
    TRY(begin_puts(stream, node, in, out));                                                                            \
    return scatter(stream, node, put_of(node), &p, in, out, workspace);                                                \
  }
SCATTER(ScatterElements, picks_elements)
SCATTER(ScatterND, picks_many)

/* Where two elements have one place the last one stays. */
KERNEL(MaxUnpool, .accepts = takes_any, .workspace = scatter_workspace) {
  UNUSED;
  int64_t all = shape_elements(out->shape);
  Picks p = {.index_type = in[1].dtype,
             .depth = 1,
             .rows = shape_elements(in->shape),
             .rows_per_batch = shape_elements(in->shape),
             .outer = 1,
             .slices = all,
             .inner = 1,
             .shape = shape_of(1, &all)};
  TRY(backend_cuda.zero(stream, out->data, tensor_bytes(out)));
  return scatter(stream, node, PUT_LAST, &p, in, out, workspace);
}

/* Places to be sorted, from one half to the other. */
static size_t sort_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  return 2 * sizeof(uint64_t) * (size_t)shape_elements(graph_value(graph, node->in[0])->shape);
}

KERNEL(TopK, .accepts = takes_numbers, .workspace = sort_workspace) {
  UNUSED;
  TAKES(in->dtype, is_number(in->dtype));
  int axis = (int)node_int(node, "axis", 0);
  Split3 s = split_at(in->shape, axis);
  launch_top_k(stream->cuda, in->dtype, (Lines){s.outer, s.size, s.inner}, out->shape.dim[axis],
               node_int(node, "largest", 1), in->data, workspace, out[0].data, out[1].data);
  return cuda_launched(stream, node);
}

static Bags bags_of(const Node *node, const Tensor *offsets, Shape rows) {
  const char *mode = node_string(node, "mode", "sum");
  return (Bags){.mode = strcmp(mode, "max") == 0    ? BAG_MAX
                        : strcmp(mode, "mean") == 0 ? BAG_MEAN
                                                    : BAG_SUM,
                .offset_type = offsets->dtype,
                .bags = shape_elements(offsets->shape),
                .rows = rows.dim[0],
                .inner = shape_elements(shape_of(rows.rank - 1, rows.dim + 1))};
}

KERNEL(SegmentReduce, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Bags bags = bags_of(node, &in[1], in->shape);
  launch_segments(stream->cuda, in->dtype, &bags, cuda_reporter(stream, node), in[0].data, in[1].data, out->data);
  return cuda_launched(stream, node);
}

KERNEL(SegmentReduceGrad, .accepts = takes_floats) {
  UNUSED;
  TAKES(in->dtype, is_float(in->dtype));
  Bags bags = bags_of(node, &in[1], out->shape);
  TRY(backend_cuda.zero(stream, out->data, tensor_bytes(out)));
  launch_segments_grad(stream->cuda, in->dtype, &bags, cuda_reporter(stream, node), in[0].data, in[1].data,
                       node->n_in > 2 ? in[2].data : NULL, out->data);
  return cuda_launched(stream, node);
}
