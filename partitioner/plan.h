/* A plan: which node in which stage, which stage on which rank, what it takes in time and memory, in which order it
 * runs. One readable JSON file from what-if to run. Making a plan reads no weights. */
#ifndef PARTITIONER_PLAN_H
#define PARTITIONER_PLAN_H

#include <jansson.h>

#include "graph/cost.h"
#include "graph/memory.h"
#include "partitioner/schedule.h"

typedef struct {
  double latency_seconds;
  double bytes_per_second;
} LinkSpec;

typedef struct {
  double forward_seconds, backward_input_seconds, backward_weight_seconds; /* one microbatch */
  size_t parameter_bytes, constant_bytes;
  size_t cut_forward_bytes, cut_backward_bytes; /* over the cut after this stage */
  const char *first_node, *last_node;
} StageReport;

typedef struct {
  Graph *graph; /* the training graph the plan was made for; stages assigned */
  const char *model_hash;
  int ranks, chunks, stages, microbatches;
  int64_t microbatch_size;
  int *stage_of; /* [n forward nodes' ids]: stage of each forward node */
  Stages cuts;
  Schedule schedule;
  StageMemory *stage_memory;   /* [stages] */
  RankMemory *rank_memory;     /* [ranks] */
  StageReport *reports;        /* [stages] */
  double step_seconds, bubble; /* predicted */
} Plan;

/* Measured seconds of nodes: handed in by the runtime's profiler. NULL in a request: the roofline of DeviceSpec. */
typedef struct {
  const double *node_seconds; /* [graph->n_nodes]; a negative one is unknown */
} Profile;

typedef struct {
  const char *model_hash;
  int ranks, chunks, microbatches;
  int64_t microbatch_size;
  const char *schedule;        /* a name of schedule_names, or "auto" */
  const DeviceSpec *devices;   /* [ranks] */
  const size_t *memory_limits; /* [ranks]; 0: the device's */
  LinkSpec link;
  const Profile *profile;
} PlanRequest;

/* Partitions, schedules, checks and lays out memory. Fails E_MEMORY where nothing fits, naming the rank that lacks
 * most and by how much, and the smallest limit that would do; E_USAGE where there are more stages than cuts. */
Status plan_make(Arena *arena, Graph *graph, const PlanRequest *request, Plan *plan);

/* Writes and reads the plan file. Reading refuses a plan of another model (hash), or one whose numbers contradict
 * the graph, naming both; the result is complete as from plan_make. */
Status plan_write(const Plan *plan, const char *path);
Status plan_read(Arena *arena, const char *path, Graph *graph, const PlanRequest *request, Plan *plan);
/* The same as text in memory: what rank 0 broadcasts. *text lives in the arena; `origin` names it in messages. */
Status plan_to_text(Arena *arena, const Plan *plan, const char **text);
Status plan_from_text(Arena *arena, const char *text, const char *origin, Graph *graph, const PlanRequest *request,
                      Plan *plan);
/* ranks, chunks, microbatches, microbatch_size, schedule as a plan file states them, before a graph exists. */
Status plan_peek(Arena *arena, const char *path, PlanRequest *request);

/* Prints stages with nodes, time, memory and cut bytes, and the rank × time grid, at most `columns` wide. */
Status plan_print(const Plan *plan, FILE *file, int columns);

#endif
