/* Weights that products multiply as bfloat16 numbers: what is stored of them is float32. A backend that rounds them
 * each time (it packs them anyway) needs nothing of this; on others a rank keeps, beside the weight, what it rounds to,
 * which the update writes in the same pass, and products read that. It is no value of the graph: never saved, and made
 * anew from the weight wherever that has changed otherwise. */
#ifndef GRAPH_ROUNDED_H
#define GRAPH_ROUNDED_H

#include "graph/graph.h"

/* Finds, after types and precisions are settled, the parameters and constants of the file that products round, and
 * views of them; on this backend of the run their ranks keep what they round to. */
void graph_keep_rounded(Graph *graph, int backend);

/* Whether the node, a product, has input k in bfloat16 where it is float32. */
bool node_rounds(const Graph *graph, const Node *node, int k);

/* Whether a rank that has such a product keeps what the value rounds to. */
bool graph_is_rounded(const Graph *graph, ValueId value, int rank);

/* What the value is a view of, or it itself. */
ValueId graph_viewed(const Graph *graph, ValueId value);

#endif
