/* The library's public functions: options and models in, status and one line of error out. Invariant: no failure
 * leaves without its line, unless another rank of the run has it. */
#include "runtime/onnxpipe.h"

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

#include "base/file.h"
#include "base/nearest.h"
#include "runtime/alternatives.h"
#include "runtime/checkpoint/origin.h"
#include "runtime/costs/costs.h"
#include "runtime/edit.h"
#include "runtime/export.h"
#include "runtime/infer.h"
#include "runtime/inspect.h"
#include "runtime/measure.h"
#include "runtime/training/loop.h"
#include "runtime/training/request.h"
#include "runtime/training/resume.h"
#include "runtime/training/session.h"
#include "runtime/what_if.h"

struct OnnxpipeModel {
  Model *model;
  const char *path;
  const Options *options;
  Options *completed; /* NULL: it was opened with `options`; else with these, of a run that is resumed */
};

/* There is one world in a process. */
static World world = {.size = 1};
static bool started;                     /* MPI, for this world or for one that has no others */
static bool agreed;                      /* every rank knows how it went: they end in good order */
static _Thread_local bool silent = true; /* nothing failed, or another rank has the line */

static OnnxpipeStatus result(Status status) {
  silent = status == OK;
  return status == OK ? ONNXPIPE_OK : status == E_USAGE ? ONNXPIPE_USAGE : ONNXPIPE_FAILED;
}

/* As result, where every rank has called. */
static OnnxpipeStatus result_of_all(Status status, Outcome outcome) {
  watch_phase(world.link.watch, WATCH_OUTSIDE, 0);
  agreed = status == OK || outcome.agreed;
  OnnxpipeStatus made = result(status);
  silent |= world.mpi && (outcome.elsewhere || transport_mpi_reported());
  return made;
}

const char *onnxpipe_error(void) {
  return silent ? "" : status_message();
}

#ifdef __clang__
#define COMPILER __VERSION__
#else
#define COMPILER "gcc " __VERSION__
#endif

const char *onnxpipe_version(void) {
  static char text[512];
  char mpi[256];
  transport_mpi_library(mpi, sizeof mpi);
  mpi[strcspn(mpi, ",\n")] = '\0'; /* the rest says who built it */
  snprintf(text, sizeof text, "onnxpipe %s\njansson %s\nlibzip %s\nprotobuf-c %s\n%s\ncompiled by %s\n",
           ONNXPIPE_VERSION, jansson_version_str(), zip_libzip_version(), protobuf_c_version(), *mpi ? mpi : "no MPI",
           COMPILER);
  return text;
}

OnnxpipeOptions *onnxpipe_options_create(void) {
  OnnxpipeOptions *options = options_create();
  silent = options != NULL;
  return options;
}

void onnxpipe_options_destroy(OnnxpipeOptions *options) {
  options_destroy(options);
}

OnnxpipeStatus onnxpipe_options_set(OnnxpipeOptions *options, const char *name, const char *value) {
  return result(options_set(options, name, value));
}

OnnxpipeStatus onnxpipe_options_describe(int i, OnnxpipeOption *option) {
  const OptionEntry *entry = options_entry(i);
  if (!entry)
    return result(fail(E_MODEL, "the table of options has no row %d", i));
  *option =
      (OnnxpipeOption){entry->name, entry->argument, entry->standard, entry->commands, entry->values, entry->help};
  return result(OK);
}

int onnxpipe_nearest(const char *word, const char *const *names, int n) {
  return nearest_name(word, names, n);
}

/* Under mpirun, of whichever kind, a process is told its place. */
static bool under_mpirun(void) {
  return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMI_SIZE") || getenv("PMIX_RANK");
}

int onnxpipe_request(OnnxpipeRequest request) {
  return request_make(request);
}

void onnxpipe_remove_unfinished(void) {
  file_replace_abandon_all();
}

/* From the transport's thread. */
static bool heed_term(void) {
  bool heeded = request_make(REQUEST_TERMINATE);
  if (heeded && world.report && !world.rank)
    world.report(world.report_context, "SIGTERM: ends after a step, and saves; another one ends it at once");
  return heeded;
}

OnnxpipeStatus onnxpipe_start(OnnxpipeReport *report, void *context, int *rank, int *size) {
  if (under_mpirun()) {
    transport_mpi_on_death(report, context);
    transport_mpi_on_term(heed_term);
    transport_mpi_on_hang(world.hangs, world.hangs_context);
    Status status = transport_mpi_open(&world.link);
    if (status != OK)
      return result(status);
    Endpoint *endpoint = world.link.endpoints[CHANNEL_CONTROL];
    started = true;
    world.rank = world.link.transport->rank(endpoint);
    world.size = world.link.transport->size(endpoint);
    world.mpi = !launcher_is_foreign(world.size);
  }
  agreed = true;
  world.report = report;
  world.report_context = context;
  *rank = world.rank;
  *size = world.size;
  return result(OK);
}

