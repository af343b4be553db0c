/* Regions of images pooled to one size, and the gradients. Invariant: no region names a sample that is not there, and
 * nothing outside of the image is read; a gradient is summed in the order of regions, channels and places. */
#include <math.h>
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"

enum { MOST_SAMPLES = 1 << 10 }; /* of a place along one axis */

/* X [N, C, H, W] pooled to [R, C, height, width]. */
typedef struct {
  int64_t regions, channels, h, w, height, width;
  double scale, offset;
  int64_t sampling;
  bool half_pixel, largest;
} Regions;

static Regions regions_of(const Node *node, Shape x, Shape rois) {
  bool half = node_int(node, "half_pixel", 1);
  return (Regions){.regions = rois.dim[0],
                   .channels = x.dim[1],
                   .h = x.dim[2],
                   .w = x.dim[3],
                   .height = node_int(node, "output_height", 1),
                   .width = node_int(node, "output_width", 1),
                   .scale = node_float(node, "spatial_scale", 1),
                   .offset = half ? 0.5 : 0,
                   .sampling = node_int(node, "sampling_ratio", 0),
                   .half_pixel = half,
                   .largest = strcmp(node_string(node, "mode", "avg"), "max") == 0};
}

/* ---- RoiAlign ---- */

/* Along one axis: where places of a region begin, how far they are apart, how many samples each has. */
typedef struct {
  double start, step;
  int64_t samples;
} Side;

static Status side_of(const Node *node, const Regions *r, double from, double to, int64_t places, Side *side) {
  double size;
  side->start = from * r->scale - r->offset;
  size = to * r->scale - r->offset - side->start;
  if (!r->half_pixel && size < 1)
    size = 1;
  side->step = size / (double)places;
  double samples = r->sampling > 0 ? (double)r->sampling : ceil(side->step);
  if (!(samples <= MOST_SAMPLES) || !(fabs(side->start) < 1e15)) {
    fail(E_MODEL, "a region from %g to %g has %g samples in a place, and %d are most", from, to, samples, MOST_SAMPLES);
    node_context(node);
    return E_MODEL;
  }
  side->samples = samples > 0 ? (int64_t)samples : 0;
  return OK;
}

/* One sample along an axis: two neighbours. None where it lies outside. */
typedef struct {
  int64_t at[2];
  double weight[2];
} Between;

static bool between(const Side *side, int64_t place, int64_t sample, int64_t size, Between *b) {
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
static inline int64_t corner(const Regions *r, const Between *y, const Between *x, int k, double *weight) {
  *weight = y->weight[k / 2] * x->weight[k % 2];
  return y->at[k / 2] * r->w + x->at[k % 2];
}

/* The region's sample of the batch. */
static Status sample_of(const Node *node, const Tensor *indices, int64_t region, Shape x, int64_t *sample) {
  return gather_index(node, indices, region, x, 0, sample);
}

/* ---- MaxRoiPool ---- */

/* A region in whole elements: first … first + size-1. */
typedef struct {
  int64_t first, size;
} Whole;

static double bounded(double x) {
  return x > 1e9 ? 1e9 : x > -1e9 ? x : -1e9; /* also what is no number */
}

static Whole whole_of(const Regions *r, double from, double to) {
  int64_t first = (int64_t)round(bounded(from * r->scale)), last = (int64_t)round(bounded(to * r->scale));
  return (Whole){first, last >= first ? last - first + 1 : 1};
}

/* Elements of a place that lie in the image. */
static void bin_of(const Whole *whole, int64_t place, int64_t places, int64_t size, int64_t *first, int64_t *end) {
  double step = (double)whole->size / (double)places;
  *first = whole->first + (int64_t)floor((double)place * step);
  *end = whole->first + (int64_t)ceil((double)(place + 1) * step);
  *first = *first < 0 ? 0 : *first > size ? size : *first;
  *end = *end < 0 ? 0 : *end > size ? size : *end;
}

static Status named_sample(const Node *node, double name, int64_t region, Shape x, int64_t *sample) {
  if (name >= 0 && name < (double)x.dim[0]) {
    *sample = (int64_t)name;
    return OK;
  }
  fail(E_MODEL, "region %lld is of sample %g, and there are %lld", (long long)region, name, (long long)x.dim[0]);
  node_context(node);
  return E_MODEL;
}

#define T float
#define S(name) name##_f32
#include "backend/reference/region.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/region.inc"
#undef T
#undef S

FLOAT_KERNEL(RoiAlign)
FLOAT_KERNEL(RoiAlignGrad)
FLOAT_KERNEL(MaxRoiPool)
FLOAT_KERNEL(MaxRoiPoolGrad)
