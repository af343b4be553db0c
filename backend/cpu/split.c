/* Parts of tensors as tensors. Invariant: which parts there are follows from shapes. */
#include "backend/cpu/split.h"

#include "backend/reference/reference.h"

enum { MOST_INPUTS = 16, MOST_OUTPUTS = 4 };

typedef struct {
  Stream *stream;
  const Node *node;
  const Tensor *in, *out;
  int n_in, n_out;
  Kernel *kernel;
  Shape shape;   /* out[0]'s (or the flat one), of which parts are taken */
  int axis;      /* the last axis that is split; those before are taken one index at a time */
  int64_t ahead; /* how many of these indices there are */
  int64_t step;  /* indices of `axis` in a task */
  int64_t steps; /* tasks along `axis` */
} Split;

int64_t items_of_task(int64_t n, int64_t elements) {
  int64_t items = TASK_ELEMENTS / (elements ? elements : 1);
  return items < 1 ? 1 : items > n ? n : items;
}

/* The part of a tensor that broadcasts to s->shape, aligned at the last axis. */
static Tensor part_of(const Split *s, const Tensor *t, int64_t position) {
  Tensor part = *t;
  int lead = s->shape.rank - t->shape.rank;
  int64_t at[MAX_RANK] = {0}, offset = 0, stride = 1, rest = position / s->steps;
  at[s->axis] = position % s->steps * s->step;
  for (int i = s->axis - 1; i >= 0; i--) {
    at[i] = rest % s->shape.dim[i];
    rest /= s->shape.dim[i];
  }
  if (!t->data)
    return part;
  for (int i = t->shape.rank - 1; i >= 0; i--) {
    int axis = i + lead;
    int64_t dim = t->shape.dim[i];
    if (axis <= s->axis && dim != 1) {
      offset += at[axis] * stride;
      part.shape.dim[i] = axis < s->axis ? 1 : least(s->step, dim - at[axis]);
    }
    stride *= dim;
  }
  part.data = (char *)t->data + (size_t)offset * dtype_bytes(t->dtype);
  return part;
}

static Status run_part(void *context, int64_t i, void *scratch) {
  (void)scratch;
  const Split *s = context;
  Tensor in[MOST_INPUTS], out[MOST_OUTPUTS];
  for (int k = 0; k < s->n_in; k++)
    in[k] = part_of(s, &s->in[k], i);
  for (int k = 0; k < s->n_out; k++)
    out[k] = part_of(s, &s->out[k], i);
  return s->kernel(s->stream, s->node, in, out, NULL, NULL);
}

/* Axes are split from the front until there are enough parts. */
static Status run_split(Split *s, int axes) {
  int64_t elements = shape_elements(s->shape), inner = elements;
  if (axes < 1 || elements < 2 * TASK_ELEMENTS || s->n_in > MOST_INPUTS || s->n_out > MOST_OUTPUTS)
    return s->kernel(s->stream, s->node, s->in, s->out, NULL, NULL);
  s->ahead = 1;
  for (s->axis = 0;; s->axis++) {
    inner /= s->shape.dim[s->axis];
    if (s->axis == axes - 1 || inner <= TASK_ELEMENTS)
      break;
    s->ahead *= s->shape.dim[s->axis];
  }
  s->step = items_of_task(s->shape.dim[s->axis], inner);
  s->steps = (s->shape.dim[s->axis] + s->step - 1) / s->step;
  return pool_run(s->stream->pool, s->ahead * s->steps, run_part, s);
}

Status split_leading(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, int axes, Kernel *kernel) {
  Split s = {.stream = stream,
             .node = node,
             .in = in,
             .out = out,
             .n_in = node->n_in,
             .n_out = node->n_out,
             .kernel = kernel,
             .shape = out->shape};
  return run_split(&s, axes);
}

/* A tensor of `n` elements as [n], of one element as []. */
static bool flatten(const Tensor *t, int64_t n, Tensor *flat) {
  int64_t own = shape_elements(t->shape);
  *flat = *t;
  flat->shape = own == n ? shape_of(1, &n) : (Shape){0};
  return own == n || own == 1;
}

Status split_elementwise(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, Kernel *kernel) {
  int64_t n = shape_elements(out->shape);
  Tensor flat_in[3], flat_out;
  bool flat = node->n_in <= 3 && flatten(out, n, &flat_out);
  for (int i = 0; i < node->n_in && flat; i++)
    flat = flatten(&in[i], n, &flat_in[i]);
  return split_leading(stream, node, flat ? flat_in : in, flat ? &flat_out : out, flat ? 1 : out->shape.rank, kernel);
}

Status split_inputs(Stream *stream, const Node *node, const Tensor *in, const Tensor *out, Kernel *kernel) {
  int64_t n = shape_elements(in->shape);
  Tensor parts[MOST_INPUTS];
  if (node->n_in > MOST_INPUTS || n < 2 * TASK_ELEMENTS) /* so that no small tensor is taken for a parameter */
    return kernel(stream, node, in, out, NULL, NULL);
  for (int i = 0; i < node->n_in; i++) {
    parts[i] = in[i];
    if (shape_equal(in[i].shape, in->shape))
      parts[i].shape = shape_of(1, &n);
    else
      parts[i].shape = (Shape){0}; /* read whole: its kernel knows what lies there */
  }
  Split s = {.stream = stream, .node = node, .in = parts, .n_in = node->n_in, .kernel = kernel, .shape = parts->shape};
  return run_split(&s, 1);
}
