/* The gradient of attention of bfloat16 on tensor cores. First blocks of 64 queries find dQ, and leave of each query
 * what the second ones, of 64 keys, go by, which find dK and dV. Each finds scores and weights anew; so nothing is
 * added up between blocks. */
#include "backend/cuda/attention_tile.cuh"

/* Of each query: the number from which scores are counted, so that weights come out divided by their sum, and the sum
 * of dY Y; with a mask, what divides them apart. */
struct Kept {
  float *base, *common, *share;
};

DEVICE Kept kept_of(const AttentionWork &w, int64_t row) {
  int64_t rows = w.a.batch * w.a.heads * w.a.queries;
  float *room = (float *)w.room;
  return Kept{room + row, room + rows + row, room + 2 * rows + row};
}

/* The sum of dY Y of the query at t; four lanes of a warp ask for each, and all of the warp come. */
DEVICE float sum_products(const AttentionWork &w, int64_t b, int64_t h, int t) {
  HeadRows<const Bfloat> y = result_rows(w, (const Bfloat *)w.y, b, h), dy = result_rows(w, (const Bfloat *)w.dy, b, h);
  int64_t at = t * y.step;
  float sum = 0;
  for (int c = lane_index() % 4 * 8; c < y.size && t < y.rows; c += 32) {
    if (y.aligned) {
      Pack<Bfloat, 8> one = *(const Pack<Bfloat, 8> *)(y.at + at + c),
                      other = *(const Pack<Bfloat, 8> *)(dy.at + at + c);
      UNROLL
      for (int k = 0; k < 8; k++)
        sum += (float)one.at[k] * (float)other.at[k];
    } else {
      for (int k = c; k < c + 8 && k < y.size; k++)
        sum += (float)y.at[at + k] * (float)dy.at[at + k];
    }
  }
  sum += shuffle_xor(sum, 1);
  return sum + shuffle_xor(sum, 2);
}

template <int D, int KEYS, bool MASKED>
GLOBAL_OF(TILE_THREADS, D > 128  ? 1
                        : D > 64 ? 2
                                 : 3)
void narrow_queries(AttentionWork w) {
  constexpr int N = KEYS / 8;
  Bfloat *q_tile = (Bfloat *)shared_memory(), *dy_tile = q_tile + TILE_ROWS * D, *k_tiles = dy_tile + TILE_ROWS * D,
         *v_tiles = k_tiles + 2 * KEYS * D;
  int heads = (int)(w.a.batch * w.a.heads), tiles = ((int)w.a.queries + TILE_ROWS - 1) / TILE_ROWS;
  int t0 = (tiles - 1 - block_index() / heads) * TILE_ROWS, head = block_index() % heads;
  int b = head / (int)w.a.heads, h = head % (int)w.a.heads, group = h / (int)(w.a.heads / w.a.groups);
  HeadRows<const Bfloat> k_rows = operand_rows(w, 1, b, group), v_rows = operand_rows(w, 2, b, group);
  int last = t0 + TILE_ROWS <= (int)w.a.queries ? t0 + TILE_ROWS - 1 : (int)w.a.queries - 1;
  int begin = first_key(w.a, t0) / KEYS * KEYS, end = last_key(w.a, last) + 1;
  float scale = scale_of<MASKED>(w);

  read_tile<TILE_ROWS, D>(q_tile, operand_rows(w, 0, b, h), t0);
  read_tile<TILE_ROWS, D>(dy_tile, result_rows(w, (const Bfloat *)w.dy, b, h), t0);
  read_keys<KEYS, D>(k_tiles, v_tiles, k_rows, v_rows, begin, end);

  int lane = lane_index(), t = t0 + warp_index() * 16 + lane / 4; /* and the query eight below */
  float base[2], share[2], common[2], sums[D / 8][4], p[N][4], slope[N][4];
  clear(sums);
  UNROLL
  for (int i = 0; i < 2; i++) {
    common[i] = sum_products(w, b, h, t + 8 * i);
    base[i] = INFINITY;
    share[i] = 0;
    if (t + 8 * i >= (int)w.a.queries)
      continue;
    int64_t row = (int64_t)head * w.a.queries + t + 8 * i;
    float most = ((const float *)w.most)[row], log_sum = ((const float *)w.log_sum)[row];
    base[i] = most == -INFINITY ? INFINITY : MASKED ? most : (most + log_sum) * LOG2_E;
    share[i] = MASKED ? power_of_two(-log_sum * LOG2_E) : 1;
    if (lane % 4)
      continue;
    Kept kept = kept_of(w, row);
    *kept.base = base[i];
    *kept.common = common[i];
    if (MASKED)
      *kept.share = share[i];
  }

  const uint32_t none[1][4] = {{0}};
  for (int j0 = begin, stage = 0; j0 < end; j0 += KEYS, stage ^= 1) {
    Bfloat *k_tile = k_tiles + stage * KEYS * D, *v_tile = v_tiles + stage * KEYS * D;
    copies_wait<0>();
    barrier();
    read_keys<KEYS, D>(k_tiles + (stage ^ 1) * KEYS * D, v_tiles + (stage ^ 1) * KEYS * D, k_rows, v_rows, j0 + KEYS,
                       end);
    multiply_rows<D, N, false>(p, none, q_tile, k_tile);
    if (MASKED || j0 < first_key(w.a, last) || j0 + KEYS - 1 > last_key(w.a, t0))
      hide<MASKED, N>(w, p, b, h, t, j0 + lane % 4 * 2, scale);
    UNROLL
    for (int n = 0; n < N; n++)
      for (int e = 0; e < 4; e++)
        p[n][e] = weight_of<MASKED>(p[n][e], base[e / 2], scale) * (MASKED ? share[e / 2] : 1);
    multiply_rows<D, N, false>(slope, none, dy_tile, v_tile);
    UNROLL
    for (int n = 0; n < N; n++)
      for (int e = 0; e < 4; e++)
        slope[n][e] = p[n][e] * (slope[n][e] - common[e / 2]);
    add_weighted<D, N>(sums, slope, k_tile);
  }
  copies_wait<0>();
  barrier();
  put_rows<D>(q_tile, sums, (float)w.a.scale, (float)w.a.scale);
  barrier();
  write_tile<D>(q_tile, slope_rows(w, 0, b, h), t0);
}

