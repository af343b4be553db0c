/* Owns the search for good recipes: numbers that make the keys and the policy of a list schedule. Invariant: the best
 * recipes are kept in ascending order of what they reach, no two of the same value, and everything follows from the
 * seed.
 *
 * The keys say when each operation would begin in an endless, regular flow: a microbatch every period, and from stage
 * to stage a multiple of what the stage takes. So they hold the building blocks of Qi et al. 2024, "Pipeline
 * parallelism with controllable memory", and the orders of 1F1B and its zero-bubble relatives (Qi et al. 2023), as
 * points of one space. */
#include "partitioner/synthesis/internal.h"

#include <math.h>
#include <string.h>

enum { KEPT = 12, POLISHED = 6, IMPROVED = 3, LATER_PASSES = 4, ROUNDS = 8 };

static const double never = 1e9; /* periods: after everything else */

typedef struct {
  double slope[2][2];            /* on the way up and down the stages; of even and odd chunks */
  double turn[3];                /* periods: between chunks on the way up, at the top, on the way down */
  bool filler;                   /* W (in reverse, the last to be needed) only where nothing else can be done */
  double delay;                  /* else: periods from B to W */
  double horizon, first_horizon; /* periods; never: none */
  double first_patience, patience, filler_patience;
  double first_reserve;
  double idle_budget; /* periods; negative: none */
  bool aims;          /* further passes may idle as much as the one before did at worst */
  bool patient_with_all, shares_slack, blocked_is_skipped, reverse;
  double value; /* seconds reached */
} Recipe;

struct Search {
  const Problem *problem;
  ListScheduler *scheduler;
  Clock clock;
  Random random;
  double *key, *at, *spared; /* [operations], [stages], [ranks] */
  double slow_stage;         /* F and a hop, in the mean, in periods */
  Recipe kept[KEPT];
  int n_kept;
  Order trial, pass, best;
};

Status search_make(Arena *arena, const Problem *p, uint64_t seed, Search **search) {
  Search *s;
  TRY(ARENA_NEW(arena, s, 1));
  s->problem = p;
  s->random.state = 0x9e3779b97f4a7c15u ^ (seed * 0xbf58476d1ce4e5b9u);
  TRY(list_make(arena, p, &s->scheduler));
  TRY(clock_make(arena, p, &s->clock));
  TRY(ARENA_NEW(arena, s->key, p->operations));
  TRY(ARENA_NEW(arena, s->at, p->stages));
  TRY(ARENA_NEW(arena, s->spared, p->ranks));
  TRY(order_make(arena, p, &s->trial));
  TRY(order_make(arena, p, &s->pass));
  TRY(order_make(arena, p, &s->best));
  for (int stage = 0; stage < p->stages; stage++)
    s->slow_stage += (p->seconds[ACTION_F][stage] + p->lag[ACTION_F][stage]) / p->stages / p->period;
  *search = s;
  return OK;
}

const Order *search_best(const Search *s) {
  return &s->best;
}

/* ---- keys ---- */

static void set_keys(Search *s, const Recipe *recipe, int kind, double shift) {
  const Problem *p = s->problem;
  for (int stage = 0; stage < p->stages; stage++)
    for (int i = 0; i < p->microbatches; i++)
      s->key[operation_of(p, stage, kind, recipe->reverse ? p->microbatches - 1 - i : i)] =
          s->at[stage] + shift + i * p->period;
}

