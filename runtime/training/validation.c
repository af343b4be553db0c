/* The validation's graph and plan, and what is said of its results. Invariant: nothing here depends on which rank asks.
 */
#include "runtime/training/validation.h"

#include <math.h>
#include <string.h>

#include "graph/passes/passes.h"

enum { MOST_MICROBATCHES = 64 }; /* of one run of the graph */

Status validation_open(Job *trained, Validation **validation) {
  const Options *o = trained->asked.options;
  Validation *v;
  *validation = NULL;
  if (o->validate && trained->given.validation.samples)
    return fail(E_USAGE, "--validate %s and --validation-split %g: give one of them", o->validate, o->validation_split);
  if (!o->validate && !trained->given.validation.samples)
    return OK;
  TRY(ARENA_NEW(trained->arena, v, 1));
  v->job = *trained;
  v->job.given.data = trained->given.validation;
  if (o->validate)
    TRY(job_open_data(trained, o->validate, &v->job.given.data));
  v->opened = o->validate != NULL;
  *validation = v;
  return OK;
}

void validation_close(Validation *v) {
  if (v && v->opened)
    dataset_close(&v->job.given.data);
}

/* The graph of microbatches of `size`, with nothing that the prediction does not need. */
static Status bind(Validation *v, const Job *trained, int64_t size) {
  Job *job = &v->job;
  const char *name = graph_value(trained->decided.graph, trained->decided.loss.output)->name;
  job->decided.microbatch_size = job->decided.batch = size;
  TRY(job_bind(job));
  Graph *graph = job->decided.graph;
  size_t i = 0;
  while (i < graph->n_outputs && strcmp(graph_value(graph, graph->outputs[i])->name, name) != 0)
    i++;
  if (i == graph->n_outputs)
    return fail(E_UNSUPPORTED, "the model that evaluates has no output '%s'", name);
  graph->outputs[0] = graph->outputs[i];
  graph->n_outputs = 1;
  TRY(graph_copy(graph, job->arena, NULL, &job->decided.graph));
  v->output = job->decided.graph->outputs[0];
  return OK;
}

/* As training's microbatches; all samples where they meet; where the loss is the model's own, one that leaves no rest.
 */
static Status settle_size(Validation *v, const Job *trained) {
  int64_t samples = v->job.given.data.samples, fixed = model_fixed_batch(v->job.given.model);
  int64_t size = trained->decided.microbatch_size < samples ? trained->decided.microbatch_size : samples;
  bool own = trained->decided.loss.kind == LOSS_MODEL;
  if (fixed && own && samples % fixed)
    return fail(E_SHAPE,
                "%lld samples are no multiple of %lld, the batch that the model, with its own loss, was "
                "exported with",
                (long long)samples, (long long)fixed);
  size = fixed ? fixed : own ? job_largest_divisor(samples, size) : size;
  TRY(bind(v, trained, size));
  const Batch *batch = &graph_value(v->job.decided.graph, v->output)->batch;
  if (own || size == samples || batch->kind != BATCH_MIXED)
    return OK;
  if (fixed)
    return fail(E_SHAPE, "the samples meet in %s: it takes the %lld that the model was exported for, there are %lld",
                batch->by, (long long)fixed, (long long)samples);
  return bind(v, trained, samples);
}

/* The model's own loss, of all samples as one batch. */
static Status append_loss(Validation *v, const Job *trained) {
  JobDecisions *decided = &v->job.decided;
  int64_t all = v->job.given.data.samples / decided->microbatch_size;
  if (all > SCHEDULE_LIMIT)
    return fail(E_LIMIT, "%lld microbatches are more than %d", (long long)all, SCHEDULE_LIMIT);
  decided->loss = trained->decided.loss;
  decided->loss.output = v->output;
  decided->loss.microbatches = (int)all;
  TRY(loss_append(decided->graph, &decided->loss));
  decided->microbatches = (int)all;
  v->runs = 1;
  return OK;
}

/* Whether the shapes are one, but for axes of size 1. */
static bool same_but_ones(Shape a, Shape b) {
  int i = 0, k = 0;
  for (;;) {
    while (i < a.rank && a.dim[i] == 1)
      i++;
    while (k < b.rank && b.dim[k] == 1)
      k++;
    if (i == a.rank || k == b.rank)
      return i == a.rank && k == b.rank;
    if (a.dim[i++] != b.dim[k++])
      return false;
  }
}

/* The targets, and how many there are in a run. */
static Status fit_targets(Validation *v, const Job *trained) {
  JobDecisions *decided = &v->job.decided;
  const Dataset *data = &v->job.given.data;
  const Value *output = graph_value(decided->graph, v->output);
  int64_t size = decided->microbatch_size, all = (data->samples + size - 1) / size;
  LossSpec loss = trained->decided.loss;
  Shape wants = output->shape;
  TRY(dataset_need_target(data));
  if (loss.kind == LOSS_CROSS_ENTROPY) {
    wants.rank--;
    for (int i = loss.class_axis; i < wants.rank; i++)
      wants.dim[i] = output->shape.dim[i + 1];
  }
  Shape has = column_shape(data->target, size);
  if (!same_but_ones(has, wants))
    return fail(E_SHAPE, "array 'target' is %s a microbatch, output '%s' %s takes %s", SHAPE_STR(has), output->name,
                SHAPE_STR(output->shape), SHAPE_STR(wants));
  if ((loss.kind == LOSS_CROSS_ENTROPY) == dtype_is_float(data->target->dtype))
    return fail(E_SHAPE, "array 'target' is %s, which is not for a loss of %s", dtype_name(data->target->dtype),
                loss_name(loss.kind));
  v->runs = (all + MOST_MICROBATCHES - 1) / MOST_MICROBATCHES;
  decided->microbatches = (int)((all + v->runs - 1) / v->runs);
  v->measures =
      (Measures){.loss = loss, .dtype = output->dtype, .shape = output->shape, .batch = output->batch, .samples = size};
  return OK;
}

