/* The one way to run work on several threads. */
#ifndef FC_THREADS_H
#define FC_THREADS_H
#include <stddef.h>

enum { FC_MOST_THREADS = 1024 };

/* Runs unit(context, thread, i) once for each i < units on a team of at most `threads`, thread < threads. Each thread
 * has a contiguous range of units, the same each time, so that its part of a weight can stay in its own cache; who has
 * finished takes from the others' ranges, so that nobody waits for a thread that the system has not let run. Units are
 * taken in order within a range. Every thread computes in the default floating-point environment. */
void fc_parallel_for(int threads, ptrdiff_t units, void (*unit)(void *context, int thread, ptrdiff_t i), void *context);

/* Runs body(context, thread, team) once on each thread of a team of at most `threads`; for measuring. */
void fc_parallel(int threads, void (*body)(void *context, int thread, int team), void *context);

#endif
