/* Narrow floating-point types: every bit pattern, and what rounds to it. */
#include <math.h>

#include "graph/narrow.h"
#include "tests/test.h"

static const DType types[] = {F16, BF16, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ};
enum { TYPES = sizeof types / sizeof *types };

static void bits_are_numbers_and_back(void **state) {
  (void)state;
  for (int t = 0; t < TYPES; t++)
    for (uint32_t bits = 0; bits < 1u << (8 * dtype_bytes(types[t])); bits++) {
      double x = narrow_value(types[t], bits);
      if (isnan(x))
        assert_true(isnan(narrow_value(types[t], narrow_bits(types[t], x, false))));
      else
        assert_int_equal(narrow_bits(types[t], x, false), bits);
    }
}

/* Between neighbours the nearer one, half way the even one. */
static void numbers_between_round(void **state) {
  (void)state;
  for (int t = 0; t < TYPES; t++)
    for (uint32_t bits = 0;
         isfinite(narrow_value(types[t], bits + 1)) && bits + 1 < 1u << (8 * dtype_bytes(types[t]) - 1); bits++) {
      double low = narrow_value(types[t], bits), high = narrow_value(types[t], bits + 1), middle = (low + high) / 2;
      assert_true(low < high);
      assert_int_equal(narrow_bits(types[t], middle, false), bits + (bits & 1));
      assert_int_equal(narrow_bits(types[t], middle - (high - low) / 16, false), bits);
      assert_int_equal(narrow_bits(types[t], middle + (high - low) / 16, false), bits + 1);
    }
}

static void what_is_too_large(void **state) {
  (void)state;
  static const double largest[TYPES] = {65504, 0x1.fep127, 448, 240, 57344, 57344};
  for (int t = 0; t < TYPES; t++) {
    bool has_infinity = types[t] == F16 || types[t] == BF16 || types[t] == F8E5M2, one = dtype_bytes(types[t]) == 1;
    for (int k = 0; k < 2; k++) {
      double x = k ? -INFINITY : 1e39, free_one = narrow_value(types[t], narrow_bits(types[t], x, false));
      double bounded = narrow_value(types[t], narrow_bits(types[t], x, true));
      assert_true(has_infinity ? free_one == copysign(INFINITY, x) : isnan(free_one));
      assert_true(bounded == copysign(one ? largest[t] : INFINITY, x));
    }
    assert_true(narrow_value(types[t], narrow_bits(types[t], largest[t], false)) == largest[t]);
    assert_true(narrow_value(types[t], narrow_bits(types[t], -1e-300, false)) == 0);
    assert_true(isnan(narrow_value(types[t], narrow_bits(types[t], NAN, true))));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bits_are_numbers_and_back),
      cmocka_unit_test(numbers_between_round),
      cmocka_unit_test(what_is_too_large),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
