/* Kernels in parts, for host backends that share them among threads, and what their parts check. A part's bits do not
 * depend on how the whole is divided. */
#ifndef BACKEND_REFERENCE_PARTS_H
#define BACKEND_REFERENCE_PARTS_H

#include "backend/reference/reference.h"

/* A nest of loops over two strided arrays, in elements. Neighbouring axes that run on in both are merged. */
typedef struct {
  int rank;
  int64_t dim[MAX_RANK], from[MAX_RANK], to[MAX_RANK];
  int64_t from_offset, to_offset;
} Nest;

/* The copy that Transpose, Expand, Slice and SliceGrad (after zeros) are. */
void nest_init(Nest *nest, const Node *node, const Tensor *in, const Tensor *out);
/* Adds an inner loop. */
void nest_push(Nest *nest, int64_t dim, int64_t from, int64_t to);
/* How often the innermost loop runs. */
int64_t nest_runs(const Nest *nest);
/* Runs first … end-1 of elements of `size` bytes; the offsets were added. */
void nest_copy(const Nest *nest, size_t size, char *to, const char *from, int64_t first, int64_t end);
/* dense[i] = elements from one index of axis i to the next. */
void dense_strides(Shape shape, int64_t dense[MAX_RANK]);

/* ReduceSum and ReduceMean of floats, and of bfloat16 to float32: blocks of results. */
int64_t reduce_blocks(const Node *node, Shape shape);
void reduce_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end);

/* LayerNormalizationGradScale and RMSNormalizationGradScale, to floats; dY and X may be bfloat16: blocks of columns. */
int64_t scale_gradient_blocks(const Tensor *out);
void scale_gradient_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end);

/* BatchNormalization and its gradients: blocks of channels of x, which is like in[0]. */
int64_t channel_blocks(const Tensor *x);
void channel_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end);

/* Dropout, RandomUniform and RandomNormal of floats: elements. */
void draw_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end);
/* Which of elements first … first + n - 1, of so many, a Dropout keeps that has the node's attributes. */
void draw_kept(const Node *node, const int64_t *counter, int64_t elements, int64_t first, int64_t n, uint8_t *kept);

/* Index number i as an offset into an axis of the data, negative ones counted from its end. Fails E_MODEL with value
 * and position when it is outside. */
Status gather_index(const Node *node, const Tensor *indices, int64_t i, Shape data, int axis, int64_t *offset);

/* GatherElements, and ScatterElements after put_begin has put the data there: runs of indices along the last axis. Of a
 * ScatterElements so many that begin at a multiple may meet, others go elsewhere. */
int64_t element_runs(const Tensor *indices);
Status gather_elements_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end);
bool takes_puts(const Graph *graph, const Node *node);
void put_begin(const Node *node, const Tensor *in, const Tensor *out);
int64_t runs_that_meet(const Node *node, const Tensor *indices);
Status scatter_elements_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end);

/* Tables whose gradients are rows (graph/rows.h): a lookup of a node's, by its row of the table and its place among all
 * of them, group after group. */
typedef struct {
  int64_t row, at;
} Lookup;
size_t lookups_workspace(const Graph *graph, const Node *node, size_t budget);
/* AccumulateRows: the microbatch that it fills, and of that lookups first … end-1. */
int64_t empty_microbatch(const Tensor *places);
Status accumulate_rows_part(const Node *node, const Tensor *in, int64_t microbatch, int64_t first, int64_t end);
/* Sorted by row, and by place where the row is one, in the node's workspace; *n: how many there are. */
const Lookup *lookups_sort(const Node *node, const Tensor *in, void *workspace, int64_t *n);
/* Whether SgdUpdateRows, AdamUpdateRows or SparseAdamUpdate goes over all of the table. */
bool updates_whole(const Node *node, const Tensor *in);
/* These: elements first … end-1 of the table; otherwise the rows whose first lookup is one of first … end-1. */
Status update_rows_part(const Node *node, const Tensor *in, const Lookup *lookups, int64_t n, int64_t first,
                        int64_t end);
/* SquaredNormRows: elements first … end-1 of the table, in the order in which SquaredNorm would add so many of a whole
 * accumulator. */
double norm_rows_part(const Node *node, const Tensor *in, const Lookup *lookups, int64_t n, int64_t first, int64_t end);

/* TopK: lines along its axis. */
int64_t top_k_lines(const Node *node, const Tensor *out);
Status top_k_part(const Node *node, const Tensor *in, const Tensor *out, int64_t first, int64_t end);

/* The class of position i; `ignored` for one that does not count. Fails E_MODEL with value and position when it is none
 * of 0 … classes-1. */
Status class_at(const Node *node, const Tensor *target, int64_t i, int64_t classes, int64_t *class, bool *ignored);

#endif
