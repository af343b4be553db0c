/* From options to numbers, data and a plan. Invariant: batch = microbatches · microbatch_size, ranks as the world has.
 */
#include "runtime/job/job.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/file.h"
#include "partitioner/report/plan_report.h"
#include "runtime/job/profiler.h"
#include "runtime/transport/wire.h"

enum { BATCH = 32 }; /* where nobody says */

char *job_count(int64_t n, char text[32]) {
  char digits[32];
  int length = snprintf(digits, sizeof digits, "%lld", (long long)n), at = 0;
  for (int i = 0; i < length; i++) {
    if (i && digits[i - 1] != '-' && (length - i) % 3 == 0)
      text[at++] = ',';
    text[at++] = digits[i];
  }
  text[at] = '\0';
  return text;
}

int job_columns(void) {
  struct winsize window;
  const char *columns = getenv("COLUMNS");
  int n = columns ? atoi(columns) : 0;
  if (n <= 0 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0)
    n = window.ws_col;
  return n >= 40 ? n : 100;
}

/* mpirun gives its ranks a terminal wherever their output really goes. */
bool job_colours(FILE *out) {
  return isatty(fileno(out)) && !getenv("NO_COLOR") && !getenv("OMPI_COMM_WORLD_RANK");
}

Status job_decide(Job *job, const char *what, const char *format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  TRY(ARENA_RESERVE(job->arena, job->decisions, job->n_decisions, job->decisions_capacity, job->n_decisions + 1));
  const char *copy = arena_string(job->arena, text);
  job->decisions[job->n_decisions++] = (Decision){what, copy};
  return copy ? OK : status_code();
}

void job_print(const Job *job, FILE *out) {
  for (size_t i = 0; i < job->n_decisions; i++)
    fprintf(out, "%-13s %s\n", job->decisions[i].what, job->decisions[i].text);
}

int job_ranks_here(const Job *job) {
  const char *local = job->world->mpi ? getenv("OMPI_COMM_WORLD_LOCAL_SIZE") : NULL;
  int n = local ? atoi(local) : 0;
  return n > 0 && n <= job->ranks ? n : job->ranks;
}

/* Cores for each rank. mpirun binds a rank to one core where nobody asks for more: that is undone, or all threads of a
 * rank would share it. A binding that was asked for (--bind-to) stands, and its cores are the rank's own. */
static int cores_of_rank(const Job *job) {
  const char *policy = job->world->mpi ? getenv("OMPI_MCA_hwloc_base_binding_policy") : "none";
  cpu_set_t cores;
  if (!policy) {
    CPU_ZERO(&cores);
    for (long i = 0; i < sysconf(_SC_NPROCESSORS_CONF) && i < CPU_SETSIZE; i++)
      CPU_SET((size_t)i, &cores);
    sched_setaffinity(0, sizeof cores, &cores); /* where it fails, fewer threads run */
  }
  int n = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : (int)sysconf(_SC_NPROCESSORS_ONLN);
  if (!policy || strcmp(policy, "none") == 0)
    n /= job_ranks_here(job);
  return n > 1 ? n : 1;
}

/* "cpu (…)", or each rank's: "cuda:0, cpu". */
static Status name_devices(const Job *job, char *text, size_t size) {
  size_t at = 0;
  DeviceSpec spec;
  bool alike = true;
  for (int r = 1; r < job->ranks; r++)
    alike &= job->devices[r].backend == job->devices[0].backend && job->devices[r].device == job->devices[0].device;
  for (int r = 0; r < (alike ? 1 : job->ranks) && at < size; r++) {
    const RankDevice *d = &job->devices[r];
    at += (size_t)snprintf(text + at, size - at, "%s%s", r ? ", " : "", d->backend->name);
    if (!d->backend->is_host && at < size)
      at += (size_t)snprintf(text + at, size - at, ":%d", d->device);
    TRY(d->backend->describe(d->device, &spec));
    if ((alike || !d->backend->is_host) && at < size)
      at += (size_t)snprintf(text + at, size - at, " (%s)", spec.name);
  }
  return OK;
}

