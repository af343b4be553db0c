/* Random points in and around random fields. */
#include "tests/ops/draw.h"

bool draw_points(Draw *d, OpKind op) {
  if (op != OP_PointSample && op != OP_PointSampleGradInput && op != OP_PointSampleGradPoints)
    return false;
  int axes = (int)between(d, 1, 3);
  Shape x = {axes + 2, {between(d, 1, 3), between(d, 0, 19) ? between(d, 1, 4) : 0}};
  Shape points = {3, {x.dim[0], between(d, 0, 19) ? between(d, 1, 30) : 0, axes}};
  Shape y = {3, {x.dim[0], x.dim[1], points.dim[1]}};
  for (int i = 0; i < axes; i++)
    x.dim[i + 2] = between(d, 1, axes == 1 ? 9 : 4);
  input(d, op == OP_PointSample ? x : y);
  if (op == OP_PointSampleGradPoints)
    input(d, x);
  input(d, points)->fill = between(d, 0, 1) ? FILL_ANY : FILL_POSITIVE;
  output(d, op == OP_PointSample ? y : op == OP_PointSampleGradInput ? x : points);
  if (op == OP_PointSampleGradInput)
    put_ints(d, "shape", x.dim, x.rank);
  return true;
}
