/* Which values are stored in bfloat16. Invariant: a node computes as before, over float32; what changes is how its
 * operands and results are kept, and that a product of which one operand is bfloat16 multiplies bfloat16 numbers. */
#include <string.h>

#include "graph/autodiff.h"
#include "graph/passes/passes.h"

typedef struct {
  Graph *graph;
  bool *sampled; /* [n_values] each: of a forward value, it depends on samples */
  bool *wanted;  /* a parameter reaches it */
  bool *exact;   /* stays float32 for what reads it */
} Types;

enum { ADDED = 2 }; /* ProductAdd's input beside the product */

static bool is_forward(const Node *n) {
  return n->phase == PHASE_F;
}

/* Elements as they are, of one tensor: the result has its type. */
static bool moves(const Node *n) {
  unsigned traits = op_def(n->op)->traits;
  return traits & OP_ANY_TYPE && n->op != OP_Concat && n->op != OP_Where && n->op != OP_BitCast;
}

/* Rows of a table. */
static bool looks_up(const Graph *g, const Node *n) {
  ValueId table = n->in[0];
  return (n->op == OP_Gather || n->op == OP_GatherND) && graph_value(g, table)->role == ROLE_PARAMETER;
}

static bool is_loss(const Node *n) {
  return n->op == OP_CrossEntropy || n->op == OP_MeanSquaredError || n->op == OP_BinaryCrossEntropy;
}

static bool sums(const Node *n) {
  return n->op == OP_ReduceSum || n->op == OP_ReduceMean || n->op == OP_ReduceMax;
}

static bool is_elementwise(const Node *n) {
  return op_def(n->op)->traits & OP_ELEMENTWISE;
}

/* Products and norms: their result is bfloat16 whatever they are of. */
static bool begins(const Graph *g, const Node *n) {
  unsigned traits = op_def(n->op)->traits;
  return traits & OP_PRODUCT || (traits & OP_SCALES && !is_elementwise(n)) || n->op == OP_Attention || looks_up(g, n);
}

/* Products with something behind their sums, which is as exact as it would be alone. */
static bool goes_on(const Node *n) {
  return n->op == OP_ProductAdd || n->op == OP_ProductGelu;
}

/* Whether what has to be exact behind the node asks the same of what is before it: on the way to the loss all but
 * products, and losses that are one operator; on the way to an accumulator what has elements as they are or sums
 * them place by place. */
static bool hands_on(const Graph *g, const Node *n) {
  return is_forward(n) ? g->loss_sum != NO_VALUE && !begins(g, n) && !is_loss(n)
                       : is_elementwise(n) || moves(n) || n->op == OP_Concat;
}

static void mark_sampled(const Types *t) {
  const Graph *g = t->graph;
  for (size_t v = 0; v < g->n_values; v++)
    t->sampled[v] = g->values[v]->role == ROLE_INPUT || g->values[v]->role == ROLE_COUNTER;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *n = g->nodes[i];
    bool depends = false;
    for (int k = 0; k < n->n_in; k++)
      depends |= n->in[k] != NO_VALUE && t->sampled[n->in[k]];
    for (int k = 0; k < n->n_out; k++)
      if (n->out[k] != NO_VALUE)
        t->sampled[n->out[k]] = depends;
  }
}

/* Of what a node makes: whether all that is read is exact, and some is. */
static bool makes_exact(const Types *t, const int *uses, const Node *n) {
  bool some = false;
  for (int k = 0; k < n->n_out; k++)
    if (n->out[k] != NO_VALUE && (uses[n->out[k]] || t->exact[n->out[k]])) {
      if (!t->exact[n->out[k]])
        return false;
      some = true;
    }
  return some;
}

