/* Attention that drops weights: what a Dropout of the matrix of weights would drop, forward and backward, on the
 * reference and with each of the cpu backend's instruction sets; the number of threads changes no bit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/reference/attention.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

enum { B = 2, H = 4, G = 2, T = 70, L = 210, D = 20, V = 17, ROWS = B * H * T, DROP_ATTRS = 6 };

static Attr attrs[] = {
    {.name = "ratio", .kind = ATTR_FLOAT, .f = 0.3},  {.name = "node", .kind = ATTR_INT, .i = 5},
    {.name = "seed", .kind = ATTR_INT, .i = 0},       {.name = "per_sample", .kind = ATTR_INT, .i = 1},
    {.name = "outer", .kind = ATTR_INT, .i = 1},      {.name = "inner", .kind = ATTR_INT, .i = H * T * L},
    {.name = "scale", .kind = ATTR_FLOAT, .f = 0.25}, {.name = "right", .kind = ATTR_INT, .i = 100}};

static Tensor make(DType type, Shape shape, uint64_t seed) {
  Tensor t = {.dtype = type, .shape = shape};
  int64_t n = shape_elements(shape);
  t.data = aligned_alloc(64, (size_t)round_up(n * 8 + 1, 64));
  assert_non_null(t.data);
  for (int64_t i = 0; i < n; i++)
    tensor_set(&t, i, seed ? (double)((float)random_below(&seed, 2001) / 1000 - 1) : 0);
  return t;
}

/* What the weights are multiplied by [B,H,T,L], as Dropout gives it. */
static void find_dropped(const Tensor *counter, double *dropped) {
  Shape all = {4, {B, H, T, L}};
  Tensor ones = make(F64, all, 0), out[2] = {make(F64, all, 0), make(BOOL, all, 0)};
  ValueId ids[4] = {0, 1, 2, 3};
  Node node = {.op = OP_Dropout,
               .name = "d",
               .in = ids,
               .out = ids + 2,
               .n_in = 2,
               .n_out = 2,
               .attrs = attrs,
               .n_attrs = DROP_ATTRS};
  for (int64_t i = 0; i < ROWS * L; i++)
    tensor_set(&ones, i, 1);
  ASSERT_OK(backend_reference.kernels[OP_Dropout]->run(NULL, &node, (Tensor[]){ones, *counter}, out, NULL, NULL));
  for (int64_t i = 0; i < ROWS * L; i++)
    dropped[i] = tensor_get(&out[0], i);
  free(ones.data);
  free(out[0].data);
  free(out[1].data);
}

typedef struct {
  Tensor in[ATTENTION_GRAD_COUNTER + 1]; /* the gradient's */
  Tensor y, most, log_sum, dq, dk, dv;   /* what is to come */
} Net;

/* By the whole matrix. */
static void define(Net *n, const double *dropped) {
  for (int64_t row = 0; row < ROWS; row++) {
    int64_t t = row % T, group = row / T / (H / G);
    double weight[L], most = -INFINITY, sum = 0, common = 0;
    int64_t end = t + 101 < L ? t + 101 : L;
    for (int64_t j = 0; j < end; j++) {
      weight[j] = 0;
      for (int64_t d = 0; d < D; d++)
        weight[j] += 0.25 * tensor_get(&n->in[0], row * D + d) * tensor_get(&n->in[1], (group * L + j) * D + d);
      most = fmax(most, weight[j]);
    }
    for (int64_t j = 0; j < end; j++)
      sum += weight[j] = exp(weight[j] - most);
    tensor_set(&n->most, row, most);
    tensor_set(&n->log_sum, row, log(sum));
    double slope[L];
    for (int64_t j = 0; j < end; j++) {
      double of_value = 0, kept = dropped[row * L + j];
      weight[j] /= sum;
      for (int64_t d = 0; d < V; d++) {
        double v = tensor_get(&n->in[2], (group * L + j) * V + d),
               dy = tensor_get(&n->in[ATTENTION_GRAD_DY], row * V + d);
        tensor_set(&n->y, row * V + d, tensor_get(&n->y, row * V + d) + kept * weight[j] * v);
        tensor_set(&n->dv, (group * L + j) * V + d,
                   tensor_get(&n->dv, (group * L + j) * V + d) + kept * weight[j] * dy);
        of_value += dy * v;
      }
      slope[j] = kept * of_value;
      common += weight[j] * slope[j];
    }
    for (int64_t j = 0; j < end; j++)
      for (int64_t d = 0; d < D; d++) {
        double s = 0.25 * weight[j] * (slope[j] - common);
        int64_t q = row * D + d, k = (group * L + j) * D + d;
        tensor_set(&n->dq, q, tensor_get(&n->dq, q) + s * tensor_get(&n->in[1], k));
        tensor_set(&n->dk, k, tensor_get(&n->dk, k) + s * tensor_get(&n->in[0], q));
      }
  }
}

