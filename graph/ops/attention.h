/* Scaled dot-product attention: what its rules and kernels share. */
#ifndef GRAPH_OPS_ATTENTION_H
#define GRAPH_OPS_ATTENTION_H

#include "graph/graph.h"

/* Inputs of both operators, and of each behind them; mask and counter may be absent. With a counter weights are dropped
 * as Dropout [B,Hq,T,S] with the same attributes (and `drawn`: S) drops them: behind their division by the sum, which
 * is of all. */
enum {
  ATTENTION_Q,
  ATTENTION_K,
  ATTENTION_V,
  ATTENTION_MASK,
  ATTENTION_COUNTER,
  ATTENTION_GRAD_Y = 3,
  ATTENTION_GRAD_MOST,
  ATTENTION_GRAD_LOG_SUM,
  ATTENTION_GRAD_DY,
  ATTENTION_GRAD_MASK,
  ATTENTION_GRAD_COUNTER
};

/* Where an operand or the result lies: element d of row t of head h of sample b is at
 * offset + b batch + h head + t row + d of its tensor. */
typedef struct {
  int input;     /* of operands: Q's, K's or V's input, which holds it */
  int cotangent; /* the gradient's output that its slope goes to, at the same place */
  int64_t offset, batch, head, row;
} AttentionPlace;

typedef struct {
  int64_t batch, heads, groups; /* groups: heads of K and V, each for heads / groups heads of Q that stand together */
  int64_t queries, keys, size, value_size;
  double scale;
  int64_t left, right;       /* the query at t sees the keys t - left … t + right */
  AttentionPlace operand[3]; /* Q, K, V */
  AttentionPlace result;     /* Y, and its cotangent */
} Attention;

/* Which input is the node's mask. */
static inline int attention_mask_input(const Node *node) {
  return node->op == OP_Attention ? ATTENTION_MASK : ATTENTION_GRAD_MASK;
}

/* And which its counter; whether it has one. */
static inline int attention_counter_input(const Node *node) {
  return node->op == OP_Attention ? ATTENTION_COUNTER : ATTENTION_GRAD_COUNTER;
}
static inline bool attention_drops(const Node *node) {
  int i = attention_counter_input(node);
  return node->n_in > i && node->in[i] != NO_VALUE;
}

/* Of a node that passed its shape rule; the shapes of the inputs for Q, K and V, whatever stands for absent ones.
 *
 * Operands are [B,heads,rows,D] each, unless attributes say otherwise: with `q_rows`, `k_rows`, `v_rows` [offset, step]
 * an operand's input is [B,rows,W], and head h of it has the elements offset + h step … of each row. K's input may be
 * absent then: K is in Q's; and V's: V is in K's. What operands share they cover, each element once. The result is
 * [B,T,heads Dv] with `y_rows` 1. `heads`, `groups`, `size`, `value_size` are given with any of these. */
Attention attention_of(const Node *node, const Shape in[3]);
/* The same in a graph. */
Attention attention_in(const Graph *graph, const Node *node);

/* The keys first … end-1 that the query at t sees by its place; none where end <= first. */
static inline int64_t attention_first(const Attention *a, int64_t t) {
  return t > a->left ? t - a->left : 0;
}
static inline int64_t attention_end(const Attention *a, int64_t t) {
  return t + a->right + 1 < a->keys ? t + a->right + 1 : a->keys;
}

#endif
