/* Passes as tables of rewrites. Invariant: all patterns are looked for in the graph as it was; what stands for a root
 * is made of values before it. */
#include "graph/op.h"
#include "graph/passes/passes.h"

const Pass *const fusing_passes[] = {&pass_gelu, NULL};

static int count_attrs(const Rewrite *rewrite) {
  int n = 0;
  while (n < 2 && rewrite->attrs[n].name)
    n++;
  return n;
}

/* What stands for the node, or NULL. */
static Status find(const Graph *g, const Pass *pass, const Node *node, const Node **instead) {
  *instead = NULL;
  for (int i = 0; i < pass->n && node->n_out == 1; i++) {
    const Rewrite *r = &pass->rewrites[i];
    ValueId variable[MOST_VARIABLES];
    Node *made;
    if (!graph_match(g, r->pattern, node->out[0], variable) || (r->fits && !r->fits(g, node, variable)))
      continue;
    TRY(ARENA_NEW(g->arena, made, 1));
    *made = (Node){.op = r->op, .n_in = r->n_in, .attrs = (Attr *)r->attrs, .n_attrs = count_attrs(r)};
    made->in = arena_copy(g->arena, variable, sizeof variable);
    if (!made->in)
      return status_code();
    *instead = made;
    return OK;
  }
  return OK;
}

Status graph_rewrite(const Graph *from, const Pass *pass, Arena *arena, ValueId *map, Graph **to) {
  const Node **instead;
  TRY(ARENA_NEW(from->arena, instead, from->n_nodes));
  for (size_t i = 0; i < from->n_nodes; i++)
    TRY(find(from, pass, from->nodes[i], &instead[i]));
  return graph_copy(from, instead, arena, map, to);
}

Status graph_fuse(const Graph *from, Arena *arena, Graph **to) {
  for (int i = 0; fusing_passes[i]; i++) {
    TRY(graph_rewrite(from, fusing_passes[i], fusing_passes[i + 1] ? from->arena : arena, NULL, to));
    from = *to;
  }
  return OK;
}
