/* A step without its neighbours. Invariant: nothing crosses between ranks and nothing fails for what contents are, so
 * that no rank waits for another one. */
#include <stdlib.h>

#include "base/clock.h"
#include "runtime/executor/internal.h"

static Status call_and_wait(Executor *e, Call *call, int microbatch) {
  TRY(executor_call(e, call, microbatch));
  return e->backend->is_host ? OK : e->backend->stream_wait(e->stream);
}

static Status time_on_host(Executor *e, Call *call, int microbatch, double *seconds) {
  double begun = clock_seconds();
  TRY(call_and_wait(e, call, microbatch));
  *seconds = clock_seconds() - begun;
  return OK;
}

/* Calls that a device is done with sooner are repeated in a recording, as a step has them: else the host's launch would
 * be timed, and what lies between the timers and the call. */
static const double SHORT_CALL = 100e-6;
enum { REPEATS = 20 };

/* Between two timers: the recording, NULL: one call. */
static Status time_once(Executor *e, Call *call, int microbatch, const Recording *recording, double *seconds) {
  TRY(e->backend->event_record(e->stream, e->timers[0]));
  TRY(recording ? e->backend->replay(e->stream, recording) : executor_call(e, call, microbatch));
  TRY(e->backend->event_record(e->stream, e->timers[1]));
  TRY(e->backend->stream_wait(e->stream));
  return e->backend->timer_seconds(e->timers[0], e->timers[1], seconds);
}

static Status record_repeats(Executor *e, Call *call, int microbatch, Recording **recording) {
  Status status = e->backend->record_begin(e->stream);
  if (status != OK)
    return status;
  for (int i = 0; i < REPEATS && status == OK; i++)
    status = executor_call(e, call, microbatch);
  Status ended = e->backend->record_end(e->stream, recording);
  return status == OK ? ended : status;
}

/* Where there is no recording, what one call took stands. */
static Status time_on_device(Executor *e, Call *call, int microbatch, double *seconds) {
  Recording *recording = NULL;
  for (int i = 0; i < 2; i++)
    if (!e->timers[i])
      TRY(e->backend->timer_create(e->stream, &e->timers[i]));
  TRY(time_once(e, call, microbatch, NULL, seconds));
  if (*seconds >= SHORT_CALL || record_repeats(e, call, microbatch, &recording) != OK) {
    if (recording)
      e->backend->recording_free(recording);
    return OK;
  }
  Status status = OK;
  for (int i = 0; i < 2 && status == OK; i++) /* its first replay takes it to the device */
    status = time_once(e, call, microbatch, recording, seconds);
  *seconds /= REPEATS;
  e->backend->recording_free(recording);
  return status;
}

/* A kernel that minds the contents leaves its node without a number. */
static Status rehearse_call(Executor *e, Call *call, int microbatch, Rehearsal *r) {
  NodeId id = graph_plain(e->graph, call->node->id);
  int kind = r->kind_of ? r->kind_of[id] : -1;
  if ((kind >= 0 && r->done[kind]) || r->late)
    return OK;
  Status status = OK;
  double begun = clock_seconds(), seconds = 0;
  if (kind >= 0 && e->backend->is_host) { /* once for pages that nobody has touched */
    status = call_and_wait(e, call, microbatch);
    begun = clock_seconds();
  }
  if (status == OK)
    status = e->backend->is_host ? time_on_host(e, call, microbatch, &seconds)
                                 : time_on_device(e, call, microbatch, &seconds);
  double ended = clock_seconds();
  r->late |= ended > r->until;
  r->nodes_seconds += ended - begun;
  if (status == E_MODEL)
    return OK;
  TRY(status);
  if (kind >= 0)
    r->done[kind] = true;
  r->seconds[id] += seconds;
  r->calls[id]++;
  return OK;
}

static Status copy_to_neighbour(Executor *e, int stage, ActionKind kind, const Lane *to, int microbatch) {
  const Lane *from = lane_of(&e->stages[stage], kind);
  for (int i = 0; i < from->n; i++)
    TRY(e->backend->copy(e->stream, site_at(&to->sites[i], microbatch), site_at(&from->sites[i], microbatch),
                         from->sites[i].bytes, COPY_DEVICE_TO_DEVICE));
  return OK;
}

static Status rehearse_feeds(Executor *e, int stage, const StepWork *work, int microbatch) {
  const Ports *feeds = &e->stages[stage].feeds;
  for (int i = 0; i < feeds->n; i++) {
    TRY(executor_feed(e, &feeds->ports[i], work, microbatch));
    TRY(executor_stage_in(e, &feeds->ports[i].site, microbatch));
  }
  return OK;
}

