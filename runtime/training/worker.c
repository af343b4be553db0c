/* One rank's steps. Invariant: no update runs anywhere for a step whose loss is not finite, nor where a gradient is
 * not; a rank that fails withdraws, so that all others fail with its message. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "graph/op.h"
#include "runtime/checkpoint/origin.h"
#include "runtime/data/blame.h"
#include "runtime/training/replan.h"

/* What the rank is at until `outside`. */
static void at(Worker *w, WatchPhase phase) {
  bool has_step = phase != WATCH_LOAD && phase != WATCH_END;
  watch_phase(w->watch, phase, has_step ? w->steps_done + (phase == WATCH_STEP) : 0);
}

static Status outside(Worker *w, Status status) {
  watch_phase(w->watch, WATCH_OUTSIDE, 0);
  return status;
}

/* What computes the steps that `job` decided on, from the worker's batch. */
static Status open_stepper(Worker *w, const Job *job, const ExecutorSpec *spec, Stepper *stepper) {
  const JobDecisions *decided = &job->decided;
  stepper->decided = decided;
  stepper->feeder =
      (Feeder){&job->given.data, job->given.model, decided->graph, decided->microbatch_size, w->sampler.indices};
  TRY(denominators_create(w->planned, decided->graph, &stepper->denominators));
  return executor_open(spec, &stepper->executor);
}

/* Whether the graph's weights are those that the rank has carried over, or first ones; `of` lasts as long as this. */
static void load_from(const Worker *w, const Job *job, CarriedOf *of, ExecutorSpec *spec) {
  *of = (CarriedOf){job, w->carried};
  spec->load = w->carried ? carried_load : weights_load;
  spec->load_context = w->carried ? (void *)of : (void *)job;
}

/* In the memory of whole batches; what crosses ranks goes through the host, beside their wires. */
static Status open_rest(Worker *w, const ExecutorSpec *whole) {
  const Rest *rest = w->training->rest;
  ExecutorSpec spec = *whole;
  spec.plan = &rest->job.decided.plan;
  spec.boundaries = NULL;
  CarriedOf of;
  load_from(w, &rest->job, &of, &spec);
  spec.host = w->whole.executor;
  return open_stepper(w, &rest->job, &spec, &w->rest);
}

/* The rank's threads but this one, which may be the caller's own: it keeps to its core within a step. */
static void place(Worker *w) {
  const Job *job = w->training->job;
  const JobDecisions *decided = &job->decided;
  const Backend *backend = store_backend(w->store);
  if (!decided->cores.pinned)
    return;
  w->cores = cores_of(&decided->cores, job->asked.world->mpi ? 0 : w->rank, decided->threads);
  if (backend->stream_place)
    backend->stream_place(store_stream(w->store), w->cores);
}

/* Over the store of what trains. */
static Status open_evaluation(Worker *w, const ExecutorSpec *whole) {
  const Validation *validation = w->training->validation;
  ExecutorSpec spec = *whole;
  CarriedOf of;
  load_from(w, &validation->job, &of, &spec);
  return evaluation_open(w->planned, validation, &spec, &w->evaluation);
}

/* Room for the batch's targets, where the rank has the loss and they decide its denominator. */
static Status take_targets(Worker *w) {
  const Job *job = w->training->job;
  const JobDecisions *decided = &job->decided;
  if (!executor_has_loss(w->whole.executor) || decided->loss.kind != LOSS_CROSS_ENTROPY)
    return OK;
  size_t row = (size_t)shape_elements(column_shape(job->given.data.target, 1));
  w->targets = arena_alloc(w->planned, (size_t)decided->batch * row, dtype_bytes(decided->loss.target_dtype));
  return w->targets ? OK : status_code();
}