void onnxpipe_start_timeout(const OnnxpipeOptions *options) {
  transport_mpi_timeout((double)options->timeout);
}

void onnxpipe_on_hang(OnnxpipeReport *end, void *context) {
  world.hangs = end;
  world.hangs_context = context;
}

void onnxpipe_finish(int failed) {
  if (started)
    transport_mpi_close(&world.link, failed && !agreed && world.size > 1);
  started = false;
  world = (World){.size = 1};
}

OnnxpipeStatus onnxpipe_open(const char *path, const OnnxpipeOptions *options, OnnxpipeModel **model) {
  OnnxpipeModel *opened = *model = calloc(1, sizeof *opened);
  Outcome outcome = {0};
  watch_phase(world.link.watch, WATCH_START, 0);
  if (started) /* threads of this process are watched over by their session */
    transport_mpi_timeout(world.mpi ? (double)options->timeout : 0);
  Status status =
      opened ? resume_model_options(options, !world.mpi, &opened->completed) : fail(E_MEMORY, "out of memory");
  const Options *given = options;
  if (status == OK && opened->completed)
    options = opened->completed;
  TrainOptions train = job_train_options(options);
  if (status == OK && !(opened->path = strdup(path)))
    status = fail(E_MEMORY, "out of memory");
  if (status == OK) {
    opened->options = given;
    status = model_open(path, &train, &opened->model);
  }
  status = trainer_agree(world.mpi ? &world.link : NULL, status, &outcome);
  if (status != OK) {
    onnxpipe_close(opened);
    *model = NULL;
  }
  return result_of_all(status, outcome);
}

void onnxpipe_close(OnnxpipeModel *model) {
  if (!model)
    return;
  if (model->model)
    model_close(model->model);
  options_destroy(model->completed);
  free((char *)model->path);
  free(model);
}

/* A job of this model alone in its arena; NULL when memory is out. */
static Job *job_create(const OnnxpipeModel *model) {
  Arena *arena = arena_create();
  Job *job = arena ? arena_alloc(arena, 1, sizeof *job) : NULL;
  if (job)
    *job = (Job){.arena = arena,
                 .asked = {.options = model->options, .path = model->path, .world = &world},
                 .given = {.model = model->model}};
  else
    arena_destroy(arena);
  return job;
}

static void job_destroy(Job *job) {
  if (!job)
    return;
  Arena *arena = job->arena;
  origin_close(job->asked.origin);
  resume_close(job);
  job_close(job);
  arena_destroy(arena);
}

OnnxpipeStatus onnxpipe_inspect(OnnxpipeModel *model, FILE *out) {
  return result(inspect_run(model->model, model->path, model->options, out));
}

OnnxpipeStatus onnxpipe_edit(OnnxpipeModel *model, FILE *out) {
  return result(edit_run(model->model, model->options, out));
}

/* The plan as its file has it. */
static Status print_plan(const Job *job, FILE *out) {
  const char *text;
  TRY(plan_to_text(job->arena, &job->decided.plan, &text));
  return fprintf(out, "%s\n", text) < 0 ? fail(E_IO, "the plan cannot be printed") : OK;
}

/* Sizes are chosen by stated speed, for bits depend on them; stages by this machine's. */
static Status plan_calibrated(Job *job) {
  JobCosts costs;
  if (job->asked.options->cluster || job->asked.options->plan)
    return fail(E_USAGE, "--calibrate and --%s: give one of them", job->asked.options->cluster ? "cluster" : "plan");
  TRY(costs_calibrate(job, &costs));
  return job_plan(job, &costs);
}

/* The plan, and what lies beside it. */
static Status make_plan(Job *job, Validation *validation, FILE *out) {
  const Options *o = job->asked.options;
  Rest *rest;
  TRY(trainer_choose(job, validation));
  if (o->calibrate)
    TRY(plan_calibrated(job));
  TRY(trainer_plan_beside(job, validation, 0, &rest));
  TRY(job_show(job, o->quiet || o->json ? NULL : out));
  if (o->json)
    TRY(print_plan(job, out));
  return o->output_plan ? plan_write(&job->decided.plan, o->output_plan) : OK;
}

static Status plan(Job *job, FILE *out) {
  Validation *validation;
  if (job->asked.options->what_if)
    return alternatives_run(job, out);
  TRY(job_open(job));
  TRY(validation_open(job, &validation));
  Status status = make_plan(job, validation, out);
  validation_close(validation);
  return status;
}

OnnxpipeStatus onnxpipe_plan(OnnxpipeModel *model, FILE *out) {
  Job *job = job_create(model);
  Status status = job ? plan(job, out) : status_code();
  job_destroy(job);
  return result(status);
}

struct OnnxpipeSession {
  Job *job;
  Session *session; /* in the job's arena */
};

