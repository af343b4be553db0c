/* What the planner is asked for, and its answer. Invariant: ranks on one kind of device have the same costs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/job/job.h"
#include "runtime/transport/wire.h"

/* "lm_head.weight = wte.weight" for every tie of the file. */
static Status list_ties(Job *job, Ties *ties) {
  int n;
  const Initializer *table = model_initializers(job->given.model, &n);
  const char **pairs;
  TRY(ARENA_NEW(job->arena, pairs, n));
  *ties = (Ties){.known = !model_ties_unknown(job->given.model), .pairs = pairs};
  for (int i = 0; i < n; i++)
    if (table[i].tied_to >= 0) {
      const char *owner = table[table[i].tied_to].name;
      pairs[ties->n_pairs] =
          arena_format(job->arena, "%s = %s%s", table[i].name, owner, table[i].tied_transposed ? " transposed" : "");
      if (!pairs[ties->n_pairs++])
        return status_code();
    }
  return OK;
}

/* Shared memory of one machine, by order of magnitude. */
static const LinkSpec machine_link = {.latency_seconds = 10e-6, .bytes_per_second = 4e9};

static bool is_known(LinkSpec link) {
  return link.latency_seconds > 0 || link.bytes_per_second > 0;
}

/* GLOB=RANK: the last '=' counts, for names may hold others. */
static Status read_pin(Arena *arena, const char *text, PinWish *pin) {
  const char *equals = strrchr(text, '=');
  char *end = NULL;
  long rank = equals ? strtol(equals + 1, &end, 10) : -1;
  if (!equals || equals == text || end == equals + 1 || *end || rank < 0 || rank >= OPTIONS_MOST_RANKS)
    return fail(E_USAGE, "--pin: '%s' is not GLOB=RANK", text);
  char *glob = arena_copy(arena, text, (size_t)(equals - text) + 1);
  if (!glob)
    return status_code();
  glob[equals - text] = 0;
  *pin = (PinWish){glob, (int)rank};
  return OK;
}

