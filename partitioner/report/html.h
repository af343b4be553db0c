/* Text of a model or a file on a page. */
#ifndef PARTITIONER_REPORT_HTML_H
#define PARTITIONER_REPORT_HTML_H

#include <stdio.h>

#include "base/text.h"

/* Adds plain text so that a page shows it as it is; control characters become spaces. */
void html_add(Text *text, const char *plain);
/* Writes it so. */
void html_write(const char *plain, FILE *file);

#endif