static OnnxpipeStatus open_session(OnnxpipeModel *model, FILE *out, OnnxpipeProgress *progress, void *context,
                                   OnnxpipeSession **session) {
  Outcome outcome = {0};
  OnnxpipeSession *s = *session = calloc(1, sizeof *s);
  watch_phase(world.link.watch, WATCH_START, 0);
  Status status = s ? OK : fail(E_MEMORY, "out of memory");
  if (status == OK && !(s->job = job_create(model)))
    status = status_code();
  if (status == OK)
    status = resume_open(s->job, model->completed, &outcome);
  if (status == OK)
    status = trainer_agree(world.mpi ? &world.link : NULL, origin_open(s->job, &s->job->asked.origin), &outcome);
  if (status == OK)
    status = session_open(s->job, out, progress, context, &s->session, &outcome);
  if (status != OK) {
    onnxpipe_session_close(s);
    *session = NULL;
  }
  return result_of_all(status, outcome);
}

OnnxpipeStatus onnxpipe_session_open(OnnxpipeModel *model, FILE *out, OnnxpipeSession **session) {
  return open_session(model, out, NULL, NULL, session);
}

OnnxpipeStatus onnxpipe_session_step(OnnxpipeSession *session) {
  return result_of_all(session_step(session->session), (Outcome){0});
}

OnnxpipeStatus onnxpipe_session_metrics(OnnxpipeSession *session, OnnxpipeMetrics *metrics) {
  return result_of_all(session_metrics(session->session, metrics), (Outcome){0});
}

OnnxpipeStatus onnxpipe_session_validate(OnnxpipeSession *session, OnnxpipeValidation *validation) {
  return result_of_all(session_validate(session->session, validation), (Outcome){0});
}

OnnxpipeStatus onnxpipe_session_save(OnnxpipeSession *session, const char *path) {
  Outcome outcome = {0};
  Status status = session_save(session->session, path, &outcome);
  return result_of_all(status, outcome);
}

OnnxpipeStatus onnxpipe_session_checkpoint(OnnxpipeSession *session) {
  Outcome outcome = {0};
  Status status = session_checkpoint(session->session);
  if (status == OK)
    status = session_checkpoint_wait(session->session, &outcome);
  return result_of_all(status, outcome);
}

OnnxpipeStatus onnxpipe_session_close(OnnxpipeSession *session) {
  Outcome outcome = {0};
  if (!session)
    return ONNXPIPE_OK;
  bool failed = session->session && session_failed(session->session);
  Status status = session_close(session->session, &outcome);
  job_destroy(session->job);
  free(session);
  return failed ? ONNXPIPE_OK : result_of_all(status, outcome);
}

OnnxpipeStatus onnxpipe_train(OnnxpipeModel *model, FILE *out, OnnxpipeProgress *progress, void *context) {
  OnnxpipeSession *session;
  OnnxpipeStatus status = open_session(model, out, progress, context, &session);
  if (status != ONNXPIPE_OK)
    return status;
  Ending ending = {0};
  Status trained = loop_run(session->session, &ending);
  status = result_of_all(trained, ending.outcome);
  if (trained != OK && ending.trained && !session_failed(session->session))
    status = ONNXPIPE_UNSAVED;
  bool hushed = silent, alike = agreed;
  char why[4096];
  snprintf(why, sizeof why, "%s", trained == OK ? "" : status_message());
  OnnxpipeStatus closed = onnxpipe_session_close(session);
  if (status == ONNXPIPE_OK && closed != ONNXPIPE_OK)
    return status_code() == E_IO ? ONNXPIPE_UNSAVED : closed;
  if (status == ONNXPIPE_OK)
    return ending.stopped & REQUEST_INTERRUPT ? ONNXPIPE_INTERRUPTED
           : ending.stopped                   ? ONNXPIPE_TERMINATED
                                              : ONNXPIPE_OK;
  if (closed == ONNXPIPE_OK || status != ONNXPIPE_UNSAVED)
    agreed = alike;
  status_adopt(trained, why); /* the line is that of the failure */
  silent = hushed;
  return status;
}

OnnxpipeStatus onnxpipe_run(OnnxpipeModel *model, FILE *out) {
  Job *job = job_create(model);
  Status status = job ? infer_run(job, out) : status_code();
  job_destroy(job);
  return result(status);
}

OnnxpipeStatus onnxpipe_export(const char *checkpoint, const char *model, const OnnxpipeOptions *options, FILE *out) {
  return result(export_run(checkpoint, model, options, out));
}

OnnxpipeStatus onnxpipe_profile(OnnxpipeModel *model, FILE *out) {
  Job *job = job_create(model);
  Status status = job ? measure_run(job, out) : status_code();
  job_destroy(job);
  return result(status);
}

OnnxpipeStatus onnxpipe_simulate(const OnnxpipeOptions *options, FILE *out, FILE *refusal) {
  return result(what_if_run(options, out, refusal));
}
