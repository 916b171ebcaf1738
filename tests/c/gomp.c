/* The two functions of libgomp that src_c/threads.c needs, on plain pthreads: for ThreadSanitizer, which does not see how
 * libgomp's threads wait for each other and would report its every region. */
#include <pthread.h>
#include <stdlib.h>

typedef struct member {
    void (*run)(void *);
    void *data;
    int number;
} member;

static _Thread_local int number;

static void *begin(void *argument) {
    const member m = *(member *)argument;
    free(argument);
    number = m.number;
    m.run(m.data);
    return NULL;
}

int omp_get_thread_num(void) { return number; }

void GOMP_parallel(void (*run)(void *), void *data, unsigned threads, unsigned flags) {
    pthread_t *others = malloc(threads * sizeof *others);
    (void)flags;
    if (!others) abort();
    for (unsigned i = 1; i < threads; i++) {
        member *m = malloc(sizeof *m);
        if (!m) abort();
        *m = (member){run, data, (int)i};
        if (pthread_create(&others[i], NULL, begin, m)) abort();
    }
    run(data);
    for (unsigned i = 1; i < threads; i++) pthread_join(others[i], NULL);
    free(others);
}
