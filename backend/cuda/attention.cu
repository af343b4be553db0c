/* Attention in the type's own arithmetic: 256 threads to as many rows as columns of scores, each thread to rows ty + 16
 * i and columns tx + 16 j of them, and of rows of sums to packs tx + 16 n. Bfloat16 is computed as float32. */
#include "backend/cuda/bfloat.cuh"
#include "backend/cuda/draw.cuh"

/* D: elements of a row, more or less of which are zero. */
template <class Stored, int D> struct Tile {
  typedef Computed<Stored> C;
  static constexpr int PACK = 16 / sizeof(C),
                       ROWS = D * sizeof(C) <= 256   ? 64
                              : D * sizeof(C) <= 512 ? 32
                                                     : 16,
                       EACH = ROWS / 16, PACKS = D / 16 / PACK;
  static constexpr int STEP = D + PACK, WEIGHT_STEP = ROWS + PACK; /* so that 16 rows' packs are in different banks */
  static constexpr int NUMBERS = ROWS * STEP, WEIGHTS = ROWS * WEIGHT_STEP;
  typedef C Scores[EACH][EACH];
  typedef C Sums[EACH][PACKS * PACK];

  static DEVICE int tx() { return thread_index() % 16; }
  static DEVICE int ty() { return thread_index() / 16; }

  /* Rows first … of operand or result p, which begins at data without its offset. */
  static DEVICE void read(C *tile, const void *data, const AttentionPlace &p, int64_t b, int64_t h, int first,
                          int64_t rows, int64_t size) {
    const Stored *from = (const Stored *)data + p.offset + b * p.batch + h * p.head;
    for (int i = thread_index(); i < ROWS * D; i += BLOCK_THREADS) {
      int row = i / D, column = i % D;
      tile[row * STEP + column] = first + row < rows && column < size ? (C)from[(first + row) * p.row + column] : C(0);
    }
  }

  static DEVICE void write(const Sums &sums, double by, void *data, const AttentionPlace &p, int64_t b, int64_t h,
                           int first, int64_t rows, int64_t size) {
    Stored *to = (Stored *)data + p.offset + b * p.batch + h * p.head;
    UNROLL
    for (int i = 0; i < EACH; i++)
      for (int k = 0; k < PACKS * PACK; k++) {
        int row = first + ty() + 16 * i, column = (tx() + 16 * (k / PACK)) * PACK + k % PACK;
        if (row < rows && column < size)
          to[row * p.row + column] = (Stored)(sums[i][k] * (C)by);
      }
  }

  /* s = a b' */
  static DEVICE void multiply(Scores &s, const C *a, const C *b) {
    typedef Pack<C, PACK> P;
    UNROLL
    for (int i = 0; i < EACH; i++)
      for (int j = 0; j < EACH; j++)
        s[i][j] = 0;
    for (int d = 0; d < D; d += PACK) {
      P x[EACH], y[EACH];
      UNROLL
      for (int i = 0; i < EACH; i++) {
        x[i] = *(const P *)&a[(ty() + 16 * i) * STEP + d];
        y[i] = *(const P *)&b[(tx() + 16 * i) * STEP + d];
      }
      UNROLL
      for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++)
          for (int k = 0; k < PACK; k++)
            s[i][j] += x[i].at[k] * y[j].at[k];
    }
  }

  static DEVICE void put(C *weights, const Scores &s) {
    UNROLL
    for (int i = 0; i < EACH; i++)
      for (int j = 0; j < EACH; j++)
        weights[(ty() + 16 * i) * WEIGHT_STEP + tx() + 16 * j] = s[i][j];
  }

  /* sums += weights b */
  static DEVICE void add(Sums &sums, const C *weights, const C *b) {
    typedef Pack<C, PACK> P;
    for (int j = 0; j < ROWS; j += PACK) {
      P x[EACH];
      UNROLL
      for (int i = 0; i < EACH; i++)
        x[i] = *(const P *)&weights[(ty() + 16 * i) * WEIGHT_STEP + j];
      UNROLL
      for (int k = 0; k < PACK; k++)
        for (int n = 0; n < PACKS; n++) {
          P y = *(const P *)&b[(j + k) * STEP + (tx() + 16 * n) * PACK];
          UNROLL
          for (int i = 0; i < EACH; i++)
            for (int c = 0; c < PACK; c++)
              sums[i][n * PACK + c] += x[i].at[k] * y.at[c];
        }
    }
  }
};

