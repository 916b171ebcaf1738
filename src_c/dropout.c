/* Dropout: units of a fixed number of elements, each knowing its place. */
#include "dispatch.h"
#include "threads.h"

typedef struct dropout {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const void *x;
    void *y;
    ptrdiff_t n;
    uint64_t seed, call;
    uint32_t least;
    double scale;
} dropout;

/* An element costs about as much as so many multiply-adds; elements at a time. */
enum { COST = 8, UNIT = 8192 };

static void run_unit(void *context, int thread, ptrdiff_t i) {
    const dropout *c = context;
    const ptrdiff_t begin = i * UNIT, skip = begin * fc_size(c->dtype);
    (void)thread;
    fc_dropout_job job = {
        .x = (const char *)c->x + skip, .y = (char *)c->y + skip, .n = c->n - begin < UNIT ? c->n - begin : UNIT,
        .seed = c->seed, .call = c->call, .index = (uint64_t)begin, .least = c->least, .scale = c->scale,
    };
    c->kernels->dropout[c->dtype](&job);
}

/* What the caller's floating-point mode must not change, nor its flags see. */
static void set_up(void *context, int thread, ptrdiff_t i) {
    dropout *c = context;
    const double p = c->scale, least = p * 0x1p32 + 0.5;
    (void)thread;
    (void)i;
    c->least = least < 0x1p32 ? (uint32_t)least : UINT32_MAX;
    c->scale = p < 1 ? 1 / (1 - p) : 0;
}

void fc_dropout(fc_dtype dtype, const void *x, void *y, ptrdiff_t n, double p, uint64_t seed, uint64_t call, int threads) {
    dropout c = {fc_current(), dtype, x, y, n, seed, call, 0, p};
    fc_parallel_for(1, 1, set_up, &c);
    fc_parallel_for(fc_team_for((double)n * COST, threads), (n + UNIT - 1) / UNIT, run_unit, &c);
}
