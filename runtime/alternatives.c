/* Plans what the options list, each combination once. Invariant: a graph is bound once for each device, precision and
 * number of microbatches, whatever ranks and schedules it is planned for. */
#include "runtime/alternatives.h"

#include <stdlib.h>
#include <string.h>

#include "graph/op.h"

enum { MOST_ROWS = 100000 };

/* What is combined: where the options do not say, what is usual. */
typedef struct {
  const char *const *devices, *const *precisions, *const *schedules;
  int n_devices, n_precisions, n_schedules;
  int *ranks, *microbatches, *chunks;
  int n_ranks, n_microbatches, n_chunks; /* 0 chunks: what the schedule usually has */
  bool every_schedule;                   /* nobody chose: one will do where there is but one rank */
} Axes;

static Status read_numbers(Arena *arena, const Options *o, const char *name, int64_t one, int **numbers, int *n) {
  const TextList *list = options_list(o, name);
  *n = list->n ? (int)list->n : one > 0;
  TRY(ARENA_NEW(arena, *numbers, *n));
  for (int i = 0; i < *n; i++) {
    (*numbers)[i] = list->n ? atoi(list->items[i]) : (int)one;
    if (!(*numbers)[i])
      return fail(E_USAGE, "--%s: a list has numbers, not '%s'", name, list->items[i]);
  }
  return OK;
}

static Status read_names(Arena *arena, const Options *o, const char *name, const char *one, const char *const **names,
                         int *n) {
  const TextList *list = options_list(o, name);
  const char **copy;
  *n = list->n ? (int)list->n : 1;
  TRY(ARENA_NEW(arena, copy, *n));
  for (int i = 0; i < *n; i++)
    copy[i] = list->n ? list->items[i] : one;
  *names = copy;
  return OK;
}

static Status split_devices(Arena *arena, const char *text, const char *const **names, int *n) {
  char *rest = arena_string(arena, text), *part;
  const char **list;
  TRY(ARENA_NEW(arena, list, strlen(text) + 1));
  *n = 0;
  if (!rest)
    return status_code();
  while ((part = strsep(&rest, ",")))
    list[(*n)++] = part;
  *names = list;
  return OK;
}

/* Numbers of microbatches that suit the most ranks; those that a model with a fixed batch has. */
static Status usual_microbatches(Job *job, Axes *axes) {
  int list[JOB_MICROBATCHES];
  job->decided.microbatches_open = !model_fixed_batch(job->given.model);
  axes->n_microbatches = job_list_microbatches(job, list);
  axes->microbatches = arena_copy(job->arena, list, (size_t)axes->n_microbatches * sizeof *list);
  return axes->microbatches ? OK : status_code();
}

static Status read_axes(Job *job, Axes *axes) {
  static const char *const usual[] = {"gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-h2", "zb-v", "v-half", "v-min"};
  static const int few[] = {1, 2, 4, 8};
  const Options *o = job->asked.options;
  *axes = (Axes){0};
  TRY(read_numbers(job->arena, o, "ranks", o->ranks, &axes->ranks, &axes->n_ranks));
  if (!axes->n_ranks) {
    axes->n_ranks = sizeof few / sizeof *few;
    axes->ranks = arena_copy(job->arena, few, sizeof few);
    if (!axes->ranks)
      return status_code();
  }
  for (int i = 0; i < axes->n_ranks; i++)
    if (i == 0 || axes->ranks[i] > job->decided.ranks)
      job->decided.ranks = axes->ranks[i];
  TRY(read_numbers(job->arena, o, "chunks", o->chunks, &axes->chunks, &axes->n_chunks));
  TRY(read_numbers(job->arena, o, "microbatches", o->microbatches, &axes->microbatches, &axes->n_microbatches));
  if (!axes->n_microbatches)
    TRY(usual_microbatches(job, axes));
  TRY(read_names(job->arena, o, "precision", o->precision, &axes->precisions, &axes->n_precisions));
  TRY(split_devices(job->arena, o->device, &axes->devices, &axes->n_devices));
  axes->every_schedule = !options_given(o, "schedule");
  axes->schedules = usual;
  axes->n_schedules = sizeof usual / sizeof *usual;
  return axes->every_schedule
             ? OK
             : read_names(job->arena, o, "schedule", o->schedule, &axes->schedules, &axes->n_schedules);
}

static Status check_options(const Options *o) {
  const char *beside = o->plan ? "plan" : o->schedule_file ? "schedule-file" : o->validate ? "validate" : NULL;
  if (beside)
    return fail(E_USAGE, "--%s and --what-if: give one of them", beside);
  return OK;
}

/* Floating-point operations of a node's backward products, at most twice those of the node itself: what is computed
 * again on the way does not count. */
