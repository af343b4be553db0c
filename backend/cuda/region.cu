/* Regions of images pooled to one size, and the gradients. Invariant: a region whose sample is not there, or whose
 * places have too many samples, is reported and reads nothing. */
#include "backend/cuda/fault.cuh"
#include "backend/cuda/taps.cuh"
#include "backend/reference/places.h"

DEVICE bool aligns(const RegionWork &w) {
  return w.indices != NULL;
}

/* The sample of a region of RoiAlign; -1: none. */
DEVICE int64_t named_by_index(const RegionWork &w, int64_t region) {
  int64_t index = index_at(w.index_type, w.indices, region);
  return index < -w.r.samples || index >= w.r.samples ? -1 : index < 0 ? index + w.r.samples : index;
}

/* A region's sample and sides; false: reported. */
template <class T>
DEVICE bool find_sides(const RegionWork &w, const Reporter &reporter, int64_t region, int64_t *sample, Side *rows,
                       Side *columns) {
  const Regions &r = w.r;
  const T *roi = (const T *)w.rois + 4 * region;
  Shape x = {4, {r.samples, r.channels, r.h, r.w}};
  *sample = named_by_index(w, region);
  if (*sample < 0) {
    report(reporter, 0, x, region, index_at(w.index_type, w.indices, region));
    return false;
  }
  for (int k = 1; k >= 0; k--) {
    double from = (double)roi[k], to = (double)roi[k + 2];
    Side *side = k ? rows : columns;
    if (!find_side(&r, from, to, k ? r.height : r.width, side)) {
      report(reporter, FAULT_REGION, x, region, 0, from, to, side->wanted);
      return false;
    }
  }
  return true;
}

/* What a place gives, and which element it came from (-1: none) with which weight, where it is one. */
struct Pooled {
  double value;
  int64_t best;
  double weight;
};

/* The mean of a place's samples, or the largest weighted neighbour. */
template <class T>
DEVICE Pooled align(const Regions &r, const Side &rows, const Side &columns, int64_t i, int64_t j, const T *x) {
  int64_t count = rows.samples * columns.samples;
  Pooled most = {0, -1, 0};
  double sum = 0;
  bool any = false;
  for (int64_t a = 0; a < rows.samples; a++)
    for (int64_t b = 0; b < columns.samples; b++) {
      Between y, z;
      bool inside = between(&rows, i, a, r.h, &y) && between(&columns, j, b, r.w, &z);
      for (int k = 0; k < (inside ? 4 : 1); k++) { /* what lies outside is one 0 */
        double weight = 0;
        int64_t at = inside ? corner(&r, &y, &z, k, &weight) : -1;
        double value = inside ? weight * (double)x[at] : 0;
        sum += value;
        if (!any || value > most.value)
          most = Pooled{value, at, weight};
        any = true;
      }
    }
  if (r.largest)
    return most;
  return Pooled{sum / (double)(count > 1 ? count : 1), -1, 0};
}

/* The first of the largest elements of a place of MaxRoiPool. */
template <class T> DEVICE Pooled largest_in(const Regions &r, const T *roi, int64_t i, int64_t j, const T *x) {
  Whole rows = whole_of(&r, (double)roi[2], (double)roi[4]), columns = whole_of(&r, (double)roi[1], (double)roi[3]);
  int64_t first, end, left, right, best = -1;
  bin_of(&rows, i, r.height, r.h, &first, &end);
  bin_of(&columns, j, r.width, r.w, &left, &right);
  for (int64_t a = first; a < end; a++)
    for (int64_t b = left; b < right; b++)
      if (best < 0 || x[a * r.w + b] > x[best])
        best = a * r.w + b;
  return Pooled{best < 0 ? 0 : (double)x[best], best, 1};
}

/* Result number `at` of [regions, channels, height, width]; plane: where its channel begins in X. */
template <class T> DEVICE Pooled pool_at(const RegionWork &w, const Reporter &reporter, int64_t at, int64_t *plane) {
  const Regions &r = w.r;
  const T *x = (const T *)w.x;
  int64_t j = at % r.width, i = at / r.width % r.height, channel = at / (r.width * r.height) % r.channels;
  int64_t region = at / (r.width * r.height * r.channels), sample;
  *plane = 0;
  if (aligns(w)) {
    Side rows, columns;
    if (!find_sides<T>(w, reporter, region, &sample, &rows, &columns))
      return Pooled{0, -1, 0};
    *plane = (sample * r.channels + channel) * r.h * r.w;
    return align(r, rows, columns, i, j, x + *plane);
  }
  const T *roi = (const T *)w.rois + 5 * region;
  double name = (double)roi[0];
  if (!(name >= 0 && name < (double)r.samples)) {
    Shape samples = {1, {r.samples}};
    report(reporter, FAULT_SAMPLE, samples, region, 0, name);
    return Pooled{0, -1, 0};
  }
  *plane = ((int64_t)name * r.channels + channel) * r.h * r.w;
  return largest_in(r, roi, i, j, x + *plane);
}

static int64_t results_of(const Regions &r) {
  return r.regions * r.channels * r.height * r.width;
}