/* What blocks of keys read of so many queries. */
template <int QUERIES, bool MASKED>
DEVICE void read_kept(float *tile, const AttentionWork &w, int64_t head, int first) {
  for (int i = thread_index(); i < (MASKED ? 3 : 2) * QUERIES; i += TILE_THREADS) {
    int which = i / QUERIES, t = first + i % QUERIES;
    Kept kept = kept_of(w, head * w.a.queries + t);
    copy_4(tile + i, which == 0 ? kept.base : which == 1 ? kept.common : kept.share, t < (int)w.a.queries);
  }
}

/* Which sums a block finds: one kind where registers do not hold both. */
enum { FIND_V = 1, FIND_K = 2, FIND_BOTH = FIND_V | FIND_K };

/* The tiles are transposed: a warp's rows are keys, its columns queries. */
template <int D, int QUERIES, int FIND, bool MASKED>
GLOBAL_OF(TILE_THREADS, D > 128  ? 1
                        : D > 64 ? 2
                                 : 3)
void narrow_keys(AttentionWork w) {
  constexpr int N = QUERIES / 8;
  constexpr bool FINDS_V = FIND & FIND_V, FINDS_K = FIND & FIND_K;
  Bfloat *k_tile = (Bfloat *)shared_memory(), *v_tile = k_tile + TILE_ROWS * D, *q_tiles = v_tile + TILE_ROWS * D,
         *dy_tiles = q_tiles + 2 * QUERIES * D;
  float *kept_tiles = (float *)(dy_tiles + 2 * QUERIES * D);
  int groups = (int)(w.a.batch * w.a.groups), each = (int)(w.a.heads / w.a.groups);
  int j0 = block_index() / groups * TILE_ROWS, b = block_index() % groups / (int)w.a.groups;
  int group = block_index() % groups % (int)w.a.groups;
  int last = j0 + TILE_ROWS <= (int)w.a.keys ? j0 + TILE_ROWS - 1 : (int)w.a.keys - 1;
  /* the queries that see any of these keys */
  int begin = j0 > (int)w.a.right ? (j0 - (int)w.a.right) / QUERIES * QUERIES : 0;
  int end = last + (int)w.a.left < (int)w.a.queries ? last + (int)w.a.left + 1 : (int)w.a.queries;
  float scale = scale_of<MASKED>(w);
  int tiles = begin < end ? (end - begin + QUERIES - 1) / QUERIES : 0;

  int lane = lane_index(), key = j0 + warp_index() * 16 + lane / 4;
  float dk[FINDS_K ? D / 8 : 1][4], dv[FINDS_V ? D / 8 : 1][4], p[N][4], slope[N][4];
  clear(dk);
  clear(dv);
  read_tile<TILE_ROWS, D>(k_tile, operand_rows(w, 1, b, group), j0);
  read_tile<TILE_ROWS, D>(v_tile, operand_rows(w, 2, b, group), j0);

  const uint32_t none[1][4] = {{0}};
  int h = group * each, t0 = begin, next_h = h, next = begin; /* what is worked on, what is read */
  for (int i = 0; i <= each * tiles; i++) {
    int stage = i % 2;
    if (i) {
      copies_wait<0>();
      barrier();
    }
    if (i < each * tiles) {
      read_tile<QUERIES, D>(q_tiles + stage * QUERIES * D, operand_rows(w, 0, b, next_h), next);
      read_tile<QUERIES, D>(dy_tiles + stage * QUERIES * D, result_rows(w, (const Bfloat *)w.dy, b, next_h), next);
      read_kept<QUERIES, MASKED>(kept_tiles + stage * ATTENTION_SUMS * QUERIES, w, b * w.a.heads + next_h, next);
    }
    copies_end();
    if (i) {
      Bfloat *q_tile = q_tiles + (stage ^ 1) * QUERIES * D, *dy_tile = dy_tiles + (stage ^ 1) * QUERIES * D;
      const float *kept = kept_tiles + (stage ^ 1) * ATTENTION_SUMS * QUERIES + lane % 4 * 2;
      multiply_rows<D, N, false>(p, none, k_tile, q_tile);
      if (MASKED || first_key(w.a, t0 + QUERIES - 1) > j0 || last_key(w.a, t0) < j0 + TILE_ROWS - 1)
        hide_queries<MASKED, N>(w, p, b, h, key, t0 + lane % 4 * 2, scale);
      UNROLL
      for (int n = 0; n < N; n++) {
        Pack<float, 2> base = *(const Pack<float, 2> *)(kept + n * 8);
        UNROLL
        for (int e = 0; e < 4; e++)
          p[n][e] =
              weight_of<MASKED>(p[n][e], base.at[e % 2], scale) * (MASKED ? kept[2 * QUERIES + n * 8 + e % 2] : 1);
      }
      if (FINDS_V)
        add_weighted<FINDS_V ? D : 8, N>(dv, p, dy_tile);
      if (FINDS_K) {
        multiply_rows<D, N, false>(slope, none, v_tile, dy_tile);
        UNROLL
        for (int n = 0; n < N; n++) {
          Pack<float, 2> common = *(const Pack<float, 2> *)(kept + QUERIES + n * 8);
          UNROLL
          for (int e = 0; e < 4; e++)
            slope[n][e] = p[n][e] * (slope[n][e] - common.at[e % 2]);
        }
        add_weighted<FINDS_K ? D : 8, N>(dk, slope, q_tile);
      }
    }
    h = next_h;
    t0 = next;
    next += QUERIES;
    if (next >= end) {
      next = begin;
      next_h++;
    }
  }
  copies_wait<0>();
  barrier();
  if (FINDS_K)
    put_rows<FINDS_K ? D : 8>(k_tile, dk, (float)w.a.scale, (float)w.a.scale);
  if (FINDS_V)
    put_rows<FINDS_V ? D : 8>(v_tile, dv, 1, 1);
  barrier();
  if (FINDS_K)
    write_tile<D>(k_tile, slope_rows(w, 1, b, group), j0);
  if (FINDS_V)
    write_tile<D>(v_tile, slope_rows(w, 2, b, group), j0);
}

