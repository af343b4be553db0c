/* Which initializers train: the file does not say, so rules that were checked against PyTorch's exporters decide.
 * Invariant: every initializer gets exactly one rule, and a float tensor that none of them picks is a constant. */
#include <fnmatch.h>
#include <string.h>

#include "onnx/file/exported.h"
#include "onnx/file/reach.h"
#include "onnx/file/separate.h"

#define SIGNATURE_KEY "pkg.torch.export.ExportedProgram.graph_signature"
#define KIND_KEY "pkg.torch.export.graph_signature.InputSpec.kind"

static bool is_digits(const char *text) {
  return *text && strspn(text, "0123456789") == strlen(text);
}

/* The dynamo exporter records kinds and the program, and calls what it makes up val_<n>. */
static bool is_dynamo_file(const Onnx__GraphProto *graph) {
  if (proto_property(graph->metadata_props, graph->n_metadata_props, SIGNATURE_KEY))
    return true;
  for (size_t i = 0; i < graph->n_value_info; i++)
    if (proto_property(graph->value_info[i]->metadata_props, graph->value_info[i]->n_metadata_props, KIND_KEY))
      return true;
  for (size_t i = 0; i < graph->n_node; i++)
    for (size_t k = 0; k < graph->node[i]->n_output; k++)
      if (strncmp(graph->node[i]->output[k], "val_", 4) == 0 && is_digits(graph->node[i]->output[k] + 4))
        return true;
  return false;
}

bool name_is_given(const Model *model, const char *name) {
  static const char output[] = "_output_";
  if (!*name || is_digits(name) || strstr(name, "::") || *name == '/')
    return false;
  for (const char *at = strstr(name, output); at; at = strstr(at + 1, output))
    if (is_digits(at + sizeof output - 1))
      return false;
  return !model->is_dynamo || strchr(name, '.');
}

bool model_takes_contents(const Model *model, int i) {
  const Initializer *what = &model->initializers[i];
  bool is_size = (what->dtype == I64 || what->dtype == I32) && what->shape.rank < 2;
  bool is_recorded = strcmp(what->rule, "1") == 0 && !what->constant && strncmp(what->name, "lifted_tensor_", 14) != 0;
  bool is_named = is_recorded || strcmp(what->rule, "--freeze") == 0 || name_is_given(model, what->name);
  return is_named && !is_size && what->tied_to < 0 && what->dtype != DTYPE_NONE &&
         !tensor_packed_bits(model->sources[i].proto);
}

/* What decisions are taken from. */
typedef struct {
  const Model *model;
  Reach reach; /* of the main graph */
  Exported exported;
} Evidence;

static Status decide(const Evidence *evidence, Initializer *initializer) {
  const char *kind = exported_kind(&evidence->exported, initializer->name);
  int bits = reached_initializer(evidence->model, &evidence->reach, (int)(initializer - evidence->model->initializers));
  int sources, last;
  bool folded;
  bool is_listed = exported_parameter(&evidence->exported, initializer->name) >= 0;
  TRY(exported_sources(&evidence->exported, initializer->name, &folded, &sources, &last));
  initializer->trains = initializer->is_buffer = false;
  if (!dtype_is_float(initializer->dtype)) {
    initializer->rule = "not float";
  } else if (bits & REACHES_STATISTICS) {
    initializer->rule = "0";
    initializer->is_buffer = true;
  } else if (initializer->constant) {
    initializer->rule = "1";
  } else if (kind || is_listed) {
    initializer->rule = "1";
    initializer->trains = !kind || strcmp(kind, "PARAMETER") == 0;
  } else if (folded && evidence->exported.n) {
    initializer->rule = "1f";
    initializer->trains = sources > 0;
  } else if (initializer->shape.rank == 0) {
    initializer->rule = "4";
  } else if (bits & REACHES_SLOT) {
    initializer->rule = "2";
    initializer->trains = true;
  } else if (bits & REACHES_BEHIND && !(bits & REACHES_ELEMENTWISE) &&
             name_is_given(evidence->model, initializer->name)) {
    initializer->rule = "4";
    initializer->trains = true;
  } else {
    initializer->rule = "3";
    initializer->trains = bits & REACHES_ELEMENTWISE && name_is_given(evidence->model, initializer->name);
  }
  if (initializer->in_node && initializer->trains)
    initializer->rule = "5";
  return OK;
}

static Status gather(Model *model, Arena *arena, Evidence *evidence) {
  evidence->model = model;
  TRY(exported_read(model, arena, &evidence->exported));
  return reach_find(model, arena, &evidence->reach);
}

/* --train and --freeze, which override what the rules say of float tensors; statistics stay what they are. */
static Status apply_globs(Model *model, const char *flag, const char *const *globs, int n, bool trains) {
  for (int g = 0; g < n; g++) {
    int matches = 0;
    for (int i = 0; i < model->n_initializers; i++) {
      Initializer *initializer = &model->initializers[i];
      if (fnmatch(globs[g], initializer->name, 0) != 0)
        continue;
      matches++;
      if (dtype_is_float(initializer->dtype) && strcmp(initializer->rule, "0") != 0) {
        initializer->trains = trains;
        initializer->rule = flag;
      }
    }
    if (!matches)
      return fail(E_USAGE, "%s '%s' matches no initializer of %s", flag, globs[g], model->path);
  }
  return OK;
}

static Status decide_all(Model *model, Arena *arena, Evidence *evidence) {
  TRY(gather(model, arena, evidence));
  for (int i = 0; i < model->n_initializers; i++)
    TRY(decide(evidence, &model->initializers[i]));
  return OK;
}

/* What was separated or restored is decided like the rest: a parameter by its name, a statistic by its use. */
static Status apply(Model *model, Arena *arena) {
  Evidence evidence = {0};
  bool changed;
  TRY(decide_all(model, arena, &evidence));
  TRY(separate(model, arena, &evidence.exported, &evidence.reach, &changed));
  if (!changed)
    return OK;
  TRY(decide_all(model, arena, &evidence));
  for (int i = model->n_file_initializers; i < model->n_initializers; i++)
    if (model->initializers[i].trains)
      model->initializers[i].rule = "6";
  return OK;
}

Status train_rules_apply(Model *model, const TrainOptions *options) {
  model->is_dynamo = is_dynamo_file(model->proto->graph);
  Arena *arena = arena_create();
  Status status = arena ? apply(model, arena) : status_code();
  arena_destroy(arena);
  if (status != OK || !options)
    return status;
  TRY(apply_globs(model, "--train", options->train, options->n_train, true));
  return apply_globs(model, "--freeze", options->freeze, options->n_freeze, false);
}
