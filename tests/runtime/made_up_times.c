/* In place of what executors measure (linked with --wrap): what a stage takes follows from its nodes alone, and is not
 * what was planned, on any machine: a node of the model's first quarter takes a hundred times what another does. Each
 * rank has a core to itself. */
#include "runtime/executor/internal.h"

enum { MOST = 16 };

double __wrap_costs_capacity(const void *job);
void __wrap_executor_stage_seconds(const Executor *e, double *seconds);

double __wrap_costs_capacity(const void *job) {
  (void)job;
  return 0;
}

static bool is_forward(const Node *node) {
  return node->phase == PHASE_F && !node->again;
}

static double step_seconds(const Graph *g, int stage) {
  double seconds = 0;
  size_t n = 0, at = 0;
  for (size_t i = 0; i < g->n_nodes; i++)
    n += is_forward(g->nodes[i]);
  for (size_t i = 0; i < g->n_nodes; i++) {
    bool early = at < n / 4;
    at += is_forward(g->nodes[i]);
    if (is_forward(g->nodes[i]) && g->nodes[i]->stage == stage)
      seconds += early ? 1e-3 : 1e-5;
  }
  return seconds;
}

void __wrap_executor_stage_seconds(const Executor *e, double *seconds) {
  static double taken[MOST][MOST]; /* [rank][stage]: each rank has a thread */
  const Plan *plan = e->spec.plan;
  int rank = e->spec.rank;
  for (int s = 0; s < plan->stages; s++) {
    if (plan->schedule.rank_of_stage[s] == rank)
      taken[rank][s] += step_seconds(plan->graph, s);
    seconds[s] = taken[rank][s];
  }
}
