/* What the files of the executor share: everything that a step needs, worked out before the first one. */
#ifndef RUNTIME_EXECUTOR_INTERNAL_H
#define RUNTIME_EXECUTOR_INTERNAL_H

#include "runtime/executor/executor.h"
#include "runtime/executor/pieces.h"
#include "runtime/executor/tape.h"
#include "runtime/executor/times.h"

/* Where a value lies in the rank's memory: microbatch m at first + m % slots * stride. What is fed, sent, received or
 * emitted has a second place, in host memory, in which the world outside sees it: the same one where the rank's memory
 * is the host's, else pinned memory that is copied to or from (staging.c). */
typedef struct {
  char *first;
  size_t stride, bytes; /* bytes: of the value */
  int slots;
  char *host;
  size_t host_stride;
  int host_slots;
} Site;

static inline char *site_at(const Site *site, int microbatch) {
  return site->first + (size_t)(microbatch % site->slots) * site->stride;
}

static inline char *site_host(const Site *site, int microbatch) {
  return site->host + (size_t)(microbatch % site->host_slots) * site->host_stride;
}

/* One kernel call: operands n_in + n_out, in before out; their addresses are set for each microbatch. */
typedef struct Call {
  const Node *node;
  NodeKernel kernel;
  Tensor *operands;
  Site *sites;
  void *workspace;
  bool moves; /* some site has more than one slot */
} Call;

typedef struct {
  Call *calls;
  int n;
} Calls;

/* The values that cross one cut in one direction, at one end: what a SEND or RECV posts, or a copy takes. */
typedef struct {
  int n;
  int peer; /* rank of the other end; this one where both stages are here, and nothing is posted */
  Way way;
  Site *sites;
  Ticket *tickets; /* [microbatches][n]; id 0: nothing to wait for */
} Lane;

/* A model input that is fed, or an output that is emitted. */
typedef struct {
  ValueId value;
  Site site;
} Port;

typedef struct {
  Port *ports;
  int n;
} Ports;

typedef struct {
  Calls calls[ACTION_BW + 1];               /* by compute action */
  Lane lanes[ACTION_KINDS - ACTION_SEND_F]; /* by transfer action */
  ActionKind first_backward;                /* the one that needs the gradients from above */
  bool has_backward;                        /* backward nodes */
  bool copies_forward, copies_backward;     /* the stage after, before, lies on this rank */
  Ports feeds, emits;
  double seconds; /* in calls, since it was opened; likewise */
} StageRun;

/* kind: a transfer action's. */
static inline Lane *lane_of(StageRun *run, ActionKind kind) {
  return &run->lanes[kind - ACTION_SEND_F];
}

/* An accumulator that lies on several ranks, on its way from the one that filled it. */
typedef struct {
  int peer;
  bool is_send;
  Way way;
  Site site;
  int group;   /* of graph->groups */
  bool places; /* which rows it has, and not these */
} Exchange;

/* An update node of this rank. */
typedef struct Update {
  Call call;
  int index;          /* of a norm: counted over the whole graph's */
  const char *square; /* of a norm: where its double comes to the host */
} Update;

/* A call's state, to be released. */
typedef struct Prepared {
  NodeKernel kernel;
  struct Prepared *next;
} Prepared;

