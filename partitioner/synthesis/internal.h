/* What the parts of the synthesis share: the problem in flat arrays, orders of actions, their timing. */
#ifndef PARTITIONER_SYNTHESIS_INTERNAL_H
#define PARTITIONER_SYNTHESIS_INTERNAL_H

#include "partitioner/synthesis/auto.h"

/* Stages of a rank are its chunks, in ascending order. An operation is (stage, kind, microbatch) with the number
 * (stage * 3 + kind) * microbatches + microbatch; a stage that no gradient leaves has a B that takes no time and
 * frees nothing, so that every stage has three kinds. */
typedef struct {
  const Timing *timing;
  const Crossings *crossings;
  Placement placement;
  Objective objective;
  int ranks, stages, microbatches, most_chunks, operations;
  int *first_chunk;       /* [ranks + 1]: into chunk_stage */
  int *chunk_stage;       /* [stages], by rank */
  int *chunk_of_stage;    /* [stages] */
  int *sequence_begin;    /* [ranks + 1]: into a sequence of operations */
  double *seconds[3];     /* [F, B, W][stages] */
  double *memory[3];      /* [F, B, W][stages]: what an operation adds to what the rank holds */
  double *lag[2];         /* [F, B][stages]: from the end on one side of the cut behind a stage to the other */
  bool *gradient_crosses; /* [stages]: B of the stage waits for the next stage's */
  double *limit;          /* [ranks]; INFINITY: none */
  double *work;           /* [ranks] */
  double busiest_seconds; /* of work */
  double period;          /* the busiest rank's work for one microbatch */
  double bound_seconds;   /* of the objective */
} Problem;

/* An order of all operations on their ranks. */
typedef struct {
  int *sequence; /* [operations]: rank after rank, as sequence_begin says */
  double value;  /* the objective in seconds; INFINITY: not timed, or it waits for ever */
} Order;

/* Reused from one timing to the next; belongs to one problem. */
typedef struct {
  double *begin, *end; /* [operations] */
  double *span;        /* [ranks]: what the objective counts, until the rank's last operation ends */
  double *rank_free;
  int *next, *stack;
  bool *stacked;
} Clock;

/* How the list scheduler decides. Seconds. */
typedef struct {
  bool reverse;            /* from the last operation to the first */
  bool patient_with_all;   /* the budgets count for F and B too, not for the filler alone */
  bool shares_slack;       /* budget: what the rank that idles most has idled */
  bool blocked_is_skipped; /* what finds no room leaves its turn to others instead of having room made */
  double patience[3];      /* by kind: an operation gives way to a better one that comes within this fraction of it */
  double first_patience;   /* of all kinds, until the rank's first backward */
  double first_reserve;    /* how much of start_room is kept free until the first F of a rank's last stage */
  double horizon;          /* how far ahead of what waits on the rank memory may be taken */
  double first_horizon;    /* the same until the rank's first backward */
  double idle_budget;      /* idle that a rank may spend on giving way; negative: none */
  const double *spared;    /* [ranks]: idle of an earlier pass, with shares_slack; NULL: none */
  double cutoff;           /* gives up where the objective cannot come below it */
} ListPolicy;

typedef struct ListScheduler ListScheduler;

/* Deterministic everywhere: no function of libm takes part. */
typedef struct {
  uint64_t state;
} Random;

static inline double random_unit(Random *random) { /* [0, 1) */
  random->state ^= random->state << 13;
  random->state ^= random->state >> 7;
  random->state ^= random->state << 17;
  return (double)(random->state >> 11) / 9007199254740992.0;
}
static inline int random_below(Random *random, int n) {
  return (int)(random_unit(random) * n);
}
static inline double random_bell(Random *random) { /* mean 0, variance 1, bounded */
  double sum = 0;
  for (int i = 0; i < 6; i++)
    sum += random_unit(random);
  return (sum - 3) * 1.4142135623730951;
}

static inline int operation_of(const Problem *problem, int stage, int kind, int microbatch) {
  return (stage * 3 + kind) * problem->microbatches + microbatch;
}

/* The candidate in flat arrays of the arena, its bound included; keeps its timing and crossings. E_USAGE: a rank has no
 * stage, or there are too many operations. */
Status problem_make(Arena *arena, const AutoCandidate *candidate, Objective objective, Problem *problem);
/* E_LIMIT with the rank that cannot hold one microbatch. */
Status problem_fits(const Problem *problem);

/* Room for an order of the problem's operations; it is none yet, and not timed. */
Status order_make(Arena *arena, const Problem *problem, Order *order);
/* Sequence and value; both are of this problem. */
void order_copy(const Problem *problem, Order *to, const Order *from);
/* Whether the rank keeps within its memory. */
bool order_fits(const Problem *problem, const Order *order, int rank);
/* The order of a schedule's lists, BW as B and W. False: it is of other stages or holds more than a rank may. */
bool order_take(const Problem *problem, const Schedule *schedule, Order *order);
/* The order as lists of compute actions. */
Status order_schedule(Arena *arena, const Problem *problem, const Order *order, Schedule *schedule);

/* Room for the times of an order. */
Status clock_make(Arena *arena, const Problem *problem, Clock *clock);
/* Times the order, every operation as early as possible, and sets its value; INFINITY where it waits for ever. */
void clock_run(const Problem *problem, Clock *clock, Order *order);

/* Room for list scheduling; keeps the problem. */
Status list_make(Arena *arena, const Problem *problem, ListScheduler **scheduler);
/* Takes the operation of the smallest key [operations] wherever a rank is free. False where it ran into the cutoff
 * or stopped. The order is not timed. */
bool list_run(ListScheduler *scheduler, const double *key, const ListPolicy *policy, Order *order);
/* Of the last run: [operations] ends, counted from the side where it began; [ranks] idle, less what the rank has to
 * spare because others have more work. */
const double *list_ends(const ListScheduler *scheduler);
const double *list_idle(const ListScheduler *scheduler);

/* How many operations all runs took: the measure of work spent. */
double list_work(const ListScheduler *scheduler);

/* Recipes for keys and policies, the best of a growing number of tries; then orders improved without recipe. */
typedef struct Search Search;
/* Room for a search that has found nothing yet; keeps the problem. All it will do follows from the seed. */
Status search_make(Arena *arena, const Problem *problem, uint64_t seed, Search **search);
/* Tries recipes until `operations` more were placed or the bound is reached. */
void search_run(Search *search, double operations);
/* Begins with what rounds make. */
Status search_rounds(Search *search);
/* Goes on with the named schedules of the placement that fit into memory, improved until about so many `operations`
 * were placed. */
Status search_named(Search *search, double operations);
/* Turns the best recipes into orders and improves them and the best, for `operations` more timed, and about `placed`
 * more placed. */
Status search_polish(Arena *arena, Search *search, double operations, double placed);
/* The best found so far; its value is INFINITY while there is none. */
const Order *search_best(const Search *search);

/* Moves single operations along the critical path of the worst ranks while that helps, until `operations` were timed;
 * the order must be one that runs. */
Status improve_order(Arena *arena, const Problem *problem, Clock *clock, Random *random, double operations,
                     Order *order);

/* One order made in rounds (rounds.c), timed. Its value is INFINITY where the placement is no V of two stages a rank,
 * or the rhythm does not fit into the memory. */
Status rounds_order(Arena *arena, const Problem *problem, Clock *clock, Order *order);

/* A proved lower bound of the objective for any order. */
Status bound_find(Arena *arena, const Problem *problem, double *seconds);

#endif
