/* What decides structure and comes from inputs of the model (axes, shapes, how often), where the data gives these
 * inputs once for all samples. Invariant: each node is computed at most once, and charged to the budget. */
#include <string.h>

#include "graph/op.h"
#include "onnx/lower/lower.h"

/* Contents of a value so far; NULL where they are not known. */
static const void *contents_of(const Lower *lower, ValueId id) {
  const Value *v = graph_value(lower->graph, id);
  return v->data ? v->data : id < lower->n_given ? lower->given[id] : NULL;
}

static Status reserve(Lower *lower) {
  size_t n = lower->n_given;
  TRY(ARENA_RESERVE(lower->arena, lower->given, n, lower->given_capacity, lower->graph->n_values));
  memset(lower->given + n, 0, (lower->graph->n_values - n) * sizeof *lower->given);
  lower->n_given = lower->graph->n_values;
  return OK;
}

/* An input of the model, where the data gives it once. */
static Status ask(Lower *lower, ValueId id, bool *known) {
  const BindOptions *options = lower->options;
  const Value *v = graph_value(lower->graph, id);
  *known = false;
  for (size_t i = 0; i < lower->graph->n_inputs && v->role == ROLE_INPUT; i++)
    if (lower->graph->inputs[i] == id) {
      size_t bytes = graph_value_bytes(lower->graph, id);
      void *data;
      TRY(budget_need(&lower->budget, bytes, 0));
      if (!(data = arena_alloc(lower->arena, bytes, 1)))
        return status_code();
      TRY(options->contents(options->contents_context, (int)i, v->dtype, v->shape, data, known));
      if (*known)
        lower->given[id] = data;
    }
  return OK;
}

static Status evaluate(Lower *lower, const Node *node) {
  Tensor *in, *out;
  size_t bytes = 0;
  TRY(ARENA_NEW(lower->arena, in, node->n_in));
  TRY(ARENA_NEW(lower->arena, out, node->n_out));
  for (int i = 0; i < node->n_out; i++)
    bytes += node->out[i] == NO_VALUE ? 0 : graph_value_bytes(lower->graph, node->out[i]);
  TRY(budget_need(&lower->budget, bytes, op_cost(lower->graph, node).flops + 1));
  for (int i = 0; i < node->n_in; i++)
    if (node->in[i] != NO_VALUE) {
      const Value *v = graph_value(lower->graph, node->in[i]);
      in[i] = tensor_at(v->dtype, v->shape, (void *)contents_of(lower, node->in[i]));
    }
  for (int i = 0; i < node->n_out; i++)
    if (node->out[i] != NO_VALUE) {
      const Value *v = graph_value(lower->graph, node->out[i]);
      out[i] = tensor_at(v->dtype, v->shape,
                         arena_alloc(lower->arena, graph_value_bytes(lower->graph, node->out[i]) + 64, 1));
      if (!out[i].data)
        return status_code();
      lower->given[node->out[i]] = out[i].data;
    }
  return lower->options->evaluate(lower->options->evaluate_context, node, in, out);
}

typedef struct {
  NodeId *list; /* nodes whose outputs are wanted: each above those that it waits for */
  size_t n, capacity;
} Waiting;

/* Puts the makers of what the node reads on top of it where they are not known yet; *known: it waits for none;
 * *possible: no input that it reads is beyond knowing. */
static Status look_below(Lower *lower, const Node *node, Waiting *waiting, bool *known, bool *possible) {
  *known = *possible = true;
  for (int i = 0; i < node->n_in && *possible; i++) {
    if (node->in[i] == NO_VALUE || contents_of(lower, node->in[i]))
      continue;
    NodeId maker = graph_value(lower->graph, node->in[i])->producer;
    if (maker == NO_NODE) {
      TRY(ask(lower, node->in[i], possible));
      continue;
    }
    *known = false;
    TRY(ARENA_RESERVE(lower->arena, waiting->list, waiting->n, waiting->capacity, waiting->n + 1));
    waiting->list[waiting->n++] = maker;
  }
  return OK;
}

/* The nodes below the value, from the bottom. */
static Status compute(Lower *lower, ValueId id, bool *known) {
  Waiting waiting = {0};
  bool possible = true;
  NodeId maker = graph_value(lower->graph, id)->producer;
  TRY(ARENA_RESERVE(lower->arena, waiting.list, waiting.n, waiting.capacity, 1));
  waiting.list[waiting.n++] = maker;
  while (waiting.n && possible) {
    const Node *node = graph_node(lower->graph, waiting.list[waiting.n - 1]);
    bool ready = false, done = true;
    TRY(budget_need(&lower->budget, 0, 1));
    for (int i = 0; i < node->n_out; i++)
      done &= node->out[i] == NO_VALUE || contents_of(lower, node->out[i]);
    if (!done)
      TRY(look_below(lower, node, &waiting, &ready, &possible));
    if (!done && ready && possible)
      TRY(evaluate(lower, node));
    if (done || ready)
      waiting.n--;
  }
  *known = possible;
  return OK;
}

Status term_given(Lower *lower, Term *term, bool *known) {
  TRY(term_known(lower, term, known));
  if (*known || !lower->options->contents || term->kind != TERM_TENSOR || term->value == NO_VALUE)
    return OK;
  TRY(reserve(lower));
  if (graph_value(lower->graph, term->value)->producer == NO_NODE)
    TRY(ask(lower, term->value, known));
  else
    TRY(compute(lower, term->value, known));
  return *known ? constant_make(lower, NULL, term->dtype, term->shape, contents_of(lower, term->value), &term->constant)
                : OK;
}
