/* The page of a schedule: one self-contained HTML file with rank × time, memory over time and a table. */
#ifndef PARTITIONER_REPORT_CHART_H
#define PARTITIONER_REPORT_CHART_H

#include "partitioner/schedule/simulate.h"

typedef struct {
  const char *name, *value;
} ChartNumber;

/* What a rank holds changes by this much. */
typedef struct {
  double seconds, change;
} HeldStep;

/* All text is plain, but for `pictures`: the page escapes it. */
typedef struct {
  const char *title, *subtitle;
  const ChartNumber *numbers; /* [n_numbers]: shown large */
  int n_numbers;
  const char *table_title;
  const char *const *table; /* [rows + 1][columns], the heads first; NULL: none */
  int columns, rows;
  const Schedule *schedule;
  const Timing *timing;
  const Simulation *simulation;
  const char *pictures;        /* HTML, behind the charts; NULL: none */
  const HeldStep *const *held; /* [ranks][n_held], in order of time; NULL: as timing->activation has it */
  const int *n_held;           /* [ranks] */
  const double *memory_room;   /* [ranks]: what is set aside; NULL: not known */
  const double *memory_base;   /* [ranks]: held all the time, in the unit of timing->activation; NULL: nothing */
  const double *memory_limit;  /* [ranks], the same unit; infinite: none; NULL: none at all */
  bool memory_bytes;           /* the unit is bytes, else microbatches */
} Chart;

/* Schedules of more actions than these are shown from the beginning, as far as they reach: the page stays below some
 * 8 MB. */
enum { CHART_ACTIONS = 300000 };

/* Writes the page; E_IO where that fails. */
Status chart_html(const Chart *chart, FILE *file);

#endif
