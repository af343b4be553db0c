/* Rotary positions that are spelled out become one node, before the transpose of heads where there is one, and stay
 * what they are where the halves are others. */
#include "tests/graph/spelled.h"

#define HALVES(x) "l = Slice " x " axes:3 starts:0 ends:2 steps:1", "h = Slice " x " axes:3 starts:2 ends:4 steps:1"
enum { LINES = 10 };

static const struct {
  const char *lines[LINES];
  const char *left;
} cases[] = {
    {{HALVES("x"), "n = Neg h", "r = Concat n l axis:3", "p = Mul x c", "q = Mul r s", "y = Add p q"}, "Rotary"},
    {{HALVES("x"), "n = Neg h", "r = Concat n l axis:3", "p = Mul c x", "q = Mul s r", "y = Add q p"}, "Rotary"},
    {{"l,h = Split x axis:3 split:2,2", "n = Neg h", "r = Concat n l axis:3", "p = Mul x c", "q = Mul r s",
      "y = Add p q"},
     "Rotary"},
    /* before heads are turned */
    {{"t = Transpose x perm:0,2,1,3", HALVES("t"), "n = Neg h", "r = Concat n l axis:3", "p = Mul t d", "q = Mul r e",
      "y = Add p q"},
     "Reshape Reshape Rotary Transpose"},
    /* angles of each head and row are not there another way round by a reshape */
    {{"t = Transpose x perm:0,2,1,3", HALVES("t"), "n = Neg h", "r = Concat n l axis:3", "p = Mul t f", "q = Mul r f",
      "y = Add p q"},
     "Transpose Rotary"},
    /* the other half, other signs, angles that train */
    {{HALVES("x"), "n = Neg l", "r = Concat n h axis:3", "p = Mul x c", "q = Mul r s", "y = Add p q"},
     "Slice Slice Neg Concat Mul Mul Add"},
    {{HALVES("x"), "r = Concat h l axis:3", "p = Mul x c", "q = Mul r s", "y = Add p q"},
     "Slice Slice Concat Mul Mul Add"},
    {{HALVES("x"), "n = Neg h", "r = Concat n l axis:3", "p = Mul x g", "q = Mul r s", "y = Add p q"},
     "Slice Slice Neg Concat Mul Mul Add"},
};

static void rotations_become_one_node(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Arena *arena = arena_create();
    Spelled s = spelled_begin(arena);
    spelled_input(&s, "x", ROLE_INPUT, 4, (int64_t[]){2, 3, 5, 4});
    spelled_input(&s, "c", ROLE_INPUT, 3, (int64_t[]){3, 1, 4});
    spelled_input(&s, "s", ROLE_INPUT, 2, (int64_t[]){5, 4});
    spelled_input(&s, "d", ROLE_INPUT, 4, (int64_t[]){1, 1, 3, 4});
    spelled_input(&s, "e", ROLE_INPUT, 2, (int64_t[]){3, 4});
    spelled_input(&s, "f", ROLE_INPUT, 3, (int64_t[]){5, 3, 4});
    spelled_input(&s, "g", ROLE_PARAMETER, 1, (int64_t[]){4});
    spelled_end(&s, cases[i].lines);
    Graph *to = spelled_fuse(arena, &s);
    spelled_is(to, cases[i].left);
    spelled_same(arena, s.g, to, 1e-5f);
    arena_destroy(arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(rotations_become_one_node)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
