/* Running products and determinants, in double. Invariant: no gradient divides by a factor, which may be 0. */
#include <math.h>

#include "backend/reference/kernel.h"

/* Running products along the axis, in double for floats and wrapping for integers. */
#define CUMPROD(name, T, PRODUCT)                                                                                      \
  static Status name(const Node *node, const Tensor *in, const Tensor *out) {                                          \
    bool exclusive = node_int(node, "exclusive", 0), reverse = node_int(node, "reverse", 0);                           \
    Split3 s = split_at(in->shape, (int)node_int(node, "axis", 0));                                                    \
    for (int64_t line = 0; line < s.outer * s.inner; line++) {                                                         \
      int64_t at = line / s.inner * s.size * s.inner + line % s.inner;                                                 \
      const T *x = (const T *)in->data + at;                                                                           \
      T *y = (T *)out->data + at;                                                                                      \
      PRODUCT product = 1;                                                                                             \
      for (int64_t i = 0; i < s.size; i++) {                                                                           \
        int64_t j = (reverse ? s.size - 1 - i : i) * s.inner;                                                          \
        PRODUCT before = product;                                                                                      \
        product *= (PRODUCT)x[j];                                                                                      \
        y[j] = (T)(exclusive ? before : product);                                                                      \
      }                                                                                                                \
    }                                                                                                                  \
    return OK;                                                                                                         \
  }
CUMPROD(cumprod_f32, float, double)
CUMPROD(cumprod_f64, double, double)
CUMPROD(cumprod_i64, int64_t, uint64_t)
CUMPROD(cumprod_i32, int32_t, uint32_t)

KERNEL(CumProd, .accepts = takes_numbers) {
  UNUSED;
  switch (in->dtype) {
    CASE(F32, cumprod_f32(node, in, out))
    CASE(F64, cumprod_f64(node, in, out))
    CASE(I64, cumprod_i64(node, in, out))
    CASE(I32, cumprod_i32(node, in, out))
  default:
    return unsupported_type(node, in->dtype);
  }
}

/* dX_i = (product of all before i) S_i, where S_i = dY_i + X_{i+1} S_{i+1}; exclusive: S_i = dY_{i+1} + X_{i+1}
 * S_{i+1}. Forwards the products, then backwards the sums. */
#define CUMPROD_GRAD(name, T)                                                                                          \
  static Status name(const Node *node, const Tensor *in, const Tensor *out) {                                          \
    bool exclusive = node_int(node, "exclusive", 0), reverse = node_int(node, "reverse", 0);                           \
    Split3 s = split_at(in->shape, (int)node_int(node, "axis", 0));                                                    \
    for (int64_t line = 0; line < s.outer * s.inner; line++) {                                                         \
      int64_t first = line / s.inner * s.size * s.inner + line % s.inner, step = s.inner;                              \
      if (reverse) {                                                                                                   \
        first += (s.size - 1) * s.inner;                                                                               \
        step = -s.inner;                                                                                               \
      }                                                                                                                \
      const T *dy = in[0].data, *x = in[1].data;                                                                       \
      T *dx = out->data;                                                                                               \
      double product = 1, sum = 0;                                                                                     \
      for (int64_t i = 0; i < s.size; i++) {                                                                           \
        dx[first + i * step] = (T)product;                                                                             \
        product *= (double)x[first + i * step];                                                                        \
      }                                                                                                                \
      for (int64_t i = s.size - 1; i >= 0; i--) {                                                                      \
        int64_t at = first + i * step;                                                                                 \
        double own = (double)dy[at];                                                                                   \
        dx[at] = (T)((double)dx[at] * (exclusive ? sum : sum + own));                                                  \
        sum = (double)x[at] * (exclusive ? sum : sum + own) + (exclusive ? own : 0);                                   \
      }                                                                                                                \
    }                                                                                                                  \
    return OK;                                                                                                         \
  }
CUMPROD_GRAD(CumProdGrad_f32, float)
CUMPROD_GRAD(CumProdGrad_f64, double)
FLOAT_KERNEL(CumProdGrad)

static double element(const Tensor *t, int64_t i) {
  return t->dtype == F32 ? (double)((const float *)t->data)[i] : ((const double *)t->data)[i];
}

static void put_element(const Tensor *t, int64_t i, double value) {
  if (t->dtype == F32)
    ((float *)t->data)[i] = (float)value;
  else
    ((double *)t->data)[i] = value;
}

/* A matrix M that becomes L U, with rows and columns exchanged: (L U)[i][j] = M[row[i]][column[j]]. */
typedef struct {
  int64_t order;
  double *lu; /* [order, order]; L has ones on its diagonal */
  int64_t *row, *column;
  double *line;
  double sign; /* of the exchanges; 0 where the rank is less than order - 1 */
} Factors;

/* Lines i and k, rows or columns: lines are `line` apart, the elements of each `stride`; `remembered` is row or column.
 */
