/* What becomes of a product's sums is done where they are made: they are not written, read and written again. A
 * product, the row that is added to it, and their GELU are one node, which in training gives the sums, too, for their
 * slope; the product that makes a GELU's cotangent multiplies it with that slope; and what is like a product (a
 * residual, another gradient) is added to it. */
#include "graph/ops/rule.h"
#include "graph/passes/passes.h"

enum { MOST_ABSORBED = 2 }; /* a product or a gradient, and a view between */

typedef struct {
  Instead instead;
  NodeId absorbed[MOST_ABSORBED];
  ValueId in[4], gives[1];
  Shape given; /* of what is given */
  Attr attrs[2];
} Fused;

static const Node *producer(const Graph *g, ValueId id) {
  NodeId node = graph_value(g, id)->producer;
  return node == NO_NODE ? NULL : graph_node(g, node);
}

/* The product of rows and one matrix that makes the value, which is read `readers` times; perhaps as another stack of
 * rows, which *view makes. NULL: it is none. */
static const Node *product_of(const Graph *g, const int *uses, ValueId id, int readers, const Node **view) {
  const Node *n = producer(g, id);
  *view = NULL;
  if (uses[id] != readers)
    return NULL;
  if (n && n->op == OP_Reshape && uses[n->in[0]] == 1) {
    *view = n;
    n = producer(g, n->in[0]);
  }
  bool is_product = n && (n->op == OP_MatMul || n->op == OP_Gemm) && !node_int(n, "transA", 0) &&
                    node_float(n, "alpha", 1) == 1 && node_float(n, "beta", 1) == 1;
  return is_product && rule_in(g, n, 0)->shape.rank > 1 && rule_in(g, n, 1)->shape.rank == 2 ? n : NULL;
}

static int64_t last_of(Shape shape) {
  return shape.rank ? shape.dim[shape.rank - 1] : 0;
}

/* The product's rows, as a stack that makes this shape; NO_VALUE: they do not lie so. */
static ValueId rows_of(const Graph *g, const Node *product, Shape y) {
  ValueId id = product->in[0];
  if (y.rank < 2)
    return NO_VALUE;
  y.dim[y.rank - 1] = last_of(graph_value(g, id)->shape);
  while (!shape_equal(graph_value(g, id)->shape, y)) {
    const Node *view = producer(g, id);
    if (!view || view->op != OP_Reshape)
      return NO_VALUE;
    id = view->in[0];
  }
  return id;
}

/* Whether nothing is added to the product, or one row. */
static bool adds_row(const Graph *g, const Node *product) {
  if (!rule_has_in(product, 2))
    return true;
  Shape row = rule_in(g, product, 2)->shape;
  int64_t n = last_of(rule_out(g, product, 0)->shape);
  return last_of(row) == n && shape_elements(row) == n;
}

/* How many gradients of GELUs multiply with the value's slope. */
static int count_slopes(const Graph *g, ValueId id) {
  int n = 0;
  for (size_t i = 0; i < g->n_nodes; i++)
    n += g->nodes[i]->op == OP_GeluGrad && g->nodes[i]->in[1] == id && g->nodes[i]->in[0] != id;
  return n;
}

/* Under `root`, from product, view (NULL: none) and what comes behind. */
static Status make(const Graph *g, OpKind op, const Node *root, const Node *product, const Node *view,
                   const Node *behind, Fused **made) {
  const Node *others[] = {root == product ? behind : product, view};
  Fused *f;
  TRY(ARENA_NEW(g->arena, f, 1));
  f->in[0] = product->in[0];
  f->in[1] = product->in[1];
  f->attrs[0] = attr_int("transB", node_int(product, "transB", 0));
  f->attrs[1] = attr_string("approximate", node_string(behind, "approximate", "none"));
  f->instead = (Instead){.op = op, .in = f->in, .n_in = 2, .attrs = f->attrs, .n_attrs = 2, .gives = f->gives};
  f->instead.absorbed = f->absorbed;
  for (int i = 0; i < MOST_ABSORBED; i++)
    if (others[i])
      f->absorbed[f->instead.n_absorbed++] = others[i]->id;
  *made = f;
  return OK;
}

static Status emit_gelu(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  NodeId node;
  TRY(graph_add_node(g, instead->op, op_def(instead->op)->name, in, instead->n_in, instead->attrs, instead->n_attrs,
                     NULL, 1 + instead->n_gives, &node));
  for (int k = 0; k <= instead->n_gives; k++)
    out[k] = graph_node(g, node)->out[k];
  return OK;
}

