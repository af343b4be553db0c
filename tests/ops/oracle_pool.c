/* Naive definitions of pooling and resampling: every tap of every window, from its position. */
#include <math.h>

#include "tests/ops/oracle.h"

static int64_t number(const OracleCall *c, const char *name, int i, int64_t absent) {
  int n;
  const int64_t *list = node_ints(c->node, name, &n);
  return list ? list[i] : absent;
}

/* Tap k of the window at position p of the pooled shape: where it lies in x; *inside and *padded say whether it does.
 */
static int64_t tap_at(const OracleCall *c, Shape x, Position p, int64_t k, bool *inside, bool *padded) {
  *inside = *padded = true;
  for (int i = x.rank - 3; i >= 0; i--) {
    int64_t kernel = number(c, "kernel_shape", i, 1), size = x.dim[2 + i];
    int64_t at = p.at[2 + i] * number(c, "strides", i, 1) - number(c, "pads", i, 0);
    at += k % kernel * number(c, "dilations", i, 1);
    k /= kernel;
    p.at[2 + i] = at;
    *inside &= at >= 0 && at < size;
    *padded &= at < size + number(c, "pads", x.rank - 2 + i, 0);
  }
  return *inside ? element_at(x, p) : 0;
}

static int64_t taps_of(const OracleCall *c, Shape x) {
  int64_t taps = 1;
  for (int i = 0; i < x.rank - 2; i++)
    taps *= number(c, "kernel_shape", i, 1);
  return taps;
}

/* The element of x that the window at p takes; -1: none. */
static int64_t maximum(const OracleCall *c, const double *values, Shape x, Position p) {
  int64_t best = -1;
  for (int64_t k = 0; k < taps_of(c, x); k++) {
    bool inside, padded;
    int64_t i = tap_at(c, x, p, k, &inside, &padded);
    if (inside && (best < 0 || values[i] > values[best]))
      best = i;
  }
  return best;
}

/* Element i of x with the spatial axes counted the other way round. */
static int64_t turned(Shape x, int64_t i) {
  Position p = position_of(x, i);
  int64_t at = 0;
  for (int k = x.rank - 1; k >= 2; k--)
    at = at * x.dim[k] + p.at[k];
  int64_t plane = 1;
  for (int k = 2; k < x.rank; k++)
    plane *= x.dim[k];
  return i / plane * plane + at;
}

void oracle_MaxPool(const OracleCall *c) {
  Shape x = c->in_shape[0];
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++) {
    int64_t best = maximum(c, c->in[0], x, position_of(c->out_shape[0], i));
    c->out[0][i] = best < 0 ? -INFINITY : c->in[0][best];
    if (c->n_out > 1 && c->out[1])
      c->out[1][i] = (double)(node_int(c->node, "storage_order", 0) ? turned(x, best) : best);
  }
}

void oracle_MaxPoolGrad(const OracleCall *c) {
  Shape x = c->in_shape[1];
  for (int64_t i = 0; i < shape_elements(x); i++)
    c->out[0][i] = 0;
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    int64_t best = maximum(c, c->in[1], x, position_of(c->in_shape[0], i));
    if (best >= 0)
      c->out[0][best] += c->in[0][i];
  }
}

/* What tap k counts in a mean, by the attribute divisor. */
static double share(const OracleCall *c, Shape x, Position p) {
  int64_t divisor = node_int(c->node, "divisor", 1);
  double n = 0;
  for (int64_t k = 0; divisor && k < taps_of(c, x); k++) {
    bool inside, padded;
    tap_at(c, x, p, k, &inside, &padded);
    n += divisor == 1 ? inside : padded;
  }
  return n > 0 ? 1 / n : 1;
}

/* Of X (or, backwards, to it). */
static void average(const OracleCall *c, Shape x, Shape y, bool backwards) {
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)
    c->out[0][i] = 0;
  for (int64_t i = 0; i < shape_elements(y); i++) {
    Position p = position_of(y, i);
    for (int64_t k = 0; k < taps_of(c, x); k++) {
      bool inside, padded;
      int64_t at = tap_at(c, x, p, k, &inside, &padded);
      if (inside && backwards)
        c->out[0][at] += c->in[0][i] * share(c, x, p);
      else if (inside)
        c->out[0][i] += c->in[0][at] * share(c, x, p);
    }
  }
}

void oracle_AveragePool(const OracleCall *c) {
  average(c, c->in_shape[0], c->out_shape[0], false);
}

void oracle_AveragePoolGrad(const OracleCall *c) {
  average(c, c->out_shape[0], c->in_shape[0], true);
}

/* Y at place p of a line is the sum of its taps; backwards, X gets from every tap. */
static void resample(const OracleCall *c, Shape x, Shape y, bool backwards) {
  int64_t axis = node_int(c->node, "axis", 0), taps = c->in_shape[1].dim[1];
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)
    c->out[0][i] = 0;
  for (int64_t i = 0; i < shape_elements(y); i++) {
    Position p = position_of(y, i), q = p;
    for (int64_t t = p.at[axis] * taps; t < (p.at[axis] + 1) * taps; t++) {
      int64_t at = (int64_t)c->in[1][t];
      q.at[axis] = at < 0 ? at + x.dim[axis] : at;
      if (backwards)
        c->out[0][element_at(x, q)] += c->in[0][i] * c->in[2][t];
      else
        c->out[0][i] += c->in[0][element_at(x, q)] * c->in[2][t];
    }
  }
}

void oracle_Resample(const OracleCall *c) {
  resample(c, c->in_shape[0], c->out_shape[0], false);
}

void oracle_ResampleGrad(const OracleCall *c) {
  resample(c, c->out_shape[0], c->in_shape[0], true);
}
