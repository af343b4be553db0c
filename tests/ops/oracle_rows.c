/* Tables whose gradients are rows (graph/rows.h): spread over a whole one, and the pages of the optimizers. */
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

/* The gradient of a table of so many rows of `row` elements, and which rows have one, from inputs `first` on. */
static double *spread(const OracleCall *c, int first, int64_t size, int64_t row, bool *has) {
  double *g = calloc((size_t)(size * row) + 1, sizeof *g);
  for (int k = first; k < c->n_in; k += 2)
    for (int64_t i = 0; i < shape_elements(c->in_shape[k + 1]); i++) {
      int64_t place = (int64_t)c->in[k + 1][i] - 1;
      if (place < 0)
        continue;
      has[place] = true;
      for (int64_t j = 0; j < row; j++)
        g[place * row + j] += c->in[k][i * row + j];
    }
  return g;
}

void oracle_SquaredNormRows(const OracleCall *c) {
  int rank;
  const int64_t *dims = node_ints(c->node, "shape", &rank);
  int64_t row = 1;
  for (int i = 1; i < rank; i++)
    row *= dims[i];
  bool *has = calloc((size_t)dims[0] + 1, sizeof *has);
  double *g = spread(c, 0, dims[0], row, has);
  c->out[0][0] = 0;
  for (int64_t i = 0; i < dims[0] * row; i++)
    c->out[0][0] += g[i] * g[i];
  free(g);
  free(has);
}

typedef void Page(const OracleCall *c, int64_t i, double g);

static void update(const OracleCall *c, int first, Page *page) {
  int64_t size = c->in_shape[0].dim[0], row = size ? shape_elements(c->in_shape[0]) / size : 0;
  bool *has = calloc((size_t)size + 1, sizeof *has);
  double *g = spread(c, first, size, row, has);
  for (int64_t i = 0; i < size * row; i++)
    if (has[i / row])
      page(c, i, g[i] * c->in[1][SCALAR_GRADIENT_FACTOR]);
  free(g);
  free(has);
}

static void sgd_page(const OracleCall *c, int64_t i, double g) {
  c->in[0][i] -= c->in[1][SCALAR_LEARNING_RATE] * g;
}

void oracle_SgdUpdateRows(const OracleCall *c) {
  update(c, 2, sgd_page);
}

/* torch.optim.SparseAdam: Adam's, but that epsilon is added to the root of v as it is. */
static void sparse_adam_page(const OracleCall *c, int64_t i, double g) {
  double beta1 = node_float(c->node, "beta1", 0), beta2 = node_float(c->node, "beta2", 0);
  double *theta = &c->in[0][i], *m = &c->in[2][i], *v = &c->in[3][i];
  *m = beta1 * *m + (1 - beta1) * g;
  *v = beta2 * *v + (1 - beta2) * g * g;
  double rate =
      c->in[1][SCALAR_LEARNING_RATE] * sqrt(c->in[1][SCALAR_BIAS_CORRECTION2]) / c->in[1][SCALAR_BIAS_CORRECTION1];
  *theta -= rate * *m / (sqrt(*v) + node_float(c->node, "epsilon", 0));
}

void oracle_SparseAdamUpdate(const OracleCall *c) {
  update(c, 4, sparse_adam_page);
}