/* Over the 16 threads that share rows. */
template <class C> DEVICE C row_sum(C x) {
  for (int half = 8; half; half /= 2)
    x += shuffle_xor(x, half);
  return x;
}
template <class C> DEVICE C row_most(C x) {
  for (int half = 8; half; half /= 2)
    x = fmax(x, shuffle_xor(x, half));
  return x;
}

DEVICE bool sees(const Attention &a, int64_t t, int64_t key) {
  return t < a.queries && key < a.keys && key >= t - a.left && key <= t + a.right;
}

/* The score of a product x; minus infinity where the query does not see the key. */
template <class C> DEVICE C score_of(const AttentionWork &w, int64_t b, int64_t h, int64_t t, int64_t key, C x) {
  if (!sees(w.a, t, key))
    return -INFINITY;
  x *= (C)w.a.scale;
  int64_t at = b * w.mask_step[0] + h * w.mask_step[1] + t * w.mask_step[2] + key * w.mask_step[3];
  return !w.mask ? x : !w.mask_is_bool ? x + ((const C *)w.mask)[at] : ((const uint8_t *)w.mask)[at] ? x : -(C)INFINITY;
}

/* What the weight is multiplied by; `row`: the query's number among all. */
template <class C> DEVICE C kept_factor(const AttentionWork &w, int64_t row, int64_t t, int64_t key) {
  if (!w.counter)
    return 1;
  return t < w.a.queries && key < w.a.keys && is_kept(w.drawing, w.counter, row * w.a.keys + key) ? (C)w.factor : 0;
}

/* Keys that queries first … last see: they begin at `begin`, rounded down to a tile. */
struct Range {
  int begin, end;
};
DEVICE Range keys_of(const Attention &a, int64_t first, int64_t last, int tile) {
  last = last < a.queries ? last : a.queries - 1;
  int64_t begin = first > a.left ? first - a.left : 0, end = last + a.right + 1 < a.keys ? last + a.right + 1 : a.keys;
  return Range{(int)(begin / tile * tile), (int)end};
}

