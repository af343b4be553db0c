/* Memory of host devices. Invariant: it is zero when it is handed out, and a page of it is there once somebody writes
 * to it: by the thread that computes on it, in pieces of huge pages where the system has them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/reference/reference.h"

enum { LINE = 64, HUGE_PAGE = 2 << 20 };

/* In front of what is handed out. */
typedef union {
  struct {
    void *base;   /* of all that was taken */
    size_t bytes; /* mapped; 0: from malloc */
  } taken;
  char line[LINE];
} Header;

static Header *take_small(size_t bytes) {
  Header *header = aligned_alloc(LINE, bytes);
  if (header)
    memset(header, 0, bytes);
  return header;
}

/* What small pages cost is most of what a start takes. */
static Header *take_large(size_t bytes) {
  size_t whole = bytes + HUGE_PAGE;
  char *base = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED)
    return NULL;
  Header *header = (Header *)(((uintptr_t)base + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
  madvise(header, bytes, MADV_HUGEPAGE); /* where there are none, small ones serve */
  header->taken.base = base;
  header->taken.bytes = whole;
  return header;
}

Status host_alloc(Stream *stream, size_t bytes, void **memory) {
  (void)stream;
  Header *header = NULL;
  *memory = NULL;
  if (bytes < SIZE_MAX / 2) {
    size_t whole = (bytes + sizeof *header + LINE - 1) / LINE * LINE;
    header = whole < HUGE_PAGE ? take_small(whole) : take_large(whole);
  }
  if (!header)
    return fail(E_MEMORY, "out of memory: an arena of %zu bytes", bytes);
  *memory = header + 1;
  return OK;
}

void host_release(Stream *stream, void *memory) {
  (void)stream;
  Header *header = memory ? (Header *)memory - 1 : NULL;
  if (header && header->taken.bytes)
    munmap(header->taken.base, header->taken.bytes);
  else
    free(header);
}
