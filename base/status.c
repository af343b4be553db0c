/* The calling thread's last failure. Invariant: message is always terminated, and one line: names from files may hold
 * line ends and terminal codes, which are shown as '?'. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_BYTES = 4096, LONGEST_WORD = 512, WORD_END = 240 };

static _Thread_local char message[MESSAGE_BYTES];
static _Thread_local Status last;

static void keep_one_line(char *text) {
  for (; *text; text++)
    if ((unsigned char)*text < 0x20 || *text == 0x7f)
      *text = '?';
}

/* A name of a file may be of any length: of a longer word its two ends are kept, so that the rest is still read. */
static void shorten_words(char *text) {
  char *to = text;
  for (const char *at = text; *at;) {
    size_t length = strcspn(at, " ");
    if (length > LONGEST_WORD) {
      memmove(to, at, WORD_END);
      memcpy(to + WORD_END, "...", 3);
      memmove(to + WORD_END + 3, at + length - WORD_END, WORD_END);
      to += 2 * WORD_END + 3;
    } else {
      memmove(to, at, length);
      to += length;
    }
    at += length;
    if (*at)
      *to++ = *at++;
  }
  *to = '\0';
}

/* One line into text [MESSAGE_BYTES]. */
static void write_line(char *text, const char *format, va_list args) {
  char *whole = NULL;
  va_list again;
  va_copy(again, args);
  if (vasprintf(&whole, format, again) >= 0) {
    shorten_words(whole);
    snprintf(text, MESSAGE_BYTES, "%s", whole);
    free(whole);
  } else {
    vsnprintf(text, MESSAGE_BYTES, format, args);
  }
  va_end(again);
  keep_one_line(text);
}

Status(fail)(Status code, const char *format, ...) {
  char line[MESSAGE_BYTES];
  va_list args;
  va_start(args, format);
  write_line(line, format, args); /* the arguments may hold the message itself */
  va_end(args);
  memcpy(message, line, sizeof message);
  last = code;
  return code;
}

void status_context(const char *format, ...) {
  char context[MESSAGE_BYTES];
  va_list args;
  va_start(args, format);
  write_line(context, format, args);
  va_end(args);
  size_t front = strlen(context), tail = strlen(message);
  if (front + tail >= sizeof message)
    tail = front < sizeof message ? sizeof message - 1 - front : 0;
  if (front >= sizeof message)
    front = sizeof message - 1;
  memmove(message + front, message, tail);
  memcpy(message, context, front);
  message[front + tail] = '\0';
}

const char *status_message(void) {
  return message;
}

Status status_last(void) {
  return last;
}

Status status_adopt(Status code, const char *text) {
  if (text != message)
    snprintf(message, sizeof message, "%s", text);
  last = code;
  return code;
}
