/* Naive definitions of the elementwise operators, losses and optimizer steps, and the table of all oracles: the build
 * names an operator that has none, oracle_Name. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "graph/optimizer.h"
#include "tests/ops/oracle.h"

Oracle *const oracles[OP_COUNT] = {
#define OP(name) [OP_##name] = oracle_##name,
#include "graph/ops.def"
#undef OP
};

Position position_of(Shape shape, int64_t i) {
  Position p = {{0}};
  for (int k = shape.rank - 1; k >= 0; k--) {
    p.at[k] = i % shape.dim[k];
    i /= shape.dim[k];
  }
  return p;
}

int64_t element_at(Shape shape, Position p) {
  int64_t i = 0;
  for (int k = 0; k < shape.rank; k++)
    i = i * shape.dim[k] + p.at[k];
  return i;
}

int64_t element_broadcast(Shape shape, Shape wide, Position p) {
  Position own = {{0}};
  for (int k = 0; k < shape.rank; k++)
    own.at[k] = shape.dim[k] == 1 ? 0 : p.at[wide.rank - shape.rank + k];
  return element_at(shape, own);
}

/* x, y, z: the inputs' elements that belong to the output's. */
#define ELEMENTWISE(op_name, EXPR)                                                                                     \
  void oracle_##op_name(const OracleCall *c) {                                                                         \
    for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++) {                                                    \
      Position p = position_of(c->out_shape[0], i);                                                                    \
      double v[3] = {0};                                                                                               \
      for (int k = 0; k < c->n_in && k < 3; k++)                                                                       \
        v[k] = c->in[k][element_broadcast(c->in_shape[k], c->out_shape[0], p)];                                        \
      double x = v[0], y = v[1], z = v[2];                                                                             \
      (void)x, (void)y, (void)z;                                                                                       \
      c->out[0][i] = EXPR;                                                                                             \
    }                                                                                                                  \
  }

#define IS_INTEGER (c->dtype == I64 || c->dtype == I32)

/* The remainder with the sign of the divisor. */
static double floor_mod(double x, double y) {
  return x - floor(x / y) * y;
}

ELEMENTWISE(Add, x + y)
ELEMENTWISE(Sub, x - y)
ELEMENTWISE(Mul, x *y)
ELEMENTWISE(Div, IS_INTEGER ? trunc(x / y) : x / y)
ELEMENTWISE(Pow, pow(x, y))
ELEMENTWISE(Max, fmax(x, y))
ELEMENTWISE(Min, fmin(x, y))
ELEMENTWISE(Mod, node_int(c->node, "fmod", 0) ? fmod(x, y) : floor_mod(x, y))
ELEMENTWISE(Equal, x == y)
ELEMENTWISE(Greater, x > y)
ELEMENTWISE(GreaterOrEqual, x >= y)
ELEMENTWISE(Less, x < y)
ELEMENTWISE(LessOrEqual, x <= y)
ELEMENTWISE(And, x != 0 && y != 0)
ELEMENTWISE(Or, x != 0 || y != 0)
ELEMENTWISE(Not, x == 0)
ELEMENTWISE(Where, x != 0 ? y : z)
#define UNARY(op_name, types, fill, EXPR) ELEMENTWISE(op_name, EXPR)
#include "tests/ops/unary.def"
#undef UNARY

static double alpha_of(const OracleCall *c) {
  return node_float(c->node, "alpha", 0.01);
}
ELEMENTWISE(LeakyRelu, x >= 0 ? x : alpha_of(c) * x)
ELEMENTWISE(LeakyReluGrad, y > 0 ? x : alpha_of(c) * x)