static void swap(Factors *f, int64_t *remembered, int64_t i, int64_t k, int64_t line, int64_t stride) {
  if (i == k)
    return;
  for (int64_t j = 0; j < f->order; j++) {
    double t = f->lu[i * line + j * stride];
    f->lu[i * line + j * stride] = f->lu[k * line + j * stride];
    f->lu[k * line + j * stride] = t;
  }
  int64_t t = remembered[i];
  remembered[i] = remembered[k];
  remembered[k] = t;
  f->sign = -f->sign;
}

/* The largest element that is left goes first, the earliest of equal ones: what has no full rank ends in zeros. */
static void factor(Factors *f) {
  int64_t n = f->order;
  f->sign = 1;
  for (int64_t i = 0; i < n; i++)
    f->row[i] = f->column[i] = i;
  for (int64_t k = 0; k < n; k++) {
    int64_t best_i = k, best_j = k;
    for (int64_t i = k; i < n; i++)
      for (int64_t j = k; j < n; j++)
        if (fabs(f->lu[i * n + j]) > fabs(f->lu[best_i * n + best_j]))
          best_i = i, best_j = j;
    swap(f, f->row, k, best_i, f->order, 1);
    swap(f, f->column, k, best_j, 1, f->order);
    double pivot = f->lu[k * n + k];
    if (pivot == 0 && k < n - 1)
      f->sign = 0;
    if (pivot == 0)
      return;
    for (int64_t i = k + 1; i < n; i++) {
      double *to = &f->lu[i * n], factor = to[k] /= pivot;
      for (int64_t j = k + 1; j < n; j++)
        to[j] -= factor * f->lu[k * n + j];
    }
  }
}

/* Room for the matrix, a line, and two permutations. */
static size_t det_workspace(const Graph *graph, const Node *node, size_t budget) {
  Shape x = graph_value(graph, node->in[node->n_in - 1])->shape;
  size_t order = (size_t)x.dim[x.rank - 1];
  (void)budget;
  return (order * order + 3 * order) * sizeof(double);
}

static Factors factors_of(const Tensor *x, void *workspace) {
  int64_t n = x->shape.dim[x->shape.rank - 1];
  double *room = workspace;
  return (Factors){.order = n,
                   .lu = room,
                   .line = room + n * n,
                   .row = (int64_t *)(room + n * n + n),
                   .column = (int64_t *)(room + n * n + 2 * n)};
}

static void factor_matrix(Factors *f, const Tensor *x, int64_t matrix) {
  for (int64_t i = 0; i < f->order * f->order; i++)
    f->lu[i] = element(x, matrix * f->order * f->order + i);
  factor(f);
}

KERNEL(Det, .accepts = takes_floats, .workspace = det_workspace) {
  UNUSED;
  if (in[0].dtype != F32 && in[0].dtype != F64)
    return unsupported_type(node, in[0].dtype);
  Factors f = factors_of(&in[0], workspace);
  for (int64_t m = 0; m < shape_elements(out[0].shape); m++) {
    factor_matrix(&f, &in[0], m);
    double det = f.sign;
    for (int64_t k = 0; k < f.order && det != 0; k++)
      det *= f.lu[k * f.order + k];
    put_element(&out[0], m, det);
  }
  return OK;
}

/* line = adj(U) (L⁻¹ e_j), column j of the adjugate of L U: with U = (V u; 0 w) of the last column and row,
 * adj(U) = det(V) (w V⁻¹, -V⁻¹ u; 0, 1), which holds for w = 0, too. */
static void adjugate_column(Factors *f, int64_t j) {
  int64_t n = f->order, last = n - 1;
  double *z = f->line, det = 1;
  for (int64_t i = 0; i < n; i++) {
    z[i] = i == j;
    for (int64_t k = j; k < i; k++)
      z[i] -= f->lu[i * n + k] * z[k];
  }
  for (int64_t i = 0; i < last; i++)
    det *= f->lu[i * n + i];
  for (int64_t i = 0; i < last; i++)
    z[i] = f->lu[last * n + last] * z[i] - f->lu[i * n + last] * z[last];
  for (int64_t i = last - 1; i >= 0; i--) {
    for (int64_t k = i + 1; k < last; k++)
      z[i] -= f->lu[i * n + k] * z[k];
    z[i] /= f->lu[i * n + i];
  }
  for (int64_t i = 0; i < n; i++)
    z[i] *= det;
}

/* dX = dY adj(X)ᵀ, whatever the rank of X. */
KERNEL(DetGrad, .accepts = takes_floats, .workspace = det_workspace) {
  UNUSED;
  if (in[0].dtype != F32 && in[0].dtype != F64)
    return unsupported_type(node, in[0].dtype);
  Factors f = factors_of(&in[1], workspace);
  int64_t n = f.order;
  for (int64_t m = 0; m < shape_elements(in[0].shape); m++) {
    factor_matrix(&f, &in[1], m);
    double scale = element(&in[0], m) * f.sign;
    for (int64_t j = 0; j < n; j++) {
      if (f.sign != 0)
        adjugate_column(&f, j);
      for (int64_t i = 0; i < n; i++)
        put_element(&out[0], (m * n + f.row[j]) * n + f.column[i], f.sign != 0 ? scale * f.line[i] : 0);
    }
  }
  return OK;
}