/* From the first stage to the last and back: forwards F and B, in reverse B and F. */
static void make_keys(Search *s, const Recipe *recipe) {
  const Problem *p = s->problem;
  int up = recipe->reverse ? ACTION_B : ACTION_F, down = recipe->reverse ? ACTION_F : ACTION_B;
  double delay = recipe->filler ? never : recipe->delay, at = 0;
  for (int stage = 0; stage < p->stages; stage++) {
    s->at[stage] = at;
    at += (p->seconds[up][stage] + p->lag[up][stage]) * recipe->slope[0][p->chunk_of_stage[stage] % 2];
    if (stage + 1 < p->stages && p->chunk_of_stage[stage + 1] != p->chunk_of_stage[stage])
      at += recipe->turn[0] * p->period;
  }
  set_keys(s, recipe, up, 0);
  if (recipe->reverse)
    set_keys(s, recipe, ACTION_W, recipe->filler ? never * p->period : -delay * p->period);
  at += recipe->turn[1] * p->period;
  for (int stage = p->stages - 1; stage >= 0; stage--) {
    s->at[stage] = at;
    double lag = stage > 0 ? p->lag[down][stage - 1] : 0;
    at += (p->seconds[down][stage] + lag) * recipe->slope[1][p->chunk_of_stage[stage] % 2];
    if (stage > 0 && p->chunk_of_stage[stage - 1] != p->chunk_of_stage[stage])
      at += recipe->turn[2] * p->period;
  }
  set_keys(s, recipe, down, 0);
  if (!recipe->reverse)
    set_keys(s, recipe, ACTION_W, delay * p->period);
}

/* ---- trying ---- */

static void keep_best(Search *s, const Order *order) {
  if (order->value < s->best.value)
    order_copy(s->problem, &s->best, order);
}

/* Runs the list scheduler on the keys and times what came out. */
static void run_keys(Search *s, const ListPolicy *policy, Order *order) {
  order->value = INFINITY;
  if (list_run(s->scheduler, s->key, policy, order))
    clock_run(s->problem, &s->clock, order);
  keep_best(s, order);
}

/* Where slack is shared or a recipe aims, later passes know what the one before came to. */
static void try_recipe(Search *s, Recipe *recipe, double cutoff) {
  const Problem *p = s->problem;
  ListPolicy policy = {.reverse = recipe->reverse,
                       .patient_with_all = recipe->patient_with_all,
                       .shares_slack = recipe->shares_slack,
                       .blocked_is_skipped = recipe->blocked_is_skipped,
                       .patience = {recipe->patience, recipe->patience, recipe->filler_patience},
                       .first_patience = recipe->first_patience,
                       .first_reserve = recipe->reverse ? 0 : recipe->first_reserve,
                       .horizon = recipe->horizon == never ? INFINITY : recipe->horizon * p->period,
                       .first_horizon = recipe->first_horizon == never ? INFINITY : recipe->first_horizon * p->period,
                       .idle_budget = recipe->idle_budget * p->period,
                       /* later passes gain on the first */
                       .cutoff = recipe->shares_slack || recipe->aims
                                     ? p->busiest_seconds + 1.6 * (cutoff - p->busiest_seconds)
                                     : cutoff};
  make_keys(s, recipe);
  run_keys(s, &policy, &s->trial);
  recipe->value = s->trial.value;
  for (int i = 0; i < LATER_PASSES && (recipe->shares_slack || recipe->aims) && recipe->value < INFINITY; i++) {
    for (int rank = 0; rank < p->ranks; rank++)
      s->spared[rank] = list_idle(s->scheduler)[rank];
    policy.spared = s->spared;
    if (recipe->aims)
      policy.idle_budget = recipe->value - p->busiest_seconds;
    run_keys(s, &policy, &s->pass);
    if (s->pass.value >= recipe->value)
      return;
    recipe->value = s->pass.value;
    order_copy(p, &s->trial, &s->pass);
  }
}

static void keep(Search *s, const Recipe *recipe) {
  if (recipe->value == INFINITY)
    return;
  for (int i = 0; i < s->n_kept; i++)
    if (fabs(s->kept[i].value - recipe->value) < 1e-9 * recipe->value) {
      s->kept[i] = *recipe;
      return;
    }
  int at = s->n_kept < KEPT ? s->n_kept++ : KEPT - 1;
  if (at == KEPT - 1 && s->n_kept == KEPT && s->kept[at].value > 0 && recipe->value >= s->kept[at].value)
    return;
  for (; at > 0 && s->kept[at - 1].value > recipe->value; at--)
    s->kept[at] = s->kept[at - 1];
  s->kept[at] = *recipe;
}

