/* What comes before the first step. Invariant: whatever options, data and files make impossible is refused here, on
 * every rank alike, before an executor is opened. */
#include "runtime/training/trainer.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime/checkpoint/resume.h"
#include "runtime/costs/costs.h"

/* What ranks tell each other when they agree. */
typedef struct {
  int32_t rank; /* that failed; -1: none */
  int32_t code;
  char message[2048];
} Verdict;

/* *verdict: this rank's own at first, then that of the lowest that failed. */
static Status exchange_verdicts(const Link *link, int rank, int size, Verdict *verdict) {
  if (rank) {
    TRY(link_send(link, 0, verdict, sizeof *verdict));
    return link_receive(link, 0, verdict, sizeof *verdict);
  }
  for (int r = 1; r < size; r++) {
    Verdict other;
    TRY(link_receive(link, r, &other, sizeof other));
    if (verdict->rank < 0)
      *verdict = other;
  }
  for (int r = 1; r < size; r++)
    TRY(link_send(link, r, verdict, sizeof *verdict));
  return OK;
}

Status trainer_agree(const Link *link, Status status, Outcome *outcome) {
  if (!link)
    return status;
  Endpoint *endpoint = link->endpoints[CHANNEL_CONTROL];
  int rank = link->transport->rank(endpoint), size = link->transport->size(endpoint);
  Verdict own = {.rank = status == OK ? -1 : rank, .code = (int32_t)status}, verdict;
  if (status != OK)
    snprintf(own.message, sizeof own.message, "%s", status_message());
  verdict = own;
  Status exchanged = exchange_verdicts(link, rank, size, &verdict);
  if (exchanged != OK) /* what failed here first is what there is to say */
    return status == OK ? exchanged : status_adopt(status, own.message);
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
    double done = step < steps ? (double)(step - o->warmup_steps) / (double)(steps - o->warmup_steps) : 1;
    left = strcmp(o->lr_schedule, "linear") == 0 ? 1 - done : 0.5 * (1 + cos(acos(-1) * done));
  }
  return o->lr * left;
}

/* Steps, rates and files that can be refused before anything runs. */
static Status settle_steps(Training *training) {
  Job *job = training->job;
  JobDecisions *decided = &job->decided;
  const Options *o = job->asked.options;
  if (o->steps && o->epochs)
    return fail(E_USAGE, "--steps %lld and --epochs %lld: give one of them", (long long)o->steps, (long long)o->epochs);
  if (options_given(o, "clip-norm") && !(o->clip_norm > 0))
    return fail(E_USAGE, "--clip-norm: %g is not above 0", o->clip_norm);
  if (decided->batch > job->given.data.samples && !o->steps)
    return fail(E_USAGE, "--batch %lld is more than the %lld samples of %s", (long long)decided->batch,
                (long long)job->given.data.samples, job->given.data.path);
  double deviation;
  if (o->init && o->freeze_row.n)
    return fail(E_USAGE, "--freeze-row %s keeps a row of the file, --init draws them all anew", o->freeze_row.items[0]);
  if (o->init) {
    TRY(init_parse(o->init, &deviation));
    TRY(job_decide(job, "init", "matrices drawn from a normal distribution of deviation %g, seed %lld", deviation,
                   (long long)o->seed));
  }
  training->clip_norm = o->clip_norm;
  int64_t samples = job->given.data.samples, rest = rest_samples(job), whole = samples / decided->batch;
  if (o->steps && strcmp(o->last_batch, "exact") == 0)
    return fail(E_USAGE, "--steps %lld and --last-batch exact: the data wraps, no epoch has a last batch (--epochs)",
                (long long)o->steps);
  training->epoch_steps = whole + (rest > 0);
  training->steps = o->steps ? o->steps : (o->epochs ? o->epochs : 1) * training->epoch_steps;
  training->epoch_length = o->steps || rest ? samples : whole * decided->batch;
  training->first_step = job->asked.resumed ? job->asked.resumed->step : 0;
  if (job->asked.resumed)
    TRY(resume_check(job, job->asked.resumed, training->epoch_length));
  if (job->asked.resumed)
    TRY(resume_tell_bits(job, job->asked.resumed));
  TRY(job_decide(job, "steps", "%s%s%s", COUNT_STR(training->steps),
                 o->steps    ? ""
                 : o->epochs ? ", as --epochs makes"
                             : ", once through the data (--steps, --epochs)",
                 o->shuffle ? ", shuffled" : ""));
  TRY(learning_decide(job, training->steps));
  TRY(timeline_settle(training));
  if (!o->steps && !rest && samples % decided->batch)
    TRY(job_decide(job, "note",
                   "the last %lld samples of each epoch make no whole batch and are left out (--last-batch exact: a "
                   "smaller one)",
                   (long long)(samples % decided->batch)));
  return OK;
}