/* What the plan decides. */
static Status open_planned(Worker *w) {
  const Training *training = w->training;
  Job *job = training->job;
  JobDecisions *decided = &job->decided;
  ExecutorSpec spec = {.plan = &decided->plan,
                       .rank = w->rank,
                       .transport = w->link ? w->link->transport : NULL,
                       .endpoint = w->link ? w->link->endpoints[CHANNEL_DATA] : NULL,
                       .boundaries = w->link ? &training->boundaries : NULL,
                       .loads_states = job->asked.resumed || w->carried,
                       .trace = w->timeline.trace,
                       .times = w->link != NULL,
                       .watch = w->watch};
  CarriedOf of;
  load_from(w, job, &of, &spec);
  if (!(w->planned = arena_create()))
    return status_code();
  TRY(store_open(decided->devices[w->rank].backend, decided->devices[w->rank].device, decided->threads, &w->store));
  spec.store = w->store;
  place(w);
  if (training->rest)
    spec.work_bytes = memory_work_bytes(&training->rest->job.decided.plan.rank_memory[w->rank]);
  TRY(open_stepper(w, job, &spec, &w->whole));
  if (training->rest)
    TRY(open_rest(w, &spec));
  TRY(checkpoints_open(w));
  if (training->validation)
    TRY(open_evaluation(w, &spec));
  return take_targets(w);
}

static void close_planned(Worker *w) {
  writer_close(w->writer);
  evaluation_close(w->evaluation);
  executor_close(w->rest.executor);
  executor_close(w->whole.executor);
  store_close(w->store);
  arena_destroy(w->planned);
  w->writer = NULL;
  w->evaluation = NULL;
  w->rest = w->whole = (Stepper){0};
  w->stepper = NULL;
  w->store = NULL;
  w->targets = NULL;
  w->planned = NULL;
}

Status worker_open(Worker *w) {
  const Training *training = w->training;
  Job *job = training->job;
  JobDecisions *decided = &job->decided;
  at(w, WATCH_LOAD);
  w->steps_done = training->first_step;
  w->last = (OnnxpipeMetrics){.step = training->first_step, .steps = training->steps};
  w->checkpoint = -1;
  if (!(w->arena = arena_create()))
    return status_code();
  TRY(sampler_create(w->arena, job->given.data.samples, training->epoch_length, decided->batch, !training->rest,
                     job->asked.options->shuffle, (uint64_t)job->asked.options->seed, &w->sampler));
  TRY(ARENA_NEW(w->arena, w->next_batch, decided->batch));
  TRY(ARENA_NEW(w->arena, w->fed, job->given.data.n_inputs + 1));
  for (size_t i = 0; i < decided->graph->n_nodes; i++)
    w->n_updates += (op_def(decided->graph->nodes[i]->op)->traits & OP_UPDATE) != 0;
  TRY(report_create(w));
  TRY(timeline_create(w));
  TRY(open_planned(w));
  if (job->asked.resumed)
    TRY(checkpoint_unchanged(job->asked.resumed));
  if (job->asked.origin)
    TRY(origin_unchanged(job->asked.origin));
  checkpoints_recall(w);
  return OK;
}

void worker_close(Worker *w) {
  close_planned(w);
  carried_destroy(w->carried);
  arena_destroy(w->arena);
}

/* Executor's Feed; context: the Worker. */
static Status feed(void *context, ValueId input, int microbatch, void *data, size_t bytes) {
  Worker *w = context;
  Feeder *feeder = &w->stepper->feeder;
  const Dataset *set = feeder->data;
  const Column *column = dataset_column(feeder, input);
  if (column)
    w->fed[column == set->target ? set->n_inputs : column - set->columns] = true;
  return dataset_feed(feeder, input, microbatch, data, bytes);
}

/* The next step's samples are on their way from the disk while this one computes: those of inputs that this rank reads.
 */
static void prefetch(Worker *w) {
  const Dataset *set = &w->training->job->given.data;
  int64_t n = sampler_indices(&w->sampler, w->steps_done + 1, w->next_batch);
  for (int i = 0; i < set->n_inputs; i++)
    if (w->fed[i])
      column_prefetch(&set->columns[i], w->next_batch, n);
  if (set->target && (w->fed[set->n_inputs] || w->targets))
    column_prefetch(set->target, w->next_batch, n);
}

