/* Regions of images pooled to one size, and the gradients. Invariant: no region names a sample that is not there, and
 * nothing outside of the image is read; a gradient is summed in the order of regions, channels and places. */
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"
#include "backend/reference/places.h"

Regions regions_of(const Node *node, Shape x, Shape rois) {
  bool half = node_int(node, "half_pixel", 1);
  return (Regions){.regions = rois.dim[0],
                   .samples = x.dim[0],
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

static Status side_of(const Node *node, const Regions *r, double from, double to, int64_t places, Side *side) {
  if (find_side(r, from, to, places, side))
    return OK;
  fail(E_MODEL, "a region from %g to %g has %g samples in a place, and %d are most", from, to, side->wanted,
       PLACE_SAMPLES);
  node_context(node);
  return E_MODEL;
}

/* The region's sample of the batch. */
static Status sample_of(const Node *node, const Tensor *indices, int64_t region, Shape x, int64_t *sample) {
  return gather_index(node, indices, region, x, 0, sample);
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
