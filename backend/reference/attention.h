/* How kernels see attention. */
#ifndef BACKEND_REFERENCE_ATTENTION_H
#define BACKEND_REFERENCE_ATTENTION_H

#include "backend/reference/reference.h"
#include "graph/ops/attention.h"

/* A mask that broadcasts to [B,Hq,T,S]: elements from one to the next along each of these axes, 0 where it repeats. */
typedef struct {
  const void *data; /* NULL: there is none */
  bool is_bool;     /* what is allowed; else it is added */
  int64_t step[4];
} AttentionMask;

/* The node's, if it has one. */
AttentionMask attention_mask(const Node *node, const Tensor *in);

/* Of a node as the graph has it. */
Attention attention_of_node(const Graph *graph, const Node *node);

#endif
