/* Matrix products and reductions. */
#include "graph/ops/rule.h"

/* A tensor as a stack of matrices [.., rows, columns], a vector as one row (left) or one column (right). */
static Shape as_matrix(Shape s, bool left) {
  if (s.rank == 1 && left)
    return shape_of(2, (int64_t[]){1, s.dim[0]});
  if (s.rank == 1)
    return shape_of(2, (int64_t[]){s.dim[0], 1});
  return s;
}

/* The product of inputs `first` and first + 1. */
static Status matmul_shape(Graph *g, Node *n, int first, Shape *c) {
  Shape a0 = rule_in(g, n, first)->shape, b0 = rule_in(g, n, first + 1)->shape;
  bool ta = node_int(n, "transA", 0), tb = node_int(n, "transB", 0);
  TRY(rule_one_type(g, n));
  TRY(rule_float(g, n, 0));
  if (a0.rank < 1 || b0.rank < 1 || (ta && a0.rank < 2) || (tb && b0.rank < 2))
    return fail(E_SHAPE, "no matrices: A %s, B %s", SHAPE_STR(a0), SHAPE_STR(b0));
  Shape a = as_matrix(a0, true), b = as_matrix(b0, false), batch;
  int64_t rows = a.dim[a.rank - 1 - !ta], k = a.dim[a.rank - 2 + !ta];
  int64_t k_b = b.dim[b.rank - 1 - !tb], columns = b.dim[b.rank - 2 + !tb];
  if (k != k_b)
    return fail(E_SHAPE, "inner dimensions differ: A %s%s, B %s%s", SHAPE_STR(a0), ta ? " transposed" : "",
                SHAPE_STR(b0), tb ? " transposed" : "");
  Shape a_batch = shape_of(a.rank - 2, a.dim), b_batch = shape_of(b.rank - 2, b.dim);
  if (!shape_broadcast(a_batch, b_batch, &batch))
    return fail(E_SHAPE, "batch dimensions do not broadcast: A %s, B %s", SHAPE_STR(a0), SHAPE_STR(b0));
  if (a0.rank > 1)
    batch.dim[batch.rank++] = rows;
  if (b0.rank > 1)
    batch.dim[batch.rank++] = columns;
  *c = batch;
  return OK;
}

static Status infer_matmul(Graph *g, Node *n) {
  Shape c;
  TRY(matmul_shape(g, n, 0, &c));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, c);
  return OK;
}

/* Accumulator, A, B: the accumulator is as their product. */
static Status infer_accumulate_matmul(Graph *g, Node *n) {
  Shape c;
  TRY(matmul_shape(g, n, 1, &c));
  if (!shape_equal(c, rule_in(g, n, 0)->shape))
    return fail(E_SHAPE, "the accumulator is %s, the product %s", SHAPE_STR(rule_in(g, n, 0)->shape), SHAPE_STR(c));
  return OK;
}

/* Sums a cotangent of the matrix form down to the input's own shape. */
static Status fit(Graph *g, ValueId d, Shape matrix, Shape own, ValueId *out) {
  if (shape_equal(matrix, own)) { /* autodiff un-broadcasts */
    *out = d;
    return OK;
  }
  TRY(emit_unbroadcast(g, d, matrix, &d));
  return emit_reshape(g, d, own, out);
}

/* C's shape with the axis that a vector A or B dropped. */
static Shape as_product(Shape a, Shape b, Shape c) {
  if (b.rank == 1)
    c.dim[c.rank++] = 1;
  if (a.rank == 1) {
    c.dim[c.rank] = c.dim[c.rank - 1];
    c.dim[c.rank - 1] = 1;
    c.rank++;
  }
  return c;
}

/* A stack of matrices [.., rows, columns] as one tall matrix [.. rows, columns]. */
static Status emit_tall(Graph *g, ValueId a, ValueId *out) {
  Shape shape = graph_value(g, a)->shape;
  Shape stack = shape_of(shape.rank - 1, shape.dim);
  return emit_reshape(g, a, shape_of(2, (int64_t[]){shape_elements(stack), shape.dim[shape.rank - 1]}), out);
}

