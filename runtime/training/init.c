/* Weights drawn anew: --init normal:S. Invariant: an element's draw depends on the seed, its tensor's place in the file
 * and its place in the tensor alone, so that every rank draws its own and any cut has the same. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backend/reference/reference.h"
#include "graph/op.h"
#include "runtime/training/trainer.h"

Status init_parse(const char *text, double *deviation) {
  char *end = NULL;
  if (strncmp(text, "normal:", 7) == 0)
    *deviation = strtod(text + 7, &end);
  if (!end || end == text + 7 || *end || !(*deviation > 0) || !isfinite(*deviation))
    return fail(E_USAGE, "--init: '%s' is not normal:S with a deviation S above 0", text);
  return OK;
}

/* SplitMix64's output function (Steele, Lea, Flood 2014). */
static inline uint64_t mix(uint64_t z) {
  z += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

typedef union {
  uint64_t bits;
  double number;
} Double;

/* Uniform in (0, 1). */
static inline double uniform(uint64_t bits) {
  Double x = {.bits = bits >> 12 | UINT64_C(0x3ff0000000000000)}; /* in [1, 2) */
  return x.number - (1 - 0x1p-53);
}

/* The natural logarithm of a normal x, by its series in (m - 1) / (m + 1) for x = m · 2^e, m around 1. Loops of it run
 * in vectors, in the same bits on every machine. */
static inline double logarithm(double x) {
  const uint64_t one = UINT64_C(0x3ff0000000000000), root = UINT64_C(0x3fe6a09e667f3bcd); /* 1, the root of 1/2 */
  Double m = {.number = x};
  uint64_t shifted = m.bits + (one - root);
  Double e = {.bits = shifted >> 52 | UINT64_C(0x4330000000000000)}; /* 2^52 + 1023 + exponent */
  m.bits = (shifted & UINT64_C(0xfffffffffffff)) + root;
  double s = (m.number - 1) / (m.number + 1), square = s * s, sum = 2.0 / 21;
  for (int k = 19; k > 0; k -= 2)
    sum = sum * square + 2.0 / k;
  return sum * s + (e.number - (0x1p52 + 1023)) * M_LN2;
}

/* cos(2πt) of t in (0, 1): the sine of a quarter of a turn's part, by its series. */
static inline double cosine(double t) {
  static const double terms[] = {1.5707963267948966,      -0.64596409750624628,    0.079692626246167048,
                                 -0.0046817541353186883,  0.00016044118478735983,  -3.5988432352120852e-06,
                                 5.6921729219679267e-08,  -6.6880351098114677e-10, 6.0669357311061955e-12,
                                 -4.3770654673137423e-14, 2.5714228928604741e-16};
  double y = 4 * fabs(t - 0.5) - 1, square = y * y, sum = terms[10];
  for (int k = 9; k >= 0; k--)
    sum = sum * square + terms[k];
  return sum * y;
}

/* Box and Muller: two uniform numbers make a normal one. */
static inline double normal(uint64_t stream, uint64_t i) {
  return sqrt(-2 * logarithm(uniform(mix(stream + 2 * i)))) * cosine(uniform(mix(stream + 2 * i + 1)));
}

/* Elements first … end-1 of a matrix. */
typedef struct {
  void *data;
  DType dtype;
  uint64_t stream;
  double deviation;
  int64_t first, end;
  pthread_t thread;
} Part;

WIDE_LOOPS static void draw_f32(float *to, const Part *part) {
  for (int64_t i = part->first; i < part->end; i++)
    to[i] = (float)(part->deviation * normal(part->stream, (uint64_t)i));
}

WIDE_LOOPS static void draw_f64(double *to, const Part *part) {
  for (int64_t i = part->first; i < part->end; i++)
    to[i] = part->deviation * normal(part->stream, (uint64_t)i);
}

static void *draw_part(void *argument) {
  const Part *part = argument;
  if (part->dtype == F64)
    draw_f64(part->data, part);
  else
    draw_f32(part->data, part);
  return NULL;
}

/* In as many parts as there are threads; what no thread takes is drawn here. */
static void draw(Part whole, int64_t n, int threads) {
  enum { MOST = 64, ELEMENTS = 1 << 20 };
  Part parts[MOST];
  int64_t count = least(least(threads, MOST), (n + ELEMENTS - 1) / ELEMENTS);
  if (count < 1)
    count = 1;
  for (int64_t k = 0; k < count; k++) {
    parts[k] = whole;
    parts[k].first = n / count * k;
    parts[k].end = k == count - 1 ? n : n / count * (k + 1);
    if (k && pthread_create(&parts[k].thread, NULL, draw_part, &parts[k]) != 0) {
      draw_part(&parts[k]);
      parts[k].data = NULL; /* done */
    }
  }
  draw_part(&parts[0]);
  for (int64_t k = 1; k < count; k++)
    if (parts[k].data)
      pthread_join(parts[k].thread, NULL);
}

static void store(void *data, DType dtype, int64_t i, double value) {
  if (dtype == F64)
    ((double *)data)[i] = value;
  else
    ((float *)data)[i] = (float)value;
}

/* A vector that multiplies starts as 1, one that is added as 0. */
static double neutral(const Graph *graph, ValueId value) {
  for (size_t i = 0; i < graph->n_nodes; i++) {
    const Node *node = graph->nodes[i];
    bool scales = node->phase == PHASE_F && op_def(node->op)->traits & OP_SCALES;
    for (int k = 0; scales && k < 2; k++)
      if (node->in[k] == value)
        return 1;
  }
  return 0;
}

Status init_load(const Job *job, ValueId id, void *data, size_t bytes) {
  const Value *value = graph_value(job->decided.graph, id);
  int64_t n = shape_elements(value->shape);
  double deviation;
  TRY(init_parse(job->asked.options->init, &deviation));
  if (value->dtype != F32 && value->dtype != F64)
    return fail(E_UNSUPPORTED, "--init: tensor '%s' is %s", value->name, dtype_name(value->dtype));
  if (value->shape.rank < 2) {
    if (model_read_initializer(job->given.model, value->initializer, data, bytes) == OK)
      return OK;
    double start = neutral(job->decided.graph, id);
    for (int64_t i = 0; i < n; i++)
      store(data, value->dtype, i, start);
    return OK;
  }
  Part whole = {.data = data,
                .dtype = value->dtype,
                .stream = mix(mix((uint64_t)job->asked.options->seed) + (uint64_t)value->initializer),
                .deviation = deviation};
  const Cores *cores = &job->decided.cores;
  /* a device's rank has one thread, but its share of the host's cores is idle */
  draw(whole, n, job->asked.options->threads ? job->decided.threads : cores_usable(cores) / cores->ranks);
  return OK;
}
