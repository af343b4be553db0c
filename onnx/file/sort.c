/* Nodes that a file keeps out of order. Invariant: what is in order stays as it is; what is not moves behind the makers
 * of what it reads, and no further; nodes of a cycle are left for the check to name. */
#include "onnx/file/internal.h"

typedef struct {
  Arena *arena;
  Onnx__NodeProto **nodes;
  NameMap makers;                           /* value → its node */
  enum { UNSEEN, WAITING, PLACED } * state; /* [n]: waiting for its makers */
  size_t *stack, depth, capacity;           /* nodes to be placed, the next one last, some of them again */
  Onnx__NodeProto **sorted;                 /* [n] */
  size_t placed;
} Sort;

static Status push(Sort *sort, size_t node) {
  TRY(ARENA_RESERVE(sort->arena, sort->stack, sort->depth, sort->capacity, sort->depth + 1));
  sort->stack[sort->depth++] = node;
  return OK;
}

static Status push_maker(Sort *sort, const char *name) {
  int maker = names_find(&sort->makers, name);
  return maker >= 0 && sort->state[maker] == UNSEEN ? push(sort, (size_t)maker) : OK;
}

static Status push_makers(Sort *sort, const Onnx__NodeProto *node);

/* A branch reads from around it, too: its own names are others, for there is one definition of each. */
static Status push_makers_of_graph(Sort *sort, const Onnx__GraphProto *graph) {
  for (size_t i = graph->n_output; i-- > 0;)
    TRY(push_maker(sort, proto_text(graph->output[i]->name)));
  for (size_t i = graph->n_node; i-- > 0;)
    TRY(push_makers(sort, graph->node[i]));
  return OK;
}

/* The last first, so that the first is placed first. */
static Status push_makers(Sort *sort, const Onnx__NodeProto *node) {
  for (size_t a = node->n_attribute; a-- > 0;) {
    for (size_t g = node->attribute[a]->n_graphs; g-- > 0;)
      TRY(push_makers_of_graph(sort, node->attribute[a]->graphs[g]));
    if (node->attribute[a]->g)
      TRY(push_makers_of_graph(sort, node->attribute[a]->g));
  }
  for (size_t k = node->n_input; k-- > 0;)
    TRY(push_maker(sort, node->input[k]));
  return OK;
}

/* Node i behind all that it waits for. */
static Status place(Sort *sort, size_t i) {
  TRY(push(sort, i));
  while (sort->depth) {
    size_t top = sort->stack[sort->depth - 1];
    if (sort->state[top] == UNSEEN) {
      sort->state[top] = WAITING;
      TRY(push_makers(sort, sort->nodes[top]));
      continue;
    }
    if (sort->state[top] == WAITING)
      sort->sorted[sort->placed++] = sort->nodes[top];
    sort->state[top] = PLACED;
    sort->depth--;
  }
  return OK;
}

Status nodes_sort(Arena *arena, Onnx__NodeProto **nodes, size_t n) {
  Sort sort = {.arena = arena, .nodes = nodes};
  TRY(names_create(arena, &sort.makers));
  for (size_t i = 0; i < n; i++)
    for (size_t k = 0; k < nodes[i]->n_output; k++)
      if (*nodes[i]->output[k] && names_find(&sort.makers, nodes[i]->output[k]) < 0)
        TRY(names_put(&sort.makers, nodes[i]->output[k], (int)i));
  TRY(ARENA_NEW(arena, sort.state, n));
  TRY(ARENA_NEW(arena, sort.sorted, n));
  for (size_t i = 0; i < n; i++)
    if (sort.state[i] == UNSEEN)
      TRY(place(&sort, i));
  if (n)
    memcpy(nodes, sort.sorted, n * sizeof *nodes);
  return OK;
}
