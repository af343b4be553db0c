/* No byte string crashes the importer: the reference models and small ones of every construct, mutated by seed, give a
 * model or one error. Sanitizers watch. */
#include "backend/backend.h"
#include "tests/onnx/build.h"

/* A shape that a file claims may be too large for any memory: malloc says so, as it does without sanitizers. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}

static uint64_t next_random(uint64_t *state) {
  *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
  uint64_t z = *state;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* Where nothing but weights lies a change says nothing: a place outside of the contents that were cut out. */
static size_t place(const WireScan *scan, size_t bytes, uint64_t *state) {
  for (int tries = 0;; tries++) {
    size_t at = next_random(state) % bytes, low = 0, high = scan->n_cuts;
    while (low < high) {
      size_t middle = (low + high) / 2;
      if (scan->cuts[middle].offset + scan->cuts[middle].bytes <= at)
        low = middle + 1;
      else
        high = middle;
    }
    if (low == scan->n_cuts || at < scan->cuts[low].offset || tries == 100)
      return at;
  }
}

/* Flips bits, overwrites runs, moves pieces, cuts the end off, lengthens. */
static size_t mutate(uint8_t *data, size_t bytes, size_t capacity, const WireScan *scan, uint64_t *state) {
  bool gently = next_random(state) % 2; /* gets past the scanner more often */
  for (uint64_t changes = 1 + next_random(state) % (gently ? 2 : 8); changes-- && bytes;) {
    size_t at = place(scan, bytes, state), n = next_random(state) % 16;
    n = n < bytes - at ? n : bytes - at;
    switch (next_random(state) % (gently ? 4 : 8)) {
    case 0:
    case 1:
    case 2:
      data[at] ^= (uint8_t)(1u << next_random(state) % 8);
      break;
    case 3:
      data[at] = (uint8_t)next_random(state);
      break;
    case 4:
      memset(data + at, next_random(state) % 2 ? 0xff : 0, n);
      break;
    case 5:
      memmove(data + next_random(state) % (bytes - n + 1), data + at, n);
      break;
    case 6:
      bytes = next_random(state) % 4 ? bytes : at;
      break;
    default:
      if (bytes + n <= capacity) {
        memmove(data + at + n, data + at, bytes - at);
        bytes += n;
      }
    }
  }
  return bytes;
}

static Status give_nothing(void *context, int initializer, void *data, size_t bytes) {
  (void)context;
  (void)initializer;
  memset(data, 0, bytes);
  return OK;
}

/* What was opened is saved, and what was saved is the same model. */
static void saves(const Model *model, const char *path) {
  char saved_path[512];
  Model *saved;
  snprintf(saved_path, sizeof saved_path, "%s.saved", path);
  unlink(saved_path);
  if (model_save(model, saved_path, NULL, give_nothing, NULL) != OK) {
    assert_non_null(strstr(status_message(), "external data")); /* of which there is none here */
    return;
  }
  ASSERT_OK(model_open(saved_path, NULL, &saved));
  if (model->n_initializers == model->n_file_initializers) /* else it is another structure */
    assert_string_equal(saved->hash, model->hash);
  model_close(saved);
}

/* Opens; where that succeeds, reads every tensor, asks for everything that was derived, binds and saves. */
static bool survives(const char *path) {
  Model *model;
  Status status = model_open(path, NULL, &model);
  if (status != OK) {
    assert_null(model);
    assert_true(strlen(status_message()) > strlen(path) + 2);
    assert_memory_equal(status_message(), path, strlen(path));
    assert_null(strchr(status_message(), '\n'));
    return false;
  }
  int n;
  const Initializer *all = model_initializers(model, &n);
  for (int i = 0; i < n; i++) {
    size_t bytes;
    ASSERT_OK(shape_bytes(all[i].shape, all[i].dtype, &bytes));
    assert_true(all[i].tied_to < n);
    if (!model->sources[i].external) {
      void *data = malloc(bytes ? bytes : 1);
      status = model_read_initializer(model, i, data, bytes);
      assert_true(status == OK || status == E_MODEL);
      free(data);
    }
  }
  json_t *report;
  BindOptions options = {.evaluate = backend_evaluate};
  if (model_inspect(model, &options, &report) == OK)
    json_decref(report);
  else
    assert_int_equal(status_code(), E_MEMORY);
  saves(model, path);
  model_close(model);
  return true;
}

