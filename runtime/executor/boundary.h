/* How tensors get from one rank to another: the one place where that is chosen. */
#ifndef RUNTIME_EXECUTOR_BOUNDARY_H
#define RUNTIME_EXECUTOR_BOUNDARY_H

#include "runtime/job/device.h"
#include "runtime/transport/wire.h"

typedef enum {
  WAY_HOST,   /* both compute in host memory: the transport alone */
  WAY_STAGED, /* through pinned host memory, by the transport */
  WAY_COPY,   /* wire_copy */
  WAY_NCCL,   /* wire_nccl */
  WAYS
} Way;

/* Where a rank computes, as others need to know it. */
typedef struct {
  int32_t process;          /* equal for threads of one */
  int32_t is_host;          /* its memory is the host's */
  int32_t nccl;             /* version; 0: none that can be loaded */
  unsigned char device[16]; /* Backend.identify */
} RankPlace;

/* The best way that there is: none between hosts; a copy inside a process; NCCL between two devices, where both ranks
 * have the same one, which refuses two ranks on one device; else pinned memory. */
Way boundary_way(const RankPlace *a, const RankPlace *b);
/* "nccl", "pinned host memory", … */
const char *boundary_name(Way way);

typedef struct {
  int ranks;
  const RankDevice *devices; /* [ranks] */
  Way *ways;                 /* [ranks][ranks] */
  bool *alone;               /* [ranks]: no other rank has its device; of hosts true */
  Copies *copies;            /* NULL: no boundary is WAY_COPY */
} Boundaries;

static inline Way boundary_between(const Boundaries *boundaries, int a, int b) {
  return boundaries->ways[(size_t)a * (size_t)boundaries->ranks + (size_t)b];
}

/* NULL: there is one rank. */
static inline bool boundaries_alone(const Boundaries *boundaries, int rank) {
  return !boundaries || boundaries->alone[rank];
}

/* Where rank r of `devices` [ranks] computes; processes: each rank is one. E_DEVICE where there is no such device. */
Status boundary_place(const RankDevice *devices, int rank, bool processes, RankPlace *place);

/* What moves bytes that way; NULL: the transport does. */
const WireKind *boundary_wire(Way way);
/* Opens a rank's wires of that way, as its kind has them opened: collective, where that is. */
Status boundary_open_wire(const Boundaries *boundaries, Way way, const WireSpec *spec, WireEnd **end);

/* Until the stream is idle; over NCCL it may wait for a peer that is no more, which is noticed. nccl: NULL where it
 * has no wires of that kind. */
Status boundary_settle(WireEnd *nccl, const Backend *backend, Stream *stream);

/* From everybody's places [ranks]. The caller ends it with boundaries_close. */
Status boundaries_open(Arena *arena, const RankDevice *devices, const RankPlace *places, int ranks,
                       Boundaries *boundaries);
void boundaries_close(Boundaries *boundaries);

#endif
