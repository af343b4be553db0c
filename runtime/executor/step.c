/* Walks the action list. Invariant: a value is read after what writes it and written after all that reads it: by the
 * order of the list within the rank, by waiting for tickets where a transfer is the writer or the reader
 * (graph/memory.h says who waits for what). Where a lane has wires it is the stream that waits, and the host goes on.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "graph/op.h"
#include "runtime/executor/internal.h"
#include "runtime/executor/shuttle.h"

/* Adds up the losses that have come. */
static Status add_losses(Executor *e) {
  for (; e->n_added < e->n_losses; e->n_added++) {
    double loss = e->losses[e->n_added];
    if (!isfinite(loss)) {
      e->total = loss;
      return fail(E_MODEL, "the loss of microbatch %d is %s", e->n_added, isnan(loss) ? "NaN" : "infinite");
    }
    e->total += loss;
  }
  return OK;
}

static Status sync_device(Executor *e) {
  TRY(tape_flush(e));
  double begun = trace_begin(e->spec.trace);
  TRY(executor_wait(e));
  if (!e->backend->is_host)
    trace_waited(e->spec.trace, begun, TRACE_DEVICE);
  return add_losses(e);
}

/* Moves on what is under way, also from within a kernel: what MPI sends in pieces stands still while nobody calls it.
 */
static void progress(void *executor) {
  const Executor *e = executor;
  if (e->in_flight && e->spec.transport->progress)
    e->spec.transport->progress(e->spec.endpoint);
}

Status executor_call(Executor *e, Call *call, int microbatch) {
  const Node *node = call->node;
  for (int i = 0; call->moves && i < node->n_in + node->n_out; i++)
    if (call->sites[i].slots > 1)
      call->operands[i].data = site_at(&call->sites[i], microbatch);
  progress(e);
  Trace *trace = e->spec.trace;
  bool traced = trace_on(trace) && trace->kernels;
  double begun = traced ? clock_seconds() : 0;
  TRY(call->kernel.run(e->stream, node, call->operands, call->operands + node->n_in, call->workspace,
                       call->kernel.state));
  if (traced)
    trace_end(trace, begun,
              (TraceEvent){.kind = TRACE_KERNEL,
                           .stage = (uint16_t)node->stage,
                           .microbatch = (uint16_t)microbatch,
                           .about = node->id});
  return OK;
}

/* Until the transfer into or out of the site is done, and the site's device place has what came. */
static Status wait_ticket(Executor *e, Way way, bool is_send, int peer, const Site *site, int microbatch,
                          Ticket *ticket) {
  if (!ticket->id)
    return OK;
  Ticket waited = *ticket;
  *ticket = (Ticket){0};
  e->in_flight--;
  if (way_is_wire(way)) {
    watch_wait(e->spec.watch, peer, is_send);
    TRY(executor_wire_wait(e, way, waited));
    watch_waited(e->spec.watch);
    return OK;
  }
  TRY(e->spec.transport->wait(e->spec.endpoint, waited));
  return is_send ? OK : executor_stage_in(e, site, microbatch);
}

static bool sends(ActionKind kind) {
  return kind == ACTION_SEND_F || kind == ACTION_SEND_B;
}

static TraceEvent transfer_event(const Lane *lane, int kind, ActionKind of, int stage, int microbatch) {
  return (TraceEvent){.kind = (uint8_t)kind,
                      .of = (uint8_t)of,
                      .stage = (uint16_t)stage,
                      .microbatch = (uint16_t)microbatch,
                      .peer = lane->peer};
}

/* Until what the lane posted for this microbatch is done. Nothing where it posted nothing. */
static Status wait_lane(Executor *e, int stage, ActionKind kind, int microbatch) {
  Lane *lane = lane_of(&e->stages[stage], kind);
  double begun = trace_begin(e->spec.trace);
  int before = e->in_flight;
  if (microbatch >= 0 && lane->n && lane->peer != e->spec.rank)
    TRY(tape_flush(e));
  for (int i = 0; microbatch >= 0 && i < lane->n; i++) {
    Ticket *ticket = &lane->tickets[(size_t)microbatch * (size_t)lane->n + (size_t)i];
    if (ticket->id)
      watch_action(e->spec.watch, kind, stage, microbatch);
    TRY(wait_ticket(e, lane->way, sends(kind), lane->peer, &lane->sites[i], microbatch, ticket));
  }
  if (e->in_flight < before)
    trace_end(e->spec.trace, begun, transfer_event(lane, TRACE_WAIT, kind, stage, microbatch));
  return OK;
}

