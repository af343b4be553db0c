/* Determinants and their gradients as the reference's (backend/reference/determinant.c), in double: a block a matrix M
 * that becomes L U with rows and columns exchanged, (L U)[i][j] = M[row[i]][column[j]]. */
#include "backend/cuda/steps.cuh"

constexpr int64_t MATRICES_AT_ONCE = 1024;

struct Factors {
  int64_t n;
  double *lu, *z; /* [n,n] each; L has ones on its diagonal */
  int64_t *row, *column;
};

static int64_t numbers_of(int64_t n, bool grad) {
  return n * n * (grad ? 2 : 1) + 2 * n;
}

DEVICE Factors factors_in(double *room, int64_t n, bool grad) {
  double *own = room + block_index() * (n * n * (grad ? 2 : 1) + 2 * n);
  int64_t *row = (int64_t *)own;
  return Factors{n, own + 2 * n, own + 2 * n + n * n, row, row + n};
}

/* The place of the largest element of rows and columns from k on, the earliest of equal ones. */
DEVICE int64_t largest_from(const Factors &f, int64_t k) {
  SHARED double most[BLOCK_THREADS];
  SHARED int64_t place[BLOCK_THREADS];
  int64_t left = f.n - k, n = f.n;
  int own = thread_index();
  most[own] = -1;
  place[own] = k * n + k;
  for (int64_t e = own; e < left * left; e += BLOCK_THREADS) {
    int64_t at = (k + e / left) * n + k + e % left;
    if (fabs(f.lu[at]) > most[own]) {
      most[own] = fabs(f.lu[at]);
      place[own] = at;
    }
  }
  barrier();
  for (int half = BLOCK_THREADS / 2; half; half /= 2) {
    if (own < half &&
        (most[own + half] > most[own] || (most[own + half] == most[own] && place[own + half] < place[own]))) {
      most[own] = most[own + half];
      place[own] = place[own + half];
    }
    barrier();
  }
  int64_t best = place[0];
  barrier(); /* before anybody looks again */
  return best;
}

DEVICE void exchange(double *a, double *b) {
  double t = *a;
  *a = *b;
  *b = t;
}

DEVICE void exchange_places(int64_t *list, int64_t a, int64_t b) {
  int64_t t = list[a];
  list[a] = list[b];
  list[b] = t;
}

/* Returns the sign of the exchanges, 0 where the rank is less than n - 1. */
template <class T> DEVICE double factor(const Factors &f, const T *x) {
  int64_t n = f.n;
  int own = thread_index();
  double sign = 1;
  for (int64_t i = own; i < n * n; i += BLOCK_THREADS)
    f.lu[i] = (double)x[i];
  for (int64_t i = own; i < n; i += BLOCK_THREADS)
    f.row[i] = f.column[i] = i;
  barrier();
  for (int64_t k = 0; k < n; k++) {
    int64_t best = largest_from(f, k), i = best / n, j = best % n;
    for (int64_t c = own; i != k && c < n; c += BLOCK_THREADS)
      exchange(&f.lu[k * n + c], &f.lu[i * n + c]);
    barrier();
    for (int64_t r = own; j != k && r < n; r += BLOCK_THREADS)
      exchange(&f.lu[r * n + k], &f.lu[r * n + j]);
    if (own == 0) {
      exchange_places(f.row, k, i);
      exchange_places(f.column, k, j);
    }
    sign *= (i != k) != (j != k) ? -1 : 1;
    barrier();
    double pivot = f.lu[k * n + k];
    if (pivot == 0)
      return k < n - 1 ? 0 : sign;
    for (int64_t r = k + 1 + own; r < n; r += BLOCK_THREADS)
      f.lu[r * n + k] /= pivot;
    barrier();
    int64_t left = n - k - 1;
    for (int64_t e = own; e < left * left; e += BLOCK_THREADS) {
      int64_t r = k + 1 + e / left, c = k + 1 + e % left;
      f.lu[r * n + c] -= f.lu[r * n + k] * f.lu[k * n + c];
    }
    barrier();
  }
  return sign;
}

template <class T> GLOBAL void determinant(int64_t matrices, int64_t n, const T *x, double *room, T *y) {
  Factors f = factors_in(room, n, false);
  for (int64_t m = block_index(); m < matrices; m += grid_size()) {
    double det = factor(f, x + m * n * n);
    for (int64_t k = 0; k < n && det != 0; k++)
      det *= f.lu[k * n + k];
    if (thread_index() == 0)
      y[m] = (T)det;
    barrier(); /* before the next matrix */
  }
}

/* Column j of the adjugate of L U, in column j of z: adj(U) (L⁻¹ e_j). With U = (V u; 0 w) of the last column and row,
 * adj(U) = det(V) (w V⁻¹, -V⁻¹ u; 0, 1), which holds for w = 0, too. */
DEVICE void adjugate_column(const Factors &f, int64_t j) {
  int64_t n = f.n, last = n - 1;
  double *z = f.z + j, det = 1;
  for (int64_t i = 0; i < n; i++) {
    double sum = i == j;
    for (int64_t k = j; k < i; k++)
      sum -= f.lu[i * n + k] * z[k * n];
    z[i * n] = sum;
  }
  for (int64_t i = 0; i < last; i++)
    det *= f.lu[i * n + i];
  for (int64_t i = 0; i < last; i++)
    z[i * n] = f.lu[last * n + last] * z[i * n] - f.lu[i * n + last] * z[last * n];
  for (int64_t i = last - 1; i >= 0; i--) {
    double sum = z[i * n];
    for (int64_t k = i + 1; k < last; k++)
      sum -= f.lu[i * n + k] * z[k * n];
    z[i * n] = sum / f.lu[i * n + i];
  }
  for (int64_t i = 0; i < n; i++)
    z[i * n] *= det;
}

/* dX = dY adj(X)ᵀ, whatever the rank of X. */
template <class T>
GLOBAL void determinant_grad(int64_t matrices, int64_t n, const T *dy, const T *x, double *room, T *dx) {
  Factors f = factors_in(room, n, true);
  for (int64_t m = block_index(); m < matrices; m += grid_size()) {
    double sign = factor(f, x + m * n * n), scale = (double)dy[m] * sign;
    for (int64_t j = thread_index(); j < n; j += BLOCK_THREADS) {
      if (sign != 0)
        adjugate_column(f, j);
      for (int64_t i = 0; i < n; i++)
        dx[(m * n + f.row[j]) * n + f.column[i]] = sign != 0 ? (T)(scale * f.z[i * n + j]) : 0;
    }
    barrier(); /* before the next matrix */
  }
}

static int64_t blocks_of(int64_t matrices) {
  return matrices < MATRICES_AT_ONCE ? matrices : MATRICES_AT_ONCE;
}

size_t determinant_room(int64_t matrices, int64_t n, bool grad) {
  return sizeof(double) * (size_t)(blocks_of(matrices) * numbers_of(n, grad));
}

void launch_determinant(cudaStream_t s, DType type, int64_t matrices, int64_t n, const void *x, void *room, void *y) {
  FOR_FLOATS(type, launch(determinant<T>, blocks_of(matrices), BLOCK_THREADS, s, matrices, n, (const T *)x,
                          (double *)room, (T *)y))
}

void launch_determinant_grad(cudaStream_t s, DType type, int64_t matrices, int64_t n, const void *dy, const void *x,
                             void *room, void *dx) {
  FOR_FLOATS(type, launch(determinant_grad<T>, blocks_of(matrices), BLOCK_THREADS, s, matrices, n, (const T *)dy,
                          (const T *)x, (double *)room, (T *)dx))
}
