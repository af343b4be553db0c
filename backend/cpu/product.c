/* MatMul, Gemm, products that are added to an accumulator, and those with something behind, over threads. Invariant: an
 * element of a product is the sum, block by block along k, of each block's own left-to-right sum, beginning with the
 * accumulator's where there is one, or with a vector's that is added to all rows: bits depend on k and the instruction
 * set.
 *
 * One product with few rows: a task packs a strip of B's columns into its thread's scratch and multiplies all rows with
 * it, or a part of them. Another one: for each block along n and k, B's part is packed once into the workspace, by all
 * threads; then each task multiplies a block of A's rows with a range of B's columns. A's rows are read where they lie,
 * or packed where caches would not hold them so. Many small products are a task each, packed into scratch. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/product_bf16.h"

enum {
  M_BLOCK = 120, /* a multiple of every tile's rows; with K_BLOCK a quarter of a second-level cache */
  K_BLOCK = 512, /* at most */
  N_BLOCK = 2048,
  N_TASK = 256,         /* columns of a task at least */
  TASKS = 24,           /* tasks of a block at least, where it is large enough */
  PACK_TASK = 128,      /* columns that one task packs */
  NEAR_BYTES = 1 << 19, /* of A that a task reads for one strip of columns: half a second-level cache */
  STRIP_TASKS = 16,     /* such tasks at least, where there are */
  LEAST_ROWS = 96,      /* rows for each of them */
  PLACES_BYTES = 4096,  /* addresses so far apart share a place in a first-level cache */
  WIDEST = 2 * MOST_VECTOR_BYTES
};

typedef struct {
  const Product *p;
  const Isa *isa;
  int64_t columns; /* of a tile */
  const char *a, *b;
  char *c, *packed;       /* B's block, strips of `columns` columns */
  int64_t j, n, l, k;     /* the block along n and k */
  int64_t m_task, n_task; /* rows and columns of a task */
  const Tensor *in, *out; /* of many products */
  bool adds;              /* to what is in C */
  const void *row;        /* what every row begins with, [n] of the product; NULL: nothing */
} Job;

/* The size of k's blocks: as few as can be, all alike. */
static int64_t block_of(int64_t k) {
  int64_t blocks = (k + K_BLOCK - 1) / K_BLOCK;
  return least(K_BLOCK, round_up((k + blocks - 1) / blocks, 8));
}

/* Whether a tile's rows of A have places in the cache where they lie: those that run on must not share one. */
static bool lies_well(const Product *p, size_t size) {
  return p->a.row == 1 || p->a.row * (int64_t)size % PLACES_BYTES != 0;
}

/* Whether A is so small that a strip of B's columns is packed where all rows are multiplied with it, and not for all
 * tasks before. */
static bool near(const Product *p, size_t size) {
  return p->k <= K_BLOCK && p->m * p->k * (int64_t)size <= 2 * NEAR_BYTES && lies_well(p, size);
}

#define T float
#define S(name) name##_f32
#include "backend/cpu/product.inc"
#undef T
#undef S

#define T double
#define S(name) name##_f64
#include "backend/cpu/product.inc"
#undef T
#undef S

/* A block of B, packed; for any instruction set and number of threads. */
static size_t packed_bytes(const Graph *graph, const Node *node, int first) {
  Tensor in[] = {kernel_input(graph, node, first), kernel_input(graph, node, first + 1)};
  Product p = product_of(node, in);
  if (product_is_bf16(in))
    return product_bf16_workspace(&p, first ? F32 : graph_value(graph, node->out[0])->dtype);
  size_t size = dtype_bytes(in->dtype);
  if (near(&p, size))
    return 0;
  int64_t n = round_up(least(p.n, N_BLOCK), WIDEST / (int64_t)size);
  return (size_t)(n * least(p.k, K_BLOCK)) * size;
}

/* in: A and B. The state: the Product. */
static Status make_product(const Node *node, const Tensor *in, void **state) {
  Product *p = malloc(sizeof *p);
  if (!p)
    return fail(E_MEMORY, "out of memory");
  *p = product_of(node, in);
  *state = p;
  return OK;
}

static size_t workspace_of_product(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  return packed_bytes(graph, node, 0);
}

static Status prepare_product(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                              size_t workspace_bytes, void **state) {
  (void)stream, (void)out, (void)workspace_bytes;
  return make_product(node, in, state);
}

static size_t workspace_of_accumulated(const Graph *graph, const Node *node, size_t budget) {
  (void)budget;
  return packed_bytes(graph, node, 1);
}

static Status prepare_accumulated(Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                                  size_t workspace_bytes, void **state) {
  (void)stream, (void)out, (void)workspace_bytes;
  return make_product(node, in + 1, state);
}

/* A product of nothing: rows of zeros, or of what they begin with. */
static void nothing_multiplied(const Job *job, size_t size) {
  int64_t rows = job->p->m * job->p->batches;
  size_t bytes = (size_t)job->p->n * size;
  for (int64_t r = 0; r < rows && !job->adds; r++)
    if (job->row)
      memcpy((char *)job->out->data + (size_t)r * bytes, job->row, bytes);
    else
      memset((char *)job->out->data + (size_t)r * bytes, 0, bytes);
}

/* out = A B, or += where it adds. in: A and B; row: NULL, or what each row of one product in float32 or float64 begins
 * with. */
