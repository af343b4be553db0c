/* From nodes to launches: products, through cuBLASLt, and the workspaces that they take. */
#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "backend/reference/product.h"
#include "backend/reference/reference.h"
#include "graph/memory.h"

/* Float64 is not reduced. */
static Precision precision_of(const Node *node, const Tensor *in) {
  return in->dtype == F32 ? node->precision : PRECISION_FLOAT32;
}

/* A product as rows of batched ones: the batches of its innermost loop. The first row begins where tensors do; others
 * at any matrix. */
static BlasProduct blas_product(const Node *node, const Tensor *in, const Product *p) {
  int last = p->batch.rank - 1;
  DType type = precision_of(node, in) == PRECISION_BF16 ? BF16 : in->dtype;
  int64_t batches = p->batches == 1 ? 1 : p->batch.dim[last];
  bool one_row = batches == p->batches && batches <= BLAS_BATCHES;
  return (BlasProduct){.type = type,
                       .is_tf32 = precision_of(node, in) == PRECISION_TF32,
                       .transpose_a = node_int(node, "transA", 0),
                       .transpose_b = node_int(node, "transB", 0),
                       .m = p->m,
                       .n = p->n,
                       .k = p->k,
                       .batches = batches,
                       .a_step = p->batch.stride[0][last] * p->m * p->k,
                       .b_step = p->batch.stride[1][last] * p->k * p->n,
                       .alpha = node_float(node, "alpha", 1),
                       .alignment = one_row ? 64 : dtype_bytes(type)};
}

/* A product's workspace from the first multiple of BLAS_ALIGNMENT on: A and B as bfloat16 where they are reduced to it,
 * then cuBLASLt's. */
typedef struct {
  size_t b, blas;
} Room;

static Room room_of(const Node *node, const Tensor *in) {
  Room room = {0};
  if (precision_of(node, in) == PRECISION_BF16) {
    room.b = (size_t)round_up(shape_elements(in[0].shape) * 2, BLAS_ALIGNMENT);
    room.blas = room.b + (size_t)round_up(shape_elements(in[1].shape) * 2, BLAS_ALIGNMENT);
  }
  return room;
}

/* Workspaces begin at multiples of MEMORY_ALIGNMENT. */
enum { ALIGNING = BLAS_ALIGNMENT - MEMORY_ALIGNMENT };

/* The first multiple of BLAS_ALIGNMENT. */
static char *align_workspace(void *workspace) {
  return (char *)(((uintptr_t)workspace + BLAS_ALIGNMENT - 1) / BLAS_ALIGNMENT * BLAS_ALIGNMENT);
}

static bool is_nothing(const Product *p) {
  return !p->k || !p->batches || !p->m || !p->n;
}

/* A and B are inputs `first` and first + 1. Their copies are needed; cuBLASLt does with the budget. */
static size_t product_bytes(const Graph *graph, const Node *node, int first, size_t budget) {
  Tensor in[] = {kernel_input(graph, node, first), kernel_input(graph, node, first + 1)};
  Product p = product_of(node, in);
  BlasProduct row = blas_product(node, in, &p);
  size_t wish = blas_workspace_bytes(&row);
  return is_nothing(&p) ? 0 : room_of(node, in).blas + (wish < budget ? wish : budget) + ALIGNING;
}

/* What is worked out before a product runs. A row is as many `whole` ones as it takes, and the rest. */
typedef struct {
  Product product;
  BlasProduct row;
  Room room;
  BlasPlan *whole, *rest; /* of BLAS_BATCHES batches or of all; NULL where there is none */
} Prepared;

static void product_release(void *state) {
  Prepared *r = state;
  blas_release(r->whole);
  blas_release(r->rest);
  free(r);
}

static Status prepare_part(Stream *stream, const Prepared *r, int64_t batches, size_t room, BlasPlan **plan) {
  BlasProduct part = r->row;
  part.batches = batches;
  size_t wish = blas_workspace_bytes(&part);
  part.workspace_bytes = wish < room ? wish : room;
  return batches ? blas_prepare(stream->blas, &part, plan) : OK;
}

