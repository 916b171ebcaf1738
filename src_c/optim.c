/* Optimisers: a list of tensors as one run of units, which threads share. */
#include "dispatch.h"
#include "memory.h"
#include "threads.h"

/* An element costs about as much as so many multiply-adds; elements at a time: a few arrays of so many stay in L1 or L2.
 * UNIT is part of the definition of fc_square_sum. */
enum { COST = 8, UNIT = 8192 };

typedef struct run {
    const fc_kernels *kernels;
    fc_tensor *tensors;
    ptrdiff_t count, units;
    double elements;
    double scale, *sums;    /* square_sum: a sum for each unit */
    double total;
} run;

/* Elements of a tensor in one unit: with rows, whole ones. */
static ptrdiff_t unit_of(const fc_tensor *t) {
    return !t->rows ? UNIT : t->dim < UNIT ? UNIT / t->dim * t->dim : t->dim;
}

static run plan(fc_tensor *tensors, ptrdiff_t count) {
    run r = {.kernels = fc_current(), .tensors = tensors, .count = count};
    for (ptrdiff_t i = 0; i < count; i++) {
        fc_tensor *t = &tensors[i];
        t->unit = r.units;
        if (t->n) r.units += (t->n - 1) / unit_of(t) + 1;
        r.elements += (double)t->n;
    }
    return r;
}

/* The tensor that unit u belongs to (the last one that begins at or before it: empty ones share their beginning with the
 * next), and which elements of it. */
static const fc_tensor *find(const run *r, ptrdiff_t u, ptrdiff_t *begin, ptrdiff_t *n) {
    ptrdiff_t low = 0, high = r->count;
    while (high - low > 1) {
        const ptrdiff_t middle = low + (high - low) / 2;
        if (r->tensors[middle].unit <= u) low = middle;
        else high = middle;
    }
    const fc_tensor *t = &r->tensors[low];
    const ptrdiff_t unit = unit_of(t);
    *begin = (u - t->unit) * unit;
    *n = t->n - *begin < unit ? t->n - *begin : unit;
    return t;
}

static void update(const run *r, const fc_tensor *t, ptrdiff_t grad, ptrdiff_t w, ptrdiff_t n) {
    const ptrdiff_t size = fc_size(t->dtype);
    fc_update_job job = {.rule = &t->rule, .w = (char *)t->w + w * size, .n = n};
    if (t->grad) job.grad = (const char *)t->grad + grad * size;
    for (int i = 0; i < 3; i++)
        if (t->state[i]) job.state[i] = (char *)t->state[i] + w * size;
    r->kernels->update[t->dtype](&job);
}

static void update_unit(void *context, int thread, ptrdiff_t u) {
    const run *r = context;
    ptrdiff_t begin, n;
    const fc_tensor *t = find(r, u, &begin, &n);
    (void)thread;
    if (!t->rows) update(r, t, begin, begin, n);
    else
        for (ptrdiff_t i = begin; i < begin + n; i += t->dim) update(r, t, i, (ptrdiff_t)t->rows[i / t->dim] * t->dim, t->dim);
}

void fc_update(fc_tensor *tensors, ptrdiff_t count, int threads) {
    run r = plan(tensors, count);
    fc_parallel_for(fc_team_for(r.elements * COST, threads), r.units, update_unit, &r);
}

static void square_sum_unit(void *context, int thread, ptrdiff_t u) {
    const run *r = context;
    ptrdiff_t begin, n;
    const fc_tensor *t = find(r, u, &begin, &n);
    (void)thread;
    fc_square_sum_job job = {.x = (const char *)t->w + begin * fc_size(t->dtype), .n = n, .scale = r->scale};
    r->kernels->square_sum[t->dtype](&job);
    r->sums[u] = job.sum;
}

/* The sums of the units in order: a unit of work as well, so that it runs in the mode that all work runs in. */
static void add_sums(void *context, int thread, ptrdiff_t u) {
    run *r = context;
    (void)thread;
    (void)u;
    for (ptrdiff_t i = 0; i < r->units; i++) r->total = r->total + r->sums[i];
}

fc_status fc_square_sum(fc_tensor *tensors, ptrdiff_t count, double scale, double *sum, int threads) {
    run r = plan(tensors, count);
    r.scale = scale;
    r.sums = fc_alloc((size_t)r.units * sizeof *r.sums);
    if (!r.sums) return FC_NO_MEMORY;
    fc_parallel_for(fc_team_for(r.elements * COST, threads), r.units, square_sum_unit, &r);
    fc_parallel_for(1, 1, add_sums, &r);
    *sum = r.total;
    fc_free(r.sums);
    return FC_OK;
}
