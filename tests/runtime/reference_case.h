/* What tests of the reference cases of models/ share: their options, and what a training of one gives. Includes cmocka
 * by way of tests/test.h. */
#ifndef TESTS_RUNTIME_REFERENCE_CASE_H
#define TESTS_RUNTIME_REFERENCE_CASE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/onnxpipe.h"
#include "tests/test.h"

enum { MOST_STEPS = 16 };

typedef struct {
  double losses[MOST_STEPS];
  int n;
} Losses;

static inline void take_loss(void *context, const OnnxpipeMetrics *m) {
  Losses *losses = context;
  assert_in_range(m->step, 1, MOST_STEPS);
  assert_int_equal(m->step, losses->n + 1);
  assert_true(m->gradient_norm > 0 && m->seconds > 0);
  losses->losses[losses->n++] = m->loss;
}

static inline void set(OnnxpipeOptions *options, const char *name, const char *value) {
  if (onnxpipe_options_set(options, name, value) != ONNXPIPE_OK)
    FAIL_TEST("%s", onnxpipe_error());
}

static inline void set_number(OnnxpipeOptions *options, const char *name, double value) {
  char text[32];
  snprintf(text, sizeof text, "%.17g", value);
  set(options, name, text);
}

static inline json_t *read_case(const char *name) {
  char path[256];
  json_error_t error;
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/case.json", name);
  json_t *json = json_load_file(path, 0, &error);
  assert_non_null(json);
  return json;
}

/* As PyTorch trained it. The optimizer's numbers have the names of options. The caller destroys them. */
static inline OnnxpipeOptions *case_options(const char *name, const json_t *json) {
  OnnxpipeOptions *options = onnxpipe_options_create();
  char path[256];
  assert_non_null(options);
  snprintf(path, sizeof path, SOURCE_DIR "/models/%s/data.npz", name);
  set(options, "data", path);
  set(options, "quiet", "");
  set(options, "no-measure", ""); /* stages are the same everywhere, every time */
  set(options, "loss", json_string_value(json_object_get(json, "loss")));
  set_number(options, "batch", json_number_value(json_object_get(json, "batch_size")));
  set_number(options, "steps", json_number_value(json_object_get(json, "steps")));
  const char *key;
  json_t *value;
  json_object_foreach(json_object_get(json, "optimizer"), key, value) {
    char option[32];
    snprintf(option, sizeof option, "%s", strcmp(key, "name") == 0 ? "optimizer" : key);
    for (char *c = option; *c; c++)
      if (*c == '_')
        *c = '-';
    if (json_is_string(value))
      set(options, option, json_string_value(value));
    else
      set_number(options, option, json_number_value(value));
  }
  return options;
}

/* Appends a file to *n bytes; whether it is there. */
static inline bool slurp_more(const char *path, char **bytes, size_t *n) {
  FILE *file = fopen(path, "rb");
  if (!file)
    return false;
  fseek(file, 0, SEEK_END);
  size_t more = (size_t)ftell(file);
  rewind(file);
  *bytes = realloc(*bytes, *n + more + 1);
  assert_int_equal(fread(*bytes + *n, 1, more, file), more);
  *n += more;
  fclose(file);
  return true;
}

/* A saved model of *n bytes, weights beside it included, which the caller frees. */
static inline char *slurp(const char *path, size_t *n) {
  char *bytes = NULL, data[256];
  *n = 0;
  assert_true(slurp_more(path, &bytes, n));
  snprintf(data, sizeof data, "%s.data", path);
  slurp_more(data, &bytes, n);
  return bytes;
}

/* Removes a saved model: weights beside the next one have the first name again, which is part of the model. */
static inline void remove_saved(const char *path) {
  char data[256];
  snprintf(data, sizeof data, "%s.data", path);
  unlink(path);
  unlink(data);
}

#endif
