/* Normalisations over the trailing axes that are spelled out. Exporters write them as four to nine nodes, of which a
 * backward pass keeps nearly every result; one node keeps its input and a number or two for each row.
 *
 * What is left without them is (x - mean) / deviation, or x / root mean square, with a scale of ones; then a scale that
 * is multiplied and a bias that is added behind become the node's own, also behind those that the file has. */
#include "graph/ops/rule.h"
#include "graph/passes/passes.h"

enum { EPSILON, AXIS }; /* numbers of a match */

enum { MOST_ONES = 1 << 20 };

/* Whether it reduces the trailing axes, and leaves them as ones. */
static bool is_trailing(const Graph *g, const Node *mean, Match *match) {
  int n, rank = graph_value(g, mean->in[0])->shape.rank;
  const int64_t *axes = node_ints(mean, "axes", &n);
  for (int i = 0; i < n; i++)
    if (axes[i] != rank - n + i)
      return false;
  return n && node_int(mean, "keepdims", 0) && match_number(match, AXIS, (double)axes[0]);
}

#define MEAN(x) FUNCTION_IF(ReduceMean, is_trailing, x)
#define CENTRED FUNCTION(Sub, X, MEAN(X))
#define SQUARES(x) SUM_WITH(EPSILON, MEAN(PRODUCT(1, x, x)))

