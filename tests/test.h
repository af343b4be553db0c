/* What every CMocka program here begins with. */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#undef fail /* base/status.h has a function of that name; cmocka's fail_msg() goes with it */

#include "base/status.h"

/* cmocka's takes what is no number for equal to everything. */
#undef assert_float_equal
#define assert_float_equal(a, b, within) assert_true(fabs((double)(a) - (double)(b)) <= (double)(within))

/* Ends the test with a message. */
#define FAIL_TEST(...)                                                                                                 \
  do {                                                                                                                 \
    print_error(__VA_ARGS__);                                                                                          \
    print_error("\n");                                                                                                 \
    _fail(__FILE__, __LINE__);                                                                                         \
  } while (0)

/* The call succeeds, or the test ends with its message. */
#define ASSERT_OK(call)                                                                                                \
  do {                                                                                                                 \
    if ((call) != OK)                                                                                                  \
      FAIL_TEST("%s: %s", #call, status_message());                                                                    \
  } while (0)

/* The call fails with this code and exactly this message. */
#define ASSERT_FAILS(code, message, call)                                                                              \
  do {                                                                                                                 \
    assert_int_equal((call), (code));                                                                                  \
    assert_string_equal(status_message(), (message));                                                                  \
  } while (0)

#endif
