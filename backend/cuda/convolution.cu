/* Convolution and its gradients as products of matrices that are never written out: the weights (or a cotangent) times
 * patches that are picked while they are multiplied. Invariant: terms are added in their order, in spans whose length
 * depends on shapes alone; spans are added in their order. */
#include "backend/cuda/steps.cuh"

constexpr int TILE = 64, DEPTH = 8, SIDE = 16,
              EACH = TILE / SIDE; /* a block's 16 x 16 threads have 4 x 4 places each */
static_assert(SIDE * SIDE == BLOCK_THREADS, "a thread for each");

/* A place of three axes. */
struct Place3 {
  int64_t at[CONVOLUTION_AXES];
};

DEVICE Place3 place3(const int64_t *size, int64_t i) {
  Place3 p;
  p.at[2] = i % size[2];
  p.at[1] = i / size[2] % size[1];
  p.at[0] = i / size[2] / size[1];
  return p;
}

/* Where tap t at Y's place o meets X's plane; -1: outside. */
DEVICE int64_t place_in_x(const Convolution &c, const Place3 &o, const Place3 &t) {
  int64_t at = 0;
  for (int a = 0; a < CONVOLUTION_AXES; a++) {
    int64_t i = o.at[a] * c.stride[a] + t.at[a] * c.dilation[a] - c.pad[a];
    if (i < 0 || i >= c.x[a])
      return -1;
    at = at * c.x[a] + i;
  }
  return at;
}

/* The place of Y's plane whose tap t is X's place i; -1: there is none. */
DEVICE int64_t place_in_y(const Convolution &c, const Place3 &i, const Place3 &t) {
  int64_t at = 0;
  for (int a = 0; a < CONVOLUTION_AXES; a++) {
    int64_t o = i.at[a] + c.pad[a] - t.at[a] * c.dilation[a];
    if (o < 0 || o % c.stride[a] || o / c.stride[a] >= c.y[a])
      return -1;
    at = at * c.y[a] + o / c.stride[a];
  }
  return at;
}

/* Each of the three as a product of one group: left [rows, terms] times right [terms, columns]. */

/* Y [filters, samples · places] = W [filters, channels · taps] times patches of X. */
template <class T> struct Forward {
  const T *w, *x;
  T *y;
  static int64_t rows(const Convolution &c) { return c.filters; }
  static int64_t columns(const Convolution &c) { return c.samples * c.y_plane; }
  static int64_t terms(const Convolution &c) { return c.channels * c.k_plane; }
  DEVICE T left(const Convolution &c, int64_t g, int64_t row, int64_t term) const {
    return w[(g * c.filters + row) * (c.channels * c.k_plane) + term];
  }
  DEVICE T right(const Convolution &c, int64_t g, int64_t term, int64_t column) const {
    int64_t at = place_in_x(c, place3(c.y, column % c.y_plane), place3(c.k, term % c.k_plane));
    return at < 0 ? 0 : x[((column / c.y_plane * c.groups + g) * c.channels + term / c.k_plane) * c.x_plane + at];
  }
  DEVICE int64_t place(const Convolution &c, int64_t g, int64_t row, int64_t column) const {
    return ((column / c.y_plane * c.groups + g) * c.filters + row) * c.y_plane + column % c.y_plane;
  }
};

/* X [channels, samples · places] = W' [channels, filters · taps] times what Y has there. */
template <class T> struct TowardsInput {
  const T *w, *x; /* x: dY */
  T *y;           /* dX */
  static int64_t rows(const Convolution &c) { return c.channels; }
  static int64_t columns(const Convolution &c) { return c.samples * c.x_plane; }
  static int64_t terms(const Convolution &c) { return c.filters * c.k_plane; }
  DEVICE T left(const Convolution &c, int64_t g, int64_t row, int64_t term) const {
    return w[((g * c.filters + term / c.k_plane) * c.channels + row) * c.k_plane + term % c.k_plane];
  }
  DEVICE T right(const Convolution &c, int64_t g, int64_t term, int64_t column) const {
    int64_t at = place_in_y(c, place3(c.x, column % c.x_plane), place3(c.k, term % c.k_plane));
    return at < 0 ? 0 : x[((column / c.x_plane * c.groups + g) * c.filters + term / c.k_plane) * c.y_plane + at];
  }
  DEVICE int64_t place(const Convolution &c, int64_t g, int64_t row, int64_t column) const {
    return ((column / c.x_plane * c.groups + g) * c.channels + row) * c.x_plane + column % c.x_plane;
  }
};

