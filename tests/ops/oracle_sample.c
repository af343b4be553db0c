/* Naive definitions of what reads images where data says. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ops/oracle.h"

static bool is(const OracleCall *c, const char *name, const char *absent, const char *word) {
  return strcmp(node_string(c->node, name, absent), word) == 0;
}

/* ---- GridSample ---- */

/* A number, and how fast it grows with the coordinate of a grid. */
typedef struct {
  double x, slope;
} Dual;

/* Mirrored at both ends until it lies between them. */
static Dual mirrored(Dual d, double low, double high) {
  if (high <= low)
    return (Dual){low, 0};
  while (d.x < low || d.x > high)
    d = (Dual){d.x < low ? 2 * low - d.x : 2 * high - d.x, -d.slope};
  return d;
}

static Dual held(Dual d, double size) {
  return d.x <= 0 ? (Dual){0, 0} : d.x >= size - 1 ? (Dual){size - 1, 0} : d;
}

/* What element i counts at place x of an axis, without padding. */
static Dual pull(const OracleCall *c, Dual place, double i) {
  double d = fabs(place.x - i), a = -0.75, up = place.x < i ? -place.slope : place.slope;
  if (is(c, "mode", "linear", "nearest"))
    return (Dual){nearbyint(place.x) == i, 0};
  if (is(c, "mode", "linear", "linear"))
    return d < 1 ? (Dual){1 - d, -up} : (Dual){0, 0};
  if (d <= 1)
    return (Dual){(a + 2) * pow(d, 3) - (a + 3) * d * d + 1, up * (3 * (a + 2) * d * d - 2 * (a + 3) * d)};
  return d < 2 ? (Dual){a * pow(d, 3) - 5 * a * d * d + 8 * a * d - 4 * a, up * (3 * a * d * d - 10 * a * d + 8 * a)}
               : (Dual){0, 0};
}

/* What element `at` of an axis counts for the coordinate g of a grid. */
static Dual along(const OracleCall *c, double g, int64_t at, int64_t length) {
  bool corners = node_int(c->node, "align_corners", 0);
  double size = (double)length, low = corners ? 0 : -0.5, high = size - 1 - low;
  Dual sum = {0, 0},
       x = corners ? (Dual){(g + 1) / 2 * (size - 1), (size - 1) / 2} : (Dual){((g + 1) * size - 1) / 2, size / 2};
  bool border = is(c, "padding_mode", "zeros", "border"), reflects = is(c, "padding_mode", "zeros", "reflection");
  bool cubic = is(c, "mode", "linear", "cubic");
  if (reflects)
    x = mirrored(x, low, high);
  if ((border && (!cubic || x.x < low || x.x > high)) || (reflects && !cubic))
    x = held(x, size);
  for (double i = floor(x.x) - 2; i <= floor(x.x) + 3; i++) { /* elements beyond the ends stand for those inside */
    Dual own = {i, 0}, count = pull(c, x, i);
    own = border ? held(own, size) : reflects ? held(mirrored(own, low, high), size) : own;
    if (own.x == (double)at)
      sum = (Dual){sum.x + count.x, sum.slope + count.slope};
  }
  return sum;
}

/* What element `at` of the plane counts at place p of the grid of sample n, and how that grows with number `k` of the
 * place. */
static Dual counts(const OracleCall *c, Shape x, const double *grid, Shape shape, Position place, Position at,
                   int64_t k) {
  Dual product = {1, 0};
  Position p = {{place.at[0]}};
  for (int i = 2; i < x.rank; i++)
    p.at[i - 1] = place.at[i];
  for (int i = 2; i < x.rank; i++) {
    p.at[x.rank - 1] = x.rank - 1 - i;
    Dual one = along(c, grid[element_at(shape, p)], at.at[i], x.dim[i]);
    product.slope = k == x.rank - 1 - i ? product.x * one.slope : product.slope * one.x;
    product.x *= one.x;
  }
  return product;
}

