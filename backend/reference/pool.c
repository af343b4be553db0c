/* Pooling and its gradients. Invariant: a plane (a channel of a sample) is alone, so that backends may take some of
 * them at a time; a gradient is summed in the order of the windows. */
#include <math.h>
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"
#include "graph/window.h"

/* One window: its taps along each axis. */
typedef struct {
  Taps axis[WINDOW_AXES];
} Place;

/* Every window of `w` in order: `place` says where it lies, `at` which it is. */
#define EACH_WINDOW(w, place, at)                                                                                      \
  for (int64_t a_ = 0, at = 0; a_ < (w)->out[0]; a_++)                                                                 \
    for (int64_t b_ = ((place).axis[0] = window_taps((w), 0, a_), 0); b_ < (w)->out[1]; b_++)                          \
      for (int64_t c_ = ((place).axis[1] = window_taps((w), 1, b_), 0);                                                \
           c_ < (w)->out[2] && ((place).axis[2] = window_taps((w), 2, c_), true); c_++, at++)

/* Every element of X in a window, in order; it lies at `i` of its plane. */
#define EACH_TAP(w, place, i)                                                                                          \
  for (int64_t d_ = (place)->axis[0].first; d_ < (place)->axis[0].end; d_++)                                           \
    for (int64_t e_ = (place)->axis[1].first; e_ < (place)->axis[1].end; e_++)                                         \
      for (int64_t f_ = (place)->axis[2].first, i = tap_place(w, place, d_, e_, f_); f_ < (place)->axis[2].end;        \
           f_++, i += (w)->dilation[2])

static inline int64_t tap_place(const Window *w, const Place *place, int64_t d, int64_t e, int64_t f) {
  const Taps *t = place->axis;
  int64_t row = (t[0].start + d * w->dilation[0]) * w->in[1] + t[1].start + e * w->dilation[1];
  return row * w->in[2] + t[2].start + f * w->dilation[2];
}

/* What the sum over a window is divided by: nothing, the elements of X in it, or those of the padding, too. */
enum { DIVISOR_NONE, DIVISOR_ELEMENTS, DIVISOR_PADDED };

static double divisor_of(const Place *place, int64_t divisor) {
  double n = 1;
  for (int a = 0; divisor && a < WINDOW_AXES; a++) {
    const Taps *t = &place->axis[a];
    n *= (double)(divisor == DIVISOR_PADDED ? t->padded : t->end > t->first ? t->end - t->first : 0);
  }
  return n > 0 ? n : 1; /* a window of nothing sums to 0 */
}

/* Position i of a plane, counted from its first axis instead of its last. */
static int64_t column_major(const Window *w, int64_t i) {
  int64_t last = i % w->in[2], middle = i / w->in[2] % w->in[1], first = i / w->in[2] / w->in[1];
  return first + w->in[0] * (middle + w->in[1] * last);
}

/* The windows of X [N, C, spatial…], and how many planes, of how many elements before and after. */
typedef struct {
  Window w;
  int64_t planes, from, to;
  int64_t divisor;
} Pool;

static Status pool_of(const Node *node, Shape x, Pool *p) {
  TRY(window_of(node, x, &p->w));
  p->planes = x.dim[0] * x.dim[1];
  p->from = p->w.in[0] * p->w.in[1] * p->w.in[2];
  p->to = p->w.out[0] * p->w.out[1] * p->w.out[2];
  p->divisor = node_int(node, "divisor", DIVISOR_ELEMENTS);
  return OK;
}

#define MAXIMUM(T, S, LEAST)                                                                                           \
  /* The first of the largest elements of a window, -1 where it has none; what is no number is larger, the last one */ \
  /* most (PyTorch's rule). */                                                                                         \
  static inline int64_t largest_##S(const Window *w, const Place *place, const T *x) {                                 \
    int64_t best = -1;                                                                                                 \
    T most = 0;                                                                                                        \
    EACH_TAP(w, place, i)                                                                                              \
    if (best < 0 || x[i] > most || x[i] != x[i]) {                                                                     \
      most = x[i];                                                                                                     \
      best = i;                                                                                                        \
    }                                                                                                                  \
    return best;                                                                                                       \
  }                                                                                                                    \
  static void max_pool_##S(const Window *w, const T *x, T *y, int64_t *indices, int64_t before, bool columns) {        \
    Place place;                                                                                                       \
    EACH_WINDOW(w, place, at) {                                                                                        \
      int64_t best = largest_##S(w, &place, x);                                                                        \
      y[at] = best < 0 ? LEAST : x[best];                                                                              \
      if (indices)                                                                                                     \
        indices[at] = before + (best < 0 ? 0 : columns ? column_major(w, best) : best);                                \
    }                                                                                                                  \
  }
MAXIMUM(float, f32, -INFINITY)
MAXIMUM(double, f64, -INFINITY)
MAXIMUM(int64_t, i64, INT64_MIN)
MAXIMUM(int32_t, i32, INT32_MIN)
MAXIMUM(int8_t, i8, INT8_MIN)
MAXIMUM(uint8_t, u8, 0)

