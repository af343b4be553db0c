/* Pooling. Invariant: pads reach the graph as numbers, whatever a file asks to be found out. */
#include <string.h>

#include "base/checked.h"
#include "onnx/lower/lower.h"

enum { ATTRIBUTES = 6 };

/* The attributes of a window in the graph, and the numbers that they point to. */
typedef struct {
  int n;
  int64_t kernel[MAX_RANK], strides[MAX_RANK], dilations[MAX_RANK], pads[2 * MAX_RANK];
  Attr attrs[ATTRIBUTES];
  int n_attrs;
} Windows;

/* `absent` everywhere where the attribute is not there. */
static Status list_of(Op *op, const char *name, int n, int64_t absent, int64_t *list) {
  const int64_t *given;
  int count;
  op_ints(op, name, &given, &count);
  for (int i = 0; i < n; i++)
    list[i] = given && count == n ? given[i] : absent;
  return given && count && count != n ? fail(E_SHAPE, "%s has %d numbers, not %d", name, count, n) : OK;
}

/* As many windows as strides fit into the axis: what is missing is padded, an odd one before or behind. */
static Status pad_same(Windows *w, Shape x, bool before) {
  for (int i = 0; i < w->n; i++) {
    int64_t size = x.dim[2 + i], stride = w->strides[i], extent, last;
    if (stride < 1 || w->kernel[i] < 1 || !checked_mul_i64(w->kernel[i] - 1, w->dilations[i], &extent) ||
        !checked_mul_i64(size ? (size - 1) / stride : 0, stride, &last) || !checked_add_i64(last, extent, &last) ||
        !checked_add_i64(last, 1, &extent))
      return fail(E_SHAPE, "windows of %lld by %lld in %s", (long long)w->kernel[i], (long long)stride, SHAPE_STR(x));
    int64_t missing = extent > size ? extent - size : 0;
    w->pads[i] = before ? missing - missing / 2 : missing / 2;
    w->pads[w->n + i] = missing - w->pads[i];
  }
  return OK;
}

static Status windows(Op *op, Windows *w) {
  Shape x = op->in[0]->shape;
  const char *mode;
  const int64_t *kernel;
  *w = (Windows){0};
  op_ints(op, "kernel_shape", &kernel, &w->n);
  if (x.rank < 3 || w->n != x.rank - 2)
    return fail(E_SHAPE, "a kernel of %d axes for %s", w->n, SHAPE_STR(x));
  memcpy(w->kernel, kernel, (size_t)w->n * sizeof *kernel);
  TRY(list_of(op, "strides", w->n, 1, w->strides));
  TRY(list_of(op, "dilations", w->n, 1, w->dilations));
  TRY(op_string(op, "auto_pad", "NOTSET", &mode));
  if (strcmp(mode, "SAME_UPPER") == 0 || strcmp(mode, "SAME_LOWER") == 0)
    TRY(pad_same(w, x, strcmp(mode, "SAME_LOWER") == 0));
  else if (strcmp(mode, "NOTSET") == 0)
    TRY(list_of(op, "pads", 2 * w->n, 0, w->pads));
  else if (strcmp(mode, "VALID") != 0)
    return fail(E_UNSUPPORTED, "auto_pad is '%s'", mode);
  w->attrs[w->n_attrs++] = attr_ints("kernel_shape", w->kernel, w->n);
  w->attrs[w->n_attrs++] = attr_ints("strides", w->strides, w->n);
  w->attrs[w->n_attrs++] = attr_ints("dilations", w->dilations, w->n);
  w->attrs[w->n_attrs++] = attr_ints("pads", w->pads, 2 * w->n);
  w->attrs[w->n_attrs++] = attr_int("ceil_mode", op_int(op, "ceil_mode", 0));
  return OK;
}

static Status max_pool(Op *op) {
  Windows w;
  TRY(windows(op, &w));
  w.attrs[w.n_attrs++] = attr_int("storage_order", op_int(op, "storage_order", 0));
  return op_emit(op, OP_MaxPool, op->in, 1, w.attrs, w.n_attrs, op->out, op_wants(op, 1) ? 2 : 1);
}

