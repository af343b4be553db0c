/* Positions in tensors, for naive oracles. */
#ifndef TESTS_OPS_ORACLE_H
#define TESTS_OPS_ORACLE_H

#include "graph/op.h"
#include "tests/ops/cases.h"

#define OP(name) Oracle oracle_##name;
#include "graph/ops.def"
#undef OP

typedef struct {
  int64_t at[MAX_RANK];
} Position;

/* Element i of a tensor in row-major order. */
Position position_of(Shape shape, int64_t i);
int64_t element_at(Shape shape, Position p);
/* The element of a tensor that broadcasts to `wide` at position p of it. */
int64_t element_broadcast(Shape shape, Shape wide, Position p);

/* A tensor as [outer, n, inner] around an axis: element k of line l lies at line_at(l) + k * inner. */
typedef struct {
  int64_t lines, n, inner;
} Lines;
Lines lines_along(Shape shape, int64_t axis);
/* All axes from `axis` on as one line. */
Lines lines_from(Shape shape, int64_t axis);
int64_t line_at(Lines lines, int64_t l);

#endif
