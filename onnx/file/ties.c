/* Parameters that the exporter wrote twice. Invariant: tied_to names a tensor that is not tied itself, so a parameter
 * has one owner; weights are compared where they lie, in tiles, and never copied. */
#include <stdlib.h>
#include <string.h>

#include "onnx/file/exported.h"
#include "onnx/file/reach.h"

enum { TILE = 32, MOST_PLACES = 8 };

typedef struct {
  int initializer;
  bool is_given; /* its name is not one that the exporter made up */
  int64_t elements;
  DType dtype;
  TensorView view;
  uint64_t first, last; /* elements: the same in the transpose */
} Candidate;

/* What an initializer is in the model. */
typedef struct {
  int kinds;                /* of slots: REACHES_TABLE, REACHES_PRODUCT */
  int source;               /* the one PARAMETER that it is, or was folded from; -1: not told */
  int modules[MOST_PLACES]; /* of the first nodes that read it, as numbers */
  int n_modules;
} Part;

typedef struct {
  Model *model;
  Part *parts; /* [n_initializers] */
} Ties;

static uint64_t element(const Candidate *c, int64_t i) {
  size_t width = dtype_bytes(c->dtype);
  uint64_t bits = 0;
  memcpy(&bits, (const char *)c->view.data + (size_t)i * width, width);
  return bits;
}

static bool is_constant(const Candidate *c) {
  for (int64_t i = 1; i < c->elements; i++)
    if (element(c, i) != c->first)
      return false;
  return true;
}

/* A [rows, columns] against B [columns, rows], of elements of so many bytes: a number that the compiler knows. */
static inline __attribute__((always_inline)) bool is_turned(const char *a, const char *b, int64_t rows, int64_t columns,
                                                            size_t width) {
  for (int64_t i0 = 0; i0 < rows; i0 += TILE)
    for (int64_t j0 = 0; j0 < columns; j0 += TILE)
      for (int64_t i = i0; i < rows && i < i0 + TILE; i++)
        for (int64_t j = j0; j < columns && j < j0 + TILE; j++)
          if (memcmp(a + (size_t)(i * columns + j) * width, b + (size_t)(j * rows + i) * width, width) != 0)
            return false;
  return true;
}

static bool is_transpose(const Candidate *a, const Candidate *b, int64_t rows, int64_t columns) {
  switch (dtype_bytes(a->dtype)) {
  case 1:
    return is_turned(a->view.data, b->view.data, rows, columns, 1);
  case 2:
    return is_turned(a->view.data, b->view.data, rows, columns, 2);
  case 4:
    return is_turned(a->view.data, b->view.data, rows, columns, 4);
  default:
    return is_turned(a->view.data, b->view.data, rows, columns, 8);
  }
}

/* Kinds of tensors that could be one: by type, size and corner elements; then those whose names were given, so that
 * the owner comes first; then file order. */
static int compare_kind(const Candidate *a, const Candidate *b) {
  if (a->dtype != b->dtype)
    return a->dtype < b->dtype ? -1 : 1;
  if (a->elements != b->elements)
    return a->elements < b->elements ? -1 : 1;
  if (a->first != b->first)
    return a->first < b->first ? -1 : 1;
  return a->last == b->last ? 0 : a->last < b->last ? -1 : 1;
}

static int compare(const void *x, const void *y) {
  const Candidate *a = x, *b = y;
  int kind = compare_kind(a, b);
  if (kind)
    return kind;
  return a->is_given != b->is_given ? (a->is_given ? -1 : 1) : a->initializer - b->initializer;
}

/* Layers that were cloned from one another are equal at birth, too: one parameter is what fills slots of different
 * kinds, a table and a head, or is used by one module, or what the exporter says was one. */
static bool may_be_one(const Part *a, const Part *b, bool constant) {
  if (a->source >= 0 && a->source == b->source)
    return true;
  if (constant)
    return false;
  if (a->kinds != b->kinds)
    return true;
  for (int i = 0; i < a->n_modules; i++)
    for (int j = 0; j < b->n_modules; j++)
      if (a->modules[i] == b->modules[j])
        return true;
  return false;
}

/* Whether b, which comes later, is a again; at least one of them was renamed. */
static bool tie(Model *model, const Candidate *a, const Candidate *b) {
  Initializer *owner = &model->initializers[a->initializer], *copy = &model->initializers[b->initializer];
  Shape shape = owner->shape;
  bool same = shape_equal(shape, copy->shape);
  if (same && memcmp(a->view.data, b->view.data, (size_t)a->elements * dtype_bytes(a->dtype)) == 0) {
    copy->tied_to = a->initializer;
    return true;
  }
  if (shape.rank != 2 || copy->shape.rank != 2 || shape.dim[0] != copy->shape.dim[1] ||
      shape.dim[1] != copy->shape.dim[0] || !is_transpose(a, b, shape.dim[0], shape.dim[1]))
    return false;
  copy->tied_to = a->initializer;
  copy->tied_transposed = true;
  return true;
}