static Status average(Op *op, Term *x, int64_t divisor, Term **out) {
  Windows w;
  TRY(windows(op, &w));
  w.attrs[w.n_attrs++] = attr_int("divisor", divisor);
  return op_emit(op, OP_AveragePool, &x, 1, w.attrs, w.n_attrs, out, 1);
}

static Status average_pool(Op *op) {
  return average(op, op->in[0], op_int(op, "count_include_pad", 0) ? 2 : 1, &op->out[0]);
}

/* |x|^p */
static Status power(Op *op, int64_t p, Term **out) {
  if (p == 2)
    return op_emit2(op, OP_Mul, op->in[0], op->in[0], out);
  TRY(op_emit1(op, OP_Abs, op->in[0], out));
  return p == 1 ? OK : op_with_number(op, OP_Pow, *out, (double)p, out);
}

/* sum^(1/p), whose slope at 0 is to be 0 as that of other norms. */
static Status root(Op *op, Term *sum, int64_t p, Term **out) {
  Term *zero, *one, *none, *safe;
  if (p == 1) {
    *out = sum;
    return OK;
  }
  if (p == 2)
    return op_emit1(op, OP_Sqrt, sum, out);
  TRY(op_scalar(op, sum, 0, &zero));
  TRY(op_scalar(op, sum, 1, &one));
  TRY(op_emit2(op, OP_Equal, sum, zero, &none));
  TRY(op_where(op, none, one, sum, &safe));
  TRY(op_with_number(op, OP_Pow, safe, 1.0 / (double)p, &safe));
  return op_where(op, none, zero, safe, out);
}

static Status norm_order(Op *op, int64_t *p) {
  *p = op_int(op, "p", 2);
  return *p < 1 ? fail(E_UNSUPPORTED, "p is %lld", (long long)*p) : OK;
}

static Status lp_pool(Op *op) {
  int64_t p;
  Term *t;
  TRY(norm_order(op, &p));
  TRY(power(op, p, &t));
  TRY(average(op, t, 0, &t));
  return root(op, t, p, &op->out[0]);
}

static Status over_space(Op *op, OpKind kind, Term *x, Term **out) {
  int64_t axes[MAX_RANK] = {0};
  int n = 0;
  for (int i = 2; i < x->shape.rank; i++)
    axes[n++] = i;
  if (x->shape.rank < 2)
    return fail(E_SHAPE, "needs samples and channels, has %s", SHAPE_STR(x->shape));
  return op_reduce(op, kind, x, axes, n, true, out);
}

static Status global_average_pool(Op *op) {
  return over_space(op, OP_ReduceMean, op->in[0], &op->out[0]);
}

/* One window over all; its gradient goes to the first of the largest, as in PyTorch, and not to all of them by parts.
 */
static Status global_max_pool(Op *op) {
  Term *t;
  Shape x = op->in[0]->shape, flat = {.rank = 3, .dim = {1, 1, 1}}, one = x;
  if (x.rank < 3)
    return over_space(op, OP_ReduceMax, op->in[0], &op->out[0]);
  for (int i = 0; i < x.rank; i++)
    flat.dim[i < 2 ? i : 2] *= x.dim[i];
  for (int i = 2; i < x.rank; i++)
    one.dim[i] = 1;
  if (flat.dim[2] == 0)
    return fail(E_SHAPE, "nothing to pool in %s", SHAPE_STR(x));
  Attr kernel = attr_ints("kernel_shape", &flat.dim[2], 1);
  TRY(op_reshape(op, op->in[0], flat, &t));
  TRY(op_emit(op, OP_MaxPool, &t, 1, &kernel, 1, &t, 1));
  return op_reshape(op, t, one, &op->out[0]);
}

static Status global_lp_pool(Op *op) {
  int64_t p;
  Term *t;
  TRY(norm_order(op, &p));
  TRY(power(op, p, &t));
  TRY(over_space(op, OP_ReduceSum, t, &t));
  return root(op, t, p, &op->out[0]);
}

