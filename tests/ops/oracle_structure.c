/* Naive definitions of movement, reductions, products and normalisations: one output element at a time, from its
 * position. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ops/oracle.h"

Lines lines_along(Shape shape, int64_t axis) {
  Lines lines = {1, shape.dim[axis], 1};
  for (int i = 0; i < shape.rank; i++)
    if (i != axis)
      *(i < axis ? &lines.lines : &lines.inner) *= shape.dim[i];
  lines.lines *= lines.inner;
  return lines;
}

Lines lines_from(Shape shape, int64_t axis) {
  Lines lines = {1, 1, 1};
  for (int i = 0; i < shape.rank; i++)
    *(i < axis ? &lines.lines : &lines.n) *= shape.dim[i];
  return lines;
}

int64_t line_at(Lines lines, int64_t l) {
  return l / lines.inner * lines.inner * lines.n + l % lines.inner;
}

static const int64_t *ints(const OracleCall *c, const char *name, int *n) {
  return node_ints(c->node, name, n);
}

/* Each output element p of `shape` (output 0's) is input 0's element at `from` of p. */
#define MOVE(op_name, FROM)                                                                                            \
  void oracle_##op_name(const OracleCall *c) {                                                                         \
    for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++) {                                                    \
      Position p = position_of(c->out_shape[0], i);                                                                    \
      (void)p;                                                                                                         \
      c->out[0][i] = FROM;                                                                                             \
    }                                                                                                                  \
  }

static double transposed(const OracleCall *c, Position p) {
  int n;
  const int64_t *perm = ints(c, "perm", &n);
  Position from = {{0}};
  for (int k = 0; k < n; k++)
    from.at[perm[k]] = p.at[k];
  return c->in[0][element_at(c->in_shape[0], from)];
}

static Position sliced(const OracleCall *c, Position p) {
  int n;
  const int64_t *axes = ints(c, "axes", &n), *starts = ints(c, "starts", &n), *steps = ints(c, "steps", &n);
  for (int k = 0; k < n; k++)
    p.at[axes[k]] = starts[k] + (p.at[axes[k]] ? p.at[axes[k]] * steps[k] : 0);
  return p;
}

static double kept(const OracleCall *c, Position p, double x) {
  int rank = c->in_shape[0].rank;
  double offset = (double)p.at[rank - 1] - (double)p.at[rank - 2], k = (double)node_int(c->node, "k", 0);
  return (node_int(c->node, "upper", 1) ? offset >= k : offset <= k) ? x : 0;
}

MOVE(Reshape, c->in[0][i])
MOVE(Transpose, transposed(c, p))
MOVE(Slice, c->in[0][element_at(c->in_shape[0], sliced(c, p))])
MOVE(Expand, c->in[0][element_broadcast(c->in_shape[0], c->out_shape[0], p)])
MOVE(Trilu, kept(c, p, c->in[0][i]))
MOVE(Range, c->in[0][0] + (double)i * c->in[2][0])

void oracle_SliceGrad(const OracleCall *c) {
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)
    c->out[0][i] = 0;
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++)
    c->out[0][element_at(c->out_shape[0], sliced(c, position_of(c->in_shape[0], i)))] = c->in[0][i];
}

void oracle_Concat(const OracleCall *c) {
  int64_t axis = node_int(c->node, "axis", 0), before = 0;
  for (int k = 0; k < c->n_in; before += c->in_shape[k++].dim[axis])
    for (int64_t i = 0; i < shape_elements(c->in_shape[k]); i++) {
      Position p = position_of(c->in_shape[k], i);
      p.at[axis] += before;
      c->out[0][element_at(c->out_shape[0], p)] = c->in[k][i];
    }
}

void oracle_Split(const OracleCall *c) {
  int64_t axis = node_int(c->node, "axis", 0), before = 0;
  for (int k = 0; k < c->n_out; before += c->out_shape[k++].dim[axis])
    for (int64_t i = 0; i < shape_elements(c->out_shape[k]); i++) {
      Position p = position_of(c->out_shape[k], i);
      p.at[axis] += before;
      c->out[k][i] = c->in[0][element_at(c->in_shape[0], p)];
    }
}

static int64_t wrapped(double index, int64_t size) {
  return (int64_t)index < 0 ? (int64_t)index + size : (int64_t)index;
}

/* The element of `data` that element i of the gathered tensor comes from. */
static int64_t gather_source(const OracleCall *c, Shape data, Shape result, int64_t i) {
  int axis = (int)node_int(c->node, "axis", 0), rank = c->in_shape[1].rank;
  Position p = position_of(result, i), index = {{0}}, from = {{0}};
  memcpy(index.at, p.at + axis, (size_t)rank * sizeof *p.at);
  for (int k = 0; k < data.rank; k++)
    from.at[k] = k == axis  ? wrapped(c->in[1][element_at(c->in_shape[1], index)], data.dim[k])
                 : k < axis ? p.at[k]
                            : p.at[k - 1 + rank];
  return element_at(data, from);
}

