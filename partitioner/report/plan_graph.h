/* The model's graph on the page of a plan. Inside the folder. */
#ifndef PARTITIONER_REPORT_PLAN_GRAPH_H
#define PARTITIONER_REPORT_PLAN_GRAPH_H

#include "partitioner/plan/plan.h"

/* Adds a picture of the model's blocks, coloured by stage, and what goes from one to another that does not follow it.
 */
Status plan_graph_add(Arena *arena, const Plan *plan, Text *text);

/* Adds a table of the cuts with their reasons; nothing for one stage. */
Status plan_cuts_add(const Plan *plan, Text *text);

#endif