/* x Phi(x), or Hendrycks' and Gimpel's approximation by tanh (arXiv 1606.08415). */
static double gelu(const OracleCall *c, double x) {
  if (strcmp(node_string(c->node, "approximate", "none"), "tanh") == 0)
    return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * pow(x, 3))));
  return x / 2 * erfc(-x / sqrt(2));
}
/* The nearest multiple of the last digit's place. Of the types: digits, least exponent, largest number. */
static double narrow(const OracleCall *c, double x) {
  static const double types[DTYPE_COUNT][3] = {
      [F16] = {10, -14, 65504},    [BF16] = {7, -126, 0x1.fep127}, [F8E4M3FN] = {3, -6, 448},
      [F8E4M3FNUZ] = {3, -7, 240}, [F8E5M2] = {2, -14, 57344},     [F8E5M2FNUZ] = {2, -15, 57344}};
  const double *type = types[node_int(c->node, "to", 0)];
  double place = ldexp(1, (int)(fmax(floor(log2(fabs(x))), type[1]) - type[0]));
  double y = x == 0 ? 0 : rint(x / place) * place;
  return fabs(y) > type[2] ? copysign(node_int(c->node, "saturate", 1) ? type[2] : INFINITY, x) : y;
}

ELEMENTWISE(Narrow, narrow(c, x))
ELEMENTWISE(Gelu, gelu(c, x))
/* Slopes by differences that are exact to some 1e-9. */
ELEMENTWISE(GeluGrad,
            x *(gelu(c, y + 1e-4) * 8 - gelu(c, y - 1e-4) * 8 - gelu(c, y + 2e-4) + gelu(c, y - 2e-4)) / 12e-4)
ELEMENTWISE(Swish, x / (1 + exp(-node_float(c->node, "alpha", 1) * x)))
/* The slope of x g(alpha x) with the logistic g, whose slope is g (1 - g) = 1 / (2 cosh(x/2))². */
ELEMENTWISE(SwishGrad,
            x *(1 / (1 + exp(-node_float(c->node, "alpha", 1) * y)) +
                node_float(c->node, "alpha", 1) * y / pow(2 * cosh(node_float(c->node, "alpha", 1) * y / 2), 2)))
ELEMENTWISE(SwiGLU, x / (1 + exp(-node_float(c->node, "alpha", 1) * x)) * y)

/* Each cotangent is a product of dY, the slope of the one factor and the other. */
void oracle_SwiGLUGrad(const OracleCall *c) {
  double alpha = node_float(c->node, "alpha", 1);
  for (int64_t i = 0; i < shape_elements(c->out_shape[0]); i++) {
    double d = c->in[0][i], a = c->in[1][i], gate = 1 / (1 + exp(-alpha * a));
    c->out[0][i] = d * c->in[2][i] * (gate + alpha * a / pow(2 * cosh(alpha * a / 2), 2));
    c->out[1][i] = d * a * gate;
  }
}

ELEMENTWISE(Clip, fmin(fmax(x, node_float(c->node, "min", -INFINITY)), node_float(c->node, "max", INFINITY)))
ELEMENTWISE(ClipGrad, y >= node_float(c->node, "min", -INFINITY) && y <= node_float(c->node, "max", INFINITY) ? x : 0)
ELEMENTWISE(TanhGrad, x *(1 - y * y))
ELEMENTWISE(SigmoidGrad, x *y *(1 - y))
ELEMENTWISE(ReluGrad, y > 0 ? x : 0)

/* Truncation; the table's values fit the type. */
static double cast_to(DType dtype, double x) {
  if (dtype == F64)
    return x;
  return dtype == F32 ? (double)(float)x : dtype == BOOL ? x != 0 : trunc(x);
}
ELEMENTWISE(Cast, cast_to((DType)node_int(c->node, "to", 0), x))

/* log sum exp along one line. */
static double log_sum_exp(const double *x, Lines lines, int64_t at) {
  double sum = 0;
  for (int64_t k = 0; k < lines.n; k++)
    sum += exp(x[at + k * lines.inner]);
  return log(sum);
}

