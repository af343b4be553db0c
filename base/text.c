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

static bool begins_character(char c) {
  return (c & 0xc0) != 0x80;
}

/* One word in `at` and behind it; returns the column behind the word. */
static int add_word(Text *text, const char *word, int n, int columns, int at, int indent) {
  for (int i = 0; i < n; i++) {
    if (begins_character(word[i]) && at++ >= columns) {
      text_add(text, "\n%*s", indent, "");
      at = indent + 1;
    }
    text_add_char(text, word[i]);
  }
  return at;
}

void text_add_prose(Text *text, const char *prose, int columns, int at, int indent) {
  int behind = at; /* where the line's first word begins */
  indent = indent < columns ? indent : 0;
  for (const char *word = prose; *word;) {
    int length = 0, n = (int)strcspn(word, " \n");
    for (int i = 0; i < n; i++)
      length += begins_character(word[i]);
    if (n && at > behind && at + 1 + length > columns) {
      text_add(text, "\n%*s", indent, "");
      at = behind = indent;
    } else if (n && at > behind) {
      text_add_char(text, ' ');
      at++;
    }
    at = add_word(text, word, n, columns, at, indent);
    word += n;
    if (*word == '\n' && word[1]) {
      text_add_char(text, '\n');
      at = behind = 0;
    }
    word += *word != '\0';
  }
  text_add_char(text, '\n');
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
