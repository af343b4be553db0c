/* The model's own loss, for graph/loss.c alone. */
#ifndef GRAPH_LOSS_MODEL_H
#define GRAPH_LOSS_MODEL_H

#include "graph/loss.h"

/* Makes graph->loss_sum of spec->output and fills graph->denominators. Fails E_SHAPE where the output is no number,
 * E_UNSUPPORTED, naming the node, where spec->microbatches > 1 and the output is not linear in means over samples. */
Status loss_append_model(Graph *graph, LossSpec *spec);

#endif