/* The shape that was pooled, as far as it can be told: the least that gives X. */
static Status unpooled_shape(Op *op, const Windows *w, Shape *y) {
  *y = op->in[0]->shape;
  for (int i = 0; i < w->n; i++) {
    int64_t size;
    if (y->dim[2 + i] < 1 || w->strides[i] < 1 || w->kernel[i] < 1 ||
        !checked_mul_i64(y->dim[2 + i] - 1, w->strides[i], &size) || !checked_add_i64(size, w->kernel[i], &size) ||
        w->pads[i] < 0 || w->pads[w->n + i] < 0 || (size -= w->pads[i]) < 0 || (size -= w->pads[w->n + i]) < 0)
      return fail(E_SHAPE, "axis %d of %s was not pooled by %lld at steps of %lld", 2 + i, SHAPE_STR(op->in[0]->shape),
                  (long long)w->kernel[i], (long long)w->strides[i]);
    y->dim[2 + i] = size;
  }
  return OK;
}

/* Indices are places in the shape that was pooled; what output_shape has more lies behind it. */
static Status max_unpool(Op *op) {
  Windows w;
  Shape y;
  const int64_t *asked;
  int n = 0;
  Term *t, *zero;
  TRY(windows(op, &w));
  TRY(unpooled_shape(op, &w, &y));
  Attr shape = attr_ints("shape", y.dim, y.rank);
  TRY(op_emit(op, OP_MaxUnpool, op->in, 2, &shape, 1, &t, 1));
  if (op_has(op, 2))
    TRY(op_known_ints(op, 2, &asked, &n));
  if (n && n != y.rank)
    return fail(E_SHAPE, "output_shape has %d numbers, not %d", n, y.rank);
  TRY(op_scalar(op, t, 0, &zero));
  for (int i = 0; i < n; i++) {
    Shape more = t->shape;
    if (asked[i] < y.dim[i] || (i < 2 && asked[i] != y.dim[i]))
      return fail(E_SHAPE, "axis %d is %lld at least, and asked to be %lld", i, (long long)y.dim[i],
                  (long long)asked[i]);
    if (asked[i] == y.dim[i])
      continue;
    more.dim[i] = asked[i] - y.dim[i];
    Term *parts[2] = {t};
    TRY(op_expand(op, zero, more, &parts[1]));
    TRY(op_concat(op, parts, 2, i, &t));
  }
  op->out[0] = t;
  return OK;
}

#define ROW(name, from, to, most_out, lower, attributes)                                                               \
  { #name, from, to, 1, 1, most_out, lower, attributes }
#define WINDOW "kernel_shape:I! strides:I pads:I auto_pad:s"

const Lowering lowerings_pool[] = {
    ROW(MaxPool, 1, 7, 1, max_pool, WINDOW),
    ROW(MaxPool, 8, 9, 2, max_pool, WINDOW " storage_order:b"),
    ROW(MaxPool, 10, OPSET_LAST, 2, max_pool, WINDOW " storage_order:b dilations:I ceil_mode:b"),
    ROW(AveragePool, 7, 9, 1, average_pool, WINDOW " count_include_pad:b"),
    ROW(AveragePool, 10, 18, 1, average_pool, WINDOW " count_include_pad:b ceil_mode:b"),
    ROW(AveragePool, 19, OPSET_LAST, 1, average_pool, WINDOW " count_include_pad:b ceil_mode:b dilations:I"),
    ROW(LpPool, 2, 17, 1, lp_pool, WINDOW " p:i"),
    ROW(LpPool, 18, OPSET_LAST, 1, lp_pool, WINDOW " p:i ceil_mode:b dilations:I"),
    ROW(GlobalAveragePool, 1, OPSET_LAST, 1, global_average_pool, ""),
    ROW(GlobalMaxPool, 1, OPSET_LAST, 1, global_max_pool, ""),
    ROW(GlobalLpPool, 2, OPSET_LAST, 1, global_lp_pool, "p:i"),
    {"MaxUnpool", 9, OPSET_LAST, 2, 3, 1, max_unpool, "kernel_shape:I! strides:I pads:I"},
    {0},
};
