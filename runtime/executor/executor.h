/* One rank's part of a plan, on one backend: lays out its memory once, over the rank's store, then walks the rank's
 * action list step after step. Invariant: inside a step no allocation, but in the second one that runs
 * on a device, and no host wait but for transfers, and for the device once at the end of its run.
 *
 * F, B and W of a stage run in increasing microbatch order, whatever the schedule; so every accumulator adds in the
 * same order, and the bits do not depend on ranks, stages, schedule or transport. */
#ifndef RUNTIME_EXECUTOR_EXECUTOR_H
#define RUNTIME_EXECUTOR_EXECUTOR_H

#include "backend/backend.h"
#include "graph/optimizer.h"
#include "partitioner/plan/plan.h"
#include "runtime/executor/boundary.h"
#include "runtime/executor/store.h"
#include "runtime/executor/trace.h"

typedef struct Executor Executor;

/* Microbatch m's part of a model input or of the target, dense, in host memory. */
typedef Status Feed(void *context, ValueId input, int microbatch, void *data, size_t bytes);
/* A graph output of microbatch m (inference only), dense, in host memory. */
typedef Status Emit(void *context, ValueId output, int microbatch, const void *data, size_t bytes);

typedef struct {
  const Plan *plan;
  int rank;
  Store *store;                 /* on the rank's device; outlives the executor */
  const Transport *transport;   /* NULL with one rank */
  Endpoint *endpoint;           /* of CHANNEL_DATA */
  const Boundaries *boundaries; /* NULL: pinned memory wherever there is a device */
  Load *load;
  void *load_context;
  bool loads_states; /* of the optimizer, too; else they are zeros */
  Trace *trace;      /* NULL: nothing is recorded; outlives the executor */
  bool times;        /* a device's seconds are wanted, without a trace, too */
  Watch *watch;      /* NULL: nobody watches; outlives the executor */
  size_t work_bytes; /* behind persistent values, at least: another one may work there, too */
  Executor *host;    /* NULL, or one of the same store, of at least as many bytes, that has this memory for it */
  bool rehearses;    /* without a transport, whatever ranks the plan has: for executor_rehearse alone */
} ExecutorSpec;

/* Takes what plan->rank_memory[rank] says: of the store what it keeps of the graph, loaded where it was not before, the
 * rest as memory of its own (behind persistent values the host's, if there is one), with constants written and
 * accumulators zero. Executors of one store run one at a time, a step each. A host outlives its guests. Fails E_MEMORY,
 * or as `load` does. */
Status executor_open(const ExecutorSpec *spec, Executor **executor);
void executor_close(Executor *executor);
/* Opens the wires that boundaries have, on every rank alike, after executor_open has succeeded on all of them and
 * before the first step. Collective: a rank that fails must withdraw from the transport. */
Status executor_connect(Executor *executor);

typedef struct {
  const double *denominators;       /* totals of graph->denominators; NULL where it has none */
  double loss_scale;                /* 1 / the whole batch's denominator */
  int64_t counter[COUNTER_NUMBERS]; /* of microbatch 0; where the graph has a counter */
  int64_t samples;                  /* of a microbatch */
  Feed *feed;
  Emit *emit; /* NULL in training */
  void *context;
} StepWork;

/* Walks the action list over all microbatches, then brings the accumulators of parameters that lie on several ranks
 * to each of them. *loss: the microbatches' loss_sum, added in microbatch order, times loss_scale, where this rank
 * has the loss (executor_has_loss), else 0. A loss that is not finite fails E_MODEL, naming the microbatch, and no rank
 * can reach its update: the cotangent does not leave the rank before the host has seen the loss, or, where wires take
 * it, no rank returns OK before every rank's device is done and well. A rank that fails withdraws from the transport:
 * all others fail with its message. */
Status executor_run(Executor *executor, const StepWork *work, double *loss);
bool executor_has_loss(const Executor *executor);

/* The squared norm of each parameter's gradient, as the last run left it, into squares[i] for the graph's i-th
 * SquaredNorm node, which belongs to its i-th OP_UPDATE node, where this rank owns it (it has the parameter's first
 * group); others are left alone. */
void executor_squares(const Executor *executor, double *squares);

/* Runs the update nodes of this rank's parameters, at most once after a run. A device may be at it still on return: its
 * errors are the next run's, or whoever's who waits next. */
Status executor_update(Executor *executor, const double scalars[STEP_SCALARS]);
/* Until all of it is done. */
Status executor_settle(Executor *executor);

/* What one pass takes. Zero before it, but for `until`. */
typedef struct {
  double *seconds; /* [n_nodes]: of all calls of the node */
  int *calls;      /* [n_nodes] */
  /* NULL: every node is called; else one of each kind (-1: whichever), whose `done` becomes true. */
  const int *kind_of;                    /* [n_nodes] */
  bool *done;                            /* [kinds] */
  double until;                          /* of clock_seconds: no node is called after */
  bool late;                             /* that came to pass: not all of the step was walked */
  int actions;                           /* F, B, W, BW */
  double nodes_seconds, actions_seconds; /* in nodes; in actions beside their nodes */
  double begin_seconds, pass_seconds;    /* of zeros and what the host gives; of all */
} Rehearsal;

/* Walks this rank's actions of microbatches below `microbatches`, norms and updates as a step does, but alone: what
 * would be received has whatever contents there are, nothing is sent, and no contents make it fail. Afterwards the
 * store holds nothing of use. */
Status executor_rehearse(Executor *executor, const StepWork *work, const double scalars[STEP_SCALARS], int microbatches,
                         Rehearsal *rehearsal);
/* What would be received, dense, in host memory. */
typedef void MakeUp(void *context, ValueId value, void *data, size_t bytes);
/* Has `fill` write it. */
Status executor_make_up(Executor *executor, MakeUp *fill, void *context);

/* Seconds that this rank's nodes have taken so far, waiting apart; of a device by its own clock, up to where the host
 * last waited for it. Negative where they are not known: nobody asked for a device's, or other ranks have it, too. */
double executor_busy_seconds(const Executor *executor);
/* The same of each stage's F, B and W, into seconds [stages]; 0 for those of other ranks. */
void executor_stage_seconds(const Executor *executor, double *seconds);

/* How many recordings of its launches a step replays; 0: they are launched one by one. */
int executor_recordings(const Executor *executor);

/* Persistent values (parameters, accumulators, states) of this rank: whether it has one, its contents. */
bool executor_holds(const Executor *executor, ValueId value);
Status executor_read(Executor *executor, ValueId value, void *data, size_t bytes);
Status executor_write(Executor *executor, ValueId value, const void *data, size_t bytes);

#endif
