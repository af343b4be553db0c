/* Escapes. Invariant: what comes out holds no character that means something in HTML, in an element or in quotes. */
#include "partitioner/report/html.h"

static const char *entity(char c) {
  switch (c) {
  case '<':
    return "&lt;";
  case '>':
    return "&gt;";
  case '&':
    return "&amp;";
  case '"':
    return "&quot;";
  default:
    return (unsigned char)c < 0x20 || c == 0x7f ? " " : NULL;
  }
}

void html_write(const char *plain, FILE *file) {
  for (; *plain; plain++) {
    const char *instead = entity(*plain);
    if (instead)
      fputs(instead, file);
    else
      fputc(*plain, file);
  }
}

void html_add(Text *text, const char *plain) {
  for (; *plain; plain++) {
    const char *instead = entity(*plain);
    if (instead)
      text_add_string(text, instead);
    else
      text_add_char(text, *plain);
  }
}
