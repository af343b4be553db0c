/* What runs again, in the plan file. */
#ifndef PARTITIONER_PLAN_AGAIN_H
#define PARTITIONER_PLAN_AGAIN_H

#include <jansson.h>

#include "partitioner/plan/plan.h"

/* Nodes of the stage that run again, as pairs of the first and the last number of those that follow one another: an
 * array. NULL where memory is out. */
json_t *plan_again_json(const Plan *plan, int stage);
/* plan->again from the plan's stages, NULL where nothing runs again. `forward` [n_forward], whose stages are known: the
 * nodes by number. E_MODEL where a pair is out of order or of the stage, or a node runs once. */
Status plan_again_read(Arena *arena, const json_t *stages, const NodeId *forward, int n_forward, Plan *plan);

#endif