/* The denominator failed: names the target by its place in the file. */
static Status blame_target(const Worker *w) {
  const Job *job = w->training->job;
  const LossSpec *loss = &job->decided.loss;
  int64_t classes = graph_value(job->decided.graph, loss->output)->shape.dim[loss->class_axis], value;
  char text[BLAME_BYTES];
  if (blame_class(job->given.data.target, w->sampler.indices, w->stepper->decided->batch, classes, loss->ignore_index,
                  &value, text))
    fail(E_MODEL, "target %lld of %s is outside the %lld classes (0 to %lld)", (long long)value, text,
         (long long)classes, (long long)classes - 1);
  return status_code();
}

/* A loss or a gradient is not finite: says of which number in the file it may come. */
static Status blame_data(const Worker *w, Status status) {
  const Job *job = w->training->job;
  char text[BLAME_BYTES], message[4096];
  snprintf(message, sizeof message, "%s", status_message());
  if (blame_not_finite(&job->given.data, w->sampler.indices, w->stepper->decided->batch, text))
    return fail(status, "%s: %s in %s", message, text, job->given.data.path);
  return fail(status, "%s; the data of its batch are finite", message);
}

/* 1 / the denominator of the batch at hand. Only the rank that has the loss uses it; where the loss is the model's own,
 * a stage before it may, when the loss's last node is a view. */
static Status loss_scale(Worker *w, double *scale) {
  const Job *job = w->training->job;
  const JobDecisions *decided = w->stepper->decided;
  const Column *target = job->given.data.target;
  int64_t count = target ? decided->batch * shape_elements(column_shape(target, 1)) : 0;
  double denominator;
  *scale = 1;
  if (!executor_has_loss(w->stepper->executor) && decided->loss.kind != LOSS_MODEL)
    return OK;
  if (w->targets)
    TRY(column_gather(target, w->sampler.indices, decided->batch, decided->loss.target_dtype, w->targets));
  Status status = loss_denominator(decided->graph, &decided->loss, w->targets, (size_t)count, &denominator);
  if (status == E_MODEL && w->targets)
    status = blame_target(w);
  if (status != OK) {
    if (w->targets)
      status_context("%s: ", job->given.data.path);
    return status;
  }
  if (denominator == 0)
    return fail(E_MODEL, "%s: every target of the batch is ignored (--ignore-index %lld)", job->given.data.path,
                (long long)decided->loss.ignore_index);
  *scale = 1 / denominator;
  return OK;
}

/* The factor that clipping leaves the step's gradients, as torch.nn.utils.clip_grad_norm_ has it. Collective. */
static Status clip(Worker *w, double *factor) {
  double norm;
  *factor = 1;
  if (w->training->clip_norm <= 0)
    return OK;
  double begun = trace_begin(w->timeline.trace);
  TRY(report_norm(w, &norm));
  trace_waited(w->timeline.trace, begun, TRACE_GLOBAL_NORM);
  double limit = w->training->clip_norm / (norm + 1e-6);
  *factor = limit < 1 ? limit : 1;
  return OK;
}

/* Waits for the last step's report. */
static Status collect(Worker *w) {
  if (!w->report_is_out)
    return OK;
  w->report_is_out = false;
  double begun = trace_begin(w->timeline.trace);
  TRY(report_collect(w, w->steps_done - 1));
  trace_waited(w->timeline.trace, begun, TRACE_REPORTS);
  return OK;
}

/* A loss may be finite and its gradient not: that would ruin the weights, and the last step's would be saved. */
static Status check_gradients(const Worker *w) {
  const Graph *graph = w->training->job->decided.graph;
  int at = 0;
  for (size_t i = 0; i < graph->n_nodes; i++) {
    const Node *node = graph->nodes[i];
    if (optimizer_is_norm(node) && !isfinite(w->squares[at++]))
      return blame_data(w, fail(E_MODEL, "the gradient of '%s' is not finite", node->name));
  }
  return OK;
}

