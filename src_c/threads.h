/* The one way to run work on several threads. */
#ifndef FC_THREADS_H
#define FC_THREADS_H

/* Runs body(context, thread, team) once on each thread of a team of at most `threads`; the team may come out smaller.
 * Every thread computes in the default floating-point environment. */
void fc_parallel(int threads, void (*body)(void *context, int thread, int team), void *context);

#endif