/* --replan leaves what these have laid down. */
static Status settle_replan(const Job *job) {
  const Options *o = job->asked.options;
  if (!o->replan)
    return OK;
  if (o->plan || o->schedule_file)
    return fail(E_USAGE, "--replan plans anew, and --%s %s is to be kept: give one of them",
                o->plan ? "plan" : "schedule-file", o->plan ? o->plan : o->schedule_file);
  return o->trace ? fail(E_USAGE, "--replan and --trace %s: a timeline is of one plan", o->trace) : OK;
}

enum { EVERY = 1000 }; /* steps, where nobody says */

/* What is validated, and how often. */
static Status settle_validation(Training *training) {
  const Options *o = training->job->asked.options;
  const char *idle = o->metric.n                     ? "metric"
                     : o->patience                   ? "patience"
                     : options_given(o, "min-delta") ? "min-delta"
                                                     : NULL;
  if (idle && !o->validate && !training->job->given.validation.samples)
    return fail(E_USAGE, "--%s does nothing without --validate FILE or --validation-split", idle);
  if (options_given(o, "min-delta") && !o->patience)
    return fail(E_USAGE, "--min-delta does nothing without --patience N");
  if (o->min_delta < 0)
    return fail(E_USAGE, "--min-delta: %g is below 0", o->min_delta);
  training->every = o->every ? o->every : o->epochs ? training->epoch_steps : EVERY;
  return validation_open(training->job, &training->validation);
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
  const Options *o = training->job->asked.options;
  TRY(try_path(o->save));
  TRY(try_path(o->dump_gradients));
  TRY(try_path(o->trace));
  TRY(checkpoints_take(training));
  if (!o->metrics || o->dry_run)
    return OK;
  if (training->first_step)
    TRY(checkpoints_metrics(o->metrics, training->first_step));
  return metrics_open(o->metrics, !training->first_step, &training->metrics);
}

/* What options, data and this rank's device say. */
static Status begin(Training *training, RankPlace *place) {
  Job *job = training->job;
  TRY(launcher_check(job->asked.world, job->asked.options));
  if (!job_has_data(job->asked.options))
    return fail(E_USAGE, "train needs --data FILE, or --tokens FILE");
  TRY(settle_replan(job));
  job->decided.pins = true;
  TRY(job_open(job));
  TRY(settle_steps(training));
  TRY(settle_validation(training));
  return boundary_place(job->decided.devices, job->asked.world->rank, job->asked.world->mpi, place);
}

/* Everybody's place to everybody: own ones under mpirun, else all are this process's. */
static Status share_places(Training *training, const Link *link, const RankPlace *own) {
  Job *job = training->job;
  JobDecisions *decided = &job->decided;
  RankPlace *places;
  Status status = ARENA_NEW(job->arena, places, decided->ranks);
  if (status != OK)
    return link ? link_withdraw(link, status) : status;
  for (int r = 0; !link && r < decided->ranks; r++)
    TRY(boundary_place(decided->devices, r, false, &places[r]));
  for (int r = 1; link && r < decided->ranks && !job->asked.world->rank; r++)
    TRY(link_receive(link, r, &places[r], sizeof *places));
  if (link && job->asked.world->rank)
    TRY(link_send(link, 0, own, sizeof *own));
  if (!job->asked.world->rank)
    places[0] = *own;
  for (int r = 1; link && r < decided->ranks && !job->asked.world->rank; r++)
    TRY(link_send(link, r, places, (size_t)decided->ranks * sizeof *places));
  if (link && job->asked.world->rank)
    TRY(link_receive(link, 0, places, (size_t)decided->ranks * sizeof *places));
  training->places = places;
  return boundaries_open(job->arena, decided->devices, places, decided->ranks, &training->boundaries);
}

