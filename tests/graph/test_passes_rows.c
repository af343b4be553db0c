/* Attention that reads and writes rows: what of the graph around it vanishes, what stays, and that the result is the
 * same. */
#include "tests/graph/spelled.h"

enum { B = 2, T = 5, H = 2, D = 4, LINES = 20 };

typedef struct {
  const char *name, *x; /* x: the shape of the first input, in letters: B T, and W for 3 H D */
  const char *lines[LINES];
  const char *left;                   /* the operators that are left */
  int inputs;                         /* of Attention, 0: it is as it was */
  int64_t q_rows[2], v_rows[2], rows; /* rows: whether the result is */
} Case;

#define HEADS(to, from) to "1 = Reshape " from " shape:2,5,2,4", to " = Transpose " to "1 perm:0,2,1,3"
#define RESULT "t = Transpose y perm:0,2,1,3", "r = Reshape t shape:2,5,8"

static const Case cases[] = {
    {"one product, split",
     "BTW",
     {"a,b,c = Split x split:8,8,8 axis:2", HEADS("q", "a"), HEADS("k", "b"), HEADS("v", "c"), "y = Attention q k v",
      RESULT, NULL},
     "Attention Reshape Reshape",
     1,
     {0, 4},
     {16, 4},
     1},
    {"three axes first",
     "BTW",
     {"s = Reshape x shape:2,5,3,2,4", "m = Transpose s perm:2,0,3,1,4", "a,b,c = Split m split:1,1,1 axis:0",
      "q = Reshape a shape:2,2,5,4", "k = Reshape b shape:2,2,5,4", "v = Reshape c shape:2,2,5,4",
      "y = Attention q k v", RESULT, NULL},
     "Attention Reshape Reshape",
     1,
     {0, 4},
     {16, 4},
     1},
    {"head by head",
     "BTW",
     {"s = Reshape x shape:2,5,2,12", "m = Transpose s perm:0,2,1,3", "q = Slice m axes:3 starts:0 ends:4 steps:1",
      "k = Slice m axes:3 starts:4 ends:8 steps:1", "v = Slice m axes:3 starts:8 ends:12 steps:1",
      "y = Attention q k v", RESULT, NULL},
     "Attention Reshape Reshape",
     1,
     {0, 12},
     {8, 12},
     1},
    {"keys turned twice",
     "BTW",
     {"a,b,c = Split x split:8,8,8 axis:2", HEADS("q", "a"), HEADS("v", "c"), "l = Reshape b shape:2,5,2,4",
      "u = Transpose l perm:0,2,3,1", "k = Transpose u perm:0,1,3,2", "y = Attention q k v", RESULT, NULL},
     "Attention Reshape Reshape",
     1,
     {0, 4},
     {16, 4},
     1},
    {"keys and values in one",
     "BTW",
     {"n = Tanh x", "f = Slice n axes:2 starts:0 ends:8 steps:1", "p = Tanh f",
      "o = Slice n axes:2 starts:8 ends:24 steps:1", "e = Tanh o", "b,c = Split e split:8,8 axis:2", HEADS("q", "p"),
      HEADS("k", "b"), HEADS("v", "c"), "y = Attention q k v", RESULT, NULL},
     "Tanh Slice Tanh Slice Tanh Attention Reshape Reshape",
     2,
     {0, 4},
     {8, 4},
     1},
    {"queries and keys that turn",
     "BTW",
     {"a,b,c = Split x split:8,8,8 axis:2", HEADS("o", "a"), HEADS("p", "b"), HEADS("v", "c"), "q = Tanh o",
      "k = Tanh p", "y = Attention q k v", RESULT, NULL},
     "Split Reshape Transpose Reshape Transpose Tanh Tanh Attention Reshape Reshape",
     3,
     {-1, 0},
     {0, 4},
     1},
    {"of itself",
     "BTW",
     {"s = Slice x axes:2 starts:0 ends:8 steps:1", HEADS("q", "s"), "y = Attention q q q", RESULT, NULL},
     "Slice Attention Reshape Reshape",
     3,
     {0, 4},
     {0, 4},
     1},
    {"a result that is read as it is",
     "BTW",
     {"a,b,c = Split x split:8,8,8 axis:2", HEADS("q", "a"), HEADS("k", "b"), HEADS("v", "c"), "y = Attention q k v",
      "z = Tanh y", NULL},
     "Attention Tanh",
     1,
     {0, 4},
     {16, 4},
     0},
    {"time first",
     "TBW",
     {"a,b,c = Split x split:8,8,8 axis:2", "i = Reshape a shape:5,2,2,4", "q = Transpose i perm:1,2,0,3",
      "j = Reshape b shape:5,2,2,4", "k = Transpose j perm:1,2,0,3", "l = Reshape c shape:5,2,2,4",
      "v = Transpose l perm:1,2,0,3", "y = Attention q k v", "z = Transpose y perm:2,0,1,3", NULL},
     "Split Reshape Transpose Reshape Transpose Reshape Transpose Attention Transpose",
     0,
     {-1, 0},
     {-1, 0},
     0},
};