static Status count_flops(Arena *arena, const Graph *g, double *flops) {
  double *forward, *backward;
  TRY(ARENA_NEW(arena, forward, g->n_nodes));
  TRY(ARENA_NEW(arena, backward, g->n_nodes));
  *flops = 0;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    bool counts = op_def(node->op)->traits & OP_PRODUCT || node->op == OP_Attention || node->op == OP_AttentionGrad;
    if (counts && node->phase == PHASE_F)
      forward[i] += op_cost(g, node).flops;
    else if (counts && node->phase != PHASE_UPDATE)
      backward[node->origin] += op_cost(g, node).flops;
  }
  for (size_t i = 0; i < g->n_nodes; i++)
    *flops += forward[i] + (backward[i] < 2 * forward[i] ? backward[i] : 2 * forward[i]);
  return OK;
}

/* What a device can do of products in this precision. */
static double peak(const DeviceSpec *device, Precision precision) {
  double reduced = precision == PRECISION_TF32   ? device->tf32_flops_per_second
                   : precision == PRECISION_BF16 ? device->bf16_flops_per_second
                                                 : 0;
  if (precision == PRECISION_BF16 && device->narrow_flops_per_second > reduced)
    reduced = device->narrow_flops_per_second;
  return reduced > 0 ? reduced : device->flops_per_second;
}

/* The row, kept for good. */
static Status add_row(Job *job, Alternatives *a, Alternative row, Status status) {
  if (a->n == MOST_ROWS)
    return fail(E_USAGE, "--what-if: the lists make more than %d plans", MOST_ROWS);
  if (status != OK && !(row.reason = arena_string(job->arena, status_message())))
    return status_code();
  TRY(ARENA_RESERVE(job->arena, a->rows, a->n, a->capacity, a->n + 1));
  a->rows[a->n++] = row;
  a->n_fit += status == OK;
  return OK;
}

/* So many ranks of the cluster, where one is given. */
static Status take_cluster(Job *job) {
  Cluster *cluster;
  if (!job->asked.options->cluster)
    return OK;
  TRY(ARENA_NEW(job->arena, cluster, 1));
  TRY(cluster_read(job->arena, job->asked.options->cluster, job->decided.ranks, cluster));
  job->decided.cluster = cluster;
  return OK;
}

/* What the row's ranks have elsewhere. */
static Status take_offload(Job *job) {
  TRY(job_take_offload(job));
  job->decided.graph->offloads = job->decided.offloads;
  return OK;
}

/* Plans the trial's graph as the row says. */
static Status plan_row(Job trial, double flops, Alternative *row) {
  JobDecisions *d = &trial.decided;
  double all = 0;
  d->ranks = row->ranks;
  d->chunks = row->chunks;
  d->schedule = row->schedule;
  TRY(take_cluster(&trial));
  TRY(take_offload(&trial));
  TRY(job_plan(&trial, NULL));
  for (int r = 0; r < d->ranks; r++) {
    size_t bytes = d->plan.rank_memory[r].total_bytes;
    row->memory_bytes = bytes > row->memory_bytes ? bytes : row->memory_bytes;
    all += peak(&d->request.devices[r], d->precision);
  }
  row->schedule = d->plan.named ? d->plan.named : row->schedule;
  row->step_seconds = d->plan.step_seconds;
  row->bubble = d->plan.bubble;
  row->samples_per_second = (double)d->batch / row->step_seconds;
  row->utilisation = flops * row->microbatches / (row->step_seconds * all);
  return OK;
}

static Status add_plan(Job *job, const Job *trial, double flops, Alternatives *a, Alternative row) {
  const char *asked = row.schedule;
  Job apart = *trial;
  if (!(apart.arena = arena_create()))
    return status_code();
  Status status = plan_row(apart, flops, &row);
  row.schedule = asked; /* "auto" stays what was asked for */
  arena_destroy(apart.arena);
  return status == E_MEMORY ? status : add_row(job, a, row, status);
}

static Status plan_all(Job *job, const Job *trial, double flops, const Axes *axes, Alternatives *a, Alternative row) {
  for (int r = 0; r < axes->n_ranks; r++)
    for (int s = 0; s < axes->n_schedules; s++) {
      int chunks = 1, n = axes->n_chunks ? axes->n_chunks : 1;
      row.ranks = axes->ranks[r];
      row.schedule = axes->schedules[s];
      if (axes->every_schedule && row.ranks == 1 && strcmp(row.schedule, "1f1b") != 0)
        continue;
      if (strcmp(row.schedule, "auto") != 0)
        TRY(schedule_usual_chunks(row.schedule, &chunks));
      for (int c = 0; c < n; c++) {
        row.chunks = axes->n_chunks ? axes->chunks[c] : chunks;
        TRY(add_plan(job, trial, flops, a, row));
      }
    }
  return OK;
}

