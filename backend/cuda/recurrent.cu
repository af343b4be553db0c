/* The steps of recurrent layers: a few launches a step, in which all samples go on together. Invariant: a sample's
 * numbers do not depend on the others; a product's sums run in double, in an order that the number of units alone
 * decides. */
#include "backend/cuda/fault.cuh"

/* Whether sample n has a step t. */
DEVICE bool step_counts(const RecurrentWork &w, int64_t t, int64_t n) {
  return !w.lengths || t < index_at(w.length_type, w.lengths, n);
}

constexpr int TOGETHER = 4;

/* s [N, width] at columns 0 … rows-1 = x [N,H] M' + b, M [rows,H]. A warp for one row and TOGETHER samples, which read
 * it once. */
template <class T>
GLOBAL void recur(int64_t samples, int64_t rows, int64_t H, int64_t width, const T *matrix, const T *x, const T *b,
                  T *s) {
  int64_t tiles = (samples + TOGETHER - 1) / TOGETHER;
  int lane = thread_index() % WARP_LANES;
  for (int64_t g = global_thread() / WARP_LANES; g < rows * tiles; g += global_threads() / WARP_LANES) {
    int64_t j = g % rows, first = g / rows * TOGETHER;
    double sum[TOGETHER] = {0};
    for (int64_t u = lane; u < H; u += WARP_LANES) {
      double m = (double)matrix[j * H + u];
      for (int k = 0; k < TOGETHER; k++)
        if (first + k < samples)
          sum[k] += m * (double)x[(first + k) * H + u];
    }
    for (int k = 0; k < TOGETHER; k++) {
      double all = sum_lanes(sum[k], WARP_LANES);
      if (lane == 0 && first + k < samples)
        s[(first + k) * width + j] = (T)all + (b ? b[j] : 0);
    }
  }
}

template <class T>
static void run_recur(cudaStream_t s, const RecurrentWork &w, int64_t rows, int64_t first, const void *x) {
  int64_t H = w.units, tiles = (w.samples + TOGETHER - 1) / TOGETHER;
  launch(recur<T>, blocks_for(rows * tiles * WARP_LANES), BLOCK_THREADS, s, w.samples, rows, H, w.r.gates * H,
         (const T *)w.matrix + first * H, (const T *)x, w.bias ? (const T *)w.bias + first : (const T *)NULL,
         (T *)w.sums + first);
}

template <class T> DEVICE T sigmoid(T x) {
  return 1 / (1 + exp(-x));
}

/* A GRU whose reset comes before its product: z, r, and r h in `work`. */
template <class T> GLOBAL void reset_first(RecurrentWork w, int64_t t) {
  int64_t H = w.units;
  for (int64_t i = global_thread(); i < w.samples * H; i += global_threads()) {
    int64_t n = i / H, u = i % H, row = t * w.samples + n;
    const T *p = (const T *)w.p + row * 3 * H + u, *s = (const T *)w.sums + n * 3 * H + u;
    T *saved = (T *)w.saved + row * 3 * H + u, r = sigmoid(p[H] + s[H]);
    saved[0] = sigmoid(p[0] + s[0]);
    saved[H] = r;
    ((T *)w.work)[i] = r * ((const T *)w.h)[i];
  }
}

/* The new state of one unit; p, s, b, saved: at the unit, its gates H apart. */
template <class T>
DEVICE T new_state(const RecurrentWork &w, const T *p, const T *s, const T *b, T *saved, T h, T *cell) {
  int64_t H = w.units;
  switch (w.r.cell) {
  case CELL_LSTM: {
    T i = sigmoid(p[0] + s[0]), o = sigmoid(p[H] + s[H]), f = sigmoid(p[2 * H] + s[2 * H]);
    T g = tanh(p[3 * H] + s[3 * H]), before = *cell, c = f * before + i * g;
    saved[0] = i;
    saved[H] = o;
    saved[2 * H] = f;
    saved[3 * H] = g;
    saved[4 * H] = before;
    *cell = c;
    return o * tanh(c);
  }
  case CELL_GRU:
  case CELL_GRU_AFTER: {
    bool after = w.r.cell == CELL_GRU_AFTER;
    if (after) {
      saved[0] = sigmoid(p[0] + s[0]);
      saved[H] = sigmoid(p[H] + s[H]);
      saved[3 * H] = s[2 * H];
    }
    T z = saved[0], recurrent = after ? saved[H] * s[2 * H] + (b ? b[3 * H] : 0) : s[2 * H];
    T candidate = tanh(p[2 * H] + recurrent);
    saved[2 * H] = candidate;
    return (1 - z) * candidate + z * h;
  }
  default: {
    T x = p[0] + s[0];
    return w.r.cell == CELL_RELU ? (x > 0 ? x : 0) : tanh(x);
  }
  }
}