/* x / √(mean(x²) + ε) */
#define ROWS(name, x)                                                                                                  \
  {.op = OP_##name, .pattern = FUNCTION(Div, x, FUNCTION(Sqrt, SQUARES(x)))},                                          \
      {.op = OP_##name, .pattern = PRODUCT(1, x, FUNCTION(Reciprocal, FUNCTION(Sqrt, SQUARES(x))))},                   \
      {.op = OP_##name, .pattern = PRODUCT(1, x, FUNCTION(Div, PRODUCT(1), FUNCTION(Sqrt, SQUARES(x))))},              \
      {.op = OP_##name, .pattern = PRODUCT(1, x, FUNCTION(Pow, SQUARES(x), PRODUCT(-0.5)))},                           \
      {.op = OP_##name, .pattern = FUNCTION(Div, x, FUNCTION(Pow, SQUARES(x), PRODUCT(0.5)))},

static const struct {
  OpKind op;
  const Pattern *pattern;
} rows[] = {ROWS(LayerNormalization, CENTRED) ROWS(RMSNormalization, X)};

/* A vector beside the normalised axes as one of just their shape. */
static Status emit_vector(Graph *g, ValueId vector, Shape tail, ValueId *out) {
  Shape shape = graph_value(g, vector)->shape;
  int more = shape.rank - tail.rank;
  if (more > 0)
    TRY(emit_reshape(g, vector, shape_of(tail.rank, shape.dim + more), &vector));
  return emit_expand(g, vector, tail, out);
}

/* A scale that leaves things as they are, [tail]. */
static Status emit_ones(Graph *g, ValueId like, Shape tail, ValueId *out) {
  DType dtype = graph_value(g, like)->dtype;
  int64_t n = shape_elements(tail);
  double *wide;
  TRY(ARENA_NEW(g->arena, wide, n));
  float *narrow = (float *)wide;
  for (int64_t i = 0; i < n; i++)
    if (dtype == F64)
      wide[i] = 1;
    else
      narrow[i] = 1;
  return graph_add_constant(g, "ones", dtype, tail, wide, out);
}

static bool is_ones(const Value *v) {
  int64_t n = shape_elements(v->shape);
  if (!v->data)
    return false;
  for (int64_t i = 0; i < n; i++)
    if ((v->dtype == F64 ? ((const double *)v->data)[i] : ((const float *)v->data)[i]) != 1)
      return false;
  return true;
}

/* in: x, a scale and a bias, where there are any. */
static Status emit_norm(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  Shape shape = graph_value(g, in[0])->shape;
  int axis = (int)node_int(&(Node){.attrs = (Attr *)instead->attrs, .n_attrs = instead->n_attrs}, "axis", 0);
  int n = in[2] == NO_VALUE ? 2 : 3;
  Shape tail = shape_of(shape.rank - axis, shape.dim + axis);
  ValueId operand[3] = {in[0], in[1], in[2]};
  NodeId node;
  if (in[1] == NO_VALUE)
    TRY(emit_ones(g, in[0], tail, &operand[1]));
  for (int i = 1; i < n; i++)
    TRY(emit_vector(g, operand[i], tail, &operand[i]));
  TRY(graph_add_node(g, instead->op, op_def(instead->op)->name, operand, n, instead->attrs, instead->n_attrs, NULL,
                     instead->op == OP_LayerNormalization ? 3 : 2, &node));
  *out = graph_node(g, node)->out[0];
  return OK;
}

static Status make_norm(const Graph *g, OpKind op, ValueId x, ValueId scale, ValueId bias, const Attr *attrs,
                        int n_attrs, const Instead **instead) {
  Instead norm = {.op = op, .n_in = 3, .attrs = attrs, .n_attrs = n_attrs, .emit = emit_norm};
  return instead_make(g, norm, (ValueId[]){x, scale, bias}, instead);
}

static Status find_norms(const Graph *g, const Instead **instead) {
  for (size_t i = 0; i < g->n_nodes; i++)
    for (size_t r = 0; r < sizeof rows / sizeof *rows && !instead[i] && g->nodes[i]->n_out == 1; r++) {
      Match match;
      if (!graph_match(g, rows[r].pattern, g->nodes[i]->out[0], &match))
        continue;
      const Value *x = graph_value(g, match.variable[0]);
      Attr attrs[] = {attr_int("axis", (int64_t)match.number[AXIS]), attr_float("epsilon", match.number[EPSILON])};
      int axis = (int)attrs[0].i;
      if (dtype_is_float(x->dtype) && shape_elements(shape_of(x->shape.rank - axis, x->shape.dim + axis)) <= MOST_ONES)
        TRY(make_norm(g, rows[r].op, match.variable[0], NO_VALUE, NO_VALUE, attrs, 2, &instead[i]));
    }
  return OK;
}

/* ---- a scale, a bias behind ---- */

/* The normalisation whose one use the value is, without a bias; NULL: it is none. */
static const Node *bare_norm(const Graph *g, const int *uses, ValueId id) {
  NodeId producer = graph_value(g, id)->producer;
  const Node *norm = producer == NO_NODE ? NULL : graph_node(g, producer);
  bool is = norm && (norm->op == OP_LayerNormalization || norm->op == OP_RMSNormalization) && norm->out[0] == id &&
            uses[id] == 1 && norm->n_in == 2;
  for (int i = 1; is && i < norm->n_out; i++)
    is = uses[norm->out[i]] == 0;
  return is ? norm : NULL;
}

/* Whether a vector broadcasts to the normalised axes alone. */
static bool is_beside(const Graph *g, const Node *norm, ValueId vector) {
  Shape whole = graph_value(g, norm->in[0])->shape, shape = graph_value(g, vector)->shape, both;
  int axis = (int)node_int(norm, "axis", 0);
  Shape tail = shape_of(whole.rank - axis, whole.dim + axis);
  for (; shape.rank > tail.rank; shape = shape_of(shape.rank - 1, shape.dim + 1))
    if (shape.dim[0] != 1)
      return false;
  return shape_broadcast(shape, tail, &both) && shape_equal(both, tail);
}

static Status find_behind(const Graph *g, OpKind op, const Instead **instead) {
  int *uses;
  TRY(graph_uses(g, &uses));
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < 2 && g->nodes[i]->op == op && !instead[i]; k++) {
      ValueId vector = g->nodes[i]->in[1 - k];
      const Node *norm = bare_norm(g, uses, g->nodes[i]->in[k]);
      if (!norm || !is_beside(g, norm, vector))
        continue;
      if (op == OP_Add && norm->op == OP_LayerNormalization)
        TRY(make_norm(g, norm->op, norm->in[0], norm->in[1], vector, norm->attrs, norm->n_attrs, &instead[i]));
      else if (op == OP_Mul && is_ones(graph_value(g, norm->in[1])))
        TRY(make_norm(g, norm->op, norm->in[0], vector, NO_VALUE, norm->attrs, norm->n_attrs, &instead[i]));
    }
  return OK;
}

static Status find_scales(const Graph *g, const Instead **instead) {
  return find_behind(g, OP_Mul, instead);
}

static Status find_biases(const Graph *g, const Instead **instead) {
  return find_behind(g, OP_Add, instead);
}

const Pass pass_norm = {"norm", NULL, 0, find_norms};
const Pass pass_norm_scale = {"norm-scale", NULL, 0, find_scales};
const Pass pass_norm_bias = {"norm-bias", NULL, 0, find_biases};
