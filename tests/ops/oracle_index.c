/* Naive definitions of what is picked and put by an index for each element, and of the k largest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ops/oracle.h"

static int64_t wrapped(double index, int64_t size) {
  return (int64_t)index < 0 ? (int64_t)index + size : (int64_t)index;
}

/* The element of `data` that index i of input 1 points to. */
static int64_t pointed_element(const OracleCall *c, Shape data, int64_t i) {
  int64_t axis = node_int(c->node, "axis", 0);
  Position p = position_of(c->in_shape[1], i);
  p.at[axis] = wrapped(c->in[1][i], data.dim[axis]);
  return element_at(data, p);
}

/* The element of output 0 that update i of a ScatterND goes to. */
static int64_t pointed_slice(const OracleCall *c, Shape data, int64_t i) {
  int lead = c->in_shape[1].rank - 1, depth = (int)c->in_shape[1].dim[lead];
  Position p = position_of(c->in_shape[0], i), index = p, to = {{0}};
  for (int k = 0; k < data.rank; k++) {
    index.at[lead] = k;
    to.at[k] = k < depth ? wrapped(c->in[1][element_at(c->in_shape[1], index)], data.dim[k]) : p.at[lead + k - depth];
  }
  return element_at(data, to);
}

void oracle_GatherElements(const OracleCall *c) {
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)
    c->out[0][i] = c->in[0][pointed_element(c, c->in_shape[0], i)];
}

static double put(const char *how, double x, double y) {
  return strcmp(how, "add") == 0   ? x + y
         : strcmp(how, "mul") == 0 ? x * y
         : strcmp(how, "max") == 0 ? fmax(x, y)
         : strcmp(how, "min") == 0 ? fmin(x, y)
                                   : y;
}

static void scatter(const OracleCall *c, int64_t (*pointed)(const OracleCall *, Shape, int64_t)) {
  const char *how = node_string(c->node, "reduction", "none");
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)
    c->out[0][i] = c->n_in > 2 ? c->in[2][i] : 0;
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    double *to = &c->out[0][pointed(c, c->out_shape[0], i)];
    *to = put(how, *to, c->in[0][i]);
  }
}

void oracle_ScatterElements(const OracleCall *c) {
  scatter(c, pointed_element);
}

void oracle_ScatterND(const OracleCall *c) {
  scatter(c, pointed_slice);
}

/* Element i of a line comes at the place that is the number of those before it. */
void oracle_TopK(const OracleCall *c) {
  int64_t axis = node_int(c->node, "axis", 0), k = node_int(c->node, "k", 0);
  double sign = node_int(c->node, "largest", 1) ? 1 : -1;
  Lines from = lines_along(c->in_shape[0], axis), to = lines_along(c->out_shape[0], axis);
  for (int64_t l = 0; l < from.lines; l++)
    for (int64_t i = 0; i < from.n; i++) {
      const double *x = c->in[0] + line_at(from, l);
      int64_t place = 0;
      for (int64_t j = 0; j < from.n; j++) {
        double more = sign * (x[j * from.inner] - x[i * from.inner]);
        place += more > 0 || (more == 0 && j < i);
      }
      if (place >= k)
        continue;
      c->out[0][line_at(to, l) + place * to.inner] = x[i * from.inner];
      c->out[1][line_at(to, l) + place * to.inner] = (double)i;
    }
}
