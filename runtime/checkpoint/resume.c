/* Which options a checkpoint keeps. Invariant: an option that is in none of the lists below determines the run. */
#include "runtime/checkpoint/resume.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "runtime/checkpoint/replaced.h"

/* Of one process's run: no part of the job. */
static const char own[] =
    " checkpoint resume init-from init-names plan output-plan schedule-file objective "
    "cluster memory-limit save metrics dump-gradients report tensorboard trace trace-kernels trace-steps "
    "replan timeout config print-config quiet verbose dry-run json ";
/* May be given anew. */
static const char free_to_change[] =
    " data tokens every keep steps epochs ranks chunks schedule recompute offload threads device prefetch "
    "validate metric patience min-delta ";

static bool is_in(const char *list, const char *name) {
  size_t n = strlen(name);
  for (const char *at = list; (at = strstr(at, name)); at += n)
    if (at[-1] == ' ' && at[n] == ' ')
      return true;
  return false;
}

/* The text that a value is parsed from; NULL: it has none. */
static json_t *value_json(const Options *o, const OptionEntry *entry) {
  const void *field = (const char *)o + entry->offset;
  char number[32];
  switch (entry->kind) {
  case OPTION_FLAG:
    return json_string(*(const bool *)field ? "true" : "false");
  case OPTION_INTEGER:
  case OPTION_BYTES: {
    int64_t value = *(const int64_t *)field;
    bool automatic = value == 0 && entry->standard && strcmp(entry->standard, "auto") == 0;
    snprintf(number, sizeof number, "%lld", (long long)value);
    return automatic ? NULL : json_string(number);
  }
  case OPTION_NUMBER:
    snprintf(number, sizeof number, "%.15g", *(const double *)field);
    if (strtod(number, NULL) != *(const double *)field)
      snprintf(number, sizeof number, "%.17g", *(const double *)field);
    return json_string(number);
  case OPTION_TEXT:
  case OPTION_NAME: {
    const char *text = *(const char *const *)field;
    return text && strcmp(text, "auto") != 0 ? json_string(text) : NULL;
  }
  case OPTION_TEXTS: {
    const TextList *list = field;
    json_t *json = json_array();
    for (size_t i = 0; json && i < list->n; i++)
      json_array_append_new(json, json_string(list->items[i]));
    return json;
  }
  case OPTION_NUMBERS:
    return NULL;
  }
  return NULL;
}

static bool is_job_option(const OptionEntry *entry) {
  return strstr(entry->commands, " train ") && !is_in(own, entry->name);
}

static Status set_json(Options *options, const char *name, const json_t *value) {
  size_t i;
  json_t *item;
  if (json_is_string(value))
    return options_set(options, name, json_string_value(value));
  json_array_foreach(value, i, item) if (json_is_string(item)) TRY(options_set(options, name, json_string_value(item)));
  return OK;
}

/* "0.001", "a, b" */
static void show(const json_t *value, char *text, size_t room) {
  size_t at = 0, i;
  json_t *item;
  if (!json_is_array(value)) {
    snprintf(text, room, "%s", json_string_value(value));
    return;
  }
  *text = '\0';
  json_array_foreach(value, i, item) if (at < room) at +=
      (size_t)snprintf(text + at, room - at, "%s%s", i ? ", " : "", json_string_value(item));
}

static Status contradicts(const Checkpoint *c, const char *name, const json_t *now, const json_t *then) {
  char a[512], b[512];
  show(now, a, sizeof a);
  if (!then)
    return fail(E_USAGE, "--%s %s: the run of %s has none", name, a, c->path);
  show(then, b, sizeof b);
  return fail(E_USAGE, "--%s %s contradicts %s, whose run has %s", name, a, c->path, *b ? b : "none");
}

/* What was given stays, and may not differ where it determines the run. */
static Status keep_given(const Options *given, const Options *then, const Checkpoint *c, const OptionEntry *entry,
                         Options *into) {
  json_t *now = value_json(given, entry), *was = value_json(then, entry);
  Status status = OK;
  if (now && is_job_option(entry) && !is_in(free_to_change, entry->name) && (!was || !json_equal(now, was)))
    status = contradicts(c, entry->name, now, was);
  if (status == OK && now)
    status = set_json(into, entry->name, now);
  json_decref(now);
  json_decref(was);
  return status;
}

