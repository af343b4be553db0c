/* Invariant: the same contents every time, from nothing but shapes. */
#include "runtime/costs/made_up.h"

#include <math.h>
#include <string.h>

#include "graph/narrow.h"
#include "graph/op.h"

enum { BLOCK = 4096 };

/* Even over (-1, 1), by a linear congruence (Knuth's MMIX). */
static void fill_floats(DType dtype, double scale, double offset, void *data, size_t n) {
  uint64_t state = 1;
  size_t wide = dtype_bytes(dtype), block = n < BLOCK ? n : BLOCK;
  for (size_t i = 0; i < block; i++) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    double x = offset + scale * ((double)(state >> 11) * 0x1p-52 - 1);
    if (dtype == F32)
      ((float *)data)[i] = (float)x;
    else if (dtype == F64)
      ((double *)data)[i] = x;
    else
      ((uint16_t *)data)[i] = bf16_bits((float)x);
  }
  for (size_t done = block; done < n; done += block) {
    size_t more = n - done < block ? n - done : block;
    memcpy((char *)data + done * wide, data, more * wide);
  }
}

static bool has_floats(DType dtype) {
  return dtype == F32 || dtype == F64 || dtype == BF16;
}

/* So that what a matrix makes of even numbers has their size; vectors, which scale or are variances, are near 1. */
static double scale_of(Shape shape) {
  double rows = shape.rank > 1 ? (double)shape_elements(shape) / (double)shape.dim[0] : 1;
  return shape.rank > 1 && rows > 0 ? sqrt(3 / rows) : 0.1;
}

Status made_up_load(void *context, ValueId id, void *data, size_t bytes) {
  const Job *job = context;
  const Value *value = graph_value(job->decided.graph, id);
  if (value->role == ROLE_CONSTANT && model_read_initializer(job->given.model, value->initializer, data, bytes) == OK)
    return OK;
  memset(data, 0, bytes);
  if (has_floats(value->dtype) && value->role != ROLE_CONSTANT && value->role != ROLE_STATE)
    fill_floats(value->dtype, scale_of(value->shape), value->shape.rank > 1 ? 0 : 1, data,
                (size_t)shape_elements(value->shape));
  return OK;
}

void made_up_received(void *context, ValueId id, void *data, size_t bytes) {
  const Value *value = graph_value(context, id);
  if (has_floats(value->dtype))
    fill_floats(value->dtype, 1.5, 0, data, (size_t)shape_elements(value->shape));
  else
    memset(data, 0, bytes);
}

/* How many rows a lookup by this input has; 1 where nothing looks up by it. */
static int64_t range_of(const Graph *g, ValueId input) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    if (node->op != OP_Gather || node->in[1] != input)
      continue;
    Shape table = graph_value(g, node->in[0])->shape;
    int64_t axis = node_int(node, "axis", 0);
    return table.dim[axis < 0 ? axis + table.rank : axis];
  }
  return 1;
}

static void fill_integers(DType dtype, int64_t range, int microbatch, void *data, size_t n) {
  uint64_t state = (uint64_t)microbatch + 1;
  for (size_t i = 0; i < n; i++) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    int64_t x = (int64_t)((state >> 33) % (uint64_t)range);
    if (dtype == I64)
      ((int64_t *)data)[i] = x;
    else
      ((int32_t *)data)[i] = (int32_t)x;
  }
}

Status made_up_feed(void *context, ValueId input, int microbatch, void *data, size_t bytes) {
  MadeUpFeed *feed = context;
  const Graph *g = feed->job->decided.graph;
  const Value *value = graph_value(g, input);
  if (feed->feeder.data)
    return dataset_feed(&feed->feeder, input, microbatch, data, bytes);
  int64_t range = range_of(g, input);
  if ((value->dtype == I64 || value->dtype == I32) && range > 1)
    fill_integers(value->dtype, range, microbatch, data, (size_t)shape_elements(value->shape));
  else
    made_up_received((void *)g, input, data, bytes);
  return OK;
}
