/* Where between its elements an image is read, on hosts and devices; everything in double. */
#ifndef BACKEND_REFERENCE_PLACES_H
#define BACKEND_REFERENCE_PLACES_H

#include <math.h>
#include <stdbool.h>

#include "backend/reference/between.h"
#include "base/portable.h"

/* ---- GridSample. Coordinates as in ONNX's specification of GridSample (PyTorch's grid_sample but for a cubic near a
 * border, where the place itself is held first); slopes by PyTorch's rule: 0 where a coordinate was held. ---- */

/* Neighbours along one axis: where, -1 outside; how much; and how much more for a grid's coordinate a little larger. */
typedef struct {
  int n;
  int64_t at[ALONG_AXIS];
  double weight[ALONG_AXIS], slope[ALONG_AXIS];
} Along;

PORTABLE double hold(double x, double low, double high, double *slope) {
  if (x > low && x < high)
    return x;
  *slope = 0;
  return x <= low ? low : high;
}

PORTABLE double reflect(double x, double low, double high, double *slope) {
  double span = high - low, way = fabs(x - low);
  if (span <= 0) {
    *slope = 0;
    return low;
  }
  double times = floor(way / span), rest = way - times * span;
  bool back = fmod(times, 2.0) != 0;
  *slope *= (x < low) != back ? -1 : 1;
  return back ? high - rest : low + rest;
}

PORTABLE double cubic_weight(double t, int k, double *slope) {
  const double a = -0.75;
  double way = k - 1 - t, d = fabs(way), up;
  double w = d <= 1 ? ((a + 2) * d - (a + 3)) * d * d + 1 : ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
  up = d <= 1 ? (3 * (a + 2) * d - 2 * (a + 3)) * d : (3 * a * d - 10 * a) * d + 8 * a;
  *slope = way > 0 ? -up : up;
  return w;
}

/* A whole coordinate as a position of the axis; -1 outside. */
PORTABLE int64_t position(const Grid *g, double x, double size) {
  double unused = 1, low = g->corners ? 0 : -0.5;
  if (g->padding == GRID_BORDER)
    x = hold(x, 0, size - 1, &unused);
  else if (g->padding == GRID_REFLECTION)
    x = hold(reflect(x, low, size - 1 - low, &unused), 0, size - 1, &unused);
  return x >= 0 && x < size ? (int64_t)x : -1;
}

PORTABLE void find_along(const Grid *g, double at, int64_t length, Along *along) {
  double size = (double)length, low = g->corners ? 0 : -0.5, high = size - 1 - low;
  double slope = g->corners ? (size - 1) / 2 : size / 2;
  double x = g->corners ? (at + 1) / 2 * (size - 1) : ((at + 1) * size - 1) / 2;
  x = x > 1e15 ? 1e15 : x > -1e15 ? x : -1e15; /* also what is no number */
  if (g->padding == GRID_REFLECTION && (x < low || x > high))
    x = reflect(x, low, high, &slope);
  if (g->mode == GRID_CUBIC ? g->padding == GRID_BORDER && (x < low || x > high) : g->padding != GRID_ZEROS)
    x = hold(x, 0, size - 1, &slope);
  double first = g->mode == GRID_NEAREST ? nearbyint(x) : floor(x), t = x - first;
  along->n = g->mode == GRID_NEAREST ? 1 : g->mode == GRID_LINEAR ? 2 : 4;
  for (int k = 0; k < along->n; k++) {
    double of_one = 0, w = 1;
    if (g->mode == GRID_LINEAR) {
      w = k ? t : 1 - t;
      of_one = k ? 1 : -1;
    } else if (g->mode == GRID_CUBIC) {
      w = cubic_weight(t, k, &of_one);
    }
    double whole = first + k - (g->mode == GRID_CUBIC);
    along->at[k] = g->mode == GRID_CUBIC ? position(g, whole, size) : whole >= 0 && whole < size ? (int64_t)whole : -1;
    along->weight[k] = w;
    along->slope[k] = of_one * slope;
  }
}

