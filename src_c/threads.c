#define _POSIX_C_SOURCE 200809L
#include "threads.h"

#include "fastfc.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* Round to nearest, denormals honoured, exceptions masked: and back to the caller's mode and flags afterwards. */
#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
typedef unsigned int fp_mode;
static inline fp_mode fp_enter(void) {
    const fp_mode old = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return old;
}
static inline void fp_leave(fp_mode old) { _mm_setcsr(old); }
#else
#include <fenv.h>
typedef fenv_t fp_mode;
static inline fp_mode fp_enter(void) {
    fenv_t old;
    fegetenv(&old);
    fesetenv(FE_DFL_ENV);
    return old;
}
static inline void fp_leave(fp_mode old) { fesetenv(&old); }
#endif

static void run(void (*body)(void *, int, int), void *context, int thread, int team) {
    const fp_mode old = fp_enter();
    body(context, thread, team);
    fp_leave(old);
}

#ifdef _OPENMP
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* libgomp's workers do not survive fork(), and a region in the child would wait for them for ever. A thread that is new
 * in the child has no workers yet and starts its own; so regions of a forked child run on one. */
static int forked;
static void in_child(void) { forked = 1; }
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

typedef struct region {
    int threads;
    void (*body)(void *, int, int);
    void *context;
    atomic_int finished;
} region;

/* The barrier at a region's end spins for milliseconds. Where the system has not let a worker run (another process has
 * its core, or it was put behind us on ours), that keeps it from running; asleep, we make room for it. */
static void wait_for_team(region *r, int team) {
    for (int spin = 0; atomic_load_explicit(&r->finished, memory_order_acquire) < team; spin++)
        if (spin > 2000) nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
#if defined(__x86_64__)
        else __builtin_ia32_pause();
#endif
}

static void *run_region(void *argument) {
    region *r = argument;
#pragma omp parallel num_threads(r->threads)
    {
        run(r->body, r->context, omp_get_thread_num(), omp_get_num_threads());
        atomic_fetch_add_explicit(&r->finished, 1, memory_order_release);
        if (omp_get_thread_num() == 0) wait_for_team(r, omp_get_num_threads());
    }
    return NULL;
}

void fc_parallel(int threads, void (*body)(void *, int, int), void *context) {
    if (threads <= 1) {
        run(body, context, 0, 1);
        return;
    }
    region r = {threads, body, context, 0};
    if (forked) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, run_region, &r) == 0) pthread_join(thread, NULL);
        else run(body, context, 0, 1);
        return;
    }
    run_region(&r);
}

int fc_has_openmp(void) { return 1; }

/* One range of units, alone in its cache line. */
typedef struct range {
    _Alignas(64) atomic_ptrdiff_t next;
    ptrdiff_t end;
} range;

enum { MOST_RANGES = 64 };

typedef struct loop {
    void (*unit)(void *, int, ptrdiff_t);
    void *context;
    int ranges;
    range range[MOST_RANGES];
} loop;

static void take_units(void *context, int thread, int team) {
    loop *l = context;
    (void)team;
    for (int i = 0; i < l->ranges; i++) {
        range *r = &l->range[(thread + i) % l->ranges];
        /* Looked at before it is taken from: a finished range's line then stays shared. */
        while (atomic_load_explicit(&r->next, memory_order_relaxed) < r->end) {
            const ptrdiff_t u = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
            if (u < r->end) l->unit(l->context, thread, u);
        }
    }
}
#else
void fc_parallel(int threads, void (*body)(void *, int, int), void *context) {
    (void)threads;
    run(body, context, 0, 1);
}

int fc_has_openmp(void) { return 0; }
#endif

void fc_parallel_for(int threads, ptrdiff_t units, void (*unit)(void *, int, ptrdiff_t), void *context) {
#ifdef _OPENMP
    if (threads > units) threads = (int)units;
    if (threads > 1) {
        loop l;
        l.unit = unit;
        l.context = context;
        l.ranges = threads < MOST_RANGES ? threads : MOST_RANGES;
        for (int i = 0; i < l.ranges; i++) {
            atomic_init(&l.range[i].next, units * i / l.ranges);
            l.range[i].end = units * (i + 1) / l.ranges;
        }
        fc_parallel(threads, take_units, &l);
        return;
    }
#endif
    (void)threads;
    const fp_mode old = fp_enter();
    for (ptrdiff_t i = 0; i < units; i++) unit(context, 0, i);
    fp_leave(old);
}
