/* Inference: one graph of a microbatch's size, and one of the uneven rest's. Invariant: sample i of an output comes
 * from sample i of the data, whatever the microbatch size. */
#include "runtime/infer.h"

#include <string.h>

#include "runtime/executor/executor.h"
#include "runtime/training/trainer.h"

/* Outputs of all samples, as they fill up. */
typedef struct {
  Array *arrays;
  int *batch_axis;
  int n;
} Results;

typedef struct {
  Results *results;
  const Graph *graph;
  int64_t first, count; /* samples of the run at hand that are kept */
  int64_t size;         /* of its microbatch */
} Keeping;

/* Room for all samples of every output, by the graph of the first samples. */
static Status results_create(Job *job, Results *results) {
  const Graph *graph = job->decided.graph;
  results->n = (int)graph->n_outputs;
  TRY(ARENA_NEW(job->arena, results->arrays, results->n));
  TRY(ARENA_NEW(job->arena, results->batch_axis, results->n));
  for (int i = 0; i < results->n; i++) {
    const Value *value = graph_value(graph, graph->outputs[i]);
    Shape shape = value->shape;
    int axis = results->batch_axis[i] = value->batch_axis;
    if (axis >= 0)
      shape.dim[axis] = shape.dim[axis] / job->decided.microbatch_size * job->given.data.samples;
    size_t bytes;
    TRY(shape_bytes(shape, value->dtype, &bytes));
    void *data = arena_alloc(job->arena, bytes, 1);
    if (!data)
      return status_code();
    results->arrays[i] = (Array){value->name, value->dtype, shape, data};
  }
  return OK;
}

/* The run's part of one output to its place: rows along the batch axis, once for each index before it. */
static void keep_rows(const Keeping *keeping, Array *array, int axis, const Value *value, const void *data) {
  int64_t outer = 1, inner = (int64_t)dtype_bytes(value->dtype);
  for (int i = 0; i < axis; i++)
    outer *= value->shape.dim[i];
  for (int i = axis + 1; i < value->shape.rank; i++)
    inner *= value->shape.dim[i];
  int64_t rows = value->shape.dim[axis], per_sample = rows / keeping->size, all = array->shape.dim[axis];
  for (int64_t o = 0; o < outer; o++)
    memcpy((char *)array->data + (size_t)((o * all + keeping->first * per_sample) * inner),
           (const char *)data + (size_t)(o * rows * inner), (size_t)(keeping->count * per_sample * inner));
}

static Status keep(void *context, ValueId output, int microbatch, const void *data, size_t bytes) {
  Keeping *keeping = context;
  const Value *value = graph_value(keeping->graph, output);
  (void)microbatch;
  for (int i = 0; i < keeping->results->n; i++) {
    if (keeping->graph->outputs[i] != output)
      continue;
    if (keeping->results->batch_axis[i] >= 0)
      keep_rows(keeping, &keeping->results->arrays[i], keeping->results->batch_axis[i], value, data);
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
    StepWork work = {.loss_scale = 1, .feed = feed, .emit = emit, .context = &pass};
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

/* All samples, through two graphs of one store. */
static Status run(Job *job, Store *store, Results *results, int64_t size) {
  int64_t samples = job->given.data.samples,
          even = model_fixed_batch(job->given.model) ? samples : samples / size * size;
  TRY(pass(job, store, results, 0, even));
  if (even == samples)
    return OK;
  TRY(prepare(job, samples - even));
  return pass(job, store, results, even, samples);
}

Status infer_run(Job *job, FILE *out) {
  if (!job->asked.options->data || !job->asked.options->out)
    return fail(E_USAGE, "run needs --data FILE.npz and --out FILE.npz");
  TRY(job_open(job));
  int64_t samples = job->given.data.samples, fixed = model_fixed_batch(job->given.model);
  int64_t size = fixed ? fixed : job->decided.batch < samples ? job->decided.batch : samples;
  Results results;
  TRY(prepare(job, size));
  TRY(results_create(job, &results));
  Store *store;
  const RankDevice *device = &job->decided.devices[0];
  TRY(store_open(device->backend, device->device, job->decided.threads, &store));
  Status status = run(job, store, &results, size);
  store_close(store);
  TRY(status);
  TRY(array_file_write(job->asked.options->out, results.arrays, results.n));
  if (!job->asked.options->quiet)
    fprintf(out, "%s: %d output%s of %lld samples\n", job->asked.options->out, results.n, results.n == 1 ? "" : "s",
            (long long)samples);
  return OK;
}
