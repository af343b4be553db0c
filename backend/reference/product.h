/* How MatMul and Gemm see their operands. */
#ifndef BACKEND_REFERENCE_PRODUCT_H
#define BACKEND_REFERENCE_PRODUCT_H

#include "backend/reference/reference.h"

/* A matrix in memory: element (i, j) at data[i * row + j * column]. */
typedef struct {
  int64_t row, column;
} Layout;

/* C [m,n] = A [m,k] B [k,n], `batches` times. */
typedef struct {
  int64_t m, n, k, batches;
  Layout a, b;
  Walk batch; /* A's and B's matrices over C's, in matrices */
} Product;

/* A node's product, from types and shapes of its inputs. A stack of A's rows that share one B is one tall product. */
Product product_of(const Node *node, const Tensor *in);

/* A's and B's matrices that make C's matrix number i. */
void product_batch(const Product *p, int64_t i, int64_t *a, int64_t *b);

/* Y = alpha Y + beta C, C (NULL: none) broadcast to Y: what Gemm does after the product. */
Status product_finish(const Node *node, const Tensor *in, const Tensor *out);

#endif
