/* A plan: which node in which stage, which stage on which rank, what it takes in time and memory, in which order it
 * runs. One readable JSON file from what-if to run. Making a plan reads no weights. */
#ifndef PARTITIONER_PLAN_PLAN_H
#define PARTITIONER_PLAN_PLAN_H

#include "graph/cost.h"
#include "graph/memory.h"
#include "partitioner/synthesis/auto.h"

/* Whether the backward pass computes forward values anew instead of keeping them: never; where nothing fits without,
 * as little as does; wherever it makes a stage smaller. */
typedef enum { RECOMPUTE_NONE, RECOMPUTE_AUTO, RECOMPUTE_FULL } Recomputation;
/* "none", "auto", "full"; and back: E_MODEL where it is none of them. */
extern const char *const plan_recompute_names[];
Status plan_recompute_find(const char *name, Recomputation *recomputation);

typedef struct {
  double latency_seconds;
  double bytes_per_second; /* 0: transfers take no time but the latency */
} LinkSpec;

typedef struct {
  double forward_seconds, backward_input_seconds, backward_weight_seconds; /* one microbatch, on the stage's rank */
  size_t parameter_bytes, constant_bytes;       /* of the stage alone, in units of 64 bytes */
  size_t cut_forward_bytes, cut_backward_bytes; /* over the cut after this stage */
  double cut_bytes_per_second;                  /* 0: they take no time but the latency */
  double again_seconds;                         /* of the backward pass: what runs again in it */
  const char *first_node, *last_node;
  int first, last; /* numbers of these nodes in the order of forward nodes; others' may lie between them */
  int n_nodes;
} StageReport;

/* A cut as it is, or as far away as the next place where one may be. */
typedef struct {
  const char *node; /* the first behind it; NULL: there is no such place between the cuts beside it */
  int nodes;        /* between here and there */
  double below_seconds, above_seconds; /* one microbatch of the stages on both sides, with what they send */
  size_t forward_bytes, backward_bytes;
} CutOption;

typedef struct {
  CutOption here, earlier, later;
} CutReport;

/* What one microbatch sends past stages that do not use it. */
typedef struct {
  size_t passed_bytes;    /* over all cuts: of a value, where the sending stage neither makes nor uses it */
  double relayed_seconds; /* of the rank that sends and receives longest, as it is: over every cut on the way */
  double direct_seconds;  /* the same, got each value from the nearest stage that has it straight to the one that uses
                             it */
} SkipReport;

/* Parameters that are one in the file's sense: "lm_head.weight = wte.weight". Without weights nobody knows. */
typedef struct {
  bool known;
  const char *const *pairs;
  int n_pairs;
} Ties;

/* What a process takes beside its ranks' arenas: the program, graph and plan, data. 0: not known. */
typedef struct {
  size_t beside_bytes;
  size_t mpi_bytes;    /* more, where it is one of an MPI world */
  size_t device_bytes; /* of each rank's device: context and code; 0: all ranks compute in the host's memory */
  size_t nccl_bytes;   /* of a device, more, where its rank exchanges over NCCL, at most */
} ProcessMemory;

typedef struct {
  Graph *graph; /* the graph the plan was made for; stages assigned; a copy of it where something runs again */
  const char *model_hash;
  const char *loss, *optimizer; /* what the graph was made with, by name; NULL: nothing, for inference */
  const char *device;           /* the ranks' backends, "cuda" for all or "cuda:0,cpu", one a rank; NULL: not said */
  const char *precision;        /* of products, by name; NULL: not said */
  const char *offload;          /* what lies in the host's memory, by name: "none", "optimizer"; NULL: not said */
  int ranks, chunks, stages, microbatches;
  int64_t microbatch_size;
  int *stage_of; /* [graph->n_nodes]: stage of each forward node */
  Recomputation recompute;
  const bool *again; /* [graph->n_nodes], of forward nodes: backward runs it again where it reads what it makes; NULL:
                        nothing */
  Stages cuts;
  Schedule schedule;
  StageMemory *stage_memory; /* [stages] */
  RankMemory *rank_memory;   /* [ranks] */
  size_t *memory_limits;     /* [ranks]; SIZE_MAX: none */
  size_t *spared_bytes;      /* [ranks]: what it would take more without recomputation; NULL: there is none */
  StageReport *reports;      /* [stages] */
  CutReport *cut_reports;    /* [stages - 1]; NULL: the plan was read, and costs of nodes are not known */
  SkipReport skips;          /* all 0 where the plan was read */
  Ties ties;
  Objective objective; /* what a step takes: the longest span, or where all ranks wait for all, the makespan */
  /* Predicted: one step with its update, the update of the slowest rank in it (the exchange of accumulators that lie
   * on several ranks included), the bubble of the schedule. */
  double step_seconds, update_seconds, bubble;
  /* Of the schedule by its objective, without the update: no schedule of the placements that were tried, with their
   * stages, is shorter. 0: not known. */
  double lower_bound_seconds;
  const char *named; /* the fastest schedule by name, where the plan was just made with "auto"; else NULL */
  double named_step_seconds;
  double free_step_seconds,
      wished_step_seconds; /* by name, without the request's wishes and with them; 0: it has none */
  LinkSpec link;
  double capacity; /* so many ranks can compute at once where they share cores; 0: all can */
  ProcessMemory process;
} Plan;

/* Measured seconds, handed in by the runtime. NULL: the roofline of DeviceSpec. */
typedef struct {
  const double *node_seconds; /* [graph->n_nodes]; a negative one is unknown */
  double action_seconds;      /* of an F, B, W or BW, beside its nodes */
  double step_seconds;        /* of a step, beside its actions and its update */
} Profile;

typedef struct {
  const char *glob; /* of nodes' names */
  int rank;
} PinWish;