/* Says how tensors cross, where that is a choice: between neighbouring stages on two ranks. */
static Status show_boundaries(Training *training) {
  Job *job = training->job;
  JobDecisions *decided = &job->decided;
  const int *rank_of = decided->plan.schedule.rank_of_stage;
  bool *told;
  TRY(ARENA_NEW(job->arena, told, (size_t)decided->ranks * (size_t)decided->ranks));
  for (int s = 0; s + 1 < decided->plan.stages; s++) {
    int low = rank_of[s] < rank_of[s + 1] ? rank_of[s] : rank_of[s + 1], high = rank_of[s] + rank_of[s + 1] - low;
    bool *said = &told[(size_t)low * (size_t)decided->ranks + (size_t)high];
    Way way = boundary_between(&training->boundaries, low, high);
    if (low == high || way == WAY_HOST || *said)
      continue;
    *said = true;
    const char *what = arena_format(job->arena, "boundary %d-%d", low, high);
    TRY(what ? job_decide(job, what, "%s", boundary_name(way)) : status_code());
  }
  return OK;
}

/* Where ranks of this machine would wait less. */
static Status show_copies(Job *job) {
  bool slow = job->asked.world->mpi && job_ranks_here(job) > 1 && transport_mpi_copies_twice();
  return slow ? job_decide(job, "note",
                           "ranks of this machine do not read each other's memory: what crosses takes two copies, and "
                           "time of the rank that sends")
              : OK;
}

static Status show_convolutions(Job *job) {
  const char *who = NULL;
  for (int r = 0; r < job->decided.ranks && !who; r++) {
    const Backend *backend = job->decided.devices[r].backend;
    who = backend->convolves ? backend->convolves(job->decided.graph) : NULL;
  }
  return who ? job_decide(job, "convolution", "%s", who) : OK;
}

/* With --verbose, a line for each backend. */
static Status show_kernels(Job *job) {
  const RankDevice *devices = job->decided.devices;
  for (int r = 0; r < job->decided.ranks && job->asked.options->verbose; r++) {
    const char *text;
    int first = 0;
    while (devices[first].backend != devices[r].backend)
      first++;
    if (first < r)
      continue;
    TRY(backend_kernels_text(devices[r].backend, job->decided.graph, job->arena, &text));
    TRY(job_decide(job, "kernels", "%s", text));
  }
  return OK;
}

Status trainer_plan_beside(Job *job, Validation *validation, int64_t every, Rest **rest) {
  TRY(rest_plan(job, rest));
  return validation ? validation_plan(validation, job, *rest ? (*rest)->beside : NULL, every) : OK;
}

static Status plan_beside(Training *training) {
  return trainer_plan_beside(training->job, training->validation, training->every, &training->rest);
}

static Status fits_beside(void *validation, Job *job) {
  Rest *rest;
  return trainer_plan_beside(job, validation, 0, &rest);
}

Status trainer_choose(Job *job, Validation *validation) {
  return job_choose(job, validation || rest_samples(job) ? fits_beside : NULL, validation);
}

/* Rank 0's part. */
static Status prepare(Training *training) {
  Job *job = training->job;
  if (job->asked.world->rank)
    return OK;
  TRY(trainer_choose(job, training->validation));
  return open_files(training);
}

/* How long measuring may take: 2 seconds, or 2 % of what the run is expected to. */
static double measuring_seconds(const Training *training) {
  double run = training->job->decided.plan.step_seconds * (double)(training->steps - training->first_step);
  return fmax(2, 0.02 * run);
}

/* Plans by what was measured (rank 0). Where that leads to a plan that does not fit, or has no room for what lies
 * beside it, the one by stated speed stays, which does. */
static Status plan_anew(Training *training, const JobCosts *costs) {
  Job *job = training->job;
  JobCosts stated = {.capacity = costs->capacity};
  Rest *rest;
  size_t n_lines = job->decided.n_lines;
  Status status = job_plan(job, costs);
  if (status == OK)
    status = trainer_plan_beside(job, training->validation, training->every, &rest);
  job->decided.n_lines = n_lines; /* what lies there is told when it stays */
  if (status != E_LIMIT)
    return status;
  training->costs = NULL; /* the plan does not follow from them */
  training->planned = stated;
  return job_plan(job, &stated);
}

/* All ranks measure what the plan runs, and rank 0 plans again. */
static Status measure(Training *training) {
  Job *job = training->job;
  Costs *costs;
  if (job->asked.options->plan)
    return OK;
  if (job->asked.options->no_measure) {
    JobCosts shared = {.capacity = costs_capacity(job)};
    training->planned = shared;
    return shared.capacity > 0 && !job->asked.world->rank ? job_plan(job, &shared) : OK;
  }
  TRY(costs_measure(job, &training->boundaries, measuring_seconds(training), false, &costs));
  if (!costs)
    return OK;
  TRY(costs_tell(job, costs));
  training->costs = costs;
  training->planned = costs->planned;
  return plan_anew(training, &costs->planned);
}

