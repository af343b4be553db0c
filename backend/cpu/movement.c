/* Copies and picks over threads. */
#include <string.h>

#include "backend/cpu/split.h"
#include "backend/reference/parts.h"

typedef struct {
  const Node *node;
  const Tensor *in, *out;
  Nest nest;
  int64_t tile_from, tile_to_step; /* of a transposing copy: the axis that runs on in the source */
  size_t size;
  int64_t n, of_task;
} Move;

static Status copy_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Move *m = context;
  nest_copy(&m->nest, m->size, (char *)m->out->data + (size_t)m->nest.to_offset * m->size,
            (const char *)m->in->data + (size_t)m->nest.from_offset * m->size, i * m->of_task,
            least((i + 1) * m->of_task, m->n));
  return OK;
}

#define TRANSPOSE_TILE(name, T)                                                                                        \
  static void name(T *to, int64_t to_step, const T *from, int64_t from_step, int64_t rows, int64_t columns) {          \
    for (int64_t i = 0; i < rows; i++)                                                                                 \
      for (int64_t j = 0; j < columns; j++)                                                                            \
        to[i * to_step + j] = from[i + j * from_step];                                                                 \
  }
TRANSPOSE_TILE(transpose_tile4, uint32_t)
TRANSPOSE_TILE(transpose_tile8, uint64_t)

enum { TILE = 16 };

/* A plane of a transposing copy: rows run on in the source, columns in the target. */
static Status transpose_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Move *m = context;
  const Nest *nest = &m->nest; /* the outer loops; its last axis is the target's */
  int last = nest->rank - 1;
  int64_t rest = i, from = 0, to = 0, bands = (m->tile_from + m->of_task - 1) / m->of_task;
  int64_t first = rest % bands * m->of_task, rows = least(m->tile_from - first, m->of_task);
  rest /= bands;
  for (int k = last - 1; k >= 0; k--) {
    from += rest % nest->dim[k] * nest->from[k];
    to += rest % nest->dim[k] * nest->to[k];
    rest /= nest->dim[k];
  }
  for (int64_t r = first; r < first + rows; r += TILE)
    for (int64_t c = 0; c < nest->dim[last]; c += TILE) {
      int64_t height = least(first + rows - r, TILE), width = least(nest->dim[last] - c, TILE);
      int64_t at_from = from + r + c * nest->from[last], at_to = to + r * m->tile_to_step + c;
      if (m->size == 4)
        transpose_tile4((uint32_t *)m->out->data + at_to, m->tile_to_step, (const uint32_t *)m->in->data + at_from,
                        nest->from[last], height, width);
      else
        transpose_tile8((uint64_t *)m->out->data + at_to, m->tile_to_step, (const uint64_t *)m->in->data + at_from,
                        nest->from[last], height, width);
    }
  return OK;
}

/* Takes the axis that runs on in the source out of the loops; false where no such axis lies before the last. */
static bool transposed(Move *m) {
  Nest *nest = &m->nest;
  int last = nest->rank - 1, axis = last - 1;
  if (last < 1 || nest->from[last] == 1 || nest->to[last] != 1 || (m->size != 4 && m->size != 8))
    return false;
  while (axis >= 0 && nest->from[axis] != 1)
    axis--;
  if (axis < 0)
    return false;
  m->tile_from = nest->dim[axis];
  m->tile_to_step = nest->to[axis];
  for (int i = axis; i < last; i++) {
    nest->dim[i] = nest->dim[i + 1];
    nest->from[i] = nest->from[i + 1];
    nest->to[i] = nest->to[i + 1];
  }
  nest->rank--;
  return true;
}

/* Runs the nest's copy. */
static Status copy(Stream *stream, Move *m) {
  m->n = nest_runs(&m->nest);
  if (!m->n)
    return OK;
  m->of_task = items_of_task(m->n, m->nest.rank ? m->nest.dim[m->nest.rank - 1] : 1);
  return pool_run(stream->pool, (m->n + m->of_task - 1) / m->of_task, copy_task, m);
}

static Status move(Stream *stream, const Node *node, const Tensor *in, const Tensor *out) {
  Move m = {.in = in, .out = out, .size = dtype_bytes(in->dtype)};
  nest_init(&m.nest, node, in, out);
  if (!nest_runs(&m.nest) || !transposed(&m))
    return copy(stream, &m);
  int64_t row = m.nest.dim[m.nest.rank - 1], outer = nest_runs(&m.nest);
  m.of_task = round_up(items_of_task(m.tile_from, row), TILE);
  return pool_run(stream->pool, outer * ((m.tile_from + m.of_task - 1) / m.of_task), transpose_task, &m);
}

