/* The backends of this build. */
#include "backend/backend.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/reference/reference.h"
#include "backend/wide.h"
#include "base/text.h"
#include "graph/op.h"

#ifndef ONNXPIPE_CUDA
#pragma weak backend_cuda /* tests link an emulated one */
#endif

const Backend *const backends[] = {&backend_cpu, &backend_reference, &backend_cuda, NULL};

const Backend *backend_find(const char *name) {
  for (int i = 0; backends[i]; i++)
    if (strcmp(backends[i]->name, name) == 0)
      return backends[i];
  return NULL;
}

/* "float32", or the types of the inputs where they differ: "float32, int64". */
static const char *input_types(const Graph *graph, const Node *node, char text[64]) {
  DType last = DTYPE_NONE;
  size_t at = 0;
  text[0] = '\0';
  for (int i = 0; i < node->n_in && at < 40; i++) {
    DType dtype = node->in[i] == NO_VALUE ? last : graph_value(graph, node->in[i])->dtype;
    if (dtype != last)
      at += (size_t)snprintf(text + at, 64 - at, "%s%s", at ? ", " : "", dtype_name(dtype));
    last = dtype;
  }
  return text;
}

bool backend_accepts(const Backend *backend, const Graph *graph, const Node *node) {
  return backend->kernels[node->op] && wide_accepts(backend, graph, node);
}

size_t backend_workspace_bytes(const Backend *backend, const Graph *graph, const Node *node) {
  return wide_workspace(backend, graph, node, WORKSPACE_BUDGET);
}

/* Nodes of one operator that are computed in one way. */
typedef struct {
  char way[WAY_BYTES];
  OpKind op;
  int n;
} Ways;

static Status count_ways(const Backend *backend, const Graph *graph, Arena *arena, Ways **ways, size_t *n) {
  size_t capacity = 0;
  for (size_t i = 0; i < graph->n_nodes; i++) {
    const Node *node = graph->nodes[i];
    char way[WAY_BYTES] = "";
    size_t at = 0;
    if (op_def(node->op)->traits & OP_VIEW)
      continue;
    if (wide_copies(backend, graph, node))
      snprintf(way, sizeof way, "%s, on copies in float32", backend->name);
    else if (backend->way)
      backend->way(graph, node, way);
    else
      snprintf(way, sizeof way, "%s", backend->name);
    while (at < *n && ((*ways)[at].op != node->op || strcmp((*ways)[at].way, way) != 0))
      at++;
    if (at == *n) {
      TRY(ARENA_RESERVE(arena, *ways, *n, capacity, *n + 1));
      (*ways)[*n] = (Ways){.op = node->op};
      memcpy((*ways)[(*n)++].way, way, sizeof way);
    }
    (*ways)[at].n++;
  }
  return OK;
}

Status backend_kernels_text(const Backend *backend, const Graph *graph, Arena *arena, const char **text) {
  Ways *ways = NULL;
  size_t n = 0;
  Text line = {0};
  TRY(count_ways(backend, graph, arena, &ways, &n));
  for (size_t i = 0; i < n; i++) {
    if (!ways[i].n)
      continue;
    text_add(&line, "%s%s:", i ? "; " : "", ways[i].way);
    for (size_t k = i, seen = 0; k < n; k++)
      if (ways[k].n && strcmp(ways[k].way, ways[i].way) == 0) {
        text_add(&line, "%s %s %d", seen++ ? "," : "", op_def(ways[k].op)->name, ways[k].n);
        ways[k].n = 0;
      }
  }
  const char *whole = text_whole(&line);
  *text = whole ? arena_format(arena, "%s", whole) : NULL;
  text_free(&line);
  return *text ? OK : status_code();
}

Status backend_prepare(const Backend *backend, Stream *stream, const Node *node, const Tensor *in, const Tensor *out,
                       size_t workspace_bytes, NodeKernel *kernel) {
  Status status = wide_prepare(backend, stream, node, in, out, workspace_bytes, kernel);
  if (status != OK)
    node_context(node);
  return status;
}

void backend_forget(const NodeKernel *kernel) {
  if (kernel->state)
    kernel->release(kernel->state);
}

Status backend_check(const Backend *backend, const Graph *graph) {
  char missing[2048] = "";
  size_t at = 0, count = 0;
  for (size_t i = 0; i < graph->n_nodes; i++) {
    const Node *node = graph->nodes[i];
    if (backend_accepts(backend, graph, node))
      continue;
    char types[64];
    int wrote = snprintf(missing + at, sizeof missing - at, "%s'%s' (%s of %s)", count++ ? ", " : "", node->name,
                         op_def(node->op)->name, input_types(graph, node, types));
    at = at + (size_t)wrote < sizeof missing ? at + (size_t)wrote : sizeof missing - 1;
  }
  return count ? fail(E_UNSUPPORTED, "backend %s cannot run %zu node%s: %s", backend->name, count,
                      count == 1 ? "" : "s", missing)
               : OK;
}

/* What the kernel takes, where there is no graph: asked of one that has the inputs alone. */
static size_t workspace_of(const KernelDef *kernel, const Node *node, const Tensor *in) {
  enum { MOST = 16 };
  Value value[MOST], *values[MOST];
  ValueId ids[MOST];
  Graph graph = {.values = values, .n_values = (size_t)node->n_in};
  Node alone = *node;
  if (!kernel->workspace)
    return 0;
  assert(node->n_in <= MOST);
  for (int i = 0; i < node->n_in; i++) {
    value[i] = (Value){.dtype = in[i].dtype, .shape = in[i].shape};
    values[i] = &value[i];
    ids[i] = node->in[i] == NO_VALUE ? NO_VALUE : (ValueId)i;
  }
  alone.in = ids;
  return kernel->workspace(&graph, &alone, WORKSPACE_BUDGET);
}

Status backend_evaluate(void *unused, const Node *node, const Tensor *in, const Tensor *out) {
  (void)unused;
  const KernelDef *kernel = reference_kernels[node->op];
  size_t bytes = workspace_of(kernel, node, in);
  void *workspace = NULL;
  if (bytes && !(workspace = malloc(bytes)))
    return fail(E_MEMORY, "out of memory: %zu bytes", bytes);
  Status status = kernel->run(NULL, node, in, out, workspace, NULL);
  free(workspace);
  return status;
}
