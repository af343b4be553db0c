/* One measurement for each kind of node. Invariant: a node's number is negative or that of a node of its kind. */
#include "runtime/job/profiler.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "graph/memory.h"
#include "graph/narrow.h"
#include "graph/op.h"

/* A kind of node, by its first. */
typedef struct {
  NodeId first;
  double weight; /* predicted seconds of all its nodes */
  double seconds;
} Kind;

typedef struct {
  const Graph *graph;
  const Backend *backend;
  Stream *stream;
  Kind *kinds;
  int n_kinds;
  int *kind_of; /* [n_nodes]; -1: a view */
} Profiler;

/* Calls of one kind at most, after one that is not counted. */
enum { MOST_CALLS = 5 };

static bool same_attr(const Attr *a, const Attr *b) {
  if (strcmp(a->name, b->name) != 0 || a->kind != b->kind || a->i != b->i || a->n != b->n ||
      memcmp(&a->f, &b->f, sizeof a->f) != 0)
    return false;
  if ((a->s == NULL) != (b->s == NULL) || (a->s && strcmp(a->s, b->s) != 0))
    return false;
  size_t n = (size_t)a->n;
  return n == 0 || ((a->kind != ATTR_INTS || memcmp(a->ints, b->ints, n * sizeof *a->ints) == 0) &&
                    (a->kind != ATTR_FLOATS || memcmp(a->floats, b->floats, n * sizeof *a->floats) == 0));
}

static bool same_value(const Graph *g, ValueId a, ValueId b) {
  if (a == NO_VALUE || b == NO_VALUE)
    return a == b;
  return graph_value(g, a)->dtype == graph_value(g, b)->dtype &&
         shape_equal(graph_value(g, a)->shape, graph_value(g, b)->shape);
}

static bool same_kind(const Graph *g, const Node *a, const Node *b) {
  if (a->op != b->op || a->n_in != b->n_in || a->n_out != b->n_out || a->n_attrs != b->n_attrs)
    return false;
  for (int i = 0; i < a->n_in; i++)
    if (!same_value(g, a->in[i], b->in[i]))
      return false;
  for (int i = 0; i < a->n_out; i++)
    if (!same_value(g, a->out[i], b->out[i]))
      return false;
  for (int i = 0; i < a->n_attrs; i++)
    if (!same_attr(&a->attrs[i], &b->attrs[i]))
      return false;
  return true;
}

static Status find_kinds(Profiler *p, Arena *arena, const DeviceSpec *device) {
  const Graph *g = p->graph;
  int *next, last[OP_COUNT]; /* kinds of one operator are chained, the newest first */
  TRY(ARENA_NEW(arena, p->kinds, g->n_nodes));
  TRY(ARENA_NEW(arena, p->kind_of, g->n_nodes));
  TRY(ARENA_NEW(arena, next, g->n_nodes));
  for (int op = 0; op < OP_COUNT; op++)
    last[op] = -1;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    p->kind_of[i] = -1;
    if (op_def(node->op)->traits & OP_VIEW)
      continue;
    int k = last[node->op];
    while (k >= 0 && !same_kind(g, g->nodes[p->kinds[k].first], node))
      k = next[k];
    if (k < 0) {
      k = p->n_kinds++;
      p->kinds[k] = (Kind){.first = node->id, .seconds = -1};
      next[k] = last[node->op];
      last[node->op] = k;
    }
    p->kind_of[i] = k;
    p->kinds[k].weight += op_seconds(g, node, device);
  }
  return OK;
}

/* Heaviest first; among equals in graph order. */
static int by_weight(const void *a, const void *b) {
  const Kind *x = *(const Kind *const *)a, *y = *(const Kind *const *)b;
  if (x->weight != y->weight)
    return x->weight < y->weight ? 1 : -1;
  return x->first < y->first ? -1 : 1;
}

/* Numbers that no operator minds: floats around 1; integers 0, which is an index wherever there is one, but 1 where it
 * divides. */
static void make_up(const Node *node, int input, Tensor *tensor, char *data, size_t bytes) {
  bool divides = input == 1 && op_def(node->op)->traits & OP_DIVIDES;
  size_t n = (size_t)shape_elements(tensor->shape), wide = dtype_bytes(tensor->dtype);
  memset(data, 0, bytes);
  for (size_t i = 0; i < n && tensor->dtype == F32; i++)
    ((float *)data)[i] = 0.5f + (float)(i % 61) / 61;
  for (size_t i = 0; i < n && tensor->dtype == BF16; i++)
    ((uint16_t *)data)[i] = bf16_bits(0.5f + (float)(i % 61) / 61);
  for (size_t i = 0; i < n && tensor->dtype == F64; i++)
    ((double *)data)[i] = 0.5 + (double)(i % 61) / 61;
  for (size_t i = 0; i < n && divides && !dtype_is_float(tensor->dtype); i++)
    data[i * wide] = 1; /* little-endian */
}

/* The node's tensors one after the other, then the workspace. */
typedef struct {
  Tensor *tensors;  /* [n_in + n_out] */
  size_t *offset;   /* of each; SIZE_MAX: absent */
  size_t workspace; /* offset */
  size_t bytes;
  NodeKernel kernel;
} Bench;

