/* How many microbatches and stages a rank, where nobody says: plans are made for several, and the fastest by predicted
 * time is taken. Invariant: the choice depends on the model, the options and the device's stated speed alone, never on
 * a measurement, so that the same command has the same bits tomorrow. */
#include <stdio.h>
#include <string.h>

#include "runtime/job/job.h"

enum { MOST_CHUNKS = 2, MOST_PLANNED = 512 };

typedef struct {
  int tried; /* numbers of microbatches */
  int microbatches, chunks;
  double step_seconds;
  bool found;
  Status status; /* of the last that failed */
  char message[1024];
} Search;

int job_list_microbatches(const Job *job, int list[JOB_MICROBATCHES]) {
  int n = 0;
  if (!job->decided.microbatches_open) {
    list[0] = job->decided.microbatches;
    return 1;
  }
  list[n++] = 1;
  for (int most = job->decided.ranks > 1 ? job->decided.ranks : 2;
       n < JOB_MICROBATCHES && most <= 8 * job->decided.ranks + 8; most *= 2) {
    int best = 1;
    for (int m = 1; m <= most && m <= job->decided.batch; m++)
      if (job->decided.batch % m == 0)
        best = m;
    if (best != list[n - 1])
      list[n++] = best;
  }
  return n;
}

static Status list_chunks(const Job *job, int list[MOST_CHUNKS], int *n) {
  const Options *o = job->asked.options;
  *n = 1;
  list[0] = job->decided.chunks;
  if (o->chunks || o->plan || job->asked.schedule)
    return OK;
  if (strcmp(o->schedule, "auto") != 0)
    return schedule_usual_chunks(o->schedule, &list[0]);
  if (job->decided.ranks > 1)
    list[(*n)++] = 2;
  return OK;
}

/* Plans the bound job in an arena of the plan's own. */
static Status plan_apart(Job trial, Arena *arena, double *step_seconds) {
  trial.arena = arena;
  TRY(job_plan(&trial, NULL));
  *step_seconds = trial.decided.plan.step_seconds;
  return OK;
}

/* One plan of a bound job; keeps what is fastest. */
static Status try_plan(Job *trial, const char *schedule, Search *search) {
  double step_seconds;
  Arena *arena = arena_create();
  trial->decided.schedule = schedule;
  Status status = arena ? plan_apart(*trial, arena, &step_seconds) : status_code();
  arena_destroy(arena);
  TRY(status);
  if (!search->found || step_seconds < search->step_seconds) {
    search->microbatches = trial->decided.microbatches;
    search->chunks = trial->decided.chunks;
    search->step_seconds = step_seconds;
  }
  search->found = true;
  return OK;
}

/* Plans for this many microbatches with each number of stages a rank. Where the schedule is open, named ones stand for
 * what will be found: synthesis is for the sizes that are taken. Fails as the plan that came closest. */
static Status try_microbatches(const Job *job, Arena *arena, int microbatches, const int *chunks, int n_chunks,
                               Search *search) {
  /* with recomputation plans take longer to make: of each number of stages a rank what is fast, and takes least */
  static const char *const frugal[] = {"1f1b", "zb-h1", "interleaved-1f1b", "v-min", NULL}, *const plain[] = {"1f1b",
                                                                                                              NULL};
  const char *const one[] = {job->asked.options->schedule, NULL};
  const char *const *all = job->decided.attempt == ATTEMPT_AGAIN     ? frugal
                           : job->decided.attempt == ATTEMPT_EXPLAIN ? plain
                                                                     : schedule_names;
  bool open = strcmp(one[0], "auto") == 0 && !job->asked.options->plan && !job->asked.schedule, good = false;
  Job trial = *job;
  trial.arena = arena;
  trial.decided.lines = NULL;
  trial.decided.n_lines = trial.decided.lines_capacity = 0;
  trial.decided.microbatches = microbatches;
  trial.decided.microbatch_size = job->decided.batch / microbatches;
  TRY(job_bind(&trial));
  TRY(job_differentiate(&trial));
  Status status = OK;
  char message[sizeof search->message] = "";
  for (int c = 0; c < n_chunks; c++)
    for (const char *const *name = open ? all : one; *name; name++) {
      trial.decided.chunks = chunks[c];
      Status tried = try_plan(&trial, *name, search);
      if (tried == E_MEMORY)
        return tried;
      good |= tried == OK;
      if (tried != OK && (status == OK || (tried == E_LIMIT && status != E_LIMIT))) {
        status = tried;
        snprintf(message, sizeof message, "%s", status_message());
      }
    }
  return good ? OK : status_adopt(status, message);
}

static Status search_all(const Job *job, const int *microbatches, int n, const int *chunks, int n_chunks,
                         Search *search) {
  for (int i = 0; i < n; i++) {
    Arena *arena = arena_create();
    if (!arena)
      return status_code();
    search->tried++;
    Status status = try_microbatches(job, arena, microbatches[i], chunks, n_chunks, search);
    bool alike = status != OK && i > 0 && !search->found && /* whatever the size */
                 strncmp(status_message(), search->message, sizeof search->message - 1) == 0;
    if (status != OK && (i == 0 || status == E_LIMIT)) {
      search->status = status;
      snprintf(search->message, sizeof search->message, "%s", status_message());
    }
    arena_destroy(arena);
    if (status == E_MEMORY)
      return status;
    if (status == E_USAGE || alike || (job->decided.ranks == 1 && search->found))
      break; /* more would not help; one rank has nobody to overlap with */
  }
  return search->found ? OK : status_adopt(search->status, search->message);
}

