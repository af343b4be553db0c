/* A plan for people. Invariant: no line is wider than asked, and no name from a model file reaches the terminal with
 * control characters. */
#include <math.h>
#include <string.h>

#include "partitioner/report/grid.h"
#include "partitioner/report/plan_report.h"

enum { CELL = 24 };

static char *seconds_text(double seconds, char text[CELL]) {
  if (seconds >= 100)
    snprintf(text, CELL, "%.0f s", seconds);
  else if (seconds >= 1)
    snprintf(text, CELL, "%.3g s", seconds);
  else if (seconds >= 1e-3)
    snprintf(text, CELL, "%.3g ms", seconds * 1e3);
  else
    snprintf(text, CELL, seconds > 0 ? "%.3g us" : "0", seconds * 1e6);
  return text;
}

/* A name in at most `width` characters, the middle replaced by an ellipsis where it is longer. */
static void add_name(const char *name, int width, Text *text) {
  int length = 0, at = 0;
  for (const char *c = name; *c; c++)
    length += (*c & 0xc0) != 0x80;
  int head = length > width ? (width - 1) / 2 : length, tail = length > width ? width - 1 - head : 0;
  for (const char *c = name; *c; c++) {
    at += (*c & 0xc0) != 0x80; /* bytes that continue a character belong to it */
    if (at == head + 1 && (*c & 0xc0) != 0x80 && length > width)
      text_add_string(text, "…");
    if (at <= head || at > length - tail)
      text_add_char(text, (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c);
  }
}

static void add_stages(const Plan *plan, Text *text, int columns) {
  enum { FIXED = 5 + 5 + 6 + 3 * 9 + 3 * 10 + 2 };
  int name = columns - FIXED - 3 - (plan->again ? 9 : 0); /* for "first … last" */
  text_add(text, "%5s%5s%6s%9s%9s%9s", "stage", "rank", "nodes", "F", "B", "W");
  if (plan->again)
    text_add(text, "%9s", "again");
  text_add(text, "%10s%10s%10s", "weights", "up", "down");
  text_add_string(text, name >= 12 ? "  first … last\n" : "\n");
  for (int s = 0; s < plan->stages; s++) {
    const StageReport *r = &plan->reports[s];
    char f[CELL], b[CELL], w[CELL], again[CELL], parameters[CELL], up[CELL], down[CELL];
    size_t sends_down = s > 0 ? plan->reports[s - 1].cut_backward_bytes : 0;
    text_add(text, "%5d%5d%6d%9s%9s%9s", s, plan->schedule.rank_of_stage[s], r->n_nodes,
             seconds_text(r->forward_seconds, f), seconds_text(r->backward_input_seconds, b),
             seconds_text(r->backward_weight_seconds, w));
    if (plan->again)
      text_add(text, "%9s", seconds_text(r->again_seconds, again));
    text_add(text, "%10s%10s%10s", plan_bytes_text(r->parameter_bytes, parameters),
             plan_bytes_text(r->cut_forward_bytes, up), plan_bytes_text(sends_down, down));
    if (name >= 12) {
      text_add_string(text, "  ");
      add_name(r->first_node, name / 2, text);
      text_add_string(text, " … ");
      add_name(r->last_node, name / 2, text);
    }
    text_add_char(text, '\n');
  }
}

/* Of states, on all ranks together. */
static size_t host_bytes(const Plan *plan) {
  size_t sum = 0;
  for (int r = 0; r < plan->ranks; r++)
    sum += plan->rank_memory[r].host_bytes;
  return sum;
}

static void add_memory(const Plan *plan, Text *text) {
  bool offloads = host_bytes(plan) > 0;
  text_add(text, "%5s%10s%10s%10s%10s%10s%10s%10s%s%s\n", "rank", "weights", "gradients", "optimizer", "constants",
           "kept", "temporary", "in all", offloads ? "   on host" : "", plan->again ? "    spared" : "");
  for (int r = 0; r < plan->ranks; r++) {
    const RankMemory *m = &plan->rank_memory[r];
    size_t bytes[] = {m->parameter_bytes,  m->gradient_bytes, m->state_bytes, m->constant_bytes,
                      m->activation_bytes, m->scratch_bytes,  m->total_bytes};
    char cell[CELL];
    text_add(text, "%5d", r);
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
      text_add(text, "%10s", plan_bytes_text(bytes[i], cell));
    if (offloads)
      text_add(text, "%10s", plan_bytes_text(m->host_bytes, cell));
    if (plan->again)
      text_add(text, "%10s", plan_bytes_text(plan->spared_bytes[r], cell));
    text_add_char(text, '\n');
  }
}

static Status print_grid(const Plan *plan, Arena *arena, FILE *file, int columns, bool colours) {
  Timing timing;
  Simulation simulation;
  TRY(plan_timing(arena, plan, &timing));
  TRY(simulate_schedule(arena, &plan->schedule, &timing, &simulation));
  return grid_print(&plan->schedule, &simulation, file, columns, colours);
}

/* Line by line, so that every line can be held to the width: tables are written at their own. */
static void copy_narrow(const char *text, FILE *file, int columns) {
  while (*text) {
    int at = 0;
    for (; *text && *text != '\n'; text++) {
      at += (*text & 0xc0) != 0x80;
      if (at <= columns)
        fputc(*text, file);
    }
    fputc('\n', file);
    text += *text == '\n';
  }
}

/* Peaks of what processes hold: of one whose threads are the ranks, of one a rank. */
static void add_process(const Plan *plan, Text *text) {
  size_t sum = plan->process.beside_bytes, most = 0;
  char cell[2][CELL];
  if (plan->process.device_bytes) {
    text_add(text, "resident on a device beside its arena: about %s of context and code",
             plan_bytes_text(plan->process.device_bytes, cell[0]));
    if (plan->process.nccl_bytes)
      text_add(text, "; under mpirun up to %s of NCCL's buffers", plan_bytes_text(plan->process.nccl_bytes, cell[1]));
    text_add_char(text, '\n');
  }
  if (sum == 0)
    return;
  for (int r = 0; r < plan->ranks; r++) {
    sum += plan->rank_memory[r].total_bytes;
    most = plan->rank_memory[r].total_bytes > most ? plan->rank_memory[r].total_bytes : most;
  }
  most += plan->process.beside_bytes + plan->process.mpi_bytes;
  text_add(text, "resident, with program and data: %s as one process", plan_bytes_text(sum, cell[0]));
  if (plan->ranks > 1)
    text_add(text, "; under mpirun %s the largest", plan_bytes_text(most, cell[1]));
  text_add_char(text, '\n');
}

/* What the ranks compute in a step to keep less, all of them together. */
static void add_recomputation(const Plan *plan, Text *text) {
  char seconds[CELL], bytes[CELL];
  double sum = 0;
  size_t most = 0;
  for (int s = 0; s < plan->stages; s++)
    sum += plan->reports[s].again_seconds * plan->microbatches;
  for (int r = 0; r < plan->ranks; r++)
    most = plan->spared_bytes[r] > most ? plan->spared_bytes[r] : most;
  text_add(
      text,
      "recomputation (--recompute %s): forward nodes run again before their gradients, %s a step%s; %s%s less memory\n",
      plan_recompute_names[plan->recompute], seconds_text(sum, seconds),
      plan->ranks > 1 ? " on all ranks together" : "", plan->ranks > 1 ? "at most a rank " : "",
      plan_bytes_text(most, bytes));
}

/* The bytes that the slowest rank's updates wait for are in the update's time. */
static void add_offload(const Plan *plan, Text *text) {
  char all[CELL], window[CELL];
  size_t most = 0;
  for (int r = 0; r < plan->ranks; r++)
    most = plan->rank_memory[r].window_bytes > most ? plan->rank_memory[r].window_bytes : most;
  text_add(
      text,
      "optimizer state on the host (--offload optimizer): %s of pinned memory%s, which come and go with each update",
      plan_bytes_text(host_bytes(plan), all), plan->ranks > 1 ? " on all ranks together" : "");
  if (most)
    text_add(text, ", through %s of the device%s (part of optimizer)", plan_bytes_text(most, window),
             plan->ranks > 1 ? "'s at most" : "'s");
  text_add_char(text, '\n');
}

/* What skips cost, where there are some. */
static void add_skips(const Plan *plan, Text *text) {
  char bytes[CELL], relayed[CELL], direct[CELL];
  const SkipReport *s = &plan->skips;
  if (s->passed_bytes == 0)
    return;
  text_add(text, "skips: of what a microbatch sends, %s pass through stages that do not use them",
           plan_bytes_text(s->passed_bytes, bytes));
  if (s->relayed_seconds > 0)
    text_add(text, "; so a rank transfers for %s at most, %s were they sent direct",
             seconds_text(s->relayed_seconds, relayed), seconds_text(s->direct_seconds, direct));
  text_add_char(text, '\n');
}

static void add_prose(const Plan *plan, Text *text) {
  char step[CELL], update[CELL];
  text_add(text, "%d %s, %d %s of %lld, schedule %s\n", plan->stages, plan->stages == 1 ? "stage" : "stages",
           plan->microbatches, plan->microbatches == 1 ? "microbatch" : "microbatches",
           (long long)plan->microbatch_size, plan->schedule.name);
  text_add(text, "predicted: %s a step, %s of it the update", seconds_text(plan->step_seconds, step),
           seconds_text(plan->update_seconds, update));
  if (plan->ranks > 1)
    text_add(text, "; bubble %.1f %%", 100 * plan->bubble);
  text_add_char(text, '\n');
  if (plan->again)
    add_recomputation(plan, text);
  if (host_bytes(plan))
    add_offload(plan, text);
  if (plan->ranks == 1)
    return;
  if (plan->named && strcmp(plan->named, plan->schedule.name) != 0)
    text_add(text, "made for these stages: %s, the fastest schedule by name, would take %s a step\n", plan->named,
             seconds_text(plan->named_step_seconds, step));
  if (plan->free_step_seconds > 0) {
    double cost = fmax(0, plan->wished_step_seconds - plan->free_step_seconds);
    text_add(text, "what --cut, --pin and --same-stage ask for costs %s a step, %.1f %% of what it takes without, %s\n",
             seconds_text(cost, step), 100 * cost / plan->free_step_seconds,
             seconds_text(plan->free_step_seconds, update));
  }
  add_skips(plan, text);
  if (plan->lower_bound_seconds > 0) {
    double reached = plan->step_seconds - plan->update_seconds;
    char bound[CELL];
    text_add(text, "%s %s, proved to be at least %s", plan->objective == OBJECTIVE_SPAN ? "longest span" : "makespan",
             seconds_text(reached, step), seconds_text(plan->lower_bound_seconds, bound));
    if (plan->capacity > 0)
      text_add(text, ", were there a core for each rank\n");
    else
      text_add(text, ": the gap is %.1f %%\n", 100 * fmax(0, reached / plan->lower_bound_seconds - 1));
  }
}

/* One rank's memory in words: there is nothing to compare it with. */
static void add_memory_line(const Plan *plan, Text *text) {
  const RankMemory *m = &plan->rank_memory[0];
  char cell[8][CELL];
  text_add(text,
           "memory: %s; weights %s, gradients %s, optimizer %s, constants %s, kept for the backward pass %s, "
           "temporary %s\n",
           plan_bytes_text(m->total_bytes, cell[0]), plan_bytes_text(m->parameter_bytes, cell[1]),
           plan_bytes_text(m->gradient_bytes, cell[2]), plan_bytes_text(m->state_bytes, cell[3]),
           plan_bytes_text(m->constant_bytes, cell[4]), plan_bytes_text(m->activation_bytes, cell[5]),
           plan_bytes_text(m->scratch_bytes, cell[6]));
}

/* The tables' foot. */
static const char legend[] =
    "F, B, W: a microbatch's forward pass, backward pass towards the input, weight gradients; up, down: its bytes to "
    "the "
    "next stage and to the one before; kept: what waits for the backward pass; temporary: what nodes use in turn; in "
    "the "
    "rows of ranks time runs to the right: a digit is a microbatch's F, a small letter its B, a capital its W, a dot "
    "waiting";
static const char legend_offload[] = "; on host: the optimizer's state, in pinned memory";
static const char legend_again[] =
    "; again: seconds of B and W in which forward nodes run again; spared: what the rank would take more without";

static Status print_text(Text *text, FILE *file, int columns, bool prose) {
  Text wrapped = {0};
  const char *whole = text_whole(text);
  if (whole && prose) {
    text_add_prose(&wrapped, whole, columns, 0, 2);
    whole = text_whole(&wrapped);
  }
  if (whole && prose)
    fputs(whole, file);
  else if (whole)
    copy_narrow(whole, file, columns);
  text_free(&wrapped);
  text_free(text);
  return whole ? OK : status_code();
}

static Status print_tables(const Plan *plan, FILE *file, int columns) {
  Text text = {0};
  add_prose(plan, &text);
  add_process(plan, &text);
  TRY(print_text(&text, file, columns, true));
  add_stages(plan, &text, columns);
  add_memory(plan, &text);
  return print_text(&text, file, columns, false);
}

/* What one rank does is no pipeline. */
static Status print_one(const Plan *plan, FILE *file, int columns) {
  Text text = {0};
  add_prose(plan, &text);
  add_memory_line(plan, &text);
  add_process(plan, &text);
  return print_text(&text, file, columns, true);
}

static Status print_legend(const Plan *plan, FILE *file, int columns) {
  Text text = {0};
  text_add_string(&text, legend);
  if (host_bytes(plan))
    text_add_string(&text, legend_offload);
  if (plan->again)
    text_add_string(&text, legend_again);
  return print_text(&text, file, columns, true);
}

Status plan_print(const Plan *plan, FILE *file, int columns, bool colours) {
  Arena *arena = plan->ranks > 1 ? arena_create() : NULL;
  if (!arena && plan->ranks > 1)
    return status_code();
  Status status = plan->ranks > 1 ? print_tables(plan, file, columns) : print_one(plan, file, columns);
  if (status == OK && plan->ranks > 1)
    status = print_grid(plan, arena, file, columns, colours);
  if (status == OK && plan->ranks > 1)
    status = print_legend(plan, file, columns);
  arena_destroy(arena);
  if (status == OK && ferror(file))
    return fail(E_IO, "the plan cannot be printed");
  return status;
}
