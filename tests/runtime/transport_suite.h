/* What every transport promises, as functions that each rank calls at the same time. */
#ifndef TESTS_RUNTIME_TRANSPORT_SUITE_H
#define TESTS_RUNTIME_TRANSPORT_SUITE_H

#include "runtime/transport/transport.h"

typedef struct {
  const char *name;
  Status (*run)(const Link *link); /* on every rank; fails with what is wrong */
} SuiteCase;

/* n of them; none leaves anything posted. */
extern const SuiteCase transport_suite[];
extern const int transport_suite_size;

/* The last case, for it ends the transport: the highest rank withdraws while the others wait for it and for each other.
 * Not for one rank. */
Status transport_suite_withdraw(const Link *link);

#endif