/* ---- recipes ---- */

static double chance_slope(Search *s) {
  Random *r = &s->random;
  double u = random_unit(r), slope = 1 + 4 * u * random_unit(r);
  if (random_unit(r) >= 0.4)
    return slope;
  u = random_unit(r); /* a hop every half period is the rhythm of a V, a whole one that of a line */
  double hop = u < 0.7 ? 0.5 : u < 0.85 ? 1 : 1.0 / 3;
  return hop / s->slow_stage * (random_unit(r) < 0.5 ? 1 : 1 + 0.05 * random_bell(r));
}

static double chance_budget(Search *s) {
  double u = random_unit(&s->random);
  return u < 0.4 ? -1 : 0.05 + 2.5 * u * u * u;
}

static Recipe new_recipe(Search *s) {
  Random *r = &s->random;
  Recipe recipe = {.reverse = random_unit(r) < 0.15};
  bool even = random_unit(r) < 0.6;
  double slope = chance_slope(s);
  for (int i = 0; i < 4; i++)
    recipe.slope[i / 2][i % 2] = even ? slope : chance_slope(s);
  for (int i = 0; i < 3; i++)
    recipe.turn[i] = random_unit(r) < 0.5 ? 0 : 1.5 * random_unit(r) - 0.5;
  recipe.filler = random_unit(r) < 0.7;
  recipe.delay = random_unit(r) * random_unit(r) * s->problem->ranks * 0.6;
  recipe.horizon = random_unit(r) < 0.5 ? never : fmax(0.1, (0.75 * random_unit(r) - 0.15) * s->problem->ranks);
  recipe.first_horizon = random_unit(r) < 0.8 ? never : recipe.horizon + random_unit(r) * s->problem->ranks;
  recipe.first_patience = random_unit(r) < 0.6 ? 1 : 1.3 * random_unit(r);
  recipe.patience = random_unit(r) < 0.3 ? 1 : 1.3 * random_unit(r);
  recipe.first_reserve = random_unit(r) < 0.6 ? 1 : random_unit(r) < 0.5 ? 0 : 1.2 * random_unit(r);
  recipe.filler_patience = 1.1 * random_unit(r);
  recipe.idle_budget = chance_budget(s);
  recipe.patient_with_all = random_unit(r) < 0.5;
  recipe.shares_slack = random_unit(r) < 0.4;
  recipe.aims = !recipe.shares_slack && random_unit(r) < 0.5;
  recipe.blocked_is_skipped = random_unit(r) < 0.2;
  return recipe;
}

/* value times something around 1 */
static double scaled(Random *r, double value, double scale) {
  double x = random_bell(r) * scale;
  return x > 0 ? value * (1 + x) : value / (1 - x);
}

/* Near the rhythms that are known to be good: all stages the same time apart, patience for what comes next. */
static Recipe regular_recipe(Search *s) {
  static const double hops[] = {0.5, 0.5, 0.5, 0, 1.0 / 3, 1}, patience[] = {1, 0.97, 0.9, 0.8, 0.5};
  Random *r = &s->random;
  double hop = hops[random_below(r, 6)], slope = hop == 0 ? 1 : hop / s->slow_stage;
  Recipe recipe = {.filler = true, .horizon = never, .first_horizon = never, .idle_budget = -1};
  bool exact = random_unit(r) < 0.6;
  for (int k = 0; k < 4; k++)
    recipe.slope[k / 2][k % 2] = exact ? slope : scaled(r, slope, 0.06);
  for (int k = 0; k < 3; k++)
    recipe.turn[k] = random_unit(r) < 0.6 ? 0 : 0.25 * random_bell(r);
  recipe.patience = patience[random_below(r, 5)];
  recipe.first_patience = random_unit(r) < 0.5 ? 1 : recipe.patience;
  recipe.first_reserve = random_unit(r) < 0.5 ? 1 : 0;
  recipe.filler_patience = patience[random_below(r, 5)] * random_below(r, 2);
  recipe.shares_slack = random_unit(r) < 0.6;
  recipe.aims = !recipe.shares_slack && random_unit(r) < 0.5;
  recipe.idle_budget = recipe.aims ? 3 : -1;
  recipe.blocked_is_skipped = random_unit(r) < 0.3;
  return recipe;
}

