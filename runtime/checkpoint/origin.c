/* Tensors of a safetensors file, an ONNX file or a checkpoint, by the names of the model's. */
#include "runtime/checkpoint/origin.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/replaced.h"
#include "runtime/data/safetensors.h"

typedef enum { FROM_SAFETENSORS, FROM_ONNX, FROM_CHECKPOINT } OriginKind;

/* A tensor of the file. */
typedef struct {
  const char *name;
  DType dtype;
  Shape shape;
  const Array *array; /* NULL: initializer `index` of the model */
  int index;
  bool used;
} OriginTensor;

struct Origin {
  Arena *arena;
  const char *path;
  OriginKind kind;
  ArrayFile file;
  Model *model;
  Checkpoint checkpoint;
  OriginTensor *tensors; /* by name */
  size_t n_tensors;
  OriginTensor **of; /* [initializers of the job's model]; NULL: none */
};

static bool ends_in(const char *path, const char *end) {
  size_t n = strlen(path), m = strlen(end);
  return n > m && strcmp(path + n - m, end) == 0;
}

static Status open_onnx(Origin *s) {
  int n;
  TRY(model_open(s->path, &(TrainOptions){.no_tie = true}, &s->model));
  const Initializer *table = model_initializers(s->model, &n);
  TRY(ARENA_NEW(s->arena, s->tensors, n));
  for (int i = 0; i < n; i++)
    s->tensors[s->n_tensors++] =
        (OriginTensor){.name = table[i].name, .dtype = table[i].dtype, .shape = table[i].shape, .index = i};
  return OK;
}

static void add_array(Origin *s, const Array *array) {
  s->tensors[s->n_tensors++] =
      (OriginTensor){.name = array->name, .dtype = array->dtype, .shape = array->shape, .array = array};
}

static Status open_safetensors(Origin *s) {
  TRY(safetensors_open(s->path, &s->file));
  TRY(ARENA_NEW(s->arena, s->tensors, s->file.n_arrays));
  for (int i = 0; i < s->file.n_arrays; i++)
    add_array(s, &s->file.arrays[i]);
  return OK;
}

static Status open_checkpoint(Origin *s) {
  TRY(checkpoint_find(s->arena, s->path, true, NULL, &s->checkpoint));
  TRY(checkpoint_map(&s->checkpoint));
  TRY(ARENA_NEW(s->arena, s->tensors, s->checkpoint.n_tensors[TENSOR_MODEL]));
  for (size_t i = 0; i < s->checkpoint.n_tensors[TENSOR_MODEL]; i++)
    add_array(s, s->checkpoint.tensors[TENSOR_MODEL][i]);
  s->path = s->checkpoint.path;
  return OK;
}

static int compare_names(const void *a, const void *b) {
  return strcmp(((const OriginTensor *)a)->name, ((const OriginTensor *)b)->name);
}

static Status open_file(Origin *s) {
  struct stat info;
  bool is_folder = stat(s->path, &info) == 0 && S_ISDIR(info.st_mode);
  s->kind = is_folder ? FROM_CHECKPOINT : ends_in(s->path, ".safetensors") ? FROM_SAFETENSORS : FROM_ONNX;
  TRY(s->kind == FROM_CHECKPOINT ? open_checkpoint(s) : s->kind == FROM_ONNX ? open_onnx(s) : open_safetensors(s));
  if (s->n_tensors)
    qsort(s->tensors, s->n_tensors, sizeof *s->tensors, compare_names);
  return OK;
}

/* The part of the name that stands for the star of a pattern of `length` bytes, *n of them; NULL: it does not match. */
static const char *match_star(const char *name, const char *pattern, size_t length, size_t *n) {
  const char *star = memchr(pattern, '*', length);
  size_t all = strlen(name), before = star ? (size_t)(star - pattern) : length, after = star ? length - before - 1 : 0;
  *n = 0;
  if (all < before + after || (!star && all != length) || strncmp(name, pattern, before) != 0 ||
      strncmp(name + all - after, pattern + length - after, after) != 0)
    return NULL;
  *n = all - before - after;
  return name + before;
}

