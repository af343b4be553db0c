/* The proof of schedules: against thousands of random mutations and a machine that runs what the proof accepts. */
#include <stdlib.h>
#include <string.h>

#include "partitioner/schedule/schedule.h"
#include "tests/partitioner/schedule_machine.h"
#include "tests/test.h"

static Schedule copy_schedule(Arena *arena, const Schedule *schedule, int spare) {
  Schedule copy = *schedule;
  ASSERT_OK(ARENA_NEW(arena, copy.lists, schedule->ranks));
  for (int rank = 0; rank < schedule->ranks; rank++) {
    const ActionList *from = &schedule->lists[rank];
    ASSERT_OK(ARENA_NEW(arena, copy.lists[rank].actions, from->n_actions + spare));
    memcpy(copy.lists[rank].actions, from->actions, (size_t)from->n_actions * sizeof(Action));
    copy.lists[rank].n_actions = from->n_actions;
  }
  return copy;
}

static Action take_out(ActionList *list, int at) {
  Action action = list->actions[at];
  memmove(&list->actions[at], &list->actions[at + 1], (size_t)(list->n_actions - at - 1) * sizeof(Action));
  list->n_actions--;
  return action;
}

static void put_in(ActionList *list, int at, Action action) {
  memmove(&list->actions[at + 1], &list->actions[at], (size_t)(list->n_actions - at) * sizeof(Action));
  list->actions[at] = action;
  list->n_actions++;
}

typedef enum {
  DROP,
  DOUBLE,
  CHANGE_PEER,
  CHANGE_STAGE,
  CHANGE_MICROBATCH,
  CHANGE_KIND,
  OTHER_RANK,
  ALWAYS_REFUSED, /* the mutations above */
  SWAP_NEIGHBOURS = ALWAYS_REFUSED,
  SWAP,
  MOVE,
  LESS_DEPTH,
  MUTATIONS
} Mutation;

/* Changes the schedule; false: it is as it was. */
static bool mutate(Schedule *schedule, Mutation mutation, unsigned *seed) {
  int rank = rand_r(seed) % schedule->ranks;
  ActionList *list = &schedule->lists[rank];
  int i = rand_r(seed) % list->n_actions, j = rand_r(seed) % list->n_actions;
  Action *action = &list->actions[i], before = *action;
  switch (mutation) {
  case DROP:
    take_out(list, i);
    return true;
  case DOUBLE:
    put_in(list, j, before);
    return true;
  case CHANGE_PEER:
    action->peer = (uint16_t)(rand_r(seed) % (schedule->ranks + 1));
    return !action_is_compute(before) && action->peer != before.peer;
  case CHANGE_STAGE:
    action->stage = (uint16_t)(rand_r(seed) % (schedule->stages + 1));
    return action->stage != before.stage;
  case CHANGE_MICROBATCH:
    action->microbatch = (uint16_t)(rand_r(seed) % (schedule->microbatches + 1));
    return action->microbatch != before.microbatch;
  case CHANGE_KIND:
    action->kind = (uint8_t)(rand_r(seed) % (ACTION_KINDS + 1));
    return action->kind != before.kind;
  case OTHER_RANK: {
    ActionList *other = &schedule->lists[rand_r(seed) % schedule->ranks];
    put_in(other, rand_r(seed) % (other->n_actions + 1), before);
    if (other != list)
      take_out(list, i);
    return other != list;
  }
  case SWAP_NEIGHBOURS:
    j = i + 1 < list->n_actions ? i + 1 : i; /* fall through */
  case SWAP:
    list->actions[i] = list->actions[j];
    list->actions[j] = before;
    /* neighbours of one group are posted together: their order says something only within a pair */
    return i != j;
  case MOVE:
    take_out(list, i);
    put_in(list, j, before);
    return i != j;
  default:
    schedule->send_depth = 1;
    return true;
  }
}

/* The rules that a run cannot show, told anew: B and W apart, or joined, or neither, throughout; each kind of a stage
 * in increasing microbatch order; receives not too early; compute actions in no group. */
