/* A loss that the model computes itself. Invariant: what comes out, averaged over the microbatches, is the model's loss
 * of the whole batch, up to rounding.
 *
 * A mean over samples may be averaged over microbatches of one size as it is, and so may a sum over samples that is
 * divided by how many there are. A sum over counted targets, divided by their number, may not, since microbatches hold
 * different numbers: there the divisor becomes a value that the host writes, the whole batch's number / microbatches.
 * Both hold through whatever is linear in them, so the output is traced back through linear nodes; a node that is
 * neither is named. */
#include "graph/loss_model.h"

#include "graph/op.h"
#include "graph/ops/rule.h"

typedef struct {
  Graph *graph;
  bool *done[2];       /* [n_nodes]: traced already, as a mean, as a sum */
  bool alone;          /* there is one microbatch: nothing is changed */
  const char *coupled; /* why it is no mean over samples */
} Trace;

static bool depends(const Trace *t, ValueId v) {
  return graph_value(t->graph, v)->batch.kind != BATCH_NONE;
}

/* Says why, once; OK unless memory is out. */
static Status refuse(Trace *t, const Node *n, const char *why) {
  if (!t->coupled)
    t->coupled = arena_format(t->graph->arena, "node '%s' (%s): %s", n->name, op_def(n->op)->name, why);
  return t->coupled ? OK : status_code();
}

/* The node that makes a value, through casts and reshapes; NULL where none does. */
static Node *maker(const Graph *g, ValueId v) {
  for (;;) {
    NodeId id = graph_value(g, v)->producer;
    if (id == NO_NODE)
      return NULL;
    Node *n = graph_node(g, id);
    if (n->op != OP_Cast && n->op != OP_Reshape)
      return n;
    v = n->in[0];
  }
}

static bool reduces(const Node *n, int axis) {
  int count;
  const int64_t *axes = node_ints(n, "axes", &count);
  for (int i = 0; i < count; i++)
    if (axes[i] == axis)
      return true;
  return false;
}

/* sum / count: the count becomes the whole batch's / microbatches. */
static Status trace_ratio(Trace *t, Node *n) {
  Graph *g = t->graph;
  const Node *sum = maker(g, n->in[0]), *count = maker(g, n->in[1]);
  ValueId total, counted = n->in[1];
  if (!count || count->op != OP_CountTargets)
    return refuse(t, n, "divides by what depends on the samples");
  if (!sum || sum->op != OP_CrossEntropy)
    return refuse(t, n, "divides what is not a sum over targets by their number");
  const Batch *logits = &rule_in(g, sum, 0)->batch, *labels = &rule_in(g, sum, 1)->batch;
  int classes = (int)node_int(sum, "class_axis", 0);
  if (logits->kind == BATCH_MIXED || labels->kind == BATCH_MIXED) {
    t->coupled = arena_format(g->arena, "samples meet in %s", logits->kind == BATCH_MIXED ? logits->by : labels->by);
    return t->coupled ? OK : status_code();
  }
  if (logits->kind == BATCH_AXIS && labels->kind == BATCH_AXIS &&
      (logits->axis == classes || logits->axis - (logits->axis > classes) != labels->axis ||
       logits->outer != labels->outer || logits->inner != labels->inner))
    return refuse(t, sum, "has the samples of its scores and of its labels in different places");
  const char *name = arena_format(g->arena, "%s/denominator", n->name);
  if (!name)
    return status_code();
  const Value *v = graph_value(g, counted);
  if (v->dtype != F64 || v->shape.rank)
    return refuse(t, n, "divides in another type than float64");
  if (t->alone)
    return OK;
  TRY(graph_add_value(g, name, F64, (Shape){0}, ROLE_STEP, &total));
  TRY(ARENA_RESERVE(g->arena, g->denominators, g->n_denominators, g->denominators_capacity, g->n_denominators + 1));
  g->denominators[g->n_denominators++] = (Denominator){.total = total, .count = counted};
  n->in[1] = total;
  return OK;
}

/* What v is over the microbatches: their mean, or their sum. */
typedef enum { MEAN, SUM } Over;

static Status trace(Trace *t, ValueId v, Over over);

static Status trace_all(Trace *t, const Node *n, Over over) {
  for (int k = 0; k < n->n_in; k++)
    if (n->in[k] != NO_VALUE)
      TRY(trace(t, n->in[k], over));
  return OK;
}

/* Whether this output is mixed and no input is. */
static bool samples_meet_in(const Trace *t, const Node *n, ValueId output) {
  for (int k = 0; k < n->n_in; k++)
    if (n->in[k] != NO_VALUE && graph_value(t->graph, n->in[k])->batch.kind == BATCH_MIXED)
      return false;
  return graph_value(t->graph, output)->batch.kind == BATCH_MIXED;
}

