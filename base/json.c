/* Owns nothing: jansson writes, the text remembers whether all of it found room; jansson reads, its allocations are
 * watched. */
#include "base/json.h"

static int add(const char *bytes, size_t n, void *text) {
  text_add_bytes(text, bytes, n);
  return ((Text *)text)->failed ? -1 : 0;
}

void text_add_json(Text *text, const json_t *json, size_t flags) {
  if (!json || json_dump_callback(json, add, text, flags) != 0)
    text->failed = true;
}

/* While something is read. */
static bool was_out;
static json_malloc_t allocate;
static json_free_t release;

static void *watched(size_t bytes) {
  void *memory = allocate(bytes);
  was_out |= !memory;
  return memory;
}

static void watch(void) {
  json_get_alloc_funcs(&allocate, &release);
  was_out = false;
  json_set_alloc_funcs(watched, release);
}

static Status finish(json_t **root) {
  json_set_alloc_funcs(allocate, release);
  if (!was_out)
    return OK;
  json_decref(*root);
  *root = NULL;
  return fail(E_MEMORY, "out of memory");
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