static Status find_gelu(const Graph *g, const int *uses, const Node *gelu, const Instead **instead) {
  int slopes = count_slopes(g, gelu->in[0]);
  const Node *view, *product = product_of(g, uses, gelu->in[0], 1 + slopes, &view);
  ValueId rows = product && adds_row(g, product) ? rows_of(g, product, rule_out(g, gelu, 0)->shape) : NO_VALUE;
  Fused *f;
  if (rows == NO_VALUE)
    return OK;
  TRY(make(g, OP_ProductGelu, gelu, product, view, gelu, &f));
  f->in[0] = rows;
  if (rule_has_in(product, 2))
    f->in[f->instead.n_in++] = product->in[2];
  f->gives[0] = gelu->in[0];
  f->instead.n_gives = slopes > 0;
  f->instead.emit = emit_gelu;
  *instead = &f->instead;
  return OK;
}

static Status find_gelus(const Graph *g, const Instead **instead) {
  int *uses;
  TRY(graph_uses(g, &uses));
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->op == OP_Gelu)
      TRY(find_gelu(g, uses, g->nodes[i], &instead[i]));
  return OK;
}

/* It runs where the product does, which its parameter ties to a stage. */
static Status emit_slope(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  const Fused *f = (const Fused *)instead;
  ValueId operand[] = {in[0], in[1], in[2]};
  Shape y = graph_value(g, in[0])->shape;
  y.dim[y.rank - 1] = last_of(f->given);
  TRY(emit_reshape(g, in[2], y, &operand[2]));
  TRY(graph_emit(g, instead->op, operand, 3, instead->attrs, instead->n_attrs, &out[0]));
  return emit_reshape(g, out[0], f->given, &out[1]);
}

static Status find_slopes(const Graph *g, const Instead **instead) {
  int *uses;
  TRY(graph_uses(g, &uses));
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *gelu = g->nodes[i], *view;
    const Node *product = gelu->op == OP_GeluGrad ? product_of(g, uses, gelu->in[0], 1, &view) : NULL;
    Fused *f;
    if (!product || rule_has_in(product, 2) ||
        last_of(rule_out(g, product, 0)->shape) != last_of(rule_out(g, gelu, 0)->shape))
      continue;
    TRY(make(g, OP_ProductGeluGrad, product, product, view, gelu, &f));
    f->in[f->instead.n_in++] = gelu->in[1];
    f->gives[0] = gelu->out[0];
    f->given = rule_out(g, gelu, 0)->shape;
    f->instead.n_gives = 1;
    f->instead.emit = emit_slope;
    instead[product->id] = &f->instead;
  }
  return OK;
}

/* Forward, or both of one forward node: else they may lie in two stages. */
static bool go_together(const Node *a, const Node *b) {
  return a->phase == PHASE_F ? b->phase == PHASE_F : a->origin == b->origin;
}

/* What stands beside the product was there before it: else the sum, which the product's parameter ties to a stage,
 * might read what only a later one makes. */
static Status find_sum(const Graph *g, const int *uses, const Node *sum, int k, const Instead **instead) {
  const Node *view, *product = product_of(g, uses, sum->in[k], 1, &view);
  const Node *beside = producer(g, sum->in[1 - k]);
  Shape y = rule_out(g, sum, 0)->shape;
  Fused *f;
  if (!product || (beside && beside->id > product->id) || !go_together(sum, product) || !adds_row(g, product) ||
      !shape_equal(rule_in(g, sum, 1 - k)->shape, y) || !shape_equal(rule_in(g, sum, k)->shape, y))
    return OK;
  ValueId rows = rows_of(g, product, y);
  if (rows == NO_VALUE)
    return OK;
  TRY(make(g, OP_ProductAdd, sum, product, view, sum, &f));
  f->in[0] = rows;
  f->in[f->instead.n_in++] = sum->in[1 - k];
  if (rule_has_in(product, 2))
    f->in[f->instead.n_in++] = product->in[2];
  f->instead.n_attrs = 1;
  *instead = &f->instead;
  return OK;
}

static Status find_sums(const Graph *g, const Instead **instead) {
  int *uses;
  TRY(graph_uses(g, &uses));
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < 2 && g->nodes[i]->op == OP_Add && !instead[i]; k++)
      TRY(find_sum(g, uses, g->nodes[i], k, &instead[i]));
  return OK;
}

const Pass pass_product_gelu = {"product-gelu", NULL, 0, find_gelus};
const Pass pass_product_slope = {"product-slope", NULL, 0, find_slopes};
const Pass pass_product_add = {"product-sum", NULL, 0, find_sums};