/* What the plan file says is no option's fault. */
static Status refuse_plan(const Job *job, Status status) {
  status = status == E_USAGE ? status_adopt(E_MODEL, status_message()) : status;
  if (status != OK)
    status_context("%s: ", job->options->plan);
  return status;
}

static Status choose_devices(Job *job) {
  bool planned = job->planned_device && strcmp(job->options->device, "auto") == 0;
  const char *text = planned ? job->planned_device : job->options->device;
  Status status = devices_parse(job->arena, text, job->ranks, &job->devices);
  TRY(planned ? refuse_plan(job, status) : status);
  return devices_text(job->arena, job->devices, job->ranks, text, &job->device_text);
}

/* Whose products are not in full. */
static Status choose_precision(Job *job) {
  bool planned = job->planned_precision && !options_given(job->options, "precision"), all = true;
  const char *name = job->precision_text = planned ? job->planned_precision : job->options->precision;
  Status status = devices_precision(name, job->devices, job->ranks, &job->precision);
  TRY(planned ? refuse_plan(job, status) : status);
  if (job->precision == PRECISION_FLOAT32)
    return OK;
  for (int r = 0; r < job->ranks; r++)
    all &= job->devices[r].backend->reduces_precision;
  return job_decide(job, "precision", "%s operands of products%s; weights, sums and all else float32", name,
                    all ? "" : " on GPUs, float32 ones on the other ranks");
}

static Status choose_threads(Job *job) {
  int cores = cores_of_rank(job);
  char names[512];
  TRY(choose_devices(job));
  TRY(name_devices(job, names, sizeof names));
  TRY(choose_precision(job));
  bool given = job->options->threads != 0, threaded = false;
  for (int r = 0; r < job->ranks; r++)
    threaded |= job->devices[r].backend == &backend_cpu;
  job->threads = given ? (int)job->options->threads : cores;
  if (!threaded)
    job->threads = 1;
  return job_decide(job, "device", "%s, %d thread%s a rank%s", names, job->threads, job->threads == 1 ? "" : "s",
                    !threaded ? ": it has no more"
                    : given   ? ""
                              : ", the cores that a rank has here");
}

static Status contradicts(const Job *job, const char *option, int64_t asked, int64_t planned) {
  return fail(E_USAGE, "--%s %lld contradicts the plan %s, which has %lld", option, (long long)asked,
              job->options->plan, (long long)planned);
}

static Status check_name(const Job *job, const char *option, const char *asked, const char *planned) {
  if (planned && strcmp(asked, planned) == 0)
    return OK;
  return fail(E_USAGE, "--%s %s contradicts the plan %s, which has %s", option, asked, job->options->plan,
              planned ? planned : "none");
}

/* Takes from the plan file what the options leave open; refuses what contradicts it. */
static Status take_plan(Job *job) {
  const Options *o = job->options;
  PlanRequest *r = &job->request;
  TRY(plan_peek(job->arena, o->plan, r));
  if (job->world->mpi && job->world->size != r->ranks)
    return fail(E_USAGE, "the plan %s is for %d ranks, mpirun started %d", o->plan, r->ranks, job->world->size);
  if (o->ranks && o->ranks != r->ranks)
    return contradicts(job, "ranks", o->ranks, r->ranks);
  if (o->chunks && o->chunks != r->chunks)
    return contradicts(job, "chunks", o->chunks, r->chunks);
  if (o->microbatches && o->microbatches != r->microbatches)
    return contradicts(job, "microbatches", o->microbatches, r->microbatches);
  if (o->batch && o->batch != r->microbatches * r->microbatch_size)
    return contradicts(job, "batch", o->batch, r->microbatches * r->microbatch_size);
  if (options_given(o, "schedule") && strcmp(o->schedule, "auto") != 0)
    TRY(check_name(job, "schedule", o->schedule, r->schedule));
  if (strcmp(o->loss, "auto") != 0)
    TRY(check_name(job, "loss", o->loss, r->loss));
  if (options_given(o, "optimizer"))
    TRY(check_name(job, "optimizer", o->optimizer, r->optimizer));
  if (options_given(o, "objective"))
    TRY(check_name(job, "objective", o->objective, r->objective == OBJECTIVE_SPAN ? "span" : "makespan"));
  job->planned_loss = r->loss;
  job->planned_optimizer = r->optimizer;
  job->planned_device = r->device;
  job->planned_precision = r->precision;
  job->ranks = r->ranks;
  job->chunks = r->chunks;
  job->microbatches = r->microbatches;
  job->microbatch_size = r->microbatch_size;
  job->batch = r->microbatches * r->microbatch_size;
  return job_decide(job, "plan", "%s: %d ranks, %d microbatches of %lld, %s", o->plan, r->ranks, r->microbatches,
                    (long long)r->microbatch_size, r->schedule);
}

