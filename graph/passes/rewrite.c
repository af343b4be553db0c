/* Passes over a graph. Invariant: all patterns are looked for in the graph as it was; what stands for a root is made of
 * values before it, and runs wherever the graph may run. */
#include "graph/autodiff.h"
#include "graph/passes/passes.h"

const Pass *const fusing_passes[] = {
    &pass_unchanged,      &pass_gelu,       &pass_swish,     &pass_swiglu, &pass_log_softmax,
    &pass_norm,           &pass_norm_scale, &pass_norm_bias, &pass_rotary, &pass_attention,
    &pass_attention_rows, &pass_bias,       &pass_twice,     NULL};

Status graph_uses(const Graph *g, int **uses) {
  TRY(ARENA_NEW(g->arena, *uses, g->n_values));
  for (size_t i = 0; i < g->n_nodes; i++)
    for (int k = 0; k < g->nodes[i]->n_in; k++)
      if (g->nodes[i]->in[k] != NO_VALUE)
        ++(*uses)[g->nodes[i]->in[k]];
  for (size_t i = 0; i < g->n_outputs; i++)
    ++(*uses)[g->outputs[i]];
  return OK;
}

static int count_attrs(const Rewrite *rewrite) {
  int n = 0;
  while (n < 2 && rewrite->attrs[n].name)
    n++;
  return n;
}

Status instead_make(const Graph *graph, Instead what, const ValueId *in, const Instead **instead) {
  Instead *made;
  TRY(ARENA_NEW(graph->arena, made, 1));
  what.in = arena_copy(graph->arena, in, (size_t)what.n_in * sizeof *in);
  if (what.n_attrs > 0)
    what.attrs = arena_copy(graph->arena, what.attrs, (size_t)what.n_attrs * sizeof *what.attrs);
  if (!what.in || (what.n_attrs > 0 && !what.attrs))
    return status_code();
  *made = what;
  *instead = made;
  return OK;
}

/* What the table has for the node, or NULL. */
static Status find_row(const Graph *g, const Pass *pass, const Node *node, const Instead **instead) {
  for (int i = 0; i < pass->n && node->n_out == 1; i++) {
    const Rewrite *r = &pass->rewrites[i];
    Match match;
    if (!graph_match(g, r->pattern, node->out[0], &match))
      continue;
    Instead what = {.op = r->op, .n_in = r->n_in, .attrs = r->attrs, .n_attrs = count_attrs(r)};
    return instead_make(g, what, match.variable, instead);
  }
  return OK;
}

Status instead_emit(Graph *graph, const Instead *instead, const ValueId *in, ValueId *out) {
  return instead->emit ? instead->emit(graph, instead, in, out)
                       : graph_emit(graph, instead->op, in, instead->n_in, instead->attrs, instead->n_attrs, out);
}

/* A value of the same type, shape and contents in another graph; one that wants a gradient is a parameter there. */
static Status stand_in(const Graph *from, ValueId id, bool wants, Graph *to, ValueId *copy) {
  const Value *v = graph_value(from, id);
  if (v->data)
    return graph_add_constant(to, v->name, v->dtype, v->shape, v->data, copy);
  return graph_add_value(to, v->name, v->dtype, v->shape, wants ? ROLE_PARAMETER : ROLE_INPUT, copy);
}

/* Emits the gradient of a node that has one, all that could be asked for. */
static Status emit_gradient(Graph *g, const Node *node) {
  const OpDef *def = op_def(node->op);
  ValueId *d_out, *d_in;
  if (!def->gradient || !graph_value(g, node->out[0])->needs_gradient)
    return OK;
  TRY(ARENA_NEW(g->arena, d_out, node->n_out));
  TRY(ARENA_NEW(g->arena, d_in, node->n_in));
  for (int k = 0; k < node->n_out; k++)
    d_out[k] = NO_VALUE;
  for (int k = 0; k < node->n_in; k++)
    d_in[k] = NO_VALUE;
  TRY(stand_in(g, node->out[0], false, g, &d_out[0]));
  return def->gradient(g, node, d_out, d_in);
}

/* Whether what stands for the node makes the same type and shape, of nodes that `takes` takes; wants: which values of
 * `from` want gradients. */
