/* What the CUDA backend is besides kernels: devices, streams, events, memory, and the errors that a device's work ends
 * with. On the emulated device also what a real one cannot be made to do. With `hold SECONDS`, no test at all. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "graph/op.h"
#include "tests/ops/cases.h"
#include "tests/test.h"

#ifdef EMULATED
#include "tests/cuda/emulation.h"
#endif

#define SIZED(type, what, n, count)                                                                                    \
  { .present = true, .dtype = type, .shape = {1, {count}}, .fill = what, .limit = n }

/* The message of the reference, at the wait. */
static void check_fault(const OpCase *c, ValueId culprit, int64_t position, int64_t value) {
  const Backend *both[] = {&backend_reference, &backend_cuda};
  char messages[2][512];
  for (int b = 0; b < 2; b++) {
    Arena *arena = arena_create();
    CaseGraph built;
    ASSERT_OK(case_build(c, F32, 0, arena, &built));
    ((int64_t *)built.tensor[culprit].data)[position] = value;
    assert_int_equal(case_run(&built, both[b], 1, 0, 1), E_MODEL);
    snprintf(messages[b], sizeof messages[b], "%s", status_message());
    case_release(&built);
    arena_destroy(arena);
  }
  assert_string_equal(messages[0], messages[1]);
}

static void indices_out_of_range_are_reported(void **state) {
  (void)state;
  static const int64_t seven[] = {7};
  static const OpCase gather = {OP_Gather,
                                TYPES_FLOAT,
                                {SIZED(F32, FILL_ANY, 0, 7), SIZED(I64, FILL_INDEX, 7, 90)},
                                {{true, {1, {90}}}},
                                {{.name = "axis", .kind = ATTR_INT}}};
  static const OpCase scatter = {
      OP_GatherGrad,
      TYPES_FLOAT,
      {SIZED(F32, FILL_ANY, 0, 90), SIZED(I64, FILL_INDEX, 7, 90)},
      {{true, {1, {7}}}},
      {{.name = "axis", .kind = ATTR_INT}, {.name = "shape", .kind = ATTR_INTS, .ints = seven, .n = 1}}};
  static const OpCase entropy = {
      OP_CrossEntropy,
      TYPES_FLOAT,
      {{.present = true, .dtype = F32, .shape = {2, {90, 5}}}, SIZED(I64, FILL_CLASS, 5, 90)},
      {{true, {0}}, {true, {1, {90}}}},
      {{.name = "class_axis", .kind = ATTR_INT, .i = 1}}};
  static const OpCase elements = {
      OP_ScatterElements,
      TYPES_FLOAT,
      {SIZED(F32, FILL_ANY, 0, 90), SIZED(I64, FILL_INDEX, 7, 90), SIZED(F32, FILL_ANY, 0, 7)},
      {{true, {1, {7}}}},
      {{.name = "axis", .kind = ATTR_INT}}};
  static const OpCase bag = {OP_SegmentReduce,
                             TYPES_FLOAT,
                             {SIZED(F32, FILL_ANY, 0, 5), SIZED(I64, FILL_CLASS, 5, 1)},
                             {{true, {1, {1}}}},
                             {{0}}};
  check_fault(&elements, 1, 44, -8);
  check_fault(&bag, 1, 0, 6);
  check_fault(&gather, 1, 88, 7);
  check_fault(&gather, 1, 3, -8);
  check_fault(&scatter, 1, 0, 1000000000000);
  check_fault(&entropy, 1, 50, 5);
  check_fault(&entropy, 1, 89, -1);
}

