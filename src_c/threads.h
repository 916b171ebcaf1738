/* The one way to run work on several threads. */
#ifndef FC_THREADS_H
#define FC_THREADS_H
#include <stddef.h>

/* Threads worth having for so many multiply-adds, `threads` at most. */
int fc_team_for(double multiply_adds, int threads);
enum { FC_ENTRY = 12 }; /* so many of a dense product an entry of a sparse one takes beside its own */
/* Into how many ranges each of `strips` strips is cut: one unit a thread, up to four where so many cost little besides. */
ptrdiff_t fc_ranges_for(int team, ptrdiff_t strips, ptrdiff_t cheap);

/* Runs unit(context, thread, i) once for each i < units on at most `threads` threads, thread < threads. Each thread
 * begins with a contiguous range of units, the same each time, so that its part of a weight can stay in its own cache;
 * who has finished takes from the others' ranges. Units of a range are taken in order. Every thread computes in the
 * default floating-point environment. While another thread's work has the workers, the caller works alone. */
void fc_parallel_for(int threads, ptrdiff_t units, void (*unit)(void *context, int thread, ptrdiff_t i), void *context);

#endif
