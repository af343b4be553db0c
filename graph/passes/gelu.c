/* GELU spelled out. Exporters write it as five to eight elementwise nodes, of which a backward pass keeps nearly every
 * result; one Gelu keeps x alone. Invariant: a node is rewritten only where what it computes is x Φ(x), or the usual
 * form of it with tanh, for the x that was found: equal up to the rounding of constants. */
#include <math.h>

#include "graph/passes/passes.h"

enum { MOST_FACTORS = 4, MOST_DEPTH = 8 };

/* A value as a number times other values. */
typedef struct {
  double constant;
  ValueId factor[MOST_FACTORS];
  int n;
} Factors;

static const Node *producer(const Graph *g, ValueId id) {
  NodeId node = graph_value(g, id)->producer;
  return node == NO_NODE ? NULL : graph_node(g, node);
}

static bool is_number(const Graph *g, ValueId id, double *number) {
  const Value *v = graph_value(g, id);
  if (!v->data || shape_elements(v->shape) != 1 || (v->dtype != F32 && v->dtype != F64))
    return false;
  *number = v->dtype == F32 ? (double)*(const float *)v->data : *(const double *)v->data;
  return true;
}

static bool close_to(double number, double wanted) {
  return fabs(number - wanted) <= 1e-5 * fabs(wanted); /* constants are float32, some with six digits */
}

/* The value taken apart into factors, as far as `whole` and what no product makes. False where there are too many. */
static bool take_apart(const Graph *g, ValueId id, ValueId whole, int depth, Factors *f) {
  const Node *node = producer(g, id);
  double number;
  if (is_number(g, id, &number)) {
    f->constant *= number;
    return true;
  }
  if (node && id != whole && depth < MOST_DEPTH) {
    if (node->op == OP_Mul)
      return take_apart(g, node->in[0], whole, depth + 1, f) && take_apart(g, node->in[1], whole, depth + 1, f);
    if (node->op == OP_Div && is_number(g, node->in[1], &number)) {
      f->constant /= number;
      return take_apart(g, node->in[0], whole, depth + 1, f);
    }
    if (node->op == OP_Pow && is_number(g, node->in[1], &number) && (number == 2 || number == 3)) {
      for (int i = 0; i < (int)number; i++)
        if (!take_apart(g, node->in[0], whole, depth + 1, f))
          return false;
      return true;
    }
  }
  if (f->n == MOST_FACTORS)
    return false;
  f->factor[f->n++] = id;
  return true;
}

/* Whether the value is `constant` times x to this power. */
static bool is_power(const Graph *g, ValueId id, double constant, ValueId x, int power) {
  Factors f = {.constant = 1};
  if (!take_apart(g, id, x, 0, &f) || f.n != power || !close_to(f.constant, constant))
    return false;
  for (int i = 0; i < power; i++)
    if (f.factor[i] != x)
      return false;
  return true;
}

/* The other side of a sum with one; NO_VALUE where it is none. */
static ValueId beside_one(const Graph *g, ValueId id) {
  const Node *node = producer(g, id);
  double number;
  for (int i = 0; node && node->op == OP_Add && i < 2; i++)
    if (is_number(g, node->in[i], &number) && number == 1)
      return node->in[!i];
  return NO_VALUE;
}

/* x of erf(x / √2). */
static ValueId erf_of(const Graph *g, ValueId inner) {
  Factors f = {.constant = 1};
  return take_apart(g, inner, NO_VALUE, MOST_DEPTH - 1, &f) && f.n == 1 && close_to(f.constant, M_SQRT1_2) ? f.factor[0]
                                                                                                           : NO_VALUE;
}

/* x of tanh(√(2/π) (x + 0.044715 x³)); the sum may be a product too, x (1 + 0.044715 x²). */
static ValueId tanh_of(const Graph *g, ValueId inner) {
  Factors f = {.constant = 1};
  if (!take_apart(g, inner, NO_VALUE, 0, &f) || !close_to(f.constant, sqrt(2 / M_PI)))
    return NO_VALUE;
  const Node *sum = producer(g, f.factor[0]);
  for (int i = 0; f.n == 1 && sum && sum->op == OP_Add && i < 2; i++)
    if (is_power(g, sum->in[!i], 0.044715, sum->in[i], 3))
      return sum->in[i];
  for (int i = 0; f.n == 2 && i < 2; i++) {
    ValueId rest = beside_one(g, f.factor[i]);
    if (rest != NO_VALUE && is_power(g, rest, 0.044715, f.factor[!i], 2))
      return f.factor[!i];
  }
  return NO_VALUE;
}

/* x of the gate 1 + erf(…) or 1 + tanh(…). */
static ValueId gate_of(const Graph *g, ValueId id, const char **approximate) {
  ValueId inner = beside_one(g, id);
  const Node *node = inner == NO_VALUE ? NULL : producer(g, inner);
  if (!node || (node->op != OP_Erf && node->op != OP_Tanh))
    return NO_VALUE;
  *approximate = node->op == OP_Erf ? "none" : "tanh";
  return node->op == OP_Erf ? erf_of(g, node->in[0]) : tanh_of(g, node->in[0]);
}

/* Whether the node computes x · gate / 2. */
static bool is_gelu(const Graph *g, const Node *node, ValueId *x, const char **approximate) {
  Factors f = {.constant = 1};
  if (node->op != OP_Mul || !take_apart(g, node->out[0], NO_VALUE, 0, &f))
    return false;
  for (int i = 0; i < f.n; i++) {
    Factors whole = {.constant = 1};
    *x = gate_of(g, f.factor[i], approximate);
    /* apart as far as x, which may be a product with numbers of its own */
    if (*x != NO_VALUE && take_apart(g, node->out[0], *x, 0, &whole) && whole.n == 2 && close_to(whole.constant, 0.5) &&
        ((whole.factor[0] == *x && whole.factor[1] == f.factor[i]) ||
         (whole.factor[1] == *x && whole.factor[0] == f.factor[i])))
      return shape_equal(graph_value(g, *x)->shape, graph_value(g, node->out[0])->shape);
  }
  return false;
}

Status graph_join_gelu(Graph *graph) {
  for (size_t i = 0; i < graph->n_nodes; i++) {
    Node *node = graph->nodes[i];
    ValueId x;
    const char *approximate;
    if (!is_gelu(graph, node, &x, &approximate))
      continue;
    TRY(ARENA_NEW(graph->arena, node->attrs, 1));
    node->attrs[0] = attr_string("approximate", approximate);
    node->n_attrs = 1;
    node->op = OP_Gelu;
    node->in[0] = x;
    node->n_in = 1;
  }
  return OK;
}
