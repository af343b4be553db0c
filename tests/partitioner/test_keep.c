/* What to keep and what to compute anew: on random chains the front is that of all choices that there are. */
#include "partitioner/plan/keep.h"

#include <math.h>
#include <stdlib.h>

#include "tests/random_graph.h"

enum { MOST = 11 };

typedef struct {
  KeepNode nodes[MOST];
  KeepValue values[MOST + 1]; /* 0: what reaches the stage; i + 1: of node i */
  int index[MOST + 1];
  KeepProblem problem;
} Chain;

static void draw(Chain *c, uint64_t seed) {
  int n = 1 + (int)random_below(&seed, MOST);
  c->problem = (KeepProblem){n, n + 1, c->nodes, c->values};
  for (int i = 0; i <= n; i++) {
    double bytes = 64.0 * (1 + random_below(&seed, 9));
    bool waits = random_below(&seed, 4) == 0;
    c->index[i] = i;
    c->values[i] = (KeepValue){.producer = i - 1,
                               .last_use = i < n ? i : -1,
                               .needed = random_below(&seed, 3) > 0,
                               .kept_bytes = bytes * (1 + random_below(&seed, 4)),
                               .live_bytes = waits ? 0 : bytes,
                               .held_bytes = waits ? 2 * bytes : 0};
  }
  for (int i = 0; i < n; i++)
    c->nodes[i] = (KeepNode){.seconds = 1 + random_below(&seed, 20),
                             .may = random_below(&seed, 8) > 0,
                             .in = &c->index[i],
                             .out = &c->index[i + 1],
                             .n_in = 1,
                             .n_out = 1};
}

/* The cost of a choice by its definition: clones run for what is needed, and for what clones read; what clones read
 * otherwise is kept. Between two nodes that are kept, what is computed anew lives together. */
static void weigh(const Chain *c, const bool *again, double *bytes, double *seconds) {
  int n = c->problem.n_nodes;
  double most = 0, live = 0;
  bool runs[MOST + 1] = {false};
  *bytes = *seconds = 0;
  for (int i = n - 1; i >= 0; i--)
    runs[i] = again[i] && (c->values[i + 1].needed || (i + 1 < n && runs[i + 1]));
  for (int i = -1; i < n; i++) {
    const KeepValue *v = &c->values[i + 1];
    bool read = i + 1 < n && runs[i + 1];
    if (i >= 0 && runs[i]) {
      *seconds += c->nodes[i].seconds;
      live += v->needed ? v->live_bytes : 0;
      *bytes += v->needed ? v->held_bytes : 0;
    } else {
      *bytes += (i >= 0 && v->needed) || (read && !v->needed) ? v->kept_bytes : 0;
    }
    if (i >= 0 && !again[i])
      live = 0;
    most = live > most ? live : most;
  }
  *bytes += most;
}

static void front_is_all_choices(void **state) {
  (void)state;
  int points = 0;
  for (uint64_t seed = 1; seed <= 400; seed++) {
    Chain c;
    KeepFront front, least;
    Arena *arena = arena_create();
    draw(&c, seed);
    int n = c.problem.n_nodes;
    ASSERT_OK(keep_front(arena, &c.problem, 1e7, &front));
    ASSERT_OK(keep_front(arena, &c.problem, 0, &least));
    assert_int_equal(least.n, 1);
    points += front.n;
    for (int i = 0; i < front.n; i++) { /* each is what it says, and better than the one before in bytes alone */
      double bytes, seconds;
      weigh(&c, front.choices[i].again, &bytes, &seconds);
      assert_true(bytes <= front.choices[i].bytes && seconds == front.choices[i].seconds);
      assert_true(i == 0 || (front.choices[i].bytes < front.choices[i - 1].bytes &&
                             front.choices[i].seconds > front.choices[i - 1].seconds));
    }
    assert_true(front.choices[0].seconds == 0);
    for (int set = 0; set < 1 << n; set++) { /* nothing is better than all of it */
      bool again[MOST], may = true, beaten = false;
      double bytes, seconds;
      for (int i = 0; i < n; i++) {
        again[i] = set >> i & 1;
        may &= !again[i] || c.nodes[i].may;
      }
      if (!may)
        continue;
      weigh(&c, again, &bytes, &seconds);
      for (int i = 0; i < front.n && !beaten; i++)
        beaten = front.choices[i].bytes <= bytes && front.choices[i].seconds <= seconds;
      if (!beaten)
        FAIL_TEST("seed %d: of %d nodes a choice of %g bytes and %g seconds is not on the front", (int)seed, n, bytes,
                  seconds);
      assert_true(least.choices[0].bytes <= bytes);
    }
    arena_destroy(arena);
  }
  assert_true(points > 2000);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(front_is_all_choices)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
