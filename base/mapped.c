/* The handler of SIGBUS and the table it looks into. Invariant: a guard's range is that of a mapping that is there; the
 * handler takes no lock, allocates nothing, and touches pages of such ranges alone. */
#include "base/mapped.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GUARDS = 8192 };

typedef struct {
  atomic_uintptr_t begin; /* 0: free; taken under the mutex */
  atomic_size_t bytes;
  atomic_bool damaged;
} Guard;

static Guard guards[GUARDS];
static atomic_int n_guards; /* used so far: those behind have never been */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before;
static uintptr_t page_bytes;

/* Zeros from the page of `address` to the end of the mapping, where it is one of ours. */
static bool repair(uintptr_t address) {
  int n = atomic_load(&n_guards);
  for (int i = 0; i < n; i++) {
    uintptr_t begin = atomic_load(&guards[i].begin), bytes = atomic_load(&guards[i].bytes);
    if (!begin || address < begin || address - begin >= bytes)
      continue;
    uintptr_t page = address / page_bytes * page_bytes;
    atomic_store(&guards[i].damaged, true);
    return mmap((void *)page, begin + bytes - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
           MAP_FAILED;
  }
  return false;
}

static void heed(int number, siginfo_t *info, void *context) {
  int error = errno;
  bool ours = info->si_code == BUS_ADRERR && repair((uintptr_t)info->si_addr);
  errno = error;
  if (ours)
    return;
  if (before.sa_flags & SA_SIGINFO)
    before.sa_sigaction(number, info, context);
  else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
    before.sa_handler(number);
  else
    sigaction(number, &before, NULL); /* what it would have done, it does when the access is made again */
}

static void install(void) {
  struct sigaction action = {.sa_sigaction = heed, .sa_flags = SA_SIGINFO};
  sigemptyset(&action.sa_mask);
  page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
  sigaction(SIGBUS, NULL, &before); /* first: the handler may be wanted at once */
  sigaction(SIGBUS, &action, NULL);
}

static int take_guard(void *base, size_t bytes) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, install);
  int i = 0;
  pthread_mutex_lock(&mutex);
  while (i < GUARDS && atomic_load(&guards[i].begin))
    i++;
  if (i < GUARDS) {
    atomic_store(&guards[i].damaged, false);
    atomic_store(&guards[i].bytes, bytes);
    atomic_store(&guards[i].begin, (uintptr_t)base);
    if (i >= atomic_load(&n_guards))
      atomic_store(&n_guards, i + 1);
  }
  pthread_mutex_unlock(&mutex);
  return i < GUARDS ? i : -1;
}

Status mapped_open(int descriptor, uint64_t offset, size_t bytes, Mapped *mapped) {
  *mapped = (Mapped){.guard = -1};
  if (!bytes)
    return OK;
  size_t front = (size_t)(offset % (uint64_t)sysconf(_SC_PAGESIZE));
  void *base = mmap(NULL, bytes + front, PROT_READ, MAP_PRIVATE, descriptor, (off_t)(offset - front));
  if (base == MAP_FAILED)
    return fail(errno == ENOMEM ? E_MEMORY : E_IO, "cannot be mapped: %s", strerror(errno));
  *mapped = (Mapped){.data = (uint8_t *)base + front,
                     .bytes = bytes,
                     .base = base,
                     .base_bytes = bytes + front,
                     .guard = take_guard(base, bytes + front)};
  return OK;
}

bool mapped_damaged(const Mapped *mapped) {
  return mapped->base && mapped->guard >= 0 && atomic_load(&guards[mapped->guard].damaged);
}

void mapped_close(Mapped *mapped) {
  if (mapped->base) {
    if (mapped->guard >= 0)
      atomic_store(&guards[mapped->guard].begin, 0);
    munmap(mapped->base, mapped->base_bytes);
  }
  *mapped = (Mapped){.guard = -1};
}

FileStamp file_stamp(int descriptor) {
  struct stat info;
  if (fstat(descriptor, &info))
    return (FileStamp){0};
  return (FileStamp){.device = (uint64_t)info.st_dev,
                     .inode = (uint64_t)info.st_ino,
                     .bytes = (int64_t)info.st_size,
                     .seconds = (int64_t)info.st_mtim.tv_sec,
                     .nanoseconds = (int64_t)info.st_mtim.tv_nsec};
}

Status file_unchanged(int descriptor, const FileStamp *stamp) {
  FileStamp now = file_stamp(descriptor);
  if (now.device != stamp->device || now.inode != stamp->inode)
    return fail(E_IO, "another file was put in its place while it was in use");
  if (now.bytes != stamp->bytes)
    return fail(E_IO, "was changed while it was in use: it had %lld bytes, now %lld", (long long)stamp->bytes,
                (long long)now.bytes);
  if (now.seconds != stamp->seconds || now.nanoseconds != stamp->nanoseconds)
    return fail(E_IO, "was written to while it was in use");
  return OK;
}