/* Binds for the row's microbatches on its device and in its precision. */
static Status bind_row(Job *trial, const Alternative *row) {
  JobDecisions *d = &trial->decided;
  int64_t fixed = model_fixed_batch(trial->given.model);
  TRY(devices_precision(row->precision, d->devices, d->ranks, &d->precision));
  d->precision_text = row->precision;
  d->microbatches = row->microbatches;
  if (d->batch % d->microbatches)
    return fail(E_USAGE, "a batch of %lld does not divide by %d", (long long)d->batch, d->microbatches);
  d->microbatch_size = d->batch / d->microbatches;
  if (fixed && d->microbatch_size != fixed)
    return fail(E_USAGE, "the model was exported with a batch of %lld, which makes %lld microbatches", (long long)fixed,
                (long long)(d->batch / fixed));
  TRY(job_bind(trial));
  return job_differentiate(trial);
}

/* All rows of one graph. What cannot be bound is one row for all of them. */
static Status add_graph(Job *job, const Axes *axes, Alternatives *a, Alternative row) {
  Job trial = *job;
  double flops = 0;
  trial.decided.lines = NULL;
  trial.decided.n_lines = trial.decided.lines_capacity = 0;
  if (!(trial.arena = arena_create()))
    return status_code();
  Status status = bind_row(&trial, &row);
  if (status != OK && status != E_MEMORY) {
    row.ranks = row.chunks = 0;
    row.schedule = "";
    status = add_row(job, a, row, status);
  } else if (status == OK) {
    row.microbatch_size = trial.decided.microbatch_size;
    status = count_flops(trial.arena, trial.decided.graph, &flops);
    a->model_flops = flops * row.microbatches;
    if (status == OK)
      status = plan_all(job, &trial, flops, axes, a, row);
  }
  arena_destroy(trial.arena);
  return status;
}

static Status add_device(Job *job, const Axes *axes, Alternatives *a, const char *device) {
  TRY(job_take_devices(job, device));
  Alternative row = {.device = job->decided.device_text};
  for (int p = 0; p < axes->n_precisions; p++)
    for (int m = 0; m < axes->n_microbatches; m++) {
      row.precision = axes->precisions[p];
      row.microbatches = axes->microbatches[m];
      TRY(add_graph(job, axes, a, row));
    }
  return OK;
}

/* Plans first, the fastest first; of equal ones fewer ranks, then less memory. */
static int by_seconds(const void *left, const void *right) {
  const Alternative *a = left, *b = right;
  if (!a->reason != !b->reason)
    return a->reason ? 1 : -1;
  if (a->step_seconds != b->step_seconds)
    return a->step_seconds < b->step_seconds ? -1 : 1;
  if (a->ranks != b->ranks)
    return a->ranks - b->ranks;
  if (a->memory_bytes != b->memory_bytes)
    return a->memory_bytes < b->memory_bytes ? -1 : 1;
  int microbatches = a->microbatches - b->microbatches, chunks = a->chunks - b->chunks;
  return microbatches ? microbatches : chunks ? chunks : strcmp(a->schedule, b->schedule);
}

/* Makes the row's plan the job's. */
static Status take_row(Job *job, const Alternative *row) {
  JobDecisions *d = &job->decided;
  d->compares = false;
  d->ranks = row->ranks;
  d->chunks = row->chunks;
  d->schedule = row->schedule;
  TRY(take_cluster(job));
  TRY(job_take_devices(job, row->device));
  TRY(bind_row(job, row));
  TRY(take_offload(job));
  return job_plan(job, NULL);
}

static Status compare(Job *job, Alternatives *a) {
  Axes axes;
  TRY(check_options(job->asked.options));
  TRY(job_open(job));
  TRY(read_axes(job, &axes));
  job->decided.compares = true;
  for (int d = 0; d < axes.n_devices; d++)
    TRY(add_device(job, &axes, a, axes.devices[d]));
  qsort(a->rows, a->n, sizeof *a->rows, by_seconds);
  return OK;
}

Status alternatives_run(Job *job, FILE *out) {
  const Options *o = job->asked.options;
  Alternatives a = {0};
  TRY(compare(job, &a));
  if (o->json)
    TRY(alternatives_json(job, &a, out));
  else if (!o->quiet)
    TRY(alternatives_print(&a, out, job_columns()));
  if (!a.n_fit)
    return fail(E_LIMIT, "none of %zu plans can be: %s", a.n, a.rows[0].reason);
  if (!o->output_plan && !o->report)
    return OK;
  TRY(take_row(job, &a.rows[0]));
  TRY(job_show(job, NULL));
  return o->output_plan ? plan_write(&job->decided.plan, o->output_plan) : OK;
}