static Status choose_ranks(Job *job) {
  const Options *o = job->options;
  const World *world = job->world;
  if (world->mpi && o->ranks && o->ranks != world->size)
    return fail(E_USAGE, "--ranks %lld contradicts mpirun, which started %d: leave it out", (long long)o->ranks,
                world->size);
  job->ranks = world->mpi ? world->size : o->ranks ? (int)o->ranks : 1;
  job->chunks = o->chunks ? (int)o->chunks : 1;
  if (job->given) {
    job->ranks = job->given->ranks;
    job->chunks = job->given->stages / job->given->ranks;
  }
  if (world->mpi)
    return job_decide(job, "ranks", "%d, as mpirun started", job->ranks);
  if (job->given && !o->ranks)
    return job_decide(job, "ranks", "%d thread%s of this process, as the schedule has", job->ranks,
                      job->ranks == 1 ? "" : "s");
  return job_decide(job, "ranks", "%d thread%s of this process%s", job->ranks, job->ranks == 1 ? "" : "s",
                    o->ranks ? "" : " (--ranks N or mpirun makes more)");
}

/* The microbatches that options or a schedule's file say; 0: nobody does. */
static int64_t asked_microbatches(const Job *job) {
  return job->given ? job->given->microbatches : job->options->microbatches;
}

/* The batch where nobody gives one: about BATCH samples, no more than there are, a multiple of what must divide it. */
static int64_t choose_batch(const Job *job, int64_t fixed) {
  int64_t asked = asked_microbatches(job), unit = (fixed ? fixed : 1) * (asked ? asked : 1);
  int64_t most = job->data.samples && job->data.samples < BATCH ? job->data.samples : BATCH;
  return most >= unit ? most / unit * unit : unit;
}

static Status choose_sizes(Job *job) {
  const Options *o = job->options;
  int64_t fixed = model_fixed_batch(job->model), asked = asked_microbatches(job);
  if (fixed > INT32_MAX)
    return fail(E_MODEL, "%s was exported with a batch of %lld, which is more than %d", job->path, (long long)fixed,
                INT32_MAX);
  job->batch = o->batch ? o->batch : choose_batch(job, fixed);
  if (fixed && job->batch % fixed)
    return fail(E_USAGE, "--batch %lld is no multiple of %lld, the batch that %s was exported with",
                (long long)job->batch, (long long)fixed, job->path);
  const char *says = job->given ? "the schedule's microbatches," : "--microbatches";
  if (fixed && asked && asked != job->batch / fixed)
    return fail(E_USAGE, "%s %lld of a batch of %lld: %s was exported with a batch of %lld, which makes %lld", says,
                (long long)asked, (long long)job->batch, job->path, (long long)fixed, (long long)(job->batch / fixed));
  if (asked && job->batch % asked)
    return fail(E_USAGE, "--batch %lld does not divide by %s %lld", (long long)job->batch, says, (long long)asked);
  if (job->batch / (fixed ? fixed : 1) > 65536 && fixed)
    return fail(E_USAGE, "--batch %lld makes more than 65536 microbatches of %lld", (long long)job->batch,
                (long long)fixed);
  job->microbatches = fixed ? (int)(job->batch / fixed) : asked ? (int)asked : 1;
  job->microbatch_size = job->batch / job->microbatches;
  job->microbatches_open = !fixed && !asked;
  return OK;
}

