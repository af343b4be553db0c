/* What tests of base, graph and backend take from CMocka, where there is no CMocka for the processor: the first
 * failure ends the program. */
#ifndef TESTS_ARM_CMOCKA_H
#define TESTS_ARM_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
  const char *name;
  void (*run)(void **state);
};

#define cmocka_unit_test(function)                                                                                     \
  { #function, function }

static inline void print_error(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
}

static inline _Noreturn void _fail(const char *file, int line) {
  print_error("%s:%d: failed\n", file, line);
  exit(1);
}

static inline void assert_holds(int holds, const char *what, const char *file, int line) {
  if (holds)
    return;
  print_error("%s\n", what);
  _fail(file, line);
}

#define fail_msg(...) (print_error(__VA_ARGS__), print_error("\n"), _fail(__FILE__, __LINE__))
#define CHECK(holds, what) assert_holds((holds), what, __FILE__, __LINE__)
#define assert_true(x) CHECK(!!(x), #x)
#define assert_false(x) CHECK(!(x), "not " #x)
#define assert_null(x) CHECK(!(x), #x " is NULL")
#define assert_non_null(x) CHECK(!!(x), #x " is not NULL")
#define assert_ptr_equal(a, b) CHECK((const void *)(a) == (const void *)(b), #a " = " #b)
#define assert_int_equal(a, b) CHECK((long long)(a) == (long long)(b), #a " = " #b)
#define assert_int_not_equal(a, b) CHECK((long long)(a) != (long long)(b), #a " != " #b)
#define assert_in_range(x, least, most) CHECK((x) >= (least) && (x) <= (most), #x " in " #least " … " #most)
#define assert_string_equal(a, b) CHECK(!strcmp(a, b), #a " = " #b)
#define assert_memory_equal(a, b, bytes) CHECK(!memcmp(a, b, bytes), #a " = " #b)

/* Where a test goes on that leaves itself out. */
static jmp_buf left_out;

static inline _Noreturn void skip(void) {
  longjmp(left_out, 1);
}

static inline void run_test(const struct CMUnitTest *test, void **state) {
  print_error("%s\n", test->name);
  if (setjmp(left_out) == 0)
    test->run(state);
  else
    print_error("skipped\n");
}

static inline int run_tests(const struct CMUnitTest *tests, size_t n, int (*set_up)(void **),
                            int (*tear_down)(void **)) {
  void *state = NULL;
  int failed = set_up ? set_up(&state) : 0;
  for (size_t i = 0; i < n && !failed; i++)
    run_test(&tests[i], &state);
  return failed || (tear_down && tear_down(&state));
}

#define cmocka_run_group_tests(tests, set_up, tear_down)                                                               \
  run_tests(tests, sizeof(tests) / sizeof *(tests), set_up, tear_down)

#endif
