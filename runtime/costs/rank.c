/* Rehearses one rank's steps and keeps what its nodes took. Invariant: ranks take part in whatever all ranks do, also
 * where they failed by themselves. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "runtime/costs/internal.h"
#include "runtime/costs/made_up.h"
#include "runtime/executor/executor.h"

static const double RATE = 1e-3;       /* of updates; at 0 those rows of tables rest that decay otherwise */
enum { PASSES = 6, MOST_PASSES = 64 }; /* the first one is not counted, where there are more */
/* Short passes go on for so long, as many as fit: somebody else may use the cores now and then. */
static const double LEAST_SECONDS = 0.3;

typedef struct {
  const Measure *measure;
  int rank;
  Arena *arena;
  Store *store;
  Executor *executor;
  MadeUpFeed feed;
  StepWork work;
  double scalars[STEP_SCALARS];
  Rehearsal pass;
  double *seconds[MOST_PASSES]; /* [n_nodes]: of one call; negative: none */
  double beside[MOST_PASSES][PASS_NUMBERS];
  int n;        /* passes */
  double until; /* of clock_seconds */
  Stay stay;
} Rank;

static Status prepare_work(Rank *r) {
  const Job *job = r->measure->job;
  const JobDecisions *decided = &job->decided;
  double *ones;
  int64_t *indices;
  TRY(ARENA_NEW(r->arena, ones, decided->graph->n_denominators + 1));
  for (size_t i = 0; i < decided->graph->n_denominators; i++)
    ones[i] = 1;
  r->feed.job = job;
  if (job->given.data.samples) {
    TRY(ARENA_NEW(r->arena, indices, decided->batch));
    for (int64_t i = 0; i < decided->batch; i++)
      indices[i] = i % job->given.data.samples;
    r->feed.feeder = (Feeder){&job->given.data, job->given.model, decided->graph, decided->microbatch_size, indices};
  }
  r->work = (StepWork){.denominators = ones,
                       .loss_scale = 1,
                       .counter = {[COUNTER_SEED] = 1},
                       .samples = decided->microbatch_size,
                       .feed = made_up_feed,
                       .context = &r->feed};
  optimizer_scalars(&decided->optimizer, 1, RATE, 1, r->scalars);
  return OK;
}

static Status open_rank(Rank *r) {
  const Job *job = r->measure->job;
  const JobDecisions *decided = &job->decided;
  const RankDevice *device = &decided->devices[r->rank];
  size_t n = decided->graph->n_nodes;
  if (!(r->arena = arena_create()))
    return status_code();
  TRY(ARENA_NEW(r->arena, r->pass.seconds, n));
  TRY(ARENA_NEW(r->arena, r->pass.calls, n));
  TRY(ARENA_NEW(r->arena, r->pass.done, r->measure->kinds.n));
  TRY(prepare_work(r));
  TRY(store_open(device->backend, device->device, decided->threads, &r->store));
  if (decided->cores.pinned) {
    const int *cores = cores_of(&decided->cores, job->asked.world->mpi ? 0 : r->rank, decided->threads);
    if (device->backend->stream_place)
      device->backend->stream_place(store_stream(r->store), cores);
    machine_stay(cores[0], &r->stay);
  }
  ExecutorSpec spec = {.plan = &decided->plan,
                       .rank = r->rank,
                       .store = r->store,
                       .load = made_up_load,
                       .load_context = (void *)job,
                       .rehearses = true};
  TRY(executor_open(&spec, &r->executor));
  return executor_make_up(r->executor, made_up_received, decided->graph);
}

static void close_rank(Rank *r) {
  machine_leave(&r->stay);
  executor_close(r->executor);
  store_close(r->store);
  arena_destroy(r->arena);
}