static Status trace_product(Trace *t, const Node *n, Over over) {
  if (depends(t, n->in[0]) && depends(t, n->in[1]))
    return refuse(t, n, "multiplies two things that depend on the samples");
  return trace(t, n->in[depends(t, n->in[0]) ? 0 : 1], over);
}

static Status trace_reduction(Trace *t, const Node *n, Over over) {
  const Batch *batch = &rule_in(t->graph, n, 0)->batch;
  bool whole = shape_elements(rule_out(t->graph, n, 0)->shape) == 1;
  if (batch->kind == BATCH_MIXED && batch->apart && whole && n->op == (over == MEAN ? OP_ReduceMean : OP_ReduceSum))
    return OK; /* in whatever order */
  if (batch->kind != BATCH_AXIS)
    return trace(t, n->in[0], over);
  if (!reduces(n, batch->axis))
    return refuse(t, n, "keeps the samples apart");
  if (batch->step)
    return refuse(t, n, "asks for the samples' own numbers");
  if (n->op == (over == MEAN ? OP_ReduceMean : OP_ReduceSum))
    return OK;
  return refuse(t, n, over == MEAN ? "sums over the samples" : "divides the samples' mean by how many there are");
}

/* By a number that comes from the samples: how many there are, or how many of them count. */
static Status trace_division(Trace *t, Node *n, Over over) {
  if (!depends(t, n->in[1]))
    return trace(t, n->in[0], over);
  if (over == MEAN && graph_value(t->graph, n->in[1])->batch.per_sample != 0)
    return trace(t, n->in[0], SUM); /* a mean, written by hand */
  return over == MEAN ? trace_ratio(t, n) : refuse(t, n, "divides by what depends on the samples");
}

/* v is linear in means over samples, or in their sums. */
static Status trace(Trace *t, ValueId v, Over over) {
  Graph *g = t->graph;
  if (!depends(t, v) && over == MEAN) /* the same in every microbatch */
    return OK;
  if (!depends(t, v)) {
    if (!t->coupled)
      t->coupled = arena_format(g->arena, "'%s' is divided by how many samples there are", graph_value(g, v)->name);
    return t->coupled ? OK : status_code();
  }
  if (graph_value(g, v)->producer == NO_NODE) {
    if (!t->coupled)
      t->coupled =
          graph_value(g, v)->role == ROLE_INPUT
              ? arena_format(g->arena, "input '%s' counts other than in a mean over samples", graph_value(g, v)->name)
              : arena_format(g->arena, "samples meet in %s", graph_value(g, v)->batch.by);
    return t->coupled ? OK : status_code();
  }
  Node *n = graph_node(g, graph_value(g, v)->producer);
  if (graph_value(g, v)->batch.grows)
    return refuse(t, n, "has a size that comes from how many samples there are");
  if (t->done[over][n->id])
    return OK;
  t->done[over][n->id] = true;
  unsigned traits = op_def(n->op)->traits;
  if (n->op == OP_ReduceMean || n->op == OP_ReduceSum)
    return trace_reduction(t, n, over);
  if (n->op == OP_Div)
    return trace_division(t, n, over);
  if (traits & OP_BILINEAR)
    return trace_product(t, n, over);
  if (traits & OP_LINEAR && !samples_meet_in(t, n, v) && dtype_is_float(graph_value(g, v)->dtype))
    return trace_all(t, n, over);
  return refuse(t, n, "is no mean over the samples");
}

Status loss_append_model(Graph *graph, LossSpec *spec) {
  const Value *output = graph_value(graph, spec->output);
  Trace t = {.graph = graph};
  if (!dtype_is_float(output->dtype) || shape_elements(output->shape) != 1)
    return fail(E_SHAPE, "output '%s' is %s %s: the model's own loss is one float number", output->name,
                dtype_name(output->dtype), SHAPE_STR(output->shape));
  if (output->producer == NO_NODE)
    return fail(E_SHAPE, "output '%s' is computed by no node: nothing to train", output->name);
  t.alone = spec->microbatches == 1;
  for (int over = MEAN; over <= SUM; over++)
    TRY(ARENA_NEW(graph->arena, t.done[over], graph->n_nodes));
  TRY(trace(&t, spec->output, MEAN));
  if (t.coupled && !t.alone)
    return loss_refuse(t.coupled);
  spec->coupled = t.coupled;
  NodeId node;
  ValueId scalar;
  Attr shape = attr_ints("shape", NULL, 0), to = attr_int("to", F64);
  TRY(graph_add_node(graph, OP_Reshape, "loss", &spec->output, 1, &shape, 1, NULL, 1, &node));
  scalar = graph_node(graph, node)->out[0];
  TRY(graph_add_node(graph, OP_Cast, "loss", &scalar, 1, &to, 1, (const char *[]){"loss_sum"}, 1, &node));
  graph->loss_sum = graph_node(graph, node)->out[0];
  return OK;
}
