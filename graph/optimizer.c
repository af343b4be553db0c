/* Optimizers as update nodes. Invariant: one SquaredNorm and one update node for each parameter that has
 * accumulators. */
#include "graph/optimizer.h"

#include <math.h>
#include <string.h>

#include "graph/autodiff.h"

static const char *const names[OPTIMIZER_COUNT] = {"sgd", "adam", "adamw", "sparse_adam"};

OptimizerKind optimizer_find(const char *name) {
  for (int i = 0; i < OPTIMIZER_COUNT; i++)
    if (strcmp(names[i], name) == 0)
      return (OptimizerKind)i;
  return OPTIMIZER_COUNT;
}

OptimizerSpec optimizer_defaults(OptimizerKind kind) {
  return (OptimizerSpec){.kind = kind,
                         .learning_rate = 1e-3,
                         .beta1 = 0.9,
                         .beta2 = 0.999,
                         .epsilon = 1e-8,
                         .weight_decay = kind == OPTIMIZER_ADAMW ? 0.01 : 0};
}

static Status add_state(Graph *graph, ValueId parameter, const char *what, ValueId *state) {
  const Value *p = graph_value(graph, parameter);
  const char *name = arena_format(graph->arena, "%s/%s", p->name, what);
  if (!name)
    return status_code();
  TRY(graph_add_value(graph, name, p->dtype, p->shape, ROLE_STATE, state));
  graph_value(graph, *state)->parameter = parameter;
  return OK;
}

Keep optimizer_keeps(const OptimizerSpec *spec) {
  return spec->kind == OPTIMIZER_SPARSE_ADAM ? KEEP_ROWS : KEEP_LESS;
}

bool optimizer_updates_rows(const OptimizerSpec *spec) {
  bool plain = spec->momentum == 0 && spec->weight_decay == 0;
  return spec->kind == OPTIMIZER_SPARSE_ADAM || (spec->kind == OPTIMIZER_SGD && plain);
}

void optimizer_choose(Graph *graph, const OptimizerSpec *spec, int64_t microbatches, bool able) {
  Keep keep = optimizer_keeps(spec);
  if (keep == KEEP_LESS && !able)
    keep = KEEP_ALL;
  graph->microbatches = microbatches;
  for (ValueId v = 0; v < graph->n_values; v++)
    if (graph_value(graph, v)->role == ROLE_PARAMETER)
      graph_value(graph, v)->keep = keep;
}

/* A parameter's gradient as the inputs of its nodes: accumulators, or rows and places in their stead. */
typedef struct {
  ValueId in[2 * MAX_GROUPS];
  int n, n_groups, n_rows; /* inputs; groups, and those with rows */
} Gradient;

static Gradient gradient_of(const Graph *graph, ValueId parameter) {
  const UseGroup *groups[MAX_GROUPS];
  Gradient gradient = {.n = 0};
  gradient.n_groups = autodiff_groups(graph, parameter, groups);
  for (int i = 0; i < gradient.n_groups; i++) {
    gradient.in[gradient.n++] = groups[i]->gradient;
    if (groups[i]->places != NO_VALUE) {
      gradient.in[gradient.n++] = groups[i]->places;
      gradient.n_rows++;
    }
  }
  return gradient;
}

static Status append_norm(Graph *graph, ValueId parameter, const Gradient *gradient) {
  NodeId node;
  const Value *p = graph_value(graph, parameter);
  const char *out_name = arena_format(graph->arena, "%s/squared_norm", p->name);
  Attr shape = attr_ints("shape", p->shape.dim, p->shape.rank);
  if (!out_name)
    return status_code();
  bool rows = gradient->n_rows > 0;
  TRY(graph_add_node(graph, rows ? OP_SquaredNormRows : OP_SquaredNorm, p->name, gradient->in, gradient->n, &shape,
                     rows, &out_name, 1, &node));
  graph_value(graph, graph_node(graph, node)->out[0])->role = ROLE_STEP;
  return OK;
}

