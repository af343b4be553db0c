/* What the attention pass knows of one, between finding and making it. */
#ifndef GRAPH_PASSES_ATTENTION_H
#define GRAPH_PASSES_ATTENTION_H

#include "graph/passes/passes.h"

/* What is as small, beside other scores, weighs nothing: exporters write finfo.min, -1e9 or minus infinity. */
#define ATTENTION_BLOCKED -1e9

enum { MOST_MASKS = 4 };

typedef enum { MASK_ALLOWED, MASK_FORBIDDEN, MASK_ADDED, MASK_SUBTRACTED } MaskKind;

typedef struct {
  MaskKind kind;
  ValueId value;
  double fill; /* of the first two: the score of what is not seen */
  Shape level; /* the shape of the scores where it is applied */
} FoundMask;

typedef struct {
  Instead instead;
  double scale;
  int64_t left, right;        /* INT64_MAX: without an end */
  ValueId in[3];              /* what Q, K and V are made of: */
  int n_perm[3];              /* axes of which are reordered first, 0: none */
  int64_t perm[3][MAX_RANK];  /* so */
  Shape shape[3];             /* and which have this shape then */
  Shape product, weights;     /* of Q K'; of what is multiplied with V */
  Shape scores, result;       /* [B,Hq,T,S]; what comes out */
  FoundMask mask[MOST_MASKS]; /* n_masks of them */
  int n_masks;
  ValueId blind;     /* which rows give 0; NO_VALUE: no such condition */
  Shape blind_level; /* the weights' shape where it is asked */
  int nan_uses;      /* of the weights, by the question where they are no numbers */
  const Node *drop;  /* the Dropout of weights; NULL: there is none */
} AttentionFound;

/* What the last mask that was looked at says: layers share theirs, and it is long. */
typedef struct {
  ValueId value; /* NO_VALUE: none was */
  MaskKind kind;
  Shape scores;
  bool bounds; /* it is left and right */
  int64_t left, right;
} MaskRead;

/* Constant masks that say no more than where a key stands become left and right. */
void attention_read_masks(const Graph *graph, AttentionFound *found, MaskRead *last);

/* Fills found->instead. The arena is the graph's. */
Status attention_instead(const Graph *graph, AttentionFound *found);

#endif
