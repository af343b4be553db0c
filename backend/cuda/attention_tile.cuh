/* Attention by tiles on tensor cores: a block of four warps has 64 rows, each warp 16 of them, and goes over the rows
 * of the other side a tile at a time. Invariant: tiles hold bfloat16, zeros behind the last row and the head's size;
 * products are summed in float32. */
#ifndef BACKEND_CUDA_ATTENTION_TILE_CUH
#define BACKEND_CUDA_ATTENTION_TILE_CUH

#include "backend/cuda/bfloat.cuh"

constexpr int TILE_THREADS = 128, TILE_ROWS = 64;
constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

DEVICE int lane_index() {
  return thread_index() % WARP_LANES;
}
DEVICE int warp_index() {
  return thread_index() / WARP_LANES;
}

/* One head's rows in memory. */
template <class T> struct HeadRows {
  T *at;
  int64_t step;
  int rows, size;
  bool aligned;
};

/* Of operand or result p, which begins at data, without its offset. */
template <class T>
DEVICE HeadRows<T> head_rows(T *data, const AttentionPlace &p, int64_t b, int64_t h, int64_t rows, int64_t size,
                             bool aligned) {
  return HeadRows<T>{data + p.offset + b * p.batch + h * p.head, p.row, (int)rows, (int)size, aligned};
}
DEVICE HeadRows<const Bfloat> operand_rows(const AttentionWork &w, int i, int64_t b, int64_t h) {
  return head_rows((const Bfloat *)w.operand[i], w.a.operand[i], b, h, i ? w.a.keys : w.a.queries,
                   i == 2 ? w.a.value_size : w.a.size, w.aligned[i]);
}
DEVICE HeadRows<Bfloat> slope_rows(const AttentionWork &w, int i, int64_t b, int64_t h) {
  return head_rows((Bfloat *)w.slope[i], w.a.operand[i], b, h, i ? w.a.keys : w.a.queries,
                   i == 2 ? w.a.value_size : w.a.size, w.aligned[i]);
}
template <class T> DEVICE HeadRows<T> result_rows(const AttentionWork &w, T *y, int64_t b, int64_t h) {
  return head_rows(y, w.a.result, b, h, w.a.queries, w.a.value_size, w.aligned[3]);
}

/* Eight elements of a tile's row, number `chunk`: they lie so that the same ones of eight rows, and eight of one row,
 * are in different banks. */
template <int D> DEVICE Bfloat *chunk_at(Bfloat *tile, int row, int chunk) {
  return tile + row * D + ((chunk ^ (row & 7)) << 3);
}

/* Rows first … of the head; aligned ones arrive behind copies_wait. */
template <int ROWS, int D> DEVICE void read_tile(Bfloat *tile, const HeadRows<const Bfloat> &from, int first) {
  constexpr int CHUNKS = D / 8, STEP = TILE_THREADS / CHUNKS;
  int row = thread_index() / CHUNKS, chunk = thread_index() % CHUNKS;
  int there = chunk * 8 < from.size ? from.rows - first - row : 0;
  const Bfloat *at = from.at + (first + row) * from.step + chunk * 8;
  int64_t step = STEP * from.step;
  if (from.aligned) {
    UNROLL
    for (int i = 0; i < ROWS / STEP; i++)
      copy_16(chunk_at<D>(tile, row + i * STEP, chunk), at + i * step, i * STEP < there);
    return;
  }
  for (int i = 0; i < ROWS / STEP; i++)
    for (int k = 0; k < 8; k++)
      chunk_at<D>(tile, row + i * STEP, chunk)[k] =
          i * STEP < there && chunk * 8 + k < from.size ? at[i * step + k] : Bfloat(0.f);
}

