/* Naive definitions of reading between elements: a sum over all elements of a field, each with the share that its
 * distance from the point leaves it. */
#include <math.h>

#include "tests/ops/oracle.h"

/* The share of the element at p (of X) in point number i, or how it grows along `axis`. */
static double share(const OracleCall *c, int points_at, Shape x, Position p, int64_t i, int axis) {
  int axes = x.rank - 2;
  double product = 1;
  for (int d = 0; d < axes; d++) {
    double at = c->in[points_at][i * axes + d], away = (double)p.at[d + 2] - at;
    bool beside = at > -1 && (away == 0 || (away > -1 && away <= 1));
    product *= d != axis ? fmax(0, 1 - fabs(away)) : !beside ? 0 : away > 0 ? 1 : -1;
  }
  return product;
}

/* Calls for every element of X, point of its sample and channel: x's, y's and the point's numbers. */
static void each(const OracleCall *c, int points_at, Shape x,
                 void (*visit)(const OracleCall *c, Position p, int64_t element, int64_t y, int64_t point)) {
  int64_t points = c->in_shape[points_at].dim[1];
  for (int64_t e = 0; e < shape_elements(x); e++) {
    Position p = position_of(x, e);
    for (int64_t i = 0; i < points; i++)
      visit(c, p, e, (p.at[0] * x.dim[1] + p.at[1]) * points + i, p.at[0] * points + i);
  }
}

static void clear(const OracleCall *c) {
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)
    c->out[0][i] = 0;
}

static void read_at(const OracleCall *c, Position p, int64_t element, int64_t y, int64_t point) {
  c->out[0][y] += share(c, 1, c->in_shape[0], p, point, -1) * c->in[0][element];
}

static void spread_to(const OracleCall *c, Position p, int64_t element, int64_t y, int64_t point) {
  c->out[0][element] += share(c, 1, c->out_shape[0], p, point, -1) * c->in[0][y];
}

static void move(const OracleCall *c, Position p, int64_t element, int64_t y, int64_t point) {
  int axes = c->in_shape[1].rank - 2;
  for (int d = 0; d < axes; d++)
    c->out[0][point * axes + d] += share(c, 2, c->in_shape[1], p, point, d) * c->in[1][element] * c->in[0][y];
}

void oracle_PointSample(const OracleCall *c) {
  clear(c);
  each(c, 1, c->in_shape[0], read_at);
}

void oracle_PointSampleGradInput(const OracleCall *c) {
  clear(c);
  each(c, 1, c->out_shape[0], spread_to);
}

void oracle_PointSampleGradPoints(const OracleCall *c) {
  clear(c);
  each(c, 2, c->in_shape[1], move);
}
