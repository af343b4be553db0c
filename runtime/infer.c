/* Inference: one graph of a microbatch's size; an uneven rest fills its microbatch with copies of the last sample.
 * Invariant: sample i of an output comes from sample i of the data, whatever the microbatch size; where samples meet on
 * the way to an output, all of them are one microbatch. */
#include "runtime/infer.h"

#include <string.h>

#include "base/checked.h"
#include "graph/batch.h"
#include "runtime/executor/executor.h"
#include "runtime/training/trainer.h"

/* Outputs of all samples, as they fill up. */
typedef struct {
  Array *arrays;
  const Batch *batches;
  int n;
  int64_t samples;
} Results;

typedef struct {
  Results *results;
  const Graph *graph;
  int64_t first, count; /* samples of the run at hand that are kept */
  int64_t size;         /* of its microbatch */
} Keeping;

/* The outputs of all samples stay in memory until they are written, beside what the plan has found room for. */
static Status check_memory(const Job *job, const Results *results) {
  const Plan *plan = &job->decided.plan;
  size_t all = plan->rank_memory[0].total_bytes, outputs = 0;
  char needs[24], of_these[24], limit[24];
  for (int i = 0; i < results->n; i++) {
    size_t bytes;
    TRY(shape_bytes(results->arrays[i].shape, results->arrays[i].dtype, &bytes));
    if (!checked_add(outputs, bytes, &outputs))
      return fail(E_LIMIT, "the outputs of %lld samples: sizes overflow", (long long)results->samples);
  }
  if (checked_add(all, outputs, &all) && all <= plan->memory_limits[0])
    return OK;
  return fail(E_LIMIT, "%s: it needs %s, %s of these for the outputs of %lld samples, the limit is %s", job->asked.path,
              plan_bytes_text(all, needs), plan_bytes_text(outputs, of_these), (long long)results->samples,
              plan_bytes_text(plan->memory_limits[0], limit));
}

/* Room for all samples of every output, by the graph of the first samples. */
static Status results_create(Job *job, Results *results) {
  const Graph *graph = job->decided.graph;
  Batch *batches;
  results->n = (int)graph->n_outputs;
  TRY(ARENA_NEW(job->arena, results->arrays, results->n));
  TRY(ARENA_NEW(job->arena, batches, results->n));
  results->batches = batches;
  results->samples = job->given.data.samples;
  for (int i = 0; i < results->n; i++) {
    const Value *value = graph_value(graph, graph->outputs[i]);
    Shape shape = value->shape;
    batches[i] = value->batch;
    if (batches[i].kind == BATCH_AXIS &&
        (!checked_mul_i64(batches[i].outer * batches[i].inner, job->given.data.samples, &shape.dim[batches[i].axis])))
      return fail(E_SHAPE, "output '%s' %s is too large for %lld samples", value->name, SHAPE_STR(value->shape),
                  (long long)job->given.data.samples);
    results->arrays[i] = (Array){value->name, value->dtype, shape, NULL};
  }
  TRY(check_memory(job, results));
  for (int i = 0; i < results->n; i++) {
    Array *array = &results->arrays[i];
    void *data = arena_alloc(job->arena, (size_t)shape_elements(array->shape) * dtype_bytes(array->dtype), 1);
    if (!data)
      return status_code();
    array->data = data;
  }
  return OK;
}

/* The run's part of one output to its place: samples, once for each place before them. */
static void keep_samples(const Keeping *keeping, Array *array, const Batch *batch, const Value *value,
                         const void *data) {
  int64_t outer = batch->outer, bytes = batch->inner * (int64_t)dtype_bytes(value->dtype); /* of a sample */
  for (int i = 0; i < batch->axis; i++)
    outer *= value->shape.dim[i];
  for (int i = batch->axis + 1; i < value->shape.rank; i++)
    bytes *= value->shape.dim[i];
  int64_t all = keeping->results->samples;
  for (int64_t o = 0; o < outer; o++)
    memcpy((char *)array->data + (o * all + keeping->first) * bytes, (const char *)data + o * keeping->size * bytes,
           (size_t)(keeping->count * bytes));
}

static Status keep(void *context, ValueId output, int microbatch, const void *data, size_t bytes) {
  Keeping *keeping = context;
  const Value *value = graph_value(keeping->graph, output);
  (void)microbatch;
  for (int i = 0; i < keeping->results->n; i++) {
    if (keeping->graph->outputs[i] != output)
      continue;
    if (keeping->results->batches[i].kind == BATCH_AXIS)
      keep_samples(keeping, &keeping->results->arrays[i], &keeping->results->batches[i], value, data);
    else if (keeping->first == 0)
      memcpy((void *)keeping->results->arrays[i].data, data, bytes);
  }
  return OK;
}

/* Both callbacks of a StepWork have one context. */
typedef struct {
  Feeder feeder;
  Keeping keeping;
} Pass;

static Status feed(void *context, ValueId input, int microbatch, void *data, size_t bytes) {
  return dataset_feed(&((Pass *)context)->feeder, input, microbatch, data, bytes);
}

static Status emit(void *context, ValueId output, int microbatch, const void *data, size_t bytes) {
  return keep(&((Pass *)context)->keeping, output, microbatch, data, bytes);
}