void oracle_CrossEntropy(const OracleCall *c) {
  Lines lines = lines_along(c->in_shape[0], node_int(c->node, "class_axis", 0));
  c->out[0][0] = 0;
  for (int64_t l = 0; l < lines.lines; l++) {
    int64_t at = line_at(lines, l), class = (int64_t)c->in[1][l];
    c->out[1][l] = log_sum_exp(c->in[0], lines, at);
    if (class != node_int(c->node, "ignore_index", -100))
      c->out[0][0] -= log(exp(c->in[0][at + class * lines.inner]) / exp(c->out[1][l]));
  }
}

void oracle_CrossEntropyGrad(const OracleCall *c) {
  Lines lines = lines_along(c->in_shape[0], node_int(c->node, "class_axis", 0));
  for (int64_t l = 0; l < lines.lines; l++)
    for (int64_t k = 0; k < lines.n; k++) {
      int64_t at = line_at(lines, l) + k * lines.inner, class = (int64_t)c->in[1][l];
      double p = exp(c->in[0][at] - c->in[2][l]);
      bool ignored = class == node_int(c->node, "ignore_index", -100);
      c->out[0][at] = ignored ? 0 : c->in[3][0] * (class == k ? p - 1 : p);
    }
}

/* Row by row a matrix: y = M x, or its transpose's. */
void oracle_Rotary(const OracleCall *c) {
  Shape x = c->in_shape[0];
  int64_t d = x.dim[x.rank - 1], half = d / 2;
  bool inverse = node_int(c->node, "inverse", 0);
  for (int64_t i = 0; i < shape_elements(x); i++)
    c->out[0][i] = 0;
  for (int64_t i = 0; i < shape_elements(x); i++) { /* row i of M has two elements that are not 0 */
    Position p = position_of(x, i);
    int64_t other = i % d < half ? i + half : i - half;
    double cosine = c->in[1][element_broadcast(c->in_shape[1], x, p)];
    double sine = c->in[2][element_broadcast(c->in_shape[2], x, p)] * (i % d < half ? -1 : 1);
    c->out[0][i] += cosine * c->in[0][i];
    if (inverse)
      c->out[0][other] += sine * c->in[0][i];
    else
      c->out[0][i] += sine * c->in[0][other];
  }
}

/* Accumulator, X, W, target, scale, bias: dX, loss, dBias. */
void oracle_ProductCrossEntropy(const OracleCall *c) {
  bool trans = node_int(c->node, "transB", 0);
  int64_t d = c->in_shape[2].dim[trans], v = c->in_shape[2].dim[!trans], n = shape_elements(c->in_shape[3]);
  const double *x = c->in[1], *w = c->in[2], *bias = c->n_in > 5 ? c->in[5] : NULL;
  double *y = calloc((size_t)(v + 1), sizeof *y);
  int64_t to_d = trans ? 1 : v, to_v = trans ? d : 1;
  c->out[1][0] = 0;
  for (int64_t i = 0; i < d * v && node_int(c->node, "begins", 0); i++)
    c->in[0][i] = 0;
  for (int64_t k = 0; bias && k < v; k++)
    c->out[2][k] = 0;
  for (int64_t i = 0; i < n; i++) {
    int64_t class = (int64_t)c->in[3][i];
    bool ignored = class == node_int(c->node, "ignore_index", -100);
    for (int64_t k = 0; k < v; k++) {
      y[k] = bias ? bias[k] : 0;
      for (int64_t l = 0; l < d; l++)
        y[k] += x[i * d + l] * w[l * to_d + k * to_v];
    }
    double lse = log_sum_exp(y, (Lines){1, v, 1}, 0);
    c->out[1][0] += ignored ? 0 : lse - y[class];
    for (int64_t l = 0; l < d; l++)
      c->out[0][i * d + l] = 0;
    for (int64_t k = 0; k < v; k++) {
      double slope = ignored ? 0 : c->in[4][0] * (exp(y[k] - lse) - (k == class));
      if (bias)
        c->out[2][k] += slope;
      for (int64_t l = 0; l < d; l++) {
        c->out[0][i * d + l] += slope * w[l * to_d + k * to_v];
        c->in[0][l * to_d + k * to_v] += slope * x[i * d + l];
      }
    }
  }
  free(y);
}

