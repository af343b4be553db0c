/* Owns nothing: jansson writes, the text remembers whether all of it found room. */
#include "base/json.h"

static int add(const char *bytes, size_t n, void *text) {
  text_add_bytes(text, bytes, n);
  return ((Text *)text)->failed ? -1 : 0;
}

void text_add_json(Text *text, const json_t *json, size_t flags) {
  if (!json || json_dump_callback(json, add, text, flags) != 0)
    text->failed = true;
}