static Net make_net(Tensor counter) {
  Shape q = {4, {B, H, T, D}}, k = {4, {B, G, L, D}}, v = {4, {B, G, L, V}}, y = {4, {B, H, T, V}}, s = {3, {B, H, T}};
  Net n = {.in = {make(F64, q, 1), make(F64, k, 2), make(F64, v, 3)},
           .y = make(F64, y, 0),
           .most = make(F64, s, 0),
           .log_sum = make(F64, s, 0),
           .dq = make(F64, q, 0),
           .dk = make(F64, k, 0),
           .dv = make(F64, v, 0)};
  n.in[ATTENTION_GRAD_DY] = make(F64, y, 4);
  n.in[ATTENTION_GRAD_COUNTER] = counter;
  double *dropped = malloc(ROWS * L * sizeof *dropped);
  assert_non_null(dropped);
  find_dropped(&counter, dropped);
  define(&n, dropped);
  n.in[ATTENTION_GRAD_Y] = n.y;
  n.in[ATTENTION_GRAD_MOST] = n.most;
  n.in[ATTENTION_GRAD_LOG_SUM] = n.log_sum;
  free(dropped);
  return n;
}

static Tensor in_type(DType type, const Tensor *t) {
  Tensor to = make(type, t->shape, 0);
  for (int64_t i = 0; i < shape_elements(t->shape); i++)
    tensor_set(&to, i, tensor_get(t, i));
  return to;
}

/* One of the operators in a type. stream NULL: the reference's. */
static void check_run(const Backend *backend, Stream *stream, const Net *n, bool backward, DType type, Tensor out[3]) {
  static const int from[] = {0, 1, 2, ATTENTION_GRAD_MASK, ATTENTION_GRAD_COUNTER};
  const Tensor *wanted[] = {&n->y, &n->most, &n->log_sum};
  const Tensor *slopes[] = {&n->dq, &n->dk, &n->dv};
  Tensor in[ATTENTION_GRAD_COUNTER + 1] = {{0}};
  ValueId ids[ATTENTION_GRAD_COUNTER + 1], outs[3] = {20, 21, 22};
  int n_in = backward ? ATTENTION_GRAD_COUNTER + 1 : ATTENTION_COUNTER + 1;
  for (int i = 0; i < n_in; i++) {
    const Tensor *t = &n->in[backward ? i : from[i]];
    ids[i] = t->data ? (ValueId)i : NO_VALUE;
    if (t->data)
      in[i] = t->dtype == I64 ? *t : in_type(type, t);
  }
  for (int i = 0; i < 3; i++)
    out[i] = make(type, (backward ? slopes[i] : wanted[i])->shape, 0);
  Node node = {.op = backward ? OP_AttentionGrad : OP_Attention,
               .name = "a",
               .in = ids,
               .out = outs,
               .n_in = n_in,
               .n_out = 3,
               .attrs = attrs,
               .n_attrs = sizeof attrs / sizeof *attrs};
  void *workspace = aligned_alloc(64, 64 << 20);
  assert_non_null(workspace);
  ASSERT_OK(backend->kernels[node.op]->run(stream, &node, in, out, workspace, NULL));
  for (int r = 0; r < 3; r++)
    for (int64_t i = 0; i < shape_elements(out[r].shape); i++) {
      double x = tensor_get(&out[r], i), y = tensor_get(backward ? slopes[r] : wanted[r], i);
      if (!(fabs(x - y) <= (type == F32 ? 2e-5 : 1e-11) * fmax(1, fabs(y))))
        FAIL_TEST("%s, result %d, element %d is %.9g, not %.9g", backward ? "backward" : "forward", r, (int)i, x, y);
    }
  for (int i = 0; i < n_in; i++)
    if (in[i].data && in[i].dtype != I64)
      free(in[i].data);
  free(workspace);
}

static void weights_are_dropped_as_by_themselves(void **state) {
  (void)state;
  static int64_t numbers[COUNTER_NUMBERS] = {[COUNTER_SEED] = 7, [COUNTER_STEP] = 3, [COUNTER_SAMPLE] = 11};
  Net n = make_net((Tensor){.dtype = I64, .shape = {1, {COUNTER_NUMBERS}}, .data = numbers});
  for (int backward = 0; backward < 2; backward++)
    for (DType type = F32; type != DTYPE_NONE; type = type == F32 ? F64 : DTYPE_NONE) {
      Tensor one[3], more[3];
      check_run(&backend_reference, NULL, &n, backward, type, one);
      for (int r = 0; r < 3; r++)
        free(one[r].data);
      for (int i = 0; isas[i]; i++) {
        Stream *stream;
        if (!isas[i]->runs())
          continue;
        ASSERT_OK(cpu_stream_open(1, isas[i], &stream));
        check_run(&backend_cpu, stream, &n, backward, type, one);
        backend_cpu.stream_close(stream);
        ASSERT_OK(cpu_stream_open(3, isas[i], &stream));
        check_run(&backend_cpu, stream, &n, backward, type, more);
        backend_cpu.stream_close(stream);
        for (int r = 0; r < 3; r++) {
          assert_memory_equal(one[r].data, more[r].data, (size_t)shape_elements(one[r].shape) * dtype_bytes(type));
          free(one[r].data);
          free(more[r].data);
        }
      }
    }
  for (int i = 0; i < ATTENTION_GRAD_COUNTER; i++)
    free(n.in[i].data);
  free(n.dq.data);
  free(n.dk.data);
  free(n.dv.data);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(weights_are_dropped_as_by_themselves)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
