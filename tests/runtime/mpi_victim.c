/* The end of an MPI world, for test_transport_death.c: ranks pass a token around for ever until rank R, the second
 * argument, does what the first says. One line that begins with "victim: " is to come of it, whoever prints it. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/transport/transport.h"

static void report(void *context, const char *message) {
  (void)context;
  fprintf(stderr, "victim: %s\n", message);
}

static Status pass_token(const Link *link, int rank, int size) {
  long token = 0;
  if (rank > 0)
    TRY(link_receive(link, rank - 1, &token, sizeof token));
  token++;
  TRY(link_send(link, (rank + 1) % size, &token, sizeof token));
  return rank ? OK : link_receive(link, size - 1, &token, sizeof token);
}

/* A long kernel: the rank's thread looks at nothing else. */
static void compute(double seconds) {
  time_t end = time(NULL) + (time_t)seconds;
  while (time(NULL) < end)
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

static Status run(const Link *link, const char *how, int victim) {
  int rank = link->transport->rank(link->endpoints[0]), size = link->transport->size(link->endpoints[0]);
  for (int round = 0;; round++) {
    TRY(pass_token(link, rank, size));
    if (round < 20)
      continue;
    if (rank == victim && strcmp(how, "kill-in-kernel") == 0)
      raise(SIGKILL);
    if (rank == victim && strcmp(how, "exit") == 0)
      exit(0);
    if (rank == victim && strcmp(how, "fail") == 0)
      return fail(E_MODEL, "rank %d: the loss of microbatch 2 is nan", rank);
    if (rank == victim && strcmp(how, "end-in-kernel") == 0)
      kill(getpid(), SIGTERM);
    if (strstr(how, "-in-kernel"))
      compute(60);
  }
}

int main(int argc, char **argv) {
  if (argc != 3)
    return 2;
  Link link;
  transport_mpi_on_death(report, NULL);
  Status status = transport_mpi_open(&link);
  if (status == OK)
    status = run(&link, argv[1], atoi(argv[2]));
  if (status != OK && link.transport)
    link.transport->withdraw(link.endpoints[CHANNEL_DATA], status_message());
  if (status != OK && !transport_mpi_reported())
    report(NULL, status_message());
  transport_mpi_close(&link, status != OK);
  return status != OK;
}
