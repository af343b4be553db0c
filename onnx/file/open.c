/* From bytes to a skeleton. Invariant: protobuf-c sees only what the wire scanner has let pass. */
#include <stdlib.h>
#include <string.h>

#include "onnx/file/internal.h"

enum { IR_OLDEST = 3, IR_NEWEST = 14, TEXT_PROBE = 512 };

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

/* Where the contents of large tensors were cut out. */
static Status unpack_skeleton(Model *model) {
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
    if (model->opset && model->opset != opset->version)
      return fail(E_MODEL, "imports the default opset twice: %lld and %lld", (long long)model->opset,
                  (long long)opset->version);
    if (opset->version < 1)
      return fail(E_MODEL, "imports opset %lld", (long long)opset->version);
    if (opset->version > OPSET_NEWEST)
      return fail(E_UNSUPPORTED, "opset %lld; at most %d is supported", (long long)opset->version, OPSET_NEWEST);
    model->opset = opset->version;
  }
  return model->opset || proto->n_opset_import ? OK : fail(E_MODEL, "imports no version of the default opset");
}

/* The nodes as they stand in the file, whatever becomes of the skeleton. */
static Status note_nodes(Model *model) {
  const Onnx__GraphProto *graph = model->proto->graph;
  model->n_file_nodes = graph->n_node;
  TRY(ARENA_NEW(model->arena, model->file_nodes, graph->n_node));
  TRY(ARENA_NEW(model->arena, model->changes, graph->n_node));
  if (graph->n_node)
    memcpy(model->file_nodes, graph->node, graph->n_node * sizeof *graph->node);
  return OK;
}

Status model_unpack(Model *model) {
  TRY(unpack_skeleton(model));
  TRY(check_versions(model));
  return note_nodes(model);
}

const char *model_path(const Model *model) {
  return model->path;
}
