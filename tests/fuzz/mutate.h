/* Changes a protobuf message within its structure: a field is renumbered, doubled, dropped, moved or taken from
 * elsewhere in the message, a number or a text becomes another, and lengths stay right, so that what comes out gets
 * past the scanner more often than bytes changed anywhere do. */
#ifndef TESTS_FUZZ_MUTATE_H
#define TESTS_FUZZ_MUTATE_H

#include <stddef.h>
#include <stdint.h>

/* In place; returns the new size, at most `capacity`; 0 where the bytes are no message. */
size_t mutate_message(uint8_t *data, size_t bytes, size_t capacity, uint64_t seed);

#endif