/* A stream goes on after a fault was reported. */
static void streams_outlive_faults(void **state) {
  (void)state;
  Stream *s;
  void *data;
  Node node = {.op = OP_Gather, .name = "pick"};
  int64_t indices[2] = {0, 4};
  float values[4] = {1, 2, 3, 4}, picked[2];
  ASSERT_OK(backend_cuda.stream_open(0, 1, &s));
  ASSERT_OK(backend_cuda.alloc(s, 192, &data));
  char *at = data;
  Tensor in[] = {tensor_at(F32, (Shape){1, {4}}, at), tensor_at(I64, (Shape){1, {2}}, at + 64)},
         out = tensor_at(F32, (Shape){1, {2}}, at + 128);
  for (int i = 0; i < 2; i++, indices[1]--) {
    ASSERT_OK(backend_cuda.copy(s, at, values, sizeof values, COPY_HOST_TO_DEVICE));
    ASSERT_OK(backend_cuda.copy(s, at + 64, indices, sizeof indices, COPY_HOST_TO_DEVICE));
    ASSERT_OK(backend_cuda.kernels[OP_Gather]->run(s, &node, in, &out, NULL, NULL));
    if (i == 0)
      ASSERT_FAILS(E_MODEL, "node 'pick' (Gather): index 4 at position 1 is outside axis 0 of [4]",
                   backend_cuda.stream_wait(s));
  }
  ASSERT_OK(backend_cuda.copy(s, picked, at + 128, sizeof picked, COPY_DEVICE_TO_HOST));
  ASSERT_OK(backend_cuda.stream_wait(s));
  assert_true(picked[0] == 1 && picked[1] == 4);
  backend_cuda.release(s, data);
  backend_cuda.stream_close(s);
}

enum { COUNT = 1000, ROUNDS = 50 };

/* Two streams take turns in one buffer; only events keep them apart. */
static void events_order_streams(void **state) {
  (void)state;
  Stream *s[2];
  Event *event[2];
  void *data, *ones;
  Node node = {.op = OP_Accumulate, .name = "add"};
  float host[COUNT];
  for (int i = 0; i < COUNT; i++)
    host[i] = 1;
  for (int i = 0; i < 2; i++) {
    ASSERT_OK(backend_cuda.stream_open(0, 1, &s[i]));
    ASSERT_OK(backend_cuda.event_create(s[i], &event[i]));
  }
  ASSERT_OK(backend_cuda.alloc(s[0], sizeof host, &data));
  ASSERT_OK(backend_cuda.alloc(s[0], sizeof host, &ones));
  ASSERT_OK(backend_cuda.zero(s[0], data, sizeof host));
  ASSERT_OK(backend_cuda.copy(s[0], ones, host, sizeof host, COPY_HOST_TO_DEVICE));
  Tensor in[] = {tensor_at(F32, (Shape){1, {COUNT}}, data), tensor_at(F32, (Shape){1, {COUNT}}, ones)};
  for (int i = 0; i < ROUNDS; i++) { /* doubles, by the one and the other */
    ASSERT_OK(backend_cuda.kernels[OP_Accumulate]->run(s[i % 2], &node, in, NULL, NULL, NULL));
    ASSERT_OK(backend_cuda.copy(s[i % 2], ones, data, sizeof host, COPY_DEVICE_TO_DEVICE));
    ASSERT_OK(backend_cuda.event_record(s[i % 2], event[i % 2]));
    ASSERT_OK(backend_cuda.event_wait(s[!(i % 2)], event[i % 2]));
  }
  ASSERT_OK(backend_cuda.copy(s[ROUNDS % 2], host, data, sizeof host, COPY_DEVICE_TO_HOST));
  ASSERT_OK(backend_cuda.stream_wait(s[ROUNDS % 2]));
  for (int i = 0; i < COUNT; i++)
    assert_true(host[i] == (float)(1ull << (ROUNDS - 1)));
  backend_cuda.release(s[0], data);
  backend_cuda.release(s[0], ones);
  for (int i = 0; i < 2; i++) {
    backend_cuda.event_destroy(event[i]);
    backend_cuda.stream_close(s[i]);
  }
}

static void devices_describe_themselves(void **state) {
  (void)state;
  DeviceSpec spec;
  ASSERT_OK(backend_cuda.describe(0, &spec));
  assert_true(spec.name[0] && spec.memory_bytes >= 1 << 29);
  assert_true(spec.flops_per_second > 1e9 && spec.bytes_per_second > 1e9);
  assert_true(spec.bf16_flops_per_second > spec.tf32_flops_per_second &&
              spec.tf32_flops_per_second > spec.flops_per_second);
  assert_int_equal(backend_cuda.describe(99, &spec), E_DEVICE);
  assert_memory_equal(status_message(), "cuda:99: this machine has ", 26);
  Stream *s = NULL;
  assert_int_equal(backend_cuda.stream_open(99, 1, &s), E_DEVICE);
  assert_null(s);
}

