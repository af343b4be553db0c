/* From options to numbers and data. Invariant: batch = microbatches · microbatch_size, ranks as the world has. */
#include "runtime/job/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { BATCH = 32 }; /* where nobody says */

int job_ranks_here(const Job *job) {
  const char *local = job->asked.world->mpi ? getenv("OMPI_COMM_WORLD_LOCAL_SIZE") : NULL;
  int n = local ? atoi(local) : 0;
  return n > 0 && n <= job->decided.ranks ? n : job->decided.ranks;
}

/* "cpu (…)", or each rank's: "cuda:0, cpu". */
static Status name_devices(const Job *job, char *text, size_t size) {
  const JobDecisions *decided = &job->decided;
  size_t at = 0;
  DeviceSpec spec;
  bool alike = true;
  for (int r = 1; r < decided->ranks; r++)
    alike &= decided->devices[r].backend == decided->devices[0].backend &&
             decided->devices[r].device == decided->devices[0].device;
  for (int r = 0; r < (alike ? 1 : decided->ranks) && at < size; r++) {
    const RankDevice *d = &decided->devices[r];
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
    status_context("%s: ", job->asked.options->plan);
  return status;
}

Status job_take_devices(Job *job, const char *text) {
  JobDecisions *decided = &job->decided;
  TRY(devices_parse(job->arena, text, decided->ranks, &decided->devices));
  return devices_text(job->arena, decided->devices, decided->ranks, text, &decided->device_text);
}

static Status choose_devices(Job *job) {
  const Options *o = job->asked.options;
  bool planned = job->asked.planned.device && strcmp(o->device, "auto") == 0;
  const char *text = planned ? job->asked.planned.device : o->device;
  if (o->what_if) /* a list of alternatives */
    text = arena_format(job->arena, "%.*s", (int)strcspn(text, ","), text);
  if (!text)
    return status_code();
  Status status = job_take_devices(job, text);
  return planned ? refuse_plan(job, status) : status;
}

/* Whose products are not in full; in bf16, what is stored. */
static Status choose_precision(Job *job) {
  JobDecisions *decided = &job->decided;
  bool planned = job->asked.planned.precision && !options_given(job->asked.options, "precision");
  bool all = true;
  const char *name = decided->precision_text = planned ? job->asked.planned.precision : job->asked.options->precision;
  Status status = devices_precision(name, decided->devices, decided->ranks, &decided->precision);
  TRY(planned ? refuse_plan(job, status) : status);
  if (decided->precision == PRECISION_FLOAT32)
    return OK;
  if (decided->precision == PRECISION_BF16)
    return job_decide(job, "precision", "%s activations and operands of products; weights, sums and losses float32",
                      name);
  for (int r = 0; r < decided->ranks; r++)
    all &= decided->devices[r].backend->reduces_precision;
  return job_decide(job, "precision", "%s operands of products%s; weights, sums and all else float32", name,
                    all ? "" : " on GPUs, float32 ones on the other ranks");
}

Status job_take_offload(Job *job) {
  JobDecisions *decided = &job->decided;
  bool planned = job->asked.planned.offload && !options_given(job->asked.options, "offload"), *offloads;
  const char *name = decided->offload_text = planned ? job->asked.planned.offload : job->asked.options->offload;
  bool any = false;
  decided->offloads = NULL;
  if (strcmp(name, "none") == 0)
    return OK;
  if (strcmp(name, "optimizer") != 0)
    return refuse_plan(job, fail(E_MODEL, "'offload' is '%s', neither none nor optimizer", name));
  TRY(ARENA_NEW(job->arena, offloads, decided->ranks));
  for (int r = 0; r < decided->ranks; r++)
    any |= offloads[r] = decided->cluster ? decided->cluster->devices[r].host_bytes_per_second > 0
                                          : !decided->devices[r].backend->is_host;
  decided->offloads = offloads;
  if (any)
    return OK;
  Status status = fail(E_USAGE, "--offload optimizer needs a GPU (--device cuda): %s computes in the host's memory",
                       decided->cluster ? decided->cluster->devices[0].name : decided->devices[0].backend->name);
  return planned ? refuse_plan(job, status) : status;
}

/* Of alternatives each has its own. */
static Status choose_offload(Job *job) {
  if (job->asked.options->what_if)
    return OK;
  TRY(job_take_offload(job));
  return job->decided.offloads
             ? job_decide(job, "offload", "the optimizer's state lies in the host's memory (--offload)")
             : OK;
}

static Status read_cluster(Job *job) {
  JobDecisions *decided = &job->decided;
  const char *path = job->asked.options->cluster;
  Cluster *cluster;
  if (!path)
    return OK;
  TRY(ARENA_NEW(job->arena, cluster, 1));
  TRY(cluster_read(job->arena, path, decided->ranks, cluster));
  decided->cluster = cluster;
  return job_decide(job, "cluster", "%s: %s", path, cluster->text);
}

static Status choose_threads(Job *job) {
  JobDecisions *decided = &job->decided;
  Cores *cores = &decided->cores;
  char names[512], shared[CORES_TEXT];
  TRY(choose_devices(job));
  TRY(name_devices(job, names, sizeof names));
  TRY(job_decide(job, "device", "%s", names));
  TRY(choose_precision(job));
  TRY(choose_offload(job));
  bool threaded = false;
  for (int r = 0; r < decided->ranks; r++)
    threaded |= decided->devices[r].backend == &backend_cpu;
  cores_find(job->asked.world->mpi, job_ranks_here(job), cores);
  int share = cores_usable(cores) / cores->ranks;
  decided->threads = !threaded                     ? 1
                     : job->asked.options->threads ? (int)job->asked.options->threads
                     : share > 1                   ? share
                                                   : 1;
  if (threaded && decided->pins)
    cores_pin(cores, decided->threads);
  cores_text(cores, shared);
  return threaded ? job_decide(job, "threads", "%d a rank %s", decided->threads, shared)
                  : job_decide(job, "threads", "1 a rank: the device has no more");
}

static Status contradicts(const Job *job, const char *option, int64_t asked, int64_t planned) {
  return fail(E_USAGE, "--%s %lld contradicts the plan %s, which has %lld", option, (long long)asked,
              job->asked.options->plan, (long long)planned);
}

static Status check_name(const Job *job, const char *option, const char *asked, const char *planned) {
  if (planned && strcmp(asked, planned) == 0)
    return OK;
  return fail(E_USAGE, "--%s %s contradicts the plan %s, which has %s", option, asked, job->asked.options->plan,
              planned ? planned : "none");
}

/* Takes from the plan file what the options leave open; refuses what contradicts it. */
static Status take_plan(Job *job) {
  JobDecisions *decided = &job->decided;
  const Options *o = job->asked.options;
  PlanRequest *r = &job->asked.planned;
  TRY(plan_peek(job->arena, o->plan, r));
  if (job->asked.world->mpi && job->asked.world->size != r->ranks)
    return fail(E_USAGE, "the plan %s is for %d ranks, mpirun started %d", o->plan, r->ranks, job->asked.world->size);
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
  decided->ranks = r->ranks;
  decided->chunks = r->chunks;
  decided->microbatches = r->microbatches;
  decided->microbatch_size = r->microbatch_size;
  decided->batch = r->microbatches * r->microbatch_size;
  return job_decide(job, "plan", "%s: %d ranks, %d microbatches of %lld, %s", o->plan, r->ranks, r->microbatches,
                    (long long)r->microbatch_size, r->schedule);
}

static Status choose_ranks(Job *job) {
  JobDecisions *decided = &job->decided;
  const Options *o = job->asked.options;
  const World *world = job->asked.world;
  if (world->mpi && o->ranks && o->ranks != world->size)
    return fail(E_USAGE, "--ranks %lld contradicts mpirun, which started %d: leave it out", (long long)o->ranks,
                world->size);
  decided->ranks = world->mpi ? world->size : o->ranks ? (int)o->ranks : 1;
  decided->chunks = o->chunks ? (int)o->chunks : 1;
  if (job->asked.schedule) {
    decided->ranks = job->asked.schedule->ranks;
    decided->chunks = job->asked.schedule->stages / job->asked.schedule->ranks;
  }
  if (world->mpi)
    return job_decide(job, "ranks", "%d, as mpirun started", decided->ranks);
  if (job->asked.schedule && !o->ranks)
    return job_decide(job, "ranks", "%d thread%s of this process, as the schedule has", decided->ranks,
                      decided->ranks == 1 ? "" : "s");
  return job_decide(job, "ranks", "%d thread%s of this process%s", decided->ranks, decided->ranks == 1 ? "" : "s",
                    o->ranks ? "" : " (--ranks N or mpirun makes more)");
}

/* The microbatches that options or a schedule's file say; 0: nobody does. */
static int64_t asked_microbatches(const Job *job) {
  return job->asked.schedule ? job->asked.schedule->microbatches : job->asked.options->microbatches;
}

/* The batch where nobody gives one: about BATCH samples, no more than there are, a multiple of what must divide it. */
static int64_t choose_batch(const Job *job, int64_t fixed) {
  int64_t asked = asked_microbatches(job), unit = (fixed ? fixed : 1) * (asked ? asked : 1);
  int64_t most = job->given.data.samples && job->given.data.samples < BATCH ? job->given.data.samples : BATCH;
  return most >= unit ? most / unit * unit : unit;
}

static Status choose_sizes(Job *job) {
  JobDecisions *decided = &job->decided;
  const Options *o = job->asked.options;
  int64_t fixed = model_fixed_batch(job->given.model), asked = asked_microbatches(job);
  if (fixed > INT32_MAX)
    return fail(E_MODEL, "%s was exported with a batch of %lld, which is more than %d", job->asked.path,
                (long long)fixed, INT32_MAX);
  decided->batch = o->batch ? o->batch : choose_batch(job, fixed);
  if (fixed && decided->batch % fixed)
    return fail(E_USAGE, "--batch %lld is no multiple of %lld, the batch that %s was exported with",
                (long long)decided->batch, (long long)fixed, job->asked.path);
  const char *says = job->asked.schedule ? "the schedule's microbatches," : "--microbatches";
  if (fixed && asked && asked != decided->batch / fixed)
    return fail(E_USAGE, "%s %lld of a batch of %lld: %s was exported with a batch of %lld, which makes %lld", says,
                (long long)asked, (long long)decided->batch, job->asked.path, (long long)fixed,
                (long long)(decided->batch / fixed));
  if (asked && decided->batch % asked)
    return fail(E_USAGE, "--batch %lld does not divide by %s %lld", (long long)decided->batch, says, (long long)asked);
  if (decided->batch / (fixed ? fixed : 1) > 65536 && fixed)
    return fail(E_USAGE, "--batch %lld makes more than 65536 microbatches of %lld", (long long)decided->batch,
                (long long)fixed);
  decided->microbatches = fixed ? (int)(decided->batch / fixed) : asked ? (int)asked : 1;
  decided->microbatch_size = decided->batch / decided->microbatches;
  decided->microbatches_open = !fixed && !asked;
  return OK;
}

/* No file that is read is written as well, but for a model that is trained in its place: that one is replaced whole,
 * when all is done. */
static Status check_outputs(const Job *job) {
  const Options *o = job->asked.options;
  const struct {
    const char *option, *path;
  } inputs[] = {{"the model", job->asked.path}, {"--data", o->data}, {"--tokens", o->tokens},
                {"--validate", o->validate},    {"--plan", o->plan}, {"--schedule-file", o->schedule_file},
                {"--cluster", o->cluster}},
    outputs[] = {{"--save", o->save},  {"--metrics", o->metrics}, {"--dump-gradients", o->dump_gradients},
                 {"--out", o->out},    {"-o", o->output_plan},    {"--report", o->report},
                 {"--trace", o->trace}};
  for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
    if (!outputs[i].path)
      continue;
    for (size_t k = i == 0; k < sizeof inputs / sizeof *inputs; k++)
      if (inputs[k].path && file_same(outputs[i].path, inputs[k].path))
        return fail(E_USAGE, "%s %s would overwrite %s, which is read", outputs[i].option, outputs[i].path,
                    inputs[k].option);
    for (size_t k = 0; k < i; k++)
      if (outputs[k].path && file_same_place(outputs[i].path, outputs[k].path))
        return fail(E_USAGE, "%s and %s both write %s", outputs[k].option, outputs[i].option, outputs[i].path);
  }
  return OK;
}

Status job_open(Job *job) {
  const Options *o = job->asked.options;
  if (!o->what_if)
    TRY(options_refuse_lists(o));
  TRY(check_outputs(job));
  TRY(job_read_schedule(job));
  TRY(job_take_data(job));
  if (o->plan) {
    TRY(take_plan(job));
  } else {
    TRY(choose_ranks(job));
    TRY(choose_sizes(job));
  }
  if (!job->asked.world->mpi && job->decided.ranks > OPTIONS_MOST_RANKS) /* a file says so */
    return fail(E_MODEL, "%s: %d ranks are more than %d", o->plan ? o->plan : o->schedule_file, job->decided.ranks,
                OPTIONS_MOST_RANKS);
  TRY(read_cluster(job));
  return choose_threads(job);
}

void job_close(Job *job) {
  dataset_close(&job->given.data);
}
