/* Status messages, arenas, files that are replaced whole. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/nearest.h"
#include "base/text.h"
#include "tests/test.h"

static void context_goes_in_front(void **state) {
  (void)state;
  assert_int_equal(fail(E_SHAPE, "inner dimensions differ: %d, %d", 64, 32), E_SHAPE);
  status_context("node '%s': ", "a");
  status_context("m.onnx: ");
  assert_string_equal(status_message(), "m.onnx: node 'a': inner dimensions differ: 64, 32");
  assert_int_equal(status_code(), E_SHAPE);
}

static void messages_are_one_line(void **state) {
  (void)state;
  fail(E_MODEL, "no node '%s'", "a\nb\x1b[31m\x7f\xc3\xa9");
  status_context("%s: ", "m\r.onnx");
  assert_string_equal(status_message(), "m?.onnx: no node 'a?b?[31m?\xc3\xa9'");
}

static void long_messages_are_cut(void **state) {
  (void)state;
  char *text = malloc(10000);
  memset(text, 'x', 9999);
  text[9999] = '\0';
  fail(E_MODEL, "m.onnx: node '%s' (Foo): no such operator", text); /* what stands behind a long name is still said */
  assert_memory_equal(status_message(), "m.onnx: node 'xxx", 17);
  assert_non_null(strstr(status_message(), "xxx...xxx"));
  assert_non_null(strstr(status_message(), "xxx' (Foo): no such operator"));
  assert_in_range(strlen(status_message()), 400, 600);
  for (int i = 100; i < 9999; i += 100)
    text[i] = ' ';
  fail(E_IO, "%s", text);
  size_t length = strlen(status_message());
  assert_in_range(length, 1000, 4095);
  status_context("front: ");
  assert_memory_equal(status_message(), "front: xxx", 10);
  assert_int_equal(strlen(status_message()), length);
  free(text);
}

static void arena_hands_out_aligned_zeroes(void **state) {
  (void)state;
  Arena *arena = arena_create();
  assert_non_null(arena);
  size_t sizes[] = {0, 1, 15, 16, 64, 65, 1000, 65536, 70000, 3};
  for (int round = 0; round < 200; round++) {
    size_t bytes = sizes[round % 10];
    unsigned char *data = arena_alloc(arena, bytes, 1);
    assert_non_null(data);
    assert_int_equal((uintptr_t)data % (bytes > 64 ? 64 : 16), 0);
    for (size_t i = 0; i < bytes; i++)
      assert_int_equal(data[i], 0);
    memset(data, 0xff, bytes);
  }
  assert_null(arena_alloc(arena, SIZE_MAX / 2, 3));
  assert_int_equal(status_code(), E_MEMORY);
  assert_string_equal(arena_format(arena, "%d-%s", 7, "x"), "7-x");
  arena_destroy(arena);
  arena_destroy(NULL);
}