static Status append_update(Graph *graph, const OptimizerSpec *spec, ValueId parameter) {
  ValueId in[2 + 2 + 2 * MAX_GROUPS] = {parameter, graph->step_scalars};
  Gradient gradient = gradient_of(graph, parameter);
  int n = 2;
  if (!gradient.n)
    return OK;
  TRY(append_norm(graph, parameter, &gradient));
  bool adam = spec->kind != OPTIMIZER_SGD;
  if (adam) {
    TRY(add_state(graph, parameter, "m", &in[n++]));
    TRY(add_state(graph, parameter, "v", &in[n++]));
  } else if (spec->momentum != 0) {
    TRY(add_state(graph, parameter, "momentum", &in[n++]));
  }
  int states = n - 2;
  for (int i = 0; i < gradient.n; i++)
    in[n++] = gradient.in[i];
  NodeId node;
  const char *name = graph_value(graph, parameter)->name;
  if (adam) {
    Attr attrs[] = {attr_float("beta1", spec->beta1),
                    attr_float("beta2", spec->beta2),
                    attr_float("epsilon", spec->epsilon),
                    attr_int("states", states),
                    attr_float("weight_decay", spec->weight_decay),
                    attr_int("decoupled", spec->kind == OPTIMIZER_ADAMW)};
    bool sparse = spec->kind == OPTIMIZER_SPARSE_ADAM && gradient.n_rows == gradient.n_groups;
    OpKind op = sparse ? OP_SparseAdamUpdate : gradient.n_rows ? OP_AdamUpdateRows : OP_AdamUpdate;
    return graph_add_node(graph, op, name, in, n, attrs, sparse ? 4 : 6, NULL, 0, &node);
  }
  Attr attrs[] = {attr_int("states", states), attr_float("momentum", spec->momentum),
                  attr_int("nesterov", spec->nesterov), attr_float("weight_decay", spec->weight_decay)};
  return graph_add_node(graph, gradient.n_rows ? OP_SgdUpdateRows : OP_SgdUpdate, name, in, n, attrs, 4, NULL, 0,
                        &node);
}

/* What torch.optim refuses, too. The negations catch NaN. */
static Status check_spec(const OptimizerSpec *spec) {
  const char *name = names[spec->kind];
  const struct {
    const char *name;
    double value, below;
  } range[] = {
      {"learning rate", spec->learning_rate, INFINITY},
      {"momentum", spec->momentum, INFINITY},
      {"beta1", spec->beta1, 1},
      {"beta2", spec->beta2, 1},
      {"epsilon", spec->epsilon, INFINITY},
      {"weight decay", spec->weight_decay, INFINITY},
  };
  for (size_t i = 0; i < sizeof range / sizeof *range; i++)
    if (!(range[i].value >= 0 && range[i].value < range[i].below))
      return fail(E_USAGE, "%s: %s %g is not at least 0 and below %g", name, range[i].name, range[i].value,
                  range[i].below);
  if (spec->nesterov && spec->momentum == 0)
    return fail(E_USAGE, "%s: nesterov needs a momentum", name);
  return OK;
}

Status optimizer_append(Graph *graph, const OptimizerSpec *spec) {
  int64_t count = STEP_SCALARS;
  TRY(check_spec(spec));
  TRY(graph_add_value(graph, "step_scalars", F64, shape_of(1, &count), ROLE_STEP, &graph->step_scalars));
  graph->building = PHASE_UPDATE;
  Status status = OK;
  size_t n = graph->n_values;
  for (ValueId v = 0; v < n && status == OK; v++)
    if (graph_value(graph, v)->role == ROLE_PARAMETER)
      status = append_update(graph, spec, v);
  graph->building = PHASE_F;
  return status;
}

bool optimizer_is_norm(const Node *node) {
  return node->op == OP_SquaredNorm || node->op == OP_SquaredNormRows;
}

bool optimizer_updates_parts(const Graph *graph, const Node *update) {
  const Value *parameter = graph_value(graph, update->in[0]);
  for (int i = 2 + (int)node_int(update, "states", 0); i < update->n_in; i++) {
    const Value *v = graph_value(graph, update->in[i]);
    if (v->dtype != parameter->dtype || !shape_equal(v->shape, parameter->shape))
      return false;
  }
  return true;
}

void optimizer_scalars(const OptimizerSpec *spec, int64_t t, double learning_rate, double gradient_factor,
                       double scalars[STEP_SCALARS]) {
  scalars[SCALAR_LEARNING_RATE] = learning_rate;
  scalars[SCALAR_BIAS_CORRECTION1] = 1 - pow(spec->beta1, (double)t);
  scalars[SCALAR_BIAS_CORRECTION2] = 1 - pow(spec->beta2, (double)t);
  scalars[SCALAR_GRADIENT_FACTOR] = gradient_factor;
  scalars[SCALAR_FIRST_STEP] = t == 1;
}