static int64_t gathernd_source(const OracleCall *c, Shape data, Shape result, int64_t i) {
  int batch = (int)node_int(c->node, "batch_dims", 0), lead = c->in_shape[1].rank - 1;
  int depth = (int)c->in_shape[1].dim[lead];
  Position p = position_of(result, i), index = p, from = {{0}};
  for (int k = 0; k < data.rank; k++)
    if (k < batch) {
      from.at[k] = p.at[k];
    } else if (k < batch + depth) {
      index.at[lead] = k - batch;
      from.at[k] = wrapped(c->in[1][element_at(c->in_shape[1], index)], data.dim[k]);
    } else {
      from.at[k] = p.at[lead + k - batch - depth];
    }
  return element_at(data, from);
}

#define PICK(op_name, source)                                                                                          \
  void oracle_##op_name(const OracleCall *c) {                                                                         \
    for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)                                                      \
      c->out[0][i] = c->in[0][source(c, c->in_shape[0], c->out_shape[0], i)];                                          \
  }                                                                                                                    \
  void oracle_##op_name##Grad(const OracleCall *c) {                                                                   \
    for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)                                                      \
      c->out[0][i] = 0;                                                                                                \
    for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++)                                                       \
      c->out[0][source(c, c->out_shape[0], c->in_shape[0], i)] += c->in[0][i];                                         \
  }
PICK(Gather, gather_source)
PICK(GatherND, gathernd_source)

void oracle_CumSum(const OracleCall *c) {
  int64_t axis = node_int(c->node, "axis", 0);
  bool exclusive = node_int(c->node, "exclusive", 0), reverse = node_int(c->node, "reverse", 0);
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    Position p = position_of(c->in_shape[0], i), q = p;
    c->out[0][i] = 0;
    for (q.at[axis] = 0; q.at[axis] < c->in_shape[0].dim[axis]; q.at[axis]++) {
      int64_t ahead = reverse ? q.at[axis] - p.at[axis] : p.at[axis] - q.at[axis];
      if (ahead > 0 || (ahead == 0 && !exclusive))
        c->out[0][i] += c->in[0][element_at(c->in_shape[0], q)];
    }
  }
}

/* The element of output 0 that element i of the input is reduced to. */
static int64_t reduced_to(const OracleCall *c, int64_t i) {
  int n, next = 0;
  const int64_t *axes = ints(c, "axes", &n);
  Position p = position_of(c->in_shape[0], i);
  int64_t to = 0;
  for (int k = 0; k < c->in_shape[0].rank; k++)
    if (next < n && axes[next] == k)
      next++;
    else
      to = to * c->in_shape[0].dim[k] + p.at[k];
  return to;
}

static void reduce(const OracleCall *c, double first, bool largest) {
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)
    c->out[0][i] = first;
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    double *y = &c->out[0][reduced_to(c, i)];
    *y = largest ? fmax(*y, c->in[0][i]) : *y + c->in[0][i];
  }
}

void oracle_ReduceSum(const OracleCall *c) {
  reduce(c, 0, false);
}

void oracle_ReduceMax(const OracleCall *c) {
  reduce(c, -INFINITY, true);
}

void oracle_ReduceMean(const OracleCall *c) {
  reduce(c, 0, false);
  int64_t results = shape_elements(c->out_shape[0]);
  for (int64_t i = 0; i < results; i++)
    c->out[0][i] /= (double)shape_elements(c->in_shape[0]) / (double)results;
}

static Shape as_matrices(Shape s, bool left) {
  if (s.rank != 1)
    return s;
  return left ? shape_of(2, (int64_t[]){1, s.dim[0]}) : shape_of(2, (int64_t[]){s.dim[0], 1});
}

/* The matrix of a stack that broadcasts to the batch position. */
static const double *matrix_at(const double *x, Shape s, Shape batch, Position at) {
  int64_t stack = element_broadcast(shape_of(s.rank - 2, s.dim), batch, at);
  return x + stack * s.dim[s.rank - 2] * s.dim[s.rank - 1];
}

