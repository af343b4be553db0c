/* Memory of host devices. Invariant: it is zero when it is handed out. Where huge pages come cheap a page is there once
 * somebody writes to it: the thread that computes on it. Small ones are many, and one that is read first is made twice:
 * they are there before. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/reference/reference.h"
#include "base/machine.h"

enum { LINE = 64, HUGE_PAGE = 2 << 20, PIECE = 32 << 20, MOST_THREADS = 8 };

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

static bool huge_pages;

/* In a guest, free memory that the hypervisor took back is what huge pages are made of: they come dearer than small
 * ones. */
static void choose_pages(void) {
  huge_pages = !machine_returns_memory("");
}

typedef struct {
  char *base;
  size_t bytes;
  atomic_size_t next;
} Range;

static void *make_pages(void *range) {
#ifdef MADV_POPULATE_WRITE
  Range *r = range;
  for (size_t at; (at = atomic_fetch_add(&r->next, PIECE)) < r->bytes;)
    if (madvise(r->base + at, r->bytes - at < PIECE ? r->bytes - at : PIECE, MADV_POPULATE_WRITE))
      return NULL; /* an older system: they come as they are written to */
#endif
  return range;
}

static void make_small_pages(char *base, size_t bytes) {
  Range range = {.base = base, .bytes = bytes};
  pthread_t threads[MOST_THREADS];
  int wanted = machine_processors() < MOST_THREADS ? machine_processors() : MOST_THREADS, n = 0;
  while (n + 1 < wanted && bytes > PIECE && pthread_create(&threads[n], NULL, make_pages, &range) == 0)
    n++;
  make_pages(&range);
  while (n > 0)
    pthread_join(threads[--n], NULL);
}

static Header *take_large(size_t bytes) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  size_t whole = bytes + HUGE_PAGE;
  char *base = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED)
    return NULL;
  pthread_once(&once, choose_pages);
  Header *header = (Header *)(((uintptr_t)base + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
  if (huge_pages)
    madvise(header, bytes, MADV_HUGEPAGE); /* where there are none, small ones serve */
  else
    make_small_pages((char *)header, bytes);
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