template <class T, int D> GLOBAL_OF(BLOCK_THREADS, sizeof(T) < 8 ? 2 : 1) void attend(AttentionWork w) {
  typedef Tile<T, D> Tiles;
  typedef Computed<T> C;
  constexpr int ROWS = Tiles::ROWS, EACH = Tiles::EACH;
  C *q = (C *)shared_memory(), *kv = q + Tiles::NUMBERS, *weights = kv + Tiles::NUMBERS;
  int64_t heads = w.a.batch * w.a.heads, head = block_index() % heads, b = head / w.a.heads, h = head % w.a.heads;
  int64_t group = h / (w.a.heads / w.a.groups);
  int t0 = (int)(block_index() / heads) * ROWS;
  Range keys = keys_of(w.a, t0, t0 + ROWS - 1, ROWS);
  C most[EACH], sum[EACH];
  typename Tiles::Sums sums = {};
  UNROLL
  for (int i = 0; i < EACH; i++) {
    most[i] = -INFINITY;
    sum[i] = 0;
  }
  Tiles::read(q, w.operand[0], w.a.operand[0], b, h, t0, w.a.queries, w.a.size);
  for (int j0 = keys.begin; j0 < keys.end; j0 += ROWS) {
    typename Tiles::Scores s;
    barrier();
    Tiles::read(kv, w.operand[1], w.a.operand[1], b, group, j0, w.a.keys, w.a.size);
    barrier();
    Tiles::multiply(s, q, kv);
    barrier();
    Tiles::read(kv, w.operand[2], w.a.operand[2], b, group, j0, w.a.keys, w.a.value_size);
    UNROLL
    for (int i = 0; i < EACH; i++) {
      int64_t t = t0 + Tiles::ty() + 16 * i;
      C highest = most[i], base, shrinks, own = 0;
      UNROLL
      for (int j = 0; j < EACH; j++) {
        s[i][j] = score_of(w, b, h, t, j0 + Tiles::tx() + 16 * j, s[i][j]);
        highest = fmax(highest, s[i][j]);
      }
      highest = row_most(highest);
      base = highest == -(C)INFINITY ? 0 : highest;
      shrinks = exp(most[i] - base);
      most[i] = highest;
      UNROLL
      for (int j = 0; j < EACH; j++) {
        s[i][j] = exp(s[i][j] - base);
        own += s[i][j];
        s[i][j] *= kept_factor<C>(w, head * w.a.queries + t, t, j0 + Tiles::tx() + 16 * j);
      }
      sum[i] = sum[i] * shrinks + own;
      UNROLL
      for (int k = 0; k < Tiles::PACKS * Tiles::PACK; k++)
        sums[i][k] *= shrinks;
    }
    Tiles::put(weights, s);
    barrier();
    Tiles::add(sums, weights, kv);
  }
  UNROLL
  for (int i = 0; i < EACH; i++) {
    int64_t t = t0 + Tiles::ty() + 16 * i, row = head * w.a.queries + t;
    sum[i] = row_sum(sum[i]);
    UNROLL
    for (int k = 0; k < Tiles::PACKS * Tiles::PACK; k++)
      sums[i][k] = sum[i] == 0 ? 0 : sums[i][k] / sum[i];
    if (t < w.a.queries && Tiles::tx() == 0) {
      ((C *)w.most)[row] = most[i];
      ((C *)w.log_sum)[row] = sum[i] == 0 ? 0 : log(sum[i]);
    }
  }
  Tiles::write(sums, 1, w.y, w.a.result, b, h, t0, w.a.queries, w.a.value_size);
}

/* The weight of a product x, and its slope from that of its share of Y. */
template <class C>
DEVICE C weight_of(const AttentionWork &w, int64_t b, int64_t h, int64_t t, int64_t key, C most, C log_sum, C x) {
  x = score_of(w, b, h, t, key, x);
  return x == -(C)INFINITY || most == -(C)INFINITY ? 0 : exp(x - most - log_sum);
}

