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

/* Of a node with its inputs. */
Attention attention_of_tensors(const Node *node, const Tensor *in);

/* Elements to row t of head h of sample b of what lies there. */
static inline int64_t attention_at(const AttentionPlace *p, int64_t b, int64_t h, int64_t t) {
  return p->offset + b * p->batch + h * p->head + t * p->row;
}

#endif
