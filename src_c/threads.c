#define _GNU_SOURCE
#include "threads.h"

#include "fastfc.h"

#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#endif

__attribute__((visibility("default"))) int fc_default_threads = 1;

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
#elif defined(__aarch64__)
typedef struct fp_mode {
    unsigned long long control, status;
} fp_mode;
static inline fp_mode fp_enter(void) {
    fp_mode old;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr\n\tmsr fpcr, xzr"
                     : "=&r"(old.control), "=&r"(old.status) : : "memory");
    return old;
}
static inline void fp_leave(fp_mode old) {
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(old.control), "r"(old.status) : "memory");
}
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

static void run_alone(ptrdiff_t units, void (*unit)(void *, int, ptrdiff_t), void *context) {
    const fp_mode old = fp_enter();
    for (ptrdiff_t i = 0; i < units; i++) unit(context, 0, i);
    fp_leave(old);
}

/* Below this much work for each a thread costs more than it brings. */
static const double GRAIN = 1 << 18;

static int team_by_work(double multiply_adds, int threads) {
    /* Whole numbers, compared: a division that is rounded would raise the caller's inexact flag. */
    int team = 1;
    while (team < threads && (team + 1) * GRAIN <= multiply_adds) team++;
    return team;
}

ptrdiff_t fc_ranges_for(int team, ptrdiff_t strips, ptrdiff_t cheap) {
    if (team < 2) return 1;
    const ptrdiff_t least = (team + strips - 1) / strips, most = (4 * team + strips - 1) / strips, whole = cheap / least * least;
    return whole < least ? least : whole > most ? most : whole;
}

#ifdef _OPENMP
/* OpenMP's region brings up the workers, once; handing them work is ours. A region for each call would have everybody
 * wait, spinning for milliseconds, for threads that the system has not let run: beside one other process a call of 70 us
 * took 8 ms. Here a worker that does not come costs nothing: its units are taken by those who are there. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

/* How long a worker looks out for more work before it sleeps: longer than the gap between the calls of a training step. */
enum { LOOKOUT_NS = 1000000, MOST_WORKERS = 1023 };

/* One range of units, alone in its cache line. */
typedef struct range {
    _Alignas(64) atomic_ptrdiff_t next;
    ptrdiff_t end;
} range;

enum { MOST_RANGES = 64 };

typedef struct loop {
    void (*unit)(void *, int, ptrdiff_t);
    void *context;
    int threads, ranges;
    range range[MOST_RANGES];
} loop;

static struct pool {
    _Alignas(64) atomic_uint posted;   /* counts loops; workers look out for it to change */
    _Atomic(loop *) open;              /* the loop that workers may enter, or NULL */
    _Alignas(64) atomic_int inside;    /* workers that may be in it */
    _Alignas(64) atomic_flag taken;    /* by the caller whose loop it is */
    atomic_int asleep;
    atomic_int caller_cpu;
    atomic_int workers;                /* brought up so far; written by the caller that holds `taken` */
    pthread_mutex_t mutex;             /* for sleeping on */
    pthread_cond_t wake;
} pool = {.taken = ATOMIC_FLAG_INIT, .mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

/* Threads do not survive fork(): the child brings up its own when it needs them. */
static void in_child(void) {
    pool = (struct pool){.taken = ATOMIC_FLAG_INIT, .mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
}
__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

static int64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void take_units(loop *l, int thread) {
    const fp_mode old = fp_enter();
    for (int i = 0; i < l->ranges; i++) {
        range *r = &l->range[(thread + i) % l->ranges];
        /* Looked at before it is taken from: a finished range's line then stays shared. */
        while (atomic_load_explicit(&r->next, memory_order_relaxed) < r->end) {
            const ptrdiff_t u = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
            if (u < r->end) l->unit(l->context, thread, u);
        }
    }
    fp_leave(old);
}

/* The system may put a worker behind its caller on one CPU and leave it there for 50 ms and more, beside an idle one.
 * Asking for any other CPU for a moment moves it; after that it may run anywhere again. */
static void step_aside(void) {
#ifdef __linux__
    cpu_set_t all, others;
    const int cpu = sched_getcpu();
    if (cpu != atomic_load_explicit(&pool.caller_cpu, memory_order_relaxed) || sched_getaffinity(0, sizeof all, &all)) return;
    others = all;
    CPU_CLR((size_t)cpu, &others);
    if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof others, &others)) sched_setaffinity(0, sizeof all, &all);
#endif
}