/* Concat and Split: a part of the whole at `at`, in elements, of each of `outer` rows. */
static Status copy_rows(Stream *stream, const Tensor *in, const Tensor *out, int64_t outer, int64_t part, int64_t row,
                        int64_t at, bool join) {
  Move m = {.in = in, .out = out, .size = dtype_bytes(in->dtype)};
  nest_push(&m.nest, outer, join ? part : row, join ? row : part);
  nest_push(&m.nest, part, 1, 1);
  *(join ? &m.nest.to_offset : &m.nest.from_offset) = at;
  return copy(stream, &m);
}

CPU_KERNEL(Concat, .accepts = takes_any) {
  CPU_UNUSED;
  int axis = (int)node_int(node, "axis", 0);
  Split3 whole = split_at(out->shape, axis);
  for (int64_t k = 0, at = 0; k < node->n_in; k++) {
    int64_t part = in[k].shape.dim[axis] * whole.inner;
    TRY(copy_rows(stream, &in[k], out, whole.outer, part, whole.size * whole.inner, at, true));
    at += part;
  }
  return OK;
}

CPU_KERNEL(Split, .accepts = takes_any) {
  CPU_UNUSED;
  int count, axis = (int)node_int(node, "axis", 0);
  const int64_t *sizes = node_ints(node, "split", &count);
  Split3 whole = split_at(in->shape, axis);
  for (int64_t k = 0, at = 0; k < count; k++) {
    int64_t part = sizes[k] * whole.inner;
    if (out[k].data)
      TRY(copy_rows(stream, in, &out[k], whole.outer, part, whole.size * whole.inner, at, false));
    at += part;
  }
  return OK;
}

CPU_KERNEL(Transpose, .accepts = takes_any) {
  CPU_UNUSED;
  return move(stream, node, in, out);
}

CPU_KERNEL(Expand, .accepts = takes_any) {
  CPU_UNUSED;
  return move(stream, node, in, out);
}

CPU_KERNEL(Slice, .accepts = takes_any) {
  CPU_UNUSED;
  return move(stream, node, in, out);
}

static Status zero_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Move *m = context;
  int64_t at = i * TASK_ELEMENTS, n = least(m->n - at, TASK_ELEMENTS);
  memset((char *)m->out->data + (size_t)at * m->size, 0, (size_t)n * m->size);
  return OK;
}

CPU_KERNEL(SliceGrad, .accepts = takes_any) {
  CPU_UNUSED;
  Move m = {.out = out, .size = dtype_bytes(out->dtype), .n = shape_elements(out->shape)};
  TRY(pool_run(stream->pool, (m.n + TASK_ELEMENTS - 1) / TASK_ELEMENTS, zero_task, &m));
  return move(stream, node, in, out);
}

/* Where so many indices from number `first` on point along the axis; at most PICKS. */
enum { PICKS = 64 };
static Status pick(const Move *m, const Tensor *indices, Shape data, int axis, int64_t first, int64_t n,
                   int64_t *from) {
  for (int64_t k = 0; k < n; k++)
    TRY(gather_index(m->node, indices, first + k, data, axis, &from[k]));
  return OK;
}

/* Whole rows of data [rows, inner] by index. They lie anywhere: all of them are asked for before the first is copied.
 */
static Status gather_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Move *m = context;
  size_t row = m->n ? (size_t)(shape_elements(m->out->shape) / m->n) * m->size : 0;
  const char *data = m->in[0].data;
  for (int64_t at = i * m->of_task, end = least(at + m->of_task, m->n), n; at < end; at += n) {
    int64_t from[PICKS];
    n = least(PICKS, end - at);
    TRY(pick(m, &m->in[1], m->in[0].shape, 0, at, n, from));
    for (int64_t k = 0; k < n; k++)
      for (size_t line = 0; line < row && line < 256; line += 64)
        __builtin_prefetch(data + (size_t)from[k] * row + line);
    for (int64_t k = 0; row && k < n; k++)
      memcpy((char *)m->out->data + (size_t)(at + k) * row, data + (size_t)from[k] * row, row);
  }
  return OK;
}

/* Rows of each of the indices in lines of data [outer, size, inner]: a task has some of `outer`. */
typedef struct {
  Move move;
  const Tensor *indices;
  Shape data;
  int axis;
  int64_t size, inner, count;
} Lines;

static Lines lines_of(const Node *node, const Tensor *in, const Tensor *out, Shape data) {
  Lines l = {.indices = &in[1], .data = data, .axis = (int)node_int(node, "axis", 0)};
  l.move = (Move){.node = node, .in = in, .out = out, .size = dtype_bytes(in->dtype)};
  l.move.n = shape_elements(shape_of(l.axis, data.dim));
  l.size = data.dim[l.axis];
  l.inner = shape_elements(shape_of(data.rank - l.axis - 1, data.dim + l.axis + 1));
  l.count = shape_elements(in[1].shape);
  return l;
}

static Status run_lines(Stream *stream, Lines *l, int64_t elements, Task *task) {
  l->move.of_task = items_of_task(l->move.n, elements);
  return pool_run(stream->pool, (l->move.n + l->move.of_task - 1) / l->move.of_task, task, l);
}

