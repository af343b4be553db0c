/* Naive definitions of recurrent layers and of bags: one sample, one unit at a time, as their equations say. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/ops/oracle.h"

enum { GATES = 4, UNITS = 512 };

/* One layer: its cell by name, T steps of N samples of H units. */
typedef struct {
  const OracleCall *c;
  const char *cell;
  bool reverse, lstm, gru, after;
  int64_t T, N, H, gates;
} Layer;

static Layer layer_of(const OracleCall *c, Shape steps) {
  Layer l = {.c = c, .cell = node_string(c->node, "cell", ""), .reverse = node_int(c->node, "reverse", 0)};
  l.lstm = strcmp(l.cell, "lstm") == 0;
  l.after = strcmp(l.cell, "gru_reset_after") == 0;
  l.gru = l.after || strcmp(l.cell, "gru") == 0;
  l.T = steps.dim[0], l.N = steps.dim[1], l.H = steps.dim[2];
  l.gates = l.lstm ? 4 : l.gru ? 3 : 1;
  return l;
}

static double input_or_0(const OracleCall *c, int i, int64_t at) {
  return i < c->n_in && c->in[i] ? c->in[i][at] : 0;
}

static bool is_over(const OracleCall *c, int lengths, int64_t t, int64_t n) {
  return lengths < c->n_in && c->in[lengths] && (double)t >= c->in[lengths][n];
}

static double sigmoid(double x) {
  return 1 / (1 + exp(-x));
}

/* R_gate h for one unit. */
static double recurrent(const Layer *l, const double *R, int64_t gate, int64_t u, const double *h) {
  double sum = 0;
  for (int64_t k = 0; k < l->H; k++)
    sum += R[(gate * l->H + u) * l->H + k] * h[k];
  return sum;
}

/* Element (t, n, block, u) of a tensor [T,N, blocks H]. */
static int64_t place(const Layer *l, int64_t blocks, int64_t t, int64_t n, int64_t block, int64_t u) {
  return ((t * l->N + n) * blocks + block) * l->H + u;
}

void oracle_RecurrentSteps(const OracleCall *c) {
  Layer l = layer_of(c, c->out_shape[0]);
  const double *P = c->in[0], *R = c->in[1];
  int prev = l.lstm ? 3 : 2;
  double *saved = c->out[prev + 1];
  int64_t H = l.H, blocks = l.lstm ? 5 : l.after ? 4 : 3;
  for (int64_t n = 0; n < l.N; n++) {
    double h[UNITS], cell[UNITS], next[UNITS], reset[UNITS];
    for (int64_t u = 0; u < H; u++) {
      h[u] = input_or_0(c, 3, n * H + u);
      cell[u] = input_or_0(c, 4, n * H + u);
    }
    for (int64_t k = 0; k < l.T; k++) {
      int64_t t = l.reverse ? l.T - 1 - k : k;
      for (int64_t u = 0; u < H; u++) {
        c->out[prev][place(&l, 1, t, n, 0, u)] = h[u];
        c->out[0][place(&l, 1, t, n, 0, u)] = 0;
        for (int64_t b = 0; b < blocks && (l.lstm || l.gru); b++)
          saved[place(&l, blocks, t, n, b, u)] = 0;
      }
      if (is_over(c, 5, t, n))
        continue;
#define PRE(gate) (P[place(&l, l.gates, t, n, gate, u)] + recurrent(&l, R, gate, u, h) + input_or_0(c, 2, (gate)*H + u))
      for (int64_t u = 0; u < H && l.gru; u++)
        reset[u] = sigmoid(PRE(1)) * h[u];
      for (int64_t u = 0; u < H; u++) {
        double keep[5] = {0};
        if (l.lstm) {
          keep[0] = sigmoid(PRE(0)), keep[1] = sigmoid(PRE(1)), keep[2] = sigmoid(PRE(2)), keep[3] = tanh(PRE(3));
          keep[4] = cell[u];
          cell[u] = keep[2] * cell[u] + keep[0] * keep[3];
          next[u] = keep[1] * tanh(cell[u]);
        } else if (l.gru) {
          keep[0] = sigmoid(PRE(0)), keep[1] = sigmoid(PRE(1));
          keep[3] = recurrent(&l, R, 2, u, h) + input_or_0(c, 2, 2 * H + u);
          double before = recurrent(&l, R, 2, u, reset) + input_or_0(c, 2, 2 * H + u);
          keep[2] =
              tanh(P[place(&l, 3, t, n, 2, u)] + (l.after ? keep[1] * keep[3] + input_or_0(c, 2, 3 * H + u) : before));
          next[u] = (1 - keep[0]) * keep[2] + keep[0] * h[u];
        } else {
          next[u] = strcmp(l.cell, "relu") == 0 ? fmax(PRE(0), 0) : tanh(PRE(0));
        }
        for (int64_t b = 0; b < blocks && (l.lstm || l.gru); b++)
          saved[place(&l, blocks, t, n, b, u)] = keep[b];
      }
#undef PRE
      for (int64_t u = 0; u < H; u++)
        c->out[0][place(&l, 1, t, n, 0, u)] = h[u] = next[u];
    }
    for (int64_t u = 0; u < H; u++) {
      c->out[1][n * H + u] = h[u];
      if (l.lstm)
        c->out[2][n * H + u] = cell[u];
    }
  }
}