/* Candidates of one kind: whether those that were renamed are another one again. */
static void tie_kind(const Ties *ties, const Candidate *kind, int n) {
  Model *model = ties->model;
  for (int b = 1; b < n; b++) {
    const Part *part = &ties->parts[kind[b].initializer];
    if (kind[b].is_given)
      continue; /* two given names are two parameters that happen to be equal */
    bool constant = is_constant(&kind[b]);
    if (constant && part->source < 0)
      continue;
    for (int a = 0; a < b && model->initializers[kind[b].initializer].tied_to < 0; a++)
      if (model->initializers[kind[a].initializer].tied_to < 0 &&
          may_be_one(&ties->parts[kind[a].initializer], part, constant))
        tie(model, &kind[a], &kind[b]);
  }
}

/* Candidates of one type and size. Only where one of several was renamed are weights looked at. */
static Status tie_size(const Ties *ties, Candidate *group, int n) {
  Model *model = ties->model;
  bool renamed = false, readable = true;
  Status status = OK;
  for (int i = 0; i < n; i++)
    renamed |= !group[i].is_given;
  if (n < 2 || !renamed)
    return OK;
  for (int i = 0; i < n && status == OK; i++) {
    Candidate *c = &group[i];
    Status found = tensor_map(model, &model->sources[c->initializer], &c->view);
    if (found != OK || !c->view.data) {
      readable = false;
      status = found == E_MEMORY ? found : OK; /* what else fails: they are not there */
      continue;
    }
    c->first = element(c, 0);
    c->last = element(c, c->elements - 1);
  }
  if (readable) {
    qsort(group, (size_t)n, sizeof *group, compare);
    for (int i = 0, j; i < n; i = j) {
      for (j = i + 1; j < n && compare_kind(&group[i], &group[j]) == 0; j++)
        ;
      tie_kind(ties, &group[i], j - i);
    }
  }
  model->ties_unknown |= !readable;
  for (int i = 0; i < n; i++)
    tensor_unmap(&group[i].view);
  return status;
}

/* A node of the main graph reads an initializer: its module is one of the places where the initializer is used. */
static Status add_place(const Ties *ties, const Exported *exported, NameMap *modules, const Onnx__NodeProto *node,
                        int *n) {
  const char *module;
  int number = -1;
  TRY(exported_module(exported, node, &module));
  for (size_t k = 0; k < node->n_input && module; k++) {
    int i = model_find_initializer(ties->model, node->input[k]);
    if (i < 0 || ties->parts[i].n_modules == MOST_PLACES)
      continue;
    if (number < 0 && (number = names_find(modules, module)) < 0)
      TRY(names_put(modules, module, number = (*n)++));
    ties->parts[i].modules[ties->parts[i].n_modules++] = number;
  }
  return OK;
}

static Status find_parts(const Ties *ties, Arena *arena) {
  const Model *model = ties->model;
  const Onnx__GraphProto *graph = model->proto->graph;
  Exported exported;
  Reach reach;
  NameMap modules;
  int n_modules = 0;
  TRY(exported_read(model, arena, &exported));
  TRY(reach_find(model, arena, &reach));
  for (int i = 0; i < model->n_initializers; i++) {
    const char *name = model->initializers[i].name;
    bool folded;
    int count, source;
    TRY(exported_sources(&exported, name, &folded, &count, &source));
    if (!folded)
      source = exported_parameter(&exported, name);
    ties->parts[i] = (Part){.kinds = reached(&reach, name) & (REACHES_TABLE | REACHES_PRODUCT),
                            .source = folded && count != 1 ? -1 : source};
  }
  TRY(names_create(arena, &modules));
  for (size_t i = 0; i < graph->n_node; i++)
    TRY(add_place(ties, &exported, &modules, graph->node[i], &n_modules));
  return OK;
}

static Status find_ties(Model *model, Arena *arena) {
  Candidate *all;
  Ties ties = {.model = model};
  int n = 0;
  bool renamed = false;
  TRY(ARENA_NEW(arena, all, model->n_initializers));
  TRY(ARENA_NEW(arena, ties.parts, model->n_initializers));
  for (int i = 0; i < model->n_initializers; i++) {
    const Initializer *initializer = &model->initializers[i];
    int64_t elements = shape_elements(initializer->shape);
    if (initializer->trains && initializer->shape.rank >= 2 && elements > 0 && !initializer->copies)
      all[n++] = (Candidate){.initializer = i,
                             .is_given = name_is_given(model, initializer->name),
                             .elements = elements,
                             .dtype = initializer->stored};
    renamed |= n && !all[n - 1].is_given;
  }
  if (!renamed)
    return OK;
  TRY(find_parts(&ties, arena));
  qsort(all, (size_t)n, sizeof *all, compare);
  for (int i = 0, j; i < n; i = j) {
    for (j = i + 1; j < n && all[i].dtype == all[j].dtype && all[i].elements == all[j].elements; j++)
      ;
    TRY(tie_size(&ties, &all[i], j - i));
  }
  return OK;
}

Status ties_find(Model *model) {
  Arena *arena = arena_create();
  Status status = arena ? find_ties(model, arena) : status_code();
  arena_destroy(arena);
  return status;
}

bool model_ties_unknown(const Model *model) {
  return model->ties_unknown;
}
