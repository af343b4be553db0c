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

/* The node's counter; NULL: it drops no weights. And what those are multiplied by that it keeps. */
const int64_t *attention_counter(const Node *node, const Tensor *in);
double attention_factor(const Node *node);

/* Whether no weights are dropped and all operands, their slopes and the result are bfloat16, statistics and a mask of
 * numbers float32. Its products are those of bfloat16 numbers then: weights exp(score - largest), of the gradient
 * divided by their sum, and the scores' slopes before their scale are rounded before they are multiplied; the sum of
 * the weights is not of rounded ones. */
bool attention_narrow(const Node *node, const Tensor *in, const Tensor *out);
bool attention_narrow_in(const Graph *graph, const Node *node);

/* Elements to row t of head h of sample b of what lies there. */
static inline int64_t attention_at(const AttentionPlace *p, int64_t b, int64_t h, int64_t t) {
  return p->offset + b * p->batch + h * p->head + t * p->row;
}

#endif
