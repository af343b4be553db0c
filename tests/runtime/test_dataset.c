/* Data files against models, and which samples a batch has. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/data/dataset.h"
#include "runtime/data/sampler.h"
#include "tests/test.h"

static char path[64];
static Model *model; /* branches: input_0 [N,12] and input_1 [N,6], float32 */

static int setup(void **state) {
  (void)state;
  snprintf(path, sizeof path, "/tmp/onnxpipe-dataset-%d.npz", (int)getpid());
  return model_open(SOURCE_DIR "/models/branches/model.onnx", &(TrainOptions){0}, &model) == OK ? 0 : -1;
}

static int teardown(void **state) {
  (void)state;
  unlink(path);
  model_close(model);
  return 0;
}

static void assert_refused(const Array *arrays, int n, const char *message) {
  Dataset data;
  char full[1024];
  ASSERT_OK(array_file_write(path, arrays, n));
  snprintf(full, sizeof full, "%s: %s", path, message);
  ASSERT_FAILS(E_SHAPE, full, dataset_open(path, model, 0, &data));
}

static void the_reference_data_fits(void **state) {
  (void)state;
  Dataset data;
  ASSERT_OK(dataset_open(SOURCE_DIR "/models/branches/data.npz", model, 0, &data));
  assert_int_equal(data.samples, data.target->shape.dim[0]);
  assert_true(data.columns[0].axis == 0 && data.columns[1].axis == 0);
  float rows[2 * 12], again[12];
  int64_t width = data.columns[0].shape.dim[1];
  assert_in_range(width, 1, 12);
  ASSERT_OK(column_gather(&data.columns[0], (int64_t[]){5, 2}, 2, F32, rows));
  ASSERT_OK(array_convert(&data.columns[0].pieces[0].array, 2 * width, width, F32, again));
  assert_memory_equal(rows + width, again, (size_t)width * sizeof(float));
  dataset_close(&data);
}

static void arrays_that_do_not_fit_are_named(void **state) {
  (void)state;
  int n;
  const ModelInput *inputs = model_inputs(model, &n);
  assert_int_equal(n, 2);
  int64_t w0 = inputs[0].dim[1], w1 = inputs[1].dim[1];
  static const char zeros[4 * 8 * 64];
  char message[256];
  Array x0 = {"input_0", F32, {2, {4, w0}}, zeros}, x1 = {"input_1", F32, {2, {4, w1}}, zeros};
  Array target = {"target", I64, {1, {4}}, zeros};

  assert_refused((Array[]){x0, target}, 2,
                 "no array for the model's input 'input_1': the file has 'input_0' and 'target'");
  Dataset data;
  ASSERT_OK(array_file_write(path, (Array[]){x0, x1}, 2));
  ASSERT_OK(dataset_open(path, model, 0, &data));
  snprintf(message, sizeof message, "%s: no array 'target': the file has 'input_0' and 'input_1'", path);
  ASSERT_FAILS(E_SHAPE, message, dataset_need_target(&data));
  dataset_close(&data);
  Array other = {"labels", I64, {1, {4}}, zeros};
  assert_refused((Array[]){x0, x1, target, other}, 4,
                 "array 'labels' is neither 'target' nor an input of the model, which takes 'input_0' and 'input_1'");
  Array integer = {"input_0", I64, {2, {4, w0}}, zeros};
  assert_refused((Array[]){integer, x1, target}, 3, "array 'input_0' is int64, the model's input 'input_0' float32");
  Array wide = {"input_0", F32, {2, {4, w0 + 1}}, zeros};
  snprintf(message, sizeof message, "array 'input_0' is [4,%lld], the model's input 'input_0' [%s,%lld]",
           (long long)w0 + 1, inputs[0].dim_name[0], (long long)w0);
  assert_refused((Array[]){wide, x1, target}, 3, message);
  Array fewer = {"target", I64, {1, {3}}, zeros};
  Array truth = target;
  truth.dtype = BOOL;
  assert_refused((Array[]){x0, x1, truth}, 3,
                 "array 'target' is bool: save it as float32, or as int64 where it numbers classes");
  assert_refused((Array[]){x0, x1, fewer}, 3, "array 'target' has 3 samples, array 'input_0' 4");
  Array none0 = {"input_0", F32, {2, {0, w0}}, zeros};
  snprintf(message, sizeof message, "array 'input_0' has no samples: it is [0,%lld]", (long long)w0);
  assert_refused((Array[]){none0, x1, target}, 3, message);
}

static void batches_follow_the_file_and_wrap(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Sampler sampler;
  ASSERT_OK(sampler_create(arena, 10, 10, 4, true, false, 0, &sampler));
  int64_t third[] = {8, 9, 0, 1};
  sampler_batch(&sampler, 2);
  assert_memory_equal(sampler.indices, third, sizeof third);
  ASSERT_OK(sampler_create(arena, 10, 8, 4, true, false, 0, &sampler)); /* epochs: what makes no batch is left out */
  int64_t first[] = {0, 1, 2, 3};
  sampler_batch(&sampler, 2);
  assert_memory_equal(sampler.indices, first, sizeof first);
  arena_destroy(arena);
}