static bool keeps_rules(const Schedule *schedule) {
  bool keeps = true;
  for (int rank = 0; rank < schedule->ranks; rank++) {
    const ActionList *list = &schedule->lists[rank];
    for (int i = 0; i < list->n_actions; i++) {
      Action action = list->actions[i];
      keeps &= !(action_is_compute(action) && action.group);
      keeps &= action.kind != ACTION_BW || schedule->joined;
      keeps &= (action.kind != ACTION_B && action.kind != ACTION_W) || !(schedule->joined || schedule->forward_only);
      int distance = 0;
      for (int j = i + 1; j < list->n_actions; j++) {
        Action later = list->actions[j];
        keeps &= !(later.kind == action.kind && later.stage == action.stage && later.microbatch <= action.microbatch);
        bool uses = later.stage == action.stage && later.microbatch == action.microbatch;
        if (action.kind == ACTION_RECV_F ? uses && later.kind == ACTION_F
                                         : uses && action_is_compute(later) && later.kind != ACTION_F) {
          keeps &=
              (action.kind != ACTION_RECV_F && action.kind != ACTION_RECV_B) || distance <= schedule->receive_ahead;
          distance = -list->n_actions; /* the first use counts */
        }
        distance += action_is_compute(later);
      }
    }
  }
  return keeps;
}

typedef struct {
  int tried[MUTATIONS], accepted[MUTATIONS];
} Tally;

static void describe(const Schedule *schedule) {
  Text text = {0};
  schedule_write(schedule, &text);
  fprintf(stderr, "%s%s\n", text.failed ? "" : text_whole(&text), status_message());
  text_free(&text);
}

/* One mutation: what the proof accepts runs right, and what runs right by the rules it accepts. */
static void try_mutation(const Schedule *schedule, const Crossings *crossings, Mutation mutation, unsigned *seed,
                         Tally *tally) {
  Arena *arena = arena_create();
  Schedule mutant = copy_schedule(arena, schedule, 1);
  if (mutate(&mutant, mutation, seed)) {
    tally->tried[mutation]++;
    bool accepted = schedule_check(&mutant, crossings) == OK;
    tally->accepted[mutation] += accepted;
    if (accepted && mutation < ALWAYS_REFUSED) {
      describe(&mutant);
      FAIL_TEST("mutation %d of %s was accepted", mutation, schedule->name);
    }
    Outcome outcome = machine_run(&mutant, crossings, (*seed)++);
    if (accepted && outcome != RAN_RIGHT) {
      describe(&mutant);
      FAIL_TEST("accepted after mutation %d, but it ran %s", mutation, outcome == RAN_WRONG ? "wrong" : "never");
    }
    if (!accepted && outcome == RAN_RIGHT && keeps_rules(&mutant)) {
      describe(&mutant);
      FAIL_TEST("refused after mutation %d, but it runs and keeps the rules", mutation);
    }
  }
  arena_destroy(arena);
}

/* Crossings in which each cut lacks a direction now and then. */
static void draw_crossings(unsigned *seed, int stages, bool *forward, bool *backward, Crossings *crossings) {
  for (int cut = 0; cut + 1 < stages; cut++) {
    forward[cut] = rand_r(seed) % 4 > 0;
    backward[cut] = rand_r(seed) % 4 > 0;
  }
  *crossings = (Crossings){forward, backward};
}

static void mutations_are_refused(void **state) {
  (void)state;
  unsigned seed = 1;
  Tally tally = {0};
  for (int n = 0; schedule_names[n]; n++)
    for (int ranks = 2; ranks <= 4; ranks++)
      for (int microbatches = 1; microbatches <= 5; microbatches += 2)
        for (int partial = 0; partial < 2; partial++) {
          Arena *arena = arena_create();
          Schedule schedule;
          int chunks;
          bool forward[8], backward[8];
          Crossings crossings;
          draw_crossings(&seed, 8, forward, backward, &crossings);
          const Crossings *given = partial ? &crossings : NULL;
          ASSERT_OK(schedule_usual_chunks(schedule_names[n], &chunks));
          ASSERT_OK(schedule_generate(arena, schedule_names[n], ranks, chunks, microbatches, given, &schedule));
          ASSERT_OK(schedule_check(&schedule, given));
          assert_int_equal(machine_run(&schedule, given, seed), RAN_RIGHT);
          for (int mutation = 0; mutation < MUTATIONS; mutation++)
            for (int i = 0; i < (mutation == LESS_DEPTH ? 1 : 12); i++)
              try_mutation(&schedule, given, mutation, &seed, &tally);
          arena_destroy(arena);
        }
  int tried = 0;
  for (int mutation = 0; mutation < MUTATIONS; mutation++)
    tried += tally.tried[mutation];
  assert_true(tried > 15000);
  /* some swaps and moves commute, most do not */
  for (int mutation = ALWAYS_REFUSED; mutation < LESS_DEPTH; mutation++) {
    assert_true(tally.accepted[mutation] > 0);
    assert_true(tally.accepted[mutation] < tally.tried[mutation] * 2 / 3);
  }
}

