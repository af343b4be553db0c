/* One axis read at places between its elements, and the transpose. Invariant: no index leaves its axis; sums run along
 * the taps, a gradient in the order of the places. */
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"

/* Every index once, before any is used. */
static Status check_indices(const Node *node, const Tensor *indices, Shape x, int axis) {
  int64_t n = shape_elements(indices->shape), offset;
  for (int64_t i = 0; i < n; i++)
    TRY(gather_index(node, indices, i, x, axis, &offset));
  return OK;
}

/* X [outer, size, inner], Y [outer, places, inner] along the axis. */
typedef struct {
  Split3 x;
  int64_t places, taps;
  const int64_t *indices; /* [places, taps], negative ones from the end */
  const double *weights;  /* [places, taps] */
} Line;

static Line line_of(const Tensor *in, Shape x, int axis) {
  return (Line){split_at(x, axis), in[1].shape.dim[0], in[1].shape.dim[1], in[1].data, in[2].data};
}

static inline int64_t place_in(const Line *l, int64_t tap) {
  int64_t i = l->indices[tap];
  return i < 0 ? i + l->x.size : i;
}

#define RESAMPLE(T, S)                                                                                                 \
  static void resample_##S(const Line *l, const T *x, T *y) {                                                          \
    int64_t inner = l->x.inner;                                                                                        \
    for (int64_t o = 0; o < l->x.outer; o++, x += l->x.size * inner)                                                   \
      for (int64_t p = 0; p < l->places; p++, y += inner) {                                                            \
        memset(y, 0, (size_t)inner * sizeof *y);                                                                       \
        for (int64_t t = p * l->taps; t < (p + 1) * l->taps; t++) {                                                    \
          const T *from = x + place_in(l, t) * inner, w = (T)l->weights[t];                                            \
          for (int64_t i = 0; i < inner; i++)                                                                          \
            y[i] += w * from[i];                                                                                       \
        }                                                                                                              \
      }                                                                                                                \
  }                                                                                                                    \
  static void resample_grad_##S(const Line *l, const T *dy, T *dx) {                                                   \
    int64_t inner = l->x.inner, of_line = l->x.size * inner;                                                           \
    for (int64_t o = 0; o < l->x.outer; o++, dx += of_line) {                                                          \
      memset(dx, 0, (size_t)of_line * sizeof *dx);                                                                     \
      for (int64_t p = 0; p < l->places; p++, dy += inner)                                                             \
        for (int64_t t = p * l->taps; t < (p + 1) * l->taps; t++) {                                                    \
          T *to = dx + place_in(l, t) * inner, w = (T)l->weights[t];                                                   \
          for (int64_t i = 0; i < inner; i++)                                                                          \
            to[i] += w * dy[i];                                                                                        \
        }                                                                                                              \
    }                                                                                                                  \
  }
RESAMPLE(float, f32)
RESAMPLE(double, f64)

KERNEL(Resample, .accepts = takes_floats) {
  UNUSED;
  int axis = (int)node_int(node, "axis", 0);
  TRY(float_type(node, in->dtype));
  TRY(check_indices(node, &in[1], in->shape, axis));
  Line l = line_of(in, in->shape, axis);
  if (!shape_elements(out->shape))
    return OK;
  if (in->dtype == F32)
    resample_f32(&l, in->data, out->data);
  else
    resample_f64(&l, in->data, out->data);
  return OK;
}

KERNEL(ResampleGrad, .accepts = takes_floats) {
  UNUSED;
  int axis = (int)node_int(node, "axis", 0);
  TRY(float_type(node, in->dtype));
  TRY(check_indices(node, &in[1], out->shape, axis));
  Line l = line_of(in, out->shape, axis);
  if (!shape_elements(out->shape))
    return OK;
  if (in->dtype == F32)
    resample_grad_f32(&l, in->data, out->data);
  else
    resample_grad_f64(&l, in->data, out->data);
  return OK;
}
