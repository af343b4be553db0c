/* Parts of tensors as tensors. Invariant: which parts there are follows from shapes. */
#include "backend/cpu/split.h"

#include "backend/reference/reference.h"
#include "graph/op.h"

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
  int64_t step;  /* indices of `axis` in a part */
  int64_t steps; /* parts along `axis` */
  int64_t parts; /* of a task */
} Split;

/* Of a part that is converted: its copies lie in a first-level cache. */
enum { CONVERTED_ELEMENTS = 4096 };

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

/* Elements of any type as they are. */
static bool moves(const Node *node) {
  return op_def(node->op)->traits & OP_ANY_TYPE;
}

/* What is bfloat16 as float32, at *scratch, which moves on; `read`: with its contents. */
static Tensor widened(const Split *s, const Tensor *t, bool read, char **scratch) {
  Tensor wide = *t;
  int64_t n = shape_elements(t->shape);
  if (t->dtype != BF16 || !t->data || moves(s->node))
    return wide;
  wide.dtype = F32;
  wide.data = *scratch;
  *scratch += round_up(n * (int64_t)sizeof(float), MOST_VECTOR_BYTES);
  if (read)
    s->stream->isa->bf16.widen(t->data, wide.data, n);
  return wide;
}

/* The kernel on tensors of which some may be bfloat16. */
static Status run_on(const Split *s, const Tensor *in, const Tensor *out, char *scratch) {
  Tensor wide_in[MOST_INPUTS], wide_out[MOST_OUTPUTS];
  for (int k = 0; k < s->n_in; k++)
    wide_in[k] = widened(s, &in[k], true, &scratch);
  for (int k = 0; k < s->n_out; k++)
    wide_out[k] = widened(s, &out[k], false, &scratch);
  TRY(s->kernel(s->stream, s->node, wide_in, wide_out, NULL, NULL));
  for (int k = 0; k < s->n_out; k++)
    if (wide_out[k].dtype != out[k].dtype)
      s->stream->isa->bf16.narrow(wide_out[k].data, out[k].data, shape_elements(out[k].shape));
  return OK;
}

static Status run_part(const Split *s, int64_t position, void *scratch) {
  Tensor in[MOST_INPUTS], out[MOST_OUTPUTS];
  for (int k = 0; k < s->n_in; k++)
    in[k] = part_of(s, &s->in[k], position);
  for (int k = 0; k < s->n_out; k++)
    out[k] = part_of(s, &s->out[k], position);
  return run_on(s, in, out, scratch);
}

static Status run_task(void *context, int64_t i, void *scratch) {
  const Split *s = context;
  for (int64_t k = i * s->parts; k < least((i + 1) * s->parts, s->ahead * s->steps); k++)
    TRY(run_part(s, k, scratch));
  return OK;
}

static Status run_all(void *context, int64_t i, void *scratch) {
  (void)i;
  const Split *s = context;
  return run_on(s, s->in, s->out, scratch);
}

static bool any_narrow(const Split *s) {
  bool any = false;
  for (int k = 0; k < s->n_in; k++)
    any |= s->in[k].dtype == BF16;
  for (int k = 0; k < s->n_out; k++)
    any |= s->out[k].dtype == BF16;
  return any;
}

/* Operands of parts of so many elements at most. */
static bool copies_fit(const Node *node, int64_t elements) {
  int64_t each = round_up((elements > 2 * TASK_ELEMENTS ? elements : 2 * TASK_ELEMENTS) * (int64_t)sizeof(float),
                          MOST_VECTOR_BYTES);
  return !moves(node) && node->n_in <= MOST_INPUTS && node->n_out <= MOST_OUTPUTS &&
         each <= POOL_SCRATCH_BYTES / (node->n_in + node->n_out);
}

bool split_takes_narrow(const Node *node, const Tensor *in, const Tensor *out) {
  (void)in, (void)out;
  return copies_fit(node, 0);
}

bool split_takes_narrow_rows(const Node *node, const Tensor *in, const Tensor *out) {
  (void)in;
  int axis = (int)node_int(node, "axis", 0);
  int64_t elements = 1;
  for (int i = axis; i < out->shape.rank; i++)
    elements *= out->shape.dim[i];
  return axis > 0 && copies_fit(node, elements);
}

/* Axes are split from the front until there are enough parts. */
static Status run_split(Split *s, int axes) {
  int64_t elements = shape_elements(s->shape), inner = elements;
  if (axes < 1 || elements < 2 * TASK_ELEMENTS || s->n_in > MOST_INPUTS || s->n_out > MOST_OUTPUTS)
    return any_narrow(s) ? pool_run(s->stream->pool, 1, run_all, s)
                         : s->kernel(s->stream, s->node, s->in, s->out, NULL, NULL);
  s->ahead = 1;
  for (s->axis = 0;; s->axis++) {
    inner /= s->shape.dim[s->axis];
    if (s->axis == axes - 1 || inner <= TASK_ELEMENTS)
      break;
    s->ahead *= s->shape.dim[s->axis];
  }
  int64_t some = CONVERTED_ELEMENTS / inner, all = items_of_task(s->shape.dim[s->axis], inner);
  s->step = any_narrow(s) && some < all ? some + !some : all;
  s->steps = (s->shape.dim[s->axis] + s->step - 1) / s->step;
  s->parts = all / s->step;
  return pool_run(s->stream->pool, (s->ahead * s->steps + s->parts - 1) / s->parts, run_task, s);
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
  Tensor flat_in[3], flat_out[2];
  bool flat = node->n_in <= 3 && node->n_out <= 2;
  for (int i = 0; i < node->n_in && flat; i++)
    flat = flatten(&in[i], n, &flat_in[i]);
  for (int i = 0; i < node->n_out && flat; i++)
    flat = flatten(&out[i], n, &flat_out[i]);
  return split_leading(stream, node, flat ? flat_in : in, flat ? flat_out : out, flat ? 1 : out->shape.rank, kernel);
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
