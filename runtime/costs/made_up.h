/* Contents for measuring: numbers that are no trouble to any operator, of the size that trained models have. */
#ifndef RUNTIME_COSTS_MADE_UP_H
#define RUNTIME_COSTS_MADE_UP_H

#include "runtime/job/job.h"

/* An executor's Load (context: the Job): parameters of normal size, constants as the file has them, where it is there.
 */
Status made_up_load(void *context, ValueId value, void *data, size_t bytes);
/* What would be received (context: the Graph). */
void made_up_received(void *context, ValueId value, void *data, size_t bytes);
/* An executor's Feed: the data's samples, or, where there is none, numbers, and indices that are in range. */
typedef struct {
  const Job *job;
  Feeder feeder;
} MadeUpFeed;
Status made_up_feed(void *context, ValueId input, int microbatch, void *data, size_t bytes);

#endif
