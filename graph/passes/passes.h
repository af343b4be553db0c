/* What rewrites a graph as a whole, before it is cut: one file a pass. */
#ifndef GRAPH_PASSES_PASSES_H
#define GRAPH_PASSES_PASSES_H

#include "graph/op.h"
#include "graph/passes/match.h"

/* What stands for a node that makes one value, or, as one operator, for one that makes none: an operator over values
 * before it, or, where `emit` is set, what that makes of them. */
typedef struct Instead {
  OpKind op;
  const ValueId *in; /* of the graph that is rewritten */
  int n_in;
  const Attr *attrs;
  int n_attrs;
  /* Emits forward nodes to `graph`, where in [n_in] are the values: *out takes the place of the node's, of its type and
   * shape; it may be one of `in`. Emits the same nodes whatever the contents of `in` are. */
  Status (*emit)(Graph *graph, const struct Instead *instead, const ValueId *in, ValueId *out);
  /* Other nodes that vanish, and values of theirs that `emit` makes, too: out[1 …]. Nothing but such nodes, what stands
   * here and the graph's outputs reads what else they make. */
  const NodeId *absorbed;
  int n_absorbed;
  const ValueId *gives;
  int n_gives;
} Instead;

enum { MOST_GIVEN = 4 };

/* What the outputs need, in order, in a fresh graph; of a training graph also what the loss, the accumulators and the
 * updates need, and its groups, phases and denominators. map [n_values], from's values to their copies, NO_VALUE where
 * there is none; NULL: not asked for. */
Status graph_copy(const Graph *from, Arena *arena, ValueId *map, Graph **to);

/* The same, where something stands for some nodes: instead [n_nodes], NULL for a node that stays what it is. How many
 * they are is kept in to->passes under the pass's name. */
Status graph_replace(const Graph *from, const char *pass, const Instead *const *instead, Arena *arena, ValueId *map,
                     Graph **to);

/* "gelu 8, attention 8": what passes found, and how often; "nothing". */
Status graph_passes_text(const Graph *graph, Arena *arena, const char **text);

/* *instead: `what` over in [what.n_in], a copy with its attributes in the graph's arena. */
Status instead_make(const Graph *graph, Instead what, const ValueId *in, const Instead **instead);

/* Emits what stands for a node. */
Status instead_emit(Graph *graph, const Instead *instead, const ValueId *in, ValueId *out);

/* A pass: where a node is the root of one of its patterns, what stands for it, the first pattern that matches; or a
 * function that no table says. */
typedef struct {
  const char *name;
  const Rewrite *rewrites;
  int n;
  Status (*find)(const Graph *graph,
                 const Instead **instead); /* instead [n_nodes], NULL at first; NULL: by the table */
} Pass;

/* GELUs that are spelled out. */
extern const Pass pass_gelu;
/* SiLUs and quick GELUs. */
extern const Pass pass_swish;
/* SiLUs that gate. */
extern const Pass pass_swiglu;

/* Layer and root-mean-square normalisations that are spelled out; the scale, the bias behind one. */
extern const Pass pass_norm, pass_norm_scale, pass_norm_bias;

/* Rotary positions that are spelled out. */
extern const Pass pass_rotary;

/* Attention that is spelled out; what it reads and writes where products have it. */
extern const Pass pass_attention, pass_attention_rows;

/* Vectors that are added to products. */
extern const Pass pass_bias;

/* Logarithms of softmax. */
extern const Pass pass_log_softmax;

/* What changes nothing; what is computed twice. */
extern const Pass pass_unchanged, pass_twice;

/* Of a graph that is not differentiated any more: GELUs of products. Of a training graph: products with a GELU's
 * gradient behind. */
extern const Pass pass_product_gelu, pass_product_slope;
/* Sums of products and what is like them, with the product; of either graph, after these. */
extern const Pass pass_product_add;

/* Of a training graph: products into accumulators. */
extern const Pass pass_accumulate;
/* Of a training graph: a residual's gradient with that of the norm that it goes past. */
extern const Pass pass_residual;
/* Of one whose products are accumulated: the last product with the cross entropy of its rows, where these are many. */
extern const Pass pass_head;

/* Stores in bfloat16 what is float32 and follows from samples and parameters: activations, the products, norms, lookups
 * and what is made of them, and cotangents. Parameters, their gradients, statistics, sums over axes, what leads from
 * the last product to the loss, outputs of a graph without a loss, and what no parameter reaches (masks, positions)
 * stay float32. Sets the values' types, the last pass over a graph. All of it or nothing, where `takes` refuses a node:
 * *stored. */
Status graph_store_narrow(Graph *graph, Takes *takes, const void *context, bool *stored);

/* How often each value is read, or is an output: uses [n_values], of the graph's arena. */
Status graph_uses(const Graph *graph, int **uses);

/* All that fuse nodes, in order, NULL at the end. */
extern const Pass *const fusing_passes[];

/* The copy after one pass. A rewrite is left out where `takes` refuses a node that it or its gradient makes, since all
 * ranks run the one graph; NULL: it refuses none. */
Status graph_rewrite(const Graph *from, const Pass *pass, Takes *takes, const void *context, Arena *arena, ValueId *map,
                     Graph **to);

/* Whether a rewrite that is possible is done. Asked of every node by every pass, in order. */
typedef Status Settle(void *context, bool possible, bool *does);

/* The copy after all passes that fuse nodes. settle: NULL: what is possible is done. */
Status graph_fuse(const Graph *from, Takes *takes, const void *context, Settle *settle, void *settle_context,
                  Arena *arena, Graph **to);

#endif
