/* One rank's validation. Invariant: predictions reach the tally sample after sample, in the order of the file. */
#include "runtime/training/denominators.h"
#include "runtime/training/validation.h"

struct Evaluation {
  const Validation *validation;
  Executor *executor;
  Feeder feeder;
  int64_t *indices; /* [microbatches · size]: of the run at hand */
  int64_t first;    /* sample of the run */
  Tally tally;      /* the owner's */
  void *targets;    /* the owner's: of a microbatch */
  Denominators denominators;
};

static bool has_own_loss(const Evaluation *e) {
  return e->validation->measures.loss.kind == LOSS_MODEL;
}

static DType target_dtype(const Evaluation *e) {
  return e->validation->measures.loss.kind == LOSS_CROSS_ENTROPY ? I64 : F64;
}

static Status open_tally(Arena *arena, Evaluation *e) {
  const Validation *v = e->validation;
  TRY(tally_create(arena, &v->measures, v->job.given.data.samples, &e->tally));
  e->targets = arena_alloc(arena, (size_t)v->measures.positions, dtype_bytes(target_dtype(e)));
  return e->targets ? OK : status_code();
}

Status evaluation_open(Arena *arena, const Validation *v, const ExecutorSpec *training, Evaluation **evaluation) {
  const JobDecisions *decided = &v->job.decided;
  ExecutorSpec spec = *training;
  Evaluation *e;
  TRY(ARENA_NEW(arena, e, 1));
  *evaluation = e;
  e->validation = v;
  TRY(ARENA_NEW(arena, e->indices, decided->microbatches * decided->microbatch_size));
  e->feeder = (Feeder){&v->job.given.data, v->job.given.model, decided->graph, decided->microbatch_size, e->indices};
  TRY(denominators_create(arena, decided->graph, &e->denominators));
  if (spec.rank == v->owner && !has_own_loss(e))
    TRY(open_tally(arena, e));
  spec.plan = &decided->plan;
  spec.boundaries = NULL; /* beside training's wires: through the host */
  spec.trace = NULL;
  spec.times = false;
  return executor_open(&spec, &e->executor);
}

void evaluation_close(Evaluation *e) {
  if (e)
    executor_close(e->executor);
}

static Status feed(void *context, ValueId input, int microbatch, void *data, size_t bytes) {
  return dataset_feed(&((Evaluation *)context)->feeder, input, microbatch, data, bytes);
}

static Status emit(void *context, ValueId output, int microbatch, const void *data, size_t bytes) {
  Evaluation *e = context;
  const Validation *v = e->validation;
  const Dataset *set = &v->job.given.data;
  int64_t size = v->job.decided.microbatch_size, at = e->first + microbatch * size;
  (void)bytes;
  if (output != v->output || at >= set->samples)
    return OK;
  Status status = column_gather(set->target, e->indices + microbatch * size, size, target_dtype(e), e->targets);
  if (status == OK)
    status = tally_add(&e->tally, data, e->targets, set->samples - at < size ? set->samples - at : size);
  if (status != OK)
    status_context("%s: ", set->path);
  return status;
}

static Status run(Evaluation *e, double *loss) {
  const Validation *v = e->validation;
  const JobDecisions *decided = &v->job.decided;
  int64_t samples = v->job.given.data.samples, n = decided->microbatches * decided->microbatch_size;
  double scale = 1;
  StepWork work = {.feed = feed,
                   .emit = has_own_loss(e) ? NULL : emit,
                   .context = e,
                   .counter = {[COUNTER_SEED] = v->job.asked.options->seed, [COUNTER_SAMPLE] = e->first},
                   .samples = decided->microbatch_size};
  for (int64_t i = 0; i < n; i++)
    e->indices[i] = e->first + i < samples ? e->first + i : samples - 1;
  if (has_own_loss(e)) {
    double denominator;
    TRY(loss_denominator(decided->graph, &decided->loss, NULL, 0, &denominator));
    TRY(denominators_count(&e->denominators, decided->microbatches, feed, e));
    scale = 1 / denominator;
  }
  work.loss_scale = scale;
  work.denominators = e->denominators.totals;
  return executor_run(e->executor, &work, loss);
}

Status evaluation_run(Evaluation *e, double *loss, double *values) {
  const Validation *v = e->validation;
  bool tallies = e->targets != NULL;
  int64_t n = v->job.decided.microbatches * v->job.decided.microbatch_size;
  double own;
  if (tallies)
    tally_begin(&e->tally);
  for (int64_t k = 0; k < v->runs; k++) {
    e->first = k * n;
    TRY(run(e, &own));
  }
  if (has_own_loss(e) && executor_has_loss(e->executor))
    *loss = own;
  if (!tallies)
    return OK;
  Status status = tally_end(&e->tally, loss, values);
  if (status != OK)
    status_context("%s: ", v->job.given.data.path);
  return status;
}