static Status open_data(Job *job) {
  TRY(dataset_open(job->options->data, job->model, &job->data));
  TRY(job_decide(job, "data", "%s: %s samples", job->options->data, COUNT_STR(job->data.samples)));
  int n;
  const ModelInput *inputs = model_inputs(job->model, &n);
  for (int i = 0; i < n; i++)
    if (inputs[i].dtype != job->data.arrays[i]->dtype)
      TRY(job_decide(job, "note", "array '%s' is %s, the model takes %s: converted", inputs[i].name,
                     dtype_name(job->data.arrays[i]->dtype), dtype_name(inputs[i].dtype)));
  return OK;
}

/* No file that is read is written as well, but for a model that is trained in its place: that one is replaced whole,
 * when all is done. */
static Status check_outputs(const Job *job) {
  const Options *o = job->options;
  const struct {
    const char *option, *path;
  } inputs[] = {{"the model", job->path},
                {"--data", o->data},
                {"--plan", o->plan},
                {"--schedule-file", o->schedule_file}},
    outputs[] = {{"--save", o->save}, {"--metrics", o->metrics}, {"--dump-gradients", o->dump_gradients},
                 {"--out", o->out},   {"-o", o->output_plan},    {"--report", o->report}};
  for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
    if (!outputs[i].path)
      continue;
    for (size_t k = i == 0; k < sizeof inputs / sizeof *inputs; k++)
      if (inputs[k].path && file_same(outputs[i].path, inputs[k].path))
        return fail(E_USAGE, "%s %s would overwrite %s, which is read", outputs[i].option, outputs[i].path,
                    inputs[k].option);
    for (size_t k = 0; k < i; k++)
      if (outputs[k].path && strcmp(outputs[i].path, outputs[k].path) == 0)
        return fail(E_USAGE, "%s and %s both write %s", outputs[k].option, outputs[i].option, outputs[i].path);
  }
  return OK;
}

Status job_open(Job *job) {
  const Options *o = job->options;
  TRY(check_outputs(job));
  TRY(job_read_schedule(job));
  if (o->data)
    TRY(open_data(job));
  if (o->plan) {
    TRY(take_plan(job));
  } else {
    TRY(choose_ranks(job));
    TRY(choose_sizes(job));
  }
  if (!job->world->mpi && job->ranks > OPTIONS_MOST_RANKS) /* a file says so */
    return fail(E_MODEL, "%s: %d ranks are more than %d", o->plan ? o->plan : o->schedule_file, job->ranks,
                OPTIONS_MOST_RANKS);
  return choose_threads(job);
}

void job_close(Job *job) {
  dataset_close(&job->data);
}

