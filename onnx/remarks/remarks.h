/* What a person should know about a file before it trains: the findings of `inspect`. Each has an id that
 * docs/findings.md explains. Invariant: what is found follows from the file and from what opening it decided; nothing
 * is decided here. */
#ifndef ONNX_REMARKS_REMARKS_H
#define ONNX_REMARKS_REMARKS_H

#include "onnx/file/exported.h"
#include "onnx/file/internal.h"
#include "onnx/file/reach.h"

typedef struct {
  const char *id, *tensor, *text;
  bool wrong; /* probably not what a person wants: `train` says it, too */
} Remark;

typedef struct {
  Arena *arena;
  Remark *list;
  size_t n, capacity;
} Remarks;

/* Appends one; its text is copied. `id` is one of the table. A text of NULL: memory was out for it. */
Status remark(Remarks *remarks, const char *id, const char *tensor, const char *text);

/* Everything that the file tells, in this order: what it takes and gives, nodes, parameters, weights. */
Status remarks_find(Model *model, Remarks *remarks);

/* ---- the parts ---- */

typedef struct {
  Model *model;
  Remarks *remarks;
  Exported exported;
  Reach reach;    /* of the main graph */
  NameMap used;   /* names that nodes read, anywhere in the graph, and outputs */
  NameMap makers; /* 1 + the node of the main graph that makes a value */
} Look;

/* "why" of printf's format, in the arena; NULL where memory is out. */
#define LOOK_TEXT(look, ...) arena_format((look)->remarks->arena, __VA_ARGS__)

/* Each appends what one kind of evidence tells. */
Status look_at_interface(Look *look);
Status look_at_nodes(Look *look);
Status look_at_parameters(Look *look);
Status look_at_weights(Look *look);

/* The number of an integer attribute; 0 where it is absent. */
int64_t look_int(const Onnx__NodeProto *node, const char *name);
/* The node's name, or its first output's. */
const char *look_name(const Onnx__NodeProto *node);

#endif
