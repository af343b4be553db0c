/* Reverse-mode differentiation. The forward nodes are walked once, last to first; when a node's turn comes, the
 * cotangents of its outputs are complete. Invariant: cotangent[v] is the left fold of the contributions of v's uses
 * processed so far, last use first. */
#include "graph/autodiff.h"

#include <stdio.h>
#include <string.h>

#include "graph/op.h"
#include "graph/ops/rule.h"

typedef struct {
  Graph *graph;
  size_t n_forward;   /* nodes and */
  size_t n_values;    /* values of the forward graph */
  bool *live;         /* [n_forward] the loss depends on the node through differentiable operators */
  ValueId *cotangent; /* [n_values] */
  int *first_group;   /* [n_values] index in graph->groups of a parameter's first group */
  int *n_groups;      /* [n_values] */
} Walk;

static void mark_needs(Walk *w) {
  Graph *g = w->graph;
  for (size_t v = 0; v < w->n_values; v++)
    g->values[v]->needs_gradient = g->values[v]->role == ROLE_PARAMETER;
  for (size_t i = 0; i < w->n_forward; i++) {
    Node *node = g->nodes[i];
    bool needs = false;
    for (int k = 0; k < node->n_in; k++)
      needs |= rule_wants(g, node, k);
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE)
        rule_out(g, node, k)->needs_gradient = needs && dtype_is_float(rule_out(g, node, k)->dtype);
  }
}

/* Marks what lies between parameters and the loss; names every operator there that has no gradient. */
static Status mark_live(Walk *w) {
  Graph *g = w->graph;
  bool *reached;
  char missing[2048] = "";
  size_t at = 0, count = 0;
  TRY(ARENA_NEW(g->arena, reached, w->n_values));
  reached[g->loss_sum] = true;
  for (size_t i = w->n_forward; i-- > 0;) {
    Node *node = g->nodes[i];
    for (int k = 0; k < node->n_out; k++)
      w->live[i] |= node->out[k] != NO_VALUE && reached[node->out[k]] && rule_out(g, node, k)->needs_gradient;
    if (!w->live[i])
      continue;
    if (!op_def(node->op)->gradient) {
      int wrote = snprintf(missing + at, sizeof missing - at, "%s'%s' (%s)", count++ ? ", " : "", node->name,
                           op_def(node->op)->name);
      at = at + (size_t)wrote < sizeof missing ? at + (size_t)wrote : sizeof missing - 1;
    }
    for (int k = 0; k < node->n_in; k++)
      if (rule_wants(g, node, k))
        reached[node->in[k]] = true;
  }
  return count ? fail(E_UNSUPPORTED, "%zu nodes between parameters and the loss have no gradient: %s", count, missing)
               : OK;
}

static Status add_group(Graph *g, ValueId parameter, NodeId *nodes, int n) {
  TRY(ARENA_RESERVE(g->arena, g->groups, g->n_groups, g->groups_capacity, g->n_groups + 1));
  g->groups[g->n_groups++] = (UseGroup){parameter, NO_VALUE, nodes, n};
  return OK;
}