/* Whether what the run had is taken for an option that is free and not given. */
static bool takes_free(const Options *given, const Options *then, bool alone, const char *name) {
  bool shaped = options_given(given, "plan") || options_given(given, "schedule-file");
  bool same_ranks = alone && !shaped && (!given->ranks || given->ranks == then->ranks);
  if (strcmp(name, "steps") == 0 || strcmp(name, "epochs") == 0)
    return !given->steps && !given->epochs;
  if (strcmp(name, "ranks") == 0 || strcmp(name, "chunks") == 0 || strcmp(name, "schedule") == 0)
    return same_ranks;
  if (strcmp(name, "recompute") == 0)
    return !shaped;
  if (strcmp(name, "device") == 0)
    return !shaped && (same_ranks || !strchr(then->device, ','));
  return true;
}

static Status read_options(const Checkpoint *c, Options **then) {
  const char *name;
  json_t *value;
  if (!(*then = options_create()))
    return status_code();
  Status status = OK;
  json_object_foreach(c->options, name, value) {
    if (status == OK)
      status = set_json(*then, name, value);
  }
  if (status != OK)
    status_context("%s: ", c->path);
  return status;
}

static Status complete(const Options *given, const Options *then, const Checkpoint *c, bool alone, Options *into) {
  const OptionEntry *entry;
  for (int i = 0; (entry = options_entry(i)); i++) {
    json_t *was = options_given(then, entry->name) ? value_json(then, entry) : NULL;
    Status status = OK;
    bool is_given = options_given(given, entry->name), is_free = is_in(free_to_change, entry->name);
    json_t *now = is_given ? value_json(given, entry) : NULL; /* NULL, too, where that is "auto" */
    if (is_given)
      status = keep_given(given, then, c, entry, into);
    if (status == OK && was && (is_free ? !is_given && takes_free(given, then, alone, entry->name) : !now))
      status = set_json(into, entry->name, was);
    json_decref(now);
    json_decref(was);
    TRY(status);
  }
  return OK;
}

Status resume_options(const Options *given, const Checkpoint *c, bool alone, Options **options) {
  Options *then = NULL;
  Status status = read_options(c, &then);
  *options = status == OK ? options_create() : NULL;
  if (status == OK)
    status = *options ? complete(given, then, c, alone, *options) : status_code();
  options_destroy(then);
  if (status != OK) {
    options_destroy(*options);
    *options = NULL;
  }
  return status;
}

static void set_number(json_t *json, const char *name, int64_t value) {
  char text[32];
  snprintf(text, sizeof text, "%lld", (long long)value);
  json_object_set_new(json, name, json_string(text));
}

/* A pattern that finds the same from any folder; what is special in a pattern is itself in the folder's name. */
static bool absolute_pattern(const char *pattern, char absolute[PATH_MAX]) {
  char folder[PATH_MAX];
  size_t n = 0;
  if (*pattern == '/' || !getcwd(folder, sizeof folder))
    return false;
  for (const char *c = folder; *c && n + 2 < PATH_MAX; c++) {
    if (strchr("*?[]\\", *c))
      absolute[n++] = '\\';
    absolute[n++] = *c;
  }
  int more = snprintf(absolute + n, PATH_MAX - n, "/%s", pattern);
  return more > 0 && (size_t)more < PATH_MAX - n;
}

/* Wherever the run goes on. */
static void set_path(json_t *json, const char *name, const char *path) {
  char absolute[PATH_MAX];
  if (path && (realpath(path, absolute) || absolute_pattern(path, absolute)))
    json_object_set_new(json, name, json_string(absolute)); /* not UTF-8: left out */
}

