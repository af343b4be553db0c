/* Images read at the places of a grid, and the gradients. Invariant: places and weights are found in double; a gradient
 * is summed in the order of the places, along channels and neighbours in theirs.
 *
 * Coordinates as in ONNX's specification of GridSample (PyTorch's grid_sample but for a cubic near a border, where the
 * place itself is held first); slopes by PyTorch's rule: 0 where a coordinate was held. */
#include <math.h>
#include <string.h>

#include "backend/reference/kernel.h"

enum { AXES = 3, MOST_ALONG = 4, MOST_NEIGHBOURS = MOST_ALONG * MOST_ALONG * MOST_ALONG };

typedef enum { NEAREST, LINEAR, CUBIC } Mode;
typedef enum { ZEROS, BORDER, REFLECTION } Padding;

typedef struct {
  Mode mode;
  Padding padding;
  bool corners;
  int axes;
  int64_t size[AXES]; /* of the spatial axes, the last ones here; those in front are 1 */
  int64_t samples, channels, plane, places;
} Grid;

static Grid grid_of(const Node *node, Shape x, Shape grid) {
  const char *mode = node_string(node, "mode", "linear"), *padding = node_string(node, "padding_mode", "zeros");
  Grid g = {.mode = strcmp(mode, "nearest") == 0 ? NEAREST
                    : strcmp(mode, "cubic") == 0 ? CUBIC
                                                 : LINEAR,
            .padding = strcmp(padding, "border") == 0       ? BORDER
                       : strcmp(padding, "reflection") == 0 ? REFLECTION
                                                            : ZEROS,
            .corners = node_int(node, "align_corners", 0),
            .axes = x.rank - 2,
            .size = {1, 1, 1},
            .samples = x.dim[0],
            .channels = x.dim[1],
            .plane = 1,
            .places = 1};
  for (int i = 0; i < g.axes; i++) {
    g.size[AXES - g.axes + i] = x.dim[2 + i];
    g.plane *= x.dim[2 + i];
    g.places *= grid.dim[1 + i];
  }
  return g;
}

/* Neighbours along one axis: where, -1 outside; how much; and how much more for a grid's coordinate a little larger. */
typedef struct {
  int n;
  int64_t at[MOST_ALONG];
  double weight[MOST_ALONG], slope[MOST_ALONG];
} Along;

static double hold(double x, double low, double high, double *slope) {
  if (x > low && x < high)
    return x;
  *slope = 0;
  return x <= low ? low : high;
}

static double reflect(double x, double low, double high, double *slope) {
  double span = high - low, way = fabs(x - low);
  if (span <= 0) {
    *slope = 0;
    return low;
  }
  double times = floor(way / span), rest = way - times * span;
  bool back = fmod(times, 2) != 0;
  *slope *= (x < low) != back ? -1 : 1;
  return back ? high - rest : low + rest;
}

static double cubic_weight(double t, int k, double *slope) {
  const double a = -0.75;
  double way = k - 1 - t, d = fabs(way), up;
  double w = d <= 1 ? ((a + 2) * d - (a + 3)) * d * d + 1 : ((a * d - 5 * a) * d + 8 * a) * d - 4 * a;
  up = d <= 1 ? (3 * (a + 2) * d - 2 * (a + 3)) * d : (3 * a * d - 10 * a) * d + 8 * a;
  *slope = way > 0 ? -up : up;
  return w;
}

/* A whole coordinate as a position of the axis; -1 outside. */
static int64_t position(const Grid *g, double x, double size) {
  double unused = 1, low = g->corners ? 0 : -0.5;
  if (g->padding == BORDER)
    x = hold(x, 0, size - 1, &unused);
  else if (g->padding == REFLECTION)
    x = hold(reflect(x, low, size - 1 - low, &unused), 0, size - 1, &unused);
  return x >= 0 && x < size ? (int64_t)x : -1;
}

static void find_along(const Grid *g, double at, int64_t length, Along *along) {
  double size = (double)length, low = g->corners ? 0 : -0.5, high = size - 1 - low;
  double slope = g->corners ? (size - 1) / 2 : size / 2;
  double x = g->corners ? (at + 1) / 2 * (size - 1) : ((at + 1) * size - 1) / 2;
  x = x > 1e15 ? 1e15 : x > -1e15 ? x : -1e15; /* also what is no number */
  if (g->padding == REFLECTION && (x < low || x > high))
    x = reflect(x, low, high, &slope);
  if (g->mode == CUBIC ? g->padding == BORDER && (x < low || x > high) : g->padding != ZEROS)
    x = hold(x, 0, size - 1, &slope);
  double first = g->mode == NEAREST ? nearbyint(x) : floor(x), t = x - first;
  along->n = g->mode == NEAREST ? 1 : g->mode == LINEAR ? 2 : 4;
  for (int k = 0; k < along->n; k++) {
    double of_one = 0, w = 1;
    if (g->mode == LINEAR) {
      w = k ? t : 1 - t;
      of_one = k ? 1 : -1;
    } else if (g->mode == CUBIC) {
      w = cubic_weight(t, k, &of_one);
    }
    double whole = first + k - (g->mode == CUBIC);
    along->at[k] = g->mode == CUBIC ? position(g, whole, size) : whole >= 0 && whole < size ? (int64_t)whole : -1;
    along->weight[k] = w;
    along->slope[k] = of_one * slope;
  }
}

/* All neighbours of one place that lie in the image. slope[a]: along axis a of the grid's numbers. */
typedef struct {
  int n;
  int64_t at[MOST_NEIGHBOURS];
  double weight[MOST_NEIGHBOURS], slope[AXES][MOST_NEIGHBOURS];
} Neighbours;

static void find_neighbours(const Grid *g, const double coordinates[AXES], Neighbours *all) {
  Along a[AXES];
  for (int i = 0; i < AXES; i++) {
    a[i] = (Along){.n = 1, .weight = {1}};
    if (i >= AXES - g->axes)
      find_along(g, coordinates[AXES - 1 - i], g->size[i], &a[i]);
  }
  all->n = 0;
  for (int i = 0; i < a[0].n; i++)
    for (int j = 0; j < a[1].n; j++)
      for (int k = 0; k < a[2].n; k++) {
        int n = all->n;
        if (a[0].at[i] < 0 || a[1].at[j] < 0 || a[2].at[k] < 0)
          continue;
        all->at[n] = (a[0].at[i] * g->size[1] + a[1].at[j]) * g->size[2] + a[2].at[k];
        all->weight[n] = a[0].weight[i] * a[1].weight[j] * a[2].weight[k];
        all->slope[0][n] = a[0].weight[i] * a[1].weight[j] * a[2].slope[k];
        all->slope[1][n] = a[0].weight[i] * a[1].slope[j] * a[2].weight[k];
        all->slope[2][n] = a[0].slope[i] * a[1].weight[j] * a[2].weight[k];
        all->n++;
      }
}

#define T float
#define S(name) name##_f32
#include "backend/reference/sample.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/sample.inc"
#undef T
#undef S

FLOAT_KERNEL(GridSample)
FLOAT_KERNEL(GridSampleGradInput)
FLOAT_KERNEL(GridSampleGradGrid)
