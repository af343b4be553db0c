/* A plan for people: on a terminal, and as a page. */
#ifndef PARTITIONER_REPORT_PLAN_REPORT_H
#define PARTITIONER_REPORT_PLAN_REPORT_H

#include "partitioner/plan/plan.h"

/* Prints stages with nodes, time, memory and cut bytes, and the rank × time grid, at most `columns` wide: prose is
 * broken between words, tables are cut. One rank has no tables. `colours`: with the terminal's. */
Status plan_print(const Plan *plan, FILE *file, int columns, bool colours);

/* One self-contained HTML page: rank × time, memory over time against the limit, stages. */
Status plan_report_html(const Plan *plan, FILE *file);

#endif