/* What must be over before a compute action begins. */
static Status wait_before(Executor *e, Action action) {
  int stage = action.stage, m = action.microbatch, before = m - e->spec.plan->schedule.send_depth;
  const StageRun *run = &e->stages[stage];
  if (action.kind == ACTION_F) {
    TRY(wait_lane(e, stage, ACTION_RECV_F, m));
    return wait_lane(e, stage, ACTION_SEND_F, before);
  }
  if (action.kind == run->first_backward) {
    TRY(wait_lane(e, stage, ACTION_RECV_B, m));
    if (run->has_backward) /* what backward frees may be on its way up still; the peer has asked for it, so this ends */
      TRY(wait_lane(e, stage, ACTION_SEND_F, m));
  }
  return action.kind == ACTION_W ? OK : wait_lane(e, stage, ACTION_SEND_B, before);
}

Status executor_feed(const Executor *e, const Port *port, const StepWork *work, int microbatch) {
  char *to = site_host(&port->site, microbatch);
  if (port->value != e->graph->counter)
    return work->feed(work->context, port->value, microbatch, to, port->site.bytes);
  memcpy(to, work->counter, sizeof work->counter);
  ((int64_t *)to)[COUNTER_SAMPLE] += microbatch * work->samples;
  return OK;
}

/* What takes the host as long as some launches: the device has its work before. */
enum { LARGE_FEED = 256 << 10 };

static Status feed_inputs(Executor *e, int stage, const StepWork *work, int microbatch) {
  const Ports *feeds = &e->stages[stage].feeds;
  size_t bytes = 0;
  for (int i = 0; i < feeds->n; i++)
    bytes += feeds->ports[i].site.bytes;
  if (bytes >= LARGE_FEED)
    TRY(tape_flush(e));
  double begun = trace_begin(e->spec.trace);
  for (int i = 0; i < feeds->n; i++) {
    const Port *port = &feeds->ports[i];
    TRY(executor_feed(e, port, work, microbatch));
    TRY(executor_stage_in(e, &port->site, microbatch));
  }
  if (feeds->n)
    trace_end(e->spec.trace, begun,
              (TraceEvent){.kind = TRACE_FEED, .stage = (uint16_t)stage, .microbatch = (uint16_t)microbatch});
  return OK;
}

static Status emit_outputs(Executor *e, const Ports *emits, const StepWork *work, int microbatch) {
  for (int i = 0; work->emit && i < emits->n; i++) {
    const Port *port = &emits->ports[i];
    TRY(executor_stage_out(e, &port->site, microbatch));
    TRY(sync_device(e));
    TRY(work->emit(work->context, port->value, microbatch, site_host(&port->site, microbatch), port->site.bytes));
  }
  return OK;
}

/* Where the host computes, a loss that is not finite is known at once; a device is asked before anything leaves it. */
static Status take_loss(Executor *e, int microbatch) {
  TRY(tape_copy(e, &e->losses[microbatch], site_at(&e->loss, microbatch), sizeof *e->losses, COPY_DEVICE_TO_HOST));
  e->n_losses = microbatch + 1;
  return e->backend->is_host ? add_losses(e) : OK;
}

/* To the neighbouring stage on this rank. */
static Status copy_over(Executor *e, int stage, ActionKind kind, const Lane *to, int microbatch) {
  const Lane *from = lane_of(&e->stages[stage], kind);
  double begun = trace_begin(e->spec.trace);
  for (int i = 0; i < from->n; i++)
    TRY(tape_copy(e, site_at(&to->sites[i], microbatch), site_at(&from->sites[i], microbatch), from->sites[i].bytes,
                  COPY_DEVICE_TO_DEVICE));
  if (from->n)
    trace_end(e->spec.trace, begun, transfer_event(from, TRACE_COPY, kind, stage, microbatch));
  return OK;
}

enum { LEAST_SOON = 1 << 16 }; /* bytes that are worth it */

static const char *place_of(const Call *call, int operand, int microbatch) {
  bool moves = call->moves && call->sites[operand].slots > 1;
  return moves ? site_at(&call->sites[operand], microbatch) : call->operands[operand].data;
}

