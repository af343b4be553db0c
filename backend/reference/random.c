/* What is drawn. Invariant: a draw is a function of seed, step, node, sample and the element's number within the
 * sample, by integers and correctly rounded arithmetic alone: the same on every machine, however the elements are
 * divided. */
#include <string.h>

#include "backend/reference/draw.h"
#include "backend/reference/kernel.h"
#include "backend/reference/parts.h"

/* Elements are [outer, samples, inner]; those of a sample are numbered in this order. */
typedef struct {
  int64_t samples, inner;
  bool per_sample;      /* else a draw is for all of them */
  uint64_t key, sample; /* the first's number, counted from 1 */
  uint32_t node, step;
} Draws;

static Draws draws_of(const Node *node, const int64_t *counter, int64_t elements) {
  int64_t outer = node_int(node, "outer", 1), inner = node_int(node, "inner", 0);
  bool per_sample = node_int(node, "per_sample", 0) && outer > 0 && inner > 0;
  Draws d = {.samples = per_sample ? elements / (outer * inner) : 1,
             .inner = per_sample ? inner : elements,
             .per_sample = per_sample,
             .node = (uint32_t)node_int(node, "node", 0),
             .step = (uint32_t)counter[COUNTER_STEP],
             .sample = (uint64_t)counter[COUNTER_SAMPLE] + 1};
  d.key = (uint64_t)counter[COUNTER_SEED] + (uint64_t)node_int(node, "seed", 0) * 0x9E3779B97F4A7C15u +
          ((uint64_t)counter[COUNTER_STEP] >> 32);
  return d;
}

enum { BLOCKS = 64 }; /* of four words, drawn together */

/* The words of so many blocks from number `first` on, of sample s. */
WIDE_LOOPS static void draw_blocks(const Draws *d, int64_t s, int64_t first, int blocks, uint32_t words[4 * BLOCKS]) {
  uint64_t sample = d->per_sample ? d->sample + (uint64_t)s : 0;
  uint32_t key0 = (uint32_t)d->key, key1 = (uint32_t)(d->key >> 32) ^ (uint32_t)(sample >> 32);
  for (int k = 0; k < blocks; k++) {
    uint64_t block = (uint64_t)first + (uint64_t)k;
    Philox drawn = philox(
        (Philox){{(uint32_t)block, d->node ^ (uint32_t)(block >> 32) << 24, (uint32_t)sample, d->step}}, key0, key1);
    for (int i = 0; i < 4; i++)
      words[4 * k + i] = drawn.word[i];
  }
}

/* A run of elements of one sample: [first, end) of the tensor, the first being number `number` of sample `sample`. */
typedef struct {
  int64_t first, end, sample, number;
} Run;

/* The run that begins at `first`, as far as one drawing of blocks has words for it, `each` an element. */
static Run run_at(const Draws *d, int64_t first, int64_t end, int64_t each) {
  int64_t row = first / d->inner, within = first % d->inner, left = d->inner - within;
  int64_t number = row / d->samples * d->inner + within, drawn = 4 * BLOCKS / each;
  left = least(left, drawn - number % (4 / each));
  return (Run){
      .first = first, .end = end - first < left ? end : first + left, .sample = row % d->samples, .number = number};
}

/* ---- Dropout: a word an element ---- */

#define DROPOUT(T, name)                                                                                               \
  WIDE_LOOPS static void name(const uint32_t *words, int64_t n, uint32_t threshold, T factor, const T *x, T *y,        \
                              uint8_t *mask) {                                                                         \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
      mask[i] = words[i] >= threshold;                                                                                 \
      y[i] = words[i] >= threshold ? x[i] * factor : 0;                                                                \
    }                                                                                                                  \
  }
DROPOUT(float, dropout_f32)
DROPOUT(double, dropout_f64)

