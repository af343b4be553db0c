#include "graph/window.h"

#include "base/checked.h"

/* An axis of the attributes: `absent` where the list is not there. */
static Status part(const Node *node, const char *name, int n, int i, int64_t least, int64_t absent, int64_t *value) {
  int count;
  const int64_t *list = node_ints(node, name, &count);
  *value = absent;
  if (!list)
    return OK;
  if (count != n)
    return fail(E_SHAPE, "%s has %d numbers, not %d", name, count, n);
  *value = list[i];
  return *value < least ? fail(E_SHAPE, "%s has %lld", name, (long long)*value) : OK;
}

/* How many windows lie along axis a. */
static Status count(Window *w, int a, bool up) {
  int64_t extent, padded, last;
  if (!checked_mul_i64(w->kernel[a] - 1, w->dilation[a], &extent) || !checked_add_i64(extent, 1, &extent) ||
      !checked_add_i64(w->in[a], w->begin[a], &padded) || !checked_add_i64(padded, w->end[a], &padded) ||
      !checked_add_i64(padded, w->stride[a], &last) || !checked_add_i64(last, w->dilation[a], &last))
    return fail(E_SHAPE, "windows beyond all bounds");
  if (extent > padded)
    return fail(E_SHAPE, "a window spans %lld, the axis %lld with its padding", (long long)extent, (long long)padded);
  int64_t steps = (padded - extent) / w->stride[a];
  if (up && (padded - extent) % w->stride[a] && (steps + 1) * w->stride[a] < w->in[a] + w->begin[a])
    steps++;
  w->out[a] = steps + 1;
  return OK;
}

Status window_of(const Node *node, Shape x, Window *w) {
  int n;
  node_ints(node, "kernel_shape", &n);
  if (x.rank < 3 || x.rank > 2 + WINDOW_AXES || n != x.rank - 2)
    return fail(x.rank > 2 + WINDOW_AXES ? E_UNSUPPORTED : E_SHAPE, "a kernel of %d axes for %s", n, SHAPE_STR(x));
  *w = (Window){.n = n};
  for (int a = 0; a < WINDOW_AXES - n; a++)
    w->in[a] = w->out[a] = w->kernel[a] = w->stride[a] = w->dilation[a] = 1;
  for (int i = 0; i < n; i++) {
    int a = WINDOW_AXES - n + i;
    w->in[a] = x.dim[2 + i];
    TRY(part(node, "kernel_shape", n, i, 1, 1, &w->kernel[a]));
    TRY(part(node, "strides", n, i, 1, 1, &w->stride[a]));
    TRY(part(node, "dilations", n, i, 1, 1, &w->dilation[a]));
    TRY(part(node, "pads", 2 * n, i, 0, 0, &w->begin[a]));
    TRY(part(node, "pads", 2 * n, n + i, 0, 0, &w->end[a]));
    TRY(count(w, a, node_int(node, "ceil_mode", 0)));
  }
  return OK;
}

Shape window_shape(const Window *w, Shape x) {
  for (int i = 0; i < w->n; i++)
    x.dim[2 + i] = w->out[WINDOW_AXES - w->n + i];
  return x;
}
