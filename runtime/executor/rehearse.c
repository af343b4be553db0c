/* A step without its neighbours. Invariant: nothing crosses between ranks and nothing fails for what contents are, so
 * that no rank waits for another one. */
#include <stdlib.h>

#include "base/clock.h"
#include "runtime/executor/internal.h"

static Status rehearse_wait(Executor *e, Call *call, int microbatch) {
  Status status = executor_call(e, call, microbatch);
  return status == OK && !e->backend->is_host ? e->backend->stream_wait(e->stream) : status;
}

/* A kernel that minds the contents leaves its node without a number. */
static Status rehearse_call(Executor *e, Call *call, int microbatch, Rehearsal *r) {
  NodeId id = graph_plain(e->graph, call->node->id);
  int kind = r->kind_of ? r->kind_of[id] : -1;
  if ((kind >= 0 && r->done[kind]) || r->late)
    return OK;
  Status status = OK;
  if (kind >= 0) /* once for pages that nobody has touched */
    status = rehearse_wait(e, call, microbatch);
  double begun = clock_seconds();
  if (status == OK)
    status = rehearse_wait(e, call, microbatch);
  double seconds = clock_seconds() - begun;
  r->late |= begun + seconds > r->until;
  if (status == E_MODEL)
    return OK;
  TRY(status);
  if (kind >= 0)
    r->done[kind] = true;
  r->seconds[id] += seconds;
  r->calls[id]++;
  r->nodes_seconds += seconds;
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
  for (int i = 0; i < e->n_updates; i++)
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
