/* Where the samples lie, value by value. The rules are the operators' (OpDef.batch); here they are applied, and proved:
 * a model that is bound at two sample counts, neither of them 1, gives two graphs of the same nodes, and what a rule
 * says of an axis has to hold in both. What differs between the two and no rule explains comes from how many samples
 * there are: it counts as mixed, and so does whatever is in doubt. */
#ifndef GRAPH_BATCH_H
#define GRAPH_BATCH_H

#include "graph/graph.h"

/* An axis that samples alone make up. */
static inline Batch batch_along(int axis) {
  return (Batch){.kind = BATCH_AXIS, .axis = axis, .outer = 1, .inner = 1};
}

/* Sets Value.batch of the node's outputs by its operator's rule, from its inputs'. */
Status batch_infer(Graph *graph, const Node *node);

/* Whether known integers grow from one sample to the next by the same step, `each` places along the axis being one
 * sample's; *batch says by which. */
bool batch_read_steps(const Value *value, int axis, int64_t each, Batch *batch);

/* Gives the value this batch, with its text copied. */
Status batch_copy(Graph *graph, ValueId value, const Batch *batch);

/* Sets Value.batch of everything in `graph` by rules and by comparison with `other`, the same model bound at another
 * number of samples (NULL: the batch is fixed, the rules alone decide). The batches of inputs are set already. */
Status batch_prove(Graph *graph, const Graph *other);

/* The same for a graph of any number of samples, 1 included, by what batch_prove has said of `proved`. Where its nodes
 * are others than those, all that follows is mixed. */
Status batch_transfer(const Graph *proved, const Graph *other, Graph *graph);

/* Whether the samples of a microbatch meet in the node though each stays in its place: batch normalisation by the
 * statistics of what is there. What comes out counts as sample by sample; who cuts a batch has to ask for this. */
bool batch_couples(const Graph *graph, const Node *node);

/* Tells the nodes that draw where their samples lie, when all is known of them. */
void batch_place_draws(Graph *graph);

/* What depends on the samples is mixed, for `why`: nothing could be proved. */
Status batch_doubt(Graph *graph, const char *why);

#endif
