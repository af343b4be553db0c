/* Workers in step. Invariant: no update runs anywhere for a step whose loss is not finite; a failure on one rank ends
 * them all with that rank's message. */
#include "runtime/trainer.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "graph/op.h"

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What ranks tell each other when they agree. */
typedef struct {
  int32_t rank; /* that failed; -1: none */
  int32_t code;
  char message[2048];
} Verdict;

Status trainer_agree(const Link *link, Status status, Outcome *outcome) {
  if (!link)
    return status;
  Endpoint *endpoint = link->endpoints[CHANNEL_CONTROL];
  int rank = link->transport->rank(endpoint), size = link->transport->size(endpoint);
  Verdict own = {.rank = status == OK ? -1 : rank, .code = (int32_t)status}, verdict = own;
  if (status != OK)
    snprintf(own.message, sizeof own.message, "%s", status_message());
  verdict = own;
  if (rank) {
    TRY(link_send(link, 0, &own, sizeof own));
    TRY(link_receive(link, 0, &verdict, sizeof verdict));
  } else {
    for (int r = 1; r < size; r++) {
      Verdict other;
      TRY(link_receive(link, r, &other, sizeof other));
      if (verdict.rank < 0)
        verdict = other;
    }
    for (int r = 1; r < size; r++)
      TRY(link_send(link, r, &verdict, sizeof verdict));
  }
  if (verdict.rank < 0)
    return OK;
  *outcome = (Outcome){.agreed = true, .elsewhere = verdict.rank != rank};
  if (verdict.rank == rank)
    return status;
  return status_adopt((Status)verdict.code, verdict.message);
}

double trainer_learning_rate(const Options *o, int64_t step, int64_t steps) {
  if (step < o->warmup_steps)
    return o->lr * (double)(step + 1) / (double)o->warmup_steps;
  double left = 1;
  if (strcmp(o->lr_schedule, "constant") != 0 && steps > o->warmup_steps) {
    double done = (double)(step - o->warmup_steps) / (double)(steps - o->warmup_steps);
    left = strcmp(o->lr_schedule, "linear") == 0 ? 1 - done : 0.5 * (1 + cos(acos(-1) * done));
  }
  return o->lr * left;
}

static Status worker_open(Worker *w) {
  const Training *training = w->training;
  Job *job = training->job;
  ExecutorSpec spec = {.plan = &job->plan,
                       .rank = w->rank,
                       .backend = job->backend,
                       .threads = job->threads,
                       .transport = w->link ? w->link->transport : NULL,
                       .endpoint = w->link ? w->link->endpoints[CHANNEL_DATA] : NULL,
                       .load = weights_load,
                       .load_context = job};
  if (!(w->arena = arena_create()))
    return status_code();
  TRY(sampler_create(w->arena, job->data.samples, training->epoch_length, job->batch, job->options->shuffle,
                     (uint64_t)job->options->seed, &w->sampler));
  w->feeder = (Feeder){&job->data, job->model, job->graph, job->microbatch_size, w->sampler.indices};
  for (size_t i = 0; i < job->graph->n_nodes; i++)
    w->n_updates += (op_def(job->graph->nodes[i]->op)->flags & OP_UPDATE) != 0;
  TRY(report_create(w));
  TRY(denominators_create(w->arena, job->graph, &w->denominators));
  TRY(executor_open(&spec, &w->executor));
  if (executor_has_loss(w->executor) && job->loss.kind == LOSS_CROSS_ENTROPY) {
    size_t row = (size_t)shape_elements(dataset_shape(job->data.target, 1));
    w->targets = arena_alloc(w->arena, (size_t)job->batch * row, dtype_bytes(job->loss.target_dtype));
    return w->targets ? OK : status_code();
  }
  return OK;
}

static void worker_close(Worker *w) {
  executor_close(w->executor);
  arena_destroy(w->arena);
}

/* 1 / the denominator of the batch at hand. Only the rank that has the loss uses it. */
static Status loss_scale(Worker *w, double *scale) {
  const Job *job = w->training->job;
  const Array *target = job->data.target;
  int64_t count = target ? job->batch * shape_elements(dataset_shape(target, 1)) : 0;
  double denominator;
  *scale = 1;
  if (!executor_has_loss(w->executor))
    return OK;
  if (w->targets)
    TRY(dataset_gather(job->data.target, w->sampler.indices, job->batch, job->loss.target_dtype, w->targets));
  TRY(loss_denominator(job->graph, &job->loss, w->targets, (size_t)count, &denominator));
  if (denominator == 0)
    return fail(E_MODEL, "every target of the batch is ignored (--ignore-index %lld)",
                (long long)job->loss.ignore_index);
  *scale = 1 / denominator;
  return OK;
}