/* A large product is faster in fewer digits, where there are products in fewer digits. */
static void times_follow_the_precision(void **state) {
  (void)state;
  static const OpCase product = {
      OP_MatMul,
      TYPES_FLOAT,
      {{.present = true, .shape = {2, {500, 500}}}, {.present = true, .shape = {2, {500, 500}}}},
      {{true, {2, {500, 500}}}},
      {{0}}};
  DeviceSpec spec = {
      .flops_per_second = 1e6, .bytes_per_second = 1e12, .tf32_flops_per_second = 4e6, .bf16_flops_per_second = 8e6};
  DeviceSpec plain = {.flops_per_second = 1e6, .bytes_per_second = 1e12};
  Arena *arena = arena_create();
  CaseGraph built;
  for (int type = F32; type <= F64; type++) {
    ASSERT_OK(case_build(&product, (DType)type, 0, arena, &built));
    double expected[] = {250, type == F32 ? 62.5 : 250, type == F32 ? 31.25 : 250};
    for (Precision p = PRECISION_FLOAT32; p <= PRECISION_BF16; p++) {
      built.node->precision = p;
      assert_true(op_seconds(built.graph, built.node, &spec) == expected[p]);
      assert_true(op_seconds(built.graph, built.node, &plain) == 250);
    }
    case_release(&built);
  }
  arena_destroy(arena);
}

static void too_large_an_arena_says_what_there_is(void **state) {
  (void)state;
  DeviceSpec spec;
  Stream *s;
  void *memory;
  char start[128];
  ASSERT_OK(backend_cuda.describe(0, &spec));
  ASSERT_OK(backend_cuda.stream_open(0, 1, &s));
  assert_int_equal(backend_cuda.alloc(s, 2 * spec.memory_bytes, &memory), E_MEMORY);
  snprintf(start, sizeof start, "an arena of %zu bytes does not fit cuda:0, which has ", 2 * spec.memory_bytes);
  assert_memory_equal(status_message(), start, strlen(start));
  ASSERT_OK(backend_cuda.alloc(s, 100, &memory)); /* and the stream is none the worse */
  ASSERT_OK(backend_cuda.zero(s, memory, 100));
  ASSERT_OK(backend_cuda.stream_wait(s));
  backend_cuda.release(s, memory);
  backend_cuda.stream_close(s);
}

#ifdef EMULATED
/* Every call that can fail does, once; nothing is left behind. */
static void failures_name_device_and_call(void **state) {
  (void)state;
  static const char *const calls[] = {"cudaStreamCreateWithFlags", "cudaHostAlloc",   "cudaMalloc",
                                      "cudaMemcpyAsync",           "cudaMemsetAsync", "cudaStreamSynchronize"};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    Stream *s = NULL;
    void *memory = NULL;
    char byte = 1;
    emulation_fail(calls[i], 0);
    Status status = backend_cuda.stream_open(1, 1, &s);
    if (status == OK)
      status = backend_cuda.alloc(s, 100, &memory);
    if (status == OK)
      status = backend_cuda.copy(s, memory, &byte, 1, COPY_HOST_TO_DEVICE);
    if (status == OK)
      status = backend_cuda.zero(s, memory, 100);
    if (status == OK)
      status = backend_cuda.stream_wait(s);
    assert_int_equal(status, E_DEVICE);
    assert_memory_equal(status_message(), "cuda:1: ", 8);
    assert_non_null(strstr(status_message(), "unspecified launch failure (cudaErrorLaunchFailure)"));
    if (s) {
      backend_cuda.release(s, memory);
      backend_cuda.stream_close(s);
    }
    assert_int_equal(emulation_allocated(), 0);
  }
}