static Status say(const Validation *v, Job *trained, int64_t every, const size_t *beside) {
  size_t most = 0;
  for (int r = 0; r < trained->decided.ranks; r++)
    most = beside[r] > most ? beside[r] : most;
  char bytes[24], names[512] = "loss", when[96] = "";
  if (every)
    snprintf(when, sizeof when, " every %s step%s (--every) and after the last", COUNT_STR(every),
             every == 1 ? "" : "s");
  for (int i = 0; i < v->measures.n_metrics; i++)
    snprintf(names + strlen(names), sizeof names - strlen(names), ", %s", v->measures.metrics[i].name);
  return job_decide(trained, "validation", "%s: %s samples%s: %s; it takes %s a rank at most beside training",
                    v->job.given.data.path, COUNT_STR(v->job.given.data.samples), when, names,
                    plan_bytes_text(most, bytes));
}

static Status make(Validation *v, Job *trained, const size_t *taken, int64_t every) {
  JobDecisions *decided = &v->job.decided;
  size_t *beside;
  TRY(settle_size(v, trained));
  if (trained->decided.loss.kind == LOSS_MODEL) {
    TRY(append_loss(v, trained));
    v->measures.loss.kind = LOSS_MODEL;
  } else {
    TRY(fit_targets(v, trained));
  }
  TRY(measures_choose(trained->arena, &trained->asked.options->metric, v->job.given.data.samples, &v->measures));
  TRY(devices_prepare(decided->devices, decided->ranks, decided->precision, decided->graph));
  TRY(plan_follow(trained->arena, decided->graph, &trained->decided.plan, decided->microbatches,
                  decided->microbatch_size, &decided->plan, &beside));
  NodeId producer = graph_value(decided->graph, v->output)->producer;
  bool last = producer == NO_NODE || decided->graph->loss_sum != NO_VALUE;
  int stage = last ? decided->plan.stages - 1 : graph_node(decided->graph, producer)->stage;
  v->owner = decided->plan.schedule.rank_of_stage[stage];
  TRY(job_check_beside(trained, "validation", taken, beside));
  return say(v, trained, every, beside);
}

Status validation_plan(Validation *v, Job *trained, const size_t *taken, int64_t every) {
  Dataset data = v->job.given.data;
  v->job = *trained;
  v->job.given.data = data;
  v->job.decided.infers = v->job.decided.validates = true;
  v->job.decided.lines = NULL;
  v->job.decided.n_lines = v->job.decided.lines_capacity = 0;
  Status status = make(v, trained, taken, every);
  if (status != OK)
    status_context("validation on %s: ", v->job.given.data.path);
  return status;
}

void validation_judge(const Validation *v, int64_t step, double loss, const double *values,
                      OnnxpipeValidation *result) {
  double delta = v->job.asked.options->min_delta;
  bool first = result->step == 0;
  result->step = step;
  result->loss = loss;
  result->is_best = (first && !isnan(loss)) || loss < result->best_loss || (isnan(result->best_loss) && !isnan(loss));
  if (first || result->is_best) {
    result->best_loss = loss;
    result->best_step = step;
  }
  bool better = first || loss < result->reference_loss - delta || (isnan(result->reference_loss) && !isnan(loss));
  if (better)
    result->reference_loss = loss;
  result->stalled = better ? 0 : result->stalled + 1;
  result->n_metrics = v->measures.n_metrics;
  for (int i = 0; i < result->n_metrics; i++) {
    result->names[i] = v->measures.metrics[i].name;
    result->values[i] = values[i];
  }
}

/* JSON has neither NaN nor infinity. */
static void write_number(double value, bool json, Text *text) {
  if (json && !isfinite(value))
    text_add(text, "null");
  else
    text_add(text, json ? "%.17g" : "%.6g", value);
}

/* ", "validation_relative_l2": " */
static void write_key(const char *name, Text *text) {
  text_add(text, ", \"validation_");
  for (; *name; name++)
    text_add(text, "%c", *name == '-' ? '_' : *name);
  text_add(text, "\": ");
}

void validation_write(const OnnxpipeValidation *result, bool json, Text *text) {
  text_add(text, json ? ", \"validation_loss\": " : "loss ");
  write_number(result->loss, json, text);
  for (int i = 0; i < result->n_metrics; i++) {
    if (json)
      write_key(result->names[i], text);
    else
      text_add(text, ", %s ", result->names[i]);
    write_number(result->values[i], json, text);
  }
}