template <class T> GLOBAL void pool_regions(RegionWork w, Reporter reporter, int64_t n, T *y) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t plane;
    y[i] = (T)pool_at<T>(w, reporter, i, &plane).value;
  }
}

void launch_regions(cudaStream_t s, DType type, const RegionWork *w, Reporter reporter, void *y) {
  int64_t n = results_of(w->r);
  FOR_FLOATS(type, launch(pool_regions<T>, blocks_for(n), BLOCK_THREADS, s, *w, reporter, n, (T *)y))
}

/* ---- the gradient of maxima: a result is one tap ---- */

template <class T> GLOBAL void find_maxima(RegionWork w, Reporter reporter, TapList t) {
  for (int64_t i = global_thread(); i < t.count; i += global_threads()) {
    int64_t plane;
    Pooled p = pool_at<T>(w, reporter, i, &plane);
    t.slots[i] = p.best < 0 ? t.nowhere : (uint64_t)(plane + p.best);
    t.weights[i] = p.weight;
  }
}

template <class T>
static void maxima_grad(cudaStream_t s, const RegionWork &w, Reporter reporter, const T *dy, void *room, T *dx) {
  TapList t = taps_in(room, 1, 1, w.r.samples * w.r.channels * w.r.h * w.r.w, results_of(w.r), 1);
  launch(find_maxima<T>, blocks_for(t.count), BLOCK_THREADS, s, w, reporter, t);
  run_taps(s, t, dy, dx);
}

/* ---- the gradient of means: what a place takes of an element is a product of what it takes of its row and column.
 * ----
 */

/* rows [regions, height, h], columns [regions, width, w]: sums of the samples' weights, the mean's divisor in the
 * rows'. A place a thread. */
template <class T> GLOBAL void find_shares(RegionWork w, Reporter reporter, double *rows_share, double *columns_share) {
  const Regions &r = w.r;
  int64_t both = r.height + r.width;
  for (int64_t k = global_thread(); k < r.regions * both; k += global_threads()) {
    int64_t region = k / both, place = k % both, sample;
    bool is_row = place < r.height;
    Side rows, columns;
    int64_t size = is_row ? r.h : r.w;
    place -= is_row ? 0 : r.height;
    double *share =
        is_row ? rows_share + (region * r.height + place) * r.h : columns_share + (region * r.width + place) * r.w;
    for (int64_t i = 0; i < size; i++)
      share[i] = 0;
    if (!find_sides<T>(w, reporter, region, &sample, &rows, &columns))
      continue;
    int64_t count = rows.samples * columns.samples;
    double divisor = is_row && count > 1 ? (double)count : 1;
    const Side &side = is_row ? rows : columns;
    for (int64_t a = 0; a < side.samples; a++) {
      Between b;
      if (!between(&side, place, a, size, &b))
        continue;
      share[b.at[0]] += b.weight[0] / divisor;
      share[b.at[1]] += b.weight[1] / divisor;
    }
  }
}

/* An element of X a thread, which goes through the regions of its sample. */
template <class T>
GLOBAL void means_grad(RegionWork w, const double *rows_share, const double *columns_share, const T *dy, T *dx) {
  const Regions &r = w.r;
  int64_t n = r.samples * r.channels * r.h * r.w;
  for (int64_t e = global_thread(); e < n; e += global_threads()) {
    int64_t column = e % r.w, row = e / r.w % r.h, channel = e / (r.w * r.h) % r.channels;
    int64_t sample = e / (r.w * r.h * r.channels);
    double sum = 0;
    for (int64_t region = 0; region < r.regions; region++) {
      if (named_by_index(w, region) != sample)
        continue;
      const T *d = dy + (region * r.channels + channel) * r.height * r.width;
      for (int64_t i = 0; i < r.height; i++) {
        double share = rows_share[(region * r.height + i) * r.h + row];
        for (int64_t j = 0; share != 0 && j < r.width; j++)
          sum += share * columns_share[(region * r.width + j) * r.w + column] * (double)d[i * r.width + j];
      }
    }
    dx[e] = (T)sum;
  }
}

template <class T>
static void regions_grad(cudaStream_t s, const RegionWork &w, Reporter reporter, const T *dy, void *room, T *dx) {
  const Regions &r = w.r;
  if (!w.indices || r.largest) {
    maxima_grad(s, w, reporter, dy, room, dx);
    return;
  }
  double *rows_share = (double *)room, *columns_share = rows_share + r.regions * r.height * r.h;
  launch(find_shares<T>, blocks_for(r.regions * (r.height + r.width)), BLOCK_THREADS, s, w, reporter, rows_share,
         columns_share);
  launch(means_grad<T>, blocks_for(r.samples * r.channels * r.h * r.w), BLOCK_THREADS, s, w, rows_share, columns_share,
         dy, dx);
}

size_t region_room(const Regions *r, bool align) {
  if (!align || r->largest)
    return 3 * sizeof(double) * (size_t)results_of(*r);
  return sizeof(double) * (size_t)(r->regions * (r->height * r->h + r->width * r->w));
}

void launch_regions_grad(cudaStream_t s, DType type, const RegionWork *w, Reporter reporter, const void *dy, void *room,
                         void *dx) {
  FOR_FLOATS(type, regions_grad(s, *w, reporter, (const T *)dy, room, (T *)dx))
}
