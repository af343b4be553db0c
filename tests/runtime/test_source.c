/* Data in several files: folders of arrays, shards, their order, and what is wrong with them. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/data/blame.h"
#include "runtime/data/npy.h"
#include "runtime/data/safetensors.h"
#include "tests/test.h"

enum { SAMPLES = 7, MOST_WIDTH = 16 };

static char folder[64];
static Model *model; /* branches: input_0 [N,12] and input_1 [N,6], float32 */
static int64_t width[2];
static float numbers[2][SAMPLES * MOST_WIDTH]; /* of either input, by sample */
static int64_t targets[SAMPLES];

static const char *in_folder(const char *name) {
  static char paths[16][160];
  static int next;
  char *path = paths[next++ % 16];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static void run(const char *command) {
  char text[512];
  snprintf(text, sizeof text, "cd '%s' && %s", folder, command);
  assert_int_equal(system(text), 0);
}

static int setup(void **state) {
  (void)state;
  int n;
  strcpy(folder, "/tmp/onnxpipe-source-XXXXXX");
  if (!mkdtemp(folder) || model_open(SOURCE_DIR "/models/branches/model.onnx", &(TrainOptions){0}, &model) != OK)
    return -1;
  const ModelInput *inputs = model_inputs(model, &n);
  for (int i = 0; i < 2; i++)
    width[i] = inputs[i].dim[1];
  for (int i = 0; i < 2; i++)
    for (int k = 0; k < SAMPLES * MOST_WIDTH; k++)
      numbers[i][k] = (float)(1000 * i + k);
  for (int k = 0; k < SAMPLES; k++)
    targets[k] = 10 + k;
  return 0;
}

static int empty_folder(void **state) {
  (void)state;
  run("rm -rf ./*");
  return 0;
}

static int teardown(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  model_close(model);
  return system(command);
}

/* The arrays of samples `first` to first + count - 1. */
static void slice(int64_t first, int64_t count, Array arrays[3]) {
  static const char *const names[] = {"input_0", "input_1"};
  for (int i = 0; i < 2; i++)
    arrays[i] = (Array){names[i], F32, {2, {count, width[i]}}, numbers[i] + first * width[i]};
  arrays[2] = (Array){"target", I64, {1, {count}}, targets + first};
}

static void write_archive(const char *name, int64_t first, int64_t count) {
  Array arrays[3];
  slice(first, count, arrays);
  if (strstr(name, ".safetensors"))
    ASSERT_OK(safetensors_file_write(in_folder(name), arrays, 3));
  else
    ASSERT_OK(array_file_write(in_folder(name), arrays, 3));
}

static void write_array(const char *place, const Array *array) {
  char path[256], header[NPY_HEADER_BYTES];
  size_t n = npy_write_header(array->dtype, array->shape, header), bytes;
  snprintf(path, sizeof path, "%s/%s/%s.npy", folder, place, array->name);
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  ASSERT_OK(shape_bytes(array->shape, array->dtype, &bytes));
  assert_int_equal(fwrite(header, 1, n, file), n);
  assert_int_equal(fwrite(array->data, 1, bytes, file), bytes);
  fclose(file);
}

static void write_folder(const char *name, int64_t first, int64_t count) {
  Array arrays[3];
  mkdir(in_folder(name), 0700);
  slice(first, count, arrays);
  for (int i = 0; i < 3; i++)
    write_array(name, &arrays[i]);
}

/* All samples are there, forwards and backwards. */
static void assert_whole(const char *path) {
  Dataset data;
  float some[SAMPLES * MOST_WIDTH];
  int64_t classes[SAMPLES], reversed[SAMPLES];
  ASSERT_OK(dataset_open(path, model, 0, &data));
  assert_int_equal(data.samples, SAMPLES);
  for (int k = 0; k < SAMPLES; k++)
    reversed[k] = SAMPLES - 1 - k;
  for (int i = 0; i < 2; i++) {
    size_t row = (size_t)width[i] * sizeof(float);
    ASSERT_OK(column_gather(&data.columns[i], NULL, SAMPLES, F32, some));
    assert_memory_equal(some, numbers[i], SAMPLES * row);
    ASSERT_OK(column_gather(&data.columns[i], reversed, SAMPLES, F32, some));
    for (int k = 0; k < SAMPLES; k++)
      assert_memory_equal(some + k * width[i], numbers[i] + reversed[k] * width[i], row);
  }
  ASSERT_OK(column_gather(data.target, NULL, SAMPLES, I64, classes));
  assert_memory_equal(classes, targets, sizeof targets);
  dataset_close(&data);
}

static void every_kind_of_file_gives_the_same_samples(void **state) {
  (void)state;
  write_archive("a.npz", 0, SAMPLES);
  write_archive("a.safetensors", 0, SAMPLES);
  write_folder("arrays", 0, SAMPLES);
  assert_whole(in_folder("a.npz"));
  assert_whole(in_folder("a.safetensors"));
  assert_whole(in_folder("arrays"));
  assert_whole(in_folder("arrays/"));
}

static void shards_follow_each_other_by_name(void **state) {
  (void)state;
  write_archive("b2.npz", 3, 3);
  write_archive("b1.npz", 0, 3);
  write_archive("b3.safetensors", 6, 1);
  assert_whole(in_folder("b*"));
  assert_whole(in_folder("b[1-3].*"));
  assert_whole(folder); /* a folder of such files */
  write_folder("c2", 1, 6);
  write_folder("c1", 0, 1);
  assert_whole(in_folder("c?"));
  run("mv b1.npz 'b*.npz'"); /* what is there by its very name is no pattern */
  Dataset data;
  ASSERT_OK(dataset_open(in_folder("b*.npz"), model, 0, &data));
  assert_int_equal(data.samples, 3);
  dataset_close(&data);
}

static void along_an_inner_axis(void **state) {
  (void)state;
  enum { OUTER = 2, ROW = 2 };
  float whole[OUTER * SAMPLES * ROW], first[OUTER * 3 * ROW], second[OUTER * 4 * ROW], got[OUTER * 3 * ROW];
  for (int k = 0; k < OUTER * SAMPLES * ROW; k++)
    whole[k] = (float)k;
  for (int o = 0; o < OUTER; o++) {
    memcpy(first + o * 3 * ROW, whole + o * SAMPLES * ROW, sizeof(float[3 * ROW]));
    memcpy(second + o * 4 * ROW, whole + (o * SAMPLES + 3) * ROW, sizeof(float[4 * ROW]));
  }
  Piece pieces[] = {{{"x", F32, {3, {OUTER, 3, ROW}}, first}, NULL, 0},
                    {{"x", F32, {3, {OUTER, 4, ROW}}, second}, NULL, 3}};
  Column column = {
      .name = "x", .dtype = F32, .shape = {3, {OUTER, SAMPLES, ROW}}, .axis = 1, .pieces = pieces, .n_pieces = 2};
  const int64_t indices[] = {2, 3, 6};
  ASSERT_OK(column_gather(&column, indices, 3, F32, got));
  for (int o = 0; o < OUTER; o++)
    for (int k = 0; k < 3; k++)
      assert_memory_equal(got + (o * 3 + k) * ROW, whole + (o * SAMPLES + indices[k]) * ROW, sizeof(float[ROW]));
}

static void a_view_is_a_part(void **state) {
  (void)state;
  write_archive("b1.npz", 0, 3);
  write_archive("b2.npz", 3, 4);
  Dataset data, view, inner;
  Arena *arena = arena_create();
  int64_t classes[3];
  ASSERT_OK(dataset_open(in_folder("b*"), model, 0, &data));
  ASSERT_OK(dataset_view(&data, 2, 4, arena, &view));
  ASSERT_OK(dataset_view(&view, 1, 3, arena, &inner));
  assert_int_equal(inner.samples, 3);
  assert_int_equal(inner.target->shape.dim[0], 3);
  ASSERT_OK(column_gather(inner.target, NULL, 3, I64, classes));
  assert_memory_equal(classes, targets + 3, sizeof classes);
  dataset_close(&data);
  arena_destroy(arena);
}

static void assert_refused(Status code, const char *path, const char *message) {
  Dataset data;
  char full[1024];
  snprintf(full, sizeof full, message, folder, folder);
  ASSERT_FAILS(code, full, dataset_open(path, model, 0, &data));
}

static void faults_are_named_with_file_and_shard(void **state) {
  (void)state;
  assert_refused(E_IO, in_folder("none-*.npz"), "%s/none-*.npz: no file has such a name");
  assert_refused(E_IO, in_folder("none.npz"), "%s/none.npz: cannot be opened: No such file or directory");
  mkdir(in_folder("empty"), 0700);
  assert_refused(E_MODEL, in_folder("empty"), "%s/empty: the folder holds no .npy, .npz or .safetensors file");
  assert_refused(E_MODEL, in_folder("emp*"), "%s/empty: the folder holds no .npy file");

  write_folder("both", 0, 2);
  write_archive("both/x.npz", 0, 2);
  assert_refused(E_MODEL, in_folder("both"),
                 "%s/both: holds arrays (/input_0.npy) and files of arrays (/x.npz): one kind a folder");
  write_folder("less", 0, 2);
  run("rm less/input_1.npy");
  assert_refused(E_SHAPE, in_folder("less"),
                 "%s/less: no array for the model's input 'input_1': the file has 'input_0' and 'target'");
  write_folder("cut", 0, 2);
  run("truncate -s 130 cut/input_1.npy");
  Dataset data;
  assert_int_equal(dataset_open(in_folder("cut"), model, 0, &data), E_MODEL);
  assert_non_null(strstr(status_message(), "/cut/input_1.npy: float32 [2,"));

  write_archive("b1.npz", 0, 3);
  Array arrays[3];
  slice(3, 2, arrays);
  ASSERT_OK(array_file_write(in_folder("b2.npz"), arrays, 2));
  assert_refused(E_SHAPE, in_folder("b?.npz"), "%s/b2.npz: no array 'target', which %s/b1.npz has");
  arrays[2].dtype = I32;
  ASSERT_OK(array_file_write(in_folder("b2.npz"), arrays, 3));
  assert_refused(E_SHAPE, in_folder("b?.npz"), "%s/b2.npz: array 'target' is int32 [2], that of %s/b1.npz int64 [3]");
  slice(3, 2, arrays);
  arrays[1].shape.dim[0] = 1;
  ASSERT_OK(array_file_write(in_folder("b2.npz"), arrays, 3));
  assert_refused(E_SHAPE, in_folder("b?.npz"), "%s/b2.npz: array 'input_1' has 1 samples, array 'input_0' 2");
  ASSERT_OK(array_file_write(in_folder("b2.npz"), arrays, 1));
  assert_refused(E_SHAPE, in_folder("b?.npz"),
                 "%s/b2.npz: no array for the model's input 'input_1': the file has 'input_0'");
}

static void a_wrong_number_is_found_in_its_shard(void **state) {
  (void)state;
  char text[BLAME_BYTES], expected[BLAME_BYTES];
  int64_t value;
  write_archive("b1.npz", 0, 3);
  write_archive("b2.npz", 3, 4);
  Dataset data;
  ASSERT_OK(dataset_open(in_folder("b*"), model, 0, &data));
  const int64_t batch[] = {0, 5, 2};
  assert_false(blame_class(data.target, batch, 3, 100, -1, &value, text));
  assert_true(blame_class(data.target, batch, 3, 15, -1, &value, text));
  assert_int_equal(value, 15);
  snprintf(expected, sizeof expected, "array 'target' of %s/b2.npz, sample 2", folder);
  assert_string_equal(text, expected);
  dataset_close(&data);
}

/* Whether the pages of a sample are in memory. */
static bool is_resident(const Column *column, int64_t sample) {
  int64_t within;
  const Piece *piece = column_locate(column, sample, &within);
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  uintptr_t at = (uintptr_t)piece->array.data + (uintptr_t)(within * width[0]) * sizeof(float);
  unsigned char there = 0;
  assert_int_equal(mincore((void *)(at / page * page), 1, &there), 0);
  return there & 1;
}

static void what_comes_next_is_read_ahead(void **state) {
  (void)state;
  enum { MANY = 1 << 17 };
  float *zeros = calloc(MANY * MOST_WIDTH, sizeof *zeros);
  Array arrays[2];
  Dataset data;
  assert_non_null(zeros);
  for (int i = 0; i < 2; i++)
    arrays[i] = (Array){i ? "input_1" : "input_0", F32, {2, {MANY, width[i]}}, zeros};
  ASSERT_OK(array_file_write(in_folder("b.npz"), arrays, 2));
  free(zeros);
  int descriptor = open(in_folder("b.npz"), O_RDONLY);
  assert_int_equal(posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED), 0);
  ASSERT_OK(dataset_open(in_folder("b.npz"), model, 0, &data));
  const int64_t next[] = {MANY / 2, MANY / 4};
  bool evicted = !is_resident(&data.columns[0], next[1]); /* where files are memory they stay */
  column_prefetch(&data.columns[0], next, 2);
  for (int i = 0; i < 500 && !(is_resident(&data.columns[0], next[0]) && is_resident(&data.columns[0], next[1])); i++)
    usleep(10000);
  assert_true(is_resident(&data.columns[0], next[0]) && is_resident(&data.columns[0], next[1]));
  assert_true(!evicted || !is_resident(&data.columns[0], MANY * 3 / 4));
  dataset_close(&data);
  close(descriptor);
}

