/* Measured times by operator. Invariant: the shares add up to what was measured; what was not is counted apart. */
#include "runtime/measure.h"

#include <stdlib.h>
#include <string.h>

#include "graph/op.h"
#include "runtime/costs/costs.h"

enum { BUDGET_SECONDS = 10 };

typedef struct {
  OpKind op;
  int nodes, unknown;
  double seconds;
  Cost cost; /* of those that are known */
} Row;

static int by_seconds(const void *a, const void *b) {
  const Row *x = a, *y = b;
  return x->seconds != y->seconds ? (x->seconds < y->seconds ? 1 : -1)
                                  : strcmp(op_def(x->op)->name, op_def(y->op)->name);
}

static void add_up(const Graph *graph, const double *seconds, Row rows[OP_COUNT]) {
  for (int op = 0; op < OP_COUNT; op++)
    rows[op] = (Row){.op = (OpKind)op};
  for (size_t i = 0; i < graph->n_nodes; i++) {
    Row *row = &rows[graph->nodes[i]->op];
    row->nodes++;
    if (seconds[i] < 0) {
      row->unknown++;
      continue;
    }
    Cost cost = op_cost(graph, graph->nodes[i]);
    row->seconds += seconds[i];
    row->cost.flops += cost.flops;
    row->cost.bytes += cost.bytes;
  }
}

static void print_rows(const Job *job, const Row rows[OP_COUNT], FILE *out) {
  double all = 0;
  for (int i = 0; i < OP_COUNT; i++)
    all += rows[i].seconds;
  fprintf(out, "%-28s %6s %10s %6s %9s %8s\n", "operator", "nodes", "ms", "share", "Gflop/s", "GB/s");
  for (int i = 0; i < OP_COUNT; i++) {
    const Row *row = &rows[i];
    if (!row->nodes || (row->seconds == 0 && !row->unknown))
      continue; /* views */
    double per_second = row->seconds > 0 ? 1e-9 / row->seconds : 0;
    fprintf(out, "%-28s %6d %10.3f %5.1f%% %9.2f %8.2f", op_def(row->op)->name, row->nodes, 1e3 * row->seconds,
            all > 0 ? 100 * row->seconds / all : 0, row->cost.flops * per_second, row->cost.bytes * per_second);
    if (row->unknown)
      fprintf(out, "  %d not measured", row->unknown);
    fprintf(out, "\n");
  }
  fprintf(out, "%.3f ms: one microbatch of %lld forward and backward, and one update, on one rank\n", 1e3 * all,
          (long long)job->decided.microbatch_size);
}

Status measure_run(Job *job, FILE *out) {
  Row rows[OP_COUNT];
  Costs *costs;
  job->decided.pins = true; /* as training has it */
  TRY(job_open(job));
  TRY(job_bind(job));
  TRY(job_differentiate(job));
  TRY(job_plan(job, NULL));
  TRY(costs_measure(job, NULL, BUDGET_SECONDS, true, &costs));
  TRY(costs_tell(job, costs));
  add_up(job->decided.graph, costs->planned.profiles[0].node_seconds, rows);
  qsort(rows, OP_COUNT, sizeof *rows, by_seconds);
  if (!job->asked.options->quiet)
    TRY(job_print(job, out));
  print_rows(job, rows, out);
  return OK;
}
