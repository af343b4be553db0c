/* What one import may take. Invariant: whatever a file can make large is charged before it is made, so that a small
 * file takes little memory and time whatever it says, and a large one some multiple of itself. */
#include "graph/op.h"
#include "onnx/lower/lower.h"

/* For any file; what a file adds is in budget_of. */
enum {
  ARENA_BYTES = 160 << 20,
  FOLD_NODE_BYTES = 80 << 20,
  FOLD_NODE_MOST = 256 << 20, /* also in a large file */
  FOLD_ALL_BYTES = 256 << 20,
  KEPT_BYTES = 256 << 20,
  REPEAT_BYTES = 96 << 20,
  VALUES = 1 << 15,
  BODY_NODES = 1 << 17,
  USUAL_SAMPLES = 32 /* of a microbatch that nobody asked for */
};
static const double FOLD_FLOPS = 2e8, KEPT_FLOPS = 2e9;

static size_t add(size_t a, size_t factor, size_t b) {
  size_t more, all;
  if (__builtin_mul_overflow(factor, b, &more) || __builtin_add_overflow(a, more, &all))
    return SIZE_MAX / 2;
  return all;
}

Budget budget_of(const Model *model) {
  size_t data = model->data_bytes, node = add(FOLD_NODE_BYTES, 2, data);
  return (Budget){.arena_bytes = add(ARENA_BYTES, 8, data),
                  .fold_node_bytes = node < FOLD_NODE_MOST ? node : FOLD_NODE_MOST,
                  .fold_bytes = add(FOLD_ALL_BYTES, 8, data),
                  .fold_flops = FOLD_FLOPS + 2 * (double)data,
                  .kept_bytes = KEPT_BYTES + 8 * model->weight_bytes,
                  .kept_flops = KEPT_FLOPS + 64 * model->weight_bytes,
                  .repeat_bytes = add(REPEAT_BYTES, 2, data),
                  .body_nodes = (size_t)BODY_NODES + model->file_bytes / 8,
                  .values = (size_t)VALUES + 16 * (size_t)model->n_inlined + model->file_bytes / 8};
}

void budget_samples(Budget *budget, int64_t samples) {
  if (samples > USUAL_SAMPLES)
    budget->kept_bytes *= (double)samples / USUAL_SAMPLES;
}

bool budget_fold(Budget *budget, size_t bytes, double flops) {
  bool fits = flops >= 0 && flops <= budget->fold_flops; /* neither does what is no number */
  if (bytes > budget->fold_node_bytes || bytes > budget->fold_bytes || !fits)
    return false;
  budget->fold_bytes -= bytes;
  budget->fold_flops -= flops;
  return true;
}

Status budget_need(Budget *budget, size_t bytes, double flops) {
  if (budget_fold(budget, bytes, flops))
    return OK;
  size_t left = bytes > budget->fold_node_bytes ? budget->fold_node_bytes : budget->fold_bytes;
  return fail(E_LIMIT,
              "computing it takes %zu bytes and %.3g steps: the import of this file may take %zu and %.3g more", bytes,
              flops, left, budget->fold_flops);
}

Status budget_repeat(Budget *budget, const Constant *c, Shape shape, size_t bytes) {
  if (shape_elements(shape) <= shape_elements(c->stored))
    return OK;
  if (bytes > budget->repeat_bytes)
    return fail(E_LIMIT, "constant %s repeated to %s, %zu bytes: too much to write out; fewer samples need less",
                SHAPE_STR(c->stored), SHAPE_STR(shape), bytes);
  budget->repeat_bytes -= bytes;
  return OK;
}

Status budget_body(Budget *budget, size_t n_nodes) {
  if (n_nodes >= budget->body_nodes)
    return fail(E_LIMIT, "a run of its body of %zu nodes is too much: the import of this file may unroll %zu more",
                n_nodes, budget->body_nodes);
  budget->body_nodes -= n_nodes + 1;
  return OK;
}

/* Whether no input of the model reaches the value. */
static bool is_fixed(const Lower *lower, ValueId id) {
  const Value *v = graph_value(lower->graph, id);
  return v->producer == NO_NODE ? v->role != ROLE_INPUT : lower->fixed[id];
}

static Status charge_fixed(Lower *lower, const Node *node) {
  Budget *budget = &lower->budget;
  double bytes = 0, flops = op_cost(lower->graph, node).flops;
  for (int i = 0; i < node->n_out; i++)
    bytes += (double)graph_value_bytes(lower->graph, node->out[i]);
  if (op_def(node->op)->traits & OP_VIEW)
    bytes = flops = 0;
  if (bytes > budget->kept_bytes || flops > budget->kept_flops)
    return fail(
        E_LIMIT,
        "no input of the model reaches it, and it takes %.0f bytes and %.3g steps: a file with such weights may "
        "take %.0f and %.3g more for this",
        bytes, flops, budget->kept_bytes, budget->kept_flops);
  budget->kept_bytes -= bytes;
  budget->kept_flops -= flops;
  return OK;
}

Status budget_node(Lower *lower, const Node *node) {
  bool fixed = true;
  size_t n = lower->graph->n_values;
  if (n > lower->budget.values)
    return fail(E_LIMIT, "the graph gets %zu values: a file of this size may make %zu", n, lower->budget.values);
  for (int i = 0; i < node->n_in && fixed; i++)
    fixed = node->in[i] == NO_VALUE || is_fixed(lower, node->in[i]);
  TRY(ARENA_RESERVE(lower->arena, lower->fixed, lower->n_fixed, lower->fixed_capacity, n));
  lower->n_fixed = n;
  for (int i = 0; i < node->n_out; i++)
    lower->fixed[node->out[i]] = fixed;
  return fixed ? charge_fixed(lower, node) : OK;
}