/* Some traits of another recipe. */
static void cross(Search *s, Recipe *recipe, const Recipe *other) {
  Random *r = &s->random;
  if (random_unit(r) < 0.5)
    for (int i = 0; i < 4; i++)
      recipe->slope[i / 2][i % 2] = other->slope[i / 2][i % 2];
  if (random_unit(r) < 0.5)
    for (int i = 0; i < 3; i++)
      recipe->turn[i] = other->turn[i];
  if (random_unit(r) < 0.5) {
    recipe->horizon = other->horizon;
    recipe->first_horizon = other->first_horizon;
  }
  if (random_unit(r) < 0.5) {
    recipe->first_patience = other->first_patience;
    recipe->first_reserve = other->first_reserve;
  }
  if (random_unit(r) < 0.5)
    recipe->patience = other->patience;
  if (random_unit(r) < 0.5)
    recipe->filler_patience = other->filler_patience;
  if (random_unit(r) < 0.5) {
    recipe->idle_budget = other->idle_budget;
    recipe->patient_with_all = other->patient_with_all;
    recipe->shares_slack = other->shares_slack;
    recipe->aims = other->aims;
  }
  if (random_unit(r) < 0.5) {
    recipe->filler = other->filler;
    recipe->delay = other->delay;
  }
}

static double nudged_patience(Random *r, double patience, double scale) {
  return random_unit(r) < 0.3 ? 1.3 * random_unit(r) : fabs(patience + 0.3 * scale * random_bell(r));
}

static void mutate_budget(Search *s, Recipe *recipe, double scale) {
  Random *r = &s->random;
  if (random_unit(r) < 0.3)
    recipe->shares_slack = !recipe->shares_slack;
  if (random_unit(r) < 0.3)
    recipe->aims = !recipe->aims;
  if (random_unit(r) < 0.2)
    recipe->patient_with_all = !recipe->patient_with_all;
  if (random_unit(r) < 0.4) /* about what was reached */
    recipe->idle_budget = scaled(r, (recipe->value - s->problem->busiest_seconds) / s->problem->period, 0.1);
  else if (random_unit(r) < 0.2 || recipe->idle_budget < 0)
    recipe->idle_budget = chance_budget(s);
  else
    recipe->idle_budget = scaled(r, recipe->idle_budget, scale);
}

static void mutate_horizon(Search *s, Recipe *recipe, double scale) {
  Random *r = &s->random;
  double *horizon = random_unit(r) < 0.7 ? &recipe->horizon : &recipe->first_horizon;
  if (random_unit(r) < 0.3)
    *horizon = never;
  else if (*horizon == never)
    *horizon = random_unit(r) * s->problem->ranks;
  else
    *horizon += 3 * scale * random_bell(r);
  *horizon = fmax(*horizon, 0.05);
}

static void mutate_trait(Search *s, Recipe *recipe, double scale) {
  Random *r = &s->random;
  switch (random_below(r, 13)) {
  case 0: {
    double factor = scaled(r, 1, 0.5 * scale);
    for (int i = 0; i < 4; i++)
      recipe->slope[i / 2][i % 2] *= factor;
    break;
  }
  case 1:
  case 2: {
    double *slope = &recipe->slope[random_below(r, 2)][random_below(r, 2)];
    *slope = scaled(r, *slope, 0.5 * scale);
    break;
  }
  case 3:
  case 4:
    recipe->turn[random_below(r, 3)] += scale * random_bell(r);
    break;
  case 5:
    mutate_horizon(s, recipe, scale);
    break;
  case 6:
    recipe->patience = nudged_patience(r, recipe->patience, scale);
    break;
  case 7:
    recipe->filler_patience = nudged_patience(r, recipe->filler_patience, scale);
    break;
  case 8:
    mutate_budget(s, recipe, scale);
    break;
  case 9:
    recipe->filler = random_unit(r) < 0.3 ? !recipe->filler : recipe->filler;
    recipe->delay = fabs(recipe->delay + 2 * scale * random_bell(r));
    break;
  case 11:
    recipe->first_reserve = random_unit(r) < 0.3   ? 1
                            : random_unit(r) < 0.3 ? 0
                                                   : fabs(recipe->first_reserve + 0.3 * scale * random_bell(r));
    break;
  case 10:
    recipe->first_patience = random_unit(r) < 0.5 ? 1 : nudged_patience(r, recipe->first_patience, scale);
    break;
  default:
    recipe->blocked_is_skipped = !recipe->blocked_is_skipped;
  }
}