void oracle_CountTargets(const OracleCall *c) {
  c->out[0][0] = 0;
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++)
    c->out[0][0] += c->in[0][i] != (double)node_int(c->node, "ignore_index", -100);
}

#define PAIRED_LOSS(op_name, LOSS, SLOPE)                                                                              \
  void oracle_##op_name(const OracleCall *c) {                                                                         \
    c->out[0][0] = 0;                                                                                                  \
    for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {                                                     \
      double x = c->in[0][i], z = c->in[1][i];                                                                         \
      c->out[0][0] += LOSS;                                                                                            \
    }                                                                                                                  \
  }                                                                                                                    \
  void oracle_##op_name##Grad(const OracleCall *c) {                                                                   \
    for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {                                                     \
      double x = c->in[0][i], z = c->in[1][i];                                                                         \
      c->out[0][i] = c->in[2][0] * (SLOPE);                                                                            \
    }                                                                                                                  \
  }

static double sigmoid(double x) {
  return 1 / (1 + exp(-x));
}
PAIRED_LOSS(MeanSquaredError, pow(x - z, 2), 2 * (x - z))
PAIRED_LOSS(BinaryCrossEntropy, -z *log(sigmoid(x)) - (1 - z) * log(1 - sigmoid(x)), sigmoid(x) - z)

void oracle_Accumulate(const OracleCall *c) {
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++)
    c->in[0][i] += c->in[1][i];
}

void oracle_SquaredNorm(const OracleCall *c) {
  c->out[0][0] = 0;
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    double sum = 0;
    for (int k = 0; k < c->n_in; k++)
      sum += c->in[k][i];
    c->out[0][0] += sum * sum;
  }
}

/* Inputs `first` on are the gradient's parts. */
static double gradient_at(const OracleCall *c, int first, int64_t i) {
  double g = 0;
  for (int k = first; k < c->n_in; k++)
    g += c->in[k][i];
  return g * c->in[1][SCALAR_GRADIENT_FACTOR];
}

/* torch.optim.SGD's page, line by line. */
void oracle_SgdUpdate(const OracleCall *c) {
  double lr = c->in[1][SCALAR_LEARNING_RATE], mu = node_float(c->node, "momentum", 0);
  int states = (int)node_int(c->node, "states", 0);
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    double *theta = &c->in[0][i], g = gradient_at(c, 2 + states, i);
    g += node_float(c->node, "weight_decay", 0) * *theta;
    if (mu != 0) {
      double *b = &c->in[2][i];
      *b = c->in[1][SCALAR_FIRST_STEP] != 0 ? g : mu * *b + g;
      g = node_int(c->node, "nesterov", 0) ? g + mu * *b : *b;
    }
    *theta -= lr * g;
  }
}

/* torch.optim.Adam's and AdamW's pages, line by line. */
void oracle_AdamUpdate(const OracleCall *c) {
  double lr = c->in[1][SCALAR_LEARNING_RATE], decay = node_float(c->node, "weight_decay", 0);
  double beta1 = node_float(c->node, "beta1", 0), beta2 = node_float(c->node, "beta2", 0);
  for (int64_t i = 0; i < shape_elements(c->in_shape[0]); i++) {
    double *theta = &c->in[0][i], *m = &c->in[2][i], *v = &c->in[3][i], g = gradient_at(c, 4, i);
    if (node_int(c->node, "decoupled", 0))
      *theta -= lr * decay * *theta;
    else
      g += decay * *theta;
    *m = beta1 * *m + (1 - beta1) * g;
    *v = beta2 * *v + (1 - beta2) * g * g;
    double m_hat = *m / c->in[1][SCALAR_BIAS_CORRECTION1], v_hat = *v / c->in[1][SCALAR_BIAS_CORRECTION2];
    *theta -= lr * m_hat / (sqrt(v_hat) + node_float(c->node, "epsilon", 0));
  }
}