template <int D, int KEYS> static void launch_queries(cudaStream_t s, const AttentionWork *w) {
  int64_t tiles = (w->a.queries + TILE_ROWS - 1) / TILE_ROWS;
  size_t bytes = (size_t)(2 * TILE_ROWS + 4 * KEYS) * D * sizeof(Bfloat);
  launch_shared(w->mask ? narrow_queries<D, KEYS, true> : narrow_queries<D, KEYS, false>,
                tiles * w->a.batch * w->a.heads, TILE_THREADS, bytes, s, *w);
}

template <int D, int QUERIES, int FIND> static void launch_keys(cudaStream_t s, const AttentionWork *w) {
  int64_t tiles = (w->a.keys + TILE_ROWS - 1) / TILE_ROWS;
  size_t bytes =
      (size_t)(2 * TILE_ROWS + 4 * QUERIES) * D * sizeof(Bfloat) + 2 * ATTENTION_SUMS * QUERIES * sizeof(float);
  launch_shared(w->mask ? narrow_keys<D, QUERIES, FIND, true> : narrow_keys<D, QUERIES, FIND, false>,
                tiles * w->a.batch * w->a.groups, TILE_THREADS, bytes, s, *w);
}

void launch_attention_narrow_grad(cudaStream_t s, const AttentionWork *w) {
  int64_t size = w->a.size > w->a.value_size ? w->a.size : w->a.value_size;
  if (size <= 64) {
    launch_queries<64, 64>(s, w);
    launch_keys<64, 64, FIND_BOTH>(s, w);
  } else if (size <= 128) {
    launch_queries<128, 64>(s, w);
    launch_keys<128, 32, FIND_BOTH>(s, w);
  } else {
    launch_queries<256, 32>(s, w);
    launch_keys<256, 32, FIND_V>(s, w);
    launch_keys<256, 32, FIND_K>(s, w);
  }
}