/* R_gate' d for unit k. */
static double returned(const Layer *l, const double *R, int64_t gate, int64_t k, const double *d) {
  double sum = 0;
  for (int64_t u = 0; u < l->H; u++)
    sum += R[(gate * l->H + u) * l->H + k] * d[u];
  return sum;
}

void oracle_RecurrentStepsGrad(const OracleCall *c) {
  Layer l = layer_of(c, c->in_shape[1]);
  const double *R = c->in[0], *prev = c->in[1], *saved = c->in[2];
  int64_t H = l.H, blocks = l.lstm ? 5 : l.after ? 4 : l.gru ? 3 : 1;
  for (int64_t n = 0; n < l.N; n++) {
    double dh[UNITS], dc[UNITS], d[GATES][UNITS], ds[GATES][UNITS], before[UNITS];
    for (int64_t u = 0; u < H; u++) {
      dh[u] = input_or_0(c, 4, n * H + u);
      dc[u] = input_or_0(c, 5, n * H + u);
    }
    for (int64_t k = l.T; k-- > 0;) {
      int64_t t = l.reverse ? l.T - 1 - k : k;
      bool over = is_over(c, 6, t, n);
      memset(d, 0, sizeof d);
      memset(ds, 0, sizeof ds);
      memset(before, 0, sizeof before);
#define S(block) saved[place(&l, blocks, t, n, block, u)]
#define SLOPE(block) (S(block) * (1 - S(block)))
      double direct[UNITS] = {0};
      for (int64_t u = 0; u < H && !over; u++) {
        double dy = dh[u] + input_or_0(c, 3, place(&l, 1, t, n, 0, u)), h = prev[place(&l, 1, t, n, 0, u)];
        if (l.lstm) {
          double th = tanh(S(2) * S(4) + S(0) * S(3));
          dc[u] += dy * S(1) * (1 - th * th);
          d[0][u] = dc[u] * S(3) * SLOPE(0);
          d[1][u] = dy * th * SLOPE(1);
          d[2][u] = dc[u] * S(4) * SLOPE(2);
          d[3][u] = dc[u] * S(0) * (1 - S(3) * S(3));
          dc[u] *= S(2);
        } else if (l.gru) {
          d[0][u] = dy * (h - S(2)) * SLOPE(0);
          d[2][u] = dy * (1 - S(0)) * (1 - S(2) * S(2));
          direct[u] = dy * S(0);
        } else {
          d[0][u] = strcmp(l.cell, "relu") == 0 ? dy * (S(0) > 0) : dy * (1 - S(0) * S(0));
        }
      }
      for (int64_t u = 0; u < H && l.gru && !over; u++) {
        double through = returned(&l, R, 2, u, d[2]); /* of r h, where the reset comes before */
        d[1][u] = SLOPE(1) * (l.after ? d[2][u] * saved[place(&l, blocks, t, n, blocks - 1, u)]
                                      : through * prev[place(&l, 1, t, n, 0, u)]);
        before[u] = l.after ? 0 : through * S(1);
      }
      for (int64_t b = 0; b < l.gates; b++)
        for (int64_t u = 0; u < H && !over; u++)
          ds[b][u] = d[b][u] * (l.gru && b == 2 ? (l.after ? S(1) : 0) : 1);
      for (int64_t u = 0; u < H && !over; u++) {
        dh[u] = direct[u] + before[u];
        for (int64_t b = 0; b < l.gates; b++)
          dh[u] += returned(&l, R, b, u, ds[b]);
      }
      for (int64_t b = 0; b < l.gates; b++)
        for (int64_t u = 0; u < H; u++) {
          c->out[0][place(&l, l.gates, t, n, b, u)] = d[b][u];
          if (l.after)
            c->out[2][place(&l, l.gates, t, n, b, u)] = ds[b][u];
        }
    }
    for (int64_t u = 0; u < H; u++) {
      c->out[1][n * H + u] = dh[u];
      if (l.lstm)
        c->out[2][n * H + u] = dc[u];
    }
  }
}
#undef S
#undef SLOPE