/* One small model with every construct that a reader treats in its own way. */
static Bytes everything(void) {
  Bytes graph = {0}, branch = {0}, attribute = {0}, numbers = {0};
  Bytes conditional = node("if", "If", "x", "r"), constant = node("k", "Constant", "", "c");
  Bytes half = tensor("half", 10, 1, (int64_t[]){2}), outside = tensor("out", 1, 1, (int64_t[]){3});
  put_message(&graph, 11, value_info("x", 2, (int64_t[]){-1, 3}));
  put_message(&graph, 12, value_info("y", 2, (int64_t[]){-1, 2}));
  put_message(&graph, 13, value_info("t", 2, (int64_t[]){-1, 2}));
  put_message(&graph, 5, weight("val_1", 20, 15, 0, 0.5f));
  put_message(&graph, 5, weight("val_2", 20, 15, 0, 0.5f));
  put_message(&graph, 5, weight("w.w", 3, 2, 0, 0.5f));
  put_number(&numbers, 0x3c00);
  put_number(&numbers, 0xbc00);
  put_message(&half, TENSOR_INT32_DATA, numbers);
  put_message(&graph, 5, half);
  put_int(&outside, 14, 1);
  put_message(&outside, 13, property("location", "w"));
  put_message(&outside, 13, property("offset", "0"));
  put_message(&graph, 5, outside);
  put_text(&attribute, 1, "value");
  put_message(&attribute, 5, weight("value", 2, 2, 0, 1));
  put_int(&attribute, 20, 4);
  put_message(&constant, 5, attribute);
  put_message(&graph, 1, constant);
  put_message(&graph, 1, node("a", "MatMul", "x,w.w", "t"));
  put_message(&branch, 1, node("inner", "Neg", "t", "i"));
  put_message(&branch, 12, value_info("i", 0, NULL));
  attribute = (Bytes){0};
  put_text(&attribute, 1, "then_branch");
  put_message(&attribute, 6, branch);
  put_message(&conditional, 5, attribute);
  put_message(&graph, 1, conditional);
  put_message(&graph, 1, node("m", "MatMul", "val_1,val_2", "val_9"));
  Bytes call = node("call", "f", "t", "y"), function = {0};
  put_text(&call, 7, "local");
  put_message(&graph, 1, call);
  put_message(&graph, 16,
              property("pkg.torch.export.ExportedProgram.graph_signature", "\nx: PARAMETER target='w.w'\n"));
  Bytes model = model_of(8, 18, graph);
  put_text(&function, 1, "f");
  put_text(&function, 10, "local");
  put_text(&function, 4, "a");
  put_text(&function, 5, "b");
  put_message(&function, 7, node("r", "Relu", "a", "b"));
  put_message(&model, 25, function);
  return model;
}

static void mutations_of(const uint8_t *file, size_t bytes, int rounds, uint64_t seed, int *opened) {
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  uint8_t *data = malloc(bytes + 256);
  Arena *arena = arena_create();
  WireScan scan;
  ASSERT_OK(wire_scan(arena, file, bytes, &scan));
  free(scan.skeleton);
  for (int round = 0; round < rounds; round++) {
    uint64_t state = seed + (uint64_t)round;
    memcpy(data, file, bytes);
    write_file(path, data, mutate(data, bytes, bytes + 256, &scan, &state));
    *opened += survives(path);
  }
  free(data);
  arena_destroy(arena);
  remove_folder(folder);
}

static void small_models_mutated(void **state) {
  (void)state;
  int opened = 0;
  enum { ROUNDS = 6000 };
  Bytes model = everything();
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  write_file(path, model.data, model.bytes);
  assert_true(survives(path));
  remove_folder(folder);
  mutations_of(model.data, model.bytes, ROUNDS, 1, &opened);
  /* neither all refused (then little beyond the scanner was reached) nor all accepted */
  assert_in_range(opened, ROUNDS / 50, ROUNDS * 9 / 10);
  free(model.data);
}

static void small_models_cut_everywhere(void **state) {
  (void)state;
  Bytes model = everything();
  const char *folder = make_folder(), *path = in_folder(folder, "m.onnx");
  for (size_t bytes = 1; bytes < model.bytes; bytes += bytes % 7 ? 1 : 3) {
    write_file(path, model.data, bytes);
    survives(path);
  }
  remove_folder(folder);
  free(model.data);
}

/* In the files of exporters, within the structure, which is mostly at the ends. */
static void reference_models_mutated(void **state) {
  (void)state;
  int opened = 0;
  for (int i = 0; i < N_REFERENCE_CASES; i++) {
    size_t bytes;
    uint8_t *file = read_file(reference_path(i, "model.onnx"), &bytes);
    if (bytes < 500000)
      mutations_of(file, bytes, 30, (uint64_t)i << 32, &opened);
    free(file);
  }
  assert_true(opened > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(small_models_mutated),
      cmocka_unit_test(small_models_cut_everywhere),
      cmocka_unit_test(reference_models_mutated),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
