/* Files as memory. Somebody may make a mapped file shorter while it is in use: what is behind its new end then reads as
 * zeros, in place of the SIGBUS that would end the process, and mapped_damaged tells. Whoever uses what it read asks
 * before it relies on it. Signals that no mapping of ours has caused go where they went before.
 *
 * What a file was when it was opened, its stamp, tells whether it was written to since. */
#ifndef BASE_MAPPED_H
#define BASE_MAPPED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
  uint64_t device, inode;
  int64_t bytes, seconds, nanoseconds; /* of the last change of contents */
} FileStamp;

/* Zeros where the descriptor is none. */
FileStamp file_stamp(int descriptor);
/* OK while the open file is what the stamp says; else E_IO with what happened to it: the caller names it. */
Status file_unchanged(int descriptor, const FileStamp *stamp);

typedef struct {
  const uint8_t *data; /* `bytes` from the offset on */
  size_t bytes;
  void *base; /* of whole pages; NULL: not mapped */
  size_t base_bytes;
  int guard; /* where the signal's handler finds it; -1: too many are mapped, it is not looked after */
} Mapped;

/* Maps `bytes` bytes from `offset` on, to read. The descriptor stays the caller's. E_IO with the reason alone. */
Status mapped_open(int descriptor, uint64_t offset, size_t bytes, Mapped *mapped);
/* Whether the file became shorter than what was read of it. Thread-safe. */
bool mapped_damaged(const Mapped *mapped);
/* {0} is fine. */
void mapped_close(Mapped *mapped);

#endif
