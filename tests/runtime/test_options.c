/* The table of options: defaults, parsing, refusals. */
#include <string.h>

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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults_are_those_of_the_table),
      cmocka_unit_test(values_parse),
      cmocka_unit_test(what_does_not_parse_is_named),
      cmocka_unit_test(every_entry_is_whole),
  };
  return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
