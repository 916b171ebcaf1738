/* The dense product of a few outputs. Lanes along outputs would mostly be idle: they run along the batch, if that fills
 * vectors, or along the numeric blocks of k. No bit changes. And of a few rows, where those of a plain weight crowd. */
#include "dispatch.h"
#include "gemm.h"
#include "memory.h"
#include "threads.h"

/* Many rows, x, times a few, w, whose elements need not be contiguous. */
typedef struct few_outputs {
    const fc_gemm *g;
    const fc_kernels *kernels;
    const char *x, *w;
    ptrdiff_t x_row, w_row, w_step; /* bytes */
    ptrdiff_t m, n;
    int across;                     /* w is the weight; otherwise x is */
    ptrdiff_t unit;                 /* rows of x at a time */
} few_outputs;

enum {
    LEAST_STEPS = 64,
    ROWS_UNIT = 64,
    TRANSPOSES = 4, /* those of a vector of the batch cost as much as so many outputs */
};

static void run_few(void *context, int thread, ptrdiff_t i) {
    const few_outputs *f = context;
    const ptrdiff_t begin = i * f->unit, k = f->g->k;
    (void)thread;
    fc_few_job job = {
        .a = f->w, .a_row = f->w_row, .a_step = f->w_step, .w = f->x + begin * f->x_row, .w_row = f->x_row, .m = f->n,
        .n = f->m - begin < f->unit ? f->m - begin : f->unit, .k = k, .epilogue = f->g->epilogue, .at = begin,
        .across = f->across, .far = (double)f->m * (double)(k * fc_size(f->g->dtype)) > (double)fc_l3_bytes(),
    };
    f->kernels->few[f->g->dtype](&job);
}

static void run_dots(void *context, int thread, ptrdiff_t i) {
    const few_outputs *f = context;
    const ptrdiff_t begin = i * f->unit;
    (void)thread;
    fc_dots_job job = {
        .x = f->x + begin * f->x_row, .x_row = f->x_row, .m = f->m - begin < f->unit ? f->m - begin : f->unit, .w = f->w,
        .w_row = f->w_row, .w_step = f->w_step, .n = f->n, .k = f->g->k, .epilogue = f->g->epilogue, .at = begin,
        .across = f->across,
    };
    f->kernels->dots[f->g->dtype](&job);
}

/* The kernels with which lanes along the batch pay, or NULL. Shorter vectors take fewer shuffles to transpose, which for one or
 * two outputs is most of the work, where the CPU does not make up for it. */
static const fc_kernels *kernels_for_few(const fc_gemm *g) {
    const int better = g->n <= 2 && g->dtype == FC_F32 && !(fc_long_shuffles && g->m >= g->kernels->lanes[g->dtype]);
    const fc_kernels *shorter = better ? fc_shorter(g->kernels) : NULL, *kernels = shorter ? shorter : g->kernels;
    const ptrdiff_t lanes = kernels->lanes[g->dtype];
    if (g->n > kernels->few_rows[g->dtype] || g->n > g->kernels->panel[g->dtype]) return NULL;
    if (g->m < lanes || g->k < 12 * g->n) return NULL;
    /* Vectors along the batch for each output, and their transposes, against vectors along the outputs for each row, which wait
     * for loads. */
    const ptrdiff_t batch = (g->m + lanes - 1) / lanes, outputs = (g->n + lanes - 1) / lanes;
    return 5 * (double)batch * (double)(g->n + TRANSPOSES) <= 6 * (double)g->m * (double)outputs ? kernels : NULL;
}

/* Many rows have lanes of their own, unless they crowd into few sets of L1; but from memory these come better than the many
 * streams of one row. */
static int crowded(const fc_gemm *g, ptrdiff_t rows, ptrdiff_t row) {
    return row && row % FC_CROWDED == 0 && g->k >= 4 * FC_BLOCK &&
           3 * (double)rows * (double)(g->k * fc_size(g->dtype)) <= (double)fc_l3_bytes();
}

/* The most outputs, or rows, that dots do well with. */
static ptrdiff_t most_dots(fc_dtype dtype) { return dtype == FC_F32 ? FC_DOTS : FC_DOTS - 1; }

/* Whether lanes along numeric blocks pay. A batch that fills no vector leaves the FMA units waiting for a chain or two of each
 * row, or fills a tile that takes twice as long as half of it would. */
static int dots_of_batch_pay(const fc_gemm *g) {
    const ptrdiff_t size = fc_size(g->dtype), lanes = g->kernels->lanes[g->dtype];
    if (g->n > most_dots(g->dtype) || g->k < LEAST_STEPS) return 0;
    if (g->panels && fc_panel_step(g->kernels, g->dtype, g->n, 0) != g->n) return 0;
    if (!g->panels && g->b_k != size && (g->b_j != size || g->b_k != g->n * size)) return 0;
    if (g->m < lanes) return 2 * g->m > lanes || g->k >= (g->n + 1) * FC_BLOCK;
    return g->m >= g->n * lanes && crowded(g, g->m, g->a_row);
}

/* Likewise, of a weight that is not packed, or of one row where outputs fill no vector. Vectors as long as a line meet each of
 * them once anyway. */
static int dots_of_weight_pay(const fc_gemm *g) {
    const ptrdiff_t size = fc_size(g->dtype), lanes = g->kernels->lanes[g->dtype];
    if (g->panels || g->b_k != size) return 0;
    if (g->n < lanes) return g->m == 1 && g->k >= (2 * g->n > lanes ? 3 : 2) * FC_BLOCK;
    return g->m <= (lanes * size < 64 ? most_dots(g->dtype) : 1) && crowded(g, g->n, g->b_j);
}

int fc_few_outputs_run(const fc_gemm *g, int team) {
    const int of_weight = dots_of_weight_pay(g), dots = of_weight || dots_of_batch_pay(g);
    const fc_kernels *kernels = dots ? g->kernels : kernels_for_few(g);
    if (!kernels) return 0;
    const ptrdiff_t size = fc_size(g->dtype), rows = of_weight ? g->n : g->m, share = (rows + team - 1) / team;
    few_outputs f = {
        .g = g, .kernels = kernels, .x = g->a, .x_row = g->a_row, .m = g->m, .w = g->b, .w_row = g->b_j, .w_step = g->b_k,
        .n = g->n, .across = 1, .unit = !dots ? ROWS_UNIT : share < FC_DOTS_ROWS ? share : FC_DOTS_ROWS,
    };
    if (of_weight) {
        f.x = g->b;
        f.x_row = g->b_j;
        f.w = g->a;
        f.w_row = g->a_row;
        f.w_step = size;
        f.m = g->n;
        f.n = g->m;
        f.across = 0;
    } else if (g->panels) {
        f.w = g->panels;
        f.w_row = size;
        f.w_step = fc_panel_step(g->kernels, g->dtype, g->n, 0) * size;
    }
    fc_parallel_for(team, (rows + f.unit - 1) / f.unit, dots ? run_dots : run_few, &f);
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
