/* Subcommands, and which options each takes: what --help, the manual page and the completion are made from. */
#ifndef TOOLS_HELP_H
#define TOOLS_HELP_H

#include <stdio.h>

#include "runtime/onnxpipe.h"

typedef struct {
  const char *name, *usage, *what;
} Subcommand;

/* Subcommand i; NULL past the end. */
const Subcommand *help_subcommand(int i);
/* Whether it takes the option. */
int help_takes(const char *subcommand, const OnnxpipeOption *option);
/* The one letter that an option has beside its name, or 0. */
char help_letter(const OnnxpipeOption *option);
/* Whether there is such a subcommand. */
int help_knows(const char *subcommand);
/* Help for one subcommand, or the overview with NULL. */
void help_print(const char *subcommand, FILE *out);

#endif