/* Why no stage is compared with what was planned. */
static Status show_replan(Training *training) {
  Job *job = training->job;
  const JobDecisions *decided = &job->decided;
  bool counts = false;
  for (int r = 0; r < decided->ranks; r++)
    counts |= boundaries_alone(&training->boundaries, r);
  const char *why = decided->ranks == 1 ? "one rank has no cut"
                    : !counts           ? "what ranks that share a device take depends on the others"
                    : decided->plan.capacity > 0 && decided->plan.capacity < decided->ranks
                        ? "what ranks that share cores take depends on the others"
                        : NULL;
  return why && job->asked.options->replan ? job_decide(job, "note", "--replan does nothing here: %s", why) : OK;
}

/* Rank 0's last part: what lies beside the plan, and all that was decided, for people. */
static Status conclude(Training *training) {
  Job *job = training->job;
  JobDecisions *decided = &job->decided;
  if (job->asked.world->rank)
    return OK;
  TRY(show_boundaries(training));
  TRY(show_copies(job));
  TRY(show_convolutions(job));
  TRY(show_kernels(job));
  TRY(show_replan(training));
  if (training->checkpoint_lock >= 0)
    TRY(resume_about(job, training->epoch_length, &training->checkpoint_about));
  TRY(plan_beside(training));
  int cores = cores_usable(&decided->cores), here = decided->cores.ranks;
  if (decided->devices[0].backend->is_host && here * decided->threads > cores)
    TRY(job_decide(job, "note", "%d ranks of %d thread%s share %d core%s", here, decided->threads,
                   decided->threads == 1 ? "" : "s", cores, cores == 1 ? "" : "s"));
  return job_show(job, training->out);
}

/* What rank 0 settled, and its plan, to every rank; the first time the graph becomes everybody's, too. */
static Status share_plan(Job *job, bool first) {
  JobDecisions *decided = &job->decided;
  const Link *link = &job->asked.world->link;
  struct {
    int32_t microbatches, chunks;
    uint64_t bytes; /* of the plan's text */
  } head = {.microbatches = decided->microbatches, .chunks = decided->chunks};
  if (job->asked.world->rank == 0) {
    const char *plan;
    Status status = plan_to_text(job->arena, &decided->plan, &plan);
    head.bytes = status == OK ? strlen(plan) + 1 : 0; /* the others wait for it in any case */
    for (int r = 1; r < job->asked.world->size; r++) {
      TRY(link_send(link, r, &head, sizeof head));
      if (head.bytes)
        TRY(link_send(link, r, plan, head.bytes));
    }
    return status;
  }
  TRY(link_receive(link, 0, &head, sizeof head));
  if (!head.bytes)
    return fail(E_COMM, "rank 0 could not write down its plan");
  char *text = arena_alloc(job->arena, head.bytes, 1);
  if (!text)
    return link_withdraw(link, status_code());
  TRY(link_receive(link, 0, text, head.bytes));
  decided->microbatches = head.microbatches;
  decided->chunks = head.chunks;
  decided->microbatch_size = decided->batch / decided->microbatches;
  if (first) {
    TRY(job_bind(job));
    TRY(job_differentiate(job));
  }
  return job_plan_from(job, text);
}

Status trainer_prepare(Training *training, Outcome *outcome) {
  Job *job = training->job;
  const Link *link = job->asked.world->mpi ? &job->asked.world->link : NULL;
  RankPlace place;
  TRY(trainer_agree(link, begin(training, &place), outcome));
  dataset_settle(&job->given.data);
  TRY(trainer_agree(link, share_places(training, link, &place), outcome));
  TRY(trainer_agree(link, prepare(training), outcome));
  if (job->asked.options->dry_run)
    training->steps = training->first_step;
  Status status = link ? trainer_agree(link, share_plan(job, true), outcome) : OK;
  if (status == OK)
    status = trainer_agree(link, measure(training), outcome);
  if (status == OK)
    status = trainer_agree(link, conclude(training), outcome);
  if (status == OK && link)
    status = trainer_agree(link, share_plan(job, false), outcome);
  if (status == OK && link) {
    status = job->asked.world->rank ? plan_beside(training) : OK;
    status = trainer_agree(link, status, outcome);
  }
  model_bound(job->given.model);
  return status;
}
