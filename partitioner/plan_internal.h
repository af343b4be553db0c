/* What the files of the plan share. */
#ifndef PARTITIONER_PLAN_INTERNAL_H
#define PARTITIONER_PLAN_INTERNAL_H

#include "partitioner/plan.h"

/* How many slots each block of every stage needs when the ranks walk these lists: slots [stages]. */
Status plan_slots(Arena *arena, const Schedule *schedule, const StageMemory *stage_memory, int (*slots)[MAX_BLOCKS]);

/* Lays out every stage and rank for plan->graph, cuts and schedule: fills stage_memory and rank_memory. */
Status plan_memory(Arena *arena, Plan *plan);

#endif
