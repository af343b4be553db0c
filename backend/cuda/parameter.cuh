/* What an update makes of an element, and a parameter's gradient, a pack of elements at a time. */
#ifndef BACKEND_CUDA_PARAMETER_CUH
#define BACKEND_CUDA_PARAMETER_CUH

#include "backend/cuda/bfloat.cuh"
#include "backend/cuda/sort.cuh"
#include "graph/optimizer.h"

/* Elements a thread takes at once. */
template <class T> constexpr int PACKED = 16 / (int)sizeof(T);

constexpr int SORT_TILE = 4096; /* keys that a block sorts */

/* What a launch goes over. */
struct Table {
  ParameterWork one;
  const ParameterWork *all; /* NULL: one */
  const Part *parts;        /* a block each; NULL: a parameter each */
};

static inline Table table_of(const Parameters &p, Parts parts) {
  return p.on_device ? Table{{}, p.on_device, p.parts[parts]} : Table{p.works[0], NULL, NULL};
}

static inline int64_t blocks_of(const Parameters &p, Parts parts) {
  return p.on_device ? p.n_parts[parts] : parameter_parts(parts, p.works);
}

/* The block's parameter, for all of its threads; returns which part of it is the block's. */
DEVICE int64_t take_parameter(const Table &t, ParameterWork *own) {
  constexpr int WORDS = sizeof *own / sizeof(uint64_t);
  static_assert(sizeof *own == WORDS * sizeof(uint64_t) && WORDS <= BLOCK_THREADS, "a thread a word");
  Part part = {block_index(), block_index()};
  if (t.all) {
    if (t.parts)
      part = t.parts[block_index()];
    if (thread_index() < WORDS)
      ((uint64_t *)own)[thread_index()] = ((const uint64_t *)&t.all[part.work])[thread_index()];
  } else if (thread_index() == 0) {
    *own = t.one;
  }
  barrier();
  return part.part;
}

/* The first `count` of a pack. */
template <class T, int N> DEVICE Pack<T, N> read_pack(const T *from, int count) {
  Pack<T, N> pack;
  if (count == N)
    return *(const Pack<T, N> *)from;
  for (int i = 0; i < N; i++)
    pack.at[i] = i < count ? from[i] : T(0);
  return pack;
}

/* Those of a pack whose bits are set. */
template <class T, int N> DEVICE void write_pack(T *to, const Pack<T, N> &pack, unsigned which) {
  if (which == (1u << N) - 1)
    *(Pack<T, N> *)to = pack;
  else
    for (int i = 0; i < N; i++)
      if (which >> i & 1)
        to[i] = pack.at[i];
}

/* ---- rules: the constants of one in its type, and an element's parameter, gradient and states ---- */

/* torch.optim.SGD; with STATES 1, a momentum. */
template <class Number, int KEPT> struct Sgd {
  typedef Number T;
  static constexpr int STATES = KEPT;
  T rate, mu, decay;
  bool nesterov, first;
  DEVICE explicit Sgd(const ParameterWork &w)
      : rate((T)w.scalars[SCALAR_LEARNING_RATE]), mu((T)w.momentum_factor), decay((T)w.decay), nesterov(w.nesterov),
        first(w.scalars[SCALAR_FIRST_STEP] != 0) {}
  DEVICE void step(T g, T &p, T &momentum, T &) const {
    if (decay != 0)
      g += decay * p;
    if (STATES) {
      momentum = first ? g : mu * momentum + g;
      g = nesterov ? g + mu * momentum : momentum;
    }
    p -= rate * g;
  }
  /* Whether an element without gradient, whose states are zeros, keeps them and becomes `kept` times itself. */
  DEVICE bool rests(T *kept) const {
    *kept = 1;
    return decay == 0 && rate * 0 == 0 && mu * 0 == 0;
  }
};

