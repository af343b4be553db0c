/* Products of which an operand is bfloat16: both are rounded to it, sums are float32. */
#ifndef BACKEND_CPU_PRODUCT_BF16_H
#define BACKEND_CPU_PRODUCT_BF16_H

#include "backend/cpu/cpu.h"
#include "backend/reference/product.h"

/* What becomes of a product's sums before they are written: what they are mapped to, or they times the slope at a
 * tensor like C, or with such a one added. */
typedef struct {
  Map *map;
  Map2 *slope;        /* where there is no map */
  const Tensor *of;   /* what is added where there is no slope, either */
  const Tensor *sums; /* where they go as they are; NULL: nowhere */
} Behind;

/* C [m,n] = alpha A [m,k] B [k,n] + beta D, D broadcast to C; or, where it adds, C += A B, C float32. */
typedef struct {
  const Product *p;
  const Tensor *in, *out; /* A and B, float32 or bfloat16; C, either */
  bool adds;
  float alpha, beta;
  const Tensor *d;      /* float32 or bfloat16; NULL: none */
  const Behind *behind; /* of one product; NULL: nothing */
} ProductBf16;

/* Whether this product is one of these. */
bool product_is_bf16(const Tensor *in);

/* For any instruction set and number of threads. */
size_t product_bf16_workspace(const Product *p, DType out);

/* The product, over threads. workspace: so many bytes. */
Status product_bf16(Stream *stream, const ProductBf16 *call, void *workspace);

#endif
