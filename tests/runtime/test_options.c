/* The table of options: defaults, parsing, refusals. */
#include <string.h>

#include "backend/backend.h"
#include "graph/loss.h"
#include "graph/optimizer.h"
#include "partitioner/schedule/schedule.h"
#include "runtime/options.h"
#include "tests/test.h"

static void defaults_are_those_of_the_table(void **state) {
  (void)state;
  Options *o = options_create();
  assert_non_null(o);
  assert_true(o->lr == 0.001 && o->beta2 == 0.999 && o->eps == 1e-8 && o->backward_input_frees == 0.5);
  assert_int_equal(o->ignore_index, -100);
  assert_int_equal(o->ranks, 0);
  assert_string_equal(o->optimizer, "adamw");
  assert_false(options_given(o, "lr"));
  options_destroy(o);
}

static void values_parse(void **state) {
  (void)state;
  Options *o = options_create();
  ASSERT_OK(options_set(o, "memory-limit", "1.5G"));
  assert_int_equal(o->memory_limit, (int64_t)3 << 29);
  ASSERT_OK(options_set(o, "memory-limit", "64M"));
  assert_int_equal(o->memory_limit, 64 << 20);
  ASSERT_OK(options_set(o, "microbatches", "auto"));
  assert_int_equal(o->microbatches, 0);
  ASSERT_OK(options_set(o, "forward-ms", "1,2.5,3"));
  assert_int_equal(o->forward_ms.n, 3);
  assert_true(o->forward_ms.items[1] == 2.5);
  ASSERT_OK(options_set(o, "train", "a*"));
  ASSERT_OK(options_set(o, "train", "b"));
  assert_int_equal(o->train.n, 2);
  assert_string_equal(o->train.items[1], "b");
  ASSERT_OK(options_set(o, "shuffle", ""));
  assert_true(o->shuffle && options_given(o, "shuffle"));
  options_destroy(o);
}

static void what_does_not_parse_is_named(void **state) {
  (void)state;
  Options *o = options_create();
  ASSERT_FAILS(E_USAGE, "--colour is no option", options_set(o, "colour", "red"));
  ASSERT_FAILS(E_USAGE, "--lr: 'fast' is no number", options_set(o, "lr", "fast"));
  ASSERT_FAILS(E_USAGE, "--lr: 'inf' is no number", options_set(o, "lr", "inf"));
  ASSERT_FAILS(E_USAGE, "--ranks: '2x' is no whole number", options_set(o, "ranks", "2x"));
  ASSERT_FAILS(E_USAGE, "--ranks: 0 is less than 1", options_set(o, "ranks", "0"));
  ASSERT_FAILS(E_USAGE, "--ranks: 5000 is more than 4096", options_set(o, "ranks", "5000"));
  ASSERT_FAILS(E_USAGE, "--seed: '99999999999999999999' is no whole number",
               options_set(o, "seed", "99999999999999999999"));
  ASSERT_FAILS(E_USAGE, "--memory-limit: '-2G' is no size such as 64M or 2G", options_set(o, "memory-limit", "-2G"));
  ASSERT_FAILS(E_USAGE, "--memory-limit: '2X' is no size such as 64M or 2G", options_set(o, "memory-limit", "2X"));
  ASSERT_FAILS(E_USAGE, "--shuffle is a flag: it takes no 'maybe'", options_set(o, "shuffle", "maybe"));
  ASSERT_FAILS(E_USAGE, "--save needs a value (FILE.onnx)", options_set(o, "save", ""));
  ASSERT_FAILS(E_USAGE, "--forward-ms: '' is no number", options_set(o, "forward-ms", "1,,2"));
  options_destroy(o);
}

/* A flag is set by naming it; whatever else takes a value says so. */
static void no_value_is_refused_but_for_flags(void **state) {
  (void)state;
  const OptionEntry *entry;
  Options *o = options_create();
  for (int i = 0; (entry = options_entry(i)); i++) {
    char expected[128];
    snprintf(expected, sizeof expected, "--%s needs a value (%s)", entry->name, entry->argument);
    if (entry->kind != OPTION_FLAG) {
      ASSERT_FAILS(E_USAGE, expected, options_set(o, entry->name, NULL));
      assert_false(options_given(o, entry->name));
      continue;
    }
    ASSERT_OK(options_set(o, entry->name, NULL));
    assert_true(options_given(o, entry->name));
    assert_true(*(bool *)((char *)o + entry->offset));
  }
  ASSERT_FAILS(E_USAGE, "an option has a name", options_set(o, NULL, "1"));
  options_destroy(o);
}

static void every_entry_is_whole(void **state) {
  (void)state;
  const OptionEntry *entry;
  for (int i = 0; (entry = options_entry(i)); i++) {
    assert_ptr_equal(options_find(entry->name), entry);
    assert_true(entry->commands[0] == ' ' && entry->commands[strlen(entry->commands) - 1] == ' ');
    assert_true((entry->argument == NULL) == (entry->kind == OPTION_FLAG));
    assert_true(*entry->help != '\0');
  }
}

static bool in_list(const char *list, const char *name) {
  char padded[256], word[64];
  snprintf(padded, sizeof padded, " %s ", list);
  snprintf(word, sizeof word, " %s ", name);
  return strstr(padded, word) != NULL;
}

static int words_of(const char *list) {
  int n = 1;
  for (const char *c = list; *c; c++)
    n += *c == ' ';
  return n;
}

/* The lists that completion offers are those of the rooms that know the names. */
static void listed_values_are_those_there_are(void **state) {
  (void)state;
  const char *devices = options_find("device")->values, *schedules = options_find("schedule")->values;
  int n = 0;
  for (; backends[n]; n++)
    assert_true(in_list(devices, backends[n]->name));
  assert_true(in_list(devices, "auto"));
  assert_int_equal(words_of(devices), n + 1);
  for (n = 0; schedule_names[n]; n++)
    assert_true(in_list(schedules, schedule_names[n]));
  assert_true(in_list(schedules, "auto"));
  assert_int_equal(words_of(schedules), n + 1);
  assert_int_equal(words_of(options_find("loss")->values), LOSS_COUNT);
  for (int kind = 0; kind < LOSS_COUNT; kind++)
    assert_true(in_list(options_find("loss")->values, loss_name((LossKind)kind)));
  assert_int_equal(words_of(options_find("optimizer")->values), OPTIMIZER_COUNT);
  for (n = 0; n < OPTIMIZER_COUNT; n++)
    assert_int_not_equal(optimizer_find((const char *[]){"sgd", "adam", "adamw", "sparse_adam"}[n]), OPTIMIZER_COUNT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults_are_those_of_the_table),   cmocka_unit_test(values_parse),
      cmocka_unit_test(what_does_not_parse_is_named),      cmocka_unit_test(every_entry_is_whole),
      cmocka_unit_test(listed_values_are_those_there_are), cmocka_unit_test(no_value_is_refused_but_for_flags),
  };
  return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
