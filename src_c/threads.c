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

/* libgomp's workers do not survive fork(), and a region in the child would wait for them for ever. A thread that is new
 * in the child has no workers yet and starts its own; so regions of a forked child run on one. */
static int forked;
static void in_child(void) { forked = 1; }
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

typedef struct region {
    int threads;
    void (*body)(void *, int, int);
    void *context;
} region;

static void *run_region(void *argument) {
    const region r = *(const region *)argument;
#pragma omp parallel num_threads(r.threads)
    run(r.body, r.context, omp_get_thread_num(), omp_get_num_threads());
    return NULL;
}

void fc_parallel(int threads, void (*body)(void *, int, int), void *context) {
    if (threads <= 1) {
        run(body, context, 0, 1);
        return;
    }
    region r = {threads, body, context};
    if (forked) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, run_region, &r) == 0) pthread_join(thread, NULL);
        else run(body, context, 0, 1);
        return;
    }
    run_region(&r);
}

int fc_has_openmp(void) { return 1; }
#else
void fc_parallel(int threads, void (*body)(void *, int, int), void *context) {
    (void)threads;
    run(body, context, 0, 1);
}

int fc_has_openmp(void) { return 0; }
#endif
