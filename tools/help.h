/* --help, from the library's table of options. */
#ifndef TOOLS_HELP_H
#define TOOLS_HELP_H

#include <stdio.h>

/* Whether there is such a subcommand. */
int help_knows(const char *subcommand);
/* Help for one subcommand, or the overview with NULL. */
void help_print(const char *subcommand, FILE *out);

#endif
