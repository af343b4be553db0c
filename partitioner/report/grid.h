/* The rank × time grid of a schedule in text: one row a rank, one character a slot of time, no line wider than
 * `columns`. A character says what the rank mostly does in its slot, by microbatch: forward a digit (its last one),
 * backward, or backward towards the input alone, a small letter, weight gradients alone a capital; a dot where it
 * waits. Where the window is too narrow for all actions it ends before the schedule does, and a line says where. */
#ifndef PARTITIONER_REPORT_GRID_H
#define PARTITIONER_REPORT_GRID_H

#include <stdio.h>

#include "partitioner/schedule/simulate.h"

/* The rank × time grid of a simulated schedule, cut to so many columns; `colours`: with the terminal's. */
Status grid_print(const Schedule *schedule, const Simulation *simulation, FILE *file, int columns, bool colours);

#endif