/* Every element of X at every place: forwards into Y, or backwards from dY into dX. */
static void grid_sample(const OracleCall *c, Shape x, Shape y, const double *from, double *to, bool backwards) {
  memset(to, 0, (size_t)shape_elements(backwards ? x : y) * sizeof *to);
  for (int64_t i = 0; i < shape_elements(y); i++)
    for (int64_t k = 0; k < shape_elements(x); k++) {
      Position p = position_of(y, i), q = position_of(x, k);
      if (p.at[0] == q.at[0] && p.at[1] == q.at[1])
        to[backwards ? k : i] += counts(c, x, c->in[1], c->in_shape[1], p, q, -1).x * from[backwards ? i : k];
    }
}

void oracle_GridSample(const OracleCall *c) {
  grid_sample(c, c->in_shape[0], c->out_shape[0], c->in[0], c->out[0], false);
}

void oracle_GridSampleGradInput(const OracleCall *c) {
  grid_sample(c, c->out_shape[0], c->in_shape[0], c->in[0], c->out[0], true);
}

void oracle_GridSampleGradGrid(const OracleCall *c) {
  Shape y = c->in_shape[0], x = c->in_shape[1], grid = c->in_shape[2];
  memset(c->out[0], 0, (size_t)shape_elements(grid) * sizeof *c->out[0]);
  for (int64_t i = 0; i < shape_elements(grid); i++)
    for (int64_t k = 0; k < shape_elements(y); k++)
      for (int64_t l = 0; l < shape_elements(x); l++) {
        Position at = position_of(grid, i), p = position_of(y, k), q = position_of(x, l);
        bool here = p.at[0] == at.at[0] && q.at[0] == at.at[0] && p.at[1] == q.at[1];
        for (int j = 2; j < y.rank; j++)
          here &= p.at[j] == at.at[j - 1];
        if (here)
          c->out[0][i] += counts(c, x, c->in[2], grid, p, q, at.at[x.rank - 1]).slope * c->in[0][k] * c->in[1][l];
      }
}

/* ---- MaxUnpool ---- */

void oracle_MaxUnpool(const OracleCall *c) {
  memset(c->out[0], 0, (size_t)shape_elements(c->out_shape[0]) * sizeof *c->out[0]);
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    int64_t at = (int64_t)c->in[1][i];
    c->out[0][at < 0 ? at + shape_elements(c->out_shape[0]) : at] = c->in[0][i];
  }
}

/* ---- regions ---- */

/* Neighbours of x along an axis and what they count; false outside. */
static bool neighbours(double x, double size, double at[2], double weight[2]) {
  if (x < -1 || x > size)
    return false;
  x = fmin(fmax(x, 0), size - 1);
  at[0] = floor(x);
  at[1] = fmin(at[0] + 1, size - 1);
  weight[1] = x - at[0];
  weight[0] = 1 - weight[1];
  return true;
}

typedef struct {
  double start, step, samples;
} Extent;

static Extent extent(const OracleCall *c, double from, double to, double places) {
  bool half = node_int(c->node, "half_pixel", 1);
  double scale = node_float(c->node, "spatial_scale", 1), size = (to - from) * scale;
  double samples = (double)node_int(c->node, "sampling_ratio", 0);
  size = half ? size : fmax(size, 1);
  samples = samples > 0 ? samples : fmax(ceil(size / places), 0);
  return (Extent){from * scale - (half ? 0.5 : 0), size / places, samples};
}

/* One place of a plane of x: gives it, and adds dy, backwards, to dx. */
static double align(const OracleCall *c, Shape shape, Extent rows, Extent columns, double i, double j, const double *x,
                    double dy, double *dx) {
  double most = -INFINITY, sum = 0, of_best = 0, n = fmax(rows.samples * columns.samples, 1);
  bool largest = is(c, "mode", "avg", "max");
  int64_t best = -1;
  for (double a = 0; a < rows.samples; a++)
    for (double b = 0; b < columns.samples; b++) {
      double at_y[2], at_x[2], w_y[2], w_x[2];
      bool inside =
          neighbours(rows.start + rows.step * (i + (a + 0.5) / rows.samples), (double)shape.dim[2], at_y, w_y);
      inside &=
          neighbours(columns.start + columns.step * (j + (b + 0.5) / columns.samples), (double)shape.dim[3], at_x, w_x);
      if (!inside && most < 0) {
        most = 0;
        best = -1;
      }
      for (int k = 0; inside && k < 4; k++) {
        int64_t at = (int64_t)at_y[k / 2] * shape.dim[3] + (int64_t)at_x[k % 2];
        double w = w_y[k / 2] * w_x[k % 2];
        sum += w * x[at];
        if (!largest)
          dx[at] += w * dy / n;
        if (w * x[at] > most) {
          most = w * x[at];
          of_best = w;
          best = at;
        }
      }
    }
  if (largest && best >= 0)
    dx[best] += of_best * dy;
  return largest ? (isinf(most) ? 0 : most) : sum / n;
}

