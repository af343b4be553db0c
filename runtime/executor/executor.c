/* A rank's memory from opening to closing. Invariant: what is persistent changes only in executor_write, in the
 * accumulations of executor_run and in executor_update. */
#include "runtime/executor/executor.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "graph/op.h"
#include "runtime/executor/internal.h"

Status executor_to_host(Executor *e, void *to, const void *from, size_t bytes) {
  TRY(e->backend->copy(e->stream, to, from, bytes, COPY_DEVICE_TO_HOST));
  return e->backend->stream_wait(e->stream);
}

Status executor_from_host(Executor *e, void *to, const void *from, size_t bytes) {
  TRY(e->backend->copy(e->stream, to, from, bytes, COPY_HOST_TO_DEVICE));
  return e->backend->stream_wait(e->stream);
}

bool executor_holds(const Executor *e, ValueId value) {
  return memory_is_persistent(e->graph, value) && memory_holds(e->memory, value);
}

bool executor_has_loss(const Executor *e) {
  return e->loss.slots > 0;
}

static Status check_access(const Executor *e, ValueId value, size_t bytes) {
  const char *name = graph_value(e->graph, value)->name;
  if (!executor_holds(e, value))
    return fail(E_USAGE, "rank %d does not hold '%s'", e->spec.rank, name);
  if (bytes != graph_value_bytes(e->graph, value))
    return fail(E_USAGE, "'%s' has %zu bytes, not %zu", name, graph_value_bytes(e->graph, value), bytes);
  return OK;
}

Status executor_read(Executor *e, ValueId value, void *data, size_t bytes) {
  TRY(check_access(e, value, bytes));
  return e->entries[value] >= 0 ? store_read_entry(e->spec.store, e->entries[value], data, bytes)
                                : executor_to_host(e, data, executor_persistent(e, value), bytes);
}

Status executor_write(Executor *e, ValueId value, const void *data, size_t bytes) {
  TRY(check_access(e, value, bytes));
  if (e->entries[value] >= 0)
    store_changed(e->spec.store, graph_value(e->graph, value)->initializer);
  return executor_from_host(e, executor_persistent(e, value), data, bytes);
}

/* The graph's own persistent values, and accumulators, to which warming up has added. The host's are zero since they
 * were allocated. */
static Status set_values(Executor *e) {
  for (ValueId v = 0; v < e->graph->n_values; v++) {
    const Value *value = graph_value(e->graph, v);
    size_t bytes = graph_value_bytes(e->graph, v);
    if (!executor_holds(e, v) || (e->entries[v] >= 0 && value->role != ROLE_GRADIENT))
      continue;
    if (value->role == ROLE_CONSTANT)
      TRY(executor_write(e, v, value->data, bytes));
    else if (!e->backend->is_host)
      TRY(e->backend->zero(e->stream, executor_persistent(e, v), bytes));
  }
  return e->backend->stream_wait(e->stream);
}

static Status check_spec(const ExecutorSpec *spec) {
  int ranks = spec->transport ? spec->transport->size(spec->endpoint) : 1;
  if (spec->rehearses)
    return OK;
  if (spec->plan->ranks != ranks)
    return fail(E_USAGE, "the plan is for %d ranks, there are %d", spec->plan->ranks, ranks);
  if (spec->rank < 0 || spec->rank >= ranks)
    return fail(E_USAGE, "rank %d of %d", spec->rank, ranks);
  return OK;
}

/* The plan's memory has room for the workspaces that the graph's nodes said when it was made. */
static Status check_workspaces(const ExecutorSpec *spec) {
  const Backend *backend = store_backend(spec->store);
  const Graph *g = spec->plan->graph;
  for (size_t i = 0; i < g->n_nodes; i++) {
    const Node *node = g->nodes[i];
    size_t wants = backend_workspace_bytes(backend, g, node), has = node_workspace_bytes(g, node, spec->rank);
    if (wants > has) {
      fail(E_USAGE, "backend %s wants a workspace of %zu bytes, the plan has %zu", backend->name, wants, has);
      node_context(node);
      return E_USAGE;
    }
  }
  return OK;
}

