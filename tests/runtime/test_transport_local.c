/* The conformance suite on threads of one process, and what is this transport's own. */
#include "tests/test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/transport/transport.h"
#include "transport_suite.h"

enum { MOST_RANKS = 8 };

typedef struct {
  const Link *link;
  Status (*run)(const Link *link);
  Status status;
  char message[512];
} Job;

static void *work(void *argument) {
  Job *job = argument;
  job->status = job->run(job->link);
  if (job->status != OK) {
    snprintf(job->message, sizeof job->message, "%s", status_message());
    job->link->transport->withdraw(job->link->endpoints[CHANNEL_DATA], job->message);
  }
  return NULL;
}

/* Runs one function on every rank at once; job[r] has its outcome. */
static void run_on_all(int ranks, const Link *links, Status (*run)(const Link *), Job *jobs) {
  pthread_t threads[MOST_RANKS];
  for (int r = 0; r < ranks; r++) {
    jobs[r] = (Job){.link = &links[r], .run = run};
    assert_int_equal(pthread_create(&threads[r], NULL, work, &jobs[r]), 0);
  }
  for (int r = 0; r < ranks; r++)
    pthread_join(threads[r], NULL);
}

static void run_suite(int ranks) {
  Link links[MOST_RANKS];
  Job jobs[MOST_RANKS];
  ASSERT_OK(transport_local_open(ranks, links));
  for (int i = 0; i <= transport_suite_size - (ranks == 1); i++) {
    bool last = i == transport_suite_size;
    run_on_all(ranks, links, last ? transport_suite_withdraw : transport_suite[i].run, jobs);
    for (int r = 0; r < ranks; r++)
      if (jobs[r].status != OK)
        FAIL_TEST("%s on %d ranks: rank %d: %s", last ? "withdraw" : transport_suite[i].name, ranks, r,
                  jobs[r].message);
  }
  transport_local_close(ranks, links);
}

static void conforms_on_one_to_four_ranks(void **state) {
  (void)state;
  for (int ranks = 1; ranks <= 4; ranks++)
    run_suite(ranks);
}

static void conforms_on_eight_ranks(void **state) {
  (void)state;
  run_suite(8);
}

/* A send is not over before the receive is posted: nothing is buffered. */
static void send_is_done_when_received(void **state) {
  (void)state;
  Link links[2];
  Ticket sent, received;
  char out[4] = "abc", in[4] = "";
  ASSERT_OK(transport_local_open(2, links));
  ASSERT_OK(transport_local.post(links[0].endpoints[0], &(Transfer){1, true, out, 4}, 1, &sent));
  strcpy(out, "xyz");
  ASSERT_OK(transport_local.post(links[1].endpoints[0], &(Transfer){0, false, in, 4}, 1, &received));
  assert_string_equal(in, "xyz");
  ASSERT_OK(transport_local.wait(links[0].endpoints[0], sent));
  ASSERT_OK(transport_local.wait(links[1].endpoints[0], received));
  transport_local_close(2, links);
}

static void sides_that_differ_in_bytes_both_fail(void **state) {
  (void)state;
  Link links[2];
  Ticket sent, received;
  char out[4] = "abc", in[8];
  ASSERT_OK(transport_local_open(2, links));
  ASSERT_OK(transport_local.post(links[0].endpoints[0], &(Transfer){1, true, out, 4}, 1, &sent));
  ASSERT_OK(transport_local.post(links[1].endpoints[0], &(Transfer){0, false, in, 8}, 1, &received));
  ASSERT_FAILS(E_COMM, "rank 0 sends 4 bytes to rank 1, which receives 8",
               transport_local.wait(links[0].endpoints[0], sent));
  ASSERT_FAILS(E_COMM, "rank 1 receives 8 bytes from rank 0, which sends 4",
               transport_local.wait(links[1].endpoints[0], received));
  transport_local_close(2, links);
}

/* What a withdrawn rank posted is not touched any more: its memory may go. */
static void withdrawn_buffers_are_left_alone(void **state) {
  (void)state;
  Link links[2];
  Ticket ticket;
  char *gone = strdup("gone"), in[5];
  ASSERT_OK(transport_local_open(2, links));
  ASSERT_OK(transport_local.post(links[0].endpoints[0], &(Transfer){1, true, gone, 5}, 1, &ticket));
  transport_local.withdraw(links[0].endpoints[1], "no more");
  free(gone);
  ASSERT_FAILS(E_COMM, "rank 0: no more",
               transport_local.post(links[1].endpoints[0], &(Transfer){0, false, in, 5}, 1, &ticket));
  ASSERT_FAILS(E_COMM, "rank 0: no more", transport_local.wait(links[0].endpoints[0], ticket));
  transport_local_close(2, links);
}

static void *receive_from_1(void *argument) {
  Job *job = argument;
  char in[4];
  job->status = link_receive(job->link, 1, in, 4);
  snprintf(job->message, sizeof job->message, "%s", status_message());
  return NULL;
}

/* Nobody waits for a rank whose own post fails. */
static void a_failed_post_withdraws(void **state) {
  (void)state;
  Link links[2];
  Job waits = {.link = &links[0]};
  pthread_t thread;
  ASSERT_OK(transport_local_open(2, links));
  assert_int_equal(pthread_create(&thread, NULL, receive_from_1, &waits), 0);
  ASSERT_FAILS(E_USAGE, "rank 1 of 2 cannot exchange with rank 7", link_send(&links[1], 7, "abc", 4));
  pthread_join(thread, NULL);
  assert_int_equal(waits.status, E_COMM);
  assert_string_equal(waits.message, "rank 1: rank 1 of 2 cannot exchange with rank 7");
  transport_local_close(2, links);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(conforms_on_one_to_four_ranks),    cmocka_unit_test(conforms_on_eight_ranks),
      cmocka_unit_test(send_is_done_when_received),       cmocka_unit_test(sides_that_differ_in_bytes_both_fail),
      cmocka_unit_test(withdrawn_buffers_are_left_alone), cmocka_unit_test(a_failed_post_withdraws),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
