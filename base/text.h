/* A text that grows while it is written. Invariant: `data` is terminated, or NULL while nothing was written; once
 * memory was out nothing more is added, so that a writer adds line after line and asks once, at the end. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* {0} is an empty text. text_free ends it. */
typedef struct {
  char *data;
  size_t length, capacity;
  bool failed; /* memory was out: the text is not whole */
} Text;

/* Printed as printf does; the others as they are. */
void text_add(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_add_bytes(Text *text, const char *bytes, size_t n);
void text_add_string(Text *text, const char *string);
void text_add_char(Text *text, char c);

/* Prose in lines of at most `columns` characters (bytes of UTF-8 that continue one are none): its own lines, the first
 * of them behind column `at`, broken between words; what is broken goes on behind `indent` spaces. Words longer than a
 * line are broken themselves. The last line is ended, too. */
void text_add_prose(Text *text, const char *prose, int columns, int at, int indent);

/* What was written, "" where that is nothing; NULL with the message set (E_MEMORY) where it is not whole. The text owns
 * it, until more is added. */
const char *text_whole(Text *text);

/* Frees what was written; the text is empty. */
void text_free(Text *text);

#endif