static Status take(size_t *total, size_t bytes, size_t *offset) {
  *offset = *total;
  if (!checked_add(*total, bytes, total) || *total > SIZE_MAX / 2)
    return fail(E_LIMIT, "sizes overflow");
  *total = memory_units(*total);
  return OK;
}

static Status lay_out(const Profiler *p, Arena *arena, const Node *node, Bench *bench) {
  int n = node->n_in + node->n_out;
  *bench = (Bench){0};
  TRY(ARENA_NEW(arena, bench->tensors, n));
  TRY(ARENA_NEW(arena, bench->offset, n));
  for (int i = 0; i < n; i++) {
    ValueId v = i < node->n_in ? node->in[i] : node->out[i - node->n_in];
    bench->offset[i] = SIZE_MAX;
    if (v == NO_VALUE)
      continue;
    const Value *value = graph_value(p->graph, v);
    bench->tensors[i] = (Tensor){.dtype = value->dtype, .shape = value->shape};
    TRY(take(&bench->bytes, graph_value_bytes(p->graph, v), &bench->offset[i]));
  }
  return take(&bench->bytes, node_workspace_bytes(p->graph, node, -1), &bench->workspace);
}

static Status fill(const Profiler *p, Arena *arena, const Node *node, Bench *bench, char *base) {
  for (int i = 0; i < node->n_in + node->n_out; i++) {
    if (bench->offset[i] == SIZE_MAX)
      continue;
    bench->tensors[i].data = base + bench->offset[i];
    if (i >= node->n_in)
      continue;
    size_t bytes = graph_value_bytes(p->graph, node->in[i]);
    char *host = p->backend->is_host ? bench->tensors[i].data : arena_alloc(arena, bytes, 1);
    if (!host)
      return status_code();
    make_up(node, i, &bench->tensors[i], host, bytes);
    if (!p->backend->is_host)
      TRY(p->backend->copy(p->stream, bench->tensors[i].data, host, bytes, COPY_HOST_TO_DEVICE));
  }
  return p->backend->stream_wait(p->stream);
}

static Status call(const Profiler *p, const Node *node, const Bench *bench, char *base, double *seconds) {
  double begin = clock_seconds();
  TRY(bench->kernel.run(p->stream, node, bench->tensors, bench->tensors + node->n_in, base + bench->workspace,
                        bench->kernel.state));
  TRY(p->backend->stream_wait(p->stream));
  *seconds = clock_seconds() - begin;
  return OK;
}

/* The fastest of a few calls, as many as the time allows, the first not counted unless it is the only one. */
static Status measure(const Profiler *p, Arena *arena, Kind *kind, double until) {
  const Node *node = p->graph->nodes[kind->first];
  Bench bench;
  void *memory;
  TRY(lay_out(p, arena, node, &bench));
  TRY(p->backend->alloc(p->stream, bench.bytes, &memory));
  Status status = fill(p, arena, node, &bench, memory);
  double seconds, best = -1;
  if (status == OK)
    status = backend_prepare(p->backend, p->stream, node, bench.tensors, bench.tensors + node->n_in,
                             node_workspace_bytes(p->graph, node, -1), &bench.kernel);
  if (status == OK)
    status = call(p, node, &bench, memory, &best);
  for (int i = 0; i < MOST_CALLS && status == OK && clock_seconds() + best < until; i++) {
    status = call(p, node, &bench, memory, &seconds);
    best = i == 0 || seconds < best ? seconds : best;
  }
  backend_forget(&bench.kernel);
  p->backend->release(p->stream, memory);
  kind->seconds = status == OK ? best : -1;
  return status;
}

/* A kind that cannot be measured stays unknown: the roofline stands in for it. */
static Status measure_kinds(Profiler *p, Arena *arena, double until) {
  Kind **order;
  TRY(ARENA_NEW(arena, order, p->n_kinds));
  for (int k = 0; k < p->n_kinds; k++)
    order[k] = &p->kinds[k];
  qsort(order, (size_t)p->n_kinds, sizeof *order, by_weight);
  for (int k = 0; k < p->n_kinds && clock_seconds() < until; k++) {
    Arena *scratch = arena_create();
    if (!scratch)
      return status_code();
    (void)measure(p, scratch, order[k], until);
    arena_destroy(scratch);
  }
  return OK;
}

Status profile_nodes(const Graph *graph, const Backend *backend, int device, int threads, double budget_seconds,
                     double *node_seconds) {
  Profiler p = {.graph = graph, .backend = backend};
  DeviceSpec spec;
  double until = clock_seconds() + budget_seconds;
  TRY(backend_check(backend, graph));
  TRY(backend->describe(device, &spec));
  TRY(backend->stream_open(device, threads, &p.stream));
  Arena *arena = arena_create();
  Status status = arena ? find_kinds(&p, arena, &spec) : status_code();
  if (status == OK)
    status = measure_kinds(&p, arena, until);
  for (size_t i = 0; i < graph->n_nodes && status == OK; i++)
    node_seconds[i] = p.kind_of[i] < 0 ? 0 : p.kinds[p.kind_of[i]].seconds;
  arena_destroy(arena);
  backend->stream_close(p.stream);
  return status;
}
