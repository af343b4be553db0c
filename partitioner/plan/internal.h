/* What the files of the plan share. */
#ifndef PARTITIONER_PLAN_INTERNAL_H
#define PARTITIONER_PLAN_INTERNAL_H

#include "partitioner/plan/plan.h"
#include "partitioner/schedule/simulate.h"

/* What the partition sees of a graph: the forward nodes in order, each with its backward nodes. */
typedef struct {
  int n;
  NodeId *node;          /* [n] */
  int *item_of;          /* [graph->n_nodes]: the item of a forward or backward node; -1: an update node */
  double **node_seconds; /* [ranks][graph->n_nodes]: one run on the rank's device; like ranks share theirs */
  double **seconds;      /* [ranks][n]: node and its backward nodes, one microbatch; shared alike */
  size_t *forward_bytes, *backward_bytes; /* [n + 1]: over a cut before item i */
  bool *may_cut;                          /* [n + 1] */
} PlanItems;

/* Forward nodes in this order, or, where it is NULL, in the graph's. Fails E_LIMIT where bytes overflow. */
Status plan_items(Arena *arena, const Graph *graph, const PlanRequest *request, const NodeId *order, PlanItems *items);
/* The node of which a buffer's new contents come: of a batch normalisation's statistics, through casts. */
const Node *plan_buffer_source(const Graph *graph, const Node *writer);

/* A lower estimate of a stage's memory that slides over the items: persistent bytes, what backward keeps, and the
 * largest single node's temporaries. Monotone in the interval. */
typedef struct PlanWindow PlanWindow;
Status plan_window_create(Arena *arena, const Graph *graph, const PlanItems *items, PlanWindow **window);
/* Bytes of items [from, to) with so many microbatches in flight. Amortised constant time while neither end moves back.
 */
size_t plan_window_bytes(PlanWindow *window, int from, int to, int in_flight);

/* The request's wishes as the partition sees them; *wishes is NULL where there are none. Forbids cuts of the items.
 * E_USAGE where one cannot hold, with the reason. */
typedef struct PlanWishes PlanWishes;
Status plan_wish(Arena *arena, const Graph *graph, const PlanRequest *request, PlanItems *items, PlanWishes **wishes);
/* Whether items [from, to) may be one stage on this rank; with an interval all within it may. */
bool plan_wishes_allow(const PlanWishes *wishes, int rank, int from, int to);

/* The best cuts of a placement whatever memory stages take: they are the best of those that fit where they fit. */
typedef struct FreeCuts {
  const int *rank_of_stage; /* [stages] */
  const int *cut;           /* [stages + 1] */
  double bottleneck;
  struct FreeCuts *next;
} FreeCuts;

/* What making a plan knows from its beginning to its end. */
typedef struct {
  Arena *arena; /* goes when the plan is made */
  Graph *graph;
  const PlanRequest *request;
  PlanItems items;
  PlanWindow *window;
  FreeCuts **free_cuts; /* of placements that were tried, in the arena */
  PlanWishes *wishes;   /* NULL: none */
  int stages;
  const size_t *limits;    /* [ranks] */
  Recomputation recompute; /* now: what the request says, but none before `auto` needs it */
} PlanSearch;

/* A schedule with the best cut that was found for it. */
typedef struct {
  const char *schedule;      /* its name */
  const Schedule *synthesis; /* not NULL: this one, in the search's arena, whatever the name */
  int *cut;                  /* [stages + 1] */
  const bool *again;         /* [graph->n_nodes], in the search's arena: what runs again; NULL: nothing */
  double step_seconds;
  size_t largest; /* bytes of the largest rank */
  size_t excess;  /* most bytes of a rank over its limit */
  int rank;       /* whose excess it is */
  size_t needs;   /* that rank's bytes */
} PlanCandidate;

/* What sending takes behind each of the stages on these ranks: seconds [stages - 1][items + 1]. Those of the same rate
 * share theirs. */
