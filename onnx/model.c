/* Opening an ONNX file. Invariant: a Model that model_open returns has passed every check that needs no operator
 * knowledge; everything of it lives in its arena, its mapping and `proto`. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "onnx/file/internal.h"

enum { IR_OLDEST = 3, IR_NEWEST = 14, TEXT_PROBE = 512 };

const char *proto_domain(const char *domain) {
  return !domain || strcmp(domain, "ai.onnx") == 0 ? "" : domain;
}

const char *proto_property(Onnx__StringStringEntryProto *const *properties, size_t n, const char *key) {
  for (size_t i = 0; i < n; i++)
    if (properties[i]->key && strcmp(properties[i]->key, key) == 0)
      return proto_text(properties[i]->value);
  return NULL;
}

void proto_node_context(const Onnx__NodeProto *node, size_t index) {
  if (*proto_text(node->name))
    status_context("node '%s' (%s): ", node->name, proto_text(node->op_type));
  else
    status_context("node #%zu (%s): ", index, proto_text(node->op_type));
}

/* A model begins with binary tags; what has none of their bytes is a page, a script or a pointer to a file. */
static Status refuse_text(const uint8_t *file, size_t bytes) {
  size_t n = bytes < TEXT_PROBE ? bytes : TEXT_PROBE;
  for (size_t i = 0; i < n; i++)
    if (file[i] < 0x20 && file[i] != '\n' && file[i] != '\r' && file[i] != '\t')
      return OK;
  static const char lfs[] = "version https://git-lfs";
  if (bytes >= sizeof lfs - 1 && memcmp(file, lfs, sizeof lfs - 1) == 0)
    return fail(E_MODEL, "a pointer of Git LFS, not the model itself (git lfs pull fetches it)");
  return fail(E_MODEL, "a text file, not an ONNX model");
}

static Status map_file(Model *model) {
  size_t bytes;
  TRY(file_open(model->path, &model->descriptor, &bytes));
  if (bytes == 0)
    return fail(E_MODEL, "the file is empty");
  void *mapped = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, model->descriptor, 0);
  if (mapped == MAP_FAILED)
    return fail(E_IO, "cannot be mapped: %s", strerror(errno));
  model->file = mapped;
  model->file_bytes = bytes;
  return OK;
}

static Status unpack(Model *model) {
  WireScan scan;
  TRY(refuse_text(model->file, model->file_bytes));
  TRY(wire_scan(model->arena, model->file, model->file_bytes, &scan));
  model->cuts = scan.cuts;
  model->proto = onnx__model_proto__unpack(NULL, scan.skeleton_bytes, scan.skeleton);
  free(scan.skeleton);
  return model->proto ? OK : fail(E_MEMORY, "cannot be unpacked: out of memory (%zu bytes)", scan.unpacked_bytes);
}

static Status check_versions(Model *model) {
  const Onnx__ModelProto *proto = model->proto;
  if (!proto->has_ir_version)
    return fail(E_MODEL, "says no IR version: the file is damaged or no ONNX model");
  if (proto->ir_version < IR_OLDEST || proto->ir_version > IR_NEWEST)
    return fail(E_UNSUPPORTED, "IR version %lld; %d to %d are supported", (long long)proto->ir_version, IR_OLDEST,
                IR_NEWEST);
  if (!proto->graph)
    return fail(E_MODEL, "has no graph");
  for (size_t i = 0; i < proto->n_opset_import; i++) {
    const Onnx__OperatorSetIdProto *opset = proto->opset_import[i];
    if (*proto_domain(opset->domain))
      continue;
    if (model->opset)
      return fail(E_MODEL, "imports the default opset twice: %lld and %lld", (long long)model->opset,
                  (long long)opset->version);
    if (opset->version < 1)
      return fail(E_MODEL, "imports opset %lld", (long long)opset->version);
    if (opset->version > OPSET_NEWEST)
      return fail(E_UNSUPPORTED, "opset %lld; at most %d is supported", (long long)opset->version, OPSET_NEWEST);
    model->opset = opset->version;
  }
  return model->opset ? OK : fail(E_MODEL, "imports no version of the default opset");
}

static Status read_initializers(Model *model) {
  const Onnx__GraphProto *graph = model->proto->graph;
  if (graph->n_sparse_initializer)
    return fail(E_UNSUPPORTED, "sparse initializers are not supported: '%s'%s",
                graph->sparse_initializer[0]->values ? proto_text(graph->sparse_initializer[0]->values->name) : "",
                graph->n_sparse_initializer > 1 ? " and others" : "");
  model->n_initializers = (int)graph->n_initializer;
  TRY(ARENA_NEW(model->arena, model->initializers, model->n_initializers));
  TRY(ARENA_NEW(model->arena, model->sources, model->n_initializers));
  TRY(names_create(model->arena, &model->initializer_names));
  for (int i = 0; i < model->n_initializers; i++) {
    const Onnx__TensorProto *proto = graph->initializer[i];
    Initializer *initializer = &model->initializers[i];
    *initializer = (Initializer){.name = proto_text(proto->name), .rule = "not float", .tied_to = -1};
    if (!*initializer->name)
      return fail(E_MODEL, "initializer #%d has no name", i);
    if (names_find(&model->initializer_names, initializer->name) >= 0)
      return fail(E_MODEL, "two initializers are called '%s'", initializer->name);
    TRY(names_put(&model->initializer_names, initializer->name, i));
    TRY(tensor_locate(model, proto, model->arena, &model->sources[i]));
    TRY(tensor_describe(proto, &initializer->dtype, &initializer->shape));
  }
  return OK;
}

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
  input->dtype = dtype_from_onnx(tensor->elem_type);
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
    if (fixed && dim->dim_value < 0)
      return fail(E_MODEL, "%s '%s': dimension %d is %lld", what, name, k, (long long)dim->dim_value);
    input->dim[k] = fixed ? dim->dim_value : -1;
    if (!fixed)
      input->dim_name[k] =
          dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM ? proto_text(dim->dim_param) : "";
  }
  return OK;
}

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
static void find_batch(Model *model) {
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
  for (int i = 0; i < model->n_outputs; i++) {
    ModelInput *output = &model->outputs[i];
    if (output->rank > 0)
      output->batch_axis =
          symbolic == (output->dim_name[0] != NULL) && (symbolic || output->dim[0] == model->fixed_batch) ? 0 : -1;
  }
}