template <class T> GLOBAL void advance(RecurrentWork w, int64_t t) {
  int64_t H = w.units, gates = w.r.gates * H, saves = w.r.saved * H;
  for (int64_t i = global_thread(); i < w.samples * H; i += global_threads()) {
    int64_t n = i / H, u = i % H, row = t * w.samples + n;
    T *h = (T *)w.h + i, *y = (T *)w.y + row * H + u, *saved = saves ? (T *)w.saved + row * saves + u : NULL;
    ((T *)w.prev)[row * H + u] = *h;
    if (!step_counts(w, t, n)) {
      *y = 0;
      for (int k = 0; k < w.r.saved; k++)
        saved[k * H] = 0;
      continue;
    }
    *h = *y = new_state(w, (const T *)w.p + row * gates + u, (const T *)w.sums + n * gates + u,
                        w.bias ? (const T *)w.bias + u : (const T *)NULL, saved, *h, w.c ? (T *)w.c + i : (T *)NULL);
  }
}

static int64_t step_at(const RecurrentWork &w, int64_t k) {
  return w.r.reverse ? w.steps - 1 - k : k;
}

template <class T> static void forward(cudaStream_t s, const RecurrentWork &w) {
  int64_t H = w.units, blocks = blocks_for(w.samples * H);
  for (int64_t k = 0; k < w.steps; k++) {
    int64_t t = step_at(w, k);
    run_recur<T>(s, w, w.r.cell == CELL_GRU ? 2 * H : w.r.gates * H, 0, w.h);
    if (w.r.cell == CELL_GRU) {
      launch(reset_first<T>, blocks, BLOCK_THREADS, s, w, t);
      run_recur<T>(s, w, H, 2 * H, w.work);
    }
    launch(advance<T>, blocks, BLOCK_THREADS, s, w, t);
  }
}

void launch_recurrent(cudaStream_t s, DType type, const RecurrentWork *work) {
  FOR_FLOATS(type, forward<T>(s, *work))
}

/* ---- the gradient ---- */

constexpr int COLUMNS = 32, PARTS = BLOCK_THREADS / COLUMNS;

/* y [N,H] = x [N, width] M (adds: y + x M), M [rows,H], for the samples that have step t. A block for COLUMNS units of
 * a sample: PARTS threads each, every PARTS-th row. */
template <class T>
GLOBAL void recur_back(RecurrentWork w, int64_t t, int64_t rows, int64_t width, const T *matrix, const T *x, bool adds,
                       T *y) {
  SHARED double partial[PARTS][COLUMNS];
  int column = thread_index() % COLUMNS, part = thread_index() / COLUMNS;
  int64_t H = w.units, tiles = (H + COLUMNS - 1) / COLUMNS;
  for (int64_t g = block_index(); g < w.samples * tiles; g += grid_size()) {
    int64_t n = g / tiles, u = g % tiles * COLUMNS + column;
    bool counts = u < H && step_counts(w, t, n);
    double sum = 0;
    for (int64_t j = part; counts && j < rows; j += PARTS)
      sum += (double)x[n * width + j] * (double)matrix[j * H + u];
    partial[part][column] = sum;
    barrier();
    if (part == 0 && counts) {
      for (int k = 1; k < PARTS; k++)
        sum += partial[k][column];
      y[n * H + u] = (adds ? y[n * H + u] : 0) + (T)sum;
    }
    barrier();
  }
}

template <class T>
static void run_recur_back(cudaStream_t s, const RecurrentWork &w, int64_t t, int64_t rows, int64_t first,
                           const void *x, bool adds, void *y) {
  int64_t H = w.units, width = w.r.gates * H, blocks = w.samples * ((H + COLUMNS - 1) / COLUMNS);
  launch(recur_back<T>, blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS, BLOCK_THREADS, s, w, t, rows, width,
         (const T *)w.matrix + first * H, (const T *)x + t * w.samples * width + first, adds, (T *)y);
}

/* A GRU's second half, where `after` tells how r h~ was made; dp, ds, saved: at the unit, H apart. Returns what goes to
 * the state before. */