/* Whether one of the calls first … end - 1 makes what lies there. */
static bool is_made(const Calls *calls, int first, int end, const char *data, int microbatch) {
  for (int k = first; k < end; k++) {
    const Call *call = &calls->calls[k];
    for (int j = call->node->n_in; j < call->node->n_in + call->node->n_out; j++)
      if (place_of(call, j, microbatch) == data)
        return true;
  }
  return false;
}

/* Before a product: what is there already of what calls behind it read, up to the next product. */
static void tell_soon(Executor *e, const Calls *calls, int product, int microbatch) {
  Reading soon[MOST_READINGS];
  int n = 0;
  bool more = e->backend->stream_soon && op_def(calls->calls[product].node->op)->traits & OP_PRODUCT;
  if (!more)
    return;
  for (int i = product + 1; i < calls->n && more; i++) {
    const Call *call = &calls->calls[i];
    more = !(op_def(call->node->op)->traits & OP_PRODUCT);
    for (int k = 0; k < call->node->n_in && n < MOST_READINGS; k++) {
      const Tensor *t = &call->operands[k];
      const char *data = place_of(call, k, microbatch);
      int64_t bytes = shape_elements(t->shape) * (int64_t)dtype_bytes(t->dtype);
      if (data && bytes >= LEAST_SOON && !is_made(calls, product, i, data, microbatch))
        soon[n++] = (Reading){data, bytes};
    }
  }
  e->backend->stream_soon(e->stream, soon, n);
}

static Status compute(Executor *e, Action action, const StepWork *work) {
  int stage = action.stage, m = action.microbatch;
  StageRun *run = &e->stages[stage];
  Calls *calls = &run->calls[action.kind];
  TRY(wait_before(e, action));
  watch_action(e->spec.watch, action.kind, stage, m);
  if (action.kind == ACTION_F)
    TRY(feed_inputs(e, stage, work, m));
  TraceEvent about = {.kind = action.kind, .stage = action.stage, .microbatch = action.microbatch};
  DeviceSpan *span;
  double begun = clock_seconds();
  TRY(times_begin(e, about, &span));
  for (int i = 0; i < calls->n; i++) {
    tell_soon(e, calls, i, m);
    TRY(tape_call(e, &calls->calls[i], m));
  }
  TRY(times_end(e, span));
  TRY(tape_action(e));
  if (e->backend->is_host) {
    double seconds = clock_seconds() - begun;
    e->busy_seconds += seconds;
    run->seconds += seconds;
  }
  trace_end(e->spec.trace, begun, about);
  if (action.kind == ACTION_F) {
    if (e->loss.slots && stage == e->spec.plan->stages - 1)
      TRY(take_loss(e, m));
    TRY(emit_outputs(e, &run->emits, work, m));
    if (run->copies_forward)
      TRY(copy_over(e, stage, ACTION_SEND_F, lane_of(&e->stages[stage + 1], ACTION_RECV_F), m));
  } else if (action.kind != ACTION_W && run->copies_backward) {
    TRY(copy_over(e, stage, ACTION_SEND_B, lane_of(&e->stages[stage - 1], ACTION_RECV_B), m));
  }
  return OK;
}

/* Puts the lane's transfers for a microbatch in the list. */
static void list_lane(const Lane *lane, Action action, Transfer *transfers) {
  for (int i = 0; i < lane->n; i++) {
    const Site *site = &lane->sites[i];
    bool wire = way_is_wire(lane->way);
    transfers[i] = (Transfer){.peer = lane->peer,
                              .is_send = sends(action.kind),
                              .data = wire ? site_at(site, action.microbatch) : site_host(site, action.microbatch),
                              .bytes = site->bytes};
  }
}

static Ticket *tickets_of(const Lane *lane, Action action) {
  return &lane->tickets[(size_t)action.microbatch * (size_t)lane->n];
}

/* Posts what goes through the host's memory, together: `posted` of the list. */
static Status post_staged(Executor *e, const Action *actions, int n, int posted) {
  TRY(sync_device(e));
  TRY(e->spec.transport->post(e->spec.endpoint, e->transfers, posted, e->tickets));
  e->in_flight += posted;
  const Ticket *ticket = e->tickets;
  for (int a = 0; a < n; a++) {
    const Lane *lane = lane_of(&e->stages[actions[a].stage], actions[a].kind);
    if (way_is_wire(lane->way))
      continue;
    memcpy(tickets_of(lane, actions[a]), ticket, (size_t)lane->n * sizeof *ticket);
    ticket += lane->n;
  }
  return OK;
}