/* From the last node to the first: a value is exact where every reader, in its own direction, asks it. */
static Status mark_exact(const Types *t) {
  const Graph *g = t->graph;
  int *uses, *asked;
  TRY(ARENA_NEW(g->arena, uses, g->n_values));
  TRY(ARENA_NEW(g->arena, asked, g->n_values));
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < g->nodes[i]->n_in; k++) {
      ValueId v = g->nodes[i]->in[k];
      NodeId producer = v == NO_VALUE ? NO_NODE : graph_value(g, v)->producer;
      if (producer != NO_NODE && is_forward(graph_node(g, producer)) == is_forward(g->nodes[i]))
        ++uses[v];
    }
  if (g->loss_sum != NO_VALUE)
    t->exact[g->loss_sum] = true;
  for (size_t i = 0; g->loss_sum == NO_VALUE && i < g->n_outputs; i++)
    t->exact[g->outputs[i]] = true;
  for (size_t i = g->n_nodes; i-- > 0;) {
    const Node *n = g->nodes[i];
    for (int k = 0; k < n->n_out; k++)
      if (n->out[k] != NO_VALUE && uses[n->out[k]] && asked[n->out[k]] == uses[n->out[k]] &&
          (!is_forward(n) || !begins(g, n) || goes_on(n)))
        t->exact[n->out[k]] = true;
    if (n->op == OP_ProductGelu && n->n_out > 1 && n->out[1] != NO_VALUE)
      t->exact[n->out[1]] = t->exact[n->out[0]];
    if (n->op == OP_Accumulate)
      t->exact[n->in[1]] = true;
    if (moves(n) && g->loss_sum == NO_VALUE && t->exact[n->out[0]])
      t->exact[n->in[0]] = true; /* outputs that are moved, perhaps views */
    bool adds = n->op == OP_ProductAdd && (!is_forward(n) || g->loss_sum != NO_VALUE);
    if (!(adds || hands_on(g, n)) || !makes_exact(t, uses, n))
      continue;
    for (int k = adds ? ADDED : 0; k < (adds ? ADDED + 1 : n->n_in); k++) {
      NodeId producer = n->in[k] == NO_VALUE ? NO_NODE : graph_value(g, n->in[k])->producer;
      if (producer != NO_NODE && is_forward(graph_node(g, producer)) == is_forward(n))
        ++asked[n->in[k]];
    }
  }
  return OK;
}

static bool is_narrow(const Graph *g, ValueId v) {
  return v != NO_VALUE && graph_value(g, v)->dtype == BF16;
}

static bool any_narrow(const Graph *g, const Node *n) {
  for (int k = 0; k < n->n_in; k++)
    if (is_narrow(g, n->in[k]))
      return true;
  return false;
}

/* Whether an operand as large as the result is bfloat16. */
static bool whole_narrow(const Graph *g, const Node *n) {
  for (int k = 0; k < n->n_in; k++)
    if (is_narrow(g, n->in[k]) && shape_equal(graph_value(g, n->in[k])->shape, graph_value(g, n->out[0])->shape))
      return true;
  return false;
}

/* Whether a float32 result is stored in bfloat16; those of the nodes before are decided. */
static bool becomes_narrow(const Types *t, const Node *n, int k) {
  const Graph *g = t->graph;
  ValueId v = n->out[k];
  if (moves(n) && !looks_up(g, n))
    return is_narrow(g, n->in[0]);
  bool beside = k > 0 && n->op != OP_ProductGelu; /* statistics */
  if (t->exact[v] || (is_forward(n) && (beside || !t->sampled[v] || !t->wanted[v])))
    return false;
  return begins(g, n) || (is_elementwise(n) ? whole_narrow(g, n) : !sums(n) && any_narrow(g, n));
}

/* Logits that stand for a few rows at a time are bfloat16 as all logits are. */
static void store_logits(Node *n, bool narrow) {
  for (int i = 0; i < n->n_attrs && n->op == OP_ProductCrossEntropy; i++)
    if (strcmp(n->attrs[i].name, "narrow") == 0)
      n->attrs[i].i = narrow;
}

static void decide(const Types *t) {
  for (size_t i = 0; i < t->graph->n_nodes; i++) {
    Node *n = t->graph->nodes[i];
    store_logits(n, true);
    for (int k = 0; n->phase != PHASE_UPDATE && k < n->n_out; k++)
      if (n->out[k] != NO_VALUE && graph_value(t->graph, n->out[k])->dtype == F32 && becomes_narrow(t, n, k))
        graph_value(t->graph, n->out[k])->dtype = BF16;
  }
}

Status graph_store_narrow(Graph *g, Takes *takes, const void *context, bool *stored) {
  Types t = {.graph = g};
  *stored = true;
  TRY(ARENA_NEW(g->arena, t.sampled, g->n_values));
  TRY(ARENA_NEW(g->arena, t.wanted, g->n_values));
  TRY(ARENA_NEW(g->arena, t.exact, g->n_values));
  mark_sampled(&t);
  autodiff_wants(g, t.wanted);
  TRY(mark_exact(&t));
  DType *before;
  TRY(ARENA_NEW(g->arena, before, g->n_values));
  for (size_t v = 0; v < g->n_values; v++)
    before[v] = g->values[v]->dtype;
  decide(&t);
  for (size_t i = 0; i < g->n_nodes && *stored; i++)
    *stored = takes(context, g, g->nodes[i]);
  for (size_t v = 0; v < g->n_values && !*stored; v++)
    g->values[v]->dtype = before[v];
  for (size_t i = 0; i < g->n_nodes && !*stored; i++)
    store_logits(g->nodes[i], false);
  return OK;
}
