/* Weights drawn anew: --init normal:S. Invariant: an element's draw depends on the seed, its tensor's place in the file
 * and its place in the tensor alone, so that every rank draws its own and any cut has the same. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

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
static uint64_t mix(uint64_t z) {
  z += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

/* Uniform in (0, 1). */
static double uniform(uint64_t bits) {
  return ((double)(bits >> 11) + 0.5) * 0x1p-53;
}

/* Box and Muller: two uniform numbers make a normal one. */
static double normal(uint64_t stream, uint64_t i) {
  double radius = sqrt(-2 * log(uniform(mix(stream + 2 * i)))), angle = 2 * acos(-1) * uniform(mix(stream + 2 * i + 1));
  return radius * cos(angle);
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
  uint64_t stream = mix(mix((uint64_t)job->asked.options->seed) + (uint64_t)value->initializer);
  for (int64_t i = 0; i < n; i++)
    store(data, value->dtype, i, deviation * normal(stream, (uint64_t)i));
  return OK;
}