/* W [filters, channels · taps] = dY [filters, samples · places] times patches of X. */
template <class T> struct TowardsWeight {
  const T *w, *x; /* w: dY */
  T *y;           /* dW */
  static int64_t rows(const Convolution &c) { return c.filters; }
  static int64_t columns(const Convolution &c) { return c.channels * c.k_plane; }
  static int64_t terms(const Convolution &c) { return c.samples * c.y_plane; }
  DEVICE T left(const Convolution &c, int64_t g, int64_t row, int64_t term) const {
    return w[((term / c.y_plane * c.groups + g) * c.filters + row) * c.y_plane + term % c.y_plane];
  }
  DEVICE T right(const Convolution &c, int64_t g, int64_t term, int64_t column) const {
    int64_t at = place_in_x(c, place3(c.y, term % c.y_plane), place3(c.k, column % c.k_plane));
    return at < 0 ? 0 : x[((term / c.y_plane * c.groups + g) * c.channels + column / c.k_plane) * c.x_plane + at];
  }
  DEVICE int64_t place(const Convolution &c, int64_t g, int64_t row, int64_t column) const {
    return (g * c.filters + row) * (c.channels * c.k_plane) + column;
  }
};

/* rows x columns places of each group, `spans` sums of `span` terms for each; sum s goes to y + s * all. */
struct Work {
  int64_t rows, columns, terms, span, spans, all;
};

/* A tile of places a block: DEPTH terms of both sides at a time in shared memory. */
template <class T, class Side> GLOBAL void product(Convolution c, Work k, Side side) {
  SHARED T left[DEPTH][TILE], right[DEPTH][TILE];
  int own_row = thread_index() / SIDE, own_column = thread_index() % SIDE;
  int64_t down = (k.rows + TILE - 1) / TILE, across = (k.columns + TILE - 1) / TILE;
  int64_t tiles = c.groups * k.spans * down * across;
  for (int64_t tile = block_index(); tile < tiles; tile += grid_size()) {
    int64_t first_column = tile % across * TILE, first_row = tile / across % down * TILE;
    int64_t span = tile / across / down % k.spans, g = tile / across / down / k.spans;
    int64_t end = (span + 1) * k.span < k.terms ? (span + 1) * k.span : k.terms;
    T sum[EACH][EACH];
    for (int i = 0; i < EACH; i++)
      for (int j = 0; j < EACH; j++)
        sum[i][j] = 0;
    for (int64_t first = span * k.span; first < end; first += DEPTH) {
      for (int e = thread_index(); e < DEPTH * TILE; e += BLOCK_THREADS) {
        int64_t term = first + e / TILE, row = first_row + e % TILE, column = first_column + e % TILE;
        left[e / TILE][e % TILE] = term < end && row < k.rows ? side.left(c, g, row, term) : 0;
        right[e / TILE][e % TILE] = term < end && column < k.columns ? side.right(c, g, term, column) : 0;
      }
      barrier();
      for (int d = 0; d < DEPTH; d++)
        for (int i = 0; i < EACH; i++)
          for (int j = 0; j < EACH; j++)
            sum[i][j] += left[d][own_row + i * SIDE] * right[d][own_column + j * SIDE];
      barrier();
    }
    for (int i = 0; i < EACH; i++)
      for (int j = 0; j < EACH; j++) {
        int64_t row = first_row + own_row + i * SIDE, column = first_column + own_column + j * SIDE;
        if (row < k.rows && column < k.columns)
          side.y[span * k.all + side.place(c, g, row, column)] = sum[i][j];
      }
  }
}