/* A view's entry is its root's. */
static void enter_views(Executor *e) {
  for (size_t i = 0; i < e->graph->n_nodes; i++) {
    const Node *node = e->graph->nodes[i];
    if ((op_def(node->op)->traits & OP_VIEW) && memory_holds(e->memory, node->out[0])) {
      e->entries[node->out[0]] = e->entries[node->in[0]];
      e->rounded[node->out[0]] = e->rounded[node->in[0]];
    }
  }
}

static Status take_memory(Executor *e) {
  size_t own = e->memory->persistent_bytes - e->memory->stored_bytes, work = memory_work_bytes(e->memory);
  void *base;
  TRY(store_take(e->spec.store, e->arena, e->graph, e->memory, e->spec.rehearses, &e->entries, &e->rounded));
  enter_views(e);
  if (e->spec.work_bytes > work)
    work = e->spec.work_bytes;
  TRY(e->backend->alloc(e->stream, e->spec.host ? own : own + work, &base));
  e->base = base;
  e->work = e->spec.host ? e->spec.host->work : e->base + own;
  return OK;
}

static Status open_memory(Executor *e) {
  Status status = take_memory(e);
  if (status != OK)
    status_context("%s: ", plan_rank_text(e->spec.plan, e->spec.rank, (char[96]){0}));
  return status;
}

/* Whether the call writes what is stored, other than an update. */
static bool writes_buffer(const Executor *e, const Call *call) {
  return op_def(call->node->op)->traits & OP_MUTATES_FIRST &&
         graph_value(e->graph, call->node->in[0])->role == ROLE_BUFFER;
}

static Status call_all(Executor *e) {
  for (int s = 0; s < e->spec.plan->stages; s++)
    for (int kind = 0; kind <= ACTION_BW; kind++)
      for (int i = 0; i < e->stages[s].calls[kind].n; i++) {
        Call *call = &e->stages[s].calls[kind].calls[i];
        if (store_is_fresh(e->spec.store) || !writes_buffer(e, call))
          TRY(executor_call(e, call, 0));
      }
  for (int i = 0; i < e->n_norms; i++)
    TRY(executor_call(e, &e->norms[i].call, 0));
  if (!store_is_fresh(e->spec.store) || !executor_rehearses_updates(e)) /* they write what is stored */
    return OK;
  for (int i = 0; i < e->n_updates; i++)
    TRY(executor_call(e, &e->updates[i].call, 0));
  for (int i = 0; i < e->n_pieces; i++)
    TRY(piece_call(e, &e->pieces[i]));
  return OK;
}

/* Runs every call once, on zeros: a device loads the code of a kernel when it first runs, for which it takes memory and
 * may wait for all that runs. All of that is over before the first step. */
static Status warm_up(Executor *e) {
  TRY(e->backend->zero(e->stream, e->base, e->memory->persistent_bytes - e->memory->stored_bytes));
  TRY(e->backend->zero(e->stream, e->work, memory_work_bytes(e->memory)));
  TRY(call_all(e));
  Status status = e->backend->stream_wait(e->stream);
  return status == E_MODEL ? OK : status; /* zero may be no index */
}

static Status open_all(Executor *e) {
  TRY(open_memory(e));
  TRY(executor_lay_out(e));
  if (!e->backend->is_host)
    TRY(warm_up(e));
  TRY(times_open(e));
  TRY(store_fill(e->spec.store, e->graph, e->entries, e->spec.loads_states, e->spec.load, e->spec.load_context));
  return set_values(e);
}

Status executor_open(const ExecutorSpec *spec, Executor **out) {
  TRY(check_spec(spec));
  TRY(backend_check(store_backend(spec->store), spec->plan->graph));
  TRY(check_workspaces(spec));
  Arena *arena = arena_create();
  Executor *e = arena ? arena_alloc(arena, 1, sizeof *e) : NULL;
  if (!e) {
    arena_destroy(arena);
    return status_code();
  }
  *e = (Executor){.spec = *spec,
                  .backend = store_backend(spec->store),
                  .stream = store_stream(spec->store),
                  .device = store_device(spec->store),
                  .graph = spec->plan->graph,
                  .memory = &spec->plan->rank_memory[spec->rank],
                  .arena = arena};
  Status status = open_all(e);
  if (status != OK) {
    executor_close(e);
    return status;
  }
  *out = e;
  return OK;
}