static int64_t size_of(char letter) {
  return letter == 'B' ? B : letter == 'T' ? T : 3 * H * D;
}

static void check_rows(const Case *c, const Node *n, const char *attr, const int64_t rows[2]) {
  int count;
  const int64_t *found = node_ints(n, attr, &count);
  if (rows[0] < 0 ? found != NULL : !found || found[0] != rows[0] || found[1] != rows[1])
    FAIL_TEST("%s: %s is %d %d", c->name, attr, found ? (int)found[0] : -1, found ? (int)found[1] : -1);
}

static void check_case(const Case *c, Role role) {
  Arena *arena = arena_create();
  Spelled s = spelled_begin(arena);
  const Node *n = NULL;
  int inputs = 0;
  spelled_input(&s, "x", role, 3, (int64_t[]){size_of(c->x[0]), size_of(c->x[1]), size_of(c->x[2])});
  spelled_end(&s, c->lines);
  Graph *to = spelled_fuse(arena, &s);
  spelled_is(to, c->left);
  for (size_t i = 0; i < to->n_nodes; i++)
    n = to->nodes[i]->op == OP_Attention ? to->nodes[i] : n;
  for (int k = 0; k < n->n_in && node_attr(n, "heads"); k++)
    inputs += n->in[k] != NO_VALUE;
  if (inputs != c->inputs)
    FAIL_TEST("%s: %d inputs", c->name, inputs);
  check_rows(c, n, "q_rows", c->q_rows);
  check_rows(c, n, "v_rows", c->v_rows);
  assert_int_equal(node_int(n, "y_rows", 0), c->rows);
  spelled_same(arena, s.g, to, 0);
  arena_destroy(arena);
}

/* Of inputs and where there is a gradient. */
static void rows_are_read_and_written_in_place(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    check_case(&cases[i], ROLE_INPUT);
    check_case(&cases[i], ROLE_PARAMETER);
  }
}

/* What is no place of rows is refused. */
static void places_are_checked(void **state) {
  (void)state;
  static const struct {
    const char *line, *message;
  } wrong[] = {
      {"y = Attention x heads:2 groups:2 size:4 value_size:4 q_rows:0,4 k_rows:8,4 v_rows:8,4",
       "2 operands have element 8"},
      {"y = Attention x heads:2 groups:2 size:4 value_size:4 q_rows:0,4 k_rows:8,4 v_rows:20,4", "V is ["},
      {"y = Attention x heads:2 groups:2 size:4 value_size:4 q_rows:0,2 k_rows:8,4 v_rows:16,4", "Q is ["},
      {"y = Attention x heads:2 groups:2 size:4 value_size:4 q_rows:0,4 k_rows:8,4", "V is ["},
      {"y = Attention x heads:3 groups:2 size:4 value_size:4 q_rows:0,4 k_rows:8,4 v_rows:16,4", "3 heads, 2 groups"},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    Arena *arena = arena_create();
    Spelled s = spelled_begin(arena);
    spelled_input(&s, "x", ROLE_INPUT, 3, (int64_t[]){B, T, 3 * H * D});
    Status status = spelled_try(&s, wrong[i].line);
    if (status != E_SHAPE || !strstr(status_message(), wrong[i].message))
      FAIL_TEST("%s: %s", wrong[i].line, status == OK ? "is taken" : status_message());
    arena_destroy(arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_are_read_and_written_in_place),
      cmocka_unit_test(places_are_checked),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