/* dQ; the sums of dY Y stay in room. */
template <class T, int D> GLOBAL_OF(BLOCK_THREADS, sizeof(T) < 8 ? 2 : 1) void attend_queries(AttentionWork w) {
  typedef Tile<T, D> Tiles;
  typedef Computed<T> C;
  constexpr int ROWS = Tiles::ROWS, EACH = Tiles::EACH;
  C *q = (C *)shared_memory(), *dy = q + Tiles::NUMBERS, *k = dy + Tiles::NUMBERS, *v = k + Tiles::NUMBERS;
  C *weights = v + Tiles::NUMBERS;
  int64_t heads = w.a.batch * w.a.heads, head = block_index() % heads, b = head / w.a.heads, h = head % w.a.heads;
  int64_t group = h / (w.a.heads / w.a.groups);
  int t0 = (int)(block_index() / heads) * ROWS;
  Range keys = keys_of(w.a, t0, t0 + ROWS - 1, ROWS);
  C most[EACH], log_sum[EACH], common[EACH];
  typename Tiles::Sums sums = {};
  Tiles::read(q, w.operand[0], w.a.operand[0], b, h, t0, w.a.queries, w.a.size);
  Tiles::read(dy, w.dy, w.a.result, b, h, t0, w.a.queries, w.a.value_size);
  Tiles::read(k, w.y, w.a.result, b, h, t0, w.a.queries, w.a.value_size);
  barrier();
  UNROLL
  for (int i = 0; i < EACH; i++) {
    int row = Tiles::ty() + 16 * i;
    int64_t t = t0 + row, at = head * w.a.queries + t;
    C own = 0;
    for (int d = Tiles::tx(); d < D; d += 16)
      own += dy[row * Tiles::STEP + d] * k[row * Tiles::STEP + d];
    common[i] = row_sum(own);
    most[i] = t < w.a.queries ? ((const C *)w.most)[at] : -(C)INFINITY;
    log_sum[i] = t < w.a.queries ? ((const C *)w.log_sum)[at] : 0;
    if (t < w.a.queries && Tiles::tx() == 0)
      ((C *)w.room)[at] = common[i];
  }
  for (int j0 = keys.begin; j0 < keys.end; j0 += ROWS) {
    typename Tiles::Scores s, slope;
    barrier();
    Tiles::read(k, w.operand[1], w.a.operand[1], b, group, j0, w.a.keys, w.a.size);
    Tiles::read(v, w.operand[2], w.a.operand[2], b, group, j0, w.a.keys, w.a.value_size);
    barrier();
    Tiles::multiply(s, q, k);
    Tiles::multiply(slope, dy, v);
    UNROLL
    for (int i = 0; i < EACH; i++)
      for (int j = 0; j < EACH; j++) {
        int64_t t = t0 + Tiles::ty() + 16 * i, key = j0 + Tiles::tx() + 16 * j;
        s[i][j] = weight_of(w, b, h, t, key, most[i], log_sum[i], s[i][j]);
        s[i][j] *= kept_factor<C>(w, head * w.a.queries + t, t, key) * slope[i][j] - common[i];
      }
    Tiles::put(weights, s);
    barrier();
    Tiles::add(sums, weights, k);
  }
  Tiles::write(sums, w.a.scale, w.slope[0], w.a.operand[0], b, h, t0, w.a.queries, w.a.size);
}

/* dK and dV: rows of scores are keys, columns queries. */
template <class T, int D> GLOBAL_OF(BLOCK_THREADS, sizeof(T) < 8 ? 2 : 1) void attend_keys(AttentionWork w) {
  typedef Tile<T, D> Tiles;
  typedef Computed<T> C;
  constexpr int ROWS = Tiles::ROWS, EACH = Tiles::EACH;
  C *q = (C *)shared_memory(), *dy = q + Tiles::NUMBERS, *k = dy + Tiles::NUMBERS, *v = k + Tiles::NUMBERS;
  C *weights = v + Tiles::NUMBERS;
  int64_t groups = w.a.batch * w.a.groups, each = w.a.heads / w.a.groups;
  int64_t b = block_index() % groups / w.a.groups, group = block_index() % groups % w.a.groups;
  int j0 = (int)(block_index() / groups) * ROWS;
  int64_t last = j0 + ROWS < w.a.keys ? j0 + ROWS - 1 : w.a.keys - 1;
  int64_t begin = j0 > w.a.right ? (j0 - w.a.right) / ROWS * ROWS : 0;
  int64_t end = last + w.a.left + 1 < w.a.queries ? last + w.a.left + 1 : w.a.queries;
  typename Tiles::Sums dk = {}, dv = {};
  Tiles::read(k, w.operand[1], w.a.operand[1], b, group, j0, w.a.keys, w.a.size);
  Tiles::read(v, w.operand[2], w.a.operand[2], b, group, j0, w.a.keys, w.a.value_size);
  for (int64_t h = group * each; h < (group + 1) * each; h++)
    for (int64_t t0 = begin; t0 < end; t0 += ROWS) {
      typename Tiles::Scores s, kept;
      barrier();
      Tiles::read(q, w.operand[0], w.a.operand[0], b, h, (int)t0, w.a.queries, w.a.size);
      Tiles::read(dy, w.dy, w.a.result, b, h, (int)t0, w.a.queries, w.a.value_size);
      barrier();
      Tiles::multiply(s, k, q);
      C common[EACH];
      UNROLL
      for (int j = 0; j < EACH; j++) {
        int64_t t = t0 + Tiles::tx() + 16 * j, at = (b * w.a.heads + h) * w.a.queries + t;
        bool there = t < w.a.queries;
        C most = there ? ((const C *)w.most)[at] : -(C)INFINITY, log_sum = there ? ((const C *)w.log_sum)[at] : 0;
        common[j] = there ? ((const C *)w.room)[at] : 0;
        UNROLL
        for (int i = 0; i < EACH; i++) {
          int64_t key = j0 + Tiles::ty() + 16 * i;
          kept[i][j] = kept_factor<C>(w, at, t, key);
          s[i][j] = weight_of(w, b, h, t, key, most, log_sum, s[i][j]);
          weights[(Tiles::ty() + 16 * i) * Tiles::WEIGHT_STEP + Tiles::tx() + 16 * j] = kept[i][j] * s[i][j];
        }
      }
      barrier();
      Tiles::add(dv, weights, dy);
      typename Tiles::Scores slope;
      Tiles::multiply(slope, v, dy);
      UNROLL
      for (int i = 0; i < EACH; i++)
        for (int j = 0; j < EACH; j++)
          s[i][j] *= kept[i][j] * slope[i][j] - common[j];
      barrier();
      Tiles::put(weights, s);
      barrier();
      Tiles::add(dk, weights, q);
    }
  Tiles::write(dk, w.a.scale, w.slope[1], w.a.operand[1], b, group, j0, w.a.keys, w.a.size);
  Tiles::write(dv, 1, w.slope[2], w.a.operand[2], b, group, j0, w.a.keys, w.a.value_size);
}

