/* All ranks of a run measure, rank 0 puts together what they found. Invariant: a node has the number of its own, else
 * that of its kind on a device like its rank's, else the roofline's, as far off as that is for the nodes that are
 * known.
 */
#include "runtime/costs/costs.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "graph/op.h"
#include "runtime/costs/cache.h"
#include "runtime/costs/internal.h"

/* A rank in a thread of its own. */
typedef struct {
  const Measure *measure;
  int rank;
  const Link *link;
  double *all;         /* rank 0's: [ranks][n_nodes + RANK_NUMBERS] */
  LinkSample *samples; /* rank 0's */
  pthread_t thread;
  Status status;
  char message[1024];
} RankThread;

static size_t count_numbers(const Measure *m) {
  return m->job->decided.graph->n_nodes + RANK_NUMBERS;
}

static Status run(RankThread *t) {
  const Measure *m = t->measure;
  size_t n = count_numbers(m);
  int ranks = m->job->decided.ranks;
  double *own = t->rank ? calloc(n, sizeof *own) : t->all;
  if (!own)
    return link_withdraw(t->link, fail(E_MEMORY, "out of memory: %zu bytes", n * sizeof *own));
  Status status = measure_rank(m, t->rank, t->link, own);
  if (status == OK)
    status = measure_wires(m, t->rank, t->link, own + m->job->decided.graph->n_nodes);
  if (status == OK && t->link)
    status = measure_links(t->link, t->rank, t->samples);
  if (status == OK && t->rank)
    status = link_send(t->link, 0, own, n * sizeof *own);
  for (int r = 1; !t->rank && r < ranks && status == OK; r++)
    status = link_receive(t->link, r, t->all + (size_t)r * n, n * sizeof *own);
  if (t->rank)
    free(own);
  return status;
}

static void *thread_main(void *argument) {
  RankThread *t = argument;
  t->status = run(t);
  if (t->status != OK)
    snprintf(t->message, sizeof t->message, "%s", status_message());
  return NULL;
}

/* Ranks as threads over a transport of their own, which ends with them. */
static Status run_threads(Measure *m, RankThread *threads, int ranks) {
  Link *links;
  TRY(ARENA_NEW(m->job->arena, links, ranks));
  TRY(transport_local_open(ranks, links));
  int started = 1;
  for (int r = 0; r < ranks; r++)
    threads[r].link = &links[r];
  for (; started < ranks; started++) {
    int error = pthread_create(&threads[started].thread, NULL, thread_main, &threads[started]);
    if (!error)
      continue;
    fail(E_MEMORY, "thread of rank %d: %s", started, strerror(error));
    links[0].transport->withdraw(links[0].endpoints[CHANNEL_CONTROL], status_message());
    break;
  }
  thread_main(&threads[0]);
  for (int r = 1; r < started; r++)
    pthread_join(threads[r].thread, NULL);
  transport_local_close(ranks, links);
  RankThread *cause = &threads[0];
  for (int r = 1; r < started; r++)
    if (cause->status == OK || (cause->status == E_COMM && threads[r].status != OK && threads[r].status != E_COMM))
      cause = &threads[r];
  return cause->status == OK ? OK : status_adopt(cause->status, cause->message);
}

static Status run_ranks(Measure *m, double *all, LinkSample *samples) {
  const World *world = m->job->asked.world;
  int ranks = m->job->decided.ranks;
  RankThread *threads;
  TRY(ARENA_NEW(m->job->arena, threads, ranks));
  for (int r = 0; r < ranks; r++)
    threads[r] = (RankThread){.measure = m, .rank = r, .all = all, .samples = samples};
  if (ranks > 1 && !world->mpi)
    return run_threads(m, threads, ranks);
  threads[0].rank = world->rank;
  threads[0].link = ranks > 1 ? &world->link : NULL;
  return run(&threads[0]);
}

/* Sums over nodes that are known, to scale what is not. */
typedef struct {
  double measured, modelled;
} Sum;

static double off_by(const Sum *own, const Sum *all) {
  return own->modelled > 0 ? own->measured / own->modelled : all->modelled > 0 ? all->measured / all->modelled : 1;
}

