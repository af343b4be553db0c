/* Changes of an opened file: tensors of its own for what the exporter merged or dropped. The skeleton has them at once,
 * as if the file had been written so; saving writes them. Nobody outside onnx/ includes this. */
#ifndef ONNX_FILE_EDIT_H
#define ONNX_FILE_EDIT_H

#include "onnx/file/internal.h"

/* An input of a node of the main graph; node -1: it was redirected. */
typedef struct {
  int node; /* in file order */
  int input;
} Use;

typedef struct {
  Use *list;
  int n, live; /* without those that were redirected */
  size_t capacity;
} Uses;

/* The changes being made, and what they need to know. */
typedef struct {
  Model *model;
  Arena *arena;
  NameMap taken, outputs; /* names that a new tensor cannot have; of the main graph's outputs */
  NameMap numbers;        /* the last one behind a name that was taken */
  Map *readers;           /* Uses by name */
  size_t capacity;        /* of the model's table */
  size_t restored_bytes;  /* of zeros so far */
  bool changed;
} Edit;

/* Nothing is changed yet; who reads what is known. */
Status edit_begin(Model *model, Arena *arena, Edit *edit);

/* The nodes of the main graph that read a value, in file order. */
Uses *edit_uses(const Edit *edit, const char *name);

/* A new initializer, with the contents of initializer `like` (its `split_from`); called `name`, or `name` and a number
 * where that is taken. */
Status edit_split(Edit *edit, const char *name, int like, int *initializer);

/* A new initializer of zeros, of the type of `like`. E_LIMIT where the zeros of a file are too many: their sizes are
 * what the file says, and it need not have a byte of them. */
Status edit_restore(Edit *edit, const char *name, Shape shape, int like, int *initializer);

/* A use becomes one of another initializer. */
Status edit_redirect(Edit *edit, Uses *uses, int use, int initializer);

/* A node without this input, or one before it, gets it. */
Status edit_append(Edit *edit, Use use, int initializer);

/* An Identity whose output becomes an initializer of the same name, with the contents of what it reads. */
Status edit_replace(Edit *edit, int node, int *initializer);

#endif