static Recipe next_recipe(Search *s) {
  Random *r = &s->random;
  double u = random_unit(r);
  Recipe recipe = s->kept[(int)(u * u * s->n_kept)];
  if (random_unit(r) < 0.3)
    cross(s, &recipe, &s->kept[random_below(r, s->n_kept)]);
  u = random_unit(r);
  double scale = 0.05 + u * u * u;
  for (int n = 1 + random_below(r, 3); n > 0; n--)
    mutate_trait(s, &recipe, scale);
  return recipe;
}

static bool bound_reached(const Search *s) {
  return s->best.value <= s->problem->bound_seconds * (1 + 1e-9);
}

/* Lists anew in the order of the best so far, give or take a little, with W where it fits: its place is what the
 * recipes' keys say least about. */
static void follow_best(Search *s) {
  const Problem *p = s->problem;
  Random *r = &s->random;
  double noise = random_unit(r) < 0.5 ? 0 : 0.3 * p->period * random_unit(r) * random_unit(r);
  double patience = random_unit(r) < 0.5 ? 1 : 1.3 * random_unit(r);
  bool filler = random_unit(r) < 0.7;
  ListPolicy policy = {.reverse = random_unit(r) < 0.2,
                       .patient_with_all = random_unit(r) < 0.3,
                       .blocked_is_skipped = random_unit(r) < 0.3,
                       .patience = {patience, patience, 1.2 * random_unit(r)},
                       .first_patience = 1,
                       .horizon = INFINITY,
                       .first_horizon = INFINITY,
                       .idle_budget = random_unit(r) < 0.3 ? -1 : scaled(r, s->best.value - p->busiest_seconds, 0.05),
                       .cutoff = s->best.value};
  clock_run(p, &s->clock, &s->best);
  for (int i = 0; i < p->operations; i++) {
    bool w = i / p->microbatches % 3 == ACTION_W;
    s->key[i] =
        w && filler ? never * p->period + s->clock.end[i] : (policy.reverse ? -s->clock.end[i] : s->clock.begin[i]);
    if (noise > 0 && !(w && filler))
      s->key[i] += noise * random_bell(r);
  }
  run_keys(s, &policy, &s->trial);
}

void search_run(Search *s, double operations) {
  double end = list_work(s->scheduler) + operations;
  bool first = s->n_kept == 0;
  while (list_work(s->scheduler) < end && !bound_reached(s)) {
    bool fresh = s->n_kept < 3 || first;
    if (!fresh && s->best.value < INFINITY && random_unit(&s->random) < 0.25) {
      follow_best(s);
      continue;
    }
    Recipe recipe = !fresh ? next_recipe(s) : random_unit(&s->random) < 0.5 ? regular_recipe(s) : new_recipe(s);
    try_recipe(s, &recipe, s->n_kept < KEPT ? INFINITY : s->kept[KEPT - 1].value);
    keep(s, &recipe);
  }
}

/* ---- without recipe ---- */

/* Lists backwards in the order in which operations ended, then forwards in the order in which they began, again and
 * again: each pass closes gaps that the other left (after Tormos and Lova's forward-backward improvement). Begins no
 * pass once the scheduler's work is `most`. */
