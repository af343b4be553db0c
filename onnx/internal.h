/* What the files of this room share: an opened file. Nobody outside onnx/ includes this.
 *
 * Invariant: `proto` is a skeleton; the contents of large tensors stay in the mapped file (or in external files) and
 * `sources` says where. */
#ifndef ONNX_INTERNAL_H
#define ONNX_INTERNAL_H

#include "onnx.pb-c.h"

#include "onnx/model.h"

/* Tensors whose raw_data is longer than this are cut out of the skeleton and found through an index. */
enum { SKELETON_RAW_BYTES = 1024 };

/* Where the contents of one TensorProto lie. */
typedef struct {
  const Onnx__TensorProto *proto;
  const char *external; /* full, checked path of the external file, else NULL */
  uint64_t offset;      /* in the external file, or of raw_data in the model file where it was cut out */
  uint64_t bytes;       /* 0 where the contents are in `proto` itself */
} TensorSource;

struct Model {
  Arena *arena;
  const char *path;
  const uint8_t *file; /* mapped, `file_bytes` long */
  size_t file_bytes;
  Onnx__ModelProto *proto;
  char hash[17];
  int64_t opset; /* of the default domain */

  Initializer *initializers; /* of the main graph, in file order */
  TensorSource *sources;     /* [n_initializers] */
  int n_initializers;
  TensorSource *cut_out; /* every other tensor that was cut out of the skeleton, sorted by proto */
  int n_cut_out;

  ModelInput *inputs, *outputs; /* inputs without those that are initializers */
  int n_inputs, n_outputs;
  int64_t fixed_batch;
};

/* "gpt2.onnx: " for messages: status_context("%s: ", model->path) at every entry of the room, nowhere else. */

/* The type of this room's graph for ONNX's TensorProto.DataType; DTYPE_NONE where there is none. */
DType dtype_from_onnx(int32_t data_type);

/* Dtype, shape and dense contents (in the arena) of any TensorProto of the file: initializers and Constant nodes, raw,
 * typed fields or cut out; checks dims × type = bytes. E_MODEL, E_UNSUPPORTED (type) naming the tensor and the numbers.
 */
Status tensor_read(const Model *model, const Onnx__TensorProto *proto, Arena *arena, DType *dtype, Shape *shape,
                   const void **data);

/* Dtype and shape alone. */
Status tensor_describe(const Onnx__TensorProto *proto, DType *dtype, Shape *shape);

/* Index of the main graph's initializer with this name, or -1. */
int model_find_initializer(const Model *model, const char *name);

/* Decides for every initializer whether it trains and by which rule; fills trains and rule. */
Status train_rules_apply(Model *model, const TrainOptions *options);

/* Finds ties among trained tensors (fills tied_to and tied_transposed); reads the weights of candidates. Leaves them
 * alone where weights are absent. */
Status ties_find(Model *model);

#endif
