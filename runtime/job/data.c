/* The data of a job. Invariant: what is opened here is all that training, validation and inference read samples from.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/job/job.h"

/* The axis of the target that counts samples: --batch-axis target=A. */
static Status target_axis(const Options *o, int *axis) {
  static const char name[] = "target=";
  *axis = 0;
  for (size_t i = 0; i < o->batch_axis.n; i++) {
    const char *text = o->batch_axis.items[i];
    char *end;
    if (strncmp(text, name, strlen(name)) != 0)
      continue;
    long asked = strtol(text + strlen(name), &end, 10);
    if (end == text + strlen(name) || *end || asked < 0 || asked >= MAX_RANK)
      return fail(E_USAGE, "--batch-axis %s: not an axis from 0 to %d", text, MAX_RANK - 1);
    *axis = (int)asked;
  }
  return OK;
}

/* Tokens of a sample. */
static int64_t tokens_of(const Job *job) {
  const Dataset *data = &job->given.data;
  int64_t most = 0;
  for (int i = 0; i < data->n_inputs; i++)
    if (data->columns[i].shape.rank == 2 && data->columns[i].shape.dim[1] > most)
      most = data->columns[i].shape.dim[1];
  return most;
}

/* "axis 1 ('batch') of 'x', axis 0 of 'mask'" */
static Status say_samples(Job *job) {
  int n, said = 0;
  const ModelInput *inputs = model_inputs(job->given.model, &n);
  const char *text = "";
  for (int i = 0; i < n && text; i++) {
    const ModelInput *input = &inputs[i];
    int axis = job->given.data.columns[i].axis;
    if (axis < 0)
      continue;
    const char *name = input->rank > 0 && input->dim_name[axis] ? input->dim_name[axis] : "";
    text = arena_format(job->arena, "%s%s%s%d%s%s%s of '%s'", text, said ? ", " : " along ", "axis ", axis,
                        *name ? " ('" : "", name, *name ? "')" : "", input->name);
    said++;
  }
  if (text && job->asked.options->tokens)
    text = arena_format(job->arena, " of %lld tokens%s", (long long)tokens_of(job), text);
  return text ? job_decide(job, "data", "%s: %s samples%s", job->given.data.path, COUNT_STR(job->given.data.samples),
                           text)
              : status_code();
}

/* A line for each array that was turned. */
static Status tell_fortran(Job *job, const Source *source) {
  for (int s = 0; s < source->n_shards; s++)
    for (int f = 0; f < source->shards[s].n_files; f++) {
      const ArrayFile *file = &source->shards[s].files[f];
      for (int i = 0; i < file->n_arrays; i++)
        if (file->was_fortran[i])
          TRY(job_decide(job, "note", "array '%s'%s%s is in Fortran order: converted", file->arrays[i].name,
                         source->n_shards > 1 ? " of " : "", source->n_shards > 1 ? file->path : ""));
    }
  return OK;
}

bool job_has_data(const Options *options) {
  return options->data || options->tokens;
}

Status job_open_data(const Job *job, const char *path, Dataset *data) {
  const Options *o = job->asked.options;
  int axis;
  if (o->tokens)
    return dataset_open_tokens(&(TokenSpec){.path = path,
                                            .dtype = strcmp(o->token_type, "uint32") == 0 ? U32 : U16,
                                            .sequence = o->sequence,
                                            .roles = o->token_input.items,
                                            .n_roles = (int)o->token_input.n},
                               job->given.model, data);
  TRY(target_axis(o, &axis));
  return dataset_open(path, job->given.model, axis, data);
}

/* The last samples, by --validation-split, are no longer the training's. */
static Status split_data(Job *job) {
  double fraction = job->asked.options->validation_split;
  int64_t samples = job->given.data.samples, n = (int64_t)llround(fraction * (double)samples);
  if (!options_given(job->asked.options, "validation-split"))
    return OK;
  if (!(fraction > 0 && fraction < 1))
    return fail(E_USAGE, "--validation-split %g is no fraction between 0 and 1", fraction);
  if (n < 1 || n >= samples)
    return fail(E_USAGE, "--validation-split %g of %lld samples leaves %s", fraction, (long long)samples,
                n < 1 ? "none for validation" : "none to train on");
  TRY(dataset_split(&job->given.data, n, &job->given.validation));
  return job_decide(job, "validation", "the last %s samples of %s", COUNT_STR(n), job->given.data.path);
}

/* Options that say what tokens are, where there are none. */
static Status refuse_idle(const Options *o) {
  static const char *const names[] = {"sequence", "token-type", "token-input"};
  for (size_t i = 0; i < sizeof names / sizeof *names && !o->tokens; i++)
    if (options_given(o, names[i]))
      return fail(E_USAGE, "--%s does nothing without --tokens", names[i]);
  const char *idle = options_given(o, "validation-split")  ? "validation-split"
                     : o->validate                         ? "validate"
                     : strcmp(o->last_batch, "exact") == 0 ? "last-batch exact"
                                                           : NULL;
  return idle && !job_has_data(o) ? fail(E_USAGE, "--%s does nothing without --data or --tokens", idle) : OK;
}

Status job_take_data(Job *job) {
  const Options *o = job->asked.options;
  int n;
  TRY(refuse_idle(o));
  if (!job_has_data(o))
    return OK;
  if (o->data && o->tokens)
    return fail(E_USAGE, "--data %s and --tokens %s: give one of them", o->data, o->tokens);
  TRY(job_open_data(job, o->tokens ? o->tokens : o->data, &job->given.data));
  TRY(split_data(job));
  TRY(say_samples(job));
  const ModelInput *inputs = model_inputs(job->given.model, &n);
  for (int i = 0; i < n && !o->tokens; i++)
    if (inputs[i].stored != job->given.data.columns[i].dtype)
      TRY(job_decide(job, "note", "array '%s' is %s, the model takes %s: converted", inputs[i].name,
                     dtype_name(job->given.data.columns[i].dtype), dtype_name(inputs[i].stored)));
  return tell_fortran(job, &job->given.data.source);
}
