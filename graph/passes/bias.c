/* A product with a matrix and a vector that is added to its rows are one Gemm, whose sums begin with the vector: the
 * product is written once, not read and written again. */
#include "graph/ops/rule.h"
#include "graph/passes/passes.h"

/* in: A [.., k], B and the vector: as a tall matrix, and back. */
static Status emit_gemm(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  Shape a = graph_value(g, in[0])->shape, y = a, vector = {1, {shape_elements(graph_value(g, in[2])->shape)}};
  int64_t rows = shape_elements(shape_of(a.rank - 1, a.dim));
  ValueId operand[3] = {in[0], in[1], in[2]};
  y.dim[y.rank - 1] = vector.dim[0];
  TRY(emit_reshape(g, in[0], shape_of(2, (int64_t[]){rows, a.dim[a.rank - 1]}), &operand[0]));
  TRY(emit_reshape(g, in[2], vector, &operand[2]));
  TRY(graph_emit(g, OP_Gemm, operand, 3, instead->attrs, instead->n_attrs, out));
  return emit_reshape(g, *out, y, out);
}

/* The product whose one use the value is, of rows and one matrix; NULL: it is none. */
static const Node *product_of(const Graph *g, const int *uses, ValueId id) {
  NodeId producer = graph_value(g, id)->producer;
  const Node *n = producer == NO_NODE ? NULL : graph_node(g, producer);
  return n && n->op == OP_MatMul && uses[id] == 1 && !node_int(n, "transA", 0) && rule_in(g, n, 0)->shape.rank > 1 &&
                 rule_in(g, n, 1)->shape.rank == 2
             ? n
             : NULL;
}

/* Whether it is one row, as long as the product's. */
static bool is_row(const Graph *g, const Node *product, ValueId id) {
  Shape row = graph_value(g, id)->shape, y = rule_out(g, product, 0)->shape;
  return row.rank && row.rank <= y.rank && row.dim[row.rank - 1] == y.dim[y.rank - 1] &&
         shape_elements(row) == y.dim[y.rank - 1];
}

static Status find(const Graph *g, const Instead **instead) {
  int *uses;
  TRY(graph_uses(g, &uses));
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < 2 && g->nodes[i]->op == OP_Add && !instead[i]; k++) {
      ValueId row = g->nodes[i]->in[1 - k];
      const Node *product = product_of(g, uses, g->nodes[i]->in[k]);
      if (!product || !is_row(g, product, row))
        continue;
      const ValueId in[] = {product->in[0], product->in[1], row};
      Instead gemm = {.n_in = 3, .attrs = product->attrs, .n_attrs = product->n_attrs, .emit = emit_gemm};
      TRY(instead_make(g, gemm, in, &instead[i]));
    }
  return OK;
}

const Pass pass_bias = {"bias", NULL, 0, find};
