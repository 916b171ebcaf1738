/* The dense product of a few outputs. Lanes along outputs would mostly be idle: they run along the batch, if that fills
 * vectors, or along the numeric blocks of k. No bit changes. And of a few rows, where those of a plain weight crowd. */
#include "dispatch.h"
#include "gemm.h"
#include "memory.h"
#include "threads.h"

typedef struct few_outputs {
    const fc_gemm *g;
    const fc_kernels *kernels;
    ptrdiff_t unit;   /* rows of the batch at a time */
} few_outputs;

enum {
    LEAST_STEPS = 64,
    ROWS_UNIT = 64,
    TRANSPOSES = 4,   /* those of a vector of the batch cost as much as so many outputs */
    CROWDED = 2048,   /* rows a multiple of so many bytes apart fall into one or two sets of L1 */
    DOTS_BYTES = 16,  /* the most that dots do well with, of a step of all outputs */
};

static void run_few(void *context, int thread, ptrdiff_t i) {
    const few_outputs *f = context;
    const fc_gemm *g = f->g;
    const ptrdiff_t size = fc_size(g->dtype), begin = i * f->unit;
    (void)thread;
    fc_few_job job = {
        .a = g->b, .a_row = g->b_j, .a_step = g->b_k, .w = (const char *)g->a + begin * g->a_row, .w_row = g->a_row,
        .m = g->n, .n = g->m - begin < f->unit ? g->m - begin : f->unit, .k = g->k, .epilogue = g->epilogue, .at = begin,
        .across = 1, .far = (double)g->m * (double)g->k * (double)size > (double)fc_l3_bytes(),
    };
    if (g->panels) {
        job.a = g->panels;
        job.a_row = size;
        job.a_step = fc_panel_step(g->kernels, g->dtype, g->n, 0) * size;
    }
    f->kernels->few[g->dtype](&job);
}

static void run_dots_of_batch(void *context, int thread, ptrdiff_t i) {
    const few_outputs *f = context;
    const fc_gemm *g = f->g;
    const ptrdiff_t size = fc_size(g->dtype), begin = i * f->unit;
    (void)thread;
    fc_dots_job job = {
        .x = (const char *)g->a + begin * g->a_row, .x_row = g->a_row, .m = g->m - begin < f->unit ? g->m - begin : f->unit,
        .w = g->b, .w_row = g->b_j, .w_step = g->b_k, .n = g->n, .k = g->k, .epilogue = g->epilogue, .at = begin, .across = 1,
    };
    if (g->panels) {
        job.w = g->panels;
        job.w_row = size;
        job.w_step = fc_panel_step(g->kernels, g->dtype, g->n, 0) * size;
    }
    f->kernels->dots[g->dtype](&job);
}

/* A row or a few of the batch, and the weight's rows in the place of a batch. */
static void run_dots_of_weight(void *context, int thread, ptrdiff_t i) {
    const few_outputs *f = context;
    const fc_gemm *g = f->g;
    const ptrdiff_t begin = i * f->unit;
    (void)thread;
    fc_dots_job job = {
        .x = (const char *)g->b + begin * g->b_j, .x_row = g->b_j, .m = g->n - begin < f->unit ? g->n - begin : f->unit,
        .w = g->a, .w_row = g->a_row, .w_step = fc_size(g->dtype), .n = g->m, .k = g->k, .epilogue = g->epilogue, .at = begin,
    };
    f->kernels->dots[g->dtype](&job);
}

/* The kernels with which lanes along the batch pay, or NULL. Shorter vectors take fewer shuffles to transpose, which for one or
 * two outputs is most of the work, where the CPU does not make up for it. */
static const fc_kernels *kernels_for_few(const fc_gemm *g) {
    const int better = g->n <= 2 && g->dtype == FC_F32 && !(fc_long_shuffles && g->m >= g->kernels->lanes[g->dtype]);
    const fc_kernels *shorter = better ? fc_shorter(g->kernels) : NULL, *kernels = shorter ? shorter : g->kernels;
    /* Vectors along the batch for each output, and their transposes, against vectors along the outputs for each row, which wait
     * for loads. */
    const ptrdiff_t lanes = kernels->lanes[g->dtype], batch = (g->m + lanes - 1) / lanes, outputs = (g->n + lanes - 1) / lanes;
    const int fits = g->n <= kernels->few_rows[g->dtype] && g->n <= g->kernels->panel[g->dtype];
    const int pays = fits && g->m >= lanes && g->k >= 12 * g->n &&
                     5 * (double)batch * (double)(g->n + TRANSPOSES) <= 6 * (double)g->m * (double)outputs;
    return pays ? kernels : NULL;
}