/* Posts the transfers of actions[0] and of those after it that belong to its group; *n: how many actions these are. On
 * a wire each action is a message. */
static Status post_group(Executor *e, const Action *actions, int n_left, int *n) {
  int posted = 0, k = 0;
  do {
    const Lane *lane = lane_of(&e->stages[actions[k].stage], actions[k].kind);
    if (trace_on(e->spec.trace))
      trace_end(e->spec.trace, clock_seconds(),
                transfer_event(lane, actions[k].kind, 0, actions[k].stage, actions[k].microbatch));
    list_lane(lane, actions[k], e->transfers + posted);
    if (way_is_wire(lane->way)) {
      TRY(tape_flush(e));
      TRY(executor_wire_post(e, lane->way, e->transfers + posted, lane->n, tickets_of(lane, actions[k])));
      for (int i = 0; i < lane->n; i++)
        e->in_flight += tickets_of(lane, actions[k])[i].id != 0;
    } else {
      for (int i = 0; i < lane->n && sends(actions[k].kind); i++)
        TRY(executor_stage_out(e, &lane->sites[i], actions[k].microbatch));
      posted += lane->n;
    }
    k++;
  } while (k < n_left && actions[0].group && !action_is_compute(actions[k]) && actions[k].group == actions[0].group);
  *n = k;
  if (posted)
    TRY(post_staged(e, actions, k, posted));
  if (trace_on(e->spec.trace))
    trace_end_last(e->spec.trace, (size_t)k);
  return OK;
}

/* All sends must have been taken before their buffers belong to the next step. */
static Status wait_sends(Executor *e) {
  if (e->spec.transport)
    TRY(tape_flush(e));
  const ActionList *list = &e->spec.plan->schedule.lists[e->spec.rank];
  for (int i = 0; i < list->n_actions && e->in_flight; i++)
    if (!action_is_compute(list->actions[i]))
      TRY(wait_lane(e, list->actions[i].stage, list->actions[i].kind, list->actions[i].microbatch));
  return OK;
}

static TraceEvent exchange_event(const Executor *e, const Exchange *x, bool waits) {
  TraceKind kind = x->is_send ? TRACE_SEND_SUM : TRACE_RECV_SUM;
  NodeId first = e->graph->groups[x->group].nodes[0];
  return (TraceEvent){.kind = (uint8_t)(waits ? TRACE_WAIT : kind),
                      .of = (uint8_t)kind,
                      .stage = (uint16_t)graph_node(e->graph, first)->stage,
                      .peer = x->peer,
                      .about = 2 * x->group + x->places};
}

static Status post_exchange(Executor *e, const Exchange *x, Ticket *ticket) {
  TRY(tape_flush(e));
  double begun = trace_begin(e->spec.trace);
  bool wire = way_is_wire(x->way);
  Transfer transfer = {.peer = x->peer,
                       .is_send = x->is_send,
                       .data = wire ? site_at(&x->site, 0) : site_host(&x->site, 0),
                       .bytes = x->site.bytes};
  TRY(wire ? executor_wire_post(e, x->way, &transfer, 1, ticket)
           : e->spec.transport->post(e->spec.endpoint, &transfer, 1, ticket));
  e->in_flight += ticket->id != 0;
  trace_end(e->spec.trace, begun, exchange_event(e, x, false));
  return OK;
}

static Status wait_exchange(Executor *e, const Exchange *x, Ticket *ticket) {
  TRY(tape_flush(e));
  double begun = trace_begin(e->spec.trace);
  bool waits = ticket->id != 0;
  watch_action(e->spec.watch, ACTION_KINDS, 0, 0);
  TRY(wait_ticket(e, x->way, x->is_send, x->peer, &x->site, 0, ticket));
  if (waits)
    trace_end(e->spec.trace, begun, exchange_event(e, x, true));
  return OK;
}