/* What the tensor is called in the file. */
static Status name_in_file(Arena *arena, const Options *o, const char *name, const char **there) {
  *there = name;
  for (size_t i = 0; i < o->init_names.n; i++) {
    const char *text = o->init_names.items[i], *equals = strchr(text, '=');
    size_t n = 0;
    const char *part = match_star(name, text, (size_t)(equals - text), &n), *star = strchr(equals, '*');
    if (!part)
      continue;
    *there = star ? arena_format(arena, "%.*s%.*s%s", (int)(star - equals - 1), equals + 1, (int)n, part, star + 1)
                  : arena_string(arena, equals + 1);
    return *there ? OK : status_code();
  }
  return OK;
}

static Status check_patterns(const Options *o) {
  for (size_t i = 0; i < o->init_names.n; i++) {
    const char *text = o->init_names.items[i], *equals = strchr(text, '=');
    const char *star = strchr(text, '*'), *last = strrchr(text, '*');
    bool one = equals && equals != text && equals[1] && !strchr(equals + 1, '=');
    bool none = !star,
         both = star && star < equals && last > equals && !memchr(star + 1, '*', (size_t)(last - star - 1));
    if (!one || (!none && !both))
      return fail(E_USAGE, "--init-names takes HERE=THERE, with one * in both or in neither, not '%s'", text);
  }
  return OK;
}

/* Floats become one another; all else is as it is. */
static bool fits(const OriginTensor *from, const Initializer *to) {
  bool floats = dtype_is_float(from->dtype) && (to->dtype == F32 || to->dtype == F64) && from->array;
  return shape_equal(from->shape, to->shape) && (from->dtype == to->dtype || floats);
}

enum { MOST_NAMES = 16 }; /* of a list */

/* Lists of names that grow. */
typedef struct {
  Text text;
  int n;
} Names;

static void add(Names *names, const char *name) {
  if (names->n++ < MOST_NAMES)
    text_add(&names->text, "%s%s", names->text.length ? ", " : "", name);
}

static Status say(Job *job, const char *before, Names *names) {
  if (names->n > MOST_NAMES)
    text_add(&names->text, " and %d more", names->n - MOST_NAMES);
  const char *text = text_whole(&names->text);
  Status status = !text ? status_code() : names->n ? job_decide(job, "note", "%s%s", before, text) : OK;
  text_free(&names->text);
  return status;
}

static bool is_changed(const Initializer *what) {
  return what->trains || what->is_buffer;
}

/* What came of the model's tensors. */
typedef struct {
  int matched, wanted; /* of those that train, and statistics */
  int fixed;           /* of the others, taken */
  Names absent, other, absent_fixed, unused;
} Matches;

static Status match_one(Origin *s, Job *job, int i, Matches *m) {
  const Initializer *what = &model_initializers(job->given.model, &(int){0})[i];
  OriginTensor key;
  TRY(name_in_file(s->arena, job->asked.options, what->name, &key.name));
  OriginTensor *found = bsearch(&key, s->tensors, s->n_tensors, sizeof key, compare_names);
  m->wanted += is_changed(what);
  if (!found) {
    add(is_changed(what) ? &m->absent : &m->absent_fixed, what->name);
    return OK;
  }
  if (!fits(found, what)) {
    char *text = arena_format(s->arena, "%s %s (%s %s there)", what->name, SHAPE_STR(what->shape),
                              dtype_name(found->dtype), SHAPE_STR(found->shape));
    if (!text)
      return status_code();
    add(&m->other, text);
    return OK;
  }
  s->of[i] = found;
  found->used = true;
  m->matched += is_changed(what);
  m->fixed += !is_changed(what);
  return OK;
}

static Status match_all(Origin *s, Job *job, Matches *m) {
  int n;
  const Initializer *table = model_initializers(job->given.model, &n);
  TRY(ARENA_NEW(s->arena, s->of, n));
  for (int i = 0; i < n; i++)
    if (is_changed(&table[i]) ? table[i].tied_to < 0 : model_takes_contents(job->given.model, i))
      TRY(match_one(s, job, i, m));
  for (size_t i = 0; i < s->n_tensors; i++)
    if (!s->tensors[i].used && (s->kind != FROM_ONNX || dtype_is_float(s->tensors[i].dtype)))
      add(&m->unused, s->tensors[i].name);
  if (!m->matched && !m->fixed)
    return fail(E_USAGE, "--init-from %s: none of its %zu tensors has name, shape and type of one of the model's",
                s->path, s->n_tensors);
  return OK;
}

