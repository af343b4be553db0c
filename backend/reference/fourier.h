/* Fourier transforms of lines, in double, by mixed radices, or as a convolution
 * (Bluestein 1970) where the length has a large prime factor. A line's bits
 * depend on its numbers and the length alone: not on what is transformed beside
 * it. */
#ifndef BACKEND_REFERENCE_FOURIER_H
#define BACKEND_REFERENCE_FOURIER_H

#include "backend/reference/reference.h"

/* So many lines go through the same steps at once, where there is room. */
enum { FOURIER_LINES = 8 };

/* The length at which lines of length n are transformed: another where n has a
 * large factor, a power of 2 that holds the convolution. And the radix that a
 * transform of length n > 1 begins with. */
int64_t fourier_inner_length(int64_t n);
int64_t fourier_factor(int64_t n);

/* Bytes of what lines of this length share, and of the room in which `lines` of
 * them are transformed. */
size_t fourier_table_bytes(int64_t length);
size_t fourier_room_bytes(int64_t length, int64_t lines);
void fourier_table(int64_t length, double *table);

/* The table and room for one line: what a DFT node takes beside its operands.
 */
size_t fourier_workspace(const Graph *graph, const Node *node, size_t budget);

/* A DFT node's lines, and lines first … end-1 of it, `at_once` in the room
 * together. */
int64_t fourier_lines(const Node *node, const Tensor *in);
void fourier_part(const Node *node, const Tensor *in, const Tensor *out, const double *table, double *room,
                  int64_t at_once, int64_t first, int64_t end);

#endif