/* Accumulators of parameters that lie on several ranks go to all of them. */
static Status exchange_accumulators(Executor *e) {
  bool staged = false;
  for (int i = 0; i < e->n_exchanges; i++) {
    const Exchange *x = &e->exchanges[i];
    if (way_is_wire(x->way))
      continue;
    staged = true;
    if (x->is_send)
      TRY(executor_stage_out(e, &x->site, 0));
  }
  if (staged)
    TRY(sync_device(e));
  for (int i = 0; i < e->n_exchanges; i++)
    TRY(post_exchange(e, &e->exchanges[i], &e->tickets[i]));
  for (int i = 0; i < e->n_exchanges; i++)
    TRY(wait_exchange(e, &e->exchanges[i], &e->tickets[i]));
  return OK;
}

/* Accumulators are zero when a step begins, where they have to be. */
Status executor_clear(Executor *e) {
  for (size_t i = 0; i < e->graph->n_groups; i++) {
    const UseGroup *group = &e->graph->groups[i];
    ValueId v = group->places != NO_VALUE ? group->places : group->gradient; /* no place: no row */
    if (v != NO_VALUE && executor_holds(e, v) && !e->begun[v])
      TRY(tape_zero(e, executor_persistent(e, v), graph_value_bytes(e->graph, v)));
  }
  return OK;
}

/* They come with the losses. */
static Status take_norms(Executor *e) {
  double begun = trace_begin(e->spec.trace);
  char *to = e->squares;
  DeviceSpan *span;
  if (!e->n_norms)
    return OK;
  TRY(times_begin(e, (TraceEvent){.kind = TRACE_NORMS}, &span));
  for (int i = 0; i < e->n_norms; i++)
    TRY(tape_call(e, &e->norms[i].call, 0));
  TRY(times_end(e, span));
  if (!e->norms_apart)
    TRY(tape_copy(e, to, e->norms_at, e->norms_bytes, COPY_DEVICE_TO_HOST));
  for (int i = 0; e->norms_apart && i < e->n_norms; i++, to += sizeof(double)) {
    const Call *call = &e->norms[i].call;
    TRY(tape_copy(e, to, call->operands[call->node->n_in].data, sizeof(double), COPY_DEVICE_TO_HOST));
  }
  trace_end(e->spec.trace, begun, (TraceEvent){.kind = TRACE_NORMS});
  return OK;
}

static Status walk(Executor *e, const StepWork *work) {
  const ActionList *list = &e->spec.plan->schedule.lists[e->spec.rank];
  e->total = 0;
  e->n_losses = e->n_added = 0;
  times_step(&e->times);
  TRY(pieces_fetch(e));
  TRY(executor_clear(e));
  TRY(executor_give(e, e->graph->loss_scale, &work->loss_scale, 1, 0));
  for (size_t i = 0; i < e->graph->n_denominators; i++)
    TRY(executor_give(e, e->graph->denominators[i].total, &work->denominators[i], 1, 1 + i));
  for (int i = 0, n = 1; i < list->n_actions; i += n) {
    n = 1;
    TRY(action_is_compute(list->actions[i]) ? compute(e, list->actions[i], work)
                                            : post_group(e, &list->actions[i], list->n_actions - i, &n));
  }
  TRY(wait_sends(e));
  TRY(exchange_accumulators(e));
  TRY(take_norms(e));
  TRY(tape_end(e));
  TRY(sync_device(e));
  TRY(times_read(e));
  watch_action(e->spec.watch, -1, 0, 0);
  return executor_agree(e);
}

/* Others learn of it, and nothing of this rank's moves any more. */
static Status give_up(Executor *e, Status status) {
  char message[4096];
  snprintf(message, sizeof message, "%s", status_message());
  if (e->spec.transport)
    e->spec.transport->withdraw(e->spec.endpoint, message);
  executor_disconnect(e, true);
  return status_adopt(status, message);
}

Status executor_run(Executor *e, const StepWork *work, double *loss) {
  void (*between)(Stream *, void (*)(void *), void *) =
      e->spec.transport && e->spec.transport->progress ? e->backend->stream_between : NULL;
  if (between)
    between(e->stream, progress, e);
  Status status = store_round(e->spec.store, e->entries, e->rounded, e->graph->n_values);
  if (status == OK && e->memory->offloads && store_shuttle(e->spec.store)) /* not within a recording */
    status = shuttle_begin(store_shuttle(e->spec.store), e->updates_on_host);
  tape_begin(e, &e->run);
  if (status == OK)
    status = walk(e, work);
  tape_drop(e);
  if (between)
    between(e->stream, NULL, NULL);
  *loss = e->total * work->loss_scale;
  return status == OK ? OK : give_up(e, status);
}
