/* What is said of a model's tensors before it trains. Invariant: whatever differs from "each initializer is a
 * parameter" is named. */
#include <string.h>

#include "base/text.h"
#include "graph/autodiff.h"
#include "graph/narrow.h"
#include "runtime/job/job.h"

TrainOptions job_train_options(const Options *options) {
  return (TrainOptions){.train = options->train.items,
                        .freeze = options->freeze.items,
                        .freeze_row = options->freeze_row.items,
                        .n_freeze_row = (int)options->freeze_row.n,
                        .n_train = (int)options->train.n,
                        .n_freeze = (int)options->freeze.n,
                        .no_tie = options->no_tie,
                        .batch_axis = options->batch_axis.items,
                        .n_batch_axis = (int)options->batch_axis.n};
}

enum { MOST_NAMES = 16 }; /* of what is held fixed: inspect lists them all */

/* A line of names, if there are any. The text is freed. */
static Status decide_names(Job *job, const char *what, Text *names, const char *why) {
  const char *whole = text_whole(names);
  Status status = !whole ? status_code() : *whole ? job_decide(job, what, "%s%s", whole, why) : OK;
  text_free(names);
  return status;
}

static void add_name(Text *names, const char *name) {
  text_add(names, "%s%s", names->length ? ", " : "", name);
}

static Status tell_ties(Job *job, const Initializer *table, int n) {
  for (int i = 0; i < n; i++)
    if (table[i].tied_to >= 0)
      TRY(job_decide(job, "tied", "%s = %s%s", table[i].name, table[table[i].tied_to].name,
                     table[i].tied_transposed ? " transposed" : ""));
  return OK;
}

/* A line for each initializer that the exporter had merged others into. */
static Status tell_splits(Job *job, const Initializer *table, int n) {
  Text *names;
  Status status = OK;
  TRY(ARENA_NEW(job->arena, names, n));
  for (int i = 0; i < n; i++)
    if (table[i].split_from >= 0)
      add_name(&names[table[i].split_from], table[i].name);
  for (int i = 0; i < n; i++) {
    const char *whole = text_whole(&names[i]);
    if (status == OK && !whole)
      status = status_code();
    else if (status == OK && *whole)
      status = job_decide(job, "split", "%s, which the exporter had merged into its equal %s", whole, table[i].name);
    text_free(&names[i]);
  }
  return status;
}

static Status tell_restored(Job *job, const Initializer *table, int n) {
  Text names = {0};
  for (int i = 0; i < n; i++)
    if (table[i].restored)
      add_name(&names, table[i].name);
  return decide_names(job, "restored", &names, ": zeros that the exporter had dropped");
}

static Status tell_absent(Job *job) {
  Text names = {0};
  int n;
  const char *const *absent = model_absent(job->given.model, &n);
  for (int i = 0; i < n; i++)
    add_name(&names, absent[i]);
  return decide_names(
      job, "not restored", &names,
      ": the exporter lists them, no node has them (dropped, folded, unused, or another name of a tied one)");
}

static Status tell_fixed(Job *job, const Initializer *table, int n) {
  static const struct {
    const char *rule, *why;
  } reasons[] = {{"0", "statistics (rule 0)"},
                 {"1", "no parameters, as the exporter recorded (rule 1)"},
                 {"1f", "folded from constants (rule 1f)"},
                 {"3", "neither a layer's weight nor an operand with a given name (rule 3)"},
                 {"4", "scalars (rule 4)"},
                 {"--freeze", "--freeze"}};
  for (size_t r = 0; r < sizeof reasons / sizeof *reasons; r++) {
    Text names = {0};
    int count = 0;
    for (int i = 0; i < n; i++)
      if (!table[i].trains && dtype_is_float(table[i].dtype) && strcmp(table[i].rule, reasons[r].rule) == 0 &&
          count++ < MOST_NAMES)
        add_name(&names, table[i].name);
    if (count > MOST_NAMES)
      text_add(&names, " and %d more", count - MOST_NAMES);
    if (count)
      text_add(&names, ": %s", reasons[r].why);
    bool is_kept = r == 0 && !job->asked.options->eval_mode; /* the steps write them */
    TRY(decide_names(job, is_kept ? "statistics" : "held fixed", &names, is_kept ? ", which the steps write" : ""));
  }
  return OK;
}