template <class T> DEVICE T reset_back(bool after, int64_t H, const T *saved, T h, T through, T d, T *dp, T *ds) {
  T r = saved[H], slope = r * (1 - r);
  dp[H] = (after ? dp[2 * H] * saved[3 * H] : through * h) * slope;
  if (!after)
    return d + through * r;
  ds[0] = dp[0];
  ds[H] = dp[H];
  ds[2 * H] = dp[2 * H] * r;
  return d;
}

/* The cotangents of one unit's gates; d: of its state. Returns what goes to the state before, beside the product. */
template <class T> DEVICE T gates_back(const RecurrentWork &w, const T *saved, T h, T d, T *cell, T *dp, T *ds) {
  int64_t H = w.units;
  switch (w.r.cell) {
  case CELL_LSTM: {
    T i = saved[0], o = saved[H], f = saved[2 * H], g = saved[3 * H], before = saved[4 * H];
    T c = tanh(f * before + i * g), at = *cell + d * o * (1 - c * c);
    dp[0] = at * g * i * (1 - i);
    dp[H] = d * c * o * (1 - o);
    dp[2 * H] = at * before * f * (1 - f);
    dp[3 * H] = at * i * (1 - g * g);
    *cell = at * f;
    return 0;
  }
  case CELL_GRU:
  case CELL_GRU_AFTER: {
    T z = saved[0], candidate = saved[2 * H];
    dp[0] = d * (h - candidate) * z * (1 - z);
    dp[2 * H] = d * (1 - z) * (1 - candidate * candidate);
    return w.r.cell == CELL_GRU ? d * z : reset_back(true, H, saved, h, (T)0, d * z, dp, ds);
  }
  default:
    dp[0] = w.r.cell == CELL_RELU ? (saved[0] > 0 ? d : 0) : d * (1 - saved[0] * saved[0]);
    return 0;
  }
}

template <class T> GLOBAL void retreat(RecurrentWork w, int64_t t) {
  int64_t H = w.units, gates = w.r.gates * H, saves = (w.r.saved ? w.r.saved : 1) * H;
  for (int64_t i = global_thread(); i < w.samples * H; i += global_threads()) {
    int64_t n = i / H, u = i % H, row = t * w.samples + n;
    T *dh = (T *)w.h + i, *dp = (T *)w.dp + row * gates + u, *ds = w.ds ? (T *)w.ds + row * gates + u : NULL;
    if (!step_counts(w, t, n)) {
      for (int k = 0; k < w.r.gates; k++) {
        dp[k * H] = 0;
        if (ds)
          ds[k * H] = 0;
      }
      continue;
    }
    T d = *dh + (w.y ? ((const T *)w.y)[row * H + u] : 0);
    *dh = gates_back(w, (const T *)w.saved + row * saves + u, ((const T *)w.prev)[row * H + u], d,
                     w.c ? (T *)w.c + i : (T *)NULL, dp, ds);
  }
}

/* A GRU whose reset came before its product, with that product's transpose in `work`. */
template <class T> GLOBAL void retreat_reset(RecurrentWork w, int64_t t) {
  int64_t H = w.units;
  for (int64_t i = global_thread(); i < w.samples * H; i += global_threads()) {
    int64_t n = i / H, u = i % H, row = t * w.samples + n;
    T *dh = (T *)w.h + i;
    if (step_counts(w, t, n))
      *dh = reset_back(false, H, (const T *)w.saved + row * 3 * H + u, ((const T *)w.prev)[row * H + u],
                       ((const T *)w.work)[i], *dh, (T *)w.dp + row * 3 * H + u, (T *)NULL);
  }
}

template <class T> static void backward(cudaStream_t s, const RecurrentWork &w) {
  int64_t H = w.units, blocks = blocks_for(w.samples * H);
  for (int64_t k = w.steps; k-- > 0;) {
    int64_t t = step_at(w, k);
    launch(retreat<T>, blocks, BLOCK_THREADS, s, w, t);
    if (w.r.cell == CELL_GRU) {
      run_recur_back<T>(s, w, t, H, 2 * H, w.dp, false, w.work);
      launch(retreat_reset<T>, blocks, BLOCK_THREADS, s, w, t);
    }
    run_recur_back<T>(s, w, t, w.r.cell == CELL_GRU ? 2 * H : w.r.gates * H, 0, w.ds ? w.ds : w.dp, true, w.h);
  }
}

void launch_recurrent_grad(cudaStream_t s, DType type, const RecurrentWork *work) {
  FOR_FLOATS(type, backward<T>(s, *work))
}