#define GRADIENTS(T, S)                                                                                                \
  static void max_pool_grad_##S(const Window *w, const T *dy, const T *x, T *dx) {                                     \
    Place place;                                                                                                       \
    EACH_WINDOW(w, place, at) {                                                                                        \
      int64_t best = largest_##S(w, &place, x);                                                                        \
      if (best >= 0)                                                                                                   \
        dx[best] += dy[at];                                                                                            \
    }                                                                                                                  \
  }                                                                                                                    \
  static void average_pool_##S(const Window *w, const T *x, T *y, int64_t divisor) {                                   \
    Place place;                                                                                                       \
    EACH_WINDOW(w, place, at) {                                                                                        \
      double sum = 0;                                                                                                  \
      EACH_TAP(w, &place, i)                                                                                           \
      sum += (double)x[i];                                                                                             \
      y[at] = (T)(sum / divisor_of(&place, divisor));                                                                  \
    }                                                                                                                  \
  }                                                                                                                    \
  static void average_pool_grad_##S(const Window *w, const T *dy, T *dx, int64_t divisor) {                            \
    Place place;                                                                                                       \
    EACH_WINDOW(w, place, at) {                                                                                        \
      T share = (T)((double)dy[at] / divisor_of(&place, divisor));                                                     \
      EACH_TAP(w, &place, i)                                                                                           \
      dx[i] += share;                                                                                                  \
    }                                                                                                                  \
  }
GRADIENTS(float, f32)
GRADIENTS(double, f64)

KERNEL(MaxPool, .accepts = takes_pooled) {
  UNUSED;
  Pool k;
  bool columns = node_int(node, "storage_order", 0);
  TRY(pool_of(node, in->shape, &k));
  for (int64_t p = 0; p < k.planes; p++) {
    int64_t *indices = node->n_out > 1 && out[1].data ? (int64_t *)out[1].data + p * k.to : NULL;
    switch (in->dtype) {
#define POOL(TYPE, T, S)                                                                                               \
  case TYPE:                                                                                                           \
    max_pool_##S(&k.w, (const T *)in->data + p * k.from, (T *)out->data + p * k.to, indices, p * k.from, columns);     \
    break;
      POOL(F32, float, f32)
      POOL(F64, double, f64)
      POOL(I64, int64_t, i64)
      POOL(I32, int32_t, i32)
      POOL(I8, int8_t, i8)
      POOL(U8, uint8_t, u8)
    default:
      return unsupported_type(node, in->dtype);
    }
  }
  return OK;
}

static void zero(const Tensor *tensor) {
  size_t bytes = (size_t)shape_elements(tensor->shape) * dtype_bytes(tensor->dtype);
  if (bytes)
    memset(tensor->data, 0, bytes);
}

KERNEL(MaxPoolGrad, .accepts = takes_floats) {
  UNUSED;
  Pool k;
  TRY(float_type(node, in->dtype));
  TRY(pool_of(node, in[1].shape, &k));
  zero(out);
  for (int64_t p = 0; p < k.planes; p++)
    if (in->dtype == F32)
      max_pool_grad_f32(&k.w, (const float *)in->data + p * k.to, (const float *)in[1].data + p * k.from,
                        (float *)out->data + p * k.from);
    else
      max_pool_grad_f64(&k.w, (const double *)in->data + p * k.to, (const double *)in[1].data + p * k.from,
                        (double *)out->data + p * k.from);
  return OK;
}

KERNEL(AveragePool, .accepts = takes_floats) {
  UNUSED;
  Pool k;
  TRY(float_type(node, in->dtype));
  TRY(pool_of(node, in->shape, &k));
  for (int64_t p = 0; p < k.planes; p++)
    if (in->dtype == F32)
      average_pool_f32(&k.w, (const float *)in->data + p * k.from, (float *)out->data + p * k.to, k.divisor);
    else
      average_pool_f64(&k.w, (const double *)in->data + p * k.from, (double *)out->data + p * k.to, k.divisor);
  return OK;
}

KERNEL(AveragePoolGrad, .accepts = takes_floats) {
  UNUSED;
  Pool k;
  TRY(float_type(node, in->dtype));
  TRY(pool_of(node, out->shape, &k));
  zero(out);
  for (int64_t p = 0; p < k.planes; p++)
    if (in->dtype == F32)
      average_pool_grad_f32(&k.w, (const float *)in->data + p * k.to, (float *)out->data + p * k.from, k.divisor);
    else
      average_pool_grad_f64(&k.w, (const double *)in->data + p * k.to, (double *)out->data + p * k.from, k.divisor);
  return OK;
}

/* Where two elements have one place the last one stays. */
KERNEL(MaxUnpool, .accepts = takes_any) {
  UNUSED;
  int64_t n = shape_elements(in->shape), all = shape_elements(out->shape), to;
  size_t size = dtype_bytes(in->dtype);
  zero(out);
  for (int64_t i = 0; i < n; i++) {
    TRY(gather_index(node, &in[1], i, shape_of(1, &all), 0, &to));
    memcpy((char *)out->data + (size_t)to * size, (const char *)in->data + (size_t)i * size, size);
  }
  return OK;
}
