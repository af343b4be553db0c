/* Reverse-mode differentiation. The forward nodes are walked once, last to first; when a node's turn comes, the
 * cotangents of its outputs are complete. Invariant: cotangent[v] is the left fold of the contributions of v's uses
 * processed so far, last use first; for a parameter, of the uses of the group at hand. */
#include "graph/autodiff.h"

#include <assert.h>
#include <stdio.h>

#include "graph/op.h"
#include "graph/ops/rule.h"
#include "graph/rows.h"

typedef struct {
  NodeId *nodes; /* in graph order */
  size_t n, capacity;
  size_t first_group; /* in graph->groups; n_groups of them */
  int n_groups;
} Uses;

typedef struct {
  Graph *graph;
  size_t n_forward;   /* nodes and */
  size_t n_values;    /* values of the forward graph */
  bool *live;         /* [n_forward] a parameter reaches the loss through the node */
  Uses *uses;         /* [n_values] of each parameter and buffer */
  ValueId *cotangent; /* [n_values] */
  bool *keeps_rows;   /* [n_forward] of lookups: the rows are what their group keeps of the gradient */
} Walk;

void autodiff_wants(const Graph *g, bool *wants) {
  for (size_t v = 0; v < g->n_values; v++)
    wants[v] = graph_value(g, (ValueId)v)->role == ROLE_PARAMETER;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    bool needs = false;
    for (int k = 0; k < node->n_in && !(op_def(node->op)->traits & OP_STOPS); k++)
      needs |= rule_has_in(node, k) && wants[node->in[k]];
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE)
        wants[node->out[k]] = needs && dtype_is_float(rule_out(g, node, k)->dtype);
  }
}

static Status mark_needs(Walk *w) {
  bool *wants;
  TRY(ARENA_NEW(w->graph->arena, wants, w->n_values));
  autodiff_wants(w->graph, wants);
  for (size_t v = 0; v < w->n_values; v++)
    w->graph->values[v]->needs_gradient = wants[v];
  return OK;
}

/* Marks what lies between parameters and the loss. */
static Status mark_live(Walk *w) {
  Graph *g = w->graph;
  bool *reached; /* the loss depends on the value */
  TRY(ARENA_NEW(g->arena, reached, w->n_values));
  reached[g->loss_sum] = true;
  for (size_t i = w->n_forward; i-- > 0;) {
    Node *node = g->nodes[i];
    for (int k = 0; k < node->n_out; k++)
      w->live[i] |= node->out[k] != NO_VALUE && reached[node->out[k]] && rule_out(g, node, k)->needs_gradient;
    for (int k = 0; w->live[i] && k < node->n_in; k++)
      if (rule_wants(g, node, k))
        reached[node->in[k]] = true;
  }
  return OK;
}

/* Fails naming every live node whose operator has no gradient, as far as a message holds them. */
static Status check_differentiable(const Walk *w) {
  const Graph *g = w->graph;
  char names[3072];
  size_t at = 0, count = 0;
  for (size_t i = 0; i < w->n_forward; i++) {
    const OpDef *def = op_def(g->nodes[i]->op);
    if (!w->live[i] || def->gradient)
      continue;
    int wrote =
        snprintf(names + at, sizeof names - at, "%s'%s' (%s)", count++ ? ", " : "", g->nodes[i]->name, def->name);
    at = at + (size_t)wrote < sizeof names ? at + (size_t)wrote : sizeof names - 1;
  }
  if (count)
    return fail(E_UNSUPPORTED, "no gradient for %zu node%s between the parameters and the loss: %s", count,
                count == 1 ? "" : "s", names);
  return OK;
}

/* Live uses of parameters, all uses of buffers. */
static Status collect_uses(Walk *w) {
  Graph *g = w->graph;
  for (size_t i = 0; i < w->n_forward; i++)
    for (int k = 0; k < g->nodes[i]->n_in; k++) {
      ValueId v = g->nodes[i]->in[k];
      Role role = v == NO_VALUE ? ROLE_ACTIVATION : graph_value(g, v)->role;
      if (role != ROLE_BUFFER && (role != ROLE_PARAMETER || !w->live[i]))
        continue;
      Uses *uses = &w->uses[v];
      if (uses->n && uses->nodes[uses->n - 1] == i) /* twice in one node is one use */
        continue;
      TRY(ARENA_RESERVE(g->arena, uses->nodes, uses->n, uses->capacity, uses->n + 1));
      uses->nodes[uses->n++] = (NodeId)i;
    }
  return OK;
}

