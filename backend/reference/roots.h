/* Roots of one, on hosts and devices. */
#ifndef BACKEND_REFERENCE_ROOTS_H
#define BACKEND_REFERENCE_ROOTS_H

#include <math.h>
#include <stdint.h>

#include "base/portable.h"

/* exp(-2πi k / n), 0 <= k < n, by the first eighth of the circle, so that it is as symmetric as the circle is. */
PORTABLE void root_of_one(int64_t k, int64_t n, double *re, double *im) {
  const double circle = 6.283185307179586;
  double side = -1;
  if (2 * k > n) { /* the conjugate of n - k */
    k = n - k;
    side = 1;
  }
  if (8 * k <= n) {
    double angle = circle * (double)k / (double)n;
    *re = cos(angle);
    *im = side * sin(angle);
  } else if (4 * k <= n) { /* reflected at 1/8: k/n -> 1/4 - k/n */
    double angle = circle * (double)(n - 4 * k) / (4 * (double)n);
    *re = sin(angle);
    *im = side * cos(angle);
  } else if (8 * k < 3 * n) { /* at 1/4 */
    double angle = circle * (double)(4 * k - n) / (4 * (double)n);
    *re = -sin(angle);
    *im = side * cos(angle);
  } else {
    double angle = circle * (double)(n - 2 * k) / (2 * (double)n);
    *re = -cos(angle);
    *im = side * sin(angle);
  }
}

#endif
