/* Owns nothing: jansson writes, the text remembers whether all of it found room; jansson reads, its allocations are
 * watched. */
#include "base/json.h"

#include <stddef.h>
#include <stdint.h>

static int add(const char *bytes, size_t n, void *text) {
  text_add_bytes(text, bytes, n);
  return ((Text *)text)->failed ? -1 : 0;
}

void text_add_json(Text *text, const json_t *json, size_t flags) {
  if (!json || json_dump_callback(json, add, text, flags) != 0)
    text->failed = true;
}

/* While something is read. jansson loses a character where the buffer of a token cannot grow, and reads on behind its
 * end: so what is refused comes from here at first, and all that was read is refused in the end. */
enum { SPARE = 1 << 16 };
static _Alignas(max_align_t) char spare[SPARE];
static size_t spared;
static bool was_out;
static json_malloc_t allocate;
static json_free_t release;

static void *watched(size_t bytes) {
  void *memory = was_out ? NULL : allocate(bytes);
  if (memory)
    return memory;
  was_out = true;
  size_t place = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
  if (place > SPARE - spared)
    return NULL;
  spared += place;
  return spare + spared - place;
}

static void released(void *memory) {
  if ((uintptr_t)memory - (uintptr_t)spare >= SPARE)
    release(memory);
}

static void watch(void) {
  json_get_alloc_funcs(&allocate, &release);
  was_out = false;
  spared = 0;
  json_set_alloc_funcs(watched, released);
}

static Status finish(json_t **root) {
  if (was_out) {
    json_decref(*root);
    *root = NULL;
  }
  json_set_alloc_funcs(allocate, release);
  return was_out ? fail(E_MEMORY, "out of memory") : OK;
}

Status json_read(const char *text, json_t **root, json_error_t *error) {
  watch();
  *root = json_loads(text, JSON_REJECT_DUPLICATES, error);
  return finish(root);
}

Status json_read_file(int descriptor, json_t **root, json_error_t *error) {
  watch();
  *root = json_loadfd(descriptor, JSON_REJECT_DUPLICATES, error);
  return finish(root);
}