/* torch.optim.Adam, AdamW. */
template <class Number> struct Adam {
  typedef Number T;
  static constexpr int STATES = 2;
  T keep, decay, toward1, beta2, toward2, rate, root, epsilon;
  DEVICE explicit Adam(const ParameterWork &w) {
    double learning_rate = w.scalars[SCALAR_LEARNING_RATE];
    keep = (T)(w.decoupled ? 1 - learning_rate * w.decay : 1);
    decay = (T)(w.decoupled ? 0 : w.decay);
    toward1 = (T)(1 - w.beta1);
    beta2 = (T)w.beta2;
    toward2 = (T)(1 - w.beta2);
    rate = (T)(learning_rate / w.scalars[SCALAR_BIAS_CORRECTION1]);
    root = (T)sqrt(w.scalars[SCALAR_BIAS_CORRECTION2]);
    epsilon = (T)w.epsilon;
  }
  DEVICE void step(T g, T &p, T &m, T &v) const {
    T weight = p * keep;
    g += decay * weight;
    m += toward1 * (g - m);
    v = v * beta2 + toward2 * g * g;
    p = weight - rate * m / (sqrt(v) / root + epsilon);
  }
  DEVICE bool rests(T *kept) const {
    *kept = keep;
    return decay == 0 && epsilon > 0 && rate * 0 == 0 && root > 0;
  }
};

/* torch.optim.SparseAdam. */
template <class Number> struct SparseAdam {
  typedef Number T;
  static constexpr int STATES = 2;
  T toward1, toward2, rate, epsilon;
  DEVICE explicit SparseAdam(const ParameterWork &w)
      : toward1((T)(1 - w.beta1)), toward2((T)(1 - w.beta2)),
        rate((T)(w.scalars[SCALAR_LEARNING_RATE] * sqrt(w.scalars[SCALAR_BIAS_CORRECTION2]) /
                 w.scalars[SCALAR_BIAS_CORRECTION1])),
        epsilon((T)w.epsilon) {}
  DEVICE void step(T g, T &p, T &m, T &v) const {
    m += (g - m) * toward1;
    v += (g * g - v) * toward2;
    p -= rate * (m / (sqrt(v) + epsilon));
  }
};

/* ---- gradients ---- */

/* Lookups, sorted: those of some rows, or all. */
struct Sorted {
  const uint64_t *keys;
  int64_t begin, end;
  int64_t bits; /* of a lookup's number */
};

DEVICE int64_t first_key_of(const Sorted &s, uint64_t row) {
  return s.begin + count_less(Plain(), 0, s.keys + s.begin, s.end - s.begin, row << s.bits);
}

/* Adds up what lookups from *k on brought to elements column … of this row: sums over microbatches of the sums within
 * one, each from zeros and from the left. */
template <class T, int N>
DEVICE void sum_lookups(const ParameterWork &w, const GradientGroup &group, uint64_t behind, const Sorted &s,
                        uint64_t row, int64_t column, int64_t *k, T *sum) {
  constexpr int AHEAD = 4; /* reads under way together */
  const T *rows = (const T *)group.data + column;
  const uint64_t base = row << s.bits, first = (uint64_t)group.first, lookups = (uint64_t)group.lookups;
  for (;;) {
    uint64_t at = *k < s.end ? s.keys[*k] - base : UINT64_MAX; /* of another row: beyond any number */
    if (at >= behind)
      return;
    uint64_t next = first + ((at - first) / lookups + 1) * lookups;
    T part[N] = {};
    bool more = true;
    while (more) {
      uint64_t ahead[AHEAD];
      Pack<T, N> read[AHEAD] = {};
      for (int i = 0; i < AHEAD; i++)
        ahead[i] = *k + i < s.end ? s.keys[*k + i] - base : UINT64_MAX;
      for (int i = 0; i < AHEAD; i++)
        if (ahead[i] < next)
          read[i] = *(const Pack<T, N> *)(rows + (int64_t)(ahead[i] - first) * w.row);
      for (int i = 0; i < AHEAD; i++)
        if (ahead[i] < next) {
          for (int j = 0; j < N; j++)
            part[j] += read[i].at[j];
          ++*k;
        }
      more = ahead[AHEAD - 1] < next;
    }
    for (int j = 0; j < N; j++)
      sum[j] += part[j];
  }
}