/* Any order of compute actions that can run gets transfers with which it runs. */
static void any_order_gets_transfers(void **state) {
  (void)state;
  unsigned seed = 7;
  for (int round = 0; round < 400; round++) {
    Arena *arena = arena_create();
    int ranks = 1 + rand_r(&seed) % 4, stages = ranks + rand_r(&seed) % 4, microbatches = 1 + rand_r(&seed) % 5;
    bool forward[8], backward[8];
    Crossings crossings;
    draw_crossings(&seed, 8, forward, backward, &crossings);
    Schedule computes = {.name = "random",
                         .ranks = ranks,
                         .stages = stages,
                         .microbatches = microbatches,
                         .joined = rand_r(&seed) % 2,
                         .send_depth = 1 + rand_r(&seed) % 2,
                         .receive_ahead = rand_r(&seed) % 3};
    computes.forward_only = !computes.joined && rand_r(&seed) % 5 == 0;
    ASSERT_OK(ARENA_NEW(arena, computes.rank_of_stage, stages));
    ASSERT_OK(ARENA_NEW(arena, computes.lists, ranks));
    for (int stage = 0; stage < stages; stage++)
      computes.rank_of_stage[stage] = rand_r(&seed) % ranks;
    for (int rank = 0; rank < ranks; rank++)
      ASSERT_OK(ARENA_NEW(arena, computes.lists[rank].actions, 3 * stages * microbatches));
    int next[3][8] = {{0}};
    for (int idle = 0; idle < 500; idle++) { /* take what is ready at random */
      int stage = rand_r(&seed) % stages, kind = rand_r(&seed) % (computes.forward_only ? 1 : computes.joined ? 2 : 3);
      int m = next[kind][stage];
      bool has_b = computes.joined || schedule_has_b(&crossings, stage);
      bool gradient = stage + 1 == stages || !backward[stage] || next[1][stage + 1] > m;
      bool ready = kind == 0   ? stage == 0 || !forward[stage - 1] || next[0][stage - 1] > m
                   : kind == 1 ? has_b && next[0][stage] > m && gradient
                               : (has_b ? next[1][stage] > m : next[0][stage] > m && gradient);
      if (m == microbatches || !ready)
        continue;
      ActionList *list = &computes.lists[computes.rank_of_stage[stage]];
      list->actions[list->n_actions++] = (Action){.kind = kind == 1 && computes.joined ? ACTION_BW : (uint8_t)kind,
                                                  .stage = (uint16_t)stage,
                                                  .microbatch = (uint16_t)m};
      next[kind][stage]++;
      idle = 0;
    }
    Schedule schedule;
    ASSERT_OK(schedule_add_transfers(arena, &computes, &crossings, &schedule));
    ASSERT_OK(schedule_check(&schedule, &crossings));
    assert_int_equal(schedule.receive_ahead, computes.receive_ahead);
    for (int i = 0; i < 3; i++)
      assert_int_equal(machine_run(&schedule, &crossings, seed++), RAN_RIGHT);
    ASSERT_OK(schedule_add_transfers(arena, &schedule, &crossings, &schedule)); /* again: replaced by the same */
    ASSERT_OK(schedule_check(&schedule, &crossings));
    arena_destroy(arena);
  }
}