Status plan_price_cuts(const PlanSearch *search, const PlanItems *items, Arena *arena, const int *rank_of_stage,
                       const double **seconds);
/* Another order of the items, in which cuts are better than in theirs; *order is NULL where none was found. */
Status plan_order(const PlanSearch *search, NodeId **order);

/* Cuts for the schedule of candidate->schedule under these limits; fills in the rest. E_LIMIT where nothing fits. */
Status plan_try_schedule(const PlanSearch *search, const char *schedule, const size_t *limits,
                         PlanCandidate *candidate);
/* The candidate's schedule for a plan whose cuts are known; crossings NULL: not yet, it may lack transfers. */
Status plan_draw(const PlanSearch *search, Arena *arena, const PlanCandidate *candidate, const Crossings *crossings,
                 Schedule *schedule);
/* A whole plan of the candidate, in the arena; stages of the graph's nodes are assigned. */
Status plan_build(const PlanSearch *search, Arena *arena, const PlanCandidate *candidate, Plan *plan);
/* Time and memory of the plan, against these limits. */
void plan_judge(const Plan *plan, const size_t *limits, PlanCandidate *candidate);

/* What is to run again of a plan without recomputation of this candidate: all that makes the stages smaller, with
 * RECOMPUTE_FULL; else what brings ranks under these limits, as fast as may be. Judges the candidate with it; what does
 * not fit even so has excess. */
Status plan_recompute(const PlanSearch *search, const Plan *plan, const size_t *limits, bool relaxes,
                      PlanCandidate *candidate);

/* What synthesis came to. */
typedef struct {
  double lower_bound_seconds; /* of the objective: no schedule of the stages that were tried is shorter */
  bool taken;                 /* *best is the synthesised schedule now */
} PlanSynthesis;

/* Makes a schedule for the stages of *best, the fastest by name, and for those of other placements with as many stages
 * a rank; takes it where it is faster and fits. */
Status plan_synthesise(const PlanSearch *search, PlanCandidate *best, PlanSynthesis *result);

/* How many slots each block of every stage needs when the ranks walk these lists: slots [stages]. */
Status plan_slots(Arena *arena, const Schedule *schedule, const StageMemory *stage_memory, int (*slots)[MAX_BLOCKS]);

/* Lays out every stage and rank for plan->graph, cuts and schedule: fills stage_memory and rank_memory. */
Status plan_memory(Arena *arena, Plan *plan);

/* From graph, stage_of, `again` and the numbers of stages: the cuts, and the graph with what runs again. */
Status plan_cut(Arena *arena, Plan *plan);
/* What crosses the cuts, for schedules. */
Status plan_crossings(Arena *arena, const Plan *plan, Crossings *crossings);
/* From cuts and schedule: proves the schedule, lays out memory, fills in the bytes and nodes of the reports. */
Status plan_finish(Arena *arena, Plan *plan);
/* Bytes a second that two ranks exchange; 0: they take no time. */
double plan_link_rate(const PlanRequest *request, int from, int to);
/* Times of the reports, and the step that they predict. */
Status plan_time(const PlanItems *items, const PlanRequest *request, Plan *plan);
Status plan_predict(Plan *plan);
/* Seconds of the schedule alone, by the plan's objective. */
double plan_schedule_seconds(const Plan *plan, const Simulation *simulation);

/* What relaying costs, and what sending direct would: fills in skips. */
Status plan_price_skips(const PlanRequest *request, Plan *plan);

/* What moving each cut to the next places would cost: fills in cut_reports. */
Status plan_weigh_cuts(const PlanSearch *search, Arena *arena, Plan *plan);

/* The limit of each rank as the request has it; SIZE_MAX: none. */
Status plan_limits(Arena *arena, const PlanRequest *request, int ranks, size_t **limits);

/* A deep copy. */
Status plan_copy_ties(Arena *arena, Ties from, Ties *to);

#endif