static Status run_step(Worker *w, int64_t step, double *begun) {
  const Training *training = w->training;
  const Options *o = training->job->options;
  StepWork work = {.feed = dataset_feed, .context = &w->feeder};
  double loss = 0, factor = 1, scalars[STEP_SCALARS];
  sampler_batch(&w->sampler, step);
  TRY(loss_scale(w, &work.loss_scale));
  TRY(denominators_count(&w->denominators, training->job->microbatches, dataset_feed, &w->feeder));
  work.denominators = w->denominators.totals;
  TRY(executor_run(w->executor, &work, &loss));
  if (step > 0)
    TRY(report_collect(w, step - 1));
  if (step == 0 && o->dump_gradients)
    TRY(weights_dump_gradients(w, o->dump_gradients));
  for (int i = 0; i < w->n_updates; i++)
    w->squares[i] = -1;
  TRY(executor_squares(w->executor, w->squares));
  if (training->clip_norm > 0) {
    double norm; /* torch.nn.utils.clip_grad_norm_ */
    TRY(report_norm(w, &norm));
    factor = training->clip_norm / (norm + 1e-6);
    if (!(factor < 1))
      factor = 1;
  }
  double learning_rate = trainer_learning_rate(o, step, training->steps);
  optimizer_scalars(&training->job->optimizer, step + 1, learning_rate, factor, scalars);
  TRY(executor_update(w->executor, scalars));
  double end = now(), seconds = end - *begun;
  *begun = end;
  return report_post(w, step, loss, learning_rate, seconds);
}

static Status run_steps(Worker *w) {
  const Training *training = w->training;
  double begun = now();
  for (int64_t step = 0; step < training->steps; step++) {
    Status status = run_step(w, step, &begun);
    if (status != OK) {
      if (status != E_COMM)
        status_context("step %lld: ", (long long)step + 1);
      return status;
    }
  }
  return training->steps ? report_collect(w, training->steps - 1) : OK;
}

/* From the executor's opening to its last file; `status`: what came before. */
static Status worker_run(Worker *w, Status status, Outcome *outcome) {
  const Options *o = w->training->job->options;
  TRY(trainer_agree(w->link, status == OK ? worker_open(w) : status, outcome));
  if (o->dry_run)
    return OK;
  status = run_steps(w);
  if (status == OK && o->save)
    status = weights_save(w, o->save);
  if (status == OK)
    return trainer_agree(w->link, OK, outcome);
  if (w->link && status != E_COMM)
    w->link->transport->withdraw(w->link->endpoints[CHANNEL_CONTROL], status_message());
  return status;
}

/* A worker in a thread of its own. */
typedef struct {
  Worker worker;
  pthread_t thread;
  bool started;
  Status status;
  char message[4096];
} LocalRank;

static void *local_main(void *argument) {
  LocalRank *local = argument;
  Outcome outcome = {0};
  local->status = worker_run(&local->worker, OK, &outcome);
  if (local->status != OK)
    snprintf(local->message, sizeof local->message, "%s", status_message());
  return NULL;
}

/* The failure that others follow from: the first that is no consequence of another rank's. */
static Status first_cause(LocalRank *locals, int ranks) {
  LocalRank *cause = NULL;
  for (int r = 0; r < ranks; r++)
    if (locals[r].status != OK && (!cause || (cause->status == E_COMM && locals[r].status != E_COMM)))
      cause = &locals[r];
  return cause ? status_adopt(cause->status, cause->message) : OK;
}

static Status run_local(const Training *training) {
  int ranks = training->job->ranks;
  Link *links;
  LocalRank *locals;
  TRY(ARENA_NEW(training->job->arena, links, ranks));
  TRY(ARENA_NEW(training->job->arena, locals, ranks));
  if (ranks > 1)
    TRY(transport_local_open(ranks, links));
  for (int r = 0; r < ranks; r++)
    locals[r].worker = (Worker){.training = training, .rank = r, .link = ranks > 1 ? &links[r] : NULL};
  for (int r = 1; r < ranks; r++) {
    int error = pthread_create(&locals[r].thread, NULL, local_main, &locals[r]);
    locals[r].started = error == 0;
    if (error) {
      locals[r].status = fail(E_MEMORY, "thread of rank %d: %s", r, strerror(error));
      snprintf(locals[r].message, sizeof locals[r].message, "%s", status_message());
      links[r].transport->withdraw(links[r].endpoints[CHANNEL_CONTROL], status_message());
    }
  }
  local_main(&locals[0]); /* rank 0 is the caller's thread, where progress is reported */
  for (int r = 1; r < ranks; r++)
    if (locals[r].started)
      pthread_join(locals[r].thread, NULL);
  Status status = first_cause(locals, ranks);
  for (int r = 0; r < ranks; r++)
    worker_close(&locals[r].worker);
  if (ranks > 1)
    transport_local_close(ranks, links);
  return status;
}