void oracle_MatMul(const OracleCall *c) {
  bool ta = node_int(c->node, "transA", 0), tb = node_int(c->node, "transB", 0);
  Shape a = as_matrices(c->in_shape[0], true), b = as_matrices(c->in_shape[1], false), batch = {0};
  shape_broadcast(shape_of(a.rank - 2, a.dim), shape_of(b.rank - 2, b.dim), &batch);
  int64_t m = a.dim[a.rank - 1 - !ta], k = a.dim[a.rank - 2 + !ta], n = b.dim[b.rank - 2 + !tb];
  int64_t results = shape_elements(c->out_shape[0]);
  for (int64_t i = 0; i < results; i++) {
    Position at = position_of(batch, i / (m * n));
    const double *x = matrix_at(c->in[0], a, batch, at), *y = matrix_at(c->in[1], b, batch, at);
    double sum = 0;
    for (int64_t l = 0, row = i / n % m, column = i % n; l < k; l++)
      sum += x[ta ? l * m + row : row * k + l] * y[tb ? column * k + l : l * n + column];
    c->out[0][i] = sum;
  }
}

void oracle_AccumulateMatMul(const OracleCall *c) {
  OracleCall product = *c;
  int64_t n = shape_elements(c->in_shape[0]);
  double *y = calloc((size_t)n + 1, sizeof *y);
  for (int i = 0; i < 2; i++) {
    product.in[i] = c->in[i + 1];
    product.in_shape[i] = c->in_shape[i + 1];
  }
  product.out[0] = y;
  product.out_shape[0] = c->in_shape[0];
  oracle_MatMul(&product);
  for (int64_t i = 0; i < n; i++)
    c->in[0][i] = y[i] + (node_int(c->node, "begins", 0) ? 0 : c->in[0][i]);
  free(y);
}

void oracle_Gemm(const OracleCall *c) {
  oracle_MatMul(c);
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++) {
    double *y = &c->out[0][i];
    *y *= node_float(c->node, "alpha", 1);
    if (c->n_in > 2 && c->in[2])
      *y += node_float(c->node, "beta", 1) *
            c->in[2][element_broadcast(c->in_shape[2], c->out_shape[0], position_of(c->out_shape[0], i))];
  }
}

void oracle_ProductGelu(const OracleCall *c) {
  OracleCall gelu = {.node = c->node, .n_in = 1, .n_out = 1};
  oracle_Gemm(c);
  gelu.in[0] = gelu.out[0] = c->out[0];
  gelu.in_shape[0] = gelu.out_shape[0] = c->out_shape[0];
  for (int64_t i = 0; c->n_out > 1 && i < shape_elements(c->out_shape[0]); i++)
    c->out[1][i] = c->out[0][i];
  oracle_Gelu(&gelu);
}

/* By erf or tanh: (1 + g(x)) / 2 + x g'(x) / 2, for x (1 + g(x)) / 2. */
static double gelu_slope(const OracleCall *c, double x) {
  bool is_tanh = strcmp(node_string(c->node, "approximate", "none"), "tanh") == 0;
  double root = sqrt(2 / acos(-1)), t = tanh(root * (x + 0.044715 * pow(x, 3)));
  double g = is_tanh ? t : erf(x / sqrt(2));
  double slope = root * (is_tanh ? (1 - t * t) * (1 + 3 * 0.044715 * x * x) : exp(-x * x / 2));
  return (1 + g) / 2 + x * slope / 2;
}

void oracle_ProductGeluGrad(const OracleCall *c) {
  oracle_MatMul(c);
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)
    c->out[0][i] *= gelu_slope(c, c->in[2][i]);
}

void oracle_ProductAdd(const OracleCall *c) {
  Shape y = c->out_shape[0];
  oracle_MatMul(c);
  for (int64_t i = 0; i < shape_elements(y); i++)
    c->out[0][i] += c->in[2][i] + (c->n_in > 3 ? c->in[3][i % y.dim[y.rank - 1]] : 0);
}

void oracle_Softmax(const OracleCall *c) {
  Lines lines = lines_along(c->in_shape[0], node_int(c->node, "axis", 0));
  for (int64_t l = 0; l < lines.lines; l++) {
    double sum = 0;
    for (int64_t k = 0; k < lines.n; k++)
      sum += exp(c->in[0][line_at(lines, l) + k * lines.inner]);
    for (int64_t k = 0; k < lines.n; k++)
      c->out[0][line_at(lines, l) + k * lines.inner] = exp(c->in[0][line_at(lines, l) + k * lines.inner]) / sum;
  }
}

void oracle_LogSoftmax(const OracleCall *c) {
  oracle_Softmax(c);
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)
    c->out[0][i] = log(c->out[0][i]);
}

