/* Which axis of each input counts samples. Invariant: either every such axis is symbolic, or all have one fixed size.
 */
#include <stdlib.h>
#include <string.h>

#include "onnx/file/internal.h"

/* Whether some input has this symbolic dimension elsewhere than in front. */
static bool is_inner_dim(const Model *model, const char *dim_name) {
  for (int i = 0; i < model->n_inputs; i++)
    for (int k = 1; k < model->inputs[i].rank; k++)
      if (model->inputs[i].dim_name[k] && *dim_name && strcmp(model->inputs[i].dim_name[k], dim_name) == 0)
        return true;
  return false;
}

/* The batch is the symbolic dimensions in front of inputs, unless their name is also that of a later dimension (a
 * length). Where all in front are numbers, it is the first input's, and that of those that have the same. */
static void take_first_axes(Model *model) {
  bool symbolic = false;
  for (int i = 0; i < model->n_inputs; i++) {
    ModelInput *input = &model->inputs[i];
    if (input->rank < 0 || (input->rank && input->dim_name[0] && !is_inner_dim(model, input->dim_name[0])))
      input->batch_axis = 0;
    symbolic |= input->batch_axis == 0;
  }
  for (int i = 0; i < model->n_inputs && !symbolic; i++) {
    ModelInput *input = &model->inputs[i];
    if (input->rank > 0 && !model->fixed_batch && input->dim[0] > 0)
      model->fixed_batch = input->dim[0];
    if (input->rank > 0 && input->dim[0] > 0 && input->dim[0] == model->fixed_batch)
      input->batch_axis = 0;
  }
}

/* The data's target is no input, unless one has its name. */
static bool is_target(const Model *model, const char *text) {
  if (strncmp(text, "target=", strlen("target=")) != 0)
    return false;
  for (int i = 0; i < model->n_inputs; i++)
    if (strcmp(model->inputs[i].name, "target") == 0)
      return false;
  return true;
}

static Status parse(const Model *model, const char *text, ModelInput **input, int *axis) {
  const char *equals = strrchr(text, '=');
  char *end;
  *input = NULL;
  for (int i = 0; i < model->n_inputs && equals; i++)
    if (strncmp(model->inputs[i].name, text, (size_t)(equals - text)) == 0 && !model->inputs[i].name[equals - text])
      *input = &model->inputs[i];
  if (equals && equals != text && !*input) {
    const char *names = "";
    for (int i = 0; i < model->n_inputs && names; i++)
      names = arena_format(model->arena, "%s%s'%s'", names, i ? ", " : "", model->inputs[i].name);
    if (!names)
      return status_code();
    return fail(E_USAGE, "--batch-axis %s: %s has no such input, it has %s", text, model->path, names);
  }
  if (equals && *input && strcmp(equals + 1, "none") == 0) {
    *axis = -1;
    return OK;
  }
  long asked = equals ? strtol(equals + 1, &end, 10) : 0;
  if (!equals || equals == text || !equals[1] || *end)
    return fail(E_USAGE, "--batch-axis: '%s' is not INPUT=AXIS or INPUT=none", text);
  *axis = (*input)->rank < 0 ? (int)asked : axis_normalize(asked, (*input)->rank);
  if (*axis < 0 || *axis >= MAX_RANK)
    return fail(E_USAGE, "--batch-axis %s: the input has %d axes", text, (*input)->rank);
  return OK;
}

/* The axes that were given count samples; of other inputs, the axes that have the same symbolic name. */
static Status take_given_axes(Model *model, const TrainOptions *options) {
  bool *given, symbolic = false;
  TRY(ARENA_NEW(model->arena, given, model->n_inputs));
  for (int i = 0; i < options->n_batch_axis; i++) {
    ModelInput *input;
    int axis;
    if (is_target(model, options->batch_axis[i]))
      continue;
    TRY(parse(model, options->batch_axis[i], &input, &axis));
    input->batch_axis = axis;
    given[input - model->inputs] = true;
  }
  for (int i = 0; i < model->n_inputs; i++) {
    const ModelInput *input = &model->inputs[i];
    int axis = input->batch_axis;
    if (!given[i] || axis < 0)
      continue;
    int64_t size = input->rank < 0 || input->dim_name[axis] ? 0 : input->dim[axis];
    symbolic |= !size;
    if (size && model->fixed_batch && size != model->fixed_batch)
      return fail(E_USAGE, "--batch-axis: axis %d of input '%s' has size %lld, another one %lld", axis, input->name,
                  (long long)size, (long long)model->fixed_batch);
    if (size)
      model->fixed_batch = size;
    for (int k = 0; k < model->n_inputs && !size; k++)
      for (int d = 0; d < model->inputs[k].rank && !given[k] && input->rank >= 0; d++)
        if (*input->dim_name[axis] && model->inputs[k].dim_name[d] && model->inputs[k].batch_axis < 0 &&
            strcmp(model->inputs[k].dim_name[d], input->dim_name[axis]) == 0)
          model->inputs[k].batch_axis = d;
  }
  if (symbolic && model->fixed_batch)
    return fail(E_USAGE, "--batch-axis: one axis has size %lld, another is open", (long long)model->fixed_batch);
  return OK;
}

/* What an output says of itself, without a node having been looked at. */
static void guess_outputs(Model *model) {
  for (int i = 0; i < model->n_outputs; i++) {
    ModelInput *output = &model->outputs[i];
    if (output->rank > 0)
      output->batch_axis = (model->fixed_batch == 0) == (output->dim_name[0] != NULL) &&
                                   (!model->fixed_batch || output->dim[0] == model->fixed_batch)
                               ? 0
                               : -1;
  }
}

Status samples_find(Model *model, const TrainOptions *options) {
  int given = 0;
  for (int i = 0; options && i < options->n_batch_axis; i++)
    given += !is_target(model, options->batch_axis[i]);
  if (given)
    TRY(take_given_axes(model, options));
  else
    take_first_axes(model);
  guess_outputs(model);
  return OK;
}