/* What rank 0 settled, and its plan, to every rank; then the graph is everybody's. */
static Status share_plan(Job *job) {
  const Link *link = &job->world->link;
  struct {
    int32_t microbatches, chunks;
    uint64_t bytes; /* of the plan's text */
  } head = {.microbatches = job->microbatches, .chunks = job->chunks};
  if (job->world->rank == 0) {
    const char *plan;
    TRY(plan_to_text(job->arena, &job->plan, &plan));
    head.bytes = strlen(plan) + 1;
    for (int r = 1; r < job->world->size; r++) {
      TRY(link_send(link, r, &head, sizeof head));
      TRY(link_send(link, r, plan, head.bytes));
    }
    return OK;
  }
  TRY(link_receive(link, 0, &head, sizeof head));
  char *text = arena_alloc(job->arena, head.bytes, 1);
  if (!text)
    return status_code();
  TRY(link_receive(link, 0, text, head.bytes));
  job->microbatches = head.microbatches;
  job->chunks = head.chunks;
  job->microbatch_size = job->batch / job->microbatches;
  TRY(job_bind(job));
  TRY(job_differentiate(job));
  return job_plan_from(job, text);
}

/* Steps, rates and files that can be refused before anything runs. */
static Status training_settle(Training *training) {
  Job *job = training->job;
  const Options *o = job->options;
  if (o->steps && o->epochs)
    return fail(E_USAGE, "--steps %lld and --epochs %lld: give one of them", (long long)o->steps, (long long)o->epochs);
  static const char *const rates[] = {"constant", "linear", "cosine"};
  bool known = false;
  for (int i = 0; i < 3; i++)
    known |= strcmp(o->lr_schedule, rates[i]) == 0;
  if (!known)
    return fail(E_USAGE, "--lr-schedule: '%s' is none of constant, linear, cosine", o->lr_schedule);
  if (options_given(o, "clip-norm") && !(o->clip_norm > 0))
    return fail(E_USAGE, "--clip-norm: %g is not above 0", o->clip_norm);
  training->clip_norm = o->clip_norm;
  int64_t samples = job->data.samples, an_epoch = samples / job->batch;
  int64_t epochs = o->epochs ? o->epochs : 1;
  training->steps = o->steps ? o->steps : epochs * an_epoch;
  training->epoch_length = o->steps ? samples : an_epoch * job->batch;
  TRY(job_decide(job, "steps", "%s%s%s", COUNT_STR(training->steps),
                 o->steps    ? ""
                 : o->epochs ? ", as --epochs makes"
                             : ", once through the data (--steps, --epochs)",
                 o->shuffle ? ", shuffled" : ""));
  if (!o->steps && samples % job->batch)
    TRY(job_decide(job, "note", "the last %lld samples of each epoch make no whole batch and are left out",
                   (long long)(samples % job->batch)));
  return OK;
}

/* A path that is only written at the end is tried at the beginning. */
static Status try_path(const char *path) {
  FileReplace file;
  if (!path)
    return OK;
  TRY(file_replace_begin(path, &file));
  file_replace_abandon(&file);
  return OK;
}

static Status open_files(Training *training) {
  const Options *o = training->job->options;
  TRY(try_path(o->save));
  TRY(try_path(o->dump_gradients));
  if (o->metrics && !(training->metrics = fopen(o->metrics, "w")))
    return fail(E_IO, "%s: cannot be written: %s", o->metrics, strerror(errno));
  return OK;
}

/* A run that is predicted to last so long begins by measuring what its nodes take, for so long at most. */
static const double WORTH_MEASURING_SECONDS = 20, MEASURING_SECONDS = 1;

/* Everything before the executors; on rank 0 with the plan. */
static Status training_prepare(Training *training) {
  Job *job = training->job;
  if (!job->options->data)
    return fail(E_USAGE, "train needs --data FILE.npz");
  TRY(job_open(job));
  TRY(training_settle(training));
  if (job->world->rank)
    return OK;
  TRY(job_choose(job));
  TRY(open_files(training));
  if (job->plan.step_seconds * (double)training->steps > WORTH_MEASURING_SECONDS && !job->options->plan) {
    Profile profile;
    TRY(job_measure(job, MEASURING_SECONDS, &profile));
    TRY(job_plan(job, &profile));
  }
  if (training->out) {
    job_print(job, training->out);
    TRY(plan_print(&job->plan, training->out, job_columns(), job_colours(training->out)));
    fflush(training->out);
  }
  return OK;
}

Status trainer_run(Job *job, FILE *out, OnnxpipeProgress *progress, void *context, Outcome *outcome) {
  Training training = {
      .job = job, .out = job->options->quiet ? NULL : out, .progress = progress, .progress_context = context};
  const Link *link = job->world->mpi ? &job->world->link : NULL;
  *outcome = (Outcome){0};
  Status status = trainer_agree(link, training_prepare(&training), outcome);
  if (status == OK && link) {
    Worker worker = {.training = &training, .rank = job->world->rank, .link = job->ranks > 1 ? link : NULL};
    status = worker_run(&worker, share_plan(job), outcome);
    worker_close(&worker);
  } else if (status == OK) {
    status = run_local(&training);
  }
  if (training.metrics && fclose(training.metrics) != 0 && status == OK)
    status = fail(E_IO, "%s: cannot be written", job->options->metrics);
  return status;
}