/* All places of all regions; dx [X's shape] gets what dy (ones where it is not there) gives. */
static void align_all(const OracleCall *c, const double *x, Shape shape, const double *rois, const double *indices,
                      Shape y_shape, double *y, const double *dy, double *dx) {
  memset(dx, 0, (size_t)shape_elements(shape) * sizeof *dx);
  for (int64_t k = 0; k < shape_elements(y_shape); k++) {
    Position p = position_of(y_shape, k);
    const double *roi = rois + 4 * p.at[0];
    int64_t sample = (int64_t)indices[p.at[0]];
    sample += sample < 0 ? shape.dim[0] : 0;
    int64_t plane = (sample * shape.dim[1] + p.at[1]) * shape.dim[2] * shape.dim[3];
    double value = align(c, shape, extent(c, roi[1], roi[3], (double)y_shape.dim[2]),
                         extent(c, roi[0], roi[2], (double)y_shape.dim[3]), (double)p.at[2], (double)p.at[3], x + plane,
                         dy ? dy[k] : 1, dx + plane);
    if (y)
      y[k] = value;
  }
}

void oracle_RoiAlign(const OracleCall *c) {
  double *dx = calloc((size_t)shape_elements(c->in_shape[0]) + 1, sizeof *dx);
  align_all(c, c->in[0], c->in_shape[0], c->in[1], c->in[2], c->out_shape[0], c->out[0], NULL, dx);
  free(dx);
}

void oracle_RoiAlignGrad(const OracleCall *c) {
  align_all(c, c->in[1], c->in_shape[1], c->in[2], c->in[3], c->in_shape[0], NULL, c->in[0], c->out[0]);
}

/* The element of x that place p takes, -1: none. */
static int64_t region_maximum(const OracleCall *c, const double *x, Shape shape, const double *rois, Shape y,
                              Position p) {
  const double *roi = rois + 5 * p.at[0];
  double scale = node_float(c->node, "spatial_scale", 1);
  int64_t best = -1;
  for (int64_t i = 0; i < shape_elements(shape); i++) {
    Position at = position_of(shape, i);
    bool inside = at.at[0] == (int64_t)roi[0] && at.at[1] == p.at[1];
    for (int k = 0; k < 2; k++) { /* x of the last axis, y of the one before */
      double from = round(roi[1 + k] * scale), step = fmax(round(roi[3 + k] * scale) - from + 1, 1);
      double place = (double)p.at[3 - k], position = (double)at.at[3 - k];
      step /= (double)y.dim[3 - k];
      inside &= position >= from + floor(place * step) && position < from + ceil((place + 1) * step);
    }
    if (inside && (best < 0 || x[i] > x[best]))
      best = i;
  }
  return best;
}

void oracle_MaxRoiPool(const OracleCall *c) {
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++) {
    int64_t best =
        region_maximum(c, c->in[0], c->in_shape[0], c->in[1], c->out_shape[0], position_of(c->out_shape[0], i));
    c->out[0][i] = best < 0 ? 0 : c->in[0][best];
  }
}

void oracle_MaxRoiPoolGrad(const OracleCall *c) {
  memset(c->out[0], 0, (size_t)shape_elements(c->out_shape[0]) * sizeof *c->out[0]);
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    int64_t best =
        region_maximum(c, c->in[1], c->in_shape[1], c->in[2], c->in_shape[0], position_of(c->in_shape[0], i));
    if (best >= 0)
      c->out[0][best] += c->in[0][i];
  }
}
