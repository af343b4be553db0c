/* ONNXPIPE_ISA. Instruction sets that this processor lacks are named in the output: nothing runs them here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "tests/test.h"

static void the_best_is_taken(void **state) {
  (void)state;
  const Isa *isa;
  int i = 0;
  while (!isas[i]->runs())
    i++;
  unsetenv("ONNXPIPE_ISA");
  ASSERT_OK(isa_choose(&isa));
  assert_ptr_equal(isa, isas[i]);
  setenv("ONNXPIPE_ISA", "", 1);
  ASSERT_OK(isa_choose(&isa));
  assert_ptr_equal(isa, isas[i]);
}

/* "ONNXPIPE_ISA: WHY 'ASKED'; it has avx2, plain" */
static const char *refusal(const char *why, const char *asked) {
  static char line[256];
  size_t at = (size_t)snprintf(line, sizeof line, "ONNXPIPE_ISA: %s '%s'; it has", why, asked);
  const char *between = " ";
  for (int i = 0; isas[i]; i++)
    if (isas[i]->runs()) {
      at += (size_t)snprintf(line + at, sizeof line - at, "%s%s", between, isas[i]->name);
      between = ", ";
    }
  return line;
}

static void each_can_be_forced(void **state) {
  (void)state;
  for (int i = 0; isas[i]; i++) {
    const Isa *isa;
    DeviceSpec spec;
    setenv("ONNXPIPE_ISA", isas[i]->name, 1);
    if (isas[i]->runs()) {
      ASSERT_OK(isa_choose(&isa));
      assert_ptr_equal(isa, isas[i]);
      ASSERT_OK(backend_cpu.describe(0, &spec));
      printf("%s runs here\n", isas[i]->name);
    } else {
      ASSERT_FAILS(E_USAGE, refusal("this processor lacks", isas[i]->name), backend_cpu.describe(0, &spec));
      printf("%s does not run here\n", isas[i]->name);
    }
  }
}

static void what_nobody_knows_is_refused(void **state) {
  (void)state;
  Stream *stream;
  setenv("ONNXPIPE_ISA", "sse9", 1);
  ASSERT_FAILS(E_USAGE, refusal("this build knows no instruction set", "sse9"), backend_cpu.stream_open(0, 1, &stream));
  unsetenv("ONNXPIPE_ISA");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_best_is_taken),
      cmocka_unit_test(each_can_be_forced),
      cmocka_unit_test(what_nobody_knows_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