static Status may_stand(const Graph *from, const bool *wants, const Node *root, const Instead *instead, Takes *takes,
                        const void *context, Arena *arena, bool *may) {
  Graph *g;
  ValueId *in, out[1 + MOST_GIVEN];
  NodeId node;
  bool *inner;
  TRY(graph_create(arena, "", &g));
  TRY(ARENA_NEW(arena, in, instead->n_in));
  for (int k = 0; k < instead->n_in; k++)
    if ((in[k] = instead->in[k]) != NO_VALUE)
      TRY(stand_in(from, instead->in[k], wants[instead->in[k]], g, &in[k]));
  if (root->n_out == 0) {
    TRY(graph_add_node(g, instead->op, root->name, in, instead->n_in, instead->attrs, instead->n_attrs, NULL, 0,
                       &node));
    *may = !takes || takes(context, g, graph_node(g, node));
    return OK;
  }
  TRY(instead_emit(g, instead, in, out));
  const Value *wanted = graph_value(from, root->out[0]);
  size_t n = g->n_nodes;
  TRY(ARENA_NEW(arena, inner, g->n_values));
  autodiff_wants(g, inner);
  for (size_t v = 0; v < g->n_values; v++)
    graph_value(g, (ValueId)v)->needs_gradient = inner[v];
  for (size_t i = 0; i < n; i++)
    TRY(emit_gradient(g, g->nodes[i]));
  *may = graph_value(g, out[0])->dtype == wanted->dtype && shape_equal(graph_value(g, out[0])->shape, wanted->shape);
  for (size_t i = 0; i < g->n_nodes && *may && takes; i++)
    *may = takes(context, g, g->nodes[i]);
  return OK;
}

/* Takes away what may not stand. */
static Status sift(const Graph *from, const Instead **instead, Takes *takes, const void *context) {
  bool *wants;
  TRY(ARENA_NEW(from->arena, wants, from->n_values));
  autodiff_wants(from, wants);
  for (size_t i = 0; i < from->n_nodes; i++) {
    if (!instead[i])
      continue;
    bool may = false;
    Arena *arena = arena_create();
    if (!arena)
      return status_code();
    Status status = may_stand(from, wants, from->nodes[i], instead[i], takes, context, arena, &may);
    arena_destroy(arena);
    TRY(status);
    if (!may)
      instead[i] = NULL;
  }
  return OK;
}

static Status find_all(const Graph *from, const Pass *pass, Takes *takes, const void *context,
                       const Instead ***instead) {
  TRY(ARENA_NEW(from->arena, *instead, from->n_nodes));
  for (size_t i = 0; i < from->n_nodes && !pass->find; i++)
    TRY(find_row(from, pass, from->nodes[i], &(*instead)[i]));
  if (pass->find)
    TRY(pass->find(from, *instead));
  return sift(from, *instead, takes, context);
}

Status graph_rewrite(const Graph *from, const Pass *pass, Takes *takes, const void *context, Arena *arena, ValueId *map,
                     Graph **to) {
  const Instead **instead;
  TRY(find_all(from, pass, takes, context, &instead));
  return graph_replace(from, pass->name, instead, arena, map, to);
}

Status graph_fuse(const Graph *from, Takes *takes, const void *context, Settle *settle, void *settle_context,
                  Arena *arena, Graph **to) {
  const Instead **instead;
  for (int i = 0; fusing_passes[i]; i++) {
    TRY(find_all(from, fusing_passes[i], takes, context, &instead));
    for (size_t k = 0; k < from->n_nodes && settle; k++) {
      bool does;
      TRY(settle(settle_context, instead[k] != NULL, &does));
      instead[k] = does ? instead[k] : NULL;
    }
    TRY(graph_replace(from, fusing_passes[i]->name, instead, fusing_passes[i + 1] ? from->arena : arena, NULL, to));
    from = *to;
  }
  return OK;
}

Status graph_passes_text(const Graph *graph, Arena *arena, const char **text) {
  *text = graph->n_passes ? "" : "nothing";
  for (size_t i = 0; i < graph->n_passes; i++) {
    *text = arena_format(arena, "%s%s%s %d", *text, i ? ", " : "", graph->passes[i].name, graph->passes[i].times);
    if (!*text)
      return status_code();
  }
  return OK;
}
