/* Graphs as lines of text, for tests of passes: "y = ReduceMean x axes:1 keepdims:1". What stands there as a number is
 * a constant scalar; attributes are integers, several apart by commas; so are names of several outputs. The last line
 * makes the output. */
#ifndef TESTS_GRAPH_SPELLED_H
#define TESTS_GRAPH_SPELLED_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "graph/passes/passes.h"
#include "tests/test.h"

enum { SPELLED_MOST = 256 };

typedef struct {
  Graph *g;
  const char *name[SPELLED_MOST]; /* of the graph's value with this number, as the lines call it */
} Spelled;

static inline void spelled_input(Spelled *s, const char *name, Role role, int rank, const int64_t *dims) {
  ValueId id;
  ASSERT_OK(graph_add_value(s->g, name, F32, shape_of(rank, dims), role, &id));
  if (role == ROLE_INPUT)
    ASSERT_OK(graph_add_input(s->g, id));
  s->name[id] = graph_value(s->g, id)->name;
}

static inline ValueId spelled_find(Spelled *s, const char *word) {
  char *end;
  float number = strtof(word, &end);
  ValueId id;
  for (id = 0; id < s->g->n_values; id++)
    if (s->name[id] && strcmp(s->name[id], word) == 0)
      return id;
  if (*end)
    FAIL_TEST("'%s' is not made before it is used", word);
  ASSERT_OK(graph_add_constant(s->g, word, F32, (Shape){0}, &number, &id));
  return id;
}

/* One line, which may fail. */
static inline Status spelled_try(Spelled *s, const char *line) {
  enum { MOST = 8 };
  static int64_t ints[MOST][MOST];
  char text[128], *at, *name, *op;
  ValueId in[MOST];
  Attr attrs[MOST];
  int n_in = 0, n_attrs = 0;
  NodeId node;
  snprintf(text, sizeof text, "%s", line);
  name = strtok_r(text, " =", &at);
  op = strtok_r(NULL, " =", &at);
  for (char *word; (word = strtok_r(NULL, " ", &at));) {
    char *colon = strchr(word, ':');
    if (!colon) {
      in[n_in++] = spelled_find(s, word);
      continue;
    }
    int n = 0;
    *colon = '\0';
    for (char *number = colon + 1; *number; number += *number == ',')
      ints[n_attrs][n++] = strtoll(number, &number, 10);
    bool one = strcmp(word, "keepdims") == 0 || strcmp(word, "axis") == 0 || strncmp(word, "trans", 5) == 0 ||
               strcmp(word, "to") == 0 || strcmp(word, "heads") == 0 || strcmp(word, "groups") == 0 ||
               strcmp(word, "size") == 0 || strcmp(word, "value_size") == 0;
    attrs[n_attrs] = one ? attr_int(word, ints[n_attrs][0]) : attr_ints(word, ints[n_attrs], n);
    n_attrs++;
  }
  OpKind kind = op_find(op);
  if (kind == OP_COUNT)
    FAIL_TEST("'%s' is no operator", op);
  int n_out = op_def(kind)->min_out, named = 1;
  for (const char *comma = name; (comma = strchr(comma, ',')); comma++)
    named++;
  TRY(graph_add_node(s->g, kind, name, in, n_in, attrs, n_attrs, NULL, named > n_out ? named : n_out, &node));
  for (int i = 0; i < named; i++) {
    size_t length = strcspn(name, ",");
    assert_non_null(s->name[graph_node(s->g, node)->out[i]] = arena_format(s->g->arena, "%.*s", (int)length, name));
    name += length + 1;
  }
  return OK;
}

static inline Spelled spelled_begin(Arena *arena) {
  Spelled s = {0};
  ASSERT_OK(graph_create(arena, "spelled", &s.g));
  return s;
}

/* Lines up to NULL. */
static inline void spelled_end(Spelled *s, const char *const *lines) {
  for (; *lines; lines++)
    ASSERT_OK(spelled_try(s, *lines));
  ASSERT_OK(graph_add_output(s->g, (ValueId)s->g->n_values - 1));
}

/* The first output, of inputs and parameters with contents that their names decide; the caller's to free with the
 * arena. Nodes of several outputs have theirs. */
static inline float *spelled_evaluate(Arena *arena, const Graph *g) {
  void **data;
  ASSERT_OK(ARENA_NEW(arena, data, g->n_values));
  for (ValueId v = 0; v < g->n_values; v++) {
    const Value *value = graph_value(g, v);
    assert_non_null(data[v] = arena_alloc(arena, graph_value_bytes(g, v), 1));
    if (value->data)
      memcpy(data[v], value->data, graph_value_bytes(g, v));
    else if (value->producer == NO_NODE && value->dtype == F32)
      for (int64_t i = 0; i < shape_elements(value->shape); i++)
        ((float *)data[v])[i] = (float)(3 * sin((double)(i + 1) * (value->name[0] - 'a' + 1.7)));
  }
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *n = g->nodes[i];
    Tensor in[8] = {{0}}, out[8] = {{0}};
    for (int k = 0; k < n->n_in; k++)
      if (n->in[k] != NO_VALUE)
        in[k] = tensor_at(graph_value(g, n->in[k])->dtype, graph_value(g, n->in[k])->shape, data[n->in[k]]);
    for (int k = 0; k < n->n_out; k++)
      out[k] = tensor_at(graph_value(g, n->out[k])->dtype, graph_value(g, n->out[k])->shape, data[n->out[k]]);
    ASSERT_OK(backend_evaluate(NULL, n, in, out));
  }
  return data[g->outputs[0]];
}

/* "LayerNormalization Add": the operators that are left, in order. */
static inline void spelled_is(const Graph *g, const char *operators) {
  char text[512] = "";
  for (size_t i = 0; i < g->n_nodes; i++)
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? " " : "", op_def(g->nodes[i]->op)->name);
  assert_string_equal(text, operators);
}

/* Both graphs give the same, to `tolerance` of the largest. */
static inline void spelled_same(Arena *arena, const Graph *a, const Graph *b, float tolerance) {
  const float *x = spelled_evaluate(arena, a), *y = spelled_evaluate(arena, b);
  Shape shape = graph_value(a, a->outputs[0])->shape;
  assert_true(shape_equal(shape, graph_value(b, b->outputs[0])->shape));
  for (int64_t i = 0; i < shape_elements(shape); i++)
    if (!(fabsf(x[i] - y[i]) <= tolerance * fmaxf(1, fabsf(x[i]))))
      FAIL_TEST("element %d: %g as spelled out, %g fused", (int)i, x[i], y[i]);
}

/* What all passes make of it. */
static inline Graph *spelled_fuse(Arena *arena, const Spelled *s) {
  Graph *to;
  ASSERT_OK(graph_fuse(s->g, NULL, NULL, NULL, NULL, arena, &to));
  return to;
}

#endif
