/* JSON as text. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>

#include "base/text.h"

/* Adds what json_dumps makes of it with these flags. The text is not whole where memory is out, or `json` is NULL:
 * json_dumps itself may leave keys out then, and say nothing. */
void text_add_json(Text *text, const json_t *json, size_t flags);

/* What json_loads makes of the text, refusing duplicates; *root is NULL and *error filled where it is no JSON. E_MEMORY
 * where memory was out: json_loads itself may leave out characters of a string then, and say nothing. Not for two
 * threads at once. */
Status json_read(const char *text, json_t **root, json_error_t *error);
/* The same of an open file. */
Status json_read_file(int descriptor, json_t **root, json_error_t *error);

#endif