/* What a person wishes of the stages. */
typedef struct {
  const char *const *cuts; /* [n_cuts] tensors: a stage ends with the node that makes it, in the graph's order */
  const PinWish *pins;     /* [n_pins] nodes that lie on a rank */
  const char *const *same; /* [n_same] globs of nodes that lie in one stage */
  int n_cuts, n_pins, n_same;
} StageWishes;

typedef struct {
  const char *model_hash;
  const char *loss, *optimizer;             /* NULL: none, or not asked for */
  const char *device, *precision, *offload; /* as a plan has them; NULL: not said, or not asked for */
  int ranks, chunks, microbatches;
  int64_t microbatch_size;
  const char *schedule;        /* a name of schedule_names, "forward" (a graph without a loss), or "auto" */
  const DeviceSpec *devices;   /* [ranks] */
  const size_t *memory_limits; /* [ranks]; NULL or 0: the device's memory; 0 there too: none */
  LinkSpec link;
  const double *pair_bytes_per_second;    /* [ranks * ranks], sender first; NULL: the link's */
  double capacity;                        /* as a plan has it */
  const double *staging_bytes_per_second; /* [ranks]: between a rank's device and the host's memory, through which goes
                                             what it exchanges; NULL, 0: it computes there */
  double direct_bytes_per_second;         /* between two such devices, where the host takes no part; 0: it does */
  const Profile *profiles;                /* [ranks], on each one's device; NULL: none */
  Ties ties;
  Objective objective;       /* what makes a plan faster than another */
  const Schedule *given;     /* not NULL: this one, whatever `schedule` says; compute actions alone are enough */
  const StageWishes *wishes; /* NULL: none */
  bool synthesize;           /* "auto" is more than the fastest by name: a schedule made for the stages */
  double beat_seconds;       /* ... where it can make a step take less than this; 0: wherever it can */
  bool brief;                /* where nothing fits, what limit would do is not looked for: that takes many plans */
  Recomputation recompute;
  bool recompute_given; /* then a plan file's is the same; else it may be any */
} PlanRequest;

/* Partitions, schedules, checks and lays out memory. Fails E_LIMIT where nothing fits, naming the rank that lacks
 * most and by how much, and the smallest limit that would do; E_USAGE where there are more stages than cuts, for an
 * unknown schedule, or one that does not have so many stages a rank, or wishes that cannot hold; E_MODEL for a given
 * one that is refused. */
Status plan_make(Arena *arena, Graph *graph, const PlanRequest *request, Plan *plan);

/* The best order of the request's devices, where ranks may take them in any: device [ranks] of each rank. All orders
 * are tried where they are few, else changes of the given one. By the slowest stage of one stage a rank, in estimated
 * memory, then by what all cuts take; *gain: the part of the former that is won on the given order (1: that does not
 * fit). The given order stays where none is better. */
Status plan_seat(const Graph *graph, const PlanRequest *request, int *device, double *gain);

/* Writes and reads the plan file. Of the request, reading uses what is set: model_hash, loss, optimizer, device (but
 * for the numbers of devices), precision, offload, ranks, chunks, microbatches, microbatch_size, schedule (not NULL,
 * not "auto"), and with ranks memory_limits and devices. It refuses a plan that contradicts one of these (E_USAGE), or
 * whose numbers contradict the graph (E_MODEL), naming both; fails E_LIMIT where a rank's memory exceeds its limit.
 * The result is complete as from plan_make. */
Status plan_write(const Plan *plan, const char *path);
Status plan_read(Arena *arena, const char *path, Graph *graph, const PlanRequest *request, Plan *plan);
/* The same as text in memory: what rank 0 broadcasts. *text lives in the arena; `origin` names it in messages. */
Status plan_to_text(Arena *arena, const Plan *plan, const char **text);
Status plan_from_text(Arena *arena, const char *text, const char *origin, Graph *graph, const PlanRequest *request,
                      Plan *plan);
/* model_hash, loss, optimizer, device, precision, offload, ranks, chunks, microbatches, microbatch_size, schedule,
 * objective, link and ties as a plan file states them, before a graph exists; the rest of *request is left alone. */
Status plan_peek(Arena *arena, const char *path, PlanRequest *request);

/* A plan of a second graph of the model on the ranks of a first one, whose parameters it shares: its nodes lie where
 * the ranks hold what training writes, else with the first graph's node of their name. A forward graph (for
 * evaluation): the microbatches follow each other up the stages. One that trains (an uneven last batch), with at most
 * as many microbatches as the first: they keep the first plan's schedule, and the accumulators its ranks. *beside_bytes
 * [ranks], in the arena: what it takes on each rank beside the first plan's memory, in which one that trains works, too
 * (memory_work_bytes). Times are not predicted. Fails E_UNSUPPORTED naming a node or a parameter that has no such
 * place, E_USAGE as stages_assign does. */
Status plan_follow(Arena *arena, Graph *graph, const Plan *first, int microbatches, int64_t microbatch_size, Plan *plan,
                   size_t **beside_bytes);

/* Bytes that are live on the action's rank from its beginning on, for it makes or receives them, and bytes that are not
 * any more when it has ended; what its nodes use in turn and what is sent and not yet there left out. */
void plan_action_bytes(const Plan *plan, Action action, size_t *born, size_t *died);

/* "rank 1 (stages 1 and 6)", for messages, into text of at least 96 bytes; returns text. */
char *plan_rank_text(const Plan *plan, int rank, char *text);

/* "1.5 GiB" into text of at least 24 bytes; returns text. */
char *plan_bytes_text(size_t bytes, char *text);

/* The plan's stages as the simulator wants them. */
Status plan_timing(Arena *arena, const Plan *plan, Timing *timing);

#endif
