/* Attention with its whole matrix of weights, and its gradient from that. */
#include <math.h>
#include <stdlib.h>

#include "tests/ops/oracle.h"

/* What is asked, and what is asked about it: positions of [B,Hq,T,S]. */
typedef struct {
  const OracleCall *c;
  Shape all;
} Scores;

static Scores scores_of(const OracleCall *c) {
  Shape q = c->in_shape[0], k = c->in_shape[1];
  return (Scores){c, {4, {q.dim[0], q.dim[1], q.dim[2], k.dim[2]}}};
}

/* The element of Q or what is like it, of K or V, that column i of a score's row or key is. */
static int64_t of_query(const Scores *s, Shape shape, Position p, int64_t i) {
  (void)s;
  p.at[3] = i;
  return element_at(shape, p);
}

static int64_t of_key(const Scores *s, Shape shape, Position p, int64_t i) {
  Position at = {{p.at[0], p.at[1] / (s->all.dim[1] / shape.dim[1]), p.at[3], i}};
  return element_at(shape, at);
}

static double score(const Scores *s, Position p) {
  const OracleCall *c = s->c;
  double sum = 0;
  if (p.at[3] < p.at[2] - node_int(c->node, "left", 1000) || p.at[3] > p.at[2] + node_int(c->node, "right", 1000))
    return -INFINITY;
  for (int64_t i = 0; i < c->in_shape[0].dim[3]; i++)
    sum += c->in[0][of_query(s, c->in_shape[0], p, i)] * c->in[1][of_key(s, c->in_shape[1], p, i)];
  sum *= node_float(c->node, "scale", 1);
  int m = c->node->op == OP_Attention ? 3 : 7;
  if (c->n_in <= m || !c->in[m])
    return sum;
  double mask = c->in[m][element_broadcast(c->in_shape[m], s->all, p)];
  return c->in_dtype[m] != BOOL ? sum + mask : mask != 0 ? sum : -INFINITY;
}

void oracle_Attention(const OracleCall *c) {
  Scores s = scores_of(c);
  Shape y = c->out_shape[0];
  for (int64_t row = 0; row < shape_elements(c->out_shape[1]); row++) {
    double sum = 0, most = -INFINITY, *weight = malloc((size_t)(s.all.dim[3] + 1) * sizeof *weight);
    Position p = position_of(c->out_shape[1], row);
    for (p.at[3] = 0; p.at[3] < s.all.dim[3]; p.at[3]++)
      most = fmax(most, score(&s, p));
    for (p.at[3] = 0; p.at[3] < s.all.dim[3]; p.at[3]++)
      sum += weight[p.at[3]] = most == -INFINITY ? 0 : exp(score(&s, p) - most);
    c->out[1][row] = most;
    c->out[2][row] = sum > 0 ? log(sum) : 0;
    for (int64_t i = 0; i < y.dim[3]; i++) {
      double of_values = 0;
      for (p.at[3] = 0; p.at[3] < s.all.dim[3]; p.at[3]++)
        of_values += weight[p.at[3]] * c->in[2][of_key(&s, c->in_shape[2], p, i)];
      c->out[0][of_query(&s, y, p, i)] = sum > 0 ? of_values / sum : 0;
    }
    free(weight);
  }
}

void oracle_AttentionGrad(const OracleCall *c) {
  Scores s = scores_of(c);
  Shape q = c->in_shape[0], k = c->in_shape[1], v = c->in_shape[2], y = c->in_shape[3];
  for (int i = 0; i < 3; i++)
    for (int64_t e = 0; e < shape_elements(c->out_shape[i]); e++)
      c->out[i][e] = 0;
  for (int64_t e = 0; e < shape_elements(s.all); e++) {
    Position p = position_of(s.all, e);
    double weight =
               exp(score(&s, p) - c->in[4][element_at(c->in_shape[4], p)] - c->in[5][element_at(c->in_shape[5], p)]),
           slope = 0;
    for (int64_t i = 0; i < y.dim[3]; i++) {
      double dy = c->in[6][of_query(&s, y, p, i)];
      slope += dy * (c->in[2][of_key(&s, v, p, i)] - c->in[3][of_query(&s, y, p, i)]);
      c->out[2][of_key(&s, v, p, i)] += weight * dy;
    }
    for (int64_t i = 0; i < q.dim[3]; i++) {
      double to_score = node_float(c->node, "scale", 1) * weight * slope;
      c->out[0][of_query(&s, q, p, i)] += to_score * c->in[1][of_key(&s, k, p, i)];
      c->out[1][of_key(&s, k, p, i)] += to_score * c->in[0][of_query(&s, q, p, i)];
    }
  }
}
