/* JSON as text. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>

#include "base/text.h"

/* Adds what json_dumps makes of it with these flags. The text is not whole where memory is out, or `json` is NULL:
 * json_dumps itself may leave keys out then, and say nothing. */
void text_add_json(Text *text, const json_t *json, size_t flags);

#endif
