/* Philox4x32-10 by the known answers of its authors (Random123, kat_vectors). */
#include "base/philox.h"

#include <string.h>

#include "tests/test.h"

static void known_answers(void **state) {
  (void)state;
  static const struct {
    Philox counter;
    uint32_t key[2];
    Philox words;
  } cases[] = {
      {{{0, 0, 0, 0}}, {0, 0}, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
      {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}},
       {0xffffffff, 0xffffffff},
       {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       {0xa4093822, 0x299f31d0},
       {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Philox words = philox(cases[i].counter, cases[i].key[0], cases[i].key[1]);
    assert_memory_equal(words.word, cases[i].words.word, sizeof words.word);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(known_answers)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