template <class T, int D> static size_t bytes_for(int tiles) {
  return (size_t)(tiles * Tile<T, D>::NUMBERS + Tile<T, D>::WEIGHTS) * sizeof(Computed<T>);
}
template <class T, int D> static int64_t tiles_of(int64_t rows) {
  return (rows + Tile<T, D>::ROWS - 1) / Tile<T, D>::ROWS;
}

template <class T, int D> static void launch_size(cudaStream_t s, const AttentionWork *w) {
  launch_shared(attend<T, D>, tiles_of<T, D>(w->a.queries) * w->a.batch * w->a.heads, BLOCK_THREADS, bytes_for<T, D>(2),
                s, *w);
}

template <class T, int D> static void launch_grad_size(cudaStream_t s, const AttentionWork *w) {
  launch_shared(attend_queries<T, D>, tiles_of<T, D>(w->a.queries) * w->a.batch * w->a.heads, BLOCK_THREADS,
                bytes_for<T, D>(4), s, *w);
  launch_shared(attend_keys<T, D>, tiles_of<T, D>(w->a.keys) * w->a.batch * w->a.groups, BLOCK_THREADS,
                bytes_for<T, D>(4), s, *w);
}

static int64_t size_of(const AttentionWork *w) {
  return w->a.size > w->a.value_size ? w->a.size : w->a.value_size;
}

void launch_attention(cudaStream_t s, DType type, const AttentionWork *w) {
  if (size_of(w) <= 64)
    FOR_STORED(type, (launch_size<T, 64>(s, w)))
  else if (size_of(w) <= 128)
    FOR_STORED(type, (launch_size<T, 128>(s, w)))
  else
    FOR_STORED(type, (launch_size<T, 256>(s, w)))
}

void launch_attention_grad(cudaStream_t s, DType type, const AttentionWork *w) {
  if (size_of(w) <= 64)
    FOR_STORED(type, (launch_grad_size<T, 64>(s, w)))
  else if (size_of(w) <= 128)
    FOR_STORED(type, (launch_grad_size<T, 128>(s, w)))
  else
    FOR_STORED(type, (launch_grad_size<T, 256>(s, w)))
}