static Status run_step(Worker *w) {
  const Training *training = w->training;
  const Options *o = training->job->asked.options;
  Stepper *stepper = training_is_rest(training, w->steps_done) ? &w->rest : &w->whole;
  Trace *trace = w->timeline.trace;
  StepWork work = {.feed = feed,
                   .context = w,
                   .counter = {[COUNTER_SEED] = o->seed, [COUNTER_STEP] = w->steps_done},
                   .samples = stepper->decided->microbatch_size};
  double begun = clock_seconds(), loss = 0, factor, scalars[STEP_SCALARS];
  if (trace && w->stepper && w->stepper != stepper) /* each has times of its own, and one looks back to the last step */
    TRY(executor_settle(w->stepper->executor));
  w->stepper = stepper;
  trace_step(trace, w->steps_done);
  TRY(word_post(w));
  sampler_batch(&w->sampler, w->steps_done);
  TRY(loss_scale(w, &work.loss_scale));
  TRY(denominators_count(&stepper->denominators, stepper->decided->microbatches, feed, w));
  work.denominators = stepper->denominators.totals;
  prefetch(w);
  trace_end(trace, begun, (TraceEvent){.kind = TRACE_BATCH});
  Status status = executor_run(stepper->executor, &work, &loss);
  if (status != OK)
    return status == E_MODEL && !isfinite(loss) ? blame_data(w, status) : status;
  TRY(collect(w));
  if (w->steps_done == training->first_step && o->dump_gradients)
    TRY(weights_dump_gradients(w, o->dump_gradients));
  for (int i = 0; i < w->n_updates; i++)
    w->squares[i] = -1;
  executor_squares(stepper->executor, w->squares);
  TRY(check_gradients(w));
  TRY(clip(w, &factor));
  double learning_rate = trainer_learning_rate(o, w->steps_done, training->steps);
  optimizer_scalars(&training->job->decided.optimizer, w->steps_done + 1, learning_rate, factor, scalars);
  TRY(executor_update(stepper->executor, scalars));
  double ended = clock_seconds();
  TRY(report_post(w, w->steps_done, loss, learning_rate, ended - begun));
  if (trace_on(trace))
    trace_add(trace, (TraceEvent){.begin = begun, .end = ended, .kind = TRACE_STEP});
  w->steps_done++;
  w->report_is_out = true;
  return word_take(w);
}

/* What failed here fails everywhere; what came from elsewhere is known already. A wire's own failure is E_COMM, too. */
static Status withdraw(Worker *w, Status status) {
  if (status == OK || !w->link)
    return outside(w, status);
  Endpoint *endpoint = w->link->endpoints[CHANNEL_CONTROL];
  w->link->transport->withdraw(endpoint, status_message());
  if (w->link->transport->part)
    w->link->transport->part(endpoint);
  return outside(w, status);
}

Status worker_connect(Worker *w) {
  at(w, WATCH_LOAD);
  Status status = executor_connect(w->whole.executor);
  if (status == OK)
    status = timeline_connect(w);
  return withdraw(w, status);
}

Status worker_step(Worker *w) {
  Stay stay = {0};
  at(w, WATCH_STEP);
  if (w->cores)
    machine_stay(w->cores[0], &stay);
  Status status = run_step(w);
  machine_leave(&stay);
  if (status != OK && !w->link && w->report_is_out)
    collect(w); /* the last good step is reported; with peers the transport is gone already */
  if (status != OK && status != E_COMM)
    status_context("step %lld: ", (long long)w->steps_done + 1);
  return withdraw(w, status);
}

Status worker_metrics(Worker *w, OnnxpipeMetrics *metrics) {
  const Training *training = w->training;
  *metrics = w->last;
  if (w->steps_done == training->first_step)
    return OK;
  at(w, WATCH_STEP);
  Status status = collect(w);
  if (status == OK && training->job->asked.world->mpi)
    status = report_metrics(w);
  *metrics = w->last;
  return withdraw(w, status);
}

/* What a validation came to, from the rank that has it to all. */
typedef struct {
  double loss, values[MOST_METRICS];
} Verdict;

static Status share_verdict(const Worker *w, Verdict *verdict) {
  int owner = w->training->validation->owner;
  if (!w->link)
    return OK;
  if (w->rank == owner && owner)
    TRY(link_send(w->link, 0, verdict, sizeof *verdict));
  if (w->rank)
    return link_receive(w->link, 0, verdict, sizeof *verdict);
  if (owner)
    TRY(link_receive(w->link, owner, verdict, sizeof *verdict));
  for (int r = 1; r < w->training->job->decided.ranks; r++)
    TRY(link_send(w->link, r, verdict, sizeof *verdict));
  return OK;
}