static void prose_is_broken_between_words(void **state) {
  (void)state;
  static const struct {
    const char *prose;
    int columns, at, indent;
    const char *lines;
  } cases[] = {{"one two three", 20, 0, 2, "one two three\n"},
               {"one two three", 8, 0, 2, "one two\n  three\n"},
               {"one two three", 10, 5, 4, "one\n    two\n    three\n"},
               {"one two\nthree four\n", 7, 0, 1, "one two\nthree\n four\n"},
               {"\xc3\xa9t\xc3\xa9 \xc3\xa9t\xc3\xa9", 7, 0, 0, "\xc3\xa9t\xc3\xa9 \xc3\xa9t\xc3\xa9\n"},
               {"abcdefgh i", 5, 0, 2, "abcde\n  fgh\n  i\n"},
               {"abc", 1, 0, 9, "a\nb\nc\n"},
               {"", 10, 0, 0, "\n"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Text text = {0};
    text_add_prose(&text, cases[i].prose, cases[i].columns, cases[i].at, cases[i].indent);
    assert_string_equal(text_whole(&text), cases[i].lines);
    text_free(&text);
  }
}

static void unknown_names_are_near_some(void **state) {
  (void)state;
  static const char *const names[] = {"sgd", "adam", "adamw", "microbatches", "memory-limit", "batch"};
  static const struct {
    const char *word;
    int nearest;
  } words[] = {{"sgdd", 0},  {"sdg", 0},        {"adma", 1},         {"adamw2", 2},
               {"micro", 3}, {"microbatch", 3}, {"mircobatchs", 3},  {"memorylimt", 4},
               {"bach", 5},  {"lion", -1},      {"x", -1},           {"", -1},
               {"b", -1},    {"colour", -1},    {"memory_limit", 4}, {"memory-limit", -1}};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    assert_int_equal(nearest_name(words[i].word, names, 6), words[i].nearest);
  char text[NEAREST_BYTES], long_word[2000];
  assert_string_equal(nearest_hint_of("sgdd", "sgd adam adamw", text), " (did you mean sgd?)");
  assert_string_equal(nearest_hint_of("lion", "sgd adam adamw", text), "");
  memset(long_word, 'x', sizeof long_word - 1);
  long_word[sizeof long_word - 1] = '\0';
  assert_string_equal(nearest_hint_of(long_word, "sgd adam adamw", text), "");
  assert_int_equal(nearest_name("sgdd", (const char *const[]){long_word, "sgd"}, 2), 1);
}

static void texts_grow(void **state) {
  (void)state;
  Text text = {0};
  assert_string_equal(text_whole(&text), "");
  text_add_bytes(&text, NULL, 0);
  assert_string_equal(text_whole(&text), "");
  for (int i = 0; i < 1000; i++) {
    text_add(&text, "%d", i % 10);
    text_add_string(&text, "ab");
    text_add_bytes(&text, "cdef", 2);
    text_add_char(&text, i % 2 ? '\n' : '%');
  }
  assert_int_equal(text.length, 6000);
  assert_int_equal(strlen(text_whole(&text)), 6000);
  assert_memory_equal(text_whole(&text), "0abcd%1abcd\n2abcd%", 18);
  assert_string_equal(text_whole(&text) + 5994, "9abcd\n");
  char wide[3000];
  memset(wide, 'w', sizeof wide - 1);
  wide[sizeof wide - 1] = '\0';
  text_free(&text);
  text_add(&text, "%s", wide);
  assert_string_equal(text_whole(&text), wide);
  text_free(&text);
  assert_null(text.data);
}

static void a_text_without_memory_is_not_whole(void **state) {
  (void)state;
  Text text = {0};
  text_add_string(&text, "begins");
  text_add_bytes(&text, "", SIZE_MAX - 10); /* nothing is read where there is no room */
  text_add_string(&text, "and goes on");
  assert_null(text_whole(&text));
  assert_int_equal(status_code(), E_MEMORY);
  assert_string_equal(status_message(), "out of memory: a text of more than 6 bytes");
  text_free(&text);
  assert_string_equal(text_whole(&text), "");
}

static void arena_keeps_to_its_limit(void **state) {
  (void)state;
  Arena *arena = arena_create();
  assert_true(arena_left(arena) == SIZE_MAX);
  arena_limit(arena, 200000, "a test");
  assert_non_null(arena_alloc(arena, 1, 100000));
  assert_null(arena_alloc(arena, 1, 100000));
  assert_int_equal(status_last(), E_LIMIT);
  assert_string_equal(status_message(), "100000 bytes more are above the limit of a test, 200000 bytes");
  assert_non_null(arena_alloc(arena, 1, 1000)); /* what fits still does */
  assert_in_range(arena_left(arena), 1, 100000);
  arena_destroy(arena);
}

static void arena_arrays_grow(void **state) {
  (void)state;
  Arena *arena = arena_create();
  int *numbers = NULL;
  size_t capacity = 0;
  for (int i = 0; i < 1000; i++) {
    assert_int_equal(ARENA_RESERVE(arena, numbers, i, capacity, i + 1), OK);
    numbers[i] = i;
  }
  for (int i = 0; i < 1000; i++)
    assert_int_equal(numbers[i], i);
  ASSERT_FAILS(E_MEMORY, "out of memory: 9223372036854775809 elements of 4 bytes",
               ARENA_RESERVE(arena, numbers, 1000, capacity, SIZE_MAX / 2 + 2));
  arena_destroy(arena);
}

static void overflow_is_seen(void **state) {
  (void)state;
  size_t out;
  int64_t wide;
  assert_false(checked_mul(SIZE_MAX, 2, &out));
  assert_false(checked_add(SIZE_MAX, 1, &out));
  assert_false(checked_mul_i64(INT64_MAX, 2, &wide));
  assert_true(checked_mul(1 << 20, 1 << 20, &out));
  assert_int_equal(out, (size_t)1 << 40);
}

static void read_back(const char *path, const char *expected) {
  char text[64] = {0};
  FILE *file = fopen(path, "r");
  assert_non_null(file);
  assert_int_equal(fread(text, 1, sizeof text - 1, file), strlen(expected));
  fclose(file);
  assert_string_equal(text, expected);
}

static void files_are_replaced_whole(void **state) {
  (void)state;
  char folder[] = "/tmp/onnxpipe_base_XXXXXX", path[PATH_MAX];
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/a", folder);
  FileReplace file;
  ASSERT_OK(file_replace_begin(path, &file));
  fputs("first", file.stream);
  ASSERT_OK(file_replace_commit(&file));
  read_back(path, "first");
  ASSERT_OK(file_replace_begin(path, &file));
  fputs("second", file.stream);
  read_back(path, "first");
  char *aside = strdup(file.aside);
  assert_int_equal(access(aside, F_OK), 0);
  file_replace_abandon_all(); /* as when a signal ends all */
  assert_int_not_equal(access(aside, F_OK), 0);
  free(aside);
  file_replace_abandon(&file);
  read_back(path, "first");
  assert_int_equal(unlink(path), 0);
  assert_int_equal(rmdir(folder), 0); /* nothing was left aside */
  assert_int_equal(file_replace_begin("/nonexistent/folder/a", &file), E_IO);
}

/* What a writer left that was killed goes with the next one; what is being written, and what has another name, stays.
 */
static void what_was_left_aside_goes(void **state) {
  (void)state;
  char folder[] = "/tmp/onnxpipe_base_XXXXXX", path[PATH_MAX], stale[PATH_MAX + 32], other[PATH_MAX + 32];
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/a", folder);
  snprintf(stale, sizeof stale, "%s.onnxpipe.tmpx7Y2zQ", path);
  snprintf(other, sizeof other, "%s.onnxpipe.tmpbackups", path);
  FileReplace first, second;
  ASSERT_OK(file_replace_begin(path, &first));
  fputs("first", first.stream);
  fclose(fopen(stale, "w"));
  fclose(fopen(other, "w"));
  ASSERT_OK(file_replace_begin(path, &second));
  assert_int_not_equal(access(stale, F_OK), 0);
  assert_int_equal(access(other, F_OK), 0);
  assert_int_equal(access(first.aside, F_OK), 0);
  fputs("second", second.stream);
  ASSERT_OK(file_replace_commit(&second));
  read_back(path, "second");
  ASSERT_OK(file_replace_commit(&first));
  read_back(path, "first");
  assert_int_equal(unlink(path), 0);
  assert_int_equal(unlink(other), 0);
  assert_int_equal(rmdir(folder), 0);
}

/* Devices and pipes are neither waited for nor replaced: renaming over /dev/null would harm the whole machine. */
static void only_regular_files_are_opened_and_replaced(void **state) {
  (void)state;
  char folder[] = "/tmp/onnxpipe_base_XXXXXX", path[PATH_MAX];
  FileReplace file;
  int descriptor;
  size_t bytes;
  struct stat info;
  assert_non_null(mkdtemp(folder));
  ASSERT_FAILS(E_IO, "is a directory", file_open(folder, &descriptor, &bytes));
  assert_int_equal(file_replace_begin(folder, &file), E_IO);
  snprintf(path, sizeof path, "%s/pipe", folder);
  assert_int_equal(mkfifo(path, 0600), 0);
  ASSERT_FAILS(E_IO, "is not a regular file", file_open(path, &descriptor, &bytes));
  assert_int_equal(file_replace_begin(path, &file), E_IO);
  assert_non_null(strstr(status_message(), "/pipe: is not a regular file"));
  assert_int_equal(stat(path, &info), 0);
  assert_true(S_ISFIFO(info.st_mode));
  assert_int_equal(unlink(path), 0);
  assert_int_equal(rmdir(folder), 0); /* nothing was left aside */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(context_goes_in_front),
      cmocka_unit_test(messages_are_one_line),
      cmocka_unit_test(long_messages_are_cut),
      cmocka_unit_test(arena_hands_out_aligned_zeroes),
      cmocka_unit_test(arena_keeps_to_its_limit),
      cmocka_unit_test(arena_arrays_grow),
      cmocka_unit_test(prose_is_broken_between_words),
      cmocka_unit_test(unknown_names_are_near_some),
      cmocka_unit_test(texts_grow),
      cmocka_unit_test(a_text_without_memory_is_not_whole),
      cmocka_unit_test(overflow_is_seen),
      cmocka_unit_test(files_are_replaced_whole),
      cmocka_unit_test(what_was_left_aside_goes),
      cmocka_unit_test(only_regular_files_are_opened_and_replaced),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