/* Many rows have lanes of their own, unless they crowd into few sets of L1; but from memory these come better than the many
 * streams of one row. */
static int crowded(const fc_gemm *g, ptrdiff_t rows, ptrdiff_t row) {
    return row && row % CROWDED == 0 && g->k >= 4 * FC_BLOCK &&
           3 * (double)rows * (double)(g->k * fc_size(g->dtype)) <= (double)fc_l3_bytes();
}

/* Whether lanes along numeric blocks pay. A batch that fills no vector leaves the FMA units waiting for a chain or two of each
 * row, or fills a tile that takes twice as long as half of it would. */
static int dots_of_batch_pay(const fc_gemm *g) {
    const ptrdiff_t size = fc_size(g->dtype), lanes = g->kernels->lanes[g->dtype];
    if (g->n > FC_DOTS || g->n * size > DOTS_BYTES || g->k < LEAST_STEPS) return 0;
    if (g->panels && fc_panel_step(g->kernels, g->dtype, g->n, 0) != g->n) return 0;
    if (!g->panels && g->b_k != size && (g->b_j != size || g->b_k != g->n * size)) return 0;
    if (g->m < lanes) return 2 * g->m > lanes || g->k >= (g->n + 1) * FC_BLOCK;
    return g->m >= g->n * lanes && crowded(g, g->m, g->a_row);
}

/* Likewise, of a weight that is not packed, or of one row where outputs fill no vector. Vectors as long as a line meet each of
 * them once anyway. */
static int dots_of_weight_pay(const fc_gemm *g) {
    const ptrdiff_t size = fc_size(g->dtype), lanes = g->kernels->lanes[g->dtype];
    const ptrdiff_t most = lanes * size < 64 ? DOTS_BYTES / size : 1;
    if (g->panels || g->b_k != size) return 0;
    if (g->n < lanes) return g->m == 1 && g->k >= (2 * g->n > lanes ? 3 : 2) * FC_BLOCK;
    return g->m <= FC_DOTS && g->m <= most && crowded(g, g->n, g->b_j);
}

int fc_few_outputs_run(const fc_gemm *g, int team) {
    const int of_weight = dots_of_weight_pay(g);
    if (of_weight || dots_of_batch_pay(g)) {
        const ptrdiff_t rows = of_weight ? g->n : g->m, share = (rows + team - 1) / team;
        few_outputs f = {g, g->kernels, share < FC_DOTS_ROWS ? share : FC_DOTS_ROWS};
        fc_parallel_for(team, (rows + f.unit - 1) / f.unit, of_weight ? run_dots_of_weight : run_dots_of_batch, &f);
        return 1;
    }
    few_outputs f = {g, kernels_for_few(g), ROWS_UNIT};
    if (!f.kernels) return 0;
    fc_parallel_for(team, (g->m + f.unit - 1) / f.unit, run_few, &f);
    return 1;
}

/* Outputs that would be a panel of their own, most of its lanes idle, run after the others, where the batch is near when it is
 * read, and y when it is written, for a second time. */
ptrdiff_t fc_outputs_apart(const fc_gemm *g) {
    const ptrdiff_t panel = g->kernels->panel[g->dtype];
    if (g->n <= panel || g->k < LEAST_STEPS) return 0;
    const double again = (double)g->m * (double)(g->k + g->n) * (double)fc_size(g->dtype);
    fc_gemm last = *g;
    last.n = g->n % panel;
    return last.n && last.n <= 2 && 4 * again <= (double)fc_l3_bytes() && kernels_for_few(&last) ? last.n : 0;
}

fc_status fc_apart_run(const fc_gemm *g, ptrdiff_t apart) {
    fc_gemm first = *g, last = *g;
    first.n -= apart;
    last.n = apart;
    const ptrdiff_t at = first.n * fc_size(g->dtype);
    fc_epilogue e = *g->epilogue;
    if (e.bias) e.bias = (const char *)e.bias + at;
    if (e.residual) e.residual = (const char *)e.residual + at;
    if (e.z) e.z = (char *)e.z + at;
    e.y = (char *)e.y + at;
    last.epilogue = &e;
    if (g->panels) last.panels = (const char *)g->panels + at * g->k;
    else last.b = (const char *)g->b + first.n * g->b_j;
    const fc_status status = fc_gemm_run(&first);
    return status ? status : fc_gemm_run(&last);
}
