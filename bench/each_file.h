/* The rest of a program that measures files. */
#ifndef BENCH_EACH_FILE_H
#define BENCH_EACH_FILE_H

#include <stdio.h>

#include "base/arena.h"
#include "base/status.h"

/* main of a program of this name: a line a file on standard output, or its error. Returns the exit status. */
static inline int each_file(const char *program, int n, char **names, Status measure(Arena *arena, const char *name)) {
  int code = n < 2 ? 2 : 0;
  if (n < 2)
    fprintf(stderr, "usage: %s FILE...\n", program);
  for (int i = 1; i < n; i++) {
    Arena *arena = arena_create();
    if (!arena || measure(arena, names[i]) != OK) {
      fprintf(stderr, "%s: %s\n", names[i], status_message());
      code = 1;
    }
    fflush(stdout);
    arena_destroy(arena);
  }
  return code;
}

#endif
