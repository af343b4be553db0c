/* The program's malloc and its kin: the C library's or the sanitizer's, but for those that are to fail. Only calls out
 * of the program itself, the libraries that files are read and written with, and the C library on their behalf count:
 * an MPI is not ours to test. Invariant: nothing here allocates. */
#include "tests/failing_memory.h"

#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

#ifdef __SANITIZE_ADDRESS__
#define REAL(name) __interceptor_##name
#else
#define REAL(name) __libc_##name
#define __libc_aligned_alloc __libc_memalign
#endif
void *REAL(malloc)(size_t);
void *REAL(calloc)(size_t, size_t);
void *REAL(realloc)(void *, size_t);
void *REAL(aligned_alloc)(size_t, size_t);

typedef struct {
  uintptr_t begin, end;
} Range;

enum { MOST_RANGES = 16 };
static Range ranges[MOST_RANGES]; /* of code whose calls count */
static int n_ranges;
static atomic_bool counting, for_good;
static atomic_long count, fails_at;
static atomic_bool failed;

static int note_object(struct dl_phdr_info *info, size_t size, void *context) {
#ifdef __SANITIZE_ADDRESS__ /* which starts threads with the C library's help, and dies where it gets none */
  static const char *const names[] = {"libjansson", "libprotobuf-c", "libzip"};
#else
  static const char *const names[] = {"libjansson", "libprotobuf-c", "libzip", "libc.so"};
#endif
  int *first = context;
  bool ours = (*first)++ == 0; /* the program comes first */
  (void)size;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    ours |= strstr(info->dlpi_name, names[i]) != NULL;
  for (int i = 0; ours && i < info->dlpi_phnum && n_ranges < MOST_RANGES; i++) {
    const ElfW(Phdr) *part = &info->dlpi_phdr[i];
    uintptr_t begin = info->dlpi_addr + part->p_vaddr;
    if (part->p_type == PT_LOAD && part->p_flags & PF_X)
      ranges[n_ranges++] = (Range){begin, begin + part->p_memsz};
  }
  return 0;
}

void memory_fail_at(long k, bool all_behind) {
  int first = 0;
  if (!n_ranges)
    dl_iterate_phdr(note_object, &first);
  atomic_store(&count, 0);
  atomic_store(&failed, false);
  atomic_store(&fails_at, k);
  atomic_store(&for_good, all_behind);
  atomic_store(&counting, true);
}

long memory_count(void) {
  return atomic_load(&count);
}

bool memory_has_failed(void) {
  return atomic_load(&failed);
}

void memory_recover(void) {
  atomic_store(&counting, false);
}

static bool fails(const void *caller) {
  if (!atomic_load(&counting))
    return false;
  bool ours = false;
  for (int i = 0; i < n_ranges; i++)
    ours |= (uintptr_t)caller >= ranges[i].begin && (uintptr_t)caller < ranges[i].end;
  if (!ours)
    return false;
  long at = atomic_load(&fails_at), now = atomic_fetch_add(&count, 1) + 1;
  if (!at || now < at || (now > at && !atomic_load(&for_good)))
    return false;
  atomic_store(&failed, true);
  errno = ENOMEM;
  return true;
}

EXPORT void *malloc(size_t bytes) {
  return fails(__builtin_return_address(0)) ? NULL : REAL(malloc)(bytes);
}

EXPORT void *calloc(size_t n, size_t bytes) {
  return fails(__builtin_return_address(0)) ? NULL : REAL(calloc)(n, bytes);
}

EXPORT void *realloc(void *old, size_t bytes) {
  return bytes && fails(__builtin_return_address(0)) ? NULL : REAL(realloc)(old, bytes);
}

EXPORT void *aligned_alloc(size_t alignment, size_t bytes) {
  return fails(__builtin_return_address(0)) ? NULL : REAL(aligned_alloc)(alignment, bytes);
}

EXPORT void *memalign(size_t alignment, size_t bytes) {
  return fails(__builtin_return_address(0)) ? NULL : REAL(aligned_alloc)(alignment, bytes);
}

EXPORT int posix_memalign(void **out, size_t alignment, size_t bytes) {
  void *memory = fails(__builtin_return_address(0)) ? NULL : REAL(aligned_alloc)(alignment, bytes);
  if (memory)
    *out = memory;
  return memory ? 0 : ENOMEM;
}