/* Consecutive uses of a parameter fall into at most MAX_GROUPS groups of about equal number. */
static Status form_groups(Walk *w) {
  Graph *g = w->graph;
  int *count;
  NodeId **lists;
  TRY(ARENA_NEW(g->arena, count, w->n_values));
  TRY(ARENA_NEW(g->arena, lists, w->n_values));
  for (int pass = 0; pass < 2; pass++) {
    for (size_t v = 0; pass && v < w->n_values; v++) {
      TRY(ARENA_NEW(g->arena, lists[v], count[v]));
      count[v] = 0;
    }
    for (size_t i = 0; i < w->n_forward; i++)
      for (int k = 0; w->live[i] && k < g->nodes[i]->n_in; k++) {
        ValueId v = g->nodes[i]->in[k];
        bool again = false;
        for (int j = 0; j < k; j++)
          again |= g->nodes[i]->in[j] == v;
        if (v == NO_VALUE || again || graph_value(g, v)->role != ROLE_PARAMETER)
          continue;
        if (pass)
          lists[v][count[v]] = (NodeId)i;
        count[v]++;
      }
  }
  for (size_t v = 0; v < w->n_values; v++) {
    int n = count[v], groups = n < MAX_GROUPS ? n : MAX_GROUPS;
    w->first_group[v] = (int)g->n_groups;
    w->n_groups[v] = groups;
    for (int k = 0; k < groups; k++) {
      int from = k * n / groups, to = (k + 1) * n / groups;
      TRY(add_group(g, (ValueId)v, lists[v] + from, to - from));
    }
  }
  return OK;
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
static Status close_groups(Walk *w, const Node *node, ValueId parameter) {
  Graph *g = w->graph;
  for (int k = 0; k < w->n_groups[parameter]; k++) {
    UseGroup *group = &g->groups[w->first_group[parameter] + k];
    if (group->nodes[0] != node->id || w->cotangent[parameter] == NO_VALUE)
      continue;
    ValueId gradient;
    NodeId id;
    TRY(add_gradient(g, parameter, k, &gradient));
    ValueId in[] = {gradient, w->cotangent[parameter]};
    TRY(graph_add_node(g, OP_Accumulate, graph_value(g, parameter)->name, in, 2, NULL, 0, NULL, 0, &id));
    group->gradient = gradient;
    w->cotangent[parameter] = NO_VALUE; /* the next group begins anew */
  }
  return OK;
}

/* Emits the cotangents of one node's inputs and adds them to what later uses gave. */
static Status differentiate(Walk *w, const Node *node) {
  Graph *g = w->graph;
  ValueId *d_out, *d_in;
  bool any = false;
  TRY(ARENA_NEW(g->arena, d_out, node->n_out));
  TRY(ARENA_NEW(g->arena, d_in, node->n_in));
  for (int k = 0; k < node->n_out; k++) {
    d_out[k] = node->out[k] == NO_VALUE ? NO_VALUE : w->cotangent[node->out[k]];
    any |= d_out[k] != NO_VALUE;
  }
  for (int k = 0; k < node->n_in; k++)
    d_in[k] = NO_VALUE;
  g->origin = node->id;
  if (any)
    TRY(op_def(node->op)->gradient(g, node, d_out, d_in));
  for (int k = node->n_in - 1; k >= 0; k--) {
    if (d_in[k] == NO_VALUE)
      continue;
    ValueId v = node->in[k], d;
    TRY(emit_unbroadcast(g, d_in[k], graph_value(g, v)->shape, &d));
    if (w->cotangent[v] != NO_VALUE)
      TRY(emit2(g, OP_Add, w->cotangent[v], d, &d));
    w->cotangent[v] = d;
  }
  for (int k = 0; k < node->n_in; k++)
    if (node->in[k] != NO_VALUE && graph_value(g, node->in[k])->role == ROLE_PARAMETER)
      TRY(close_groups(w, node, node->in[k]));
  return OK;
}

Status autodiff_append(Graph *g, size_t *n_unreached) {
  Walk w = {.graph = g, .n_forward = g->n_nodes, .n_values = g->n_values};
  TRY(ARENA_NEW(g->arena, w.live, w.n_forward));
  TRY(ARENA_NEW(g->arena, w.cotangent, w.n_values));
  TRY(ARENA_NEW(g->arena, w.first_group, w.n_values));
  TRY(ARENA_NEW(g->arena, w.n_groups, w.n_values));
  mark_needs(&w);
  TRY(mark_live(&w));
  TRY(form_groups(&w));
  for (size_t v = 0; v < w.n_values; v++)
    w.cotangent[v] = NO_VALUE;
  w.cotangent[g->loss_sum] = g->loss_scale;
  g->building = PHASE_B;
  for (size_t i = w.n_forward; i-- > 0;)
    if (w.live[i]) {
      Status status = differentiate(&w, g->nodes[i]);
      if (status != OK) {
        status_context("gradient of node '%s' (%s): ", g->nodes[i]->name, op_def(g->nodes[i]->op)->name);
        return status;
      }
    }
  g->origin = NO_NODE;
  *n_unreached = 0;
  for (size_t v = 0; v < w.n_values; v++) {
    ValueId gradients[MAX_GROUPS];
    if (g->values[v]->role == ROLE_PARAMETER && !autodiff_gradients(g, (ValueId)v, gradients))
      ++*n_unreached;
  }
  return OK;
}

int autodiff_gradients(const Graph *graph, ValueId parameter, ValueId gradients[MAX_GROUPS]) {
  int n = 0;
  for (size_t i = 0; i < graph->n_groups; i++)
    if (graph->groups[i].parameter == parameter && graph->groups[i].gradient != NO_VALUE)
      gradients[n++] = graph->groups[i].gradient;
  return n;
}