/* What a step takes with the stages a rank at hand. Of many microbatches, as those of fewer let expect: what another
 * one takes is the same every time. */
static Status foresee(Job *job, double *seconds) {
  int all = job->decided.microbatches, few = all < MOST_PLANNED ? all : MOST_PLANNED;
  double at[2] = {0, 0};
  Status status = OK;
  job->decided.foresees = few < all;
  for (int i = few < all ? 0 : 1; i < 2 && status == OK; i++) {
    job->decided.microbatches = i ? few : few / 2;
    status = job_plan(job, NULL);
    at[i] = job->decided.plan.step_seconds;
  }
  job->decided.microbatches = all;
  job->decided.foresees = false;
  *seconds = at[1] + (few < all ? (at[1] - at[0]) / (few - few / 2) * (all - few) : 0);
  return status;
}

/* First without recomputation: what fits so needs none. What lacks is told of the most microbatches, which take least.
 */
static Status search_twice(Job *job, const int *microbatches, int n, const int *chunks, int n_chunks, Search *search) {
  Status status = OK;
  if (strcmp(job->asked.options->recompute, "auto") != 0)
    return search_all(job, microbatches, n, chunks, n_chunks, search);
  for (Attempt attempt = ATTEMPT_KEEP; attempt <= ATTEMPT_EXPLAIN; attempt++) {
    bool last = attempt == ATTEMPT_EXPLAIN;
    *search = (Search){0};
    job->decided.attempt = attempt;
    status = last ? search_all(job, &microbatches[n - 1], 1, chunks, 1, search)
                  : search_all(job, microbatches, n, chunks, n_chunks, search);
    job->decided.attempt = ATTEMPT_ANY;
    if (status != E_LIMIT)
      break;
  }
  return status;
}

/* Plans with each number of stages a rank and keeps the faster one, fewer stages where it makes no difference: what is
 * made for the stages may be faster where what has a name is not. Those that have no plan are left out; where none has,
 * fails as the first that memory hindered, or else the first. */
static Status plan_chunks(Job *job, const int *chunks, int n) {
  Plan best = {0};
  PlanRequest request = {0};
  Status failed = OK;
  char message[1024] = "";
  double least = 0, seconds;
  const double worth = 1 - 1e-3;
  bool many = job->decided.microbatches > MOST_PLANNED;
  for (int c = 0; c < n; c++) {
    job->decided.chunks = chunks[c];
    job->decided.beat_seconds = many ? 0 : least * worth;
    Status status = foresee(job, &seconds);
    job->decided.beat_seconds = 0;
    if (status != OK && status != E_USAGE && status != E_LIMIT)
      return status;
    if (status != OK && (failed == OK || (status == E_LIMIT && failed != E_LIMIT))) {
      failed = status;
      snprintf(message, sizeof message, "%s", status_message());
    }
    if (status != OK || (best.graph && seconds >= least * worth))
      continue;
    best = job->decided.plan;
    request = job->decided.request;
    least = seconds;
  }
  if (!best.graph)
    return status_adopt(failed, message);
  job->decided.plan = best;
  job->decided.request = request;
  job->decided.chunks = best.chunks; /* nodes lie as in the last one that was made */
  return many ? job_plan(job, NULL)
              : stages_assign(best.graph, job->arena, best.stage_of, best.stages, &job->decided.plan.cuts);
}

/* Where the batch's loss is not that of its microbatches, there is one. *n: how many numbers are open. *statistics: so
 * many nodes have a microbatch's. */
static Status one_if_coupled(Job *job, int *n, const char **coupled, int *statistics) {
  Arena *arena = arena_create();
  if (!arena)
    return status_code();
  Job trial = *job;
  trial.arena = arena;
  trial.decided.lines = NULL;
  trial.decided.n_lines = trial.decided.lines_capacity = 0;
  trial.decided.microbatches = 1;
  trial.decided.microbatch_size = job->decided.batch;
  Status status = job_bind(&trial);
  *statistics = status == OK ? job_coupled(&trial) : 0;
  if (*statistics)
    *n = 1;
  if (status == OK)
    status = job_differentiate(&trial);
  if (status == OK && trial.decided.loss.coupled) {
    *n = 1;
    *coupled = arena_string(job->arena, trial.decided.loss.coupled);
    if (!*coupled)
      status = status_code();
  }
  arena_destroy(arena);
  return status;
}

