/* What generators of random cases share: one file a family of operators, tests/ops/random_<family>.c. */
#ifndef TESTS_OPS_DRAW_H
#define TESTS_OPS_DRAW_H

#include "graph/op.h"
#include "tests/ops/cases.h"

typedef struct {
  uint64_t random;
  Arena *arena;
  OpCase *c;
  int n_in, n_out, n_attrs;
} Draw;

/* low … high */
int64_t between(Draw *d, int64_t low, int64_t high);
Shape any_shape(Draw *d, int least_rank, int most_rank, int64_t most);
/* A shape that broadcasts to s. */
Shape part_of(Draw *d, Shape s);
/* The case's next input, of any contents; its next output; its next attribute. */
CaseInput *input(Draw *d, Shape shape);
void output(Draw *d, Shape shape);
void put_int(Draw *d, const char *name, int64_t x);
void put_ints(Draw *d, const char *name, const int64_t *x, int n);

/* The families that stand in files of their own: false for an operator of another one. */
#define FAMILY(name) bool draw_##name(Draw *d, OpKind op);
#include "tests/ops/families.def"
#undef FAMILY

#endif
