/* Attention with its whole matrix of weights, and its gradient from that. */
#include <math.h>
#include <stdlib.h>

#include "tests/ops/oracle.h"

enum { OF_Q, OF_K, OF_V, OF_Y };

/* What is asked, and what is asked about it: positions of [B,Hq,T,S]. */
typedef struct {
  const OracleCall *c;
  Shape all;
  int64_t groups, size, value_size;
  int input[3], slope[3]; /* where Q, K and V are, and where their slopes go */
  const int64_t *rows[3]; /* offset and step of those that lie in rows */
} Scores;

static Scores scores_of(const OracleCall *c) {
  static const char *const names[] = {"q_rows", "k_rows", "v_rows"};
  Scores s = {.c = c};
  for (int i = 0, slope = -1, n; i < 3; i++) {
    s.rows[i] = node_ints(c->node, names[i], &n);
    s.slope[i] = slope += c->in[i] != NULL;
    s.input[i] = c->in[i] ? i : s.input[i - 1];
  }
  Shape q = c->in_shape[0], k = c->in_shape[s.input[1]], v = c->in_shape[s.input[2]];
  s.groups = node_int(c->node, "groups", k.dim[1]);
  s.size = node_int(c->node, "size", q.dim[3]);
  s.value_size = node_int(c->node, "value_size", v.dim[3]);
  s.all =
      (Shape){4, {q.dim[0], node_int(c->node, "heads", q.dim[1]), q.dim[s.rows[0] ? 1 : 2], k.dim[s.rows[1] ? 1 : 2]}};
  return s;
}

/* Element i of what Q, K, V or Y have for a score. */
static int64_t at(const Scores *s, int what, Position p, int64_t i) {
  bool of_query = what == OF_Q || what == OF_Y;
  int64_t heads = of_query ? s->all.dim[1] : s->groups, count = s->all.dim[of_query ? 2 : 3];
  int64_t h = p.at[1] / (s->all.dim[1] / heads), row = p.at[of_query ? 2 : 3];
  int64_t size = what == OF_V || what == OF_Y ? s->value_size : s->size;
  if (what == OF_Y && node_int(s->c->node, "y_rows", 0))
    return ((p.at[0] * count + row) * heads + h) * size + i;
  if (what == OF_Y || !s->rows[what])
    return ((p.at[0] * heads + h) * count + row) * size + i;
  int64_t wide = s->c->in_shape[s->input[what]].dim[2];
  return (p.at[0] * count + row) * wide + s->rows[what][0] + h * s->rows[what][1] + i;
}

static double operand(const Scores *s, int what, Position p, int64_t i) {
  return s->c->in[s->input[what]][at(s, what, p, i)];
}

static double score(const Scores *s, Position p) {
  const OracleCall *c = s->c;
  double sum = 0;
  if (p.at[3] < p.at[2] - node_int(c->node, "left", 1000) || p.at[3] > p.at[2] + node_int(c->node, "right", 1000))
    return -INFINITY;
  for (int64_t i = 0; i < s->size; i++)
    sum += operand(s, OF_Q, p, i) * operand(s, OF_K, p, i);
  sum *= node_float(c->node, "scale", 1);
  int m = c->node->op == OP_Attention ? 3 : 7;
  if (c->n_in <= m || !c->in[m])
    return sum;
  double mask = c->in[m][element_broadcast(c->in_shape[m], s->all, p)];
  return c->in_dtype[m] != BOOL ? sum + mask : mask != 0 ? sum : -INFINITY;
}

void oracle_Attention(const OracleCall *c) {
  Scores s = scores_of(c);
  for (int64_t row = 0; row < shape_elements(c->out_shape[1]); row++) {
    double sum = 0, most = -INFINITY, *weight = malloc((size_t)(s.all.dim[3] + 1) * sizeof *weight);
    Position p = position_of(c->out_shape[1], row);
    for (p.at[3] = 0; p.at[3] < s.all.dim[3]; p.at[3]++)
      most = fmax(most, score(&s, p));
    for (p.at[3] = 0; p.at[3] < s.all.dim[3]; p.at[3]++)
      sum += weight[p.at[3]] = most == -INFINITY ? 0 : exp(score(&s, p) - most);
    c->out[1][row] = most;
    c->out[2][row] = sum > 0 ? log(sum) : 0;
    for (int64_t i = 0; i < s.value_size; i++) {
      double of_values = 0;
      for (p.at[3] = 0; p.at[3] < s.all.dim[3]; p.at[3]++)
        of_values += weight[p.at[3]] * operand(&s, OF_V, p, i);
      c->out[0][at(&s, OF_Y, p, i)] = sum > 0 ? of_values / sum : 0;
    }
    free(weight);
  }
}

void oracle_AttentionGrad(const OracleCall *c) {
  Scores s = scores_of(c);
  for (int i = 0; i < c->n_out; i++)
    for (int64_t e = 0; e < shape_elements(c->out_shape[i]); e++)
      c->out[i][e] = 0;
  for (int64_t e = 0; e < shape_elements(s.all); e++) {
    Position p = position_of(s.all, e);
    double weight =
               exp(score(&s, p) - c->in[4][element_at(c->in_shape[4], p)] - c->in[5][element_at(c->in_shape[5], p)]),
           slope = 0;
    for (int64_t i = 0; i < s.value_size; i++) {
      double dy = c->in[6][at(&s, OF_Y, p, i)];
      slope += dy * (operand(&s, OF_V, p, i) - c->in[3][at(&s, OF_Y, p, i)]);
      c->out[s.slope[2]][at(&s, OF_V, p, i)] += weight * dy;
    }
    for (int64_t i = 0; i < s.size; i++) {
      double to_score = node_float(c->node, "scale", 1) * weight * slope;
      c->out[s.slope[0]][at(&s, OF_Q, p, i)] += to_score * operand(&s, OF_K, p, i);
      c->out[s.slope[1]][at(&s, OF_K, p, i)] += to_score * operand(&s, OF_Q, p, i);
    }
  }
}
