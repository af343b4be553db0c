/* What torch's exporters leave in a file about where its tensors and nodes come from. Nobody outside onnx/ includes
 * this.
 *
 * The dynamo exporter lists every input of the exported program, records what each initializer was and from what it was
 * folded, and for each node the module and the call, with its arguments, that it comes from. The older exporter tells
 * modules by the names of nodes alone. */
#ifndef ONNX_FILE_EXPORTED_H
#define ONNX_FILE_EXPORTED_H

#include "onnx/file/internal.h"

/* The program that was exported. */
typedef struct {
  const Model *model;
  Arena *arena;
  NameMap infos;      /* value_info by name */
  NameMap modules;    /* paths that nodes' names have */
  NameMap inputs;     /* of the program, under both their names: 1 + the number of a PARAMETER, IS_CONSTANT, else 0 */
  const char **names; /* of its PARAMETERs, as PyTorch has them, in order */
  int n;              /* 0: the file does not tell */
} Exported;

/* All that the file tells; *exported is of `arena`. */
Status exported_read(const Model *model, Arena *arena, Exported *exported);

/* The number of the PARAMETER with this name, or -1. */
int exported_parameter(const Exported *exported, const char *name);

/* "PARAMETER", "BUFFER" … of an initializer; NULL where nothing is recorded. */
const char *exported_kind(const Exported *exported, const char *name);

/* Which PARAMETERs an initializer was folded from: how many, and the last one's number. *folded says whether it is
 * recorded to be folded from anything. */
Status exported_sources(const Exported *exported, const char *name, bool *folded, int *count, int *parameter);

/* Sets marks[p] for each of them. */
Status exported_mark_sources(const Exported *exported, const char *name, bool *marks);

/* The PARAMETERs among the arguments of the call that a node comes from, in order, at most `most`; their number. */
int exported_arguments(const Exported *exported, const Onnx__NodeProto *node, int *parameters, int most);

/* How many arguments of the call that a node comes from may be what other calls computed, of parameters perhaps: not
 * PARAMETERs, buffers or constants themselves, nor tensors just made (ones). */
int exported_computed(const Exported *exported, const Onnx__NodeProto *node);

/* Whether the call that a node comes from is recorded. */
bool exported_is_call(const Onnx__NodeProto *node);
/* Whether the call was one of these operators of PyTorch: "linear addmm". */
bool exported_calls(const Onnx__NodeProto *node, const char *operators);

/* The path of the module whose call made a node, in the arena; NULL where nobody tells. */
Status exported_module(const Exported *exported, const Onnx__NodeProto *node, const char **module);

/* Whether this is a lookup whose row *row gets no gradient (padding_idx). */
bool exported_padding(const Onnx__NodeProto *node, int64_t *row);

#endif
