/* The choice of ways. Invariant: it depends on the two ranks' places alone, and is the same on both sides. */
#include "runtime/executor/boundary.h"

#include <string.h>
#include <time.h>

/* Tests set it, to have NCCL between threads. */
bool boundary_threads_are_processes = false;

static bool one_device(const RankPlace *a, const RankPlace *b) {
  return !a->is_host && !b->is_host && memcmp(a->device, b->device, sizeof a->device) == 0;
}

Way boundary_way(const RankPlace *a, const RankPlace *b) {
  if (a->is_host && b->is_host)
    return WAY_HOST;
  if (a->is_host || b->is_host)
    return WAY_STAGED;
  if (a->process == b->process)
    return WAY_COPY;
  return !one_device(a, b) && a->nccl && a->nccl == b->nccl ? WAY_NCCL : WAY_STAGED;
}

const char *boundary_name(Way way) {
  static const char *const names[WAYS] = {"host memory", "pinned host memory", "device copy", "nccl"};
  return names[way];
}

Status boundary_place(const RankDevice *devices, int rank, bool processes, RankPlace *place) {
  const RankDevice *own = &devices[rank];
  processes |= boundary_threads_are_processes;
  *place = (RankPlace){.process = processes ? rank : 0, .is_host = own->backend->is_host};
  if (place->is_host)
    return OK;
  place->nccl = processes ? wire_nccl_version() : 0; /* it is large: not loaded where it is not needed */
  return own->backend->identify(own->device, place->device);
}

const WireKind *boundary_wire(Way way) {
  static const WireKind *const kinds[WAYS] = {[WAY_COPY] = &wire_copy, [WAY_NCCL] = &wire_nccl};
  return kinds[way];
}

Status boundary_open_wire(const Boundaries *b, Way way, const WireSpec *spec, WireEnd **end) {
  if (way == WAY_NCCL)
    return wire_nccl_open(spec, end);
  for (int r = 0; r < b->ranks; r++)
    if (spec->peers[r])
      TRY(spec->backend->reach(spec->stream, b->devices[r].device));
  return wire_copy_open(b->copies, spec, end);
}

Status boundary_settle(WireEnd *nccl, const Backend *backend, Stream *stream) {
  bool idle = nccl == NULL;
  for (int looks = 0; !idle; looks++) {
    TRY(wire_nccl.check(nccl));
    TRY(backend->stream_idle(stream, &idle));
    if (!idle && looks > 100)
      nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
  }
  return backend->stream_wait(stream);
}

Status boundaries_open(Arena *arena, const RankDevice *devices, const RankPlace *places, int ranks, Boundaries *b) {
  bool copies = false;
  *b = (Boundaries){.ranks = ranks, .devices = devices};
  TRY(ARENA_NEW(arena, b->ways, (size_t)ranks * (size_t)ranks));
  TRY(ARENA_NEW(arena, b->alone, ranks));
  for (int r = 0; r < ranks; r++) {
    b->alone[r] = true;
    for (int s = 0; s < ranks; s++) {
      Way way = boundary_way(&places[r], &places[s]);
      b->ways[(size_t)r * (size_t)ranks + (size_t)s] = way;
      copies |= r != s && way == WAY_COPY;
      b->alone[r] &= r == s || !one_device(&places[r], &places[s]);
    }
  }
  return copies ? copies_open(ranks, &b->copies) : OK;
}

void boundaries_close(Boundaries *b) {
  copies_close(b->copies);
  b->copies = NULL;
}