/* What was given, and what was decided in place of what determines the run. */
static Status options_json(const Job *job, json_t *json) {
  const JobDecisions *decided = &job->decided;
  const Options *o = job->asked.options;
  const OptionEntry *entry;
  for (int i = 0; (entry = options_entry(i)); i++) {
    json_t *value = is_job_option(entry) && options_given(o, entry->name) ? value_json(o, entry) : NULL;
    if (value && json_object_set_new(json, entry->name, value))
      return fail(E_MEMORY, "out of memory");
  }
  set_number(json, "batch", decided->batch);
  set_number(json, "microbatches", decided->microbatches);
  json_object_set_new(json, "loss", json_string(loss_name(decided->loss.kind)));
  json_object_set_new(json, "optimizer", json_string(job_optimizer(job)));
  json_object_set_new(json, "precision", json_string(decided->precision_text));
  set_path(json, "data", o->data);
  set_path(json, "tokens", o->tokens);
  set_path(json, "validate", o->validate);
  return OK;
}

static json_t *list_replaced(const Job *job) {
  int n;
  const Initializer *table = model_initializers(job->given.model, &n);
  json_t *list = json_array();
  for (int i = 0; list && i < n; i++)
    if (replaced_stays(job, i))
      json_array_append_new(list, json_string(table[i].name));
  return list;
}

Status resume_about(const Job *job, int64_t epoch_length, const char **about) {
  char absolute[PATH_MAX];
  const JobDecisions *decided = &job->decided;
  json_t *options = json_object(), *json = NULL;
  const char *bits = "";
  Status status = options ? options_json(job, options) : fail(E_MEMORY, "out of memory");
  if (status == OK)
    status = devices_bits(job->arena, decided->devices, decided->ranks, &bits);
  const char *path = realpath(job->asked.path, absolute) ? absolute : job->asked.path;
  json_t *name = json_string(path);
  if (!name) /* no UTF-8: whoever exports names the model */
    name = json_string("");
  if (status == OK)
    json = json_pack("{s:i, s:s, s:{s:O, s:s}, s:{s:I, s:I}, s:s, s:s, s:i, s:o, s:O}", "format", 1, "onnxpipe",
                     ONNXPIPE_VERSION, "model", "path", name, "hash", model_hash(job->given.model), "data", "samples",
                     (json_int_t)job->given.data.samples, "epoch_length", (json_int_t)epoch_length, "device",
                     decided->device_text, "bits", bits, "ranks", decided->ranks, "replaced", list_replaced(job),
                     "options", options);
  Text text = {0};
  if (status == OK)
    text_add_json(&text, json, JSON_INDENT(1));
  const char *whole = status == OK ? text_whole(&text) : NULL;
  if (whole) { /* without its braces and the end of its last line */
    text.data[text.length - 2] = '\0';
    *about = arena_string(job->arena, whole + 1);
  }
  if (status == OK && (!whole || !*about))
    status = status_code();
  text_free(&text);
  json_decref(json);
  json_decref(name);
  json_decref(options);
  return status;
}

Status resume_tell_bits(Job *job, const Checkpoint *c) {
  const char *bits;
  TRY(devices_bits(job->arena, job->decided.devices, job->decided.ranks, &bits));
  return strcmp(bits, c->bits) == 0
             ? OK
             : job_decide(job, "note", "this run computes on %s, that of %s did on %s: its bits differ", bits, c->path,
                          c->bits);
}

Status resume_check(const Job *job, const Checkpoint *c, int64_t epoch_length) {
  const Options *o = job->asked.options;
  if (strcmp(model_hash(job->given.model), c->model_hash) != 0)
    return fail(E_USAGE, "%s (hash %s) is not the model of %s, which is %s (hash %s)", job->asked.path,
                model_hash(job->given.model), c->path, c->model_path, c->model_hash);
  if (job->given.data.samples != c->samples)
    return fail(E_USAGE, "%s has %lld samples, the run of %s was on %lld", job->given.data.path,
                (long long)job->given.data.samples, c->path, (long long)c->samples);
  if (epoch_length != c->epoch_length)
    return fail(E_USAGE, "%s makes an epoch of %lld samples, the run of %s has %lld: give %s as it did",
                o->steps ? "--steps" : "--epochs", (long long)epoch_length, c->path, (long long)c->epoch_length,
                o->steps ? "--epochs" : "--steps");
  return OK;
}
