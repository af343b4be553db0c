/* Runs a bound graph on the host, node by node: the oracle of the tests that compare with what PyTorch gave. */
#ifndef TESTS_ONNX_RUN_GRAPH_H
#define TESTS_ONNX_RUN_GRAPH_H

#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "graph/op.h"
#include "onnx/model.h"
#include "tests/test.h"

/* values[id]: dense contents of every value that is in the graph when a run ends, in `arena`. Inputs are set before. */
typedef struct {
  Arena *arena;
  const Model *model;
  const Graph *graph;
  void **values;
} GraphRun;

static inline void run_begin(GraphRun *run, Arena *arena, const Model *model, const Graph *graph) {
  *run = (GraphRun){arena, model, graph, NULL};
  ASSERT_OK(ARENA_NEW(arena, run->values, graph->n_values));
}

static inline void *run_room(GraphRun *run, ValueId id) {
  char *room = arena_alloc(run->arena, graph_value_bytes(run->graph, id) + 64, 1);
  assert_non_null(room);
  return run->values[id] = room;
}

static inline Tensor run_tensor(GraphRun *run, ValueId id) {
  if (id == NO_VALUE)
    return (Tensor){0};
  const Value *v = graph_value(run->graph, id);
  if (!run->values[id] && v->data)
    memcpy(run_room(run, id), v->data, graph_value_bytes(run->graph, id));
  if (!run->values[id] && v->initializer >= 0)
    ASSERT_OK(model_read_initializer(run->model, v->initializer, run_room(run, id), graph_value_bytes(run->graph, id)));
  if (!run->values[id])
    run_room(run, id);
  return tensor_at(v->dtype, v->shape, run->values[id]);
}

static inline Status run_graph_status(GraphRun *run) {
  for (size_t i = 0; i < run->graph->n_nodes; i++) {
    const Node *node = run->graph->nodes[i];
    Tensor in[64], out[64];
    assert_true(node->n_in <= 64 && node->n_out <= 64);
    for (int k = 0; k < node->n_in; k++)
      in[k] = run_tensor(run, node->in[k]);
    for (int k = 0; k < node->n_out; k++)
      out[k] = run_tensor(run, node->out[k]);
    TRY(backend_evaluate(NULL, node, in, out));
  }
  return OK;
}

static inline void run_graph(GraphRun *run) {
  ASSERT_OK(run_graph_status(run));
}

/* One line a node, for a person who looks for a mistake. */
static inline void print_graph(const Graph *graph) {
  for (size_t i = 0; i < graph->n_nodes; i++) {
    const Node *node = graph->nodes[i];
    printf("%s '%s':", op_def(node->op)->name, node->name);
    for (int k = 0; k < node->n_in; k++)
      if (node->in[k] != NO_VALUE) {
        const Value *v = graph_value(graph, node->in[k]);
        printf(" %s%s%s", v->name, SHAPE_STR(v->shape),
               v->role == ROLE_CONSTANT    ? "c"
               : v->role == ROLE_PARAMETER ? "p"
                                           : "");
      }
    printf(" ->");
    for (int k = 0; k < node->n_out; k++)
      if (node->out[k] != NO_VALUE) {
        const Value *v = graph_value(graph, node->out[k]);
        printf(" %s%s b%d", v->name, SHAPE_STR(v->shape),
               v->batch.kind == BATCH_AXIS ? v->batch.axis : -(int)v->batch.kind);
      }
    for (int k = 0; k < node->n_attrs; k++) {
      const Attr *a = &node->attrs[k];
      printf(" %s=", a->name);
      if (a->kind == ATTR_INT)
        printf("%lld", (long long)a->i);
      else if (a->kind == ATTR_FLOAT)
        printf("%g", a->f);
      else if (a->kind == ATTR_STRING)
        printf("%s", a->s);
      for (int j = 0; a->kind == ATTR_INTS && j < a->n; j++)
        printf("%s%lld", j ? "," : "[", (long long)a->ints[j]);
      printf("%s", a->kind == ATTR_INTS ? "]" : "");
    }
    printf("\n");
  }
}

#endif