/* A thread a place: for groups of few rows, as depthwise convolutions have. */
template <class T, class Side> GLOBAL void single(Convolution c, Work k, Side side) {
  int64_t n = c.groups * k.spans * k.rows * k.columns;
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    int64_t column = i % k.columns, row = i / k.columns % k.rows;
    int64_t span = i / k.columns / k.rows % k.spans, g = i / k.columns / k.rows / k.spans;
    int64_t end = (span + 1) * k.span < k.terms ? (span + 1) * k.span : k.terms;
    T sum = 0;
    for (int64_t term = span * k.span; term < end; term++)
      sum += side.left(c, g, row, term) * side.right(c, g, term, column);
    side.y[span * k.all + side.place(c, g, row, column)] = sum;
  }
}

template <class T> GLOBAL void add_spans(Work k, const T *partial, T *y) {
  for (int64_t i = global_thread(); i < k.all; i += global_threads()) {
    double sum = 0;
    for (int64_t s = 0; s < k.spans; s++)
      sum += (double)partial[s * k.all + i];
    y[i] = (T)sum;
  }
}

template <class T> static Work work_of(const Convolution &c, ConvolutionWay way) {
  constexpr int64_t SPAN = 1024, MOST = 64; /* terms of a sum at least, and sums at most */
  Work k = {};
  if (way == CONVOLUTION_FORWARD) {
    k = {Forward<T>::rows(c), Forward<T>::columns(c), Forward<T>::terms(c), 0, 1, 0};
  } else if (way == CONVOLUTION_TOWARDS_INPUT) {
    k = {TowardsInput<T>::rows(c), TowardsInput<T>::columns(c), TowardsInput<T>::terms(c), 0, 1, 0};
  } else {
    k = {TowardsWeight<T>::rows(c), TowardsWeight<T>::columns(c), TowardsWeight<T>::terms(c), 0, 1, 0};
    k.spans = k.terms / SPAN < 1 ? 1 : k.terms / SPAN > MOST ? MOST : k.terms / SPAN;
  }
  k.span = (k.terms + k.spans - 1) / k.spans;
  k.all = c.groups * k.rows * k.columns;
  return k;
}

int64_t convolution_partials(const Convolution *c, ConvolutionWay way) {
  Work k = work_of<float>(*c, way);
  return k.spans > 1 ? k.spans * k.all : 0;
}

template <class T, class Side> static void run(cudaStream_t s, const Convolution &c, const Work &k, Side side) {
  constexpr int64_t FEW = 8;
  if (k.rows < FEW) {
    launch(single<T, Side>, blocks_for(k.all * k.spans), BLOCK_THREADS, s, c, k, side);
    return;
  }
  int64_t tiles = c.groups * k.spans * ((k.rows + TILE - 1) / TILE) * ((k.columns + TILE - 1) / TILE);
  launch(product<T, Side>, tiles > MOST_BLOCKS ? MOST_BLOCKS : tiles, BLOCK_THREADS, s, c, k, side);
}

template <class T>
static void convolve(cudaStream_t s, const Convolution &c, ConvolutionWay way, const T *a, const T *b, T *y,
                     T *partial) {
  Work k = work_of<T>(c, way);
  T *to = k.spans > 1 ? partial : y;
  if (way == CONVOLUTION_FORWARD)
    run<T>(s, c, k, Forward<T>{b, a, to});
  else if (way == CONVOLUTION_TOWARDS_INPUT)
    run<T>(s, c, k, TowardsInput<T>{b, a, to});
  else
    run<T>(s, c, k, TowardsWeight<T>{a, b, to});
  if (k.spans > 1)
    launch(add_spans<T>, blocks_for(k.all), BLOCK_THREADS, s, k, (const T *)partial, y);
}

void launch_convolution(cudaStream_t s, DType type, const Convolution *c, ConvolutionWay way, const void *a,
                        const void *b, void *y, void *partial) {
  FOR_FLOATS(type, convolve<T>(s, *c, way, (const T *)a, (const T *)b, (T *)y, (T *)partial))
}