/* --cut, --pin, --same-stage. */
static Status read_wishes(Job *job, const StageWishes **wishes) {
  const Options *o = job->asked.options;
  StageWishes *w;
  PinWish *pins;
  const char **cuts = NULL;
  size_t n = 0, room = 0;
  *wishes = NULL;
  if (o->cut.n + o->pin.n + o->same_stage.n == 0)
    return OK;
  if (o->plan)
    return fail(E_USAGE, "--%s is for plans that are made, and --plan %s has its stages",
                o->cut.n   ? "cut"
                : o->pin.n ? "pin"
                           : "same-stage",
                o->plan);
  TRY(ARENA_NEW(job->arena, w, 1));
  TRY(ARENA_NEW(job->arena, pins, o->pin.n));
  for (size_t i = 0; i < o->cut.n; i++) {
    char *text = arena_string(job->arena, o->cut.items[i]), *rest = NULL;
    if (!text)
      return status_code();
    for (char *name = strtok_r(text, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
      TRY(ARENA_RESERVE(job->arena, cuts, n, room, n + 1));
      cuts[n++] = name;
    }
  }
  for (size_t i = 0; i < o->pin.n; i++)
    TRY(read_pin(job->arena, o->pin.items[i], &pins[i]));
  *w = (StageWishes){.cuts = cuts,
                     .pins = pins,
                     .same = o->same_stage.items,
                     .n_cuts = (int)n,
                     .n_pins = (int)o->pin.n,
                     .n_same = (int)o->same_stage.n};
  *wishes = w;
  return OK;
}

/* What the planner is asked for. */
static Status fill_request(Job *job, const JobCosts *costs) {
  JobDecisions *decided = &job->decided;
  DeviceSpec *devices;
  double *staging;
  size_t *limits;
  bool inference = decided->graph->loss_sum == NO_VALUE;
  int with_devices = 0;
  double wire = costs && costs->wire_bytes_per_second > 0 ? costs->wire_bytes_per_second : 20e9;
  TRY(ARENA_NEW(job->arena, devices, decided->ranks));
  TRY(ARENA_NEW(job->arena, limits, decided->ranks));
  TRY(ARENA_NEW(job->arena, staging, decided->ranks));
  for (int r = 0; r < decided->ranks; r++) {
    bool measured = costs && costs->bus_bytes_per_second && costs->bus_bytes_per_second[r] > 0;
    staging[r] = decided->devices[r].backend->is_host ? 0
                 : measured                           ? costs->bus_bytes_per_second[r]
                                                      : 10e9; /* a bus, by order of magnitude */
    with_devices += !decided->devices[r].backend->is_host;
    if (decided->cluster)
      devices[r] = decided->cluster->devices[r];
    else
      TRY(devices_describe(decided->devices, decided->ranks, r, job_ranks_here(job), &devices[r]));
    if (costs && costs->devices)
      devices[r] = costs->devices[r];
    if (measured && !decided->cluster)
      devices[r].host_bytes_per_second = staging[r];
    limits[r] = (size_t)job->asked.options->memory_limit;
    if (decided->reserved_bytes) /* of a limit that was given */
      limits[r] = limits[r] > decided->reserved_bytes ? limits[r] - decided->reserved_bytes : 1;
  }
  decided->request = (PlanRequest){
      .model_hash = model_hash(job->given.model),
      .loss = inference ? NULL : loss_name(decided->loss.kind),
      .optimizer = inference ? NULL : job_optimizer(job),
      .device = decided->device_text,
      .precision = decided->precision_text,
      .offload = inference ? NULL : decided->offload_text,
      .ranks = decided->ranks,
      .chunks = decided->chunks,
      .microbatches = decided->microbatches,
      .microbatch_size = decided->microbatch_size,
      .schedule = inference                  ? "forward"
                  : job->asked.options->plan ? job->asked.planned.schedule
                  : decided->schedule        ? decided->schedule
                                             : job->asked.options->schedule,
      .devices = devices,
      .memory_limits = limits,
      .capacity = costs ? costs->capacity : 0,
      .link = decided->cluster                 ? decided->cluster->link
              : costs && is_known(costs->link) ? costs->link
                                               : machine_link,
      .pair_bytes_per_second = decided->cluster ? decided->cluster->pair_bytes_per_second : NULL,
      .staging_bytes_per_second = decided->cluster ? NULL : staging,
      /* as boundary_way will choose: copies inside a process, NCCL between processes. It is large: not loaded for less
       */
      .direct_bytes_per_second = with_devices > 1 && (!job->asked.world->mpi || wire_nccl_version() > 0) ? wire : 0,
      .profiles = costs ? costs->profiles : NULL,
      .given = job->asked.schedule,
      .recompute_given = options_given(job->asked.options, "recompute"),
      .synthesize = !decided->foresees,
      .beat_seconds = decided->beat_seconds,
      .brief = decided->compares || decided->attempt == ATTEMPT_KEEP || decided->attempt == ATTEMPT_AGAIN,
  };
  TRY(plan_recompute_find(decided->attempt == ATTEMPT_KEEP ? "none" : job->asked.options->recompute,
                          &decided->request.recompute));
  TRY(read_wishes(job, &decided->request.wishes));
  /* executor_agree: where hosts run ahead of devices that exchange directly */
  decided->request.objective = job_objective(job->asked.options, decided->request.direct_bytes_per_second > 0);
  return list_ties(job, &decided->request.ties);
}

/* States lie on the hosts of the ranks' new devices; as long as the graph does. */
static Status seat_offloads(JobDecisions *decided) {
  bool *offloads;
  if (!decided->graph->offloads)
    return OK;
  TRY(ARENA_NEW(decided->graph->arena, offloads, decided->ranks));
  for (int r = 0; r < decided->ranks; r++)
    offloads[r] = decided->cluster->devices[r].host_bytes_per_second > 0;
  decided->offloads = decided->graph->offloads = offloads;
  return OK;
}

/* Where the cluster's file leaves open which device a rank is, and no wish speaks of ranks. Once: what was chosen
 * stays. */
static Status seat_ranks(Job *job, const JobCosts *costs) {
  JobDecisions *decided = &job->decided;
  Cluster *seated;
  int *device, n = decided->ranks;
  double gain;
  Text text = {0};
  if (!decided->cluster || !decided->cluster->any_order || decided->request.wishes)
    return OK;
  TRY(ARENA_NEW(job->arena, device, n));
  TRY(ARENA_NEW(job->arena, seated, 1));
  TRY(plan_seat(decided->graph, &decided->request, device, &gain));
  TRY(cluster_seat(job->arena, decided->cluster, n, device, seated));
  decided->cluster = seated;
  TRY(seat_offloads(decided));
  bool moved = false;
  for (int r = 0; r < n; r++) {
    text_add(&text, "%s%d", r ? " " : "", device[r]);
    moved |= device[r] != r;
  }
  const char *whole = text_whole(&text);
  char won[64] = "as fast as in its order, over faster links";
  if (gain > 0)
    snprintf(won, sizeof won, "the slowest stage takes %.1f %% less than in its order", 100 * gain);
  Status status = !whole  ? status_code()
                  : moved ? job_decide(job, "order", "ranks take devices %s of the file: %s", whole, won)
                          : job_decide(job, "order", "ranks take the devices of the file in its order: none is better");
  text_free(&text);
  return status == OK ? fill_request(job, costs) : status;
}

Status job_plan(Job *job, const JobCosts *costs) {
  JobDecisions *decided = &job->decided;
  TRY(fill_request(job, costs));
  TRY(seat_ranks(job, costs));
  if (job->asked.options->plan)
    return plan_read(job->arena, job->asked.options->plan, decided->graph, &decided->request, &decided->plan);
  Status status = plan_make(job->arena, decided->graph, &decided->request, &decided->plan);
  if (status == OK)
    decided->plan.process = job_process(job);
  for (int r = 0; status == OK && r < decided->ranks; r++)
    decided->plan.memory_limits[r] += decided->plan.memory_limits[r] == SIZE_MAX ? 0 : decided->reserved_bytes;
  if (job->asked.schedule && (status == E_MODEL || status == E_LIMIT))
    status_context("%s: ", job->asked.options->schedule_file);
  return status;
}

Status job_plan_from(Job *job, const char *text) {
  TRY(fill_request(job, NULL));
  return plan_from_text(job->arena, text, "rank 0's plan", job->decided.graph, &job->decided.request,
                        &job->decided.plan);
}

Status job_check_beside(Job *job, const char *what, const size_t *taken, const size_t *beside) {
  const Plan *plan = &job->decided.plan;
  for (int r = 0; r < plan->ranks; r++) {
    size_t has = plan->rank_memory[r].total_bytes + (taken ? taken[r] : 0), limit = plan->memory_limits[r];
    char needs[24], own[24], at_most[24], rank[96];
    if (has <= limit && beside[r] <= limit - has)
      continue;
    job->decided.beside_bytes = (taken ? taken[r] : 0) + beside[r];
    return fail(E_LIMIT, "%s needs %s for %s beside training's %s, the limit is %s; a limit of %zu would do",
                plan_rank_text(plan, r, rank), plan_bytes_text(beside[r], needs), what, plan_bytes_text(has, own),
                plan_bytes_text(limit, at_most), has + beside[r]);
  }
  return OK;
}

int64_t job_largest_divisor(int64_t n, int64_t most) {
  int64_t size = most < n ? most : n;
  while (n % size)
    size--;
  return size;
}
