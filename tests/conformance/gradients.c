/* Gradients of a case against central differences in float64, on the reference kernels. Invariant: where a step to
 * either side gives another slope, the function bends or jumps, and nothing is said of that element. */
#include <math.h>

#include "graph/autodiff.h"
#include "graph/ops/rule.h"
#include "tests/conformance/conformance.h"

enum { SAMPLES = 8 }; /* elements tried of each input */

static const double step = 1e-5;

/* In -2 … 2, ever the same. */
static double weight(uint64_t i) {
  uint64_t mixed = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
  return (double)(mixed >> 40) / (1 << 22) - 2;
}

static Status weighted_sum(Graph *g, ValueId y, uint64_t salt, ValueId *sum) {
  Shape shape = graph_value(g, y)->shape;
  int64_t n = shape_elements(shape), axes[MAX_RANK];
  double *weights;
  ValueId w;
  TRY(ARENA_NEW(g->arena, weights, n));
  for (int64_t i = 0; i < n; i++)
    weights[i] = weight((uint64_t)i + 1000 * salt);
  for (int i = 0; i < shape.rank; i++)
    axes[i] = i;
  TRY(graph_add_constant(g, "weights", F64, shape, weights, &w));
  TRY(emit2(g, OP_Mul, y, w, sum));
  return shape.rank ? emit_reduce_sum(g, *sum, axes, shape.rank, false, sum) : OK;
}

/* Of all float64 outputs, or of the first alone. */
static Status append_loss(Graph *g, bool first_only) {
  g->loss_sum = NO_VALUE;
  for (size_t i = 0; i < g->n_outputs && !(first_only && g->loss_sum != NO_VALUE); i++) {
    ValueId sum;
    if (graph_value(g, g->outputs[i])->dtype != F64)
      continue;
    TRY(weighted_sum(g, g->outputs[i], i, &sum));
    if (g->loss_sum != NO_VALUE)
      TRY(emit2(g, OP_Add, g->loss_sum, sum, &sum));
    g->loss_sum = sum;
  }
  if (g->loss_sum == NO_VALUE)
    return fail(E_UNSUPPORTED, "no float output");
  return graph_add_value(g, "loss_scale", F64, (Shape){0}, ROLE_STEP, &g->loss_scale);
}

/* What differences cannot see: roundings, which pass gradients straight through, and what is drawn. */
static bool is_blurred(const Graph *g) {
  for (size_t i = 0; i < g->n_nodes; i++)
    if (g->nodes[i]->op == OP_Narrow)
      return true;
  return g->counter != NO_VALUE;
}

/* Whether it says where regions lie, which get no gradient, as in torchvision. */
static bool is_region(const Graph *g, ValueId v) {
  for (size_t i = 0; i < g->n_nodes; i++)
    if ((g->nodes[i]->op == OP_RoiAlign || g->nodes[i]->op == OP_MaxRoiPool) && g->nodes[i]->in[1] == v)
      return true;
  return false;
}

static Status differentiate(Case *c, bool first_only, size_t *n_forward) {
  Graph *g = c->graph;
  size_t n_unreached;
  if (is_blurred(g))
    return fail(E_UNSUPPORTED, "it rounds or draws");
  for (size_t i = 0; i < g->n_inputs; i++)
    if (graph_value(g, g->inputs[i])->dtype == F64 && !is_region(g, g->inputs[i]))
      graph_value(g, g->inputs[i])->role = ROLE_PARAMETER;
  TRY(append_loss(g, first_only));
  *n_forward = g->n_nodes;
  TRY(autodiff_append(g, &n_unreached));
  TRY(case_fill(c));
  *(double *)c->tensors[g->loss_scale].data = 1;
  return OK;
}

typedef struct {
  Case *c;
  Stream *stream;
  size_t n_forward;
  int64_t confirmed;
} Check;

static Status loss_at(const Check *check, double *x, double at, double *loss) {
  double before = *x;
  *x = at;
  Status status = case_run(check->c, &backend_reference, check->stream, check->n_forward);
  *x = before;
  *loss = *(double *)check->c->tensors[check->c->graph->loss_sum].data;
  return status;
}

static Status check_element(Check *check, const char *name, double *x, int64_t i, double got) {
  double here, above, below, half_above;
  TRY(loss_at(check, x, *x, &here));
  TRY(loss_at(check, x, *x + step, &above));
  TRY(loss_at(check, x, *x - step, &below));
  TRY(loss_at(check, x, *x + step / 2, &half_above));
  double left = (here - below) / step, right = (above - here) / step, slope = (left + right) / 2;
  double nearer = (half_above - here) / (step / 2), bound = 1e-3 * fmax(1, fabs(left) + fabs(right));
  if (!isfinite(left) || !isfinite(right) || fabs(left - right) > bound || fabs(nearer - right) > bound)
    return OK;
  if (!(fabs(got - slope) <= 1e-5 * fmax(1, fabs(slope)) + 1e-9 * fabs(here)))
    return fail(E_MODEL, "gradient of '%s' at %lld is %.9g, differences give %.9g", name, (long long)i, got, slope);
  check->confirmed++;
  return OK;
}

static Status check_inputs(Check *check) {
  Case *c = check->c;
  for (size_t k = 0; k < c->graph->n_inputs; k++) {
    ValueId input = c->graph->inputs[k], gradients[MAX_GROUPS];
    const Value *v = graph_value(c->graph, input);
    int n = v->role == ROLE_PARAMETER ? autodiff_gradients(c->graph, input, gradients) : 0;
    int64_t elements = shape_elements(v->shape);
    for (int64_t s = 0; n && s < (elements < SAMPLES ? elements : SAMPLES); s++) {
      int64_t i = elements <= SAMPLES ? s : (int64_t)((weight((uint64_t)s) + 2) / 4 * (double)elements);
      double got = 0;
      for (int group = 0; group < n; group++)
        got += ((const double *)c->tensors[gradients[group]].data)[i];
      TRY(check_element(check, v->name, (double *)c->tensors[input].data + i, i, got));
    }
  }
  return OK;
}

static Status compare(Check *check) {
  TRY(backend_reference.stream_open(0, 1, &check->stream));
  Status status = case_run(check->c, &backend_reference, check->stream, check->c->graph->n_nodes);
  if (status == OK)
    status = check_inputs(check);
  backend_reference.stream_close(check->stream);
  return status;
}

void case_gradients(const char *folder, int number, const char **what, const char **why, Case *c) {
  Check check = {.c = c};
  Status status = case_open(folder, number, true, c);
  if (status == OK)
    status = differentiate(c, false, &check.n_forward);
  if (status == E_UNSUPPORTED) { /* outputs beside the first may have no gradient */
    case_close(c);
    status = case_open(folder, number, true, c);
    if (status == OK)
      status = differentiate(c, true, &check.n_forward);
  }
  *what = "none";
  if (status == OK && (status = compare(&check)) != OK)
    *what = "failed";
  else if (status != OK && status != E_UNSUPPORTED)
    *what = "failed";
  else if (check.confirmed)
    *what = "ok";
  *why = status == OK ? "" : arena_format(c->arena, "%s", status_message());
}
