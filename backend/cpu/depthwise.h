/* Convolutions whose groups have one channel each (depthwise), of float32: a row of results at a time, without
 * products. Invariant: an element of Y or dX is summed over taps in their order, one of dW over samples, rows and lanes
 * in an order that depends on shapes alone; no bits depend on threads or the instruction set. */
#ifndef BACKEND_CPU_DEPTHWISE_H
#define BACKEND_CPU_DEPTHWISE_H

#include "backend/cpu/cpu.h"
#include "graph/convolution.h"

/* Whether these kernels take it. */
bool depthwise_takes(const Convolution *c, DType dtype);

/* Y of X and W; dX and dW of dY; operands dense, as graph/convolution.h has them. */
Status depthwise_forward(Stream *stream, const Convolution *c, const float *x, const float *w, float *y);
Status depthwise_grad_input(Stream *stream, const Convolution *c, const float *dy, const float *w, float *dx);
/* sums: depthwise_sums(c) bytes, 64-byte aligned. */
Status depthwise_grad_weight(Stream *stream, const Convolution *c, const float *dy, const float *x, float *dw,
                             double *sums);
size_t depthwise_sums(const Convolution *c);

#endif