static Status rehearse_action(Executor *e, Action action, const StepWork *work, Rehearsal *r) {
  int stage = action.stage, m = action.microbatch;
  StageRun *run = &e->stages[stage];
  Calls *calls = &run->calls[action.kind];
  double begun = clock_seconds(), before = r->nodes_seconds;
  if (action.kind == ACTION_F)
    TRY(rehearse_feeds(e, stage, work, m));
  for (int i = 0; i < calls->n; i++)
    TRY(rehearse_call(e, &calls->calls[i], m, r));
  if (action.kind == ACTION_F && run->copies_forward)
    TRY(copy_to_neighbour(e, stage, ACTION_SEND_F, lane_of(&e->stages[stage + 1], ACTION_RECV_F), m));
  else if (action.kind != ACTION_F && action.kind != ACTION_W && run->copies_backward)
    TRY(copy_to_neighbour(e, stage, ACTION_SEND_B, lane_of(&e->stages[stage - 1], ACTION_RECV_B), m));
  r->actions++;
  r->actions_seconds += clock_seconds() - begun - (r->nodes_seconds - before);
  return OK;
}

Status executor_rehearse(Executor *e, const StepWork *work, const double scalars[STEP_SCALARS], int microbatches,
                         Rehearsal *r) {
  const ActionList *list = &e->spec.plan->schedule.lists[e->spec.rank];
  double begun = clock_seconds();
  TRY(executor_clear(e));
  TRY(executor_give(e, e->graph->loss_scale, &work->loss_scale, 1, 0));
  for (size_t i = 0; i < e->graph->n_denominators; i++)
    TRY(executor_give(e, e->graph->denominators[i].total, &work->denominators[i], 1, 1 + i));
  TRY(executor_give(e, e->graph->step_scalars, scalars, STEP_SCALARS, 1 + e->graph->n_denominators));
  TRY(e->backend->stream_wait(e->stream));
  r->begin_seconds = clock_seconds() - begun;
  for (int i = 0; i < list->n_actions && !r->late; i++)
    if (action_is_compute(list->actions[i]) && list->actions[i].microbatch < microbatches)
      TRY(rehearse_action(e, list->actions[i], work, r));
  for (int i = 0; i < e->n_norms; i++)
    TRY(rehearse_call(e, &e->norms[i].call, 0, r));
  for (int i = 0; i < e->n_updates && executor_rehearses_updates(e); i++)
    TRY(rehearse_call(e, &e->updates[i].call, 0, r));
  r->pass_seconds = clock_seconds() - begun;
  return OK;
}

/* Contents are written in the host's memory; what stays on devices has no place there but this. */
static Status make_up(Executor *e, const Lane *lane, int i, int microbatch, void *room, ValueId value, MakeUp *fill,
                      void *context) {
  const Site *site = &lane->sites[i];
  bool staged = !e->backend->is_host && lane->peer != e->spec.rank && !way_is_wire(lane->way);
  void *host = staged ? site_host(site, microbatch) : e->backend->is_host ? site_at(site, microbatch) : room;
  fill(context, value, host, site->bytes);
  if (host != room)
    return executor_stage_in(e, site, microbatch);
  TRY(e->backend->copy(e->stream, site_at(site, microbatch), room, site->bytes, COPY_HOST_TO_DEVICE));
  return e->backend->stream_wait(e->stream); /* the room is free again */
}

/* What comes into stage s by the lane; NULL: nothing. */
static const ValueId *received(const Plan *plan, int s, ActionKind kind) {
  if (kind == ACTION_RECV_F)
    return s > 0 ? plan->cuts.cuts[s - 1].forward : NULL;
  return kind == ACTION_RECV_B && s + 1 < plan->stages ? plan->cuts.cuts[s].backward : NULL;
}

Status executor_make_up(Executor *e, MakeUp *fill, void *context) {
  const Plan *plan = e->spec.plan;
  size_t most = 0;
  for (int s = 0; s < plan->stages; s++)
    for (ActionKind kind = ACTION_SEND_F; kind < ACTION_KINDS; kind++)
      for (int i = 0; i < lane_of(&e->stages[s], kind)->n; i++)
        most =
            lane_of(&e->stages[s], kind)->sites[i].bytes > most ? lane_of(&e->stages[s], kind)->sites[i].bytes : most;
  void *room = malloc(most + 1);
  if (!room)
    return fail(E_MEMORY, "out of memory");
  Status status = OK;
  for (int s = 0; s < plan->stages; s++)
    for (ActionKind kind = ACTION_SEND_F; kind < ACTION_KINDS; kind++) {
      const Lane *lane = lane_of(&e->stages[s], kind);
      const ValueId *values = received(plan, s, kind);
      for (int i = 0; values && i < lane->n; i++)
        for (int m = 0; m < lane->sites[i].slots && status == OK; m++)
          status = make_up(e, lane, i, m, room, values[i], fill, context);
    }
  if (status == OK)
    status = e->backend->stream_wait(e->stream);
  free(room);
  return status;
}