/* "lm_head.weight = wte.weight" for every tie of the file. */
static Status list_ties(Job *job, Ties *ties) {
  int n;
  const Initializer *table = model_initializers(job->model, &n);
  const char **pairs;
  TRY(ARENA_NEW(job->arena, pairs, n));
  *ties = (Ties){.known = !model_ties_unknown(job->model), .pairs = pairs};
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

/* What the planner is asked for. */
static Status fill_request(Job *job, const Profile *profiles) {
  DeviceSpec *devices;
  double *staging;
  size_t *limits;
  bool inference = job->graph->loss_sum == NO_VALUE;
  int with_devices = 0;
  TRY(ARENA_NEW(job->arena, devices, job->ranks));
  TRY(ARENA_NEW(job->arena, limits, job->ranks));
  TRY(ARENA_NEW(job->arena, staging, job->ranks));
  for (int r = 0; r < job->ranks; r++) {
    staging[r] = job->devices[r].backend->is_host ? 0 : 10e9; /* a bus, by order of magnitude */
    with_devices += !job->devices[r].backend->is_host;
    TRY(devices_describe(job->devices, job->ranks, r, job_ranks_here(job), &devices[r]));
    limits[r] = (size_t)job->options->memory_limit;
  }
  job->request = (PlanRequest){
      .model_hash = model_hash(job->model),
      .loss = inference ? NULL : loss_name(job->loss.kind),
      .optimizer = inference ? NULL : job_optimizer(job),
      .device = job->device_text,
      .precision = job->precision_text,
      .ranks = job->ranks,
      .chunks = job->chunks,
      .microbatches = job->microbatches,
      .microbatch_size = job->microbatch_size,
      .schedule = inference            ? "forward"
                  : job->options->plan ? job->request.schedule
                  : job->schedule      ? job->schedule
                                       : job->options->schedule,
      .devices = devices,
      .memory_limits = limits,
      /* shared memory of one machine, by order of magnitude */
      .link = {.latency_seconds = 10e-6, .bytes_per_second = 4e9},
      .staging_bytes_per_second = staging,
      /* as boundary_way will choose: copies inside a process, NCCL between processes. It is large: not loaded for less
       */
      .direct_bytes_per_second = with_devices > 1 && (!job->world->mpi || wire_nccl_version() > 0) ? 20e9 : 0,
      .profiles = profiles,
      .given = job->given,
      .synthesize = true,
  };
  /* executor_agree: where hosts run ahead of devices that exchange directly */
  TRY(job_objective(job->options, job->request.direct_bytes_per_second > 0, &job->request.objective));
  return list_ties(job, &job->request.ties);
}

/* The first rank whose device is of the same kind. */
static int like_rank(const Job *job, int rank) {
  int like = 0;
  while (job->devices[like].backend != job->devices[rank].backend ||
         strcmp(job->request.devices[like].name, job->request.devices[rank].name) != 0)
    like++;
  return like;
}

static Status measure_rank(Job *job, int rank, double budget_seconds, const double **node_seconds) {
  const RankDevice *device = &job->devices[rank];
  double *seconds;
  size_t known = 0, n = job->graph->n_nodes;
  TRY(ARENA_NEW(job->arena, seconds, n));
  TRY(profile_nodes(job->graph, device->backend, device->device, job->threads, budget_seconds, seconds));
  for (size_t i = 0; i < n; i++)
    known += seconds[i] >= 0;
  *node_seconds = seconds;
  return job_decide(job, "costs", "measured for %zu of %zu nodes on %s", known, n, device->backend->name);
}

Status job_measure(Job *job, double budget_seconds, Profile **profiles) {
  int kinds = 0;
  TRY(ARENA_NEW(job->arena, *profiles, job->ranks));
  TRY(fill_request(job, NULL)); /* what the devices are called */
  for (int r = 0; r < job->ranks; r++)
    kinds += like_rank(job, r) == r;
  for (int r = 0; r < job->ranks; r++) {
    int like = like_rank(job, r);
    if (like == r)
      TRY(measure_rank(job, r, budget_seconds / kinds, &(*profiles)[r].node_seconds));
    (*profiles)[r] = (*profiles)[like];
  }
  return OK;
}

Status job_plan(Job *job, const Profile *profiles) {
  TRY(fill_request(job, profiles));
  if (job->options->plan)
    return plan_read(job->arena, job->options->plan, job->graph, &job->request, &job->plan);
  Status status = plan_make(job->arena, job->graph, &job->request, &job->plan);
  if (job->given && (status == E_MODEL || status == E_LIMIT))
    status_context("%s: ", job->options->schedule_file);
  return status;
}

Status job_plan_from(Job *job, const char *text) {
  TRY(fill_request(job, NULL));
  return plan_from_text(job->arena, text, "rank 0's plan", job->graph, &job->request, &job->plan);
}

static Status write_report(const Job *job) {
  FileReplace file;
  TRY(file_replace_begin(job->options->report, &file));
  Status status = plan_report_html(&job->plan, file.stream);
  if (status == OK)
    return file_replace_commit(&file);
  status_context("%s: ", job->options->report);
  file_replace_abandon(&file);
  return status;
}

Status job_show(const Job *job, FILE *out) {
  if (out) {
    job_print(job, out);
    TRY(plan_print(&job->plan, out, job_columns(), job_colours(out)));
    fflush(out);
  }
  return job->options->report ? write_report(job) : OK;
}