/* Along the axes of the image; where there are less than GRID_AXES, the ones in front have one position, 0. */
PORTABLE void find_axes(const Grid *g, const double coordinates[GRID_AXES], Along a[GRID_AXES]) {
  for (int i = 0; i < GRID_AXES; i++) {
    a[i].n = 1;
    a[i].at[0] = 0;
    a[i].weight[0] = 1;
    a[i].slope[0] = 0;
    if (i >= GRID_AXES - g->axes)
      find_along(g, coordinates[GRID_AXES - 1 - i], g->size[i], &a[i]);
  }
}

/* ---- RoiAlign ---- */

/* Along one axis: where places of a region begin, how far they are apart, how many samples each has. */
typedef struct {
  double start, step;
  int64_t samples;
  double wanted; /* samples, before they are counted */
} Side;

/* False where there are more than PLACE_SAMPLES, or no place. */
PORTABLE bool find_side(const Regions *r, double from, double to, int64_t places, Side *side) {
  side->start = from * r->scale - r->offset;
  double size = to * r->scale - r->offset - side->start;
  if (!r->half_pixel && size < 1)
    size = 1;
  side->step = size / (double)places;
  side->wanted = r->sampling > 0 ? (double)r->sampling : ceil(side->step);
  side->samples = side->wanted > 0 && side->wanted <= PLACE_SAMPLES ? (int64_t)side->wanted : 0;
  return side->wanted <= PLACE_SAMPLES && fabs(side->start) < 1e15;
}

/* One sample along an axis: two neighbours. None where it lies outside. */
typedef struct {
  int64_t at[2];
  double weight[2];
} Between;

PORTABLE bool between(const Side *side, int64_t place, int64_t sample, int64_t size, Between *b) {
  double x = side->start + (double)place * side->step + ((double)sample + 0.5) * side->step / (double)side->samples;
  if (!(x >= -1 && x <= (double)size) || size == 0)
    return false;
  x = x > 0 ? x : 0;
  b->at[0] = (int64_t)x;
  if (b->at[0] >= size - 1) {
    b->at[0] = size - 1;
    x = (double)(size - 1);
  }
  b->at[1] = b->at[0] < size - 1 ? b->at[0] + 1 : b->at[0];
  b->weight[1] = x - (double)b->at[0];
  b->weight[0] = 1 - b->weight[1];
  return true;
}

/* Neighbour k of four of one sample. */
PORTABLE int64_t corner(const Regions *r, const Between *y, const Between *x, int k, double *weight) {
  *weight = y->weight[k / 2] * x->weight[k % 2];
  return y->at[k / 2] * r->w + x->at[k % 2];
}

/* ---- MaxRoiPool ---- */

/* A region in whole elements: first … first + size-1. */
typedef struct {
  int64_t first, size;
} Whole;

PORTABLE double bounded(double x) {
  return x > 1e9 ? 1e9 : x > -1e9 ? x : -1e9; /* also what is no number */
}

PORTABLE Whole whole_of(const Regions *r, double from, double to) {
  int64_t first = (int64_t)round(bounded(from * r->scale)), last = (int64_t)round(bounded(to * r->scale));
  Whole whole = {first, last >= first ? last - first + 1 : 1};
  return whole;
}

/* Elements of a place that lie in the image. */
PORTABLE void bin_of(const Whole *whole, int64_t place, int64_t places, int64_t size, int64_t *first, int64_t *end) {
  double step = (double)whole->size / (double)places;
  *first = whole->first + (int64_t)floor((double)place * step);
  *end = whole->first + (int64_t)ceil((double)(place + 1) * step);
  *first = *first < 0 ? 0 : *first > size ? size : *first;
  *end = *end < 0 ? 0 : *end > size ? size : *end;
}

#endif