static Status multiply(Stream *stream, const Node *node, const Product *p, const Tensor *in, const Tensor *out,
                       bool adds, const void *row, void *workspace) {
  if (product_is_bf16(in))
    return product_bf16(stream, &(ProductBf16){.p = p, .in = in, .out = out, .adds = adds, .alpha = 1, .beta = 1},
                        workspace);
  if (in->dtype != F32 && in->dtype != F64)
    return unsupported_type(node, in->dtype);
  Job job = {.p = p, .isa = stream->isa, .packed = workspace, .in = in, .out = out, .adds = adds, .row = row};
  size_t size = dtype_bytes(in->dtype);
  job.columns = 2 * stream->isa->vector_bytes / (int64_t)size;
  if (p->m * p->n * p->batches == 0)
    return OK;
  if (p->k)
    return size == 4 ? product_f32(&job, stream->pool) : product_f64(&job, stream->pool);
  nothing_multiplied(&job, size);
  return OK;
}

static bool takes_bf16(const Node *node, const Tensor *in, const Tensor *out) {
  (void)out;
  return node->op == OP_AccumulateMatMul ? in->dtype == F32 && product_is_bf16(in + 1) : product_is_bf16(in);
}

#define PRODUCT                                                                                                        \
  .accepts = takes_floats, .narrow = takes_bf16, .workspace = workspace_of_product, .prepare = prepare_product,        \
  .release = free

CPU_KERNEL(MatMul, PRODUCT) {
  return multiply(stream, node, state, in, out, false, NULL, workspace);
}

CPU_KERNEL(AccumulateMatMul, .accepts = takes_floats, .narrow = takes_bf16, .workspace = workspace_of_accumulated,
           .prepare = prepare_accumulated, .release = free) {
  (void)out;
  return multiply(stream, node, state, in + 1, in, !node_int(node, "begins", 0), NULL, workspace);
}

/* C, where it is a row and neither it nor the product is scaled. */
static const void *row_of(const Node *node, const Product *p, const Tensor *in) {
  const Tensor *c = node->n_in > 2 && in[2].data ? &in[2] : NULL;
  bool is_row = c && c->shape.rank && c->shape.dim[c->shape.rank - 1] == p->n && shape_elements(c->shape) == p->n &&
                node_float(node, "alpha", 1) == 1 && node_float(node, "beta", 1) == 1;
  return is_row ? c->data : NULL;
}

static Status gemm_bf16(Stream *stream, const Node *node, const Product *p, const Tensor *in, const Tensor *out,
                        void *workspace) {
  ProductBf16 call = {.p = p,
                      .in = in,
                      .out = out,
                      .alpha = (float)node_float(node, "alpha", 1),
                      .beta = (float)node_float(node, "beta", 1),
                      .d = node->n_in > 2 && in[2].data ? &in[2] : NULL};
  return product_bf16(stream, &call, workspace);
}

CPU_KERNEL(Gemm, PRODUCT) {
  if (product_is_bf16(in))
    return gemm_bf16(stream, node, state, in, out, workspace);
  const void *row = row_of(node, state, in);
  TRY(multiply(stream, node, state, in, out, false, row, workspace));
  return row ? OK : product_finish(node, in, out);
}

/* The kernel that is behind a product, of `n_in` operands. */
static Status run_behind(Stream *stream, const Node *node, OpKind op, int n_in, const Tensor *in, const Tensor *out) {
  Node behind = *node;
  behind.op = op;
  behind.n_in = n_in;
  behind.n_out = 1;
  return backend_cpu.kernels[op]->run(stream, &behind, in, out, NULL, NULL);
}

/* In bfloat16 a tile of sums is not written before. In float32 it would be read from where it was written, each row in
 * another page, which takes longer than all rows afterwards. */
static Status product_behind(Stream *stream, const Node *node, const Product *p, const Tensor *in, const Tensor *out,
                             const Tensor *row, const Behind *behind, void *workspace) {
  ProductBf16 call = {.p = p, .in = in, .out = out, .alpha = 1, .beta = 1, .d = row, .behind = behind};
  if (product_is_bf16(in))
    return product_bf16(stream, &call, workspace);
  return multiply(stream, node, p, in, behind->sums ? behind->sums : out, false, row ? row->data : NULL, workspace);
}

static const Tensor *optional(const Tensor *tensors, int n, int i) {
  return i < n && tensors[i].data ? &tensors[i] : NULL;
}

CPU_KERNEL(ProductGelu, PRODUCT) {
  const Isa *isa = stream->isa;
  const Tensor *sums = optional(out, node->n_out, 1);
  Behind gelu = {.map = gelu_is_tanh(node) ? isa->gelu_tanh : isa->gelu_erf, .sums = sums};
  TRY(product_behind(stream, node, state, in, out, optional(in, node->n_in, 2), &gelu, workspace));
  return product_is_bf16(in) ? OK : run_behind(stream, node, OP_Gelu, 1, sums ? sums : out, out);
}

CPU_KERNEL(ProductGeluGrad, PRODUCT) {
  const Isa *isa = stream->isa;
  Behind slope = {.slope = gelu_is_tanh(node) ? isa->gelu_tanh_grad : isa->gelu_erf_grad, .of = &in[2]};
  TRY(product_behind(stream, node, state, in, out, NULL, &slope, workspace));
  return product_is_bf16(in) ? OK : run_behind(stream, node, OP_GeluGrad, 2, (Tensor[]){*out, in[2]}, out);
}

CPU_KERNEL(ProductAdd, PRODUCT) {
  Behind more = {.of = &in[2]};
  TRY(product_behind(stream, node, state, in, out, optional(in, node->n_in, 3), &more, workspace));
  return product_is_bf16(in) ? OK : run_behind(stream, node, OP_Add, 2, (Tensor[]){*out, in[2]}, out);
}
