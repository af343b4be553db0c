/* Settings that schedules are made for, as requests of the synthesis. */
#ifndef TESTS_PARTITIONER_AUTO_CASE_H
#define TESTS_PARTITIONER_AUTO_CASE_H

#include "partitioner/synthesis/auto.h"
#include "tests/test.h"

/* Milliseconds and microbatches a rank, as `simulate` takes them. */
typedef struct {
  int ranks, microbatches;
  double f[32], b[32], w[32], limit[32], latency;
} Setting;

typedef struct {
  Timing timings[3];
  AutoCandidate candidates[3];
  AutoRequest request;
} Asked;

static inline Setting equal(int ranks, int microbatches, double f, double b, double w, double latency, double limit) {
  Setting setting = {.ranks = ranks, .microbatches = microbatches, .latency = latency};
  for (int rank = 0; rank < ranks; rank++) {
    setting.f[rank] = f;
    setting.b[rank] = b;
    setting.w[rank] = w;
    setting.limit[rank] = limit;
  }
  return setting;
}

static inline double *per_stage(Arena *arena, const double *per_rank, const int *rank_of_stage, int stages,
                                int chunks) {
  double *array = arena_alloc(arena, (size_t)stages, sizeof(double));
  for (int stage = 0; stage < stages; stage++)
    array[stage] = (per_rank ? per_rank[rank_of_stage[stage]] : 1) / chunks;
  return array;
}

/* A line of one stage a rank, a loop and a V of two. */
static inline void ask(Arena *arena, const Setting *setting, Objective objective, Asked *asked) {
  for (int i = 0; i < 3; i++) {
    Placement placement = (Placement)i;
    int chunks = placement == PLACE_LINE ? 1 : 2, stages = chunks * setting->ranks;
    int *rank_of_stage = arena_alloc(arena, (size_t)stages, sizeof(int));
    placement_ranks(placement, setting->ranks, chunks, rank_of_stage);
    asked->timings[i] = (Timing){.ranks = setting->ranks,
                                 .stages = stages,
                                 .microbatches = setting->microbatches,
                                 .rank_of_stage = rank_of_stage,
                                 .forward_seconds = per_stage(arena, setting->f, rank_of_stage, stages, chunks),
                                 .backward_input_seconds = per_stage(arena, setting->b, rank_of_stage, stages, chunks),
                                 .backward_weight_seconds = per_stage(arena, setting->w, rank_of_stage, stages, chunks),
                                 .activation = per_stage(arena, NULL, rank_of_stage, stages, chunks),
                                 .backward_input_frees = 0.5,
                                 .memory_limit = setting->limit[0] > 0 ? setting->limit : NULL,
                                 .link_latency_seconds = setting->latency};
    asked->candidates[i] = (AutoCandidate){placement, &asked->timings[i], NULL};
  }
  asked->request = (AutoRequest){.candidates = asked->candidates, .n_candidates = 3, .objective = objective};
}

#endif