/* C = op(A) op(B): dA = dC op(B)', dB = op(A)' dC, transposed where the input is read transposed. */
static Status gradient_matmul(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Shape a0 = rule_in(g, n, 0)->shape, b0 = rule_in(g, n, 1)->shape;
  Shape a = as_matrix(a0, true), b = as_matrix(b0, false), c = as_product(a0, b0, rule_out(g, n, 0)->shape);
  bool ta = node_int(n, "transA", 0), tb = node_int(n, "transB", 0);
  ValueId A, B, dC, d;
  TRY(emit_reshape(g, d_out[0], c, &dC));
  if (rule_wants(g, n, 0)) {
    TRY(emit_reshape(g, n->in[1], b, &B));
    TRY(ta ? emit_matmul(g, B, tb, dC, true, &d) : emit_matmul(g, dC, false, B, !tb, &d));
    TRY(fit(g, d, a, a0, &d_in[0]));
  }
  if (rule_wants(g, n, 1)) {
    TRY(emit_reshape(g, n->in[0], a, &A));
    if (b.rank == 2 && a.rank > 2 && !ta) { /* one weight for a stack of rows: one product sums them */
      TRY(emit_tall(g, A, &A));
      TRY(emit_tall(g, dC, &dC));
    }
    TRY(tb ? emit_matmul(g, dC, true, A, ta, &d) : emit_matmul(g, A, !ta, dC, false, &d));
    TRY(fit(g, d, b, b0, &d_in[1]));
  }
  return OK;
}

static Cost product_cost(const Graph *g, const Node *n, int64_t k) {
  Cost cost = {.flops = 2.0 * (double)shape_elements(rule_out(g, n, 0)->shape) * (double)k,
               .bytes = (double)graph_value_bytes(g, n->out[0])};
  for (int i = 0; i < n->n_in; i++)
    if (rule_has_in(n, i))
      cost.bytes += (double)graph_value_bytes(g, n->in[i]);
  return cost;
}

/* Reads and writes the accumulator. */
static Cost cost_accumulate_matmul(const Graph *g, const Node *n) {
  Shape a = as_matrix(rule_in(g, n, 1)->shape, true);
  int64_t k = a.dim[a.rank - (node_int(n, "transA", 0) ? 2 : 1)];
  return (Cost){.flops = 2.0 * (double)shape_elements(rule_in(g, n, 0)->shape) * (double)k,
                .bytes = 2.0 * (double)graph_value_bytes(g, n->in[0]) + (double)graph_value_bytes(g, n->in[1]) +
                         (double)graph_value_bytes(g, n->in[2])};
}

static Cost cost_matmul(const Graph *g, const Node *n) {
  Shape a = as_matrix(rule_in(g, n, 0)->shape, true);
  return product_cost(g, n, a.dim[a.rank - (node_int(n, "transA", 0) ? 2 : 1)]);
}

static Status infer_gemm(Graph *g, Node *n) {
  Shape a = rule_in(g, n, 0)->shape, b = rule_in(g, n, 1)->shape, both;
  bool ta = node_int(n, "transA", 0), tb = node_int(n, "transB", 0);
  TRY(rule_one_type(g, n));
  TRY(rule_float(g, n, 0));
  if (a.rank != 2 || b.rank != 2)
    return fail(E_SHAPE, "needs matrices: A %s, B %s", SHAPE_STR(a), SHAPE_STR(b));
  if (a.dim[!ta] != b.dim[tb])
    return fail(E_SHAPE, "inner dimensions differ: A %s%s, B %s%s", SHAPE_STR(a), ta ? " transposed" : "", SHAPE_STR(b),
                tb ? " transposed" : "");
  Shape y = shape_of(2, (int64_t[]){a.dim[ta], b.dim[!tb]});
  if (rule_has_in(n, 2)) {
    Shape c = rule_in(g, n, 2)->shape;
    if (!shape_broadcast(c, y, &both) || !shape_equal(both, y))
      return fail(E_SHAPE, "C %s does not broadcast to %s", SHAPE_STR(c), SHAPE_STR(y));
  }
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, y);
  return OK;
}

static Status emit_gemm(Graph *g, double alpha, ValueId a, bool ta, ValueId b, bool tb, ValueId *out) {
  Attr attrs[] = {attr_float("alpha", alpha), attr_int("transA", ta), attr_int("transB", tb)};
  return graph_emit(g, OP_Gemm, (ValueId[]){a, b}, 2, attrs, 3, out);
}