/* One behind the last use that belongs with use i: those in one unrolled loop do. */
static size_t unit_end(const Graph *g, const Uses *uses, size_t i) {
  int loop = graph_node(g, uses->nodes[i++])->unrolled;
  while (loop && i < uses->n && graph_node(g, uses->nodes[i])->unrolled == loop)
    i++;
  return i;
}

/* Consecutive uses of a parameter fall into at most MAX_GROUPS groups of about equal number, those in an unrolled loop
 * counting as one; those of a buffer are one group. */
static Status form_groups(Walk *w) {
  Graph *g = w->graph;
  for (size_t v = 0; v < w->n_values; v++) {
    Uses *uses = &w->uses[v];
    size_t units = 0, from = 0, unit = 0;
    for (size_t i = 0; i < uses->n; i = unit_end(g, uses, i))
      units++;
    uses->first_group = g->n_groups;
    int most = graph_value(g, (ValueId)v)->role == ROLE_BUFFER ? 1 : MAX_GROUPS;
    uses->n_groups = units < (size_t)most ? (int)units : most;
    for (int k = 0; k < uses->n_groups; k++) {
      size_t to = from;
      for (; unit < (size_t)(k + 1) * units / (size_t)uses->n_groups; unit++)
        to = unit_end(g, uses, to);
      TRY(ARENA_RESERVE(g->arena, g->groups, g->n_groups, g->groups_capacity, g->n_groups + 1));
      g->groups[g->n_groups++] = (UseGroup){.parameter = (ValueId)v,
                                            .gradient = NO_VALUE,
                                            .places = NO_VALUE,
                                            .nodes = uses->nodes + from,
                                            .n_nodes = (int)(to - from)};
      from = to;
    }
  }
  return OK;
}

/* Tables that are looked up alone, each use a group of its own: then the rows of one group are one node's. Or, of
 * others than mean rows alone, such groups. */
static void choose_rows(Walk *w) {
  Graph *g = w->graph;
  for (size_t v = 0; v < w->n_values; v++) {
    const Uses *uses = &w->uses[v];
    Keep keep = graph_value(g, (ValueId)v)->keep;
    if (keep == KEEP_ALL || !uses->n)
      continue;
    bool all = (size_t)uses->n_groups == uses->n && rows_fit(g, (ValueId)v, uses->nodes, uses->n);
    for (int k = 0; k < uses->n_groups; k++) {
      const UseGroup *group = &g->groups[uses->first_group + (size_t)k];
      w->keeps_rows[group->nodes[0]] =
          all || (keep == KEEP_LESS && group->n_nodes == 1 && rows_fit(g, (ValueId)v, group->nodes, 1));
    }
  }
}

static Status add_gradient(Graph *g, ValueId parameter, int group, ValueId *gradient) {
  const Value *p = graph_value(g, parameter);
  const char *name = arena_format(g->arena, "%s/gradient.%d", p->name, group);
  if (!name)
    return status_code();
  TRY(graph_add_value(g, name, p->dtype, p->shape, ROLE_GRADIENT, gradient));
  graph_value(g, *gradient)->parameter = parameter;
  graph_value(g, *gradient)->group = group;
  return OK;
}

/* At the first use of a group, which comes last here, the group's sum goes into its accumulator. */
static Status close_group(Walk *w, const Node *node, ValueId parameter) {
  Graph *g = w->graph;
  const Uses *uses = &w->uses[parameter];
  ValueId sum = w->cotangent[parameter];
  for (int k = 0; sum != NO_VALUE && k < uses->n_groups; k++) {
    UseGroup *group = &g->groups[uses->first_group + (size_t)k];
    if (group->nodes[0] != node->id)
      continue;
    NodeId id;
    TRY(add_gradient(g, parameter, k, &group->gradient));
    TRY(graph_add_node(g, OP_Accumulate, graph_value(g, parameter)->name, (ValueId[]){group->gradient, sum}, 2, NULL, 0,
                       NULL, 0, &id));
    w->cotangent[parameter] = NO_VALUE; /* the next group begins anew */
    return OK;
  }
  return OK;
}

/* What a lookup hands to a table that keeps rows. */
static Status keep_rows(Walk *w, const Node *gather) {
  const Uses *uses = &w->uses[gather->in[0]];
  UseGroup *groups = &w->graph->groups[uses->first_group];
  int k = 0;
  while (groups[k].nodes[0] != gather->id)
    k++;
  w->graph->origin = gather->id;
  return rows_accumulate(w->graph, gather, w->cotangent[gather->out[0]], k, &groups[k]);
}

