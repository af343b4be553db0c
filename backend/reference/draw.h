/* Numbers from draws, on hosts and devices. Invariant: integers and correctly rounded arithmetic alone, so that they
 * are the same bits everywhere; compilers may not contract products and sums. */
#ifndef BACKEND_REFERENCE_DRAW_H
#define BACKEND_REFERENCE_DRAW_H

#include <math.h>
#include <stdbool.h>

#include "base/philox.h"

/* The natural logarithm by its series in (m - 1) / (m + 1): no library's, whose last digit is its own. */
PORTABLE double portable_log(double x) {
  int exponent;
  double m = frexp(x, &exponent), sum = 0;
  if (m < M_SQRT1_2) {
    m *= 2;
    exponent--;
  }
  double s = (m - 1) / (m + 1), square = s * s;
  for (int k = 27; k > 0; k -= 2)
    sum = sum * square + 2.0 / k;
  return sum * s + exponent * M_LN2;
}

PORTABLE double ratio_of(const double *above, const double *below, double r) {
  double a = above[7], b = below[7];
  for (int i = 6; i >= 0; i--) {
    a = a * r + above[i];
    b = b * r + below[i];
  }
  return a / b;
}

/* The number below which a standard normal variable lies with probability p: M. Wichura, "Algorithm AS 241: The
 * Percentage Points of the Normal Distribution" (1988), PPND16. */
PORTABLE double normal_quantile(double p) {
  static const double centre_above[] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                                        1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                                        3.3430575583588128105e4, 2.5090809287301226727e3},
                      centre_below[] = {1.0,
                                        4.2313330701600911252e1,
                                        6.8718700749205790830e2,
                                        5.3941960214247511077e3,
                                        2.1213794301586595867e4,
                                        3.9307895800092710610e4,
                                        2.8729085735721942674e4,
                                        5.2264952788528545610e3},
                      middle_above[] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
                                        3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
                                        2.27238449892691845833e-2, 7.74545014278341407640e-4},
                      middle_below[] = {1.0,
                                        2.05319162663775882187e0,
                                        1.67638483018380384940e0,
                                        6.89767334985100004550e-1,
                                        1.48103976427480074590e-1,
                                        1.51986665636164571966e-2,
                                        5.47593808499534494600e-4,
                                        1.05075007164441684324e-9},
                      far_above[] = {6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,
                                     2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                     2.71155556874348757815e-5, 2.01033439929228813265e-7},
                      far_below[] = {1.0,
                                     5.99832206555887937690e-1,
                                     1.36929880922735805310e-1,
                                     1.48753612908506148525e-2,
                                     7.86869131145613259100e-4,
                                     1.84631831751005468180e-5,
                                     1.42151175831644588870e-7,
                                     2.04426310338993978564e-15};
  double q = p - 0.5;
  if (fabs(q) <= 0.425)
    return q * ratio_of(centre_above, centre_below, 0.180625 - q * q);
  double r = sqrt(-portable_log(q < 0 ? p : 1 - p));
  double x = r <= 5 ? ratio_of(middle_above, middle_below, r - 1.6) : ratio_of(far_above, far_below, r - 5);
  return q < 0 ? -x : x;
}

/* A number of float32 has 24 digits of the same draw of which one of float64 has 53. */
PORTABLE double uniform(uint64_t draw, bool is_float32) {
  return is_float32 ? (double)(draw >> 40) * 0x1p-24 : (double)(draw >> 11) * 0x1p-53;
}

PORTABLE double normal(uint64_t draw) {
  return normal_quantile(((double)(draw >> 12) + 0.5) * 0x1p-52);
}

#endif