/* in: A and B. */
static Status prepare(Stream *stream, const Node *node, const Tensor *in, bool adds, size_t workspace_bytes,
                      void **state) {
  Prepared *r = calloc(1, sizeof *r);
  if (!r)
    return fail(E_MEMORY, "out of memory");
  r->product = product_of(node, in);
  *state = r;
  r->row.adds = adds;
  if (is_nothing(&r->product))
    return OK;
  r->row = blas_product(node, in, &r->product);
  r->row.adds = adds;
  r->room = room_of(node, in);
  size_t room = workspace_bytes - r->room.blas - ALIGNING;
  Status status = cuda_enter(stream);
  if (status == OK)
    status = prepare_part(stream, r, least(r->row.batches, BLAS_BATCHES), room, &r->whole);
  if (status == OK && r->row.batches > BLAS_BATCHES)
    status = prepare_part(stream, r, r->row.batches % BLAS_BATCHES, room, &r->rest);
  if (status == OK)
    return OK;
  product_release(r);
  *state = NULL;
  return status;
}

static Status product_prepare(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                              size_t workspace_bytes, void **state) {
  (void)out;
  return prepare(stream, node, in, false, workspace_bytes, state);
}

static Status accumulate_prepare(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                                 size_t workspace_bytes, void **state) {
  (void)out;
  return prepare(stream, node, in + 1, !node_int(node, "begins", 0), workspace_bytes, state);
}

static size_t product_workspace(const Graph *graph, const Node *node, size_t budget) {
  return product_bytes(graph, node, 0, budget);
}

static size_t accumulate_workspace(const Graph *graph, const Node *node, size_t budget) {
  return product_bytes(graph, node, 1, budget);
}

#define PRODUCT                                                                                                        \
  .accepts = takes_floats, .workspace = product_workspace, .prepare = product_prepare, .release = product_release

/* Rounds A and B into the workspace. */
static void reduce_operands(Stream *stream, const Tensor *in, const Room *room, char *workspace, const char *at[2]) {
  at[0] = workspace;
  at[1] = workspace + room->b;
  launch_convert(stream->cuda, F32, BF16, shape_elements(in[0].shape), in[0].data, workspace);
  launch_convert(stream->cuda, F32, BF16, shape_elements(in[1].shape), in[1].data, workspace + room->b);
}

/* in: A and B. */
static Status multiply(Stream *stream, const Node *node, const Prepared *r, const Tensor *in, const Tensor *out,
                       void *workspace) {
  TAKES(in->dtype, is_float(in->dtype));
  const Product *p = &r->product;
  int64_t size = (int64_t)dtype_bytes(in->dtype), results = p->batches * p->m * p->n;
  if (!results)
    return OK;
  if (!p->k && r->row.adds)
    return OK;
  if (!p->k)
    return backend_cuda.zero(stream, out->data, (size_t)(results * size));
  int64_t operand = (int64_t)dtype_bytes(r->row.type), batches;
  const char *at[2] = {in[0].data, in[1].data};
  workspace = align_workspace(workspace);
  if (r->row.type == BF16)
    reduce_operands(stream, in, &r->room, workspace, at);
  for (int64_t i = 0; i < p->batches; i += batches) {
    int64_t a, b, left = r->row.batches - i % r->row.batches;
    product_batch(p, i, &a, &b);
    batches = least(left, BLAS_BATCHES);
    const BlasPlan *plan = batches == least(r->row.batches, BLAS_BATCHES) ? r->whole : r->rest;
    if (blas_run(stream->blas, stream->cuda, plan, at[0] + a * p->m * p->k * operand, at[1] + b * p->k * p->n * operand,
                 (char *)out->data + i * p->m * p->n * size, (char *)workspace + r->room.blas) != OK) {
      node_context(node);
      return status_code();
    }
  }
  return cuda_launched(stream, node);
}

KERNEL(MatMul, PRODUCT) {
  return multiply(stream, node, state, in, out, workspace);
}

KERNEL(AccumulateMatMul, .accepts = takes_floats, .workspace = accumulate_workspace, .prepare = accumulate_prepare,
       .release = product_release) {
  (void)out;
  return multiply(stream, node, state, in + 1, in, workspace);
}

KERNEL(Gemm, PRODUCT) {
  TRY(run_MatMul(stream, node, in, out, workspace, state));
  if (node->n_in < 3 || !in[2].data)
    return OK;
  Tensor both[] = {in[2], *out};
  Walk w;
  walk_init(&w, out->shape, both, 2);
  Steps steps = {.rank = w.rank, .n = shape_elements(out->shape)};
  for (int i = 0; i < w.rank; i++) {
    steps.dim[i] = w.dim[i];
    steps.step[0][i] = w.stride[0][i];
    steps.step[1][i] = w.stride[1][i];
  }
  launch_add_scaled(stream->cuda, in->dtype, node_float(node, "beta", 1), &steps, in[2].data, out->data);
  return cuda_launched(stream, node);
}