static Status validate(Worker *w) {
  Verdict verdict = {0};
  bool with_step = w->report_is_out;
  w->holds_line = true;
  Status status = collect(w);
  w->holds_line = false;
  TRY(status);
  double begun = trace_begin(w->timeline.trace);
  TRY(evaluation_run(w->evaluation, &verdict.loss, verdict.values));
  TRY(share_verdict(w, &verdict));
  trace_end(w->timeline.trace, begun, (TraceEvent){.kind = TRACE_VALIDATION});
  validation_judge(w->training->validation, w->steps_done, verdict.loss, verdict.values, &w->validated);
  return w->rank ? OK : report_validation(w, with_step);
}

Status worker_validate(Worker *w) {
  at(w, WATCH_VALIDATE);
  Status status = validate(w);
  if (status != OK && status != E_COMM)
    status_context("validation after step %lld: ", (long long)w->steps_done);
  return withdraw(w, status);
}

Status worker_save(Worker *w, const char *path, Outcome *outcome) {
  at(w, WATCH_SAVE);
  Status status = collect(w);
  double begun = trace_begin(w->timeline.trace);
  if (status == OK)
    status = weights_save(w, path);
  if (status == OK)
    trace_end(w->timeline.trace, begun, (TraceEvent){.kind = TRACE_SAVE});
  if (status != OK && (w->rank || status == E_COMM || status == E_DEVICE))
    return withdraw(w, status);
  status = trainer_agree(w->link, status, outcome);
  outcome->goes_on = status == OK || !w->link || outcome->agreed;
  return outside(w, status);
}

Status worker_checkpoint(Worker *w) {
  at(w, WATCH_CHECKPOINT);
  Status status = collect(w);
  double begun = trace_begin(w->timeline.trace);
  if (status == OK)
    status = checkpoints_begin(w);
  if (status == OK)
    trace_end(w->timeline.trace, begun, (TraceEvent){.kind = TRACE_CHECKPOINT});
  return withdraw(w, status);
}

Status worker_checkpoint_wait(Worker *w) {
  at(w, WATCH_CHECKPOINT);
  return withdraw(w, checkpoints_wait(w));
}

Status worker_checkpoint_end(Worker *w) {
  at(w, WATCH_CHECKPOINT);
  Status status = collect(w);
  return withdraw(w, status == OK ? checkpoints_end(w) : status);
}

/* Until all ranks have come so far. */
static Status meet(const Worker *w) {
  return trainer_agree(w->link, OK, &(Outcome){0});
}

static Status leave(Worker *w) {
  TRY(collect(w));
  TRY(executor_settle(w->whole.executor));
  if (w->stepper && w->stepper->executor != w->whole.executor) /* the epoch's rest was last */
    TRY(executor_settle(w->stepper->executor));
  TRY(replan_share(w));
  TRY(carry(w, &w->carried));
  close_planned(w);
  return meet(w);
}

Status worker_leave(Worker *w) {
  at(w, WATCH_LOAD);
  return withdraw(w, leave(w));
}

static Status enter(Worker *w) {
  TRY(open_planned(w));
  TRY(meet(w));
  TRY(executor_connect(w->whole.executor));
  carried_destroy(w->carried);
  w->carried = NULL;
  w->next = NULL;
  w->n_measured = 0;
  w->measured_seconds = 0;
  if (!w->rank)
    compare_begin(w);
  return OK;
}

Status worker_enter(Worker *w) {
  at(w, WATCH_LOAD);
  return withdraw(w, enter(w));
}

Status worker_end(Worker *w, Outcome *outcome) {
  at(w, WATCH_END);
  Status status = collect(w);
  if (status == OK)
    status = executor_settle(w->stepper ? w->stepper->executor : w->whole.executor);
  if (status == OK)
    status = word_sent(w);
  if (status == OK)
    status = report_show(w);
  Status written = OK;
  if (status == OK)
    status = timeline_write(w, &written);
  return status == OK ? outside(w, trainer_agree(w->link, written, outcome)) : withdraw(w, status);
}