/* The other way, all of 64 rows. */
template <int D> DEVICE void write_tile(Bfloat *tile, const HeadRows<Bfloat> &to, int first) {
  constexpr int CHUNKS = D / 8;
  UNROLL
  for (int i = 0; i < TILE_ROWS * CHUNKS / TILE_THREADS; i++) {
    int row = i * (TILE_THREADS / CHUNKS) + thread_index() / CHUNKS, chunk = thread_index() % CHUNKS;
    const Bfloat *from = chunk_at<D>(tile, row, chunk);
    if (first + row >= to.rows || chunk * 8 >= to.size)
      continue;
    Bfloat *at = to.at + (first + row) * to.step + chunk * 8;
    if (to.aligned)
      *(Pack<Bfloat, 8> *)at = *(const Pack<Bfloat, 8> *)from;
    else
      for (int k = 0; k < 8 && chunk * 8 + k < to.size; k++)
        at[k] = from[k];
  }
}

/* This warp's 16 rows of a tile as multiply_add's a, of columns 16 k …. */
template <int D> DEVICE void rows_fragment(uint32_t (&a)[4], Bfloat *tile, int k) {
  load_matrices(a, chunk_at<D>(tile, warp_index() * 16 + lane_index() % 16, k * 2 + lane_index() / 16));
}

template <int N> DEVICE void clear(float (&c)[N][4]) {
  UNROLL
  for (int n = 0; n < N; n++)
    for (int e = 0; e < 4; e++)
      c[n][e] = 0;
}