static Status tell(const Origin *s, Job *job, Matches *m) {
  char fixed[64] = "";
  if (m->fixed)
    snprintf(fixed, sizeof fixed, ", and %d that %s fixed", m->fixed, m->fixed == 1 ? "is" : "are");
  TRY(job_decide(job, "init-from", "%s: %d of %d tensors%s%s", s->path, m->matched, m->wanted, fixed,
                 m->matched == m->wanted    ? ""
                 : job->asked.options->init ? "; the others as --init draws them"
                                            : "; the others as the model has them"));
  TRY(say(job, "not there: ", &m->absent));
  TRY(say(job, "of another shape or type: ", &m->other));
  TRY(say(job, "held fixed, and not there: ", &m->absent_fixed));
  return say(job, "there, and not taken: ", &m->unused);
}

/* First contents of a tensor, `bytes` of them, as `dtype`. */
static Status read_tensor(const Origin *s, const OriginTensor *from, DType dtype, void *data, size_t bytes) {
  Status status = from->array ? array_convert(from->array, 0, shape_elements(from->shape), dtype, data)
                              : model_read_initializer(s->model, from->index, data, bytes);
  if (status != OK && from->array)
    status_context("%s: ", s->path);
  return status;
}

/* What the steps do not write is the other file's from binding on. */
static Status replace(const Origin *s, Job *job) {
  int n;
  const Initializer *table = model_initializers(job->given.model, &n);
  for (int i = 0; i < n; i++) {
    void *contents;
    if (!s->of[i] || table[i].trains)
      continue;
    TRY(replaced_add(job, i, &contents));
    if (contents)
      TRY(read_tensor(s, s->of[i], table[i].dtype, contents,
                      (size_t)shape_elements(table[i].shape) * dtype_bytes(table[i].dtype)));
  }
  return OK;
}

static Status match(Origin *s, Job *job) {
  Matches m = {0};
  Names *const lists[] = {&m.absent, &m.other, &m.absent_fixed, &m.unused};
  Status status = match_all(s, job, &m);
  if (status == OK)
    status = tell(s, job, &m);
  for (int k = 0; k < 4; k++)
    text_free(&lists[k]->text);
  return status == OK ? replace(s, job) : status;
}

Status origin_open(Job *job, Origin **origin) {
  const Options *o = job->asked.options;
  *origin = NULL;
  if (!o->init_from)
    return o->init_names.n ? fail(E_USAGE, "--init-names does nothing without --init-from") : OK;
  if (o->resume)
    return fail(E_USAGE, "--resume goes on with its own weights, --init-from %s begins with others: give one of them",
                o->init_from);
  if (o->freeze_row.n)
    return fail(E_USAGE, "--freeze-row %s keeps a row of the model's file, --init-from %s may have another",
                o->freeze_row.items[0], o->init_from);
  TRY(check_patterns(o));
  Arena *arena = arena_create();
  Origin *s = arena ? arena_alloc(arena, 1, sizeof *s) : NULL;
  if (!s) {
    arena_destroy(arena);
    return status_code();
  }
  *s = (Origin){.arena = arena, .path = o->init_from};
  Status status = open_file(s);
  if (status == OK)
    status = match(s, job);
  if (status == OK)
    *origin = s;
  else
    origin_close(s);
  return status;
}

void origin_close(Origin *s) {
  if (!s)
    return;
  if (s->model)
    model_close(s->model);
  if (s->file.arena)
    array_file_close(&s->file);
  checkpoint_close(&s->checkpoint);
  arena_destroy(s->arena);
}

Status origin_load(const Origin *s, const Job *job, ValueId v, void *data, size_t bytes, bool *found) {
  const Value *value = graph_value(job->decided.graph, v);
  bool is_filled = value->role == ROLE_PARAMETER || value->role == ROLE_BUFFER || replaced_is_stored(job, value);
  const OriginTensor *from = is_filled && value->initializer >= 0 ? s->of[value->initializer] : NULL;
  *found = from != NULL;
  return from ? read_tensor(s, from, value->dtype, data, bytes) : OK;
}

Status origin_unchanged(const Origin *s) {
  if (s->kind == FROM_ONNX)
    return model_unchanged(s->model);
  if (s->kind == FROM_CHECKPOINT)
    return checkpoint_unchanged(&s->checkpoint);
  Status status = array_file_unchanged(&s->file);
  if (status != OK)
    status_context("%s: ", s->path);
  return status;
}
