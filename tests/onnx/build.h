/* Writing ONNX files byte by byte, valid or not, for the tests of onnx/. */
#ifndef TESTS_ONNX_BUILD_H
#define TESTS_ONNX_BUILD_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "onnx/file/internal.h"
#include "onnx/model.h"
#include "tests/test.h"

/* A message being written. */
typedef struct {
  uint8_t *data;
  size_t bytes;
} Bytes;

static inline void put_raw(Bytes *to, const void *data, size_t bytes) {
  to->data = realloc(to->data, to->bytes + bytes + 1);
  assert_non_null(to->data);
  if (bytes)
    memcpy(to->data + to->bytes, data, bytes);
  to->bytes += bytes;
}

static inline void put_number(Bytes *to, uint64_t value) {
  uint8_t text[10];
  put_raw(to, text, wire_put_varint(text, value, 0));
}

static inline void put_int(Bytes *to, int field, int64_t value) {
  put_number(to, (uint64_t)field << 3);
  put_number(to, (uint64_t)value);
}

static inline void put_bytes(Bytes *to, int field, const void *data, size_t bytes) {
  put_number(to, (uint64_t)field << 3 | 2);
  put_number(to, bytes);
  put_raw(to, data, bytes);
}

static inline void put_text(Bytes *to, int field, const char *text) {
  put_bytes(to, field, text, strlen(text));
}

/* Adds a message and frees it. */
static inline void put_message(Bytes *to, int field, Bytes message) {
  put_bytes(to, field, message.data, message.bytes);
  free(message.data);
}

static inline Bytes property(const char *key, const char *value) {
  Bytes entry = {0};
  put_text(&entry, 1, key);
  put_text(&entry, 2, value);
  return entry;
}

/* A TensorProto without contents. */
static inline Bytes tensor(const char *name, int type, int rank, const int64_t *dims) {
  Bytes t = {0};
  for (int i = 0; i < rank; i++)
    put_int(&t, 1, dims[i]);
  put_int(&t, 2, type);
  put_text(&t, 8, name);
  return t;
}

/* FLOAT [rows, columns] (columns 0: [rows]) with raw contents start, start + step, … */
static inline Bytes weight(const char *name, int64_t rows, int64_t columns, float start, float step) {
  Bytes t = tensor(name, 1, columns ? 2 : 1, (int64_t[]){rows, columns});
  size_t n = (size_t)(rows * (columns ? columns : 1));
  float *values = calloc(n + 1, sizeof *values);
  for (size_t i = 0; i < n; i++)
    values[i] = start + step * (float)i;
  put_bytes(&t, TENSOR_RAW_DATA, values, n * sizeof *values);
  free(values);
  return t;
}

/* ValueInfoProto of a float tensor; a dimension of -1 is called "batch". */
static inline Bytes value_info(const char *name, int rank, const int64_t *dims) {
  Bytes info = {0}, type = {0}, dense = {0}, shape = {0};
  for (int i = 0; i < rank; i++) {
    Bytes dim = {0};
    if (dims[i] == -1)
      put_text(&dim, 2, "batch");
    else
      put_int(&dim, 1, dims[i]);
    put_message(&shape, 1, dim);
  }
  put_int(&dense, 1, 1);
  put_message(&dense, 2, shape);
  put_message(&type, 1, dense);
  put_text(&info, 1, name);
  put_message(&info, 2, type);
  return info;
}

/* "a,b" to the fields of that number. */
static inline void put_names(Bytes *to, int field, const char *names) {
  while (*names) {
    size_t n = strcspn(names, ",");
    put_bytes(to, field, names, n);
    names += n + (names[n] == ',');
  }
}

/* A node; inputs and outputs are separated by commas, an empty one is absent. */
static inline Bytes node(const char *name, const char *op, const char *inputs, const char *outputs) {
  Bytes n = {0};
  put_names(&n, 1, inputs);
  put_names(&n, 2, outputs);
  if (*name)
    put_text(&n, 3, name);
  put_text(&n, 4, op);
  return n;
}

/* ModelProto around a graph, which is freed. */
static inline Bytes model_of(int64_t ir_version, int64_t opset, Bytes graph) {
  Bytes m = {0}, import = {0};
  put_int(&m, 1, ir_version);
  put_message(&m, 7, graph);
  put_int(&import, 2, opset);
  put_message(&m, 8, import);
  return m;
}

/* A folder of the test's own; files in it are removed by remove_folder. */
static inline const char *make_folder(void) {
  static char folder[64];
  snprintf(folder, sizeof folder, "/tmp/onnxpipe_test_XXXXXX");
  assert_non_null(mkdtemp(folder));
  return folder;
}

static inline void remove_folder(const char *folder) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  assert_int_equal(system(command), 0);
}

/* "folder/name" in one of four buffers, in turn. */
static inline const char *in_folder(const char *folder, const char *name) {
  static char paths[4][512];
  static int turn;
  char *path = paths[turn++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static inline void write_file(const char *path, const void *data, size_t bytes) {
  unlink(path); /* some file systems flush what is written over an old file */
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  if (bytes)
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
  assert_int_equal(fclose(file), 0);
}

/* Whole contents; free() them. */
static inline uint8_t *read_file(const char *path, size_t *bytes) {
  FILE *file = fopen(path, "rb");
  if (!file)
    FAIL_TEST("%s cannot be read", path);
  fseek(file, 0, SEEK_END);
  *bytes = (size_t)ftell(file);
  rewind(file);
  uint8_t *data = malloc(*bytes + 1);
  assert_int_equal(fread(data, 1, *bytes, file), *bytes);
  fclose(file);
  return data;
}

/* Writes the model to the path and frees it. */
static inline void save_bytes(const char *path, Bytes model) {
  write_file(path, model.data, model.bytes);
  free(model.data);
}

static const char *const reference_cases[] = {"branches",
                                              "dlrm",
                                              "gpt2",
                                              "gpt2_default_export",
                                              "gpt2_fixed_batch",
                                              "llama",
                                              "nanogpt",
                                              "nanogpt_loss",
                                              "resnet",
                                              "surrogate",
                                              "unet3d",
                                              "fresh_gpt2_default",
                                              "fresh_surrogate_legacy",
                                              "padded_bag"};
enum { N_REFERENCE_CASES = sizeof reference_cases / sizeof *reference_cases };

static inline const char *reference_path(int i, const char *file) {
  static char path[512];
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/%s", reference_cases[i], file);
  return path;
}

#endif
