/* Schedules: the named rows, their text form, the proof. */
#include <stdlib.h>
#include <string.h>

#include "partitioner/schedule.h"
#include "tests/test.h"

static char *text_of(const Schedule *schedule) {
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  ASSERT_OK(schedule_write(schedule, file));
  fclose(file);
  return text;
}

/* Every row for 1..8 ranks and 1..9 microbatches passes the proof and reads back as itself. */
static void rows_pass_the_proof(void **state) {
  (void)state;
  for (int n = 0; schedule_names[n]; n++)
    for (int ranks = 1; ranks <= 8; ranks++)
      for (int microbatches = 1; microbatches <= 9; microbatches++) {
        Arena *arena = arena_create();
        Schedule schedule, again;
        int chunks;
        ASSERT_OK(schedule_usual_chunks(schedule_names[n], &chunks));
        ASSERT_OK(schedule_generate(arena, schedule_names[n], ranks, chunks, microbatches, NULL, &schedule));
        ASSERT_OK(schedule_check(&schedule, NULL));
        char *text = text_of(&schedule);
        ASSERT_OK(schedule_read(arena, text, &again));
        ASSERT_OK(schedule_check(&again, NULL));
        char *second = text_of(&again);
        assert_string_equal(text, second);
        free(text);
        free(second);
        arena_destroy(arena);
      }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_pass_the_proof),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
