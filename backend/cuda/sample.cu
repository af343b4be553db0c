/* Images read between their elements: at the places of a grid, and at points. A place a thread, which goes through the
 * channels; sums as the reference's, in the order of places, neighbours and channels. */
#include "backend/cuda/taps.cuh"
#include "backend/reference/places.h"

#define T float
#define S(name) name##_f32
#include "backend/reference/corners.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/corners.inc"
#undef T
#undef S

/* Around place i of all samples, along each axis. */
struct Around {
  Along axis[GRID_AXES];
};

template <class T> DEVICE Around around(const Grid &g, const T *grid, int64_t i) {
  double coordinates[GRID_AXES] = {0};
  for (int k = 0; k < g.axes; k++)
    coordinates[k] = (double)grid[i * g.axes + k];
  Around all;
  find_axes(&g, coordinates, all.axis);
  return all;
}

/* Neighbours that lie in the image, in their order: at(offset, i, j, k). */
template <class F> DEVICE void each_neighbour(const Grid &g, const Around &all, F at) {
  const Along &x = all.axis[0], &y = all.axis[1], &z = all.axis[2];
  for (int i = 0; i < x.n; i++)
    for (int j = 0; j < y.n; j++)
      for (int k = 0; k < z.n; k++)
        if (x.at[i] >= 0 && y.at[j] >= 0 && z.at[k] >= 0)
          at((x.at[i] * g.size[1] + y.at[j]) * g.size[2] + z.at[k], i, j, k);
}

DEVICE double weight_of(const Around &all, int i, int j, int k) {
  return all.axis[0].weight[i] * all.axis[1].weight[j] * all.axis[2].weight[k];
}

/* X [N, C, plane], grid [N, places, axes] → Y [N, C, places] */
template <class T> GLOBAL void grid_sample(Grid g, const T *x, const T *grid, T *y) {
  for (int64_t i = global_thread(); i < g.samples * g.places; i += global_threads()) {
    Around all = around(g, grid, i);
    int64_t row = i / g.places * g.channels;
    for (int64_t c = 0; c < g.channels; c++) {
      const T *from = x + (row + c) * g.plane;
      double sum = 0;
      each_neighbour(g, all,
                     [&](int64_t at, int i, int j, int k) { sum += weight_of(all, i, j, k) * (double)from[at]; });
      y[(row + c) * g.places + i % g.places] = (T)sum;
    }
  }
}

void launch_grid_sample(cudaStream_t s, DType type, const Grid *g, const void *x, const void *grid,
                        void *y){FOR_FLOATS(type, launch(grid_sample<T>, blocks_for(g->samples * g->places),
                                                         BLOCK_THREADS, s, *g, (const T *)x, (const T *)grid, (T *)y))}

int64_t grid_taps(const Grid *g) {
  int64_t taps = 1;
  for (int i = 0; i < g->axes; i++)
    taps *= g->mode == GRID_NEAREST ? 1 : g->mode == GRID_LINEAR ? 2 : ALONG_AXIS;
  return taps;
}

template <class T> GLOBAL void find_grid_taps(Grid g, TapList t, const T *grid) {
  for (int64_t i = global_thread(); i < g.samples * g.places; i += global_threads()) {
    Around all = around(g, grid, i);
    int64_t tap = i * t.each, end = tap + t.each, plane = i / g.places * g.plane;
    each_neighbour(g, all, [&](int64_t at, int a, int b, int c) {
      t.slots[tap] = (uint64_t)(plane + at);
      t.weights[tap++] = weight_of(all, a, b, c);
    });
    for (; tap < end; tap++)
      t.slots[tap] = t.nowhere;
  }
}

template <class T>
static void grid_sample_grad(cudaStream_t s, const Grid &g, const T *dy, const T *grid, void *room, T *dx) {
  TapList t = taps_in(room, g.samples, g.channels, g.plane, g.places, grid_taps(&g));
  launch(find_grid_taps<T>, blocks_for(g.samples * g.places), BLOCK_THREADS, s, g, t, grid);
  run_taps(s, t, dy, dx);
}

void launch_grid_sample_grad(cudaStream_t s, DType type, const Grid *g, const void *dy, const void *grid, void *room,
                             void *dx) {
  FOR_FLOATS(type, grid_sample_grad(s, *g, (const T *)dy, (const T *)grid, room, (T *)dx))
}