void executor_close(Executor *e) {
  if (!e)
    return;
  executor_disconnect(e, false);
  tape_free(e, &e->run);
  tape_free(e, &e->update);
  times_close(e);
  for (int i = 0; i < 2; i++)
    if (e->timers[i])
      e->backend->event_destroy(e->timers[i]);
  for (const Prepared *p = e->prepared; p; p = p->next)
    backend_forget(&p->kernel);
  if (e->base)
    e->backend->release(e->stream, e->base);
  if (e->pinned)
    e->backend->unpin(e->stream, e->pinned);
  arena_destroy(e->arena);
}

void executor_squares(const Executor *e, double *squares) {
  for (int i = 0; i < e->n_norms; i++)
    memcpy(&squares[e->norms[i].index], e->norms[i].square, sizeof *squares);
}

Status executor_give(Executor *e, ValueId value, const double *numbers, size_t n, size_t at) {
  double *place = e->given + at;
  if (value == NO_VALUE || !executor_holds(e, value))
    return OK;
  memcpy(place, numbers, n * sizeof *place);
  return tape_copy(e, executor_persistent(e, value), place, n * sizeof *place, COPY_HOST_TO_DEVICE);
}

static Status update(Executor *e, const double scalars[STEP_SCALARS]) {
  if (e->n_updates + e->n_pieces)
    TRY(executor_give(e, e->graph->step_scalars, scalars, STEP_SCALARS, 1 + e->graph->n_denominators));
  DeviceSpan *span;
  double begun = clock_seconds();
  TRY(times_begin(e, (TraceEvent){.kind = TRACE_UPDATE}, &span));
  for (int i = 0; i < e->n_updates; i++)
    TRY(tape_call(e, &e->updates[i].call, 0));
  if (e->n_pieces)
    TRY(pieces_update(e));
  TRY(times_end(e, span));
  for (ValueId v = 0; v < e->graph->n_values; v++) /* of the others both are written */
    if (graph_value(e->graph, v)->role == ROLE_PARAMETER && e->entries[v] >= 0 && e->rounded[v] < 0)
      store_changed(e->spec.store, graph_value(e->graph, v)->initializer);
  e->busy_seconds += e->backend->is_host ? clock_seconds() - begun : 0;
  trace_end(e->spec.trace, begun, (TraceEvent){.kind = TRACE_UPDATE});
  return tape_end(e);
}

Status executor_update(Executor *e, const double scalars[STEP_SCALARS]) {
  if (!e->n_pieces) /* several streams are at it */
    tape_begin(e, &e->update);
  Status status = update(e, scalars);
  tape_drop(e);
  return status;
}

Status executor_settle(Executor *e) {
  double begun = trace_begin(e->spec.trace);
  TRY(e->backend->stream_wait(e->stream));
  TRY(shuttle_wait(store_shuttle(e->spec.store)));
  if (!e->backend->is_host)
    trace_waited(e->spec.trace, begun, TRACE_DEVICE);
  return times_read(e);
}

/* What ranks of one device take depends on the others. */
static bool counts_seconds(const Executor *e) {
  return e->backend->is_host || (e->times.n && boundaries_alone(e->spec.boundaries, e->spec.rank));
}

double executor_busy_seconds(const Executor *e) {
  return counts_seconds(e) ? e->busy_seconds : -1;
}

void executor_stage_seconds(const Executor *e, double *seconds) {
  const Plan *plan = e->spec.plan;
  for (int s = 0; s < plan->stages; s++)
    seconds[s] = plan->schedule.rank_of_stage[s] != e->spec.rank ? 0 : counts_seconds(e) ? e->stages[s].seconds : -1;
}

int executor_recordings(const Executor *e) {
  const Tape *tapes[] = {&e->run, &e->update};
  int n = 0;
  for (int i = 0; i < 2; i++)
    n += tapes[i]->mode == TAPE_REPLAYS ? tapes[i]->n_order : 0;
  return n;
}