/* Adds what one use gives to what later uses gave. */
static Status contribute(Walk *w, ValueId v, ValueId d) {
  Graph *g = w->graph;
  assert(graph_value(g, d)->dtype == graph_value(g, v)->dtype);
  TRY(emit_unbroadcast(g, d, graph_value(g, v)->shape, &d));
  if (w->cotangent[v] != NO_VALUE)
    TRY(emit2(g, OP_Add, w->cotangent[v], d, &d));
  w->cotangent[v] = d;
  return OK;
}

static Status differentiate(Walk *w, const Node *node) {
  Graph *g = w->graph;
  ValueId *d_out, *d_in;
  if (w->keeps_rows[node->id])
    return keep_rows(w, node);
  TRY(ARENA_NEW(g->arena, d_out, node->n_out));
  TRY(ARENA_NEW(g->arena, d_in, node->n_in));
  for (int k = 0; k < node->n_out; k++)
    d_out[k] = node->out[k] == NO_VALUE ? NO_VALUE : w->cotangent[node->out[k]];
  for (int k = 0; k < node->n_in; k++)
    d_in[k] = NO_VALUE;
  g->origin = node->id;
  TRY(op_def(node->op)->gradient(g, node, d_out, d_in));
  for (int k = node->n_in - 1; k >= 0; k--) {
    assert(rule_wants(g, node, k) == (d_in[k] != NO_VALUE));
    if (d_in[k] != NO_VALUE)
      TRY(contribute(w, node->in[k], d_in[k]));
  }
  for (int k = 0; k < node->n_in; k++)
    if (node->in[k] != NO_VALUE && graph_value(g, node->in[k])->role == ROLE_PARAMETER)
      TRY(close_group(w, node, node->in[k]));
  return OK;
}

static Status append_backward(Walk *w) {
  Graph *g = w->graph;
  for (size_t v = 0; v < w->n_values; v++)
    w->cotangent[v] = NO_VALUE;
  w->cotangent[g->loss_sum] = g->loss_scale;
  for (size_t i = w->n_forward; i-- > 0;) {
    const Node *node = g->nodes[i];
    if (w->live[i] && differentiate(w, node) != OK) {
      status_context("gradient of node '%s' (%s): ", node->name, op_def(node->op)->name);
      return status_code();
    }
  }
  return OK;
}

Status autodiff_append(Graph *g, size_t *n_unreached) {
  Walk w = {.graph = g, .n_forward = g->n_nodes, .n_values = g->n_values};
  assert(g->loss_sum != NO_VALUE && g->loss_scale != NO_VALUE);
  TRY(ARENA_NEW(g->arena, w.live, w.n_forward));
  TRY(ARENA_NEW(g->arena, w.uses, w.n_values));
  TRY(ARENA_NEW(g->arena, w.cotangent, w.n_values));
  TRY(ARENA_NEW(g->arena, w.keeps_rows, w.n_forward));
  TRY(mark_needs(&w));
  TRY(mark_live(&w));
  TRY(check_differentiable(&w));
  TRY(collect_uses(&w));
  TRY(form_groups(&w));
  choose_rows(&w);
  g->building = PHASE_B;
  Status status = append_backward(&w);
  g->building = PHASE_F;
  g->origin = NO_NODE;
  *n_unreached = 0;
  TRY(status); /* where memory was out, the list of values is gone, too */
  for (size_t v = 0; v < w.n_values; v++)
    *n_unreached += g->values[v]->role == ROLE_PARAMETER && !w.uses[v].n;
  return OK;
}

int autodiff_groups(const Graph *graph, ValueId parameter, const UseGroup *groups[MAX_GROUPS]) {
  size_t low = 0, high = graph->n_groups; /* the groups are sorted by parameter */
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (graph->groups[middle].parameter < parameter)
      low = middle + 1;
    else
      high = middle;
  }
  int n = 0;
  for (; low < graph->n_groups && graph->groups[low].parameter == parameter; low++)
    if (graph->groups[low].gradient != NO_VALUE)
      groups[n++] = &graph->groups[low];
  return n;
}

int autodiff_gradients(const Graph *graph, ValueId parameter, ValueId gradients[MAX_GROUPS]) {
  const UseGroup *groups[MAX_GROUPS];
  int n = autodiff_groups(graph, parameter, groups);
  for (int i = 0; i < n; i++)
    gradients[i] = groups[i]->gradient;
  return n;
}