/* Samples [first, end) through the graph at hand, a microbatch at a time; past the last sample that one is repeated. */
static Status pass(Job *job, Store *store, Results *results, int64_t first, int64_t end) {
  Executor *executor;
  int64_t *indices, size = job->decided.microbatch_size;
  TRY(ARENA_NEW(job->arena, indices, size));
  ExecutorSpec spec = {.plan = &job->decided.plan, .store = store, .load = weights_load, .load_context = job};
  TRY(executor_open(&spec, &executor));
  Status status = OK;
  for (int64_t at = first; at < end && status == OK; at += size) {
    Pass pass = {.feeder = {&job->given.data, job->given.model, job->decided.graph, size, indices},
                 .keeping = {results, job->decided.graph, at, end - at < size ? end - at : size, size}};
    StepWork work = {.loss_scale = 1,
                     .feed = feed,
                     .emit = emit,
                     .context = &pass,
                     .counter = {[COUNTER_SEED] = job->asked.options->seed, [COUNTER_SAMPLE] = at},
                     .samples = size};
    double loss;
    for (int64_t i = 0; i < size; i++)
      indices[i] = at + i < end ? at + i : end - 1;
    status = executor_run(executor, &work, &loss);
  }
  executor_close(executor);
  return status;
}

static Status prepare(Job *job, int64_t size) {
  job->decided.microbatches = 1;
  job->decided.microbatch_size = job->decided.batch = size;
  TRY(job_bind(job));
  Graph *graph = job->decided.graph;
  Status status = devices_prepare(job->decided.devices, job->decided.ranks, job->decided.precision, graph);
  if (status != OK)
    status_context("%s: ", job->asked.path);
  return status == OK ? job_plan(job, NULL) : status;
}

/* An output on the way to which samples meet, in `by`; NULL: there is none. */
static const Value *mixed_output(const Graph *graph, const char **by) {
  const Value *output = NULL;
  for (size_t i = 0; i < graph->n_outputs && !output; i++)
    if (graph_value(graph, graph->outputs[i])->batch.kind == BATCH_MIXED)
      output = graph_value(graph, graph->outputs[i]);
  if (output)
    *by = output->batch.by;
  for (size_t i = 0; i < graph->n_nodes && !output; i++)
    if (batch_couples(graph, graph->nodes[i])) {
      *by = graph_value(graph, graph->nodes[i]->out[1])->batch.by;
      output = graph_value(graph, graph->outputs[0]);
    }
  return output;
}

/* An output of all samples at once on the way to which they meet, though they do not where there are fewer of them (a
 * branch that asks how many there are); *name is NULL where there is none, or where all at once are too many to ask. */
static Status ask_whole(const Job *job, const char **name, const char **by) {
  Arena *arena = arena_create();
  if (!arena)
    return status_code();
  Job trial = *job;
  trial.arena = arena;
  trial.decided.lines = NULL;
  trial.decided.n_lines = trial.decided.lines_capacity = 0;
  trial.decided.microbatch_size = trial.decided.batch = job->given.data.samples;
  Status status = job_bind(&trial);
  const char *where = NULL;
  const Value *mixed = status == OK ? mixed_output(trial.decided.graph, &where) : NULL;
  if (mixed) {
    *name = arena_string(job->arena, mixed->name);
    *by = arena_string(job->arena, where);
    status = *name && *by ? OK : status_code();
  }
  arena_destroy(arena);
  return status == E_LIMIT ? OK : status;
}

/* The graph of a microbatch: of all samples where some output needs them at once. */
static Status settle(Job *job, int64_t fixed, FILE *out) {
  int64_t samples = job->given.data.samples, size = fixed                          ? fixed
                                                    : job->decided.batch < samples ? job->decided.batch
                                                                                   : samples;
  TRY(prepare(job, size));
  const char *by = NULL;
  const Value *mixed = mixed_output(job->decided.graph, &by);
  const char *name = mixed ? mixed->name : NULL;
  if (!mixed && !fixed && size < samples)
    TRY(ask_whole(job, &name, &by));
  if (!name || size == samples)
    return OK;
  if (fixed)
    return fail(E_SHAPE,
                "%s: output '%s' is not sample by sample, since they meet in %s: it takes the %lld that the "
                "file was exported for, %s has %lld",
                job->asked.path, name, by, (long long)fixed, job->given.data.path, (long long)samples);
  if (out)
    fprintf(out, "note          all %lld samples at once: output '%s' is not sample by sample, they meet in %s\n",
            (long long)samples, name, by);
  return prepare(job, samples);
}

Status infer_run(Job *job, FILE *out) {
  if (!job_has_data(job->asked.options) || !job->asked.options->out)
    return fail(E_USAGE, "run needs --data FILE and --out FILE.npz");
  job->decided.infers = true;
  TRY(job_open(job));
  dataset_settle(&job->given.data);
  Results results;
  TRY(settle(job, model_fixed_batch(job->given.model), job->asked.options->quiet ? NULL : out));
  model_bound(job->given.model);
  TRY(results_create(job, &results));
  Store *store;
  const RankDevice *device = &job->decided.devices[0];
  TRY(store_open(device->backend, device->device, job->decided.threads, &store));
  Status status = pass(job, store, &results, 0, job->given.data.samples);
  store_close(store);
  TRY(status);
  int n_outputs;
  const ModelInput *outputs = model_outputs(job->given.model, &n_outputs);
  for (int i = 0; i < results.n && i < n_outputs; i++)
    array_store_as(&results.arrays[i], outputs[i].stored);
  TRY(array_file_write(job->asked.options->out, results.arrays, results.n));
  if (!job->asked.options->quiet)
    fprintf(out, "%s: %d output%s of %lld samples\n", job->asked.options->out, results.n, results.n == 1 ? "" : "s",
            (long long)job->given.data.samples);
  return OK;
}