/* Row k belongs to bag i. */
static bool in_bag(const OracleCall *c, int64_t bags, int64_t i, int64_t k) {
  return (double)k >= c->in[1][i] && (i + 1 == bags || (double)k < c->in[1][i + 1]);
}

static int64_t bag_size(const OracleCall *c, int64_t bags, int64_t i, int64_t rows) {
  int64_t n = 0;
  for (int64_t k = 0; k < rows; k++)
    n += in_bag(c, bags, i, k);
  return n;
}

void oracle_SegmentReduce(const OracleCall *c) {
  int64_t bags = c->out_shape[0].dim[0], rows = c->in_shape[0].dim[0];
  const char *mode = node_string(c->node, "mode", "sum");
  for (int64_t e = 0; e < shape_elements(c->out_shape[0]); e++) {
    int64_t row = shape_elements(c->out_shape[0]) / bags, i = e / row, size = bag_size(c, bags, i, rows);
    bool max = strcmp(mode, "max") == 0, first = true;
    double sum = 0;
    for (int64_t k = 0; k < rows; k++) {
      double x = c->in[0][k * row + e % row];
      if (!in_bag(c, bags, i, k))
        continue;
      sum = max ? (first ? x : fmax(sum, x)) : sum + x;
      first = false;
    }
    c->out[0][e] = strcmp(mode, "mean") == 0 && size ? sum / (double)size : sum;
  }
}

void oracle_SegmentReduceGrad(const OracleCall *c) {
  int64_t bags = c->in_shape[0].dim[0], rows = c->out_shape[0].dim[0];
  const char *mode = node_string(c->node, "mode", "sum");
  for (int64_t e = 0; e < shape_elements(c->out_shape[0]); e++) {
    int64_t row = shape_elements(c->out_shape[0]) / rows, k = e / row, column = e % row;
    c->out[0][e] = 0;
    for (int64_t i = 0; i < bags; i++) {
      bool wins = true;
      for (int64_t j = 0; j < rows && strcmp(mode, "max") == 0; j++) {
        double x = c->in[2][e], other = c->in[2][j * row + column];
        wins &= !in_bag(c, bags, i, j) || (j < k ? other < x : other <= x);
      }
      if (in_bag(c, bags, i, k) && wins)
        c->out[0][e] +=
            c->in[0][i * row + column] / (strcmp(mode, "mean") == 0 ? (double)bag_size(c, bags, i, rows) : 1);
    }
  }
}