static Status gradient_gemm(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  bool ta = node_int(n, "transA", 0), tb = node_int(n, "transB", 0);
  double alpha = node_float(n, "alpha", 1), beta = node_float(n, "beta", 1);
  ValueId A = n->in[0], B = n->in[1], dY = d_out[0];
  if (alpha == 1) { /* as MatMul's, which go into accumulators */
    if (rule_wants(g, n, 0))
      TRY(ta ? emit_matmul(g, B, tb, dY, true, &d_in[0]) : emit_matmul(g, dY, false, B, !tb, &d_in[0]));
    if (rule_wants(g, n, 1))
      TRY(tb ? emit_matmul(g, dY, true, A, ta, &d_in[1]) : emit_matmul(g, A, !ta, dY, false, &d_in[1]));
    return rule_wants(g, n, 2) ? emit_scale(g, dY, beta, &d_in[2]) : OK;
  }
  if (rule_wants(g, n, 0))
    TRY(ta ? emit_gemm(g, alpha, B, tb, dY, true, &d_in[0]) : emit_gemm(g, alpha, dY, false, B, !tb, &d_in[0]));
  if (rule_wants(g, n, 1))
    TRY(tb ? emit_gemm(g, alpha, dY, true, A, ta, &d_in[1]) : emit_gemm(g, alpha, A, !ta, dY, false, &d_in[1]));
  return rule_wants(g, n, 2) ? emit_scale(g, dY, beta, &d_in[2]) : OK;
}

static Cost cost_gemm(const Graph *g, const Node *n) {
  return product_cost(g, n, rule_in(g, n, 0)->shape.dim[!node_int(n, "transA", 0)]);
}

/* Rows [.., k] and one matrix; the shape of their product. */
static Status rows_shape(Graph *g, Node *n, Shape *y) {
  if (rule_in(g, n, 0)->shape.rank < 2 || rule_in(g, n, 1)->shape.rank != 2 || node_int(n, "transA", 0))
    return fail(E_SHAPE, "needs rows and a matrix: A %s, B %s", SHAPE_STR(rule_in(g, n, 0)->shape),
                SHAPE_STR(rule_in(g, n, 1)->shape));
  return matmul_shape(g, n, 0, y);
}

/* Input i, where there is one, is added to each of the product's rows. */
static Status check_row(const Graph *g, const Node *n, int i, Shape y) {
  if (!rule_has_in(n, i))
    return OK;
  Shape row = rule_in(g, n, i)->shape;
  if (row.rank && row.dim[row.rank - 1] == y.dim[y.rank - 1] && shape_elements(row) == y.dim[y.rank - 1])
    return OK;
  return fail(E_SHAPE, "'%s' %s is no row of the product %s", rule_in(g, n, i)->name, SHAPE_STR(row), SHAPE_STR(y));
}

/* Y and what its slope is of; one row that is added before, perhaps. */
static Status infer_product_gelu(Graph *g, Node *n) {
  Shape y;
  TRY(rows_shape(g, n, &y));
  TRY(check_row(g, n, 2, y));
  for (int i = 0; i < n->n_out; i++)
    rule_set(g, n, i, rule_in(g, n, 0)->dtype, y);
  return OK;
}

/* A, B and what is like their product; one row, perhaps. */
static Status infer_product_beside(Graph *g, Node *n) {
  Shape y;
  TRY(rows_shape(g, n, &y));
  TRY(check_row(g, n, 3, y));
  if (!shape_equal(rule_in(g, n, 2)->shape, y))
    return fail(E_SHAPE, "'%s' is %s, the product %s", rule_in(g, n, 2)->name, SHAPE_STR(rule_in(g, n, 2)->shape),
                SHAPE_STR(y));
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, y);
  return OK;
}

static Cost cost_product_gelu(const Graph *g, const Node *n) {
  Cost cost = cost_matmul(g, n);
  cost.flops += FUNCTION_FLOPS * (double)shape_elements(rule_out(g, n, 0)->shape);
  for (int i = 1; i < n->n_out; i++)
    cost.bytes += n->out[i] == NO_VALUE ? 0 : (double)graph_value_bytes(g, n->out[i]);
  return cost;
}

