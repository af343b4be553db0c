/* Gradients that are rows: putting them down, and sorting what was looked up. Invariant: lookups of one row keep the
 * order of their numbers. */
#include "backend/cuda/fault.cuh"
#include "backend/cuda/parameter.cuh"

/* ---- AccumulateRows ---- */

/* The first microbatch whose first place is empty; the first of all where none is: a step is over. */
DEVICE int64_t empty_microbatch(const RowsWork &w, const int64_t *places, int64_t *found) {
  if (thread_index() < WARP_LANES) {
    int64_t m = thread_index();
    while (m < w.microbatches && places[m * w.lookups])
      m += WARP_LANES;
    for (int half = WARP_LANES / 2; half; half /= 2) {
      int64_t other = shuffle_xor(m, half);
      m = other < m ? other : m;
    }
    if (thread_index() == 0)
      *found = m < w.microbatches ? m : 0;
  }
  barrier();
  return *found;
}

DEVICE int64_t place_at(const RowsWork &w, const Reporter &reporter, const void *indices, int64_t i) {
  int64_t index = index_at(w.index_type, indices, i);
  if (index >= -w.rows && index < w.rows)
    return 1 + (index < 0 ? index + w.rows : index);
  report(reporter, 0, Shape{1, {w.rows}}, i, index);
  return 0;
}

/* Blocks look for the microbatch while others write to it: its first place comes last. */
template <class T, class S, int N>
GLOBAL void accumulate_rows(RowsWork w, Reporter reporter, int *finished, const S *cotangent, const void *indices,
                            T *rows, int64_t *places) {
  SHARED int64_t found;
  int64_t first = empty_microbatch(w, places, &found) * w.lookups, n = w.lookups * w.inner;
  for (int64_t at = global_thread() * N; at < n; at += global_threads() * N) {
    Pack<S, N> from = *(const Pack<S, N> *)(cotangent + at);
    Pack<T, N> to;
    for (int i = 0; i < N; i++)
      to.at[i] = (T)from.at[i];
    *(Pack<T, N> *)(rows + first * w.inner + at) = to;
  }
  for (int64_t i = global_thread() + 1; i < w.lookups; i += global_threads())
    places[first + i] = place_at(w, reporter, indices, i);
  if (last_block(finished) && thread_index() == 0)
    places[first] = place_at(w, reporter, indices, 0);
}

void launch_accumulate_rows(cudaStream_t s, DType type, DType cotangent_type, const RowsWork *w, Reporter reporter,
                            int *finished, const void *cotangent, const void *indices, void *rows, int64_t *places) {
  int64_t n = w->lookups * w->inner;
#define ACCUMULATE_ROWS(T, S, N)                                                                                       \
  launch(accumulate_rows<T, S, N>, blocks_for(n / N > w->lookups ? n / N : w->lookups), BLOCK_THREADS, s, *w,          \
         reporter, finished, (const S *)cotangent, indices, (T *)rows, places)
  if (cotangent_type == BF16 && n % 8 == 0)
    ACCUMULATE_ROWS(float, Bfloat, 8);
  else if (cotangent_type == BF16)
    ACCUMULATE_ROWS(float, Bfloat, 1);
  else if (n % 4 == 0)
    FOR_FLOATS(type, ACCUMULATE_ROWS(T, T, PACKED<T>))
  else
    FOR_FLOATS(type, ACCUMULATE_ROWS(T, T, 1))
#undef ACCUMULATE_ROWS
}

/* ---- sorting ---- */

DEVICE uint64_t key_of(const ParameterWork &w, int64_t number) {
  int g = w.n_groups - 1;
  while (!w.groups[g].places || number < w.groups[g].first)
    g--;
  int64_t place = w.groups[g].places[number - w.groups[g].first];
  return (uint64_t)(place > 0 ? place - 1 : w.rows) << w.number_bits | (uint64_t)number;
}

/* Bitonic: of pairs that are `apart`, in blocks of `size` that rise and fall by turns. */
GLOBAL void sort_lookups(Table t) {
  SHARED ParameterWork w;
  SHARED uint64_t tile[SORT_TILE];
  int64_t first = take_parameter(t, &w) * SORT_TILE;
  int n = (int)(w.lookups - first < SORT_TILE ? w.lookups - first : SORT_TILE), whole = 2;
  while (whole < n)
    whole *= 2;
  for (int i = thread_index(); i < whole; i += block_size())
    tile[i] = i < n ? key_of(w, first + i) : UINT64_MAX;
  for (int size = 2; size <= whole; size *= 2)
    for (int apart = size / 2; apart; apart /= 2) {
      barrier();
      for (int i = thread_index(); i < whole / 2; i += block_size()) {
        int low = 2 * i - (i & (apart - 1)), high = low + apart;
        uint64_t a = tile[low], b = tile[high];
        if ((a > b) == !(low & size)) {
          tile[low] = b;
          tile[high] = a;
        }
      }
    }
  barrier();
  for (int i = thread_index(); i < n; i += block_size())
    w.keys[first + i] = tile[i];
}

static void merge_tiles(cudaStream_t s, const ParameterWork &w) {
  uint64_t *from = w.keys, *to = w.keys + w.lookups;
  for (int64_t width = SORT_TILE; width < w.lookups; width *= 2) {
    launch(merge_runs<Plain>, blocks_for(w.lookups), BLOCK_THREADS, s, Plain(), 1, w.lookups, width, from, to);
    uint64_t *sorted = to;
    to = from;
    from = sorted;
  }
}

void launch_sort_lookups(cudaStream_t s, const Parameters *p) {
  int64_t most = 0;
  for (int i = 0; i < p->n; i++)
    most = p->works[i].lookups > most ? p->works[i].lookups : most;
  launch(sort_lookups, blocks_of(*p, PARTS_OF_SORT), most > 4 * BLOCK_THREADS ? 4 * BLOCK_THREADS : BLOCK_THREADS, s,
         table_of(*p, PARTS_OF_SORT));
  for (int i = 0; i < p->n; i++)
    merge_tiles(s, p->works[i]);
}