/* What ranks `like` this one found, into seconds [n_nodes]: a kind's number is the mean of its nodes'. */
static Status merge(const Measure *m, const double *all, int rank, const bool *like, double *kind_seconds,
                    double *seconds) {
  const Graph *g = m->job->decided.graph;
  size_t n = count_numbers(m);
  int *counts;
  Sum total = {0}, of_op[OP_COUNT] = {0};
  TRY(ARENA_NEW(m->job->arena, counts, m->kinds.n));
  double *sums;
  TRY(ARENA_NEW(m->job->arena, sums, m->kinds.n));
  for (size_t i = 0; i < g->n_nodes; i++) {
    int k = m->kinds.of_node[i];
    seconds[i] = k < 0 ? 0 : -1;
    for (int r = 0; k >= 0 && r < m->job->decided.ranks; r++) {
      double found = all[(size_t)r * n + i];
      if (!like[r] || found < 0)
        continue;
      seconds[i] = seconds[i] < 0 ? found : (seconds[i] + found) / 2;
      sums[k] += found;
      counts[k]++;
    }
  }
  for (int k = 0; k < m->kinds.n; k++)
    if (counts[k])
      kind_seconds[k] = sums[k] / counts[k];
  const DeviceSpec *device = &m->job->decided.request.devices[rank];
  for (size_t i = 0; i < g->n_nodes; i++) {
    int k = m->kinds.of_node[i];
    if (k >= 0 && seconds[i] < 0)
      seconds[i] = kind_seconds[k];
    if (k < 0 || seconds[i] < 0)
      continue;
    Sum one = {seconds[i], op_seconds(g, g->nodes[i], device)}, *op = &of_op[g->nodes[i]->op];
    *op = (Sum){op->measured + one.measured, op->modelled + one.modelled};
    total = (Sum){total.measured + one.measured, total.modelled + one.modelled};
  }
  for (size_t i = 0; i < g->n_nodes; i++)
    if (seconds[i] < 0)
      seconds[i] = op_seconds(g, g->nodes[i], device) * off_by(&of_op[g->nodes[i]->op], &total);
  return OK;
}

static bool same_device(const Job *job, int a, int b) {
  const JobDecisions *decided = &job->decided;
  return decided->devices[a].backend == decided->devices[b].backend &&
         strcmp(decided->request.devices[a].name, decided->request.devices[b].name) == 0;
}

static double mean_of(const Measure *m, const double *all, const bool *like, int number) {
  size_t n = count_numbers(m), at = m->job->decided.graph->n_nodes + (size_t)number;
  double sum = 0;
  int count = 0;
  for (int r = 0; r < m->job->decided.ranks; r++) {
    double found = all[(size_t)r * n + at];
    if (!like[r] || found < 0)
      continue;
    sum += found;
    count++;
  }
  return count ? sum / count : -1;
}

/* Ranks on devices that are alike. */
typedef struct {
  int first;
  bool *like; /* [ranks] */
  bool *runs; /* [kinds]: nodes of it lie on these ranks */
  const char *about;
  Cached cached; /* then, with what was measured now */
} Class;

/* The rank runs the plan's node, which may compute another one anew. */
static void note_run(const Measure *m, NodeId id, int rank, Class *class) {
  const JobDecisions *decided = &m->job->decided;
  const Node *node = graph_node(decided->graph, graph_plain(decided->plan.graph, id));
  int kind = m->kinds.of_node[node->id];
  bool offloads = decided->plan.rank_memory[rank].offloads && op_def(node->op)->traits & OP_UPDATE;
  if (kind >= 0 && class->like[rank] && !offloads) /* as executor_rehearse */
    class->runs[kind] = true;
}

/* Which kinds the plan has on these ranks. */
static Status find_runs(const Measure *m, Class *class) {
  const Job *job = m->job;
  const Plan *plan = &job->decided.plan;
  const Graph *planned = plan->graph;
  TRY(ARENA_NEW(job->arena, class->runs, m->kinds.n));
  for (size_t i = 0; i < planned->n_nodes; i++)
    if (planned->nodes[i]->phase != PHASE_UPDATE)
      note_run(m, planned->nodes[i]->id, plan->schedule.rank_of_stage[planned->nodes[i]->stage], class);
  for (int r = 0; r < plan->ranks; r++)
    for (size_t i = 0; i < plan->rank_memory[r].n_updates; i++)
      note_run(m, plan->rank_memory[r].updates[i], r, class);
  return OK;
}

