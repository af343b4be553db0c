/* Tables whose gradients are rows (graph/rows.h): spread over a whole one, of which dense updates are made. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "graph/optimizer.h"
#include "tests/ops/oracle.h"

void oracle_AccumulateRows(const OracleCall *c) {
  int64_t microbatches = c->in_shape[1].dim[0], n = c->in_shape[1].dim[1], m = 0, size = node_int(c->node, "rows", 0);
  int64_t row = shape_elements(c->in_shape[2]) / (n ? n : 1);
  for (m = 0; m < microbatches && n && c->in[1][m * n] != 0;)
    m++;
  m = m == microbatches ? 0 : m;
  for (int64_t i = 0; i < n; i++) {
    double index = c->in[3][i];
    c->in[1][m * n + i] = 1 + (index < 0 ? index + (double)size : index);
    for (int64_t k = 0; k < row; k++)
      c->in[0][(m * n + i) * row + k] = c->in[2][i * row + k];
  }
}

/* The gradient of a table of so many rows of `row` elements, and which rows have one, from inputs `first` on: rows and
 * their places, of which the rank is 2, or an accumulator of the table's shape. */
static double *spread(const OracleCall *c, int first, Shape table, bool *has) {
  int64_t elements = shape_elements(table), row = table.dim[0] ? elements / table.dim[0] : 0;
  double *g = calloc((size_t)elements + 1, sizeof *g);
  for (int k = first; k < c->n_in; k++) {
    if (shape_equal(c->in_shape[k], table)) {
      for (int64_t i = 0; i < elements; i++)
        g[i] += c->in[k][i];
      continue;
    }
    for (int64_t i = 0; i < shape_elements(c->in_shape[k + 1]); i++) {
      int64_t place = (int64_t)c->in[k + 1][i] - 1;
      if (place < 0)
        continue;
      has[place] = true;
      for (int64_t j = 0; j < row; j++)
        g[place * row + j] += c->in[k][i * row + j];
    }
    k++;
  }
  return g;
}

void oracle_SquaredNormRows(const OracleCall *c) {
  int rank;
  const int64_t *dims = node_ints(c->node, "shape", &rank);
  Shape table = shape_of(rank, dims);
  bool *has = calloc((size_t)dims[0] + 1, sizeof *has);
  double *g = spread(c, 0, table, has);
  c->out[0][0] = 0;
  for (int64_t i = 0; i < shape_elements(table); i++)
    c->out[0][0] += g[i] * g[i];
  free(g);
  free(has);
}

/* The dense update of one accumulator. */
static void update(const OracleCall *c, void (*dense)(const OracleCall *)) {
  OracleCall whole = *c;
  int states = (int)node_int(c->node, "states", 0);
  bool *has = calloc((size_t)c->in_shape[0].dim[0] + 1, sizeof *has);
  double *g = spread(c, 2 + states, c->in_shape[0], has);
  whole.in[2 + states] = g;
  whole.n_in = 3 + states;
  dense(&whole);
  free(g);
  free(has);
}

void oracle_SgdUpdateRows(const OracleCall *c) {
  update(c, oracle_SgdUpdate);
}

void oracle_AdamUpdateRows(const OracleCall *c) {
  update(c, oracle_AdamUpdate);
}

/* torch.optim.SparseAdam, of the rows that were looked up: Adam's, but that epsilon is added to the root of v as it is.
 */
void oracle_SparseAdamUpdate(const OracleCall *c) {
  Shape table = c->in_shape[0];
  int64_t elements = shape_elements(table), row = table.dim[0] ? elements / table.dim[0] : 0;
  double beta1 = node_float(c->node, "beta1", 0), beta2 = node_float(c->node, "beta2", 0);
  double rate =
      c->in[1][SCALAR_LEARNING_RATE] * sqrt(c->in[1][SCALAR_BIAS_CORRECTION2]) / c->in[1][SCALAR_BIAS_CORRECTION1];
  bool *has = calloc((size_t)table.dim[0] + 1, sizeof *has);
  double *gradient = spread(c, 4, table, has);
  for (int64_t i = 0; i < elements; i++) {
    double *theta = &c->in[0][i], *m = &c->in[2][i], *v = &c->in[3][i];
    double g = gradient[i] * c->in[1][SCALAR_GRADIENT_FACTOR];
    if (!has[i / row])
      continue;
    *m = beta1 * *m + (1 - beta1) * g;
    *v = beta2 * *v + (1 - beta2) * g * g;
    *theta -= rate * *m / (sqrt(*v) + node_float(c->node, "epsilon", 0));
  }
  free(gradient);
  free(has);
}