/* Kernels put work on the stream; the host waits where it is told to. */
static void nothing_waits_but_waits(void **state) {
  (void)state;
  Stream *s;
  void *memory;
  Node node = {.op = OP_Exp, .name = "exp"};
  ASSERT_OK(backend_cuda.stream_open(0, 1, &s));
  ASSERT_OK(backend_cuda.alloc(s, 4000, &memory));
  Tensor x = tensor_at(F32, (Shape){1, {1000}}, memory);
  int before = emulation_waits();
  ASSERT_OK(backend_cuda.zero(s, memory, 4000));
  for (int i = 0; i < 100; i++)
    ASSERT_OK(backend_cuda.kernels[OP_Exp]->run(s, &node, &x, &x, NULL, NULL));
  assert_int_equal(emulation_waits(), before);
  ASSERT_OK(backend_cuda.stream_wait(s));
  assert_int_equal(emulation_waits(), before + 1);
  backend_cuda.release(s, memory);
  backend_cuda.stream_close(s);
}

/* Any thread may call kernels of any device's stream. */
static void *run_from_elsewhere(void *context) {
  Node node = {.op = OP_Exp, .name = "exp"};
  Stream **s = context;
  Tensor x[2];
  for (int i = 0; i < 2; i++) {
    x[i] = (Tensor){.dtype = F32, .shape = {1, {1000}}};
    ASSERT_OK(backend_cuda.alloc(s[i], 4000, &x[i].data));
    ASSERT_OK(backend_cuda.zero(s[i], x[i].data, 4000));
  }
  for (int i = 0; i < 6; i++)
    ASSERT_OK(backend_cuda.kernels[OP_Exp]->run(s[i % 2], &node, &x[i % 2], &x[i % 2], NULL, NULL));
  for (int i = 0; i < 2; i++) {
    ASSERT_OK(backend_cuda.stream_wait(s[i]));
    backend_cuda.release(s[i], x[i].data);
  }
  return NULL;
}

static void kernels_go_to_their_streams_device(void **state) {
  (void)state;
  Stream *s[2];
  pthread_t thread;
  for (int i = 0; i < 2; i++)
    ASSERT_OK(backend_cuda.stream_open(i, 1, &s[i]));
  run_from_elsewhere(s);
  assert_int_equal(pthread_create(&thread, NULL, run_from_elsewhere, s), 0);
  pthread_join(thread, NULL);
  for (int i = 0; i < 2; i++)
    backend_cuda.stream_close(s[i]);
}

static void no_device_is_one_clear_line(void **state) {
  (void)state;
  DeviceSpec spec;
  emulation_devices(0, 0);
  ASSERT_FAILS(E_DEVICE,
               "cuda:2: there is no CUDA device that can be used here: no CUDA-capable device is detected "
               "(cudaErrorNoDevice)",
               backend_cuda.describe(2, &spec));
  emulation_devices(1, (size_t)1 << 30);
  ASSERT_FAILS(E_DEVICE, "cuda:2: this machine has 1 CUDA device, cuda:0 to cuda:0", backend_cuda.describe(2, &spec));
}
#endif

/* A context, a stream and nothing else, for whoever asks the driver what these take. */
static int hold(const char *seconds) {
  Stream *s;
  if (backend_cuda.stream_open(0, 1, &s) != OK || backend_cuda.stream_wait(s) != OK) {
    fprintf(stderr, "%s\n", status_message());
    return 1;
  }
  sleep((unsigned)atoi(seconds));
  backend_cuda.stream_close(s);
  return 0;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(indices_out_of_range_are_reported),
      cmocka_unit_test(streams_outlive_faults),
      cmocka_unit_test(events_order_streams),
      cmocka_unit_test(devices_describe_themselves),
      cmocka_unit_test(times_follow_the_precision),
      cmocka_unit_test(too_large_an_arena_says_what_there_is),
#ifdef EMULATED
      cmocka_unit_test(failures_name_device_and_call),
      cmocka_unit_test(nothing_waits_but_waits),
      cmocka_unit_test(kernels_go_to_their_streams_device),
      cmocka_unit_test(no_device_is_one_clear_line),
#endif
  };
  DeviceSpec device;
  if (backend_cuda.describe(0, &device) != OK) {
    fprintf(stderr, "skipped: %s\n", status_message());
    return 77;
  }
  if (argc == 3 && strcmp(argv[1], "hold") == 0)
    return hold(argv[2]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