static Status read_interface(Model *model) {
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
  find_batch(model);
  return OK;
}

/* FNV-1a over what packing writes. */
typedef struct {
  ProtobufCBuffer base;
  uint64_t hash;
} HashBuffer;

static void hash_append(ProtobufCBuffer *buffer, size_t bytes, const uint8_t *data) {
  HashBuffer *h = (HashBuffer *)buffer;
  for (size_t i = 0; i < bytes; i++)
    h->hash = (h->hash ^ data[i]) * 0x100000001b3u;
}

/* The contents of float initializers, which training changes, and where they lie are left out. */
static Status hash_model(Model *model) {
  HashBuffer buffer = {.base.append = hash_append, .hash = 0xcbf29ce484222325u};
  Onnx__GraphProto *graph = model->proto->graph;
  Onnx__TensorProto *saved;
  TRY(ARENA_NEW(model->arena, saved, graph->n_initializer));
  for (size_t i = 0; i < graph->n_initializer; i++) {
    Onnx__TensorProto *tensor = graph->initializer[i];
    saved[i] = *tensor;
    if (!dtype_is_float(model->initializers[i].dtype))
      continue;
    tensor->has_raw_data = false;
    tensor->n_float_data = tensor->n_double_data = tensor->n_int32_data = 0;
    tensor->n_external_data = tensor->base.n_unknown_fields = 0;
    tensor->has_data_location = false;
  }
  onnx__model_proto__pack_to_buffer(model->proto, &buffer.base);
  for (size_t i = 0; i < graph->n_initializer; i++)
    *graph->initializer[i] = saved[i];
  uint64_t hash = buffer.hash; /* FNV's last bytes reach few bits: mix (the finalizer of MurmurHash3) */
  hash = (hash ^ hash >> 33) * 0xff51afd7ed558ccdu;
  hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53u;
  snprintf(model->hash, sizeof model->hash, "%016llx", (unsigned long long)(hash ^ hash >> 33));
  return OK;
}

static Status open_checked(Model *model, const TrainOptions *options) {
  TRY(map_file(model));
  TRY(unpack(model));
  TRY(check_versions(model));
  TRY(read_initializers(model));
  TRY(model_check(model));
  TRY(read_interface(model));
  TRY(hash_model(model));
  TRY(train_rules_apply(model, options));
  return options && options->no_tie ? OK : ties_find(model);
}

Status model_open(const char *path, const TrainOptions *options, Model **out) {
  Arena *arena = arena_create();
  Model *model = arena ? arena_alloc(arena, 1, sizeof *model) : NULL;
  *out = NULL;
  if (!model) {
    arena_destroy(arena);
    return status_code();
  }
  model->arena = arena;
  model->descriptor = -1;
  model->path = arena_string(arena, path);
  Status status = model->path ? open_checked(model, options) : status_code();
  if (status != OK) {
    if (status != E_USAGE)
      status_context("%s: ", path);
    model_close(model);
    return status;
  }
  *out = model;
  return OK;
}

void model_close(Model *model) {
  if (!model)
    return;
  if (model->proto)
    onnx__model_proto__free_unpacked(model->proto, NULL);
  if (model->file)
    munmap((void *)model->file, model->file_bytes);
  if (model->descriptor >= 0)
    close(model->descriptor);
  arena_destroy(model->arena);
}

const char *model_path(const Model *model) {
  return model->path;
}

const char *model_hash(const Model *model) {
  return model->hash;
}

const Initializer *model_initializers(const Model *model, int *count) {
  *count = model->n_initializers;
  return model->initializers;
}

bool model_ties_unknown(const Model *model) {
  return model->ties_unknown;
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

int model_find_initializer(const Model *model, const char *name) {
  return names_find(&model->initializer_names, name);
}

Status model_read_initializer(const Model *model, int initializer, void *data, size_t bytes) {
  const Initializer *what = &model->initializers[initializer];
  size_t size;
  TRY(shape_bytes(what->shape, what->dtype, &size));
  if (bytes != size)
    return fail(E_SHAPE, "%s: initializer '%s' has %zu bytes, not %zu", model->path, what->name, size, bytes);
  Status status = tensor_source_read(model, &model->sources[initializer], data, bytes);
  if (status != OK)
    status_context("%s: ", model->path);
  return status;
}
