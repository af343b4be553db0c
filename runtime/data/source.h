/* The files that data lie in, as shards whose samples follow each other. */
#ifndef RUNTIME_DATA_SOURCE_H
#define RUNTIME_DATA_SOURCE_H

#include "runtime/data/data.h"

/* Arrays by name: those of a file, or of a folder of .npy files, each named after its array. */
typedef struct {
  const char *path;
  ArrayFile *files; /* [n_files] */
  int n_files;
} Shard;

typedef struct {
  Arena *arena;
  const char *path; /* as it was given */
  Shard *shards;    /* [n_shards] */
  int n_shards;
} Source;

/* Opens what `path` names: an .npz, .npy or .safetensors file; a folder of .npy files; a folder of .npz or .safetensors
 * files, or a pattern (* ? [) of files and folders, each of which is a shard, in the order of their names, byte by
 * byte. Fails E_IO / E_MODEL with the file in front: as array_file_open and safetensors_open do, and where there is no
 * such file. Not for two threads at once. */
Status source_open(const char *path, Source *source);
/* The same of files that have no format (array_file_open_flat), each a shard; no folders. */
Status source_open_flat(const char *path, Source *source);
void source_close(Source *source);
/* array_file_settle for each. */
void source_settle(Source *source);
/* OK while all files are what they were, else E_IO with the file in front. */
Status source_unchanged(const Source *source);

/* NULL where there is none of that name; *file (may be NULL): that has it. */
const Array *shard_find(const Shard *shard, const char *name, const ArrayFile **file);

#endif
