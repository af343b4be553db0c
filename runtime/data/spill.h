/* Memory that the processes of a machine share, as large as a file on disk may be: what is inflated once, by the first
 * that wants it, is mapped by the others. It lies in a file of the folder TMPDIR, else /var/tmp, that only this user
 * may read, until all have opened it; then it has no name, and goes when the last of them ends. */
#ifndef RUNTIME_DATA_SPILL_H
#define RUNTIME_DATA_SPILL_H

#include "base/arena.h"
#include "base/mapped.h"

typedef struct {
  const char *path; /* where others find it; NULL: nowhere any more */
  uint8_t *memory;  /* [bytes]: to be filled; NULL: it is whole */
  size_t bytes;
  int descriptor; /* while it is filled */
  Mapped map;     /* when it is whole */
} Spill;

/* What was made of the file with this stamp, `bytes` of it: whole, or `memory` to be filled, for which other processes
 * wait in their spill_open until spill_finish or the end of this one. Fails E_IO, E_MEMORY where the folder has no room
 * or takes no files. {0} is none. */
Status spill_open(Arena *arena, const FileStamp *stamp, size_t bytes, Spill *spill);
/* The memory is filled. */
Status spill_finish(Spill *spill);
/* Nobody else is to find it. */
void spill_settle(Spill *spill);
/* Settles it, too. */
void spill_close(Spill *spill);

#endif