#define GATHER_ELEMENTS(name, T)                                                                                       \
  static void name(const T *from, const int64_t *at, int64_t n, T *to) {                                               \
    for (int64_t k = 0; k < n; k++)                                                                                    \
      to[k] = from[at[k]];                                                                                             \
  }
GATHER_ELEMENTS(gather_elements4, uint32_t)
GATHER_ELEMENTS(gather_elements8, uint64_t)

static Status gather_lines_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Lines *l = context;
  int64_t first = i * l->move.of_task, end = least(first + l->move.of_task, l->move.n);
  size_t row = (size_t)l->inner * l->move.size;
  for (int64_t at = 0, n; at < l->count; at += n) {
    int64_t from[PICKS];
    n = least(PICKS, l->count - at);
    TRY(pick(&l->move, l->indices, l->data, l->axis, at, n, from));
    for (int64_t o = first; o < end; o++) {
      const char *line = (const char *)l->move.in->data + (size_t)(o * l->size) * row;
      char *to = (char *)l->move.out->data + (size_t)(o * l->count + at) * row;
      if (row == sizeof(uint32_t))
        gather_elements4((const uint32_t *)line, from, n, (uint32_t *)to);
      else if (row == sizeof(uint64_t))
        gather_elements8((const uint64_t *)line, from, n, (uint64_t *)to);
      else
        for (int64_t k = 0; k < n; k++)
          memcpy(to + (size_t)k * row, line + (size_t)from[k] * row, row);
    }
  }
  return OK;
}

CPU_KERNEL(Gather, .accepts = takes_any) {
  CPU_UNUSED;
  if (!shape_elements(out->shape)) /* indices are looked at all the same */
    return reference_Gather.run(stream, node, in, out, workspace, state);
  if (node_int(node, "axis", 0) != 0) {
    Lines l = lines_of(node, in, out, in->shape);
    return run_lines(stream, &l, l.count * l.inner, gather_lines_task);
  }
  Move m = {.node = node, .in = in, .out = out, .size = dtype_bytes(in->dtype), .n = shape_elements(in[1].shape)};
  m.of_task = items_of_task(m.n, shape_elements(out->shape) / m.n);
  return pool_run(stream->pool, (m.n + m.of_task - 1) / m.of_task, gather_task, &m);
}

/* A line's sums, in index order. */
static Status gather_grad_lines_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Lines *l = context;
  int64_t first = i * l->move.of_task, end = least(first + l->move.of_task, l->move.n), line = l->size * l->inner;
  memset((float *)l->move.out->data + first * line, 0, (size_t)((end - first) * line) * sizeof(float));
  for (int64_t at = 0, n; at < l->count; at += n) {
    int64_t to[PICKS];
    n = least(PICKS, l->count - at);
    TRY(pick(&l->move, l->indices, l->data, l->axis, at, n, to));
    for (int64_t o = first; o < end; o++) {
      float *sums = (float *)l->move.out->data + o * line;
      const float *terms = (const float *)l->move.in->data + (o * l->count + at) * l->inner;
      for (int64_t k = 0; k < n; k++)
        for (int64_t j = 0; j < l->inner; j++)
          sums[to[k] * l->inner + j] += terms[k * l->inner + j];
    }
  }
  return OK;
}

/* Each task owns a range of the data's rows and adds to them in index order. */
static Status gather_grad_task(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Move *m = context;
  int64_t rows = m->out->shape.dim[0], inner = shape_elements(m->out->shape) / rows;
  int64_t first = i * m->of_task, end = least(first + m->of_task, rows);
  memset((float *)m->out->data + first * inner, 0, (size_t)((end - first) * inner) * sizeof(float));
  for (int64_t k = 0; k < m->n; k++) {
    int64_t to;
    TRY(gather_index(m->node, &m->in[1], k, m->out->shape, 0, &to));
    float *sum = (float *)m->out->data + to * inner;
    const float *term = (const float *)m->in[0].data + k * inner;
    for (int64_t j = 0; to >= first && to < end && j < inner; j++)
      sum[j] += term[j];
  }
  return OK;
}

CPU_KERNEL(GatherGrad, .accepts = takes_floats) {
  int64_t elements = shape_elements(out->shape);
  if (in->dtype != F32 || !elements)
    return reference_GatherGrad.run(stream, node, in, out, workspace, state);
  if (node_int(node, "axis", 0) != 0) {
    Lines l = lines_of(node, in, out, out->shape);
    return run_lines(stream, &l, l.size * l.inner, gather_grad_lines_task);
  }
  enum { RANGES = 32 };
  Move m = {.node = node, .in = in, .out = out, .n = shape_elements(in[1].shape)};
  m.of_task = (out->shape.dim[0] + RANGES - 1) / RANGES;
  return pool_run(stream->pool, (out->shape.dim[0] + m.of_task - 1) / m.of_task, gather_grad_task, &m);
}
