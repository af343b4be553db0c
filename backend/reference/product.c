/* MatMul, Gemm and products that are added to an accumulator, row by row. Invariant: every element is the sum along k
 * from left to right, beginning with the accumulator's where there is one: bits depend on k alone, not on the other
 * dimensions, batches or instruction set. */
#include <string.h>

#include "backend/reference/kernel.h"
#include "backend/reference/product.h"

/* A sanitizer would make the innermost loop of products a hundred times as slow; what goes in is checked: whole rows
 * of matrices whose sizes the shape rule compared. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define INNER_LOOP __attribute__((no_sanitize("address", "undefined", "thread"), optimize("O3")))
#else
#define INNER_LOOP WIDE_LOOPS
#endif

#define T float
#define S(name) name##_f32
#include "backend/reference/product.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/reference/product.inc"
#undef T
#undef S

/* The last two axes of a tensor; a vector is one row (left) or one column (right). */
static Shape matrix_of(Shape s, bool left) {
  if (s.rank != 1)
    return shape_of(2, s.dim + s.rank - 2);
  return left ? shape_of(2, (int64_t[]){1, s.dim[0]}) : shape_of(2, (int64_t[]){s.dim[0], 1});
}

static Shape batch_of(Shape s) {
  return shape_of(s.rank > 2 ? s.rank - 2 : 0, s.dim);
}

Product product_of(const Node *node, const Tensor *in) {
  bool ta = node_int(node, "transA", 0), tb = node_int(node, "transB", 0);
  Shape a = matrix_of(in[0].shape, true), b = matrix_of(in[1].shape, false), batch;
  Product p = {.m = a.dim[ta], .k = a.dim[!ta], .n = b.dim[!tb]};
  p.a = ta ? (Layout){1, a.dim[1]} : (Layout){a.dim[1], 1};
  p.b = tb ? (Layout){1, b.dim[1]} : (Layout){b.dim[1], 1};
  Tensor stacks[] = {{.shape = batch_of(in[0].shape)}, {.shape = batch_of(in[1].shape)}};
  shape_broadcast(stacks[0].shape, stacks[1].shape, &batch);
  p.batches = shape_elements(batch);
  if (shape_elements(stacks[1].shape) == 1 && !ta) { /* one B for a stack of rows: one tall product */
    p.m *= p.batches;
    p.batches = 1;
    batch.rank = stacks[0].shape.rank = stacks[1].shape.rank = 0;
  }
  walk_init(&p.batch, batch, stacks, 2);
  return p;
}

void product_batch(const Product *p, int64_t i, int64_t *a, int64_t *b) {
  int last = p->batch.rank - 1;
  int64_t at[3], step = i % p->batch.dim[last];
  walk_offsets(&p->batch, i / p->batch.dim[last], 2, at);
  *a = at[0] + step * p->batch.stride[0][last];
  *b = at[1] + step * p->batch.stride[1][last];
}

/* Bytes of B, where it is read transposed. */
static size_t transposed_bytes(const Node *node, const Tensor *in) {
  Product p = product_of(node, in);
  return p.b.column == 1 ? 0 : (size_t)(p.k * p.n) * dtype_bytes(in->dtype);
}

static size_t product_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Tensor in[] = {kernel_input(graph, node, 0), kernel_input(graph, node, 1)};
  return transposed_bytes(node, in);
}

static size_t accumulate_workspace(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  Tensor in[] = {kernel_input(graph, node, 1), kernel_input(graph, node, 2)};
  return transposed_bytes(node, in);
}

/* in: A and B. */
static Status multiply(const Node *node, const Tensor *in, const Tensor *out, bool adds, void *workspace) {
  Product p = product_of(node, in);
  switch (in->dtype) {
    CASE(F32, product_f32(&p, in, out, adds, workspace))
    CASE(F64, product_f64(&p, in, out, adds, workspace))
  default:
    return unsupported_type(node, in->dtype);
  }
}

KERNEL(MatMul, .accepts = takes_floats, .workspace = product_workspace) {
  (void)stream, (void)state;
  return multiply(node, in, out, false, workspace);
}

KERNEL(AccumulateMatMul, .accepts = takes_floats, .workspace = accumulate_workspace) {
  (void)stream, (void)state, (void)out;
  return multiply(node, in + 1, in, !node_int(node, "begins", 0), workspace);
}

Status product_finish(const Node *node, const Tensor *in, const Tensor *out) {
  double alpha = node_float(node, "alpha", 1), beta = node_float(node, "beta", 1);
  const Tensor *c = node->n_in > 2 && in[2].data ? &in[2] : NULL;
  return in->dtype == F32 ? scale_add_f32((float)alpha, (float)beta, c, out) : scale_add_f64(alpha, beta, c, out);
}

KERNEL(Gemm, .accepts = takes_floats, .workspace = product_workspace) {
  TRY(run_MatMul(stream, node, in, out, workspace, state));
  return product_finish(node, in, out);
}

/* The sums where they are wanted, else where what becomes of them goes. */
KERNEL(ProductGelu, .accepts = takes_floats, .workspace = product_workspace) {
  const Tensor *sums = node->n_out > 1 && out[1].data ? &out[1] : out;
  TRY(run_MatMul(stream, node, in, sums, workspace, state));
  TRY(product_finish(node, in, sums));
  return reference_Gelu.run(stream, node, sums, out, NULL, NULL);
}

KERNEL(ProductGeluGrad, .accepts = takes_floats, .workspace = product_workspace) {
  Tensor pair[] = {*out, in[2]};
  TRY(run_MatMul(stream, node, in, out, workspace, state));
  return reference_GeluGrad.run(stream, node, pair, out, NULL, NULL);
}

/* The row first, as Gemm has it. */
KERNEL(ProductAdd, .accepts = takes_floats, .workspace = product_workspace) {
  TRY(run_MatMul(stream, node, in, out, workspace, state));
  if (node->n_in > 3)
    TRY(product_finish(node, in + 1, out));
  return product_finish(node, in, out);
}
