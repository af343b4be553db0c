/* Which axis of every value grows with the microbatch. Invariant: an axis is found from the inputs on, operator by
 * operator, as a position in the order of elements; a value that reaches no input has none. */
#include <string.h>

#include "onnx/lower/lower.h"

static const Value *in(const Graph *g, const Node *n, int i) {
  return graph_value(g, n->in[i]);
}

/* Counted from the end, as broadcasting counts. */
static int aligned(const Value *v, const Value *out) {
  int axis = v->batch_axis + out->shape.rank - v->shape.rank;
  return v->batch_axis < 0 || axis < 0 ? -1 : axis;
}

static int from_any(const Graph *g, const Node *n, const Value *out) {
  for (int i = 0; i < n->n_in; i++) {
    int axis = n->in[i] == NO_VALUE ? -1 : aligned(in(g, n, i), out);
    if (axis >= 0 && in(g, n, i)->shape.dim[in(g, n, i)->batch_axis] == out->shape.dim[axis])
      return axis;
  }
  return -1;
}

/* The axis of the result within which the old axis's step lies. With one sample any axis of size 1 might be it: the
 * first at that place is. */
static int through_reshape(const Value *from, const Value *to, int64_t samples) {
  int64_t outer = 1, before = 1;
  if (from->batch_axis < 0)
    return -1;
  for (int i = 0; i < from->batch_axis; i++)
    outer *= from->shape.dim[i];
  for (int i = 0; i < to->shape.rank; before *= to->shape.dim[i++])
    if (samples == 1 ? before == outer : before <= outer && outer < before * to->shape.dim[i])
      return i;
  return -1;
}

static int through_transpose(const Node *n, const Value *from) {
  int rank;
  const int64_t *perm = node_ints(n, "perm", &rank);
  for (int i = 0; i < rank; i++)
    if (perm[i] == from->batch_axis)
      return i;
  return -1;
}

static int through_expand(const Value *from, const Value *to, int64_t samples) {
  if (from->batch_axis >= 0)
    return aligned(from, to);
  bool widens = to->shape.rank > from->shape.rank || (from->shape.rank && from->shape.dim[0] == 1);
  return to->shape.rank && to->shape.dim[0] == samples && widens ? 0 : -1;
}

static int through_gather(const Node *n, const Value *data, const Value *indices) {
  int axis = (int)node_int(n, "axis", 0);
  if (indices->batch_axis >= 0)
    return axis + indices->batch_axis;
  if (data->batch_axis < 0 || data->batch_axis == axis)
    return -1;
  return data->batch_axis < axis ? data->batch_axis : data->batch_axis + indices->shape.rank - 1;
}

static int through_gather_nd(const Node *n, const Value *data, const Value *indices) {
  int batch = (int)node_int(n, "batch_dims", 0), lead = indices->shape.rank - 1;
  int depth = (int)indices->shape.dim[lead];
  if (indices->batch_axis >= 0 && indices->batch_axis < lead)
    return indices->batch_axis;
  if (data->batch_axis < batch)
    return data->batch_axis;
  return data->batch_axis < batch + depth ? -1 : lead + data->batch_axis - batch - depth;
}

static int through_reduce(const Node *n, const Value *from) {
  int count, dropped = 0;
  const int64_t *axes = node_ints(n, "axes", &count);
  for (int i = 0; i < count && from->batch_axis >= 0; i++) {
    if (axes[i] == from->batch_axis)
      return -1;
    dropped += axes[i] < from->batch_axis;
  }
  return node_int(n, "keepdims", 1) ? from->batch_axis : from->batch_axis - dropped;
}

/* One side of a product: an axis of the stack, or its rows (left) or columns (right). */
static int through_product(const Node *n, const Value *v, const Value *out, bool left) {
  int rank = v->shape.rank, axis = v->batch_axis;
  bool swapped = node_int(n, left ? "transA" : "transB", 0);
  if (axis < 0 || rank < 2)
    return -1;
  if (axis < rank - 2)
    return axis + out->shape.rank - rank;
  bool keeps = (axis == rank - 2) == (left != swapped);
  return keeps ? out->shape.rank - (left ? 2 : 1) : -1;
}

int batch_axis_of(const Graph *g, const Node *n, const Value *out, int64_t samples) {
  const Value *first = n->n_in ? in(g, n, 0) : NULL;
  int axis;
  switch (n->op) {
  case OP_Reshape:
    return through_reshape(first, out, samples);
  case OP_Transpose:
    return through_transpose(n, first);
  case OP_Expand:
    return through_expand(first, out, samples);
  case OP_Gather:
    return through_gather(n, first, in(g, n, 1));
  case OP_GatherND:
    return through_gather_nd(n, first, in(g, n, 1));
  case OP_ReduceSum:
  case OP_ReduceMean:
  case OP_ReduceMax:
    return through_reduce(n, first);
  case OP_MatMul:
  case OP_Gemm:
    axis = through_product(n, first, out, true);
    return axis >= 0 ? axis : through_product(n, in(g, n, 1), out, false);
  case OP_Split:
  case OP_Slice:
  case OP_LayerNormalization:
  case OP_RMSNormalization:
    return first->batch_axis;
  default:
    return from_any(g, n, out);
  }
}
