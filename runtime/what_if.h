/* Schedules from given times: `simulate`. Inside the room. */
#ifndef RUNTIME_WHAT_IF_H
#define RUNTIME_WHAT_IF_H

#include <stdio.h>

#include "runtime/options.h"

/* Runs the study that the options ask for; text or JSON into `out`, a page where the option `report` says. Where the
 * schedule of a file is refused, its grid goes into `refusal` (may be NULL). */
Status what_if_run(const Options *options, FILE *out, FILE *refusal);

#endif
