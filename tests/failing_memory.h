/* Memory that runs out when a test says so: a program that is built with failing_memory.c has allocators of its own,
 * which serve this project's code and the libraries that it calls. */
#ifndef TESTS_FAILING_MEMORY_H
#define TESTS_FAILING_MEMORY_H

#include <stdbool.h>

/* Of the allocations that follow, of all threads together, the k-th fails, counted from 1, and all behind it where
 * `for_good`; 0: none fails. */
void memory_fail_at(long k, bool for_good);
/* Allocations since then. */
long memory_count(void);
/* Whether one has failed since then. */
bool memory_has_failed(void);
/* As memory_fail_at(0, false), and they are not counted any more. */
void memory_recover(void);

#endif
