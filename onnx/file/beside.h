/* The file of weights beside a saved model: each save has one of a new name, so that model and weights that belong
 * together are on the disk until the renamed model takes the place of the old one; then the old one's goes. */
#ifndef ONNX_FILE_BESIDE_H
#define ONNX_FILE_BESIDE_H

#include "base/arena.h"

/* The first of "m.onnx.data", "m.onnx.1.data", … that is not there yet, of the model "m.onnx" at `path`; without its
 * folder. */
Status beside_choose(Arena *arena, const char *path, const char **name);
/* Those of them that the model which is at `path` now refers to: names [n]. */
Status beside_list(Arena *arena, const char *path, const char ***names, int *n);
/* Removes one of them, unless a model in the folder still refers to it. */
void beside_remove(Arena *arena, const char *path, const char *name);
/* "folder/name" for the folder of `path`; NULL as arena_format. */
char *beside_path(Arena *arena, const char *path, const char *name);

#endif
