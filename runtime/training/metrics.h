/* The file of --metrics, line after line. A line that cannot be written waits for the next one. Inside the room. */
#ifndef RUNTIME_TRAINING_METRICS_H
#define RUNTIME_TRAINING_METRICS_H

#include <stdbool.h>

#include "base/status.h"

typedef struct Metrics Metrics;

/* Opens the file, anew or to go on at its end. Fails E_IO with the path. */
Status metrics_open(const char *path, bool anew, Metrics **metrics);
/* Writes what waits, then the line, which ends with a newline. True where the file takes no more from here on, once,
 * with status_message() saying why: what it did not take is kept (16 MiB of it) and tried again. */
bool metrics_add(Metrics *metrics, const char *line);
/* Tries once more. Fails E_IO saying how many lines are not in the file. NULL is fine. */
Status metrics_close(Metrics *metrics);
/* The same where something else has failed already, which has the message. */
void metrics_discard(Metrics *metrics);

#endif
