/* The report of a model as text. Invariant: nothing is printed here that the JSON does not hold. */
#include "runtime/inspect.h"

#include <string.h>

#include "backend/backend.h"
#include "base/json.h"
#include "runtime/job/job.h"

static const char *text_of(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "";
}

/* "[N,32]" of an array of numbers and names. */
static void print_shape(const json_t *shape, FILE *out) {
  size_t i;
  json_t *dim;
  fprintf(out, "[");
  json_array_foreach(shape, i, dim) {
    fprintf(out, "%s", i ? "," : "");
    if (json_is_integer(dim))
      fprintf(out, "%lld", (long long)json_integer_value(dim));
    else
      fprintf(out, "%s", json_string_value(dim) ? json_string_value(dim) : "?");
  }
  fprintf(out, "]");
}

static void print_ends(const json_t *report, const char *key, FILE *out) {
  size_t i;
  json_t *end;
  json_array_foreach(json_object_get(report, key), i, end) {
    fprintf(out, "  %-7s %s %s ", i == 0 ? key : "", text_of(end, "name"), text_of(end, "dtype"));
    print_shape(json_object_get(end, "shape"), out);
    fprintf(out, "\n");
  }
}

/* Names, and how often each. */
static void print_counts(const json_t *report, const char *key, const char *title, FILE *out) {
  const char *name;
  json_t *count;
  int column = 0;
  if (!json_object_size(json_object_get(report, key)))
    return;
  fprintf(out, "\n%s\n ", title);
  json_object_foreach(json_object_get(report, key), name, count) {
    if (column > 80) {
      fprintf(out, "\n ");
      column = 0;
    }
    column += fprintf(out, " %s %lld", name, (long long)json_integer_value(count));
  }
  fprintf(out, "\n");
}

static void print_parameters(const json_t *report, FILE *out) {
  size_t i;
  json_t *p;
  int width = 4;
  json_array_foreach(json_object_get(report, "parameters"), i, p) {
    int length = (int)strlen(text_of(p, "name"));
    width = length > width ? length : width;
  }
  fprintf(out, "\n%s tensors train, %s elements\n",
          COUNT_STR(json_integer_value(json_object_get(report, "trained_tensors"))),
          COUNT_STR(json_integer_value(json_object_get(report, "trained_elements"))));
  json_array_foreach(json_object_get(report, "parameters"), i, p) {
    fprintf(out, "  %-*s  %-7s rule %-8s ", width, text_of(p, "name"),
            json_is_true(json_object_get(p, "trains")) ? "trains" : "fixed", text_of(p, "rule"));
    print_shape(json_object_get(p, "shape"), out);
    if (json_is_string(json_object_get(p, "tied_to")))
      fprintf(out, "  tied to %s", text_of(p, "tied_to"));
    if (json_object_get(p, "split_from"))
      fprintf(out, "  split from %s", text_of(p, "split_from"));
    if (json_object_get(p, "restored"))
      fprintf(out, "  restored: the exporter had dropped these zeros");
    fprintf(out, "\n");
  }
}

static void print_report(const json_t *report, const char *path, FILE *out) {
  size_t i;
  json_t *entry;
  fprintf(out, "%s\n", path);
  print_ends(report, "inputs", out);
  print_ends(report, "outputs", out);
  print_counts(report, "operators", "operators", out);
  print_counts(report, "passes", "passes that make fewer nodes of them, and how often (--no-fuse)", out);
  print_parameters(report, out);
  json_array_foreach(json_object_get(report, "unsupported"), i, entry)
      fprintf(out, "%sunsupported: node '%s' (%s): %s\n", i ? "" : "\n", text_of(entry, "node"),
              text_of(entry, "operator"), text_of(entry, "reason"));
  json_array_foreach(json_object_get(report, "batch_coupled"), i, entry)
      fprintf(out, "%smixes the samples of a microbatch: %s\n", i ? "" : "\n",
              json_is_string(entry) ? json_string_value(entry) : text_of(entry, "node"));
  bool is_first = true;
  json_array_foreach(json_object_get(report, "findings"), i, entry) {
    const char *tensor = text_of(entry, "tensor"), *id = text_of(entry, "id");
    if (strcmp(id, "tied") == 0 || strcmp(id, "split") == 0 || strcmp(id, "restored") == 0 ||
        strcmp(id, "mixes_samples") == 0)
      continue; /* the lists above say it */
    fprintf(out, "%s%s  %s%s%s\n", is_first ? "\nfindings (docs/findings.md explains each)\n" : "", id, tensor,
            *tensor ? ": " : "", text_of(entry, "text"));
    is_first = false;
  }
}

Status inspect_run(Model *model, const char *path, const Options *options, FILE *out) {
  Arena *arena = arena_create();
  json_t *report = NULL;
  if (!arena)
    return status_code();
  BindOptions bind = {.batch = options->batch, .evaluate = backend_evaluate, .training = true, .updates = true};
  Status status = job_dims(arena, options, model, NULL, &bind);
  if (status == OK)
    status = model_inspect(model, &bind, &report);
  if (status == OK && options->json) {
    Text text = {0};
    text_add_json(&text, report, JSON_INDENT(1));
    text_add_char(&text, '\n');
    const char *whole = text_whole(&text);
    if (!whole)
      status = status_code();
    else if (fputs(whole, out) == EOF)
      status = fail(E_IO, "%s: the report cannot be written", path);
    text_free(&text);
  } else if (status == OK) {
    print_report(report, path, out);
  }
  json_decref(report);
  arena_destroy(arena);
  return status;
}
