/* Random Fourier transforms. */
#include "tests/ops/draw.h"

bool draw_fourier(Draw *d, OpKind op) {
  if (op != OP_DFT)
    return false;
  Shape x = any_shape(d, 2, 4, 5), y;
  int last = x.rank - 1, axis = (int)between(d, 0, last - 1);
  bool hermitian = between(d, 0, 3) == 0;
  int64_t length = between(d, 1, between(d, 0, 1) ? 20 : 130);
  x.dim[axis] = between(d, 0, hermitian ? length / 2 + 1 : length);
  x.dim[last] = hermitian ? 2 : between(d, 1, 2);
  y = x;
  y.dim[axis] = between(d, 0, 1) ? length : between(d, 1, length);
  y.dim[last] = hermitian ? 1 : between(d, 1, 2);
  input(d, x);
  output(d, y);
  put_int(d, "axis", axis);
  put_int(d, "length", length);
  put_int(d, "places", y.dim[axis]);
  put_int(d, "parts", y.dim[last]);
  put_int(d, "inverse", between(d, 0, 1));
  put_int(d, "hermitian", hermitian);
  return true;
}
