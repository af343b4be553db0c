/* Attention of bfloat16 on tensor cores, forward. A block has 64 queries of a head and goes over the keys that they
 * see; its warps keep their rows' largest score so far, the sum of exp(score - largest) and the weighted sums of V, and
 * scale them when the largest score grows. */
#include "backend/cuda/attention_tile.cuh"

DEVICE void put_statistics(const AttentionWork &w, int64_t row, float most, float sum) {
  ((float *)w.most)[row] = most;
  ((float *)w.log_sum)[row] = sum == 0 ? 0 : logf(sum);
}

template <int D, int KEYS, bool MASKED>
GLOBAL_OF(TILE_THREADS, D > 128  ? 1
                        : D > 64 ? 2
                                 : 4)
void narrow_forward(AttentionWork w) {
  constexpr int N = KEYS / 8;
  constexpr bool KEEPS = D == 128; /* where registers are left */
  Bfloat *q_tile = (Bfloat *)shared_memory(), *k_tiles = q_tile + TILE_ROWS * D, *v_tiles = k_tiles + 2 * KEYS * D;
  /* the last queries, which see the most, come first */
  int heads = (int)(w.a.batch * w.a.heads), tiles = ((int)w.a.queries + TILE_ROWS - 1) / TILE_ROWS;
  int t0 = (tiles - 1 - block_index() / heads) * TILE_ROWS, head = block_index() % heads;
  int b = head / (int)w.a.heads, h = head % (int)w.a.heads, group = h / (int)(w.a.heads / w.a.groups);
  HeadRows<const Bfloat> k_rows = operand_rows(w, 1, b, group), v_rows = operand_rows(w, 2, b, group);
  int last = t0 + TILE_ROWS <= (int)w.a.queries ? t0 + TILE_ROWS - 1 : (int)w.a.queries - 1;
  int begin = first_key(w.a, t0) / KEYS * KEYS, end = last_key(w.a, last) + 1;
  float scale = scale_of<MASKED>(w);
  int lane = lane_index(), t = t0 + warp_index() * 16 + lane / 4; /* and the query eight below */
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, sums[D / 8][4], score[N][4];
  uint32_t q[KEEPS ? D / 16 : 1][4];
  clear(sums);
  read_tile<TILE_ROWS, D>(q_tile, operand_rows(w, 0, b, h), t0);
  read_keys<KEYS, D>(k_tiles, v_tiles, k_rows, v_rows, begin, end);

  for (int j0 = begin, stage = 0; j0 < end; j0 += KEYS, stage ^= 1) {
    Bfloat *k_tile = k_tiles + stage * KEYS * D, *v_tile = v_tiles + stage * KEYS * D;
    copies_wait<0>();
    barrier();
    read_keys<KEYS, D>(k_tiles + (stage ^ 1) * KEYS * D, v_tiles + (stage ^ 1) * KEYS * D, k_rows, v_rows, j0 + KEYS,
                       end);
    for (int k = 0; KEEPS && j0 == begin && k < D / 16; k++)
      rows_fragment<D>(q[KEEPS ? k : 0], q_tile, k);
    multiply_rows<D, N, KEEPS>(score, q, q_tile, k_tile);

    if (MASKED || j0 < first_key(w.a, last) || j0 + KEYS - 1 > last_key(w.a, t0))
      hide<MASKED, N>(w, score, b, h, t, j0 + lane % 4 * 2, scale);
    float highest[2] = {most[0], most[1]}, base[2];
    UNROLL
    for (int n = 0; n < N; n++)
      for (int e = 0; e < 4; e++)
        highest[e / 2] = fmaxf(highest[e / 2], score[n][e]);
    UNROLL
    for (int i = 0; i < 2; i++) {
      highest[i] = fmaxf(highest[i], shuffle_xor(highest[i], 1));
      highest[i] = fmaxf(highest[i], shuffle_xor(highest[i], 2));
      base[i] = highest[i] == -INFINITY ? 0 : MASKED ? highest[i] : highest[i] * scale;
      float shrinks = weight_of<MASKED>(most[i], base[i], scale);
      most[i] = highest[i];
      sum[i] *= shrinks;
      UNROLL
      for (int n = 0; n < D / 8; n++) {
        sums[n][2 * i] *= shrinks;
        sums[n][2 * i + 1] *= shrinks;
      }
    }
    UNROLL
    for (int n = 0; n < N; n++)
      for (int e = 0; e < 4; e++) {
        score[n][e] = weight_of<MASKED>(score[n][e], base[e / 2], scale);
        sum[e / 2] += score[n][e];
      }
    add_weighted<D, N>(sums, score, v_tile);
  }

  float by[2];
  for (int i = 0; i < 2; i++) {
    sum[i] += shuffle_xor(sum[i], 1);
    sum[i] += shuffle_xor(sum[i], 2);
    by[i] = sum[i] == 0 ? 0 : 1 / sum[i];
    if (lane % 4 == 0 && t + 8 * i < (int)w.a.queries)
      put_statistics(w, (int64_t)head * w.a.queries + t + 8 * i, MASKED ? most[i] : most[i] * (float)w.a.scale, sum[i]);
  }
  copies_wait<0>(); /* of the queries, where they see no key */
  barrier();
  put_rows<D>(q_tile, sums, by[0], by[1]);
  barrier();
  write_tile<D>(q_tile, result_rows(w, (Bfloat *)w.y, b, h), t0);
}

template <int D, int KEYS> static void launch_forward(cudaStream_t s, const AttentionWork *w) {
  int64_t tiles = (w->a.queries + TILE_ROWS - 1) / TILE_ROWS;
  size_t bytes = (size_t)(TILE_ROWS + 4 * KEYS) * D * sizeof(Bfloat);
  launch_shared(w->mask ? narrow_forward<D, KEYS, true> : narrow_forward<D, KEYS, false>,
                tiles * w->a.batch * w->a.heads, TILE_THREADS, bytes, s, *w);
}

void launch_attention_narrow(cudaStream_t s, const AttentionWork *w) {
  int64_t size = w->a.size > w->a.value_size ? w->a.size : w->a.value_size;
  if (size <= 64)
    launch_forward<64, 64>(s, w);
  else if (size <= 128)
    launch_forward<128, 64>(s, w);
  else
    launch_forward<256, 32>(s, w);
}
