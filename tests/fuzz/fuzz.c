/* Files in memory, and mutation within the structure of a message, three times of four. */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/mutate.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t capacity);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t capacity, unsigned seed);

/* A shape that a file claims may be too large for any memory: malloc says so, as it does without sanitizers. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1:detect_leaks=1";
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t capacity, unsigned seed) {
  size_t n = seed % 4 ? mutate_message(data, bytes, capacity, seed) : 0;
  return n ? n : LLVMFuzzerMutate(data, bytes, capacity);
}

int fuzz_file(const uint8_t *data, size_t bytes, char path[FUZZ_PATH]) {
  int file = memfd_create("model", 0);
  size_t at = 0;
  while (file >= 0 && at < bytes) {
    ssize_t wrote = write(file, data + at, bytes - at);
    if (wrote <= 0)
      abort();
    at += (size_t)wrote;
  }
  snprintf(path, FUZZ_PATH, "/proc/self/fd/%d", file);
  return file;
}

void fuzz_check(int holds, const char *what) {
  if (holds)
    return;
  fprintf(stderr, "fuzz: %s\n", what);
  abort();
}
