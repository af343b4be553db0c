/* Memory of a plan: the layouts of stages and ranks, with as many slots as the schedule keeps microbatches in flight.
 * Invariant: when an action of microbatch m writes a slot, microbatch m - slots is done with it. */
#include "partitioner/plan/internal.h"

/* One block while its rank's list is walked. */
typedef struct {
  int live, most_live;   /* microbatches between birth and death */
  int ahead, most_ahead; /* microbatches born whose sending action has not begun */
} Count;

static bool is_kind(Action action, ActionKind a, ActionKind b) {
  return action.kind == a || action.kind == b;
}

/* Whether the action is a stage's F, B or W, a BW being both of these. */
static bool reaches(Action action, int stage, Point point) {
  if (action.stage != stage)
    return false;
  return point == POINT_F   ? action.kind == ACTION_F
         : point == POINT_B ? is_kind(action, ACTION_B, ACTION_BW)
         : point == POINT_W ? is_kind(action, ACTION_W, ACTION_BW)
                            : false;
}

/* Whether the action makes the stage's blocks that are born at this point. */
static bool bears(const Schedule *s, Action action, int stage, Point born) {
  if (born == POINT_RECV_F) {
    bool here = s->rank_of_stage[stage - 1] == s->rank_of_stage[stage];
    return here ? reaches(action, stage - 1, POINT_F) : action.kind == ACTION_RECV_F && action.stage == stage;
  }
  if (born == POINT_RECV_B) {
    bool here = s->rank_of_stage[stage + 1] == s->rank_of_stage[stage];
    return here ? reaches(action, stage + 1, POINT_B) : action.kind == ACTION_RECV_B && action.stage == stage;
  }
  return reaches(action, stage, born);
}

static void step(const Schedule *s, Action action, int stage, const Block *block, Count *count) {
  Point sends = block->dies == POINT_F ? POINT_F : POINT_B;
  if (bears(s, action, stage, block->born)) {
    count->live++;
    count->most_live = count->live > count->most_live ? count->live : count->most_live;
    if (block->born != sends)
      count->ahead++;
    count->most_ahead = count->ahead > count->most_ahead ? count->ahead : count->most_ahead;
  }
  if (block->born != sends && reaches(action, stage, sends))
    count->ahead--;
  if (reaches(action, stage, block->dies))
    count->live--;
}

/* A block that is sent waits for its send: the sending action of m waits for the send of m - send_depth, so when m is
 * born, with most_ahead microbatches at most before that action, the send of m - most_ahead - send_depth is done. */
Status plan_slots(Arena *arena, const Schedule *schedule, const StageMemory *stage_memory, int (*slots)[MAX_BLOCKS]) {
  Count(*counts)[MAX_BLOCKS];
  TRY(ARENA_NEW(arena, counts, schedule->stages));
  for (int r = 0; r < schedule->ranks; r++)
    for (int i = 0; i < schedule->lists[r].n_actions; i++) {
      Action action = schedule->lists[r].actions[i];
      int from = action.stage > 0 ? action.stage - 1 : 0, to = action.stage + 1;
      for (int stage = from; stage <= to && stage < schedule->stages; stage++)
        for (int b = 0; schedule->rank_of_stage[stage] == r && b < stage_memory[stage].n_blocks; b++)
          step(schedule, action, stage, &stage_memory[stage].blocks[b], &counts[stage][b]);
    }
  for (int stage = 0; stage < schedule->stages; stage++)
    for (int b = 0; b < stage_memory[stage].n_blocks; b++) {
      const Count *count = &counts[stage][b];
      int n = count->most_live, sends = count->most_ahead + schedule->send_depth;
      if (stage_memory[stage].blocks[b].sent && sends > n)
        n = sends;
      slots[stage][b] = n < schedule->microbatches ? n : schedule->microbatches;
    }
  return OK;
}

void plan_action_bytes(const Plan *plan, Action action, size_t *born, size_t *died) {
  const Schedule *s = &plan->schedule;
  bool receives = action.kind == ACTION_RECV_F || action.kind == ACTION_RECV_B;
  int rank = s->rank_of_stage[action.stage];
  *born = *died = 0;
  for (int stage = action.stage > 0 ? action.stage - 1 : 0; stage <= action.stage + 1 && stage < s->stages; stage++)
    for (int b = 0; s->rank_of_stage[stage] == rank && b < plan->stage_memory[stage].n_blocks; b++) {
      const Block *block = &plan->stage_memory[stage].blocks[b];
      *born += bears(s, action, stage, block->born) ? block->bytes : 0;
      *died += !receives && reaches(action, stage, block->dies) ? block->bytes : 0;
    }
}

Status plan_memory(Arena *arena, Plan *plan) {
  const Schedule *s = &plan->schedule;
  int(*slots)[MAX_BLOCKS];
  bool *here;
  TRY(ARENA_NEW(arena, plan->stage_memory, plan->stages));
  TRY(ARENA_NEW(arena, plan->rank_memory, plan->ranks));
  TRY(ARENA_NEW(arena, slots, plan->stages));
  for (int i = 0; i < plan->stages; i++) {
    int rank = s->rank_of_stage[i];
    StageSetting setting = {.stage = i,
                            .rank = rank,
                            .joined = s->joined,
                            .previous_here = i > 0 && s->rank_of_stage[i - 1] == rank,
                            .next_here = i < plan->stages - 1 && s->rank_of_stage[i + 1] == rank};
    TRY(memory_plan_stage(arena, plan->graph, &plan->cuts, &setting, &plan->stage_memory[i]));
  }
  TRY(plan_slots(arena, s, plan->stage_memory, slots));
  for (int r = 0; r < plan->ranks; r++) {
    TRY(ARENA_NEW(arena, here, plan->stages));
    for (int i = 0; i < plan->stages; i++)
      here[i] = s->rank_of_stage[i] == r;
    TRY(memory_plan_rank(arena, plan->graph, &plan->cuts, plan->stage_memory, r, here, slots, &plan->rank_memory[r]));
  }
  return OK;
}
