/* What changes nothing, and what is computed twice. Exporters write factors of 1, sums with 0, conditions that always
 * hold, and one value several times. What remains gives the same bits, but for the sign of a zero. */
#include <string.h>

#include "graph/ops/rule.h"
#include "graph/passes/passes.h"

/* Whether all elements of a known value are this number. */
static bool is_all(const Graph *g, ValueId id, double number) {
  const Value *v = graph_value(g, id);
  int64_t n = shape_elements(v->shape);
  if (!v->data || n == 0)
    return false;
  for (int64_t i = 0; i < n; i++) {
    double x;
    switch (v->dtype) {
    case F32:
      x = ((const float *)v->data)[i];
      break;
    case F64:
      x = ((const double *)v->data)[i];
      break;
    case BOOL:
      x = ((const uint8_t *)v->data)[i];
      break;
    default:
      return false;
    }
    if (x != number)
      return false;
  }
  return true;
}

/* The input that the node gives as it is; NO_VALUE: there is none. */
static ValueId unchanged(const Graph *g, const Node *n) {
  switch (n->op) {
  case OP_Mul:
  case OP_Add:
    for (int k = 0; k < 2; k++)
      if (is_all(g, n->in[1 - k], n->op == OP_Mul))
        return n->in[k];
    return NO_VALUE;
  case OP_Sub:
  case OP_Div:
  case OP_Pow:
    return is_all(g, n->in[1], n->op != OP_Sub) ? n->in[0] : NO_VALUE;
  case OP_Where:
    return is_all(g, n->in[0], 1) ? n->in[1] : is_all(g, n->in[0], 0) ? n->in[2] : NO_VALUE;
  default:
    return NO_VALUE;
  }
}

static Status emit_value(Graph *g, const Instead *instead, const ValueId *in, ValueId *out) {
  (void)g, (void)instead;
  *out = in[0];
  return OK;
}

/* The value in place of the node's; outputs keep their names. */
static Status replace(const Graph *g, const Node *n, ValueId value, const Instead **instead) {
  for (size_t i = 0; i < g->n_outputs; i++)
    if (g->outputs[i] == n->out[0])
      return OK;
  return instead_make(g, (Instead){.n_in = 1, .emit = emit_value}, &value, &instead[n->id]);
}

static Status find_unchanged(const Graph *g, const Instead **instead) {
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *n = g->nodes[i];
    ValueId same = n->n_out == 1 ? unchanged(g, n) : NO_VALUE;
    if (same != NO_VALUE)
      TRY(replace(g, n, same, instead));
  }
  return OK;
}

/* ---- computed twice ---- */

static uint64_t mix(uint64_t hash, const void *data, size_t bytes) {
  for (size_t i = 0; i < bytes; i++)
    hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
  return hash;
}

/* What a node is made of: its inputs are those that stand for them. */
typedef struct {
  const Graph *graph;
  ValueId *stands; /* of a value: the first that is the same */
  bool *trained;   /* whether a parameter reaches it */
  NodeId *slots;   /* by hash */
  size_t n_slots;
} Twice;

static ValueId stands_for(const Twice *t, ValueId id) {
  return id == NO_VALUE ? NO_VALUE : t->stands[id];
}

static bool same_node(const Twice *t, const Node *a, const Node *b) {
  if (a->op != b->op || a->n_in != b->n_in || a->n_attrs != b->n_attrs || a->unrolled != b->unrolled)
    return false;
  for (int i = 0; i < a->n_in; i++)
    if (stands_for(t, a->in[i]) != stands_for(t, b->in[i]))
      return false;
  for (int i = 0; i < a->n_attrs; i++)
    if (!attr_equal(&a->attrs[i], &b->attrs[i]))
      return false;
  return true;
}

/* The first node that is the same, or the node itself. */
static NodeId first_same(Twice *t, const Node *n) {
  uint64_t hash = mix(0xcbf29ce484222325u, &n->op, sizeof n->op);
  for (int i = 0; i < n->n_in; i++) {
    ValueId in = stands_for(t, n->in[i]);
    hash = mix(hash, &in, sizeof in);
  }
  size_t at = (size_t)(hash ^ hash >> 32) & (t->n_slots - 1);
  while (t->slots[at] != NO_NODE && !same_node(t, graph_node(t->graph, t->slots[at]), n))
    at = (at + 1) & (t->n_slots - 1);
  if (t->slots[at] == NO_NODE)
    t->slots[at] = n->id;
  return t->slots[at];
}

static Status begin(const Graph *g, Twice *t) {
  *t = (Twice){.graph = g, .n_slots = 16};
  while (t->n_slots < 2 * g->n_nodes)
    t->n_slots *= 2;
  TRY(ARENA_NEW(g->arena, t->stands, g->n_values));
  TRY(ARENA_NEW(g->arena, t->trained, g->n_values));
  TRY(ARENA_NEW(g->arena, t->slots, t->n_slots));
  for (size_t i = 0; i < t->n_slots; i++)
    t->slots[i] = NO_NODE;
  for (ValueId v = 0; v < g->n_values; v++) {
    t->stands[v] = v;
    t->trained[v] = graph_value(g, v)->role == ROLE_PARAMETER;
  }
  return OK;
}

/* Of what no parameter reaches, such as masks, every place keeps its own: it is cheap, and its copies are not sent from
 * stage to stage. */
static Status find_twice(const Graph *g, const Instead **instead) {
  Twice t;
  TRY(begin(g, &t));
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *n = g->nodes[i];
    bool trained = false;
    for (int k = 0; k < n->n_in; k++)
      trained |= n->in[k] != NO_VALUE && t.trained[n->in[k]];
    for (int k = 0; k < n->n_out; k++)
      if (n->out[k] != NO_VALUE)
        t.trained[n->out[k]] = trained;
    if (!trained || n->n_out != 1 || op_def(n->op)->traits & (OP_RANDOM | OP_MUTATES_FIRST | OP_UPDATE))
      continue;
    NodeId first = first_same(&t, n);
    if (first == n->id)
      continue;
    t.stands[n->out[0]] = graph_node(g, first)->out[0];
    TRY(replace(g, n, t.stands[n->out[0]], instead));
  }
  return OK;
}

const Pass pass_unchanged = {"unchanged", NULL, 0, find_unchanged};
const Pass pass_twice = {"twice", NULL, 0, find_twice};
