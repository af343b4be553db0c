/* Images read at the places of a grid, and the gradients. Invariant: places and weights are found in double; a gradient
 * is summed in the order of the places, along channels and neighbours in theirs. */
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/places.h"

Grid grid_of(const Node *node, Shape x, Shape grid) {
  const char *mode = node_string(node, "mode", "linear"), *padding = node_string(node, "padding_mode", "zeros");
  Grid g = {.mode = strcmp(mode, "nearest") == 0 ? GRID_NEAREST
                    : strcmp(mode, "cubic") == 0 ? GRID_CUBIC
                                                 : GRID_LINEAR,
            .padding = strcmp(padding, "border") == 0       ? GRID_BORDER
                       : strcmp(padding, "reflection") == 0 ? GRID_REFLECTION
                                                            : GRID_ZEROS,
            .corners = node_int(node, "align_corners", 0),
            .axes = x.rank - 2,
            .size = {1, 1, 1},
            .samples = x.dim[0],
            .channels = x.dim[1],
            .plane = 1,
            .places = 1};
  for (int i = 0; i < g.axes; i++) {
    g.size[GRID_AXES - g.axes + i] = x.dim[2 + i];
    g.plane *= x.dim[2 + i];
    g.places *= grid.dim[1 + i];
  }
  return g;
}

/* All neighbours of one place that lie in the image. slope[a]: along axis a of the grid's numbers. */
typedef struct {
  int n;
  int64_t at[GRID_NEIGHBOURS];
  double weight[GRID_NEIGHBOURS], slope[GRID_AXES][GRID_NEIGHBOURS];
} Neighbours;

static void find_neighbours(const Grid *g, const double coordinates[GRID_AXES], Neighbours *all) {
  Along a[GRID_AXES];
  find_axes(g, coordinates, a);
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
