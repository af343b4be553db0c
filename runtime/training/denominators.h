/* The numbers of targets that a model's own loss divides by (graph->denominators), counted over the whole batch before
 * a step: the nodes between inputs and counts run on the host, once a microbatch. */
#ifndef RUNTIME_TRAINING_DENOMINATORS_H
#define RUNTIME_TRAINING_DENOMINATORS_H

#include "graph/graph.h"
#include "runtime/executor/executor.h"

typedef struct {
  const Graph *graph;
  NodeId *nodes; /* what the counts need, in graph order */
  int n_nodes;
  ValueId *inputs; /* fed */
  int n_inputs;
  void **memory;  /* [graph->n_values]; NULL: not needed here */
  double *totals; /* [graph->n_denominators] */
} Denominators;

/* Everything lives in the arena. Fails E_UNSUPPORTED where a count depends on more than inputs and known constants,
 * naming the value. A graph without denominators gives an empty one. */
Status denominators_create(Arena *arena, const Graph *graph, Denominators *d);
/* Fills totals for the batch at hand: the sum over microbatches / microbatches. Fails E_MODEL where it is 0. */
Status denominators_count(Denominators *d, int microbatches, Feed *feed, void *context);

#endif