/* An epoch's last batch has what is left of it; each epoch has every sample once, shuffled or not. */
static void uneven_batches_end_with_their_epoch(void **state) {
  (void)state;
  Arena *arena = arena_create();
  enum { SAMPLES = 11, BATCH = 4, STEPS = 3 };
  for (int shuffle = 0; shuffle < 2; shuffle++) {
    Sampler sampler;
    ASSERT_OK(sampler_create(arena, SAMPLES, SAMPLES, BATCH, false, shuffle, 7, &sampler));
    for (int epoch = 0; epoch < 3; epoch++) {
      int64_t indices[BATCH];
      int seen[SAMPLES] = {0};
      for (int k = 0; k < STEPS; k++) {
        int64_t n = sampler_indices(&sampler, epoch * STEPS + k, indices);
        assert_int_equal(n, k < STEPS - 1 ? BATCH : SAMPLES % BATCH);
        for (int i = 0; i < n; i++) {
          seen[indices[i]]++;
          assert_true(shuffle || indices[i] == k * BATCH + i);
        }
      }
      for (int i = 0; i < SAMPLES; i++)
        assert_int_equal(seen[i], 1);
    }
  }
  arena_destroy(arena);
}

static void shuffled_epochs_are_permutations(void **state) {
  (void)state;
  Arena *arena = arena_create();
  enum { SAMPLES = 50, BATCH = 5 };
  Sampler sampler, late;
  ASSERT_OK(sampler_create(arena, SAMPLES, SAMPLES, BATCH, true, true, 7, &sampler));
  int64_t orders[2][SAMPLES];
  for (int epoch = 0; epoch < 2; epoch++) {
    int seen[SAMPLES] = {0};
    for (int k = 0; k < SAMPLES / BATCH; k++) {
      sampler_batch(&sampler, epoch * SAMPLES / BATCH + k);
      memcpy(orders[epoch] + k * BATCH, sampler.indices, sizeof(int64_t[BATCH]));
    }
    for (int i = 0; i < SAMPLES; i++)
      seen[orders[epoch][i]]++;
    for (int i = 0; i < SAMPLES; i++)
      assert_int_equal(seen[i], 1);
  }
  assert_memory_not_equal(orders[0], orders[1], sizeof orders[0]);
  ASSERT_OK(sampler_create(arena, SAMPLES, SAMPLES, BATCH, true, true, 7, &late)); /* any step, without those before */
  sampler_batch(&late, SAMPLES / BATCH + 1);
  assert_memory_equal(late.indices, orders[1] + BATCH, sizeof(int64_t[BATCH]));
  ASSERT_OK(sampler_create(arena, SAMPLES, SAMPLES, BATCH, true, true, 8, &late));
  sampler_batch(&late, 0);
  assert_memory_not_equal(late.indices, orders[0], sizeof(int64_t[BATCH]));
  arena_destroy(arena);
}

/* Every order of few samples comes, about as often as any other. */
static void orders_are_even(void **state) {
  (void)state;
  enum { SEEDS = 24000, ORDERS = 24 };
  Arena *arena = arena_create();
  Sampler sampler;
  int seen[256] = {0}, orders = 0;
  for (uint64_t seed = 0; seed < SEEDS; seed++) {
    int code = 0;
    ASSERT_OK(sampler_create(arena, 4, 4, 4, true, true, seed, &sampler));
    sampler_batch(&sampler, 0);
    for (int i = 0; i < 4; i++)
      code = 4 * code + (int)sampler.indices[i];
    seen[code]++;
  }
  for (int i = 0; i < 256; i++) {
    orders += seen[i] > 0;
    if (seen[i])
      assert_in_range(seen[i], SEEDS / ORDERS / 2, SEEDS / ORDERS * 2);
  }
  assert_int_equal(orders, ORDERS);
  arena_destroy(arena);
}

/* An order takes no memory and no time before its first batch. */
static void there_may_be_any_number_of_samples(void **state) {
  (void)state;
  Arena *arena = arena_create();
  Sampler sampler;
  for (int bits = 0; bits < 62; bits++) {
    int64_t samples = (INT64_C(1) << bits) + 1, indices[8];
    ASSERT_OK(sampler_create(arena, samples, samples, 8, true, true, 3, &sampler));
    sampler_indices(&sampler, samples / 16, indices);
    for (int i = 0; i < 8; i++)
      assert_true(indices[i] >= 0 && indices[i] < samples);
  }
  arena_destroy(arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_reference_data_fits),
      cmocka_unit_test(arrays_that_do_not_fit_are_named),
      cmocka_unit_test(batches_follow_the_file_and_wrap),
      cmocka_unit_test(uneven_batches_end_with_their_epoch),
      cmocka_unit_test(shuffled_epochs_are_permutations),
      cmocka_unit_test(orders_are_even),
      cmocka_unit_test(there_may_be_any_number_of_samples),
  };
  return cmocka_run_group_tests_name("dataset", tests, setup, teardown);
}