/* Result of a reduction, with ones where an axis was summed. */
static Status kept_shape(const Graph *g, const Node *n, Shape *kept) {
  int count;
  const int64_t *axes = node_ints(n, "axes", &count);
  *kept = rule_in(g, n, 0)->shape;
  for (int i = 0; i < count; i++) {
    if (axes[i] < 0 || axes[i] >= kept->rank || (i && axes[i] <= axes[i - 1]))
      return fail(E_SHAPE, "axis %lld is outside %s or out of order", (long long)axes[i],
                  SHAPE_STR(rule_in(g, n, 0)->shape));
    kept->dim[axes[i]] = 1;
  }
  return OK;
}

static Status infer_reduce(Graph *g, Node *n) {
  int count;
  const int64_t *axes = node_ints(n, "axes", &count);
  Shape kept, dropped = {0};
  TRY(kept_shape(g, n, &kept));
  if (n->op == OP_ReduceMean)
    TRY(rule_float(g, n, 0));
  for (int i = 0, next = 0; i < kept.rank; i++)
    if (next < count && axes[next] == i)
      next++;
    else
      dropped.dim[dropped.rank++] = kept.dim[i];
  rule_set(g, n, 0, rule_in(g, n, 0)->dtype, node_int(n, "keepdims", 1) ? kept : dropped);
  return OK;
}

static Status gradient_reduce(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  Shape kept, whole = rule_in(g, n, 0)->shape;
  ValueId d;
  TRY(kept_shape(g, n, &kept));
  TRY(emit_reshape(g, d_out[0], kept, &d));
  if (n->op == OP_ReduceMean) {
    int64_t kept_elements = shape_elements(kept);
    double count = kept_elements ? (double)(shape_elements(whole) / kept_elements) : 1;
    TRY(emit_scale(g, d, 1 / count, &d));
  }
  return emit_expand(g, d, whole, &d_in[0]);
}

/* The largest elements share the cotangent evenly, as torch.amax. */
static Status gradient_reduce_max(Graph *g, const Node *n, const ValueId *d_out, ValueId *d_in) {
  int count;
  const int64_t *axes = node_ints(n, "axes", &count);
  Shape kept;
  ValueId y, d, mask, winners;
  TRY(kept_shape(g, n, &kept));
  TRY(emit_reshape(g, n->out[0], kept, &y));
  TRY(emit_reshape(g, d_out[0], kept, &d));
  TRY(emit2(g, OP_Equal, n->in[0], y, &mask));
  TRY(emit_cast(g, mask, rule_in(g, n, 0)->dtype, &mask));
  TRY(emit_reduce_sum(g, mask, axes, count, true, &winners));
  TRY(emit2(g, OP_Div, d, winners, &d));
  return emit2(g, OP_Mul, mask, d, &d_in[0]);
}

static Cost cost_reduce(const Graph *g, const Node *n) {
  return (Cost){.flops = (double)shape_elements(rule_in(g, n, 0)->shape),
                .bytes = (double)graph_value_bytes(g, n->in[0]) + (double)graph_value_bytes(g, n->out[0])};
}

ENTRY(MatMul, 2, 2, 1, 1, OP_BILINEAR | OP_PRODUCT, infer_matmul, gradient_matmul, cost_matmul, batch_matmul)
ENTRY(AccumulateMatMul, 3, 3, 0, 0, OP_MUTATES_FIRST | OP_PRODUCT, infer_accumulate_matmul, NULL,
      cost_accumulate_matmul, NULL)
ENTRY(Gemm, 2, 3, 1, 1, OP_PRODUCT, infer_gemm, gradient_gemm, cost_gemm, batch_gemm)
ENTRY(ProductGelu, 2, 3, 1, 2, OP_PRODUCT, infer_product_gelu, NULL, cost_product_gelu, batch_product_gelu)
ENTRY(ProductGeluGrad, 3, 3, 1, 1, OP_PRODUCT, infer_product_beside, NULL, cost_product_gelu, NULL)
ENTRY(ProductAdd, 3, 4, 1, 1, OP_PRODUCT, infer_product_beside, NULL, cost_matmul, batch_product_add)
ENTRY(ReduceSum, 1, 1, 1, 1, 0, infer_reduce, gradient_reduce, cost_reduce, batch_reduce)
ENTRY(ReduceMean, 1, 1, 1, 1, 0, infer_reduce, gradient_reduce, cost_reduce, batch_reduce)
ENTRY(ReduceMax, 1, 1, 1, 1, 0, infer_reduce, gradient_reduce_max, cost_reduce, batch_reduce)
