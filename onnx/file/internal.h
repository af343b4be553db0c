/* What the files of this room share: an opened file. Nobody outside onnx/ includes this.
 *
 * Invariant: `proto` is a skeleton; the contents of large tensors stay in the mapped file (or in external files) and
 * `sources` says where. */
#ifndef ONNX_FILE_INTERNAL_H
#define ONNX_FILE_INTERNAL_H

#include <stdatomic.h>

#include "onnx.pb-c.h"

#include "base/mapped.h"
#include "onnx/file/contents.h"
#include "onnx/file/names.h"
#include "onnx/file/wire.h"

/* The newest opset of the default domain that this room knows. */
enum { OPSET_NEWEST = 28 };

/* Where the contents of one TensorProto lie. */
typedef struct {
  const Onnx__TensorProto *proto;
  int field;              /* TENSOR_RAW_DATA, TENSOR_FLOAT_DATA, …; raw for external data and empty tensors */
  const char *external;   /* location below the model's folder, checked, else NULL */
  bool in_file;           /* cut out of the skeleton: at `offset` of the model file */
  uint64_t offset, bytes; /* of external data or of the cut; bytes as they are stored */
} TensorSource;

/* A file of weights. */
typedef struct {
  const char *location; /* as the model says it */
  FileStamp stamp;
  int kept; /* descriptor, where the file lost its name since; else -1 */
} External;

/* What saving does with a node of the main graph: as the file has it, with the skeleton's inputs, not at all. */
typedef enum { NODE_KEPT, NODE_INPUTS, NODE_GONE } NodeChange;

struct Model {
  Arena *arena;
  const char *path;
  int descriptor;      /* of the file, for reading weights; -1 before it is open */
  FileStamp stamp;     /* of the file, when it was opened */
  const uint8_t *file; /* mapped, `file_bytes` long, or copied: then nothing else of the file is read */
  size_t file_bytes;
  Mapped mapped;
  bool copied;
  atomic_bool damaged; /* a view of the file or of an external one was */
  External *externals; /* those that were there when the model was opened */
  int n_externals;
  size_t externals_capacity;
  Onnx__ModelProto *proto;
  WireCut *cuts; /* see wire_cut_index */
  char hash[17];
  int64_t opset; /* of the default domain */

  Onnx__NodeProto **file_nodes; /* of the main graph, in file order */
  uint8_t *changes;             /* of each, see NodeChange */
  size_t n_file_nodes;

  /* Of the main graph, in file order; behind them those that lie in nodes, and those that were split or restored. */
  Initializer *initializers;
  TensorSource *sources; /* [n_initializers] */
  int n_initializers, n_file_initializers;
  FrozenRow *frozen_rows;
  int n_frozen_rows;
  const char **absent; /* see model_absent */
  int n_absent;
  NameMap initializer_names; /* → index */
  Map *in_nodes, *paths; /* 1 + index of those that lie in nodes, by their TensorProto and by their place in the file */

  ModelInput *inputs, *outputs; /* inputs without those that are initializers */
  int n_inputs, n_outputs;
  int64_t fixed_batch;
  size_t data_bytes;         /* of the model file and of the external files that are there, each once */
  double weight_bytes;       /* that the initializers claim, there or not */
  int64_t n_inlined;         /* nodes, once functions are inlined */
  bool is_dynamo;            /* torch's dynamo exporter wrote it */
  bool ties_unknown;         /* weights of candidates are absent */
  struct BatchProof *proofs; /* onnx/lower/batch.c: a list */
  Onnx__ModelProto *bodies;  /* onnx/lower/bodies.c: unpacked when they are first asked for */

  const Onnx__FunctionProto **functions; /* sorted, for model_function */
};

/* "gpt2.onnx: " for messages: status_context("%s: ", model->path) at every entry of the room, nowhere else. */

/* Puts "node 'h3/attn' (MatMul): " in front of the message; "node #12 (MatMul): " where it has no name. */
void proto_node_context(const Onnx__NodeProto *node, size_t index);

/* "" for an absent string. */
static inline const char *proto_text(const char *text) {
  return text ? text : "";
}
/* The default domain has two spellings; this gives "". */
const char *proto_domain(const char *domain);
/* Value of a key in metadata_props or external_data, or NULL. */
const char *proto_property(Onnx__StringStringEntryProto *const *properties, size_t n, const char *key);

/* How contents of ONNX's TensorProto.DataType are stored, and the type that they have in a graph; DTYPE_NONE where
 * there is none. */
DType stored_from_onnx(int32_t data_type);
DType dtype_from_onnx(int32_t data_type);
/* "FLOAT8E4M3FN", "STRING"…, or "type 99". */
const char *onnx_type_name(int32_t data_type);

/* Bits of a number where a byte holds several, read as int8 or uint8: 4, 2; else 0. */
int tensor_packed_bits(const Onnx__TensorProto *proto);

/* Dtype and shape of any TensorProto. E_MODEL, E_UNSUPPORTED (type, rank) naming the tensor and the numbers. */
Status tensor_describe(const Onnx__TensorProto *proto, DType *dtype, Shape *shape);

