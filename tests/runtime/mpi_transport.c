/* The conformance suite on the ranks of an MPI world: every rank runs this program. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/transport/transport.h"
#include "transport_suite.h"

extern size_t transport_mpi_piece_bytes;

static Link link_of_world;

/* A rank that fails must not leave the others waiting. */
static void give_up(const char *name) {
  fprintf(stderr, "%s: rank %d: %s\n", name, transport_mpi.rank(link_of_world.endpoints[0]), status_message());
  transport_mpi_close(&link_of_world, true);
}

static void conforms(void **state) {
  (void)state;
  for (int i = 0; i < transport_suite_size; i++)
    if (transport_suite[i].run(&link_of_world) != OK)
      give_up(transport_suite[i].name);
}

static void conforms_in_small_pieces(void **state) {
  size_t before = transport_mpi_piece_bytes;
  transport_mpi_piece_bytes = 3000;
  conforms(state);
  transport_mpi_piece_bytes = before;
}

/* Whoever waits for a large message on a slow network moves. */
static void pieces_are_movements(void **state) {
  (void)state;
  int rank = transport_mpi.rank(link_of_world.endpoints[0]), size = transport_mpi.size(link_of_world.endpoints[0]);
  size_t before = transport_mpi_piece_bytes;
  char data[9000] = "";
  transport_mpi_piece_bytes = 1000;
  uint64_t moved = atomic_load(&link_of_world.watch->moved);
  if (rank == 0 && size > 1)
    ASSERT_OK(link_receive(&link_of_world, 1, data, sizeof data));
  if (rank == 1)
    ASSERT_OK(link_send(&link_of_world, 0, data, sizeof data));
  if (rank < 2 && size > 1)
    assert_true(atomic_load(&link_of_world.watch->moved) - moved >= 9);
  transport_mpi_piece_bytes = before;
}

/* The last one: it ends the transport for all, so it begins when rank 0 knows that all others are done. */
static void receiver_refuses_other_sizes(void **state) {
  (void)state;
  int rank = transport_mpi.rank(link_of_world.endpoints[0]), size = transport_mpi.size(link_of_world.endpoints[0]);
  char data[64] = "";
  if (rank > 1)
    (void)link_send(&link_of_world, 0, data, 1); /* fails where the end was faster */
  for (int r = 2; rank == 0 && r < size; r++)
    ASSERT_OK(link_receive(&link_of_world, r, data, 1));
  if (rank == 0 && size > 1)
    (void)link_send(&link_of_world, 1, data, 4); /* fails where the receiver was faster */
  if (rank == 1)
    ASSERT_FAILS(E_COMM, "rank 1 receives 64 bytes from rank 0, which sends 4",
                 link_receive(&link_of_world, 0, data, 64));
}

int main(void) {
  if (transport_mpi_open(&link_of_world) != OK) {
    fprintf(stderr, "%s\n", status_message());
    transport_mpi_close(&link_of_world, true);
    return 1;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(conforms),
      cmocka_unit_test(conforms_in_small_pieces),
      cmocka_unit_test(pieces_are_movements),
      cmocka_unit_test(receiver_refuses_other_sizes),
  };
  int failures = cmocka_run_group_tests(tests, NULL, NULL);
  transport_mpi_close(&link_of_world, failures != 0);
  return failures;
}