template <class T> GLOBAL void grid_grad(Grid g, const T *dy, const T *image, const T *grid, T *dgrid) {
  for (int64_t i = global_thread(); i < g.samples * g.places; i += global_threads()) {
    Around all = around(g, grid, i);
    int64_t row = i / g.places * g.channels;
    double sum[GRID_AXES] = {0};
    for (int64_t c = 0; c < g.channels; c++) {
      const T *from = image + (row + c) * g.plane;
      double d = (double)dy[(row + c) * g.places + i % g.places];
      each_neighbour(g, all, [&](int64_t at, int i, int j, int k) {
        const Along &x = all.axis[0], &y = all.axis[1], &z = all.axis[2];
        double value = (double)from[at] * d;
        sum[0] += x.weight[i] * y.weight[j] * z.slope[k] * value;
        sum[1] += x.weight[i] * y.slope[j] * z.weight[k] * value;
        sum[2] += x.slope[i] * y.weight[j] * z.weight[k] * value;
      });
    }
    for (int a = 0; a < g.axes; a++)
      dgrid[i * g.axes + a] = (T)sum[a];
  }
}

void launch_grid_grad(cudaStream_t s, DType type, const Grid *g, const void *dy, const void *x, const void *grid,
                      void *dgrid){
    FOR_FLOATS(type, launch(grid_grad<T>, blocks_for(g->samples * g->places), BLOCK_THREADS, s, *g, (const T *)dy,
                            (const T *)x, (const T *)grid, (T *)dgrid))}

/* ---- points ---- */

DEVICE Corners_f32 corners_at(const Field &f, const float *point) {
  return corners_f32(&f, point);
}

DEVICE Corners_f64 corners_at(const Field &f, const double *point) {
  return corners_f64(&f, point);
}

/* X [N, C, plane], points [N, points, axes] → Y [N, C, points] */
template <class T> GLOBAL void point_sample(Field f, const T *x, const T *points, T *y) {
  for (int64_t i = global_thread(); i < f.samples * f.points; i += global_threads()) {
    auto c = corners_at(f, points + i * f.axes);
    int64_t row = i / f.points * f.channels;
    for (int64_t channel = 0; channel < f.channels; channel++) {
      T sum = 0;
      for (int k = 0; k < c.n; k++)
        sum += c.share[k] * x[(row + channel) * f.plane + c.at[k]];
      y[(row + channel) * f.points + i % f.points] = sum;
    }
  }
}

void launch_point_sample(cudaStream_t s, DType type, const Field *f, const void *x, const void *points, void *y) {
  FOR_FLOATS(type, launch(point_sample<T>, blocks_for(f->samples * f->points), BLOCK_THREADS, s, *f, (const T *)x,
                          (const T *)points, (T *)y))
}

template <class T> GLOBAL void find_point_taps(Field f, TapList t, const T *points) {
  for (int64_t i = global_thread(); i < f.samples * f.points; i += global_threads()) {
    auto c = corners_at(f, points + i * f.axes);
    for (int64_t k = 0; k < t.each; k++) {
      bool there = k < c.n;
      t.slots[i * t.each + k] = there ? (uint64_t)(i / f.points * f.plane + c.at[k]) : t.nowhere;
      t.weights[i * t.each + k] = there ? (double)c.share[k] : 0;
    }
  }
}

template <class T>
static void point_sample_grad(cudaStream_t s, const Field &f, const T *dy, const T *points, void *room, T *dx) {
  TapList t = taps_in(room, f.samples, f.channels, f.plane, f.points, (int64_t)1 << f.axes);
  launch(find_point_taps<T>, blocks_for(f.samples * f.points), BLOCK_THREADS, s, f, t, points);
  run_taps(s, t, dy, dx);
}

void launch_point_sample_grad(cudaStream_t s, DType type, const Field *f, const void *dy, const void *points,
                              void *room, void *dx) {
  FOR_FLOATS(type, point_sample_grad(s, *f, (const T *)dy, (const T *)points, room, (T *)dx))
}

template <class T> GLOBAL void point_grad(Field f, const T *dy, const T *x, const T *points, T *dpoints) {
  for (int64_t i = global_thread(); i < f.samples * f.points; i += global_threads()) {
    auto c = corners_at(f, points + i * f.axes);
    int64_t row = i / f.points * f.channels;
    double sum[POINT_AXES] = {0};
    for (int64_t channel = 0; channel < f.channels; channel++) {
      double d = (double)dy[(row + channel) * f.points + i % f.points];
      for (int k = 0; k < c.n; k++)
        for (int a = 0; a < f.axes; a++)
          sum[a] += (double)c.slope[k][a] * (double)x[(row + channel) * f.plane + c.at[k]] * d;
    }
    for (int a = 0; a < f.axes; a++)
      dpoints[i * f.axes + a] = (T)sum[a];
  }
}

void launch_point_grad(cudaStream_t s, DType type, const Field *f, const void *dy, const void *x, const void *points,
                       void *dpoints) {
  FOR_FLOATS(type, launch(point_grad<T>, blocks_for(f->samples * f->points), BLOCK_THREADS, s, *f, (const T *)dy,
                          (const T *)x, (const T *)points, (T *)dpoints))
}
