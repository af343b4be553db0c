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
