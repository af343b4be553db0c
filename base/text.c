/* Doubling storage on the heap. Invariant: length + 1 <= capacity wherever data is not NULL. */
#include "base/text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST = 256 };

/* Room for n more bytes and the end. */
static bool reserve(Text *text, size_t n) {
  if (text->failed)
    return false;
  if (text->data && n < text->capacity - text->length)
    return true;
  size_t capacity = text->capacity ? text->capacity : LEAST;
  while (capacity - text->length <= n && capacity <= SIZE_MAX / 4)
    capacity *= 2;
  char *grown = capacity - text->length > n ? realloc(text->data, capacity) : NULL;
  if (!grown) {
    text->failed = true;
    return false;
  }
  text->data = grown;
  text->capacity = capacity;
  return true;
}

void text_add_bytes(Text *text, const char *bytes, size_t n) {
  if (!reserve(text, n))
    return;
  if (n)
    memcpy(text->data + text->length, bytes, n);
  text->length += n;
  text->data[text->length] = '\0';
}

void text_add_string(Text *text, const char *string) {
  text_add_bytes(text, string, strlen(string));
}

void text_add_char(Text *text, char c) {
  text_add_bytes(text, &c, 1);
}

void text_add(Text *text, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int length = vsnprintf(NULL, 0, format, args);
  va_end(args);
  if (length < 0 || !reserve(text, (size_t)length)) {
    text->failed = true;
    return;
  }
  va_start(args, format);
  vsnprintf(text->data + text->length, (size_t)length + 1, format, args);
  va_end(args);
  text->length += (size_t)length;
}

const char *text_whole(Text *text) {
  if (!text->failed)
    return text->data ? text->data : "";
  fail(E_MEMORY, "out of memory: a text of more than %zu bytes", text->length);
  return NULL;
}

void text_free(Text *text) {
  free(text->data);
  *text = (Text){0};
}
