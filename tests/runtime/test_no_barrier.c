/* No rank waits for another one's step to end: a transport that writes down what goes over the control channel, under
 * the workers of a real training. The data channel waits for what a stage needs, and the schedule says what that is. */
#include <pthread.h>
#include <string.h>

#include "runtime/training/trainer.h"
#include "tests/test.h"

#define BRANCHES SOURCE_DIR "/models/branches/"
enum { RANKS = 3, TRAINED_STEPS = 5, MOST_TICKETS = 256 };

/* One rank's control channel. */
typedef struct {
  const Transport *transport;
  Endpoint *control;
  int step; /* at hand */
  struct {
    unsigned long id;
    int step;
  } tickets[MOST_TICKETS]; /* what was posted in which step */
  int n_tickets;
  int waits_for_own, waits_late; /* waits for what was posted in the step at hand; in the one before */
  int posts_after_wait, posts;   /* of data: after a wait of the same step; in all */
  bool waited;
} Record;

static Record records[RANKS];

static Record *record_of(const Endpoint *endpoint) {
  for (int r = 0; r < RANKS; r++)
    if (records[r].control == endpoint)
      return &records[r];
  return NULL;
}

static Status post(Endpoint *endpoint, const Transfer *transfers, int n, Ticket *tickets) {
  Record *record = record_of(endpoint);
  TRY(transport_local.post(endpoint, transfers, n, tickets));
  if (!record) {
    Record *own = &records[transport_local.rank(endpoint)];
    own->posts++;
    own->posts_after_wait += own->waited;
    return OK;
  }
  for (int i = 0; i < n && record->n_tickets < MOST_TICKETS; i++) {
    record->tickets[record->n_tickets].id = tickets[i].id;
    record->tickets[record->n_tickets++].step = record->step;
  }
  return OK;
}

/* The step that the ticket was posted in. Numbers of tickets may come again. */
static int step_of(const Record *record, Ticket ticket) {
  for (int i = record->n_tickets - 1; i >= 0; i--)
    if (record->tickets[i].id == ticket.id)
      return record->tickets[i].step;
  return -100;
}

static Status wait_for(Endpoint *endpoint, Ticket ticket) {
  Record *record = record_of(endpoint);
  if (record && record->step >= 0) {
    int age = record->step - step_of(record, ticket);
    record->waits_for_own += age == 0;
    record->waits_late += age == 1;
    record->waited = true;
  }
  return transport_local.wait(endpoint, ticket);
}

static void *train(void *argument) {
  Worker *worker = argument;
  Record *record = &records[worker->rank];
  Outcome outcome = {0};
  Status status = trainer_agree(worker->link, worker_open(worker), &outcome);
  for (int step = 0; step < TRAINED_STEPS && status == OK; step++) {
    record->step = step;
    record->waited = false;
    status = worker_step(worker);
  }
  record->step = -1;
  if (status == OK)
    status = worker_end(worker, &outcome);
  if (status != OK)
    print_error("rank %d: %s\n", worker->rank, status_message());
  worker_close(worker);
  return (void *)(intptr_t)status;
}

static void open_links(Link links[RANKS], Transport *recording) {
  *recording = transport_local;
  recording->post = post;
  recording->wait = wait_for;
  ASSERT_OK(transport_local_open(RANKS, links));
  for (int r = 0; r < RANKS; r++) {
    links[r].transport = recording;
    records[r] = (Record){.transport = recording, .control = links[r].endpoints[CHANNEL_CONTROL], .step = -1};
  }
}

/* Trains `branches` with these options more. */
static void run(const char *option, const char *value, bool as_processes) {
  Options *options = options_create();
  Transport recording;
  Link links[RANKS];
  World world = {.size = 1};
  TrainOptions which = {0};
  Model *model;
  ASSERT_OK(options_set(options, "data", BRANCHES "data.npz"));
  ASSERT_OK(options_set(options, "ranks", "3"));
  ASSERT_OK(options_set(options, "batch", "8"));
  ASSERT_OK(options_set(options, "microbatches", "4"));
  ASSERT_OK(options_set(options, "steps", "5"));
  ASSERT_OK(options_set(options, "schedule", "zb-h1"));
  if (option)
    ASSERT_OK(options_set(options, option, value));
  ASSERT_OK(model_open(BRANCHES "model.onnx", &which, &model));
  Arena *arena = arena_create();
  Job job = {
      .arena = arena, .asked = {.options = options, .path = "branches", .world = &world}, .given = {.model = model}};
  Training training = {.job = &job};
  Outcome outcome = {0};
  ASSERT_OK(trainer_prepare(&training, &outcome));
  world.mpi = as_processes;
  open_links(links, &recording);
  Worker workers[RANKS];
  pthread_t threads[RANKS];
  for (int r = 0; r < RANKS; r++) {
    workers[r] = (Worker){.training = &training, .rank = r, .link = &links[r]};
    assert_int_equal(pthread_create(&threads[r], NULL, train, &workers[r]), 0);
  }
  for (int r = 0; r < RANKS; r++) {
    void *status;
    pthread_join(threads[r], &status);
    assert_int_equal((intptr_t)status, OK);
  }
  transport_local_close(RANKS, links);
  job_close(&job);
  model_close(model);
  arena_destroy(arena);
  options_destroy(options);
}

/* All that a step waits for over the control channel is the report of the step before, and that when its own sends and
 * receives stand already: it keeps nobody. */
static void a_step_waits_for_no_other_rank(void **state) {
  (void)state;
  run(NULL, NULL, false);
  for (int r = 0; r < RANKS; r++) {
    assert_int_equal(records[r].waits_for_own, 0);
    assert_int_equal(records[r].waits_late, (TRAINED_STEPS - 1) * (r ? 1 : RANKS - 1));
    assert_int_equal(records[r].posts_after_wait, 0);
    assert_true(records[r].posts >= 4 * TRAINED_STEPS);
  }
}

/* Ranks that are processes agree on when to stop by a word of rank 0, which it says before it does anything of the
 * step; it waits for no other rank's step. */
static void a_word_makes_nobody_wait(void **state) {
  (void)state;
  run(NULL, NULL, true);
  for (int r = 0; r < RANKS; r++) {
    assert_int_equal(records[r].waits_for_own, r ? TRAINED_STEPS : 0);
    assert_int_equal(records[r].waits_late, (TRAINED_STEPS - 1) * (r ? 1 : 2 * (RANKS - 1)));
    assert_int_equal(records[r].posts_after_wait, 0);
  }
}

/* Only the global norm makes all wait for all. */
static void the_norm_makes_every_rank_wait(void **state) {
  (void)state;
  run("clip-norm", "0.1", false);
  for (int r = 0; r < RANKS; r++)
    assert_int_equal(records[r].waits_for_own, TRAINED_STEPS * (r ? 2 : 2 * (RANKS - 1)));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_step_waits_for_no_other_rank),
      cmocka_unit_test(a_word_makes_nobody_wait),
      cmocka_unit_test(the_norm_makes_every_rank_wait),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
