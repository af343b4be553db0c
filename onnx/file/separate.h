/* Parameters that the exporter merged into one initializer, or dropped, for they were equal or zero when the model was
 * exported: each becomes a tensor of its own again. Nobody outside onnx/ includes this. */
#ifndef ONNX_FILE_SEPARATE_H
#define ONNX_FILE_SEPARATE_H

#include "onnx/file/edit.h"
#include "onnx/file/exported.h"
#include "onnx/file/reach.h"

/* What is known of the file. Decisions of the rules stand in the model's table. */
typedef struct {
  Edit edit;
  const Exported *exported;
  const Reach *reach;
  int *holder;         /* [PARAMETERs]: the initializer that is it; -1: none is */
  bool *folded;        /* [PARAMETERs]: in a tensor that was folded from it */
  bool *restored;      /* [PARAMETERs] */
  NameMap modules;     /* the last PARAMETER of each */
  int *before;         /* [PARAMETERs]: the one before it in its module, or -1 */
  int *kinds;          /* [initializers of the file]: 1 + of the slots that its uses fill, 0 not asked */
  uint8_t *constants;  /* [initializers of the file]: 1 no, 2 yes, 0 not asked */
  int *constant_twins; /* [initializers of the file]: what of it is no PARAMETER; 0: nothing */
  NameMap called;      /* PARAMETERs that some node's call has */
  NameMap makers;      /* of values: nodes, in file order */
} Separation;

/* Separates and restores; *changed says whether there was anything to do. */
Status separate(Model *model, Arena *arena, const Exported *exported, const Reach *reach, bool *changed);

/* Second part: what was dropped. */
Status restore_dropped(Separation *separation);
/* Third: what is nowhere even so. */
Status list_absent(Separation *separation);

/* The PARAMETERs that a node's call or module has, in order, at most `most`; their number. */
Status separate_candidates(const Separation *separation, const Onnx__NodeProto *node, int *parameters, int most,
                           int *n);

#endif