static Status find_classes(const Measure *m, Class *classes, int *n) {
  Job *job = m->job;
  size_t bytes = 0;
  *n = 0;
  for (int r = 0; r < job->decided.ranks; r++)
    bytes = job->decided.plan.rank_memory[r].total_bytes > bytes ? job->decided.plan.rank_memory[r].total_bytes : bytes;
  for (int r = 0; r < job->decided.ranks; r++) {
    int first = 0;
    while (!same_device(job, first, r))
      first++;
    if (first < r)
      continue;
    Class *class = &classes[(*n)++];
    class->first = r;
    TRY(ARENA_NEW(job->arena, class->like, job->decided.ranks));
    for (int k = r; k < job->decided.ranks; k++)
      class->like[k] = same_device(job, k, r);
    TRY(find_runs(m, class));
    TRY(cache_about(job, r, bytes, &class->about));
    TRY(cache_read(job->arena, class->about, &m->kinds, &class->cached));
  }
  return OK;
}

static bool knows_all(const Measure *m, const Class *class) {
  for (int k = 0; k < m->kinds.n; k++)
    if (class->runs[k] && class->cached.kind_seconds[k] < 0)
      return false;
  bool has_bus = m->job->decided.devices[class->first].backend->is_host || class->cached.bus_seconds >= 0;
  bool has_wires = !measures_wires(m) || class->cached.wire_seconds >= 0;
  return class->cached.action_seconds >= 0 && has_bus && has_wires &&
         (m->job->decided.ranks == 1 || class->cached.n_links);
}

/* Of seconds of a byte; 0: they are not known. */
static double rate_of(double seconds) {
  return seconds > 0 ? 1 / seconds : 0;
}

/* Of all ranks; negative: there is none. */
static double slowest_wire(const Measure *m, const double *all) {
  double slowest = -1;
  for (int r = 0; r < m->job->decided.ranks; r++)
    slowest = fmax(slowest, all[(size_t)r * count_numbers(m) + m->job->decided.graph->n_nodes + OF_WIRE]);
  return slowest;
}

/* Takes what was measured, if anything was, and keeps it. */
static Status take_class(const Measure *m, const double *all, Class *class, bool measured, Costs *costs,
                         Profile *profiles) {
  Job *job = m->job;
  double *seconds;
  Cached *cached = &class->cached;
  TRY(ARENA_NEW(job->arena, seconds, job->decided.graph->n_nodes));
  TRY(merge(m, all, class->first, class->like, cached->kind_seconds, seconds));
  if (measured) {
    double action = mean_of(m, all, class->like, OF_ACTION), step = mean_of(m, all, class->like, OF_STEP);
    cached->action_seconds = action >= 0 ? action : cached->action_seconds;
    cached->step_seconds = step >= 0 ? step : cached->step_seconds;
    double bus = mean_of(m, all, class->like, OF_BUS), wire = slowest_wire(m, all);
    cached->bus_seconds = bus >= 0 ? bus : cached->bus_seconds;
    cached->wire_seconds = wire >= 0 ? wire : cached->wire_seconds;
    cached->n_links = costs->n_links;
    memcpy(cached->links, costs->links, sizeof cached->links);
    cache_write(class->about, &m->kinds, cached);
  }
  CostsKnown *known = &costs->of_devices[costs->n_devices++];
  *known = (CostsKnown){.device = job->decided.devices[class->first].backend->name,
                        .about = class->about,
                        .bus_bytes_per_second = rate_of(cached->bus_seconds)};
  for (int k = 0; k < m->kinds.n; k++) {
    known->kinds += class->runs[k];
    known->known += class->runs[k] && cached->kind_seconds[k] >= 0;
  }
  for (int r = 0; r < job->decided.ranks; r++)
    if (class->like[r])
      profiles[r] = (Profile){.node_seconds = seconds,
                              .action_seconds = fmax(0, cached->action_seconds),
                              .step_seconds = fmax(0, cached->step_seconds)};
  return OK;
}

static Status put_together(const Measure *m, const double *all, Class *classes, int n, bool measured, Costs *costs) {
  Job *job = m->job;
  Profile *profiles;
  double *bus, wire = -1;
  TRY(ARENA_NEW(job->arena, profiles, job->decided.ranks));
  TRY(ARENA_NEW(job->arena, costs->of_devices, n));
  if (job->decided.ranks > 1)
    costs->n_links = LINK_SAMPLES;
  if (!measured)
    memcpy(costs->links, classes[0].cached.links, sizeof costs->links);
  TRY(ARENA_NEW(job->arena, bus, job->decided.ranks));
  for (int c = 0; c < n; c++) {
    const Class *class = &classes[c];
    TRY(take_class(m, all, &classes[c], measured, costs, profiles));
    for (int r = 0; r < job->decided.ranks; r++)
      if (class->like[r])
        bus[r] = rate_of(class->cached.bus_seconds);
    wire = fmax(wire, class->cached.wire_seconds);
  }
  costs->planned.profiles = profiles;
  costs->planned.bus_bytes_per_second = bus;
  costs->planned.wire_bytes_per_second = rate_of(wire);
  costs->planned.capacity = costs_capacity(job);
  if (costs->n_links)
    costs->planned.link = fit_link(costs->links, costs->n_links);
  return OK;
}

