/* Steps that convolve: X's axis 0 may hold samples, merged with others or not, or none. */
#include <string.h>

#include "tests/batch/draw.h"

/* A kernel that moves over v's axes, and the result's sizes. */
typedef struct {
  int64_t kernel[MOST_AXES];
  Dim dims[MOST_AXES];
  char strides[32], pads[64];
} Window;

static bool draw_window(Draw *d, const Drawn *v, bool back, Window *w) {
  char ends[32] = "";
  *w = (Window){.dims = {v->dim[0]}};
  for (int i = 2; i < v->rank; i++) {
    int64_t size = v->dim[i].c, k = 1 + (int64_t)below(d, 3), stride = 1 + (int64_t)below(d, 2);
    int64_t before = (int64_t)below(d, (unsigned)k), behind = (int64_t)below(d, (unsigned)k);
    int64_t y = back ? (size - 1) * stride + k - before - behind : (size + before + behind - k) / stride + 1;
    if (!dim_fixed(v->dim[i]) || size < 1 || size > 30 || y < 1 || (!back && size + before + behind < k))
      return false;
    w->kernel[i] = k;
    w->dims[i] = fixed_dim(y);
    snprintf(w->strides + strlen(w->strides), 8, "%s%d", i > 2 ? "," : "", (int)stride);
    snprintf(w->pads + strlen(w->pads), 8, "%s%d", i > 2 ? "," : "", (int)before);
    snprintf(ends + strlen(ends), 8, ",%d", (int)behind);
  }
  memcpy(w->pads + strlen(w->pads), ends, sizeof ends);
  return true;
}

bool draw_convolved(Draw *d) {
  const Drawn *v = pick(d, REAL, 3);
  bool back = chance(d, 30);
  Window w;
  if (!v || !dim_fixed(v->dim[1]) || v->dim[1].c < 1 || v->dim[1].c > 12 || !draw_window(d, v, back, &w))
    return false;
  int64_t channels = v->dim[1].c, filters = 1 + (int64_t)below(d, 3), group = chance(d, 30) ? channels : 1;
  w.kernel[0] = back ? channels : filters * group;
  w.kernel[1] = back ? filters : channels / group;
  w.dims[1] = fixed_dim(filters * group);
  const char *inputs = texts("%s,%s", v->name, add_reals(d, chance(d, 75), v->rank, w.kernel, -0.5, 0.5));
  if (chance(d, 50))
    inputs = texts("%s,%s", inputs, add_reals(d, chance(d, 75), 1, &w.dims[1].c, -1, 1));
  const char *attributes = texts("strides:I=%s pads:I=%s group:i=%d", w.strides, w.pads, (int)group);
  return result(d, add_node(d, back ? "ConvTranspose" : "Conv", inputs, attributes), REAL, v->rank, w.dims);
}
