/* The host's side of what enters and leaves a device. Invariant: a place is written again only when the copy that reads
 * it is over: inputs have one for each microbatch, and a step ends with a wait; transfers are posted after a wait; the
 * places of a value that crosses a cut turn over as its device memory does. */
#include "base/checked.h"
#include "graph/memory.h"
#include "runtime/executor/internal.h"

/* Counts without memory, hands out with it. */
typedef struct {
  char *at;
  size_t bytes;
} Room;

static Status place(Room *room, Site *site, int slots) {
  size_t bytes;
  if (!checked_mul((site->bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT, (size_t)slots, &bytes))
    return fail(E_LIMIT, "staging overflows");
  if (room->at) {
    site->host = room->at + room->bytes;
    site->host_stride = bytes / (size_t)slots;
    site->host_slots = slots;
  }
  room->bytes += bytes;
  return OK;
}

static Status place_lane(const Executor *e, Room *room, Lane *lane) {
  if (lane->peer == e->spec.rank || way_is_wire(lane->way)) /* it stays on devices */
    return OK;
  for (int i = 0; i < lane->n; i++)
    TRY(place(room, &lane->sites[i], lane->sites[i].slots));
  return OK;
}

static Status place_ports(Room *room, Ports *ports, int slots) {
  for (int i = 0; i < ports->n; i++)
    TRY(place(room, &ports->ports[i].site, slots));
  return OK;
}

enum { NORMS_SPAN = 1 << 20 };

static const char *norm_at(const Update *norm) {
  return norm->call.operands[norm->call.node->n_in].data;
}

/* Norms lie side by side as a rule: then they come in one copy, with what lies between them. */
static void find_norms(Executor *e) {
  const char *last = NULL;
  for (int i = 0; i < e->n_norms; i++) {
    const char *at = norm_at(&e->norms[i]);
    e->norms_at = !last || at < e->norms_at ? at : e->norms_at;
    last = !last || at > last ? at : last;
  }
  e->norms_bytes = last ? (size_t)(last - e->norms_at) + sizeof(double) : 0;
  e->norms_apart = e->norms_bytes > NORMS_SPAN;
  if (e->norms_apart)
    e->norms_bytes = (size_t)e->n_norms * sizeof(double);
}

/* Last, for there is nothing to align behind them. */
static Status place_numbers(Executor *e, Room *room) {
  size_t losses = (size_t)e->spec.plan->microbatches, given = 1 + e->graph->n_denominators + STEP_SCALARS;
  find_norms(e);
  if (room->at) {
    e->losses = (double *)(room->at + room->bytes);
    e->given = e->losses + losses;
    e->squares = (char *)(e->given + given);
    for (int i = 0; i < e->n_norms; i++)
      e->norms[i].square =
          e->squares + (e->norms_apart ? i * (ptrdiff_t)sizeof(double) : norm_at(&e->norms[i]) - e->norms_at);
  }
  room->bytes += (losses + given) * sizeof(double) + e->norms_bytes;
  return OK;
}

static Status place_all(Executor *e, Room *room) {
  int microbatches = e->spec.plan->microbatches;
  for (int s = 0; s < e->spec.plan->stages; s++) {
    StageRun *run = &e->stages[s];
    TRY(place_ports(room, &run->feeds, microbatches));
    TRY(place_ports(room, &run->emits, 1));
    for (ActionKind kind = ACTION_SEND_F; kind < ACTION_KINDS; kind++)
      TRY(place_lane(e, room, lane_of(run, kind)));
  }
  for (int i = 0; i < e->n_exchanges; i++)
    if (!way_is_wire(e->exchanges[i].way))
      TRY(place(room, &e->exchanges[i].site, 1));
  return place_numbers(e, room);
}

Status executor_stage(Executor *e) {
  Room room = {0};
  if (e->backend->is_host) { /* sites are where they are */
    TRY(place_numbers(e, &room));
    room = (Room){.at = arena_alloc(e->arena, room.bytes, 1)};
    return room.at ? place_numbers(e, &room) : status_code();
  }
  TRY(place_all(e, &room));
  TRY(e->backend->pin(e->stream, room.bytes, &e->pinned));
  room = (Room){.at = e->pinned};
  return place_all(e, &room);
}

Status executor_stage_in(Executor *e, const Site *site, int microbatch) {
  if (e->backend->is_host)
    return OK;
  return tape_copy(e, site_at(site, microbatch), site_host(site, microbatch), site->bytes, COPY_HOST_TO_DEVICE);
}

Status executor_stage_out(Executor *e, const Site *site, int microbatch) {
  if (e->backend->is_host)
    return OK;
  return tape_copy(e, site_host(site, microbatch), site_at(site, microbatch), site->bytes, COPY_DEVICE_TO_HOST);
}