static Status tell_frozen_rows(Job *job, const Initializer *table) {
  int n;
  const FrozenRow *rows = model_frozen_rows(job->given.model, &n);
  for (int i = 0; i < n; i++)
    TRY(job_decide(job, "held fixed", "row %lld of %s: --freeze-row", (long long)rows[i].row,
                   table[rows[i].initializer].name));
  return OK;
}

/* Parameters that the loss does not depend on, and rows that get none. */
static Status tell_without_gradient(Job *job) {
  const Graph *graph = job->decided.graph;
  ValueId gradients[MAX_GROUPS];
  Text names = {0};
  for (ValueId v = 0; v < graph->n_values; v++)
    if (graph_value(graph, v)->role == ROLE_PARAMETER && !autodiff_gradients(graph, v, gradients))
      add_name(&names, graph_value(graph, v)->name);
  TRY(decide_names(job, "no gradient", &names, ": the loss does not depend on them"));
  for (size_t i = 0; i < graph->n_nodes; i++) {
    const Node *node = graph->nodes[i];
    int64_t row = node->op == OP_Gather ? node_int(node, "no_gradient_row", -1) : -1;
    if (row >= 0)
      TRY(job_decide(job, "no gradient", "row %lld of %s, through node %s (padding_idx)", (long long)row,
                     graph_value(graph, node->in[0])->name, node->name));
  }
  return OK;
}

/* What would train in another way than a person may think. */
static Status tell_doubts(Job *job) {
  const char *line;
  TRY(model_doubts(job->given.model, job->arena, &line));
  return line ? job_decide(job, "look at", "%s: onnxpipe inspect %s says more", line, model_path(job->given.model))
              : OK;
}

/* A line for each type that is too narrow to train in. */
static Status tell_narrow(Job *job, const Initializer *table, int n) {
  for (DType type = DTYPE_NONE + 1; type < DTYPE_COUNT; type++) {
    int64_t count = 0;
    for (int i = 0; i < n; i++)
      count += table[i].trains && table[i].stored == type && table[i].dtype != type;
    if (count)
      TRY(job_decide(job, "note", "%s tensor%s of %s: trained in %s, saved as %s", COUNT_STR(count),
                     count == 1 ? "" : "s", dtype_name(type), dtype_name(dtype_computed(type)), dtype_name(type)));
  }
  return OK;
}

/* Whose gradients are rows, and whether updates go over them, not over whole tables. */
static Status tell_rows(Job *job) {
  const Graph *graph = job->decided.graph;
  const OptimizerSpec *spec = &job->decided.optimizer;
  Text names[2] = {{0}};
  int count[2] = {0};
  for (ValueId v = 0; v < graph->n_values; v++) {
    const UseGroup *groups[MAX_GROUPS];
    int n = graph_value(graph, v)->role == ROLE_PARAMETER ? autodiff_groups(graph, v, groups) : 0, rows = 0;
    for (int k = 0; k < n; k++)
      rows += groups[k]->places != NO_VALUE;
    bool alone = rows == n && optimizer_updates_rows(spec);
    if (rows && count[alone]++ < MOST_NAMES)
      add_name(&names[alone], graph_value(graph, v)->name);
  }
  for (int i = 0; i < 2; i++)
    if (count[i] > MOST_NAMES)
      text_add(&names[i], " and %d more", count[i] - MOST_NAMES);
  if (!count[1] && optimizer_keeps(spec) == KEEP_ROWS)
    return job_decide(job, "note", "no table is looked up alone: all updates are adam's");
  TRY(decide_names(job, "rows", &names[1], ": gradients and updates of those alone that were looked up"));
  return decide_names(job, "rows", &names[0], ": gradients of those alone that were looked up");
}

Status job_tell_parameters(Job *job) {
  int n;
  const Initializer *table = model_initializers(job->given.model, &n);
  TRY(tell_ties(job, table, n));
  TRY(tell_splits(job, table, n));
  TRY(tell_restored(job, table, n));
  TRY(tell_absent(job));
  TRY(tell_fixed(job, table, n));
  TRY(tell_frozen_rows(job, table));
  TRY(tell_narrow(job, table, n));
  TRY(tell_rows(job));
  TRY(tell_doubts(job));
  return tell_without_gradient(job);
}
