/* Batch normalisation and what is drawn, element by element. */
#include <math.h>

#include "base/philox.h"
#include "tests/ops/oracle.h"

/* Means over channel k of X of what `term` makes of an element. */
typedef double Term(const OracleCall *c, int64_t i, int64_t k);

static double channel_mean(const OracleCall *c, Shape x, int64_t k, Term *term) {
  double sum = 0, count = 0;
  for (int64_t i = 0; i < shape_elements(x); i++)
    if (position_of(x, i).at[1] == k) {
      sum += term(c, i, k);
      count++;
    }
  return count ? sum / count : 0;
}

static double element(const OracleCall *c, int64_t i, int64_t k) {
  (void)k;
  return c->in[0][i];
}

static double deviation(const OracleCall *c, int64_t i, int64_t k) {
  return (c->in[0][i] - c->out[1][k]) * (c->in[0][i] - c->out[1][k]);
}

void oracle_BatchNormalization(const OracleCall *c) {
  Shape x = c->in_shape[0];
  int64_t scales = c->in_shape[1].dim[0], count = x.dim[1] ? shape_elements(x) / x.dim[1] : 0;
  for (int64_t k = 0; k < x.dim[1]; k++) {
    c->out[1][k] = channel_mean(c, x, k, element);
    double variance = channel_mean(c, x, k, deviation);
    c->out[2][k] = 1 / sqrt(variance + node_float(c->node, "epsilon", 1e-5));
    bool unbiased = node_int(c->node, "unbiased", 0) && count > 1;
    c->out[3][k] = variance * (unbiased ? (double)count / (double)(count - 1) : 1);
  }
  for (int64_t i = 0; i < shape_elements(x); i++) {
    int64_t k = position_of(x, i).at[1];
    c->out[0][i] = (c->in[0][i] - c->out[1][k]) * c->out[2][k] * c->in[1][k % scales] + c->in[2][k % scales];
  }
}

void oracle_BatchNormalizationGradScale(const OracleCall *c) {
  Shape x = c->in_shape[1];
  for (int64_t k = 0; k < x.dim[1]; k++)
    c->out[0][k] = c->out[1][k] = 0;
  for (int64_t i = 0; i < shape_elements(x); i++) {
    int64_t k = position_of(x, i).at[1];
    c->out[0][k] += c->in[0][i] * (c->in[1][i] - c->in[2][k]) * c->in[3][k];
    c->out[1][k] += c->in[0][i];
  }
}

void oracle_BatchNormalizationGradInput(const OracleCall *c) {
  Shape x = c->in_shape[1];
  int64_t scales = c->in_shape[2].dim[0], count = x.dim[1] ? shape_elements(x) / x.dim[1] : 0;
  for (int64_t i = 0; i < shape_elements(x); i++) {
    int64_t k = position_of(x, i).at[1];
    double h = (c->in[1][i] - c->in[3][k]) * c->in[4][k];
    c->out[0][i] = c->in[2][k % scales] * c->in[4][k] *
                   (c->in[0][i] - c->in[6][k] / (double)count - h * c->in[5][k] / (double)count);
  }
}

void oracle_UpdateStatistics(const OracleCall *c) {
  double momentum = node_float(c->node, "momentum", 0.9);
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++)
    c->in[0][i] = momentum * c->in[0][i] + (1 - momentum) * c->in[1][i];
}

/* ---- what is drawn ---- */

/* Word number w of those of element i's sample. */
static uint32_t word_of(const OracleCall *c, int64_t i, int64_t each, int64_t w) {
  const double *counter = c->in[1];
  int64_t outer = node_int(c->node, "outer", 1), inner = node_int(c->node, "inner", 0), sample = 0, number = i;
  if (node_int(c->node, "per_sample", 0)) {
    int64_t samples = shape_elements(c->in_shape[0]) / (outer * inner);
    sample = (int64_t)counter[COUNTER_SAMPLE] + 1 + i / inner % samples;
    number = i / (inner * samples) * inner + i % inner;
  }
  uint64_t key = (uint64_t)(int64_t)counter[COUNTER_SEED] +
                 (uint64_t)node_int(c->node, "seed", 0) * 0x9E3779B97F4A7C15u +
                 ((uint64_t)(int64_t)counter[COUNTER_STEP] >> 32);
  int64_t word = number * each + w;
  Philox at = {{(uint32_t)(word / 4), (uint32_t)node_int(c->node, "node", 0), (uint32_t)sample,
                (uint32_t)(int64_t)counter[COUNTER_STEP]}};
  return philox(at, (uint32_t)key, (uint32_t)(key >> 32) ^ (uint32_t)((uint64_t)sample >> 32)).word[word % 4];
}

void oracle_Dropout(const OracleCall *c) {
  double ratio = node_float(c->node, "ratio", 0.5);
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    c->out[1][i] = word_of(c, i, 1, 0) >= floor(ratio * 0x1p32);
    c->out[0][i] = c->out[1][i] != 0 ? c->in[0][i] / (1 - ratio) : 0;
  }
}

void oracle_DropoutGrad(const OracleCall *c) {
  double ratio = node_float(c->node, "ratio", 0.5);
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++)
    c->out[0][i] = c->in[1][i] != 0 ? c->in[0][i] / (1 - ratio) : 0;
}

static double unit(const OracleCall *c, int64_t i) {
  double high = word_of(c, i, 2, 0), low = word_of(c, i, 2, 1);
  return c->dtype == F32 ? floor(high / 256) * 0x1p-24 : high * 0x1p-32 + floor(low / 2048) * 0x1p-53;
}

void oracle_RandomUniform(const OracleCall *c) {
  double low = node_float(c->node, "low", 0), high = node_float(c->node, "high", 1);
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++)
    c->out[0][i] = low + (high - low) * unit(c, i);
}

/* Where the normal distribution function is p, by halving. */
void oracle_RandomNormal(const OracleCall *c) {
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    double p = word_of(c, i, 2, 0) * 0x1p-32 + (floor(word_of(c, i, 2, 1) / 4096.0) + 0.5) * 0x1p-52;
    double low = -9, high = 9;
    for (int k = 0; k < 100; k++) {
      double middle = (low + high) / 2;
      bool below = p < 0.5 ? erfc(-middle * M_SQRT1_2) / 2 < p : erfc(middle * M_SQRT1_2) / 2 > 1 - p;
      *(below ? &low : &high) = middle;
    }
    c->out[0][i] = node_float(c->node, "mean", 0) + node_float(c->node, "scale", 1) * (low + high) / 2;
  }
}
