/* What the plan's costs are on this machine: seconds of nodes, of what an executor does beside them, and of transfers,
 * measured on the ranks' own devices, in the order and the memory of their steps, while as many ranks are busy as will
 * be.
 *
 * Invariant: nothing that is measured has a say in what is computed. Plans follow from it, and any plan has the same
 * bits. */
#ifndef RUNTIME_COSTS_COSTS_H
#define RUNTIME_COSTS_COSTS_H

#include "runtime/executor/boundary.h"
#include "runtime/job/job.h"

/* One size of message between two ranks: seconds from posting to arrival, up (from the lower rank) and down. */
typedef struct {
  size_t bytes;
  double up_seconds, down_seconds;
} LinkSample;

enum { LINK_SAMPLES = 6 };

typedef struct {
  const char *device;          /* its backend */
  const char *about;           /* of its entry in the cache */
  double bus_bytes_per_second; /* between it and the host's memory; 0: not known, or the host's */
  int kinds, known;            /* kinds of nodes that its ranks run; those of them that were measured, now or before */
} CostsKnown;

typedef struct {
  JobCosts planned;               /* what plans follow from */
  LinkSample links[LINK_SAMPLES]; /* between ranks 0 and 1 */
  int n_links;                    /* 0: one rank */
  double seconds;                 /* that measuring took */
  CostsKnown *of_devices;         /* [n_devices]: of ranks on devices that are alike */
  int n_devices;
} Costs;

/* What the job's plan, which every rank has, will run, and between ranks that `boundaries` (NULL: none) lie:
 * collective. Where the cache knows all of it, that is it, but `anew`; else all is measured, for about
 * `budget_seconds`, and kept. What stays unknown is scaled from the roofline. On rank 0 *costs, else NULL. Fails where
 * ranks can no longer talk to each other, and E_MEMORY. */
Status costs_measure(Job *job, const Boundaries *boundaries, double budget_seconds, bool anew, Costs **costs);
/* How many of the job's ranks can compute at once; 0: all. */
double costs_capacity(const Job *job);

/* The devices' rates as this machine has them, from three kinds of nodes in about two seconds, or from the cache; says
 * so. The job has a plan. */
Status costs_calibrate(Job *job, JobCosts *costs);
/* A line of the job's decisions. */
Status costs_tell(Job *job, const Costs *costs);

#endif
