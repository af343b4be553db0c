/* Naive definitions: integers as bits, running products, determinants by minors. */
#include <math.h>

#include "tests/ops/oracle.h"

static uint64_t integer(double x) {
  return (uint64_t)(int64_t)x;
}

/* The number that the low bits are in this type. */
static double from_bits(DType dtype, uint64_t bits) {
  switch (dtype) {
  case I64:
    return (double)(int64_t)bits;
  case I32:
    return (double)(int32_t)bits;
  case I16:
    return (double)(int16_t)bits;
  case I8:
    return (double)(int8_t)bits;
  case U64:
    return (double)bits;
  default:
    return (double)(bits & (((uint64_t)1 << 8 * dtype_bytes(dtype)) - 1));
  }
}

#define BITS(op_name, EXPR)                                                                                            \
  void oracle_##op_name(const OracleCall *c) {                                                                         \
    for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++) {                                                    \
      Position p = position_of(c->out_shape[0], i);                                                                    \
      uint64_t x = integer(c->in[0][element_broadcast(c->in_shape[0], c->out_shape[0], p)]);                           \
      uint64_t y = c->n_in < 2 ? 0 : integer(c->in[1][element_broadcast(c->in_shape[1], c->out_shape[0], p)]);         \
      (void)y;                                                                                                         \
      c->out[0][i] = from_bits(c->dtype, EXPR);                                                                        \
    }                                                                                                                  \
  }
BITS(BitwiseAnd, x &y)
BITS(BitwiseOr, x | y)
BITS(BitwiseXor, x ^ y)
BITS(BitwiseNot, ~x)

/* Powers of 2; a number below 0 shifts by all bits. */
void oracle_BitShift(const OracleCall *c) {
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++) {
    Position p = position_of(c->out_shape[0], i);
    double x = c->in[0][element_broadcast(c->in_shape[0], c->out_shape[0], p)];
    double y = c->in[1][element_broadcast(c->in_shape[1], c->out_shape[0], p)];
    double power = y < 0 ? INFINITY : exp2(y);
    if (node_int(c->node, "right", 0))
      c->out[0][i] = floor(x / power) + (x < 0 && isinf(power) ? -1 : 0);
    else
      c->out[0][i] = isinf(power) ? 0 : from_bits(c->dtype, integer(x * power));
  }
}

/* The cases have numbers that both types write alike, but for those below 0. */
void oracle_BitCast(const OracleCall *c) {
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++)
    c->out[0][i] = from_bits((DType)node_int(c->node, "to", 0), integer(c->in[0][i]));
}

/* Whether factor k belongs to the product at place i. */
static bool is_factor(const Node *node, int64_t i, int64_t k) {
  bool exclusive = node_int(node, "exclusive", 0);
  return node_int(node, "reverse", 0) ? k > i || (!exclusive && k == i) : k < i || (!exclusive && k == i);
}

void oracle_CumProd(const OracleCall *c) {
  Lines lines = lines_along(c->in_shape[0], node_int(c->node, "axis", 0));
  for (int64_t l = 0; l < lines.lines; l++)
    for (int64_t i = 0; i < lines.n; i++) {
      double product = 1;
      for (int64_t k = 0; k < lines.n; k++)
        product *= is_factor(c->node, i, k) ? c->in[0][line_at(lines, l) + k * lines.inner] : 1;
      c->out[0][line_at(lines, l) + i * lines.inner] = product;
    }
}

/* The sum over products of dY times all other factors. */
void oracle_CumProdGrad(const OracleCall *c) {
  Lines lines = lines_along(c->in_shape[1], node_int(c->node, "axis", 0));
  for (int64_t l = 0; l < lines.lines; l++)
    for (int64_t x = 0; x < lines.n; x++) {
      double *dx = &c->out[0][line_at(lines, l) + x * lines.inner];
      *dx = 0;
      for (int64_t i = 0; i < lines.n; i++) {
        double others = is_factor(c->node, i, x) ? c->in[0][line_at(lines, l) + i * lines.inner] : 0;
        for (int64_t k = 0; k < lines.n; k++)
          others *= k != x && is_factor(c->node, i, k) ? c->in[1][line_at(lines, l) + k * lines.inner] : 1;
        *dx += others;
      }
    }
}

/* Of the rows and columns that are not crossed out, developed by the first row. */
static double minor(const double *x, int64_t n, unsigned rows, unsigned columns) {
  double sum = 0, sign = 1;
  int64_t row = 0;
  while (row < n && rows >> row & 1)
    row++;
  if (row == n)
    return 1;
  for (int64_t column = 0; column < n; column++) {
    if (columns >> column & 1)
      continue;
    sum += sign * x[row * n + column] * minor(x, n, rows | 1u << row, columns | 1u << column);
    sign = -sign;
  }
  return sum;
}

void oracle_Det(const OracleCall *c) {
  int64_t n = c->in_shape[0].dim[c->in_shape[0].rank - 1];
  for (int64_t m = 0; m < shape_elements(c->out_shape[0]); m++)
    c->out[0][m] = minor(c->in[0] + m * n * n, n, 0, 0);
}

void oracle_DetGrad(const OracleCall *c) {
  int64_t n = c->in_shape[1].dim[c->in_shape[1].rank - 1];
  for (int64_t m = 0; m < shape_elements(c->in_shape[0]); m++)
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < n; j++)
        c->out[0][(m * n + i) * n + j] =
            c->in[0][m] * ((i + j) % 2 ? -1 : 1) * minor(c->in[1] + m * n * n, n, 1u << i, 1u << j);
}
