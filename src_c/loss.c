/* Losses: shares of rows or elements, and their sums in a fixed order. */
#include "dispatch.h"
#include "memory.h"
#include "threads.h"

/* An element costs about as much as so many multiply-adds; elements at a time. */
enum { COST = 16, UNIT = 8192 };

ptrdiff_t fc_labels_check(const int64_t *labels, ptrdiff_t rows, ptrdiff_t classes, int64_t ignore) {
    for (ptrdiff_t i = 0; i < rows; i++)
        if ((uint64_t)labels[i] >= (uint64_t)classes && labels[i] != ignore) return i;
    return -1;
}

static double element(fc_dtype dtype, const void *p, ptrdiff_t i) {
    return dtype == FC_F32 ? ((const float *)p)[i] : ((const double *)p)[i];
}

/* ---- Cross-entropy ------------------------------------------------------------------------------------------------ */

typedef struct entropy {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const fc_cross_entropy *c;
    void *losses;
    ptrdiff_t rows;          /* of a unit */
    double count, keep, spread, scale, value;
} entropy;

static void set_up(void *context, int thread, ptrdiff_t unit) {
    entropy *e = context;
    const fc_cross_entropy *c = e->c;
    (void)thread;
    (void)unit;
    e->keep = 1 - c->smoothing;
    e->spread = c->smoothing / (double)c->x->cols;
    e->count = c->labels ? 0 : (double)c->x->rows;
    for (ptrdiff_t i = 0; c->labels && i < c->x->rows; i++)
        if (c->labels[i] != c->ignore) e->count += c->weight ? element(e->dtype, c->weight, c->labels[i]) : 1;
    e->scale = c->reduction == FC_MEAN ? 1 / e->count : 1;
}

static void run_rows(void *context, int thread, ptrdiff_t unit) {
    const entropy *e = context;
    const fc_cross_entropy *c = e->c;
    const ptrdiff_t begin = unit * e->rows, left = c->x->rows - begin;
    (void)thread;
    fc_cross_entropy_job job = {
        .x = (const char *)c->x->data + begin * c->x->row_stride, .x_row = c->x->row_stride,
        .labels = c->labels ? c->labels + begin : NULL, .weight = c->weight, .keep = e->keep, .spread = e->spread,
        .scale = e->scale, .ignore = c->ignore, .losses = (char *)e->losses + begin * fc_size(e->dtype),
        .m = left < e->rows ? left : e->rows, .n = c->x->cols,
    };
    if (c->targets) {
        job.targets = (const char *)c->targets->data + begin * c->targets->row_stride;
        job.targets_row = c->targets->row_stride;
    }
    if (c->grad) {
        job.grad = (char *)c->grad->data + begin * c->grad->row_stride;
        job.grad_row = c->grad->row_stride;
    }
    e->kernels->cross_entropy[e->dtype](&job);
}

static void add_up(void *context, int thread, ptrdiff_t unit) {
    entropy *e = context;
    (void)thread;
    (void)unit;
    e->value = 0;
    for (ptrdiff_t i = 0; i < e->c->x->rows; i++) e->value += element(e->dtype, e->losses, i);
    if (e->c->reduction == FC_MEAN) e->value /= e->count;
}

fc_status fc_cross_entropy_loss(fc_dtype dtype, const fc_cross_entropy *c, double *value, int threads) {
    entropy e = {.kernels = fc_current(), .dtype = dtype, .c = c, .losses = c->losses};
    const ptrdiff_t rows = c->x->rows, cols = c->x->cols;
    char small[4096] __attribute__((aligned(64)));
    const size_t bytes = (size_t)rows * (size_t)fc_size(dtype);
    if (!e.losses) e.losses = bytes <= sizeof small ? small : fc_alloc(bytes);
    if (!e.losses) return FC_NO_MEMORY;
    e.rows = cols < UNIT / 16 ? UNIT / (cols ? cols : 1) / 16 * 16 : cols < UNIT ? UNIT / cols : 1;
    fc_parallel_for(1, 1, set_up, &e);
    fc_parallel_for(fc_team_for((double)rows * (double)cols * COST, threads), (rows + e.rows - 1) / e.rows, run_rows, &e);
    fc_parallel_for(1, 1, add_up, &e);
    *value = e.value;
    if (e.losses != c->losses && e.losses != small) fc_free(e.losses);
    return FC_OK;
}

/* ---- Losses of single elements ------------------------------------------------------------------------------------ */

/* Elements whose sum is one number: FC_BLOCK for each of 16 lanes. */
enum { PART = 16 * FC_BLOCK };

typedef struct pointwise {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const fc_pointwise_loss *c;
    double *sums;
    double scale, value;
} pointwise;

static void run_part(void *context, int thread, ptrdiff_t unit) {
    const pointwise *e = context;
    const fc_pointwise_loss *c = e->c;
    const ptrdiff_t begin = unit * PART, skip = begin * fc_size(e->dtype);
    (void)thread;
    fc_pointwise_loss_job job = {
        .kind = c->kind, .x = (const char *)c->x + skip, .target = (const char *)c->target + skip,
        .weight = c->weight ? (const char *)c->weight + skip : NULL,
        .positive = c->positive ? (const char *)c->positive + skip : NULL, .width = c->width, .factor = c->factor,
        .scale = c->reduction == FC_MEAN ? 1 / (double)c->n : 1, .losses = c->losses ? (char *)c->losses + skip : NULL,
        .grad = c->grad ? (char *)c->grad + skip : NULL, .n = c->n - begin < PART ? c->n - begin : PART,
    };
    e->kernels->pointwise_loss[e->dtype](&job);
    e->sums[unit] = job.sum;
}

static void add_parts(void *context, int thread, ptrdiff_t unit) {
    pointwise *e = context;
    (void)thread;
    (void)unit;
    e->value = 0;
    for (ptrdiff_t i = 0; i * PART < e->c->n; i++) e->value += e->sums[i];
    if (e->c->reduction == FC_MEAN) e->value /= (double)e->c->n;
}

fc_status fc_pointwise_loss_value(fc_dtype dtype, const fc_pointwise_loss *c, double *value, int threads) {
    pointwise e = {.kernels = fc_current(), .dtype = dtype, .c = c};
    double small[256];
    const ptrdiff_t parts = (c->n + PART - 1) / PART;
    e.sums = parts <= 256 ? small : fc_alloc((size_t)parts * sizeof *e.sums);
    if (!e.sums) return FC_NO_MEMORY;
    fc_parallel_for(fc_team_for((double)c->n * (c->kind == FC_LOGIT ? COST : 2), threads), parts, run_part, &e);
    fc_parallel_for(1, 1, add_parts, &e);
    *value = e.value;
    if (e.sums != small) fc_free(e.sums);
    return FC_OK;
}
