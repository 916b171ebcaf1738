#define _POSIX_C_SOURCE 200809L
#include "dispatch.h"
#include "threads.h"

#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct probe {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const char *buffer;
    size_t bytes;
    ptrdiff_t repeats;
    double work[64]; /* of each thread */
    int shares;
} probe;

enum { MOST_THREADS = 64 };

static void run_once(void *context, int thread, ptrdiff_t share_at) {
    probe *p = context;
    (void)thread;
    double work = 0;
    for (ptrdiff_t i = 0; i < p->repeats; i++) {
        fc_probe_job job = {.count = 20000};
        if (p->buffer) {
            const size_t line = 512, share = p->bytes / (size_t)p->shares / line * line;
            job.buffer = p->buffer + share * (size_t)share_at;
            job.count = (ptrdiff_t)share / fc_size(p->dtype);
        }
        p->kernels->probe[p->dtype](&job);
        work += p->buffer ? (double)(job.count * fc_size(p->dtype)) : job.flops;
    }
    p->work[share_at] = work;
}

/* The best rate of windows about `window` long within `seconds`. A region costs microseconds to start, and milliseconds
 * where a thread has to wait for its core; so the repeats of a window come from one thread's rate. */
static double best_rate(probe *p, double seconds, double window, int threads) {
    double best = 0;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    double alone = 1; /* seconds for one repeat */
    /* A long one is run twice: each more would leave more of a large buffer in the last cache than a burst's few passes do. */
    const double begin = now();
    for (int i = 0; i < 3 && (i < 2 || now() - begin < window); i++) {
        p->repeats = 1;
        const double start = now();
        p->shares = 1;
        fc_parallel_for(1, 1, run_once, p);
        const double took = now() - start;
        if (took < alone) alone = took;
    }
    /* A buffer is shared out, so each thread's part of it takes that much less. */
    p->shares = threads;
    p->repeats = (ptrdiff_t)(window / alone * (p->buffer ? threads : 1)) + 1;
    const double end = now() + seconds;
    do {
        const double start = now();
        fc_parallel_for(threads, threads, run_once, p);
        const double took = now() - start;
        double work = 0;
        for (int i = 0; i < threads; i++) work += p->work[i];
        if (work / took > best) best = work / took;
    } while (now() < end);
    return best;
}

double fc_probe_fma(fc_dtype dtype, double seconds, double window, int threads) {
    probe p = {.kernels = fc_current(), .dtype = dtype};
    return best_rate(&p, seconds, window, threads);
}

double fc_probe_read(const float *buffer, size_t bytes, double seconds, double window, int threads) {
    probe p = {.kernels = fc_current(), .dtype = FC_F32, .buffer = (const char *)buffer, .bytes = bytes};
    return best_rate(&p, seconds, window, threads);
}
