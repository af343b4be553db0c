/* Normalisations that are spelled out become one node, in every way that exporters have of writing them, and stay what
 * they are where the axes or the numbers are others. */
#include "tests/graph/spelled.h"

#define CENTRED "m = ReduceMean x axes:2 keepdims:1", "d = Sub x m"
#define VARIANCE "s = Pow d 2", "v = ReduceMean s axes:2 keepdims:1", "e = Add v 0.001"
#define SQUARES "s = Mul x x", "v = ReduceMean s axes:2 keepdims:1", "e = Add 0.001 v"
enum { LINES = 14 };

typedef struct {
  const char *lines[LINES];
  const char *left;
} Case;

static const Case cases[] = {
    /* nn.LayerNorm of torch's first exporter */
    {{CENTRED, VARIANCE, "r = Sqrt e", "n = Div d r", "y = Mul n g", "z = Add y b"}, "LayerNormalization"},
    {{CENTRED, VARIANCE, "r = Sqrt e", "n = Div d r", "y = Mul g n", "z = Add b y"}, "LayerNormalization"},
    {{CENTRED, VARIANCE, "r = Sqrt e", "n = Div d r", "y = Mul n g"}, "LayerNormalization"},
    {{CENTRED, VARIANCE, "r = Sqrt e", "n = Div d r", "z = Add n b"}, "LayerNormalization"},
    {{CENTRED, VARIANCE, "r = Sqrt e", "n = Div d r"}, "LayerNormalization"},
    /* the mean subtracted twice, a reciprocal root */
    {{CENTRED, "c = Sub x m", "s = Mul c c", "v = ReduceMean s axes:2 keepdims:1", "e = Add v 0.001", "q = Sqrt e",
      "r = Reciprocal q", "n = Mul d r", "y = Mul n g", "z = Add y b"},
     "LayerNormalization"},
    {{CENTRED, VARIANCE, "q = Sqrt e", "r = Div 1 q", "n = Mul r d"}, "LayerNormalization"},
    {{CENTRED, VARIANCE, "r = Pow e -0.5", "n = Mul d r", "y = Mul n g"}, "LayerNormalization"},
    {{CENTRED, VARIANCE, "r = Pow e 0.5", "n = Div d r", "y = Mul n g"}, "LayerNormalization"},
    /* over two axes, with a scale for the last */
    {{"m = ReduceMean x axes:1,2 keepdims:1", "d = Sub x m", "s = Mul d d", "v = ReduceMean s axes:1,2 keepdims:1",
      "e = Add v 0.001", "r = Sqrt e", "n = Div d r", "y = Mul n g"},
     "Expand LayerNormalization"},
    /* a scale with axes in front */
    {{CENTRED, VARIANCE, "r = Sqrt e", "n = Div d r", "y = Mul n w"}, "Reshape LayerNormalization"},
    /* root mean square */
    {{SQUARES, "q = Sqrt e", "r = Reciprocal q", "n = Mul x r", "y = Mul g n"}, "RMSNormalization"},
    {{SQUARES, "q = Sqrt e", "r = Div 1 q", "n = Mul x r"}, "RMSNormalization"},
    {{SQUARES, "r = Pow e -0.5", "n = Mul x r", "y = Mul g n", "z = Add y b"}, "RMSNormalization Add"},
    {{SQUARES, "q = Sqrt e", "n = Div x q", "o = Add g 1", "y = Mul n o"}, "Add RMSNormalization"},
    /* a scale of rows is none */
    {{SQUARES, "q = Sqrt e", "n = Div x q", "y = Mul n r1"}, "RMSNormalization Mul"},
    /* what is used twice keeps its scale */
    {{SQUARES, "q = Sqrt e", "n = Div x q", "y = Mul n g", "z = Add y n"}, "RMSNormalization Mul Add"},
    /* neither this axis nor that number */
    {{"m = ReduceMean x axes:1 keepdims:1", "d = Sub x m", "s = Mul d d", "v = ReduceMean s axes:1 keepdims:1",
      "e = Add v 0.001", "r = Sqrt e", "n = Div d r"},
     "ReduceMean Sub Mul ReduceMean Add Sqrt Div"},
    {{"m = ReduceMean x axes:1,2 keepdims:1", "d = Sub x m", "s = Mul d d", "v = ReduceMean s axes:2 keepdims:1",
      "e = Add v 0.001", "r = Sqrt e", "n = Div d r"},
     "ReduceMean Sub RMSNormalization"},
    {{CENTRED, "s = Pow d 3", "v = ReduceMean s axes:2 keepdims:1", "e = Add v 30", "r = Sqrt e", "n = Div d r"},
     "ReduceMean Sub Pow ReduceMean Add Sqrt Div"},
    {{CENTRED, VARIANCE, "r = Sqrt e", "n = Div x r"}, "ReduceMean Sub Pow ReduceMean Add Sqrt Div"},
    {{CENTRED, "s = Pow d 2", "v = ReduceMean s axes:2 keepdims:1", "q = Sqrt v", "r = Add q 0.001", "n = Div d r"},
     "ReduceMean Sub Pow ReduceMean Sqrt Add Div"},
};

static void norms_become_one_node(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Arena *arena = arena_create();
    Spelled s = spelled_begin(arena);
    spelled_input(&s, "x", ROLE_INPUT, 3, (int64_t[]){2, 3, 5});
    spelled_input(&s, "g", ROLE_PARAMETER, 1, (int64_t[]){5});
    spelled_input(&s, "b", ROLE_PARAMETER, 1, (int64_t[]){5});
    spelled_input(&s, "w", ROLE_PARAMETER, 3, (int64_t[]){1, 1, 5});
    spelled_input(&s, "r1", ROLE_PARAMETER, 2, (int64_t[]){3, 1});
    spelled_end(&s, cases[i].lines);
    Graph *to = spelled_fuse(arena, &s);
    spelled_is(to, cases[i].left);
    spelled_same(arena, s.g, to, 1e-5f);
    assert_string_equal(graph_value(to, to->outputs[0])->name, graph_value(s.g, s.g->outputs[0])->name);
    arena_destroy(arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(norms_become_one_node)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
