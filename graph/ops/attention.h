/* Scaled dot-product attention: what its rules and kernels share. */
#ifndef GRAPH_OPS_ATTENTION_H
#define GRAPH_OPS_ATTENTION_H

#include "graph/graph.h"

/* Inputs of both operators, and of each behind them; the mask may be absent. */
enum { ATTENTION_Q, ATTENTION_K, ATTENTION_V };
enum { ATTENTION_MASK = 3 };
enum { ATTENTION_GRAD_Y = 3, ATTENTION_GRAD_MOST, ATTENTION_GRAD_LOG_SUM, ATTENTION_GRAD_DY, ATTENTION_GRAD_MASK };

typedef struct {
  int64_t batch, heads, groups; /* groups: heads of K and V, each for heads / groups heads of Q that stand together */
  int64_t queries, keys, size, value_size;
  double scale;
  int64_t left, right; /* the query at t sees the keys t - left … t + right */
} Attention;

/* Which input is the node's mask. */
static inline int attention_mask_input(const Node *node) {
  return node->op == OP_Attention ? ATTENTION_MASK : ATTENTION_GRAD_MASK;
}

/* Of a node that passed its shape rule; the shapes of Q, K and V. */
Attention attention_of(const Node *node, Shape q, Shape k, Shape v);

/* The keys first … end-1 that the query at t sees by its place; none where end <= first. */
static inline int64_t attention_first(const Attention *a, int64_t t) {
  return t > a->left ? t - a->left : 0;
}
static inline int64_t attention_end(const Attention *a, int64_t t) {
  return t + a->right + 1 < a->keys ? t + a->right + 1 : a->keys;
}

#endif
