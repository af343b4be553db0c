/* The inputs and outputs that a file states, and where their samples lie. Invariant: an input has a type; what an
 * output says of itself may be incomplete. */
#include <string.h>

#include "graph/narrow.h"
#include "onnx/file/internal.h"

/* A graph input or output. What an output says of itself may be incomplete. */
static Status read_input(const Onnx__ValueInfoProto *info, bool is_input, ModelInput *input) {
  const Onnx__TypeProto *type = info->type;
  const char *what = is_input ? "input" : "output", *name = proto_text(info->name);
  *input = (ModelInput){.name = name, .rank = -1, .batch_axis = -1};
  if (!type || type->value_case == ONNX__TYPE_PROTO__VALUE__NOT_SET)
    return is_input ? fail(E_MODEL, "input '%s' says no type", name) : OK;
  if (type->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE)
    return fail(E_UNSUPPORTED, "%s '%s' is not a tensor (a sequence, map, optional or sparse tensor)", what, name);
  const Onnx__TypeProto__Tensor *tensor = type->tensor_type;
  input->stored = stored_from_onnx(tensor->elem_type);
  input->dtype = dtype_computed(input->stored);
  if (!input->dtype && (is_input || tensor->elem_type))
    return fail(E_UNSUPPORTED, "%s '%s': data type %d (%s) is not supported", what, name, tensor->elem_type,
                onnx_type_name(tensor->elem_type));
  if (!tensor->shape)
    return OK;
  if (tensor->shape->n_dim > MAX_RANK)
    return fail(E_UNSUPPORTED, "%s '%s' has %zu dimensions; at most %d are supported", what, name, tensor->shape->n_dim,
                MAX_RANK);
  input->rank = (int)tensor->shape->n_dim;
  for (int k = 0; k < input->rank; k++) {
    const Onnx__TensorShapeProto__Dimension *dim = tensor->shape->dim[k];
    bool fixed = dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
    if (fixed && dim->dim_value < -1)
      return fail(E_MODEL, "%s '%s': dimension %d is %lld", what, name, k, (long long)dim->dim_value);
    fixed = fixed && dim->dim_value >= 0; /* -1: some exporters' word for open */
    input->dim[k] = fixed ? dim->dim_value : -1;
    if (!fixed)
      input->dim_name[k] =
          dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM ? proto_text(dim->dim_param) : "";
  }
  return OK;
}

Status model_list_ends(Model *model, const TrainOptions *options) {
  const Onnx__GraphProto *graph = model->proto->graph;
  TRY(ARENA_NEW(model->arena, model->inputs, graph->n_input));
  TRY(ARENA_NEW(model->arena, model->outputs, graph->n_output));
  for (size_t i = 0; i < graph->n_input; i++)
    if (model_find_initializer(model, proto_text(graph->input[i]->name)) < 0)
      TRY(read_input(graph->input[i], true, &model->inputs[model->n_inputs++]));
  for (size_t i = 0; i < graph->n_output; i++)
    TRY(read_input(graph->output[i], false, &model->outputs[model->n_outputs++]));
  if (!model->n_outputs)
    return fail(E_MODEL, "the graph has no outputs");
  return samples_find(model, options);
}

int64_t model_fixed_batch(const Model *model) {
  return model->fixed_batch;
}

const ModelInput *model_inputs(const Model *model, int *count) {
  *count = model->n_inputs;
  return model->inputs;
}

const ModelInput *model_outputs(const Model *model, int *count) {
  *count = model->n_outputs;
  return model->outputs;
}