/* One more pass, over so many microbatches; `each`: one call of each kind. */
static Status pass(Rank *r, int microbatches, bool each) {
  const Measure *m = r->measure;
  size_t n = m->job->decided.graph->n_nodes;
  Rehearsal *p = &r->pass;
  if (!r->seconds[r->n])
    TRY(ARENA_NEW(r->arena, r->seconds[r->n], n));
  memset(p->seconds, 0, n * sizeof *p->seconds);
  memset(p->calls, 0, n * sizeof *p->calls);
  memset(p->done, 0, (size_t)m->kinds.n * sizeof *p->done);
  *p = (Rehearsal){.seconds = p->seconds,
                   .calls = p->calls,
                   .kind_of = each ? m->kinds.of_node : NULL,
                   .done = p->done,
                   .until = r->until};
  TRY(executor_rehearse(r->executor, &r->work, r->scalars, microbatches, p));
  for (size_t i = 0; i < n; i++)
    r->seconds[r->n][i] = p->calls[i] ? p->seconds[i] / p->calls[i] : -1;
  double *beside = r->beside[r->n++];
  beside[OF_ACTION] = p->actions ? p->actions_seconds / p->actions : 0;
  beside[OF_STEP] = p->pass_seconds - p->nodes_seconds - p->actions_seconds;
  beside[OF_PASS] = p->late ? -1 : p->pass_seconds;
  return OK;
}

static int by_size(const void *a, const void *b) {
  const double *x = a, *y = b;
  return (*x > *y) - (*x < *y);
}

/* Of what is not negative; negative where all are. */
static double median(double *numbers, int n) {
  int kept = 0;
  for (int i = 0; i < n; i++)
    if (numbers[i] >= 0)
      numbers[kept++] = numbers[i];
  if (!kept)
    return -1;
  qsort(numbers, (size_t)kept, sizeof *numbers, by_size);
  return kept % 2 ? numbers[kept / 2] : (numbers[kept / 2 - 1] + numbers[kept / 2]) / 2;
}

/* Medians over passes from `first` on, or before it where a node was not called since. */
static void conclude(const Rank *r, int first, double *numbers) {
  size_t n = r->measure->job->decided.graph->n_nodes;
  for (size_t i = 0; i < n + PASS_NUMBERS; i++) {
    double of_passes[MOST_PASSES];
    for (int k = 0; k < r->n; k++)
      of_passes[k] = i < n ? r->seconds[k][i] : r->beside[k][i - n];
    double late = median(of_passes + first, r->n - first);
    numbers[i] = late >= 0 ? late : median(of_passes, first);
  }
}

/* Of all nodes; on a device, which takes as long for one as for the other, of one of each kind still. */
static Status whole_pass(Rank *r) {
  const JobDecisions *decided = &r->measure->job->decided;
  bool each = !decided->devices[r->rank].backend->is_host;
  return pass(r, each ? 1 : decided->microbatches, each);
}

/* The first passes, from which all ranks learn how long the rest should take. The budget is for passes: large
 * parameters take their time to be made up. */
static Status begin(Rank *r) {
  TRY(open_rank(r));
  r->until = clock_seconds() + r->measure->budget_seconds;
  TRY(pass(r, 1, true));
  return r->pass.late ? OK : whole_pass(r);
}

static Status go_on(Rank *r, double until) {
  while (r->n < MOST_PASSES && !r->pass.late && clock_seconds() < until)
    TRY(whole_pass(r));
  return OK;
}

static Status measure_now(const Measure *m, int rank, const Link *link, bool mine, double *numbers) {
  Rank r = {.measure = m, .rank = rank};
  double most;
  Status own = mine ? begin(&r) : OK;
  bool goes_on = mine && own == OK;
  Status status = agree_most(link, goes_on && r.n ? r.pass.pass_seconds : 0, &most);
  if (status == OK && goes_on)
    own = go_on(&r, clock_seconds() + fmax((PASSES - 1.5) * most, LEAST_SECONDS));
  if (goes_on && own == OK)
    conclude(&r, r.n > 2 ? 2 : r.n > 1 ? 1 : 0, numbers);
  if (mine)
    close_rank(&r);
  return status;
}

Status measure_rank(const Measure *m, int rank, const Link *link, double *numbers) {
  double unused;
  for (size_t i = 0; i < m->job->decided.graph->n_nodes + RANK_NUMBERS; i++)
    numbers[i] = -1;
  for (int g = 0; g < m->groups; g++) {
    TRY(agree_most(link, 0, &unused)); /* the group before is done */
    TRY(measure_now(m, rank, link, rank % m->groups == g, numbers));
  }
  return agree_most(link, 0, &unused);
}