struct Executor {
  ExecutorSpec spec;
  const Backend *backend; /* of the store, as the stream and the device */
  Stream *stream;
  int device;
  const Graph *graph;
  const RankMemory *memory;
  Arena *arena;         /* of all bookkeeping */
  WireEnd *wires[WAYS]; /* NULL: none of that kind */
  bool hosts_run_ahead; /* some rank has wires */
  int *entries;         /* [n_values]: in the store, of views their roots'; -1: not there */
  int *rounded;         /* [n_values]: what they round to; likewise */
  char *base;           /* persistent values that are not stored */
  char *work;           /* what follows them: at their end, or in the host's memory */
  void *pinned;         /* the host's places of sites, where the rank's memory is a device's; else NULL */
  Prepared *prepared;   /* before the first step; of all calls that have a state */
  StageRun *stages;     /* [plan->stages]; others' are empty */
  Site loss;            /* of the microbatch; slots 0: not here */
  bool *begun;          /* [n_values]: accumulators that a product begins in each step; others begin with zeros */
  Exchange *exchanges;
  int n_exchanges;
  Update *norms, *updates;
  int n_norms, n_updates;
  bool updates_on_host; /* some of them write states where these lie, in the host's memory */
  Piece *pieces;        /* updates whose states pass through the store's window */
  int n_pieces;
  Transfer *transfers; /* room for what is posted together */
  Ticket *tickets;
  int in_flight;  /* tickets to be waited for */
  double *losses; /* [microbatches]: of this step; they come from the device when the host next waits */
  int n_losses, n_added;
  double total;        /* of the first n_added */
  double busy_seconds; /* in calls, since it was opened; a device's by its own clock, where there are times */
  double *given;       /* [1 + denominators + STEP_SCALARS]: what the host gives the device in a step, each once */
  Tape *tape;          /* at hand; NULL: launches go to the stream */
  Tape run, update;
  DeviceTimes times;
  Event *timers[2];     /* of a rehearsal; NULL: none yet */
  const char *norms_at; /* where the step's norms lie, and how far */
  size_t norms_bytes;
  bool norms_apart; /* too far for one copy */
  char *squares;    /* on the host: that span, or each */
};

/* What lies at this offset of memory->total_bytes, behind what is stored. */
static inline char *executor_at(const Executor *e, size_t offset) {
  const RankMemory *memory = e->memory;
  return offset < memory->persistent_bytes ? e->base + (offset - memory->stored_bytes)
                                           : e->work + (offset - memory->persistent_bytes);
}
/* A persistent value, or a view of one. */
static inline char *executor_persistent(const Executor *e, ValueId value) {
  return e->entries[value] >= 0 ? store_at(e->spec.store, e->entries[value])
                                : executor_at(e, memory_persistent_offset(e->memory, value));
}

/* Whether a rehearsal may run its updates: offloaded states have no memory then. */
static inline bool executor_rehearses_updates(const Executor *e) {
  return !(e->spec.rehearses && e->memory->offloads);
}

/* Fills everything from `stages` on. The memory is allocated. */
Status executor_lay_out(Executor *executor);
/* An update node over these operands [n_in], which stay. */
Status executor_make_update(Executor *executor, const Node *node, Tensor *operands, Update *update);
/* Has the backend run some updates as one, where it can: the first of them does. */
Status executor_join(Executor *executor, Update *updates, int n);
/* Its last part: the host's places, `losses`, `given` and `squares`. */
Status executor_stage(Executor *executor);
/* Enqueues the copy from a site's host place to the device, or back. Nothing where they are one. */
Status executor_stage_in(Executor *executor, const Site *site, int microbatch);
Status executor_stage_out(Executor *executor, const Site *site, int microbatch);

/* Wires (wires.c). */
static inline bool way_is_wire(Way way) {
  return way == WAY_COPY || way == WAY_NCCL;
}
Way executor_way(const Executor *executor, int peer);
Status executor_wire_post(Executor *executor, Way way, const Transfer *transfers, int n, Ticket *tickets);
Status executor_wire_wait(Executor *executor, Way way, Ticket ticket);
void executor_disconnect(Executor *executor, bool failed);
/* Until all that was enqueued is done; reports its errors, and peers that are gone. */
Status executor_wait(Executor *executor);
/* Until every rank has come so far, where hosts run ahead of their devices. */
Status executor_agree(Executor *executor);

/* Puts the microbatch's part of an input in the port's host place. */
Status executor_feed(const Executor *executor, const Port *port, const StepWork *work, int microbatch);
/* Begins a step: accumulators that have to be are zero. */
Status executor_clear(Executor *executor);
/* Runs one call for a microbatch, now. */
Status executor_call(Executor *executor, Call *call, int microbatch);
/* Enqueues n numbers for a value that this rank may have, by way of given[at …]. */
Status executor_give(Executor *executor, ValueId value, const double *numbers, size_t n, size_t at);
/* Copies between the rank's memory and the host, done on return. */
Status executor_to_host(Executor *executor, void *to, const void *from, size_t bytes);
Status executor_from_host(Executor *executor, void *to, const void *from, size_t bytes);

#endif