/* Where its contents lie; checks dims × type = bytes. The text of `source` lives in the arena. Reads no file. */
Status tensor_locate(const Model *model, const Onnx__TensorProto *proto, Arena *arena, TensorSource *source);

/* Bytes of the file in which external contents lie; 0 where it cannot be opened. */
size_t tensor_external_bytes(const Model *model, const TensorSource *source);

/* Copies the dense contents, `bytes` of them (those of the shape), into `data`. */
Status tensor_source_read(const Model *model, const TensorSource *source, void *data, size_t bytes);

/* The contents where they lie, without copying: mapped from the model file or an external one, or in the skeleton.
 * view->data is NULL where they are not stored as they are in memory. Fails as reading does. Release with tensor_unmap:
 * until then the pages that were looked at count as this process's memory. */
typedef struct {
  const void *data;
  Mapped mapped;
  atomic_bool *damaged; /* the model's: set where the view turns out to be */
} TensorView;
/* Opens the file of an external tensor, which must be what it was when the model was opened. */
Status tensor_open_external(const Model *model, const TensorSource *source, int *file);
Status tensor_map(const Model *model, const TensorSource *source, TensorView *view);
void tensor_unmap(TensorView *view);

/* Dtype, shape and dense contents (in the arena) of any TensorProto of the file: initializers and Constant nodes, raw,
 * typed fields, cut out or external; in the type that they are computed in. */
Status tensor_read(const Model *model, const Onnx__TensorProto *proto, Arena *arena, DType *dtype, Shape *shape,
                   const void **data);

/* Index of the main graph's initializer with this name, or -1. */
int model_find_initializer(const Model *model, const char *name);

/* Weights that lie in Constant nodes or in branches (see weights_in_nodes.c), into the table, which has room for what
 * was counted. */
Status count_weights_in_nodes(const Model *model, int *n);
Status list_weights_in_nodes(Model *model);
/* The initializer that this tensor of a node or a branch is, or -1. */
int initializer_in_node(const Model *model, const Onnx__TensorProto *proto);
int initializer_in_attribute(const Model *model, const Onnx__AttributeProto *attribute);
/* A message's place in the file: for each message on the way, its field number and which one of that number it is. */
enum { PATH_STEPS = 2 * (WIRE_NESTING + 2) };
typedef struct {
  uint32_t steps[PATH_STEPS];
  size_t n;
} WirePath;
int initializer_at_path(const Model *model, const WirePath *path);

/* The local function that this node calls, or NULL. */
const Onnx__FunctionProto *model_function(const Model *model, const Onnx__NodeProto *node);

/* Whether an exporter made this name up, as far as one can tell: empty, digits, "::", a leading "/", "_output_<n>",
 * and in a file of the dynamo exporter one without a dot. */
bool name_is_given(const Model *model, const char *name);

/* The steps of opening, in this order: each takes what those before it filled in. */

/* Maps the file, or copies a small one. model_unmap undoes it, and is fine where it was not. */
Status model_map(Model *model);
void model_unmap(Model *model);
/* Takes down what an external file is now, where it is there: from then on it may not change. */
Status model_note_external(Model *model, const TensorSource *source);
/* NULL where there was none when the model was opened. */
External *model_find_external(const Model *model, const char *location);
/* Whether what was read of the model file and through views is what was there when it was opened: E_IO. */
Status model_sound(const Model *model);
/* proto, cuts and opset: the skeleton, of an IR and opset version that this room knows. model_unmap frees it. */
Status model_unpack(Model *model);
/* Name, type, shape and place of every initializer; which of them train is decided later. */
Status model_list_initializers(Model *model);
/* Puts nodes that stand before the makers of what they read behind these; the others keep their order. */
Status nodes_sort(Arena *arena, Onnx__NodeProto **nodes, size_t n);

/* Sorts nodes, then checks: SSA over graph, subgraphs and functions; inputs defined, no cycle; functions that do not
 * call themselves. Fills model->functions. */
Status model_check(Model *model);

/* Inputs and outputs, and which of their axes is the batch. E_USAGE for --batch-axis. */
Status model_list_ends(Model *model, const TrainOptions *options);
/* The second half of it: which axis of each input counts samples; fills fixed_batch. */
Status samples_find(Model *model, const TrainOptions *options);
/* model->hash. */
Status model_take_hash(Model *model);
/* Decides for every initializer whether it trains and by which rule; fills trains and rule. */
Status train_rules_apply(Model *model, const TrainOptions *options);

/* Finds trained tensors that the exporter wrote once for each sample of a fixed batch (fills copies, shape); reads
 * their contents. Leaves them alone where these are absent. */
Status copies_find(Model *model);
/* Bytes of an initializer as the file has it, copies and all. */
size_t initializer_file_bytes(const Model *model, int initializer);
/* Its contents in the type that they are computed in, one copy. */
Status initializer_read(const Model *model, int initializer, void *data);

/* Finds ties among trained tensors (fills tied_to and tied_transposed); reads the weights of candidates. Leaves them
 * alone where weights are absent. */
Status ties_find(Model *model);
/* --freeze-row: fills frozen_rows, of owners where tensors are tied. E_USAGE on what names no row that trains. */
Status frozen_rows_take(Model *model, const TrainOptions *options);

#endif