/* dX_i = sum over j of dY_j times the slope of Y_j by X_i, from the Jacobian. */
static void softmax_grad(const OracleCall *c, bool logarithm) {
  Lines lines = lines_along(c->in_shape[0], node_int(c->node, "axis", 0));
  for (int64_t l = 0; l < lines.lines; l++)
    for (int64_t i = 0; i < lines.n; i++) {
      int64_t to = line_at(lines, l) + i * lines.inner;
      c->out[0][to] = 0;
      for (int64_t j = 0; j < lines.n; j++) {
        int64_t at = line_at(lines, l) + j * lines.inner;
        double y_i = c->in[1][to], y_j = c->in[1][at];
        double slope = logarithm ? (i == j) - exp(y_i) : y_j * ((i == j) - y_i);
        c->out[0][to] += c->in[0][at] * slope;
      }
    }
}

void oracle_SoftmaxGrad(const OracleCall *c) {
  softmax_grad(c, false);
}

void oracle_LogSoftmaxGrad(const OracleCall *c) {
  softmax_grad(c, true);
}

void oracle_LayerNormalization(const OracleCall *c) {
  Lines lines = lines_from(c->in_shape[0], node_int(c->node, "axis", 0));
  for (int64_t l = 0; l < lines.lines; l++) {
    const double *x = c->in[0] + l * lines.n;
    double mean = 0, variance = 0;
    for (int64_t k = 0; k < lines.n; k++)
      mean += x[k] / (double)lines.n;
    for (int64_t k = 0; k < lines.n; k++)
      variance += pow(x[k] - mean, 2) / (double)lines.n;
    c->out[1][l] = mean;
    c->out[2][l] = pow(variance + node_float(c->node, "epsilon", 1e-5), -0.5);
    for (int64_t k = 0; k < lines.n; k++)
      c->out[0][l * lines.n + k] =
          (x[k] - mean) * c->out[2][l] * c->in[1][k] + (c->n_in > 2 && c->in[2] ? c->in[2][k] : 0);
  }
}

void oracle_RMSNormalization(const OracleCall *c) {
  Lines lines = lines_from(c->in_shape[0], node_int(c->node, "axis", 0));
  for (int64_t l = 0; l < lines.lines; l++) {
    const double *x = c->in[0] + l * lines.n;
    double square = 0;
    for (int64_t k = 0; k < lines.n; k++)
      square += x[k] * x[k] / (double)lines.n;
    c->out[1][l] = pow(square + node_float(c->node, "epsilon", 1e-5), -0.5);
    for (int64_t k = 0; k < lines.n; k++)
      c->out[0][l * lines.n + k] = x[k] * c->out[1][l] * c->in[1][k];
  }
}

/* With H = (X - mean) inv, the slope of H_j by X_i is inv ((i == j) - centred / n - H_i H_j / n). more: the input that
 * is added. */
static void norm_grad_input(const OracleCall *c, const double *mean, const double *inv, int more) {
  Lines lines = lines_from(c->in_shape[0], node_int(c->node, "axis", 0));
  for (int64_t l = 0; l < lines.lines; l++)
    for (int64_t i = 0; i < lines.n; i++) {
      double m = mean ? mean[l] : 0, *dx = &c->out[0][l * lines.n + i];
      double h_i = (c->in[1][l * lines.n + i] - m) * inv[l];
      *dx = c->node->n_in > more ? c->in[more][l * lines.n + i] : 0;
      for (int64_t j = 0; j < lines.n; j++) {
        double h_j = (c->in[1][l * lines.n + j] - m) * inv[l];
        double slope = inv[l] * ((i == j) - (mean ? 1.0 : 0) / (double)lines.n - h_i * h_j / (double)lines.n);
        *dx += c->in[0][l * lines.n + j] * c->in[2][j] * slope;
      }
    }
}

static void norm_grad_scale(const OracleCall *c, const double *mean, const double *inv) {
  Lines lines = lines_from(c->in_shape[0], node_int(c->node, "axis", 0));
  for (int64_t k = 0; k < lines.n; k++) {
    c->out[0][k] = 0;
    for (int64_t l = 0; l < lines.lines; l++)
      c->out[0][k] += c->in[0][l * lines.n + k] * (c->in[1][l * lines.n + k] - (mean ? mean[l] : 0)) * inv[l];
  }
}

void oracle_LayerNormalizationGradInput(const OracleCall *c) {
  norm_grad_input(c, c->in[3], c->in[4], 5);
}

void oracle_LayerNormalizationGradScale(const OracleCall *c) {
  norm_grad_scale(c, c->in[2], c->in[3]);
}

void oracle_RMSNormalizationGradInput(const OracleCall *c) {
  norm_grad_input(c, NULL, c->in[3], 4);
}

void oracle_RMSNormalizationGradScale(const OracleCall *c) {
  norm_grad_scale(c, NULL, c->in[2]);
}