/* Until a loop other than `seen` is posted: awake for a while, then asleep. */
static unsigned wait_for_post(unsigned seen) {
    const int64_t until = nanoseconds() + LOOKOUT_NS;
    do {
        for (int i = 0; i < 64; i++) {
            const unsigned now = atomic_load(&pool.posted);
            if (now != seen) return now;
            relax();
        }
        step_aside();
    } while (nanoseconds() < until);
    pthread_mutex_lock(&pool.mutex);
    atomic_fetch_add(&pool.asleep, 1);
    while (atomic_load(&pool.posted) == seen) pthread_cond_wait(&pool.wake, &pool.mutex);
    atomic_fetch_sub(&pool.asleep, 1);
    pthread_mutex_unlock(&pool.mutex);
    return atomic_load(&pool.posted);
}

static void work(int thread) {
    for (unsigned seen = 0;;) {
        seen = wait_for_post(seen);
        step_aside();
        /* The order matters: a caller first closes its loop and then waits for those inside. Whoever still finds it open
         * after having stepped inside is waited for; whoever comes later finds it closed and touches nothing of it. */
        atomic_fetch_add(&pool.inside, 1);
        loop *l = atomic_load(&pool.open);
        if (l && thread < l->threads) take_units(l, thread);
        atomic_fetch_sub(&pool.inside, 1);
    }
}

typedef struct crew {
    int first, count;
} crew;

static void *bring_up(void *argument) {
    const crew c = *(const crew *)argument;
    free(argument);
#pragma omp parallel num_threads(c.count)
    work(c.first + omp_get_thread_num());
    return NULL;
}

/* Workers up to number `threads` - 1. If the system gives none, the caller does it all. */
static void hire(int threads) {
    if (pool.workers >= threads - 1) return;
    crew *c = malloc(sizeof *c);
    if (!c) return;
    *c = (crew){pool.workers + 1, threads - 1 - pool.workers};
    const int count = c->count;
    /* Signals are for the threads of the program, not for ours. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_t thread;
    if (pthread_create(&thread, NULL, bring_up, c) == 0) {
        pthread_detach(thread);
        pool.workers += count;
    } else {
        free(c);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* To wake a worker takes longer than such work. It is done alone, unless such a call came just before: then more will
 * come, and the worker stays awake for it. */
static const double WAKE = 1 << 23;

int fc_team_for(double multiply_adds, int threads) {
    const int team = team_by_work(multiply_adds, threads);
    if (team > 1 && multiply_adds < WAKE && (atomic_load(&pool.asleep) || pool.workers < team - 1)) {
        static atomic_int_fast64_t last;
        const int64_t now = nanoseconds();
        if (now - atomic_exchange_explicit(&last, now, memory_order_relaxed) > LOOKOUT_NS) return 1;
    }
    return team;
}

void fc_parallel_for(int threads, ptrdiff_t units, void (*unit)(void *, int, ptrdiff_t), void *context) {
    if (threads > units) threads = (int)units;
    if (threads > MOST_WORKERS + 1) threads = MOST_WORKERS + 1;
    if (threads <= 1 || atomic_flag_test_and_set(&pool.taken)) {
        run_alone(units, unit, context);
        return;
    }
    hire(threads);
    loop l = {.unit = unit, .context = context, .threads = threads, .ranges = threads < MOST_RANGES ? threads : MOST_RANGES};
    for (int i = 0; i < l.ranges; i++) {
        atomic_init(&l.range[i].next, units * i / l.ranges);
        l.range[i].end = units * (i + 1) / l.ranges;
    }
#ifdef __linux__
    atomic_store_explicit(&pool.caller_cpu, sched_getcpu(), memory_order_relaxed);
#endif
    atomic_store(&pool.open, &l);
    atomic_fetch_add(&pool.posted, 1);
    if (atomic_load(&pool.asleep)) {
        pthread_mutex_lock(&pool.mutex);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.mutex);
    }
    take_units(&l, 0);
    atomic_store(&pool.open, (loop *)NULL);
    /* A worker inside that the system has interrupted gets this core: asleep, we make room for it. */
    for (int spin = 0; atomic_load(&pool.inside); spin++)
        if (spin < 10000) relax();
        else nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    atomic_flag_clear(&pool.taken);
}

int fc_has_openmp(void) { return 1; }
#else
int fc_team_for(double multiply_adds, int threads) { return team_by_work(multiply_adds, threads); }

void fc_parallel_for(int threads, ptrdiff_t units, void (*unit)(void *, int, ptrdiff_t), void *context) {
    (void)threads;
    run_alone(units, unit, context);
}

int fc_has_openmp(void) { return 0; }
#endif
