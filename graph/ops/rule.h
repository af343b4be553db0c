/* What the rules share: short names for a node's values and for emitting nodes, so that a rule reads like the
 * mathematics. Each emit function appends one node and gives its value. */
#ifndef GRAPH_OPS_RULE_H
#define GRAPH_OPS_RULE_H

#include "graph/op.h"

static inline Value *rule_in(const Graph *g, const Node *n, int i) {
  return graph_value(g, n->in[i]);
}
static inline Value *rule_out(const Graph *g, const Node *n, int i) {
  return graph_value(g, n->out[i]);
}
static inline bool rule_has_in(const Node *n, int i) {
  return i < n->n_in && n->in[i] != NO_VALUE;
}
/* Whether rules owe input i a cotangent. */
static inline bool rule_wants(const Graph *g, const Node *n, int i) {
  return rule_has_in(n, i) && rule_in(g, n, i)->needs_gradient;
}

/* Type and shape of output i, where it is present. */
void rule_set(Graph *g, Node *n, int i, DType dtype, Shape shape);
/* Output 0 is as input 0. */
Status rule_same(Graph *g, Node *n);
/* Fails E_UNSUPPORTED / E_SHAPE naming what differs. */
Status rule_float(const Graph *g, const Node *n, int i);
Status rule_one_type(const Graph *g, const Node *n);
/* Attribute `name`, normalised already by the importer, checked to lie in 0 … rank-1. */
Status rule_axis(const Node *n, const char *name, int rank, int *axis);
/* Fails E_SHAPE where input i is neither int64 nor int32. */
Status rule_integers(const Graph *g, const Node *n, int i);
/* For operators with outputs that only their own gradient reads (statistics): fails E_UNSUPPORTED when one of them
 * has a cotangent. */
/* A counter, input `counter`, and the ratio that is dropped by it. */
Status rule_draws(const Graph *g, const Node *n, int counter);
Status rule_first_only(const Graph *g, const Node *n, const ValueId *d_out);
/* Ints attribute as a shape of in[0]'s type; fails as shape_bytes does. */
Status rule_shape(const Graph *g, const Node *n, const char *name, Shape *shape);

/* What a pick costs: it reads the indices and as much as it writes, not the whole of what it picks from. */
Cost cost_pick(const Graph *g, const Node *n);
/* Every byte once, no arithmetic. */
Cost cost_move(const Graph *g, const Node *n);

/* Whether a value is one known number. */
bool rule_scalar(const Graph *g, ValueId id, double *scalar);

/* An operator with one output and no attributes. */
Status emit1(Graph *g, OpKind op, ValueId a, ValueId *out);
Status emit2(Graph *g, OpKind op, ValueId a, ValueId b, ValueId *out);
/* A scalar constant of a's type. */
Status emit_scalar(Graph *g, ValueId like, double value, ValueId *out);
/* a times a number; a itself where that is 1. */
Status emit_scale(Graph *g, ValueId a, double factor, ValueId *out);
Status emit_where(Graph *g, ValueId condition, ValueId a, ValueId b, ValueId *out);
/* These three give a itself where nothing changes. */
Status emit_cast(Graph *g, ValueId a, DType dtype, ValueId *out);
Status emit_expand(Graph *g, ValueId a, Shape shape, ValueId *out);
Status emit_reshape(Graph *g, ValueId a, Shape shape, ValueId *out);
Status emit_transpose(Graph *g, ValueId a, const int64_t *perm, int n, ValueId *out);
/* a · b with the last two axes of either read transposed. */
Status emit_matmul(Graph *g, ValueId a, bool trans_a, ValueId b, bool trans_b, ValueId *out);
/* Sum over these axes. */
Status emit_reduce_sum(Graph *g, ValueId a, const int64_t *axes, int n, bool keepdims, ValueId *out);
/* Sums a down to `shape`, which broadcasts to a's shape; a itself when they are equal. */
Status emit_unbroadcast(Graph *g, ValueId a, Shape shape, ValueId *out);
/* The op with the node's own attributes and perhaps one more. */
Status emit_like(Graph *g, const Node *n, OpKind op, const ValueId *in, int n_in, const Attr *extra, ValueId *out);

/* What a Gather's cotangent hands to the data: nothing in the row that gets no gradient. */
Status gather_cotangent(Graph *g, const Node *n, ValueId d_out, ValueId *rows);

/* Elementwise rules (graph/ops/elementwise.c), for entries of every file: Y as X, of floats; A and B of one type; the
 * cost of a transcendental function. */
Status infer_float_unary(Graph *g, Node *n);
Status infer_binary(Graph *g, Node *n);
Cost cost_function(const Graph *g, const Node *n);
enum { FUNCTION_FLOPS = 16 }; /* an element, about */

/* An operator's entry in the table: op_Name, named "Name". */
/* Where the samples lie (graph/ops/batch.c), for entries of every file. */
typedef void BatchRule(const Graph *g, const Node *n, const Batch *in, Batch *out);
BatchRule batch_elementwise, batch_sum, batch_scale, batch_cast, batch_reshape, batch_transpose, batch_concat,
    batch_split, batch_slice, batch_expand, batch_gather, batch_gathernd, batch_trilu, batch_line, batch_reduce,
    batch_matmul, batch_gemm, batch_scatter_elements, batch_scatter_nd, batch_top_k, batch_rows, batch_cross_entropy,
    batch_recurrent, batch_attention, batch_rotary, batch_product_gelu, batch_product_add;

#define ENTRY(op_name, least_in, most_in, least_out, most_out, is, infer, grad, price, samples)                        \
  const OpDef op_##op_name = {.name = #op_name,                                                                        \
                              .min_in = least_in,                                                                      \
                              .max_in = most_in,                                                                       \
                              .min_out = least_out,                                                                    \
                              .max_out = most_out,                                                                     \
                              .traits = is,                                                                            \
                              .infer_shape = infer,                                                                    \
                              .gradient = grad,                                                                        \
                              .cost = price,                                                                           \
                              .batch = samples};

#endif
