/* What the harnesses share: bytes as a file that can be opened, and how libFuzzer changes them. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Room for the path of a file in memory with these bytes; returns its descriptor. */
enum { FUZZ_PATH = 64 };
int fuzz_file(const uint8_t *data, size_t bytes, char path[FUZZ_PATH]);

/* Ends the process with a report, as a sanitizer does, where `holds` is false. */
void fuzz_check(int holds, const char *what);

#endif