/* Batch normalisation acts on a microbatch, as in every pipeline trainer: that is said. */
static Status tell_statistics(Job *job, bool chosen) {
  int n = job_coupled(job), microbatches = job->decided.microbatches;
  if (!n || (microbatches == 1 && !chosen))
    return OK;
  if (microbatches == 1)
    return job_decide(job, "note",
                      "one microbatch: batch normalisation (%d node%s) is by its statistics (--microbatches)", n,
                      n == 1 ? "" : "s");
  return job_decide(
      job, "note",
      "batch normalisation (%d node%s) is by the statistics of %lld samples, a microbatch's, not by those of "
      "the batch",
      n, n == 1 ? "" : "s", (long long)job->decided.microbatch_size);
}

/* With one of these numbers of microbatches, `of` them; *of: among how many there was a choice. */
static Status choose_among(Job *job, const int *microbatches, int *of) {
  int chunks[MOST_CHUNKS], n_chunks, n = *of;
  Search search = {0};
  const char *coupled = NULL;
  int statistics = 0;
  TRY(list_chunks(job, chunks, &n_chunks));
  bool many = n > 1 || (microbatches[0] > 1 && !model_fixed_batch(job->given.model));
  if (many) {
    Status status = one_if_coupled(job, &n, &coupled, &statistics);
    if (status != OK && status != E_LIMIT) /* as one microbatch it may not fit: then each number is asked for itself */
      return status;
  }
  if (coupled && microbatches[0] > 1) {
    Status status = loss_refuse(coupled);
    status_context("%s: ", job->asked.path);
    return status;
  }
  *of = n;
  if (n > 1) {
    TRY(search_twice(job, microbatches, n, chunks, n_chunks, &search));
    job->decided.microbatches = search.microbatches;
    job->decided.chunks = search.chunks;
  } else {
    job->decided.microbatches = microbatches[0];
    job->decided.chunks = chunks[0];
  }
  job->decided.microbatch_size = job->decided.batch / job->decided.microbatches;
  char tried[64] = "";
  for (int i = 0; search.tried > 1 && i < search.tried; i++)
    snprintf(tried + strlen(tried), sizeof tried - strlen(tried), "%s%d", i ? ", " : "", microbatches[i]);
  TRY(job_decide(job, "batch", "%lld samples a step%s: %d microbatch%s of %lld%s%s%s", (long long)job->decided.batch,
                 job->asked.options->batch || job->asked.options->plan ? "" : " (--batch)", job->decided.microbatches,
                 job->decided.microbatches == 1 ? "" : "es", (long long)job->decided.microbatch_size,
                 search.tried > 1 ? ", the fastest by simulation of " : "", tried,
                 n == 1 && model_fixed_batch(job->given.model) ? ", the batch it was exported with" : ""));
  if (coupled)
    TRY(job_decide(job, "note", "one microbatch: %s", coupled));
  TRY(job_bind(job));
  if (!coupled)
    TRY(tell_statistics(job, statistics > 0 && job->decided.microbatches_open));
  TRY(job_differentiate(job));
  return n_chunks > 1 ? plan_chunks(job, chunks, n_chunks) : job_plan(job, NULL);
}

/* Whether training may compute anew what would take the room of what lies beside it. */
static bool may_reserve(const Job *job) {
  const Options *o = job->asked.options;
  return o->memory_limit && !o->plan && strcmp(o->recompute, "auto") == 0 && !job->decided.reserved_bytes;
}

/* Plans within what the limit leaves; where nothing fits so, as before. */
static Status choose_within(Job *job, const int *microbatches, int n) {
  size_t n_lines = job->decided.n_lines;
  int of = n, chunks = job->decided.chunks;
  job->decided.reserved_bytes = job->decided.beside_bytes;
  Status status = choose_among(job, microbatches, &of);
  if (status != E_LIMIT)
    return status;
  job->decided.n_lines = n_lines;
  job->decided.chunks = chunks;
  job->decided.reserved_bytes = 0;
  return choose_among(job, microbatches, &n);
}

Status job_choose(Job *job, JobBeside *beside, void *context) {
  int microbatches[JOB_MICROBATCHES], n = job_list_microbatches(job, microbatches), all = n;
  int chunks = job->decided.chunks;
  Status status = OK;
  char why[1024];
  for (;;) {
    size_t n_lines = job->decided.n_lines;
    int open = n, kept = 0;
    job->decided.chunks = chunks;
    TRY(choose_among(job, microbatches, &open));
    if (n < all && status != OK)
      TRY(job_decide(job, "note", "with other numbers of microbatches this would not fit: %s", why));
    if (!beside || (open == 1 && !may_reserve(job)))
      return OK;
    size_t planned = job->decided.n_lines;
    status = beside(context, job);
    job->decided.n_lines = status == OK ? planned : n_lines; /* what lies there is told when it stays */
    for (int i = 0; i < n && open > 1; i++)
      if (microbatches[i] != job->decided.microbatches)
        microbatches[kept++] = microbatches[i];
    if (status == E_LIMIT && !kept && may_reserve(job)) {
      n = job_list_microbatches(job, microbatches);
      job->decided.chunks = chunks;
      return choose_within(job, microbatches, n);
    }
    if (status != E_LIMIT || !kept)
      return open == 1 && status == E_LIMIT ? OK : status;
    snprintf(why, sizeof why, "%s", status_message());
    n = kept;
  }
}
