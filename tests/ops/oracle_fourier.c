/* The naive definition of Fourier transforms. */
#include <math.h>

#include "tests/ops/oracle.h"

/* Element j of the whole signal: one part of it. */
static double signal(const OracleCall *c, Lines lines, int64_t line, int64_t j, int part) {
  int64_t parts = c->in_shape[0].dim[c->in_shape[0].rank - 1], length = node_int(c->node, "length", 0),
          other = length - j;
  bool hermitian = node_int(c->node, "hermitian", 0);
  if (part >= parts || (hermitian && part && (j == 0 || 2 * j == length)))
    return 0;
  if (j < lines.n)
    return c->in[0][(line_at(lines, line) + j * lines.inner) * parts + part];
  if (!hermitian || other >= lines.n)
    return 0;
  return (part ? -1 : 1) * c->in[0][(line_at(lines, line) + other * lines.inner) * parts + part];
}

void oracle_DFT(const OracleCall *c) {
  Shape x = c->in_shape[0], y = c->out_shape[0];
  int64_t parts = y.dim[y.rank - 1], length = node_int(c->node, "length", 0), axis = node_int(c->node, "axis", 0);
  x.rank--;
  y.rank--;
  Lines from = lines_along(x, axis), to = lines_along(y, axis);
  double direction = node_int(c->node, "inverse", 0) ? 1 : -1, scale = node_float(c->node, "scale", 1);
  for (int64_t l = 0; l < to.lines; l++)
    for (int64_t k = 0; k < to.n; k++) {
      double re = 0, im = 0;
      for (int64_t j = 0; j < length; j++) {
        double angle = direction * 2 * M_PI * (double)(j * k % length) / (double)length;
        double a = signal(c, from, l, j, 0), b = signal(c, from, l, j, 1);
        re += a * cos(angle) - b * sin(angle);
        im += a * sin(angle) + b * cos(angle);
      }
      int64_t at = (line_at(to, l) + k * to.inner) * parts;
      c->out[0][at] = scale * re;
      if (parts == 2)
        c->out[0][at + 1] = scale * im;
    }
}
