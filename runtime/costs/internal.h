/* What the files of measuring share. */
#ifndef RUNTIME_COSTS_INTERNAL_H
#define RUNTIME_COSTS_INTERNAL_H

#include "runtime/costs/costs.h"
#include "runtime/costs/kinds.h"
#include "runtime/executor/boundary.h"

/* What a rank measures beside its nodes. */
enum {
  OF_ACTION,
  OF_STEP,
  OF_PASS,
  PASS_NUMBERS,          /* of each pass */
  OF_BUS = PASS_NUMBERS, /* seconds of a byte between its device and the host's memory, the slower way */
  OF_WIRE,               /* from a neighbour's device to its own */
  RANK_NUMBERS
};

/* Read by the ranks of a process, written before they start. */
typedef struct {
  Job *job;
  const Link *links; /* of threads: [ranks]; of a process under mpirun: its own; NULL: one rank */
  Kinds kinds;
  double budget_seconds; /* of a group */
  Boundaries boundaries; /* between the ranks; ranks 0: not known */
  int groups;            /* of ranks that are busy one group after the other: all of them at once are more than cores */
} Measure;

/* Ranks and their numbers; collective over the link (NULL: one rank). */
Status agree_most(const Link *link, double own, double *most);

/* Times the rank's part of the plan. numbers [n_nodes + RANK_NUMBERS]: negative ones are unknown. What fails on this
 * rank alone leaves all of them unknown; what fails here, ranks no longer talk. */
Status measure_rank(const Measure *measure, int rank, const Link *link, double *numbers);

/* Whether neighbouring ranks have wires to measure. */
bool measures_wires(const Measure *measure);
/* The rank's bus and wires into its numbers OF_BUS and OF_WIRE, where its memory is a device's. Collective, as
 * measure_rank. */
Status measure_wires(const Measure *measure, int rank, const Link *link, double *numbers);

/* Messages between ranks 0 and 1; others return at once. samples [LINK_SAMPLES], on rank 0. */
Status measure_links(const Link *link, int rank, LinkSample *samples);
/* The line through them that is nearest, by parts of what was measured. */
LinkSpec fit_link(const LinkSample *samples, int n);

#endif
