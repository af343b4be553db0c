/* The calling thread's last failure. Invariant: message is always terminated, and one line: names from files may hold
 * line ends and terminal codes, which are shown as '?'. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 4096 };

static _Thread_local char message[MESSAGE_BYTES];
static _Thread_local Status last;

static void keep_one_line(char *text) {
  for (; *text; text++)
    if ((unsigned char)*text < 0x20 || *text == 0x7f)
      *text = '?';
}

Status fail(Status code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  keep_one_line(message);
  last = code;
  return code;
}

void status_context(const char *format, ...) {
  char context[MESSAGE_BYTES];
  va_list args;
  va_start(args, format);
  vsnprintf(context, sizeof context, format, args);
  va_end(args);
  keep_one_line(context);
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

Status status_code(void) {
  return last;
}

Status status_adopt(Status code, const char *text) {
  if (text != message)
    snprintf(message, sizeof message, "%s", text);
  last = code;
  return code;
}
