/* Finds layers by names. Invariant: every forward node is in one block, and blocks are consecutive. */
#include "partitioner/report/blocks.h"

#include <ctype.h>
#include <string.h>

#include "graph/tensor.h"

enum { ENOUGH = 3, EVEN_BLOCKS = 48 };

/* A name as components between '.' and '/', its last one, a leaf, left out. */
typedef struct {
  const char *name;
  size_t length; /* up to the end of the last component but one */
} Path;

static bool is_split(char c) {
  return c == '.' || c == '/';
}

static Path path_of(const char *name) {
  while (is_split(*name))
    name++;
  size_t length = 0;
  for (size_t i = 0; name[i]; i++)
    if (is_split(name[i]))
      length = i;
  return (Path){name, length};
}

/* The module's name that a node tells; length 0: none. A parameter tells more than a node of an exporter that names
 * nodes by what they compute. */
static Path node_path(const Graph *g, const Node *node) {
  Path own = path_of(node->name);
  for (int k = 0; k < node->n_in && !own.length; k++) {
    const Value *v = node->in[k] == NO_VALUE ? NULL : graph_value(g, node->in[k]);
    if (v && v->name && (v->role == ROLE_PARAMETER || v->role == ROLE_BUFFER))
      own = path_of(v->name);
  }
  return own;
}

/* How many bytes all paths begin with, whole components. */
static size_t common_length(const Path *paths, int n) {
  const Path *one = NULL;
  size_t common = 0;
  for (int i = 0; i < n; i++) {
    if (!paths[i].length)
      continue;
    if (!one) {
      one = &paths[i];
      common = one->length;
    }
    size_t same = 0;
    while (same < common && same < paths[i].length && paths[i].name[same] == one->name[same])
      same++;
    common = same;
  }
  while (common > 0 && one && !is_split(one->name[common - 1]))
    common--;
  return common;
}

static size_t component_end(const Path *path, size_t at) {
  while (at < path->length && !is_split(path->name[at]))
    at++;
  return at;
}

static bool is_number(const char *text, size_t n) {
  size_t digits = 0;
  while (digits < n && isdigit((unsigned char)text[digits]))
    digits++;
  return n > 0 && digits == n;
}

/* Up to the first component that is a number or ends in one ("h.3", "conv_1", "layer2.0"), or all. */
static size_t scope_length(const Path *path, size_t common) {
  size_t at = common;
  while (at < path->length) {
    size_t end = component_end(path, at), next = end < path->length ? component_end(path, end + 1) : end;
    if (isdigit((unsigned char)path->name[end - 1])) {
      bool more =
          next > end && !is_number(path->name + at, end - at) && is_number(path->name + end + 1, next - end - 1);
      return (more ? next : end) - common;
    }
    at = end < path->length ? end + 1 : end;
  }
  return path->length - common;
}

static Status end_block(Arena *arena, NodeBlocks *b, size_t *capacity, const char *label, size_t length, int first,
                        int last) {
  TRY(ARENA_RESERVE(arena, b->blocks, (size_t)b->n, *capacity, (size_t)b->n + 1));
  char *name = arena_format(arena, "%.*s", (int)length, label);
  b->blocks[b->n++] = (NodeBlock){.label = name, .first = first, .last = last};
  return name ? OK : status_code();
}

static Status find_scopes(Arena *arena, const Graph *g, NodeBlocks *b) {
  Path *paths;
  size_t capacity = 0, length = 0;
  const char *label = NULL;
  int first = 0;
  TRY(ARENA_NEW(arena, paths, b->n_nodes));
  for (int i = 0; i < b->n_nodes; i++)
    paths[i] = node_path(g, b->nodes[i]);
  size_t common = common_length(paths, b->n_nodes);
  for (int i = 0; i < b->n_nodes; i++) {
    size_t own = paths[i].length > common ? scope_length(&paths[i], common) : 0;
    if (!own || (label && own == length && strncmp(label, paths[i].name + common, own) == 0))
      continue;
    if (label)
      TRY(end_block(arena, b, &capacity, label, length, first, i - 1));
    first = label ? i : 0;
    label = paths[i].name + common;
    length = own;
  }
  return label ? end_block(arena, b, &capacity, label, length, first, b->n_nodes - 1) : OK;
}

static Status split_evenly(Arena *arena, NodeBlocks *b) {
  int each = (b->n_nodes + EVEN_BLOCKS - 1) / EVEN_BLOCKS;
  size_t capacity = 0;
  b->blocks = NULL;
  b->n = 0;
  for (int first = 0; first < b->n_nodes; first += each) {
    const char *name = b->nodes[first]->name;
    int last = first + each < b->n_nodes ? first + each - 1 : b->n_nodes - 1;
    TRY(end_block(arena, b, &capacity, name, strlen(name), first, last));
  }
  return OK;
}

Status blocks_find(Arena *arena, const Graph *graph, NodeBlocks *blocks) {
  NodeBlocks *b = blocks;
  *b = (NodeBlocks){0};
  TRY(ARENA_NEW(arena, b->nodes, graph->n_nodes));
  TRY(ARENA_NEW(arena, b->block_of, graph->n_nodes));
  for (size_t i = 0; i < graph->n_nodes; i++)
    if (graph->nodes[i]->phase == PHASE_F)
      b->nodes[b->n_nodes++] = graph->nodes[i];
  TRY(find_scopes(arena, graph, b));
  if (b->n < ENOUGH || b->n > MOST_NODE_BLOCKS)
    TRY(split_evenly(arena, b));
  for (size_t i = 0; i < graph->n_nodes; i++)
    b->block_of[i] = -1;
  for (int k = 0; k < b->n; k++)
    for (int i = b->blocks[k].first; i <= b->blocks[k].last; i++)
      b->block_of[b->nodes[i]->id] = k;
  return OK;
}