static void a_shard_that_is_cut_is_named(void **state) {
  (void)state;
  static const char *const kinds[] = {"b2.npz", "b2.safetensors", "b2/input_1.npy"};
  float some[SAMPLES * MOST_WIDTH];
  for (int kind = 0; kind < 3; kind++) {
    char message[256], command[128];
    run("rm -rf b*");
    write_archive("b1.npz", 0, 3);
    if (kind < 2)
      write_archive(kinds[kind], 3, 4);
    else
      write_folder("b2", 3, 4);
    Dataset data;
    ASSERT_OK(dataset_open(in_folder("b*"), model, 0, &data));
    snprintf(command, sizeof command, "truncate -s 100 %s", kinds[kind]);
    run(command);
    snprintf(message, sizeof message, "%s/%s: was changed while it was in use: it had ", folder, kinds[kind]);
    ASSERT_OK(column_gather(&data.columns[1], (int64_t[]){1, 2}, 2, F32, some)); /* the other shard's */
    assert_int_equal(column_gather(&data.columns[1], (int64_t[]){1, 5}, 2, F32, some), E_IO);
    assert_non_null(strstr(status_message(), message));
    assert_int_equal(dataset_unchanged(&data), E_IO);
    assert_non_null(strstr(status_message(), message));
    dataset_close(&data);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(every_kind_of_file_gives_the_same_samples, empty_folder),
      cmocka_unit_test_teardown(shards_follow_each_other_by_name, empty_folder),
      cmocka_unit_test(along_an_inner_axis),
      cmocka_unit_test_teardown(a_view_is_a_part, empty_folder),
      cmocka_unit_test_teardown(faults_are_named_with_file_and_shard, empty_folder),
      cmocka_unit_test_teardown(a_wrong_number_is_found_in_its_shard, empty_folder),
      cmocka_unit_test_teardown(what_comes_next_is_read_ahead, empty_folder),
      cmocka_unit_test_teardown(a_shard_that_is_cut_is_named, empty_folder),
  };
  return cmocka_run_group_tests_name("source", tests, setup, teardown);
}