double costs_capacity(const Job *job) {
  const JobDecisions *decided = &job->decided;
  int cores = cores_usable(&decided->cores), here = decided->cores.ranks;
  if (!decided->devices[0].backend->is_host || here * decided->threads <= cores)
    return 0;
  return fmax(1, (double)cores / decided->threads) * decided->ranks / here; /* other machines are like this one */
}

/* Rank 0's word on whether to measure. */
static Status decide(const Measure *m, const Class *classes, int n, bool anew, bool *measures) {
  const World *world = m->job->asked.world;
  double missing = anew, most;
  for (int c = 0; c < n && !world->rank; c++)
    missing += !knows_all(m, &classes[c]);
  Status status = agree_most(world->mpi && m->job->decided.ranks > 1 ? &world->link : NULL, missing, &most);
  *measures = most > 0;
  return status;
}

/* What a rank does by itself before all of them begin. */
static Status prepare(Measure *m, Class **classes, int *n, double **all, Costs **costs) {
  Job *job = m->job;
  size_t count = (size_t)job->decided.ranks * (job->decided.graph->n_nodes + RANK_NUMBERS);
  TRY(kinds_find(job->arena, job->decided.graph, &m->kinds));
  TRY(ARENA_NEW(job->arena, *costs, 1));
  TRY(ARENA_NEW(job->arena, *classes, job->decided.ranks));
  TRY(ARENA_NEW(job->arena, *all, count));
  for (size_t i = 0; i < count; i++)
    (*all)[i] = -1;
  return job->asked.world->rank ? OK : find_classes(m, *classes, n);
}

Status costs_measure(Job *job, const Boundaries *boundaries, double budget_seconds, bool anew, Costs **out) {
  const World *world = job->asked.world;
  double begun = clock_seconds(), capacity = costs_capacity(job), *all;
  Measure m = {.job = job, .groups = capacity > 0 ? (int)ceil(job->decided.ranks / capacity) : 1};
  Class *classes;
  Costs *costs;
  bool measures;
  int n = 0;
  *out = NULL;
  if (boundaries) {
    m.boundaries = *boundaries;
    m.boundaries.copies = NULL; /* those are for the executors */
  }
  m.budget_seconds = budget_seconds / m.groups;
  Status status = prepare(&m, &classes, &n, &all, &costs);
  if (status != OK)
    return world->mpi && job->decided.ranks > 1 ? link_withdraw(&world->link, status) : status;
  TRY(decide(&m, classes, n, anew, &measures));
  if (measures && boundaries && boundaries->copies)
    TRY(copies_open(boundaries->ranks, &m.boundaries.copies));
  status = measures ? run_ranks(&m, all, costs->links) : OK;
  copies_close(m.boundaries.copies);
  TRY(status);
  if (world->rank)
    return OK;
  TRY(put_together(&m, all, classes, n, measures, costs));
  costs->seconds = measures ? clock_seconds() - begun : 0;
  *out = costs;
  return OK;
}

Status costs_tell(Job *job, const Costs *costs) {
  char beside[96] = "", between[64] = "", since[64] = ", from before";
  if (costs->n_links)
    snprintf(beside, sizeof beside, "; messages %.3g us + %.3g GB/s", 1e6 * costs->planned.link.latency_seconds,
             1e-9 * costs->planned.link.bytes_per_second);
  if (costs->planned.wire_bytes_per_second > 0)
    snprintf(between, sizeof between, "; between devices %.3g GB/s", 1e-9 * costs->planned.wire_bytes_per_second);
  if (costs->seconds > 0)
    snprintf(since, sizeof since, ", in %.2g s (--no-measure)", costs->seconds);
  for (int i = 0; i < costs->n_devices; i++) {
    const CostsKnown *known = &costs->of_devices[i];
    char bus[64] = "";
    if (known->bus_bytes_per_second > 0)
      snprintf(bus, sizeof bus, ", whose bus has %.3g GB/s", 1e-9 * known->bus_bytes_per_second);
    TRY(job_decide(job, "costs", "measured for %d of %d kinds of nodes on %s%s%s%s%s", known->known, known->kinds,
                   known->device, bus, i ? "" : beside, i ? "" : between, since));
  }
  return OK;
}