static void forth_and_back(Search *s, double most, Order *order) {
  const Problem *p = s->problem;
  ListPolicy policy = {.patience = {0.5, 0.5, 0.5},
                       .first_patience = 0.5,
                       .horizon = INFINITY,
                       .first_horizon = INFINITY,
                       .idle_budget = -1,
                       .cutoff = INFINITY};
  clock_run(p, &s->clock, order);
  for (int i = 0; i < p->operations; i++)
    s->key[i] = -s->clock.end[i];
  double best = INFINITY;
  for (int round = 0, gained = 0;
       round < 2 * ROUNDS && round - gained < 4 && !bound_reached(s) && list_work(s->scheduler) < most; round++) {
    policy.reverse = round % 2 == 0;
    run_keys(s, &policy, order);
    if (order->value == INFINITY)
      return;
    gained = order->value < best * (1 - 1e-9) ? round : gained;
    best = fmin(best, order->value);
    /* the ends of this pass, from its own side, are what the other one begins with */
    for (int i = 0; i < p->operations; i++)
      s->key[i] = policy.reverse ? -list_ends(s->scheduler)[i] : -s->clock.end[i];
  }
}

Status search_rounds(Search *s) {
  Arena *scratch = arena_create();
  Status status = scratch ? rounds_order(scratch, s->problem, &s->clock, &s->trial) : status_code();
  if (status == OK)
    keep_best(s, &s->trial);
  arena_destroy(scratch);
  return status;
}

/* The named schedule's order as the trial; *taken: it is of the problem's stages and fits. */
static Status take_named(Search *s, Arena *scratch, const char *name, bool *taken) {
  const Problem *p = s->problem;
  Placement placement;
  Schedule schedule;
  int *rank_of_stage;
  *taken = false;
  TRY(schedule_placement(name, &placement));
  TRY(ARENA_NEW(scratch, rank_of_stage, p->stages));
  placement_ranks(placement, p->ranks, p->most_chunks, rank_of_stage);
  if (p->stages != p->ranks * p->most_chunks ||
      memcmp(rank_of_stage, p->timing->rank_of_stage, (size_t)p->stages * sizeof *rank_of_stage) != 0)
    return OK;
  Status made = schedule_computes(scratch, name, p->ranks, p->most_chunks, p->microbatches, p->crossings, &schedule);
  if (made == E_MEMORY)
    return made;
  *taken = made == OK && order_take(p, &schedule, &s->trial);
  return OK;
}

Status search_named(Search *s, double operations) {
  const Problem *p = s->problem;
  Arena *scratch = arena_create();
  if (!scratch)
    return status_code();
  Status status = OK;
  int n = 0;
  while (schedule_names[n])
    n++;
  double begin = list_work(s->scheduler);
  for (int i = 0; i < n && status == OK; i++) {
    bool taken;
    status = take_named(s, scratch, schedule_names[i], &taken);
    if (status != OK || !taken)
      continue;
    clock_run(p, &s->clock, &s->trial);
    keep_best(s, &s->trial);
    if (s->trial.value < INFINITY)
      forth_and_back(s, begin + operations * (i + 1) / n, &s->trial);
  }
  arena_destroy(scratch);
  return status;
}

Status search_polish(Arena *arena, Search *s, double operations, double placed) {
  double most = list_work(s->scheduler) + placed;
  for (int i = 0; i < s->n_kept && i < POLISHED && !bound_reached(s) && list_work(s->scheduler) < most; i++) {
    try_recipe(s, &s->kept[i], INFINITY);
    if (s->trial.value == INFINITY)
      continue;
    if (i < IMPROVED) {
      TRY(improve_order(arena, s->problem, &s->clock, &s->random, operations / (IMPROVED + 1), &s->trial));
      keep_best(s, &s->trial);
    }
    forth_and_back(s, most, &s->trial);
  }
  if (bound_reached(s) || s->best.value == INFINITY)
    return OK;
  return improve_order(arena, s->problem, &s->clock, &s->random, operations / (IMPROVED + 1), &s->best);
}