/* c = a b' of this warp's rows of `a` and all 8 N rows of b. kept: these rows as fragments, if KEEPS. */
template <int D, int N, bool KEEPS>
DEVICE void multiply_rows(float (&c)[N][4], const uint32_t (&kept)[KEEPS ? D / 16 : 1][4], Bfloat *a, Bfloat *b) {
  int lane = lane_index();
  clear(c);
  UNROLL
  for (int k = 0; k < D / 16; k++) {
    uint32_t own[4];
    if (KEEPS)
      for (int i = 0; i < 4; i++)
        own[i] = kept[KEEPS ? k : 0][i];
    else
      rows_fragment<D>(own, a, k);
    UNROLL
    for (int n = 0; n < N / 2; n++) {
      uint32_t two[4];
      load_matrices(two, chunk_at<D>(b, n * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
      multiply_add(c[2 * n], own, two[0], two[1]);
      multiply_add(c[2 * n + 1], own, two[2], two[3]);
    }
  }
}

/* c += p b: weights of this warp's rows, rounded, for the 8 N rows of b. */
template <int D, int N> DEVICE void add_weighted(float (&c)[D / 8][4], const float (&p)[N][4], Bfloat *b) {
  int lane = lane_index();
  UNROLL
  for (int k = 0; k < N / 2; k++) {
    uint32_t a[4] = {pack_two(p[2 * k][0], p[2 * k][1]), pack_two(p[2 * k][2], p[2 * k][3]),
                     pack_two(p[2 * k + 1][0], p[2 * k + 1][1]), pack_two(p[2 * k + 1][2], p[2 * k + 1][3])};
    UNROLL
    for (int n = 0; n < D / 16; n++) {
      uint32_t two[4];
      load_transposed(two, chunk_at<D>(b, k * 16 + lane % 16, n * 2 + lane / 16));
      multiply_add(c[2 * n], a, two[0], two[1]);
      multiply_add(c[2 * n + 1], a, two[2], two[3]);
    }
  }
}

/* This warp's rows of a tile become its sums, rows l / 4 times `upper`, those eight below times `lower`. */
template <int D> DEVICE void put_rows(Bfloat *tile, const float (&c)[D / 8][4], float upper, float lower) {
  int row = warp_index() * 16 + lane_index() / 4, column = lane_index() % 4 * 2;
  UNROLL
  for (int n = 0; n < D / 8; n++) {
    *(Pack<Bfloat, 2> *)(chunk_at<D>(tile, row, n) + column) =
        Pack<Bfloat, 2>{{Bfloat(c[n][0] * upper), Bfloat(c[n][1] * upper)}};
    *(Pack<Bfloat, 2> *)(chunk_at<D>(tile, row + 8, n) + column) =
        Pack<Bfloat, 2>{{Bfloat(c[n][2] * lower), Bfloat(c[n][3] * lower)}};
  }
}

/* The keys that the query at t sees by its place: first … last. */
DEVICE int first_key(const Attention &a, int t) {
  return t > (int)a.left ? t - (int)a.left : 0;
}
DEVICE int last_key(const Attention &a, int t) {
  return t >= (int)a.queries ? -1 : t + (int)a.right < (int)a.keys ? t + (int)a.right : (int)a.keys - 1;
}

/* Scores without a mask are the products themselves, and the number `base` from which they are counted is multiplied by
 * scale, which is above 0, and in powers of two; with a mask both are as the definition has them: beside -1e9 no digit
 * would be left. */
template <bool MASKED> DEVICE float scale_of(const AttentionWork &w) {
  return (float)w.a.scale * (MASKED ? 1 : LOG2_E);
}
template <bool MASKED> DEVICE float weight_of(float score, float base, float scale) {
  return power_of_two(MASKED ? (score - base) * LOG2_E : score * scale - base);
}

/* A score x, already scaled, with what the mask says of this query and key; `at`: the query's place in it. */
DEVICE float masked(const AttentionWork &w, int64_t at, int key, float x) {
  at += key * w.mask_step[3];
  return !w.mask_is_bool ? x + ((const float *)w.mask)[at] : ((const uint8_t *)w.mask)[at] ? x : -INFINITY;
}
DEVICE int64_t mask_row(const AttentionWork &w, int64_t b, int64_t h, int t) {
  return b * w.mask_step[0] + h * w.mask_step[1] + t * w.mask_step[2];
}

/* Scores of queries t and t + 8 and of keys `first`, the next, those eight further …: minus infinity where the query
 * does not see the key. */
template <bool MASKED, int N>
DEVICE void hide(const AttentionWork &w, float (&score)[N][4], int64_t b, int64_t h, int t, int first, float scale) {
  UNROLL
  for (int i = 0; i < 2; i++) {
    int from = first_key(w.a, t + 8 * i), to = last_key(w.a, t + 8 * i);
    int64_t at = MASKED ? mask_row(w, b, h, t + 8 * i) : 0;
    UNROLL
    for (int n = 0; n < N; n++)
      for (int e = 2 * i; e < 2 * i + 2; e++) {
        int j = first + n * 8 + e % 2;
        bool seen = j >= from && j <= to;
        score[n][e] = !seen ? -INFINITY : MASKED ? masked(w, at, j, score[n][e] * scale) : score[n][e];
      }
  }
}

/* The same of keys `key` and key + 8 and of queries first …. */
template <bool MASKED, int N>
DEVICE void hide_queries(const AttentionWork &w, float (&score)[N][4], int64_t b, int64_t h, int key, int first,
                         float scale) {
  UNROLL
  for (int n = 0; n < N; n++)
    for (int e = 0; e < 4; e++) {
      int t = first + n * 8 + e % 2, j = key + e / 2 * 8;
      bool seen = j >= first_key(w.a, t) && j <= last_key(w.a, t);
      score[n][e] = !seen ? -INFINITY : MASKED ? masked(w, mask_row(w, b, h, t), j, score[n][e] * scale) : score[n][e];
    }
}

/* A group of copies: the KEYS keys from j0 on and their values, where there are any. */
template <int KEYS, int D>
DEVICE void read_keys(Bfloat *k_tile, Bfloat *v_tile, const HeadRows<const Bfloat> &k_rows,
                      const HeadRows<const Bfloat> &v_rows, int j0, int end) {
  if (j0 < end) {
    read_tile<KEYS, D>(k_tile, k_rows, j0);
    read_tile<KEYS, D>(v_tile, v_rows, j0);
  }
  copies_end();
}

#endif
