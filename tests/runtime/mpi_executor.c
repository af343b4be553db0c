/* Training over the ranks of an MPI world, bit for bit what the interpreter gives, with the same plans as over threads.
 */
#include "executor_case.h"

static Link link_of_world;

static void bits_do_not_depend_on_the_pipeline(void **state) {
  (void)state;
  int rank = transport_mpi.rank(link_of_world.endpoints[0]), ranks = transport_mpi.size(link_of_world.endpoints[0]);
  for (uint64_t seed = 0; seed < 4; seed++)
    for (int microbatches = 1; microbatches <= 4; microbatches++) {
      Arena *arena = arena_create();
      Graph *g = case_graph(arena, &backend_reference, seed, 24);
      CaseResult expected = case_interpret(arena, g, microbatches);
      for (int s = 0; schedule_names[s]; s++)
        for (int chunks = 1; chunks <= 2; chunks++) {
          Plan plan;
          if (!case_plan(arena, g, schedule_names[s], ranks, chunks, microbatches, seed, &plan))
            continue;
          CaseRun run = {.plan = &plan,
                         .rank = rank,
                         .backend = &backend_reference,
                         .link = ranks > 1 ? &link_of_world : NULL,
                         .expected = &expected};
          if (case_train(&run) != OK) {
            fprintf(stderr, "rank %d: %s\n", rank, status_message());
            transport_mpi_close(&link_of_world, true);
          }
        }
      arena_destroy(arena);
    }
}

int main(void) {
  if (transport_mpi_open(&link_of_world) != OK) {
    fprintf(stderr, "%s\n", status_message());
    transport_mpi_close(&link_of_world, true);
    return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(bits_do_not_depend_on_the_pipeline)};
  int failures = cmocka_run_group_tests(tests, NULL, NULL);
  transport_mpi_close(&link_of_world, failures != 0);
  return failures;
}
