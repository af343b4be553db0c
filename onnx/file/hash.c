/* A model's hash: two files of one hash differ in trained weights at most. */
#include <stdio.h>

#include "onnx/file/internal.h"

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
Status model_take_hash(Model *model) {
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

const char *model_hash(const Model *model) {
  return model->hash;
}