static void dropout_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end) {
  Draws d = draws_of(node, in[1].data, shape_elements(in->shape));
  double ratio = node_float(node, "ratio", 0.5), factor = 1 / (1 - ratio);
  size_t size = dtype_bytes(in->dtype);
  uint8_t *mask = out[1].data;
  uint32_t words[4 * BLOCKS];
  if (ratio >= 1) {
    memset(mask + first, 0, (size_t)(end - first));
    memset((char *)out->data + (size_t)first * size, 0, (size_t)(end - first) * size);
    return;
  }
  for (Run run; first < end; first = run.end) {
    run = run_at(&d, first, end, 1);
    draw_blocks(&d, run.sample, run.number / 4, BLOCKS, words);
    const uint32_t *own = words + run.number % 4;
    if (in->dtype == F32)
      dropout_f32(own, run.end - first, (uint32_t)(ratio * 0x1p32), (float)factor, (const float *)in->data + first,
                  (float *)out->data + first, mask + first);
    else
      dropout_f64(own, run.end - first, (uint32_t)(ratio * 0x1p32), factor, (const double *)in->data + first,
                  (double *)out->data + first, mask + first);
  }
}

WIDE_LOOPS static void keep_words(const uint32_t *words, int64_t n, uint32_t threshold, uint8_t *kept) {
  for (int64_t i = 0; i < n; i++)
    kept[i] = words[i] >= threshold;
}

void draw_kept(const Node *node, const int64_t *counter, int64_t elements, int64_t first, int64_t n, uint8_t *kept) {
  Draws d = draws_of(node, counter, elements);
  double ratio = node_float(node, "ratio", 0.5);
  uint32_t words[4 * BLOCKS];
  if (ratio >= 1)
    memset(kept, 0, (size_t)n);
  for (Run run; n > 0 && ratio < 1; first = run.end) {
    run = run_at(&d, first, first + n, 1);
    int64_t some = run.end - first, blocks = (run.number % 4 + some + 3) / 4;
    draw_blocks(&d, run.sample, run.number / 4, (int)blocks, words);
    keep_words(words + run.number % 4, some, (uint32_t)(ratio * 0x1p32), kept);
    kept += some;
    n -= some;
  }
}

/* ---- numbers: two words an element ---- */

static void number_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end) {
  Draws d = draws_of(node, in[1].data, shape_elements(in->shape));
  bool is_uniform = node->op == OP_RandomUniform;
  double from = is_uniform ? node_float(node, "low", 0) : node_float(node, "mean", 0);
  double by = is_uniform ? node_float(node, "high", 1) - from : node_float(node, "scale", 1);
  uint32_t words[4 * BLOCKS];
  for (Run run; first < end; first = run.end) {
    run = run_at(&d, first, end, 2);
    draw_blocks(&d, run.sample, run.number / 2, BLOCKS, words);
    const uint32_t *own = words + run.number % 2 * 2;
    for (int64_t i = run.first; i < run.end; i++, own += 2) {
      uint64_t draw = (uint64_t)own[0] << 32 | own[1];
      double x = is_uniform ? uniform(draw, in->dtype == F32) : normal(draw);
      if (in->dtype == F32)
        ((float *)out->data)[i] = (float)(from + by * x);
      else
        ((double *)out->data)[i] = from + by * x;
    }
  }
}

void draw_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end) {
  if (node->op == OP_Dropout)
    dropout_part(node, in, out, first, end);
  else
    number_part(node, in, out, first, end);
}

#define DRAW_KERNEL(name)                                                                                              \
  KERNEL(name, .accepts = takes_floats) {                                                                              \
    UNUSED;                                                                                                            \
    if (in->dtype != F32 && in->dtype != F64)                                                                          \
      return unsupported_type(node, in->dtype);                                                                        \
    draw_part(node, in, out, 0, shape_elements(in->shape));                                                            \
    return OK;                                                                                                         \
  }
DRAW_KERNEL(Dropout)
DRAW_KERNEL(RandomUniform)
DRAW_KERNEL(RandomNormal)

#define DROPOUT_GRAD(T)                                                                                                \
  for (int64_t i = 0; i < n; i++)                                                                                      \
    ((T *)out->data)[i] = mask[i] ? ((const T *)in[0].data)[i] * (T)factor : 0;

/* dX = dY mask / (1 - ratio) */
KERNEL(DropoutGrad, .accepts = takes_floats) {
  UNUSED;
  double ratio = node_float(node, "ratio", 0.5), factor = ratio < 1 ? 1 / (1 - ratio) : 0;
  int64_t n = shape_elements(in->shape);
  const uint8_t *mask = in[1].data;
  if (in->dtype != F32 && in->dtype != F64)
    return unsupported_type(node, in->dtype);
  if (in->dtype == F32)
    DROPOUT_GRAD(float)
  else
    DROPOUT_GRAD(double)
  return OK;
}
