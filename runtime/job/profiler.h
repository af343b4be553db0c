/* Measures what nodes take on a backend, so that the planner cuts by seconds of this machine and not by its model. */
#ifndef RUNTIME_JOB_PROFILER_H
#define RUNTIME_JOB_PROFILER_H

#include "backend/backend.h"

/* node_seconds [graph->n_nodes]: seconds of one call of each node; negative: unknown. Nodes that are alike (operator,
 * attributes, types, shapes) are measured once, on made-up contents. Those that weigh most by the roofline of the
 * device come first; what does not fit in budget_seconds, in memory, or what the made-up contents make fail stays
 * unknown. Views take 0. Node workspaces are set (Node.workspace_bytes). Fails E_MEMORY and as the backend's device
 * does. */
Status profile_nodes(const Graph *graph, const Backend *backend, int device, int threads, double budget_seconds,
                     double *node_seconds);

#endif