/* Elements at … at + N - 1 of the gradient, all of this row; its lookups begin at key k. */
template <class T, int N>
DEVICE void gradient_of_row(const ParameterWork &w, const Sorted &s, uint64_t row, int64_t at, int64_t k, T *sum) {
  for (int g = 0; g < w.n_groups; g++) {
    const GradientGroup &group = w.groups[g];
    T term[N] = {};
    if (group.places) {
      uint64_t behind = (uint64_t)w.lookups;
      for (int next = g + 1; next < w.n_groups; next++)
        if (w.groups[next].places) {
          behind = (uint64_t)w.groups[next].first;
          break;
        }
      sum_lookups<T, N>(w, group, behind, s, row, at - (int64_t)row * w.row, &k, term);
    } else {
      Pack<T, N> read = *(const Pack<T, N> *)((const T *)group.data + at);
      for (int i = 0; i < N; i++)
        term[i] = read.at[i];
    }
    for (int i = 0; i < N; i++)
      sum[i] = g ? sum[i] + term[i] : term[i];
  }
}

/* Where no row was looked up: of accumulators, and zeros for rows. */
template <class T, int N> DEVICE Pack<T, N> dense_gradient(const ParameterWork &w, int64_t at, int count) {
  Pack<T, N> sum = {};
  for (int g = 0; g < w.n_groups; g++) {
    Pack<T, N> term = {};
    if (!w.groups[g].places)
      term = read_pack<T, N>((const T *)w.groups[g].data + at, count);
    for (int i = 0; i < N; i++)
      sum.at[i] = g ? sum.at[i] + term.at[i] : term.at[i];
  }
  return sum;
}

DEVICE int64_t quotient(int64_t a, int64_t b) {
  return a <= (int64_t)UINT32_MAX ? (int64_t)((uint32_t)a / (uint32_t)b) : a / b;
}

/* Lookups of the rows of elements first … end - 1, for all threads of the block. There is at least one element. */
DEVICE Sorted lookups_between(const ParameterWork &w, int64_t first, int64_t end, int64_t range[2]) {
  Sorted all = {w.sorted, 0, w.lookups, w.number_bits};
  if (thread_index() % WARP_LANES == 0 && thread_index() / WARP_LANES < 2)
    range[thread_index() / WARP_LANES] =
        first_key_of(all, (uint64_t)(thread_index() ? quotient(end - 1, w.row) + 1 : quotient(first, w.row)));
  barrier();
  return Sorted{w.sorted, range[0], range[1], w.number_bits};
}

/* Calls with (i, row, k) where elements at + i … of a pack of N begin a row, or go on in it for WIDTH elements: k, its
 * first key, or that of a row behind it. WIDTH: N where rows are whole packs, else 1. */
template <int N, int WIDTH, class Call>
DEVICE void for_rows(const ParameterWork &w, const Sorted &s, int64_t at, int count, Call call) {
  int64_t row = -1, k = 0;
  for (int i = 0; i < N; i += WIDTH) {
    if (i >= count)
      break;
    if (i == 0 || at + i == (row + 1) * w.row) {
      row = i ? row + 1 : quotient(at, w.row);
      k = first_key_of(s, (uint64_t)row);
    }
    call(i, (uint64_t)row, k);
  }
}

DEVICE bool is_of_row(const Sorted &s, int64_t k, uint64_t row) {
  return k < s.end && s.keys[k] >> s.bits == row;
}

/* Of one that has lookups. */
template <class T, int N, int WIDTH>
DEVICE Pack<T, N> sparse_gradient(const ParameterWork &w, const Sorted &s, int64_t at, int count) {
  Pack<T, N> sum = {};
  for_rows<N, WIDTH>(w, s, at, count, [&](int i, uint64_t row, int64_t k) {
    if (w.has_whole || is_of_row(s, k, row))
      gradient_of_row<T, WIDTH>(w, s, row, at + i, k, sum.at + i);
  });
  return sum;
}

/* Which elements are of rows that were not looked up. */
template <int N, int WIDTH> DEVICE unsigned untouched(const ParameterWork &w, const Sorted &s, int64_t at, int count) {
  unsigned which = 0;
  for_rows<N, WIDTH>(w, s, at, count, [&](int i, uint64_t row, int64_t k) {
    if (!is_of_row(s, k, row))
      which |= ((1u << WIDTH) - 1) << i;
  });
  return which;
}

#endif