static void refuses(Arena *arena, const char *text, const char *message, int rank, int position) {
  Schedule schedule;
  SchedulePlace where;
  ASSERT_OK(schedule_read(arena, text, &schedule));
  ASSERT_FAILS(E_USAGE, message, schedule_prove(&schedule, NULL, NULL, &where));
  assert_int_equal(where.rank, rank);
  assert_int_equal(where.position, position);
}

static void messages_name_the_place(void **state) {
  (void)state;
  Arena *arena = arena_create();
  refuses(arena, "0F0 0SEND_F0 0RECV_B0\n1RECV_F0 1F0 1BW0 1SEND_B0\n",
          "schedule file: rank 0, end of its list: 0BW0 is missing", 0, 3);
  refuses(arena, "0F0 0SEND_F0 0RECV_B0 0BW0\n1RECV_F0 1BW0 1F0 1SEND_B0\n",
          "schedule file: rank 1, action 1, 1BW0: stands before 1F0, which it needs", 1, 1);
  refuses(arena, "0F0 0SEND_F0 0RECV_B0 0BW0 0BW0\n1RECV_F0 1F0 1BW0 1SEND_B0\n",
          "schedule file: rank 0, action 4, 0BW0: stands a second time", 0, 4);
  refuses(arena, "0F1 0F0 0BW0 0BW1\n",
          "schedule file: rank 0, action 0, 0F1: comes before 0F0: each kind runs in increasing microbatch order", 0,
          0);
  refuses(arena, "0F0 0B0 0W0\n", "schedule file: rank 0, action 1, 0B0: no gradient leaves this stage: it has W alone",
          0, 1);
  refuses(arena, "0F0 1F0 1BW0 0BW0 0SEND_F0\n",
          "schedule file: rank 0, action 4, 0SEND_F0: both stages are on this rank: nothing is sent", 0, 4);
  refuses(arena, "schedule near receive_ahead 0\n0F0 0SEND_F0 0F1 0SEND_F1\n1RECV_F0 1RECV_F1 1F0 1F1\n",
          "schedule near: rank 1, action 1, 1RECV_F1: is posted 1 compute actions before 1F1, more than receive_ahead, "
          "which is 0",
          1, 1);
  /* each rank sends before it receives, and neither's buffer is free */
  /* rank 1 cannot send before rank 0 receives, which sends before it receives, and buffers hold one each */
  refuses(arena,
          "schedule knot send_depth 1\n"
          "0F0 0SEND_F0 0F1 0SEND_F1 0F2 0SEND_F2 0F3 0SEND_F3 2RECV_F0 2F0 2RECV_F1 2F1 2RECV_F2 2F2 2RECV_F3 2F3\n"
          "1RECV_F0 1F0 1SEND_F0 1RECV_F1 1F1 1SEND_F1 1RECV_F2 1F2 1SEND_F2 1RECV_F3 1F3 1SEND_F3\n",
          "schedule knot: rank 0, action 6, 0F3: waits for ever: for 1RECV_F2 of rank 1, which itself waits at its "
          "action 4",
          0, 6);
  arena_destroy(arena);
}

static void limits_are_kept(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Schedule schedule;
  SchedulePlace where;
  ASSERT_OK(schedule_generate(arena, "1f1b", 4, 1, 8, NULL, &schedule));
  double activation[] = {1, 1, 1, 1}, enough[] = {4, 3, 2, 1}, short_of[] = {4, 2.5, 2, 1}, peak[4];
  ScheduleLimits limits = {activation, 0, enough};
  ASSERT_OK(schedule_prove(&schedule, NULL, &limits, &where));
  schedule_peaks(&schedule, NULL, &limits, peak);
  assert_memory_equal(peak, enough, sizeof peak);
  limits.limit = short_of;
  ASSERT_FAILS(E_LIMIT, "schedule 1f1b: rank 1, action 8, 1F2: activations reach 3, the limit is 2.5",
               schedule_prove(&schedule, NULL, &limits, &where));
  assert_int_equal(where.rank, 1);
  assert_int_equal(where.position, 8);
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(mutations_are_refused),
      cmocka_unit_test(any_order_gets_transfers),
      cmocka_unit_test(messages_name_the_place),
      cmocka_unit_test(limits_are_kept),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
