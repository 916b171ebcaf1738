/* The dense product of a short batch and a weight that is not packed. To pack the weight, or to transpose it in registers, costs
 * as much as several rows of the batch. So it is the batch that is packed, by each thread for itself; lanes run along it, and
 * rows of the weight are walked where they stand. Each sum is the same chain; what comes out is turned when it is finished. */
#include "dispatch.h"
#include "gemm.h"
#include "memory.h"
#include "threads.h"

enum {
    LONGEST = 128,    /* batch: packing the weight for more rows costs little, and what is turned is as much as y */
    PACKING = 6,      /* an operand costs as much as so many rows of the other one */
    AT_ONCE = 192,    /* rows of the weight that meet each panel of the batch in turn, out of L2 */
    COLS_BYTES = 256, /* of a step of the batch at a time: a panel or several */
};

typedef struct turned {
    const fc_gemm *g;
    const fc_kernels *kernels;
    ptrdiff_t rows, tile;           /* of the weight: of a unit of work, and of a call of the kernel */
    ptrdiff_t cols, chunk;          /* of the batch: its rows, which are columns here, and steps of k that are packed at a time */
    ptrdiff_t packed_bytes, bytes;  /* of the workspace of a thread */
    char *workspace;
} turned;

const fc_kernels *fc_turned_kernels(const fc_gemm *g) {
    const ptrdiff_t size = fc_size(g->dtype);
    if (g->panels || g->b_k != size || g->b_j % size || (uintptr_t)g->b % (uintptr_t)size) return NULL;
    const ptrdiff_t few = g->kernels->lanes[g->dtype] > 4 ? g->kernels->few_rows[g->dtype] : 2;
    if (g->m <= few || g->m > LONGEST || g->k < 3 * g->m) return NULL;
    const fc_kernels *shorter = fc_shorter(g->kernels);
    const fc_kernels *kernels = shorter && g->m <= shorter->lanes[g->dtype] ? shorter : g->kernels;
    /* Vectors along the batch for each row of the weight, against vectors along the weight for each row of the batch. */
    const ptrdiff_t lanes = kernels->lanes[g->dtype], batch = (g->m + lanes - 1) / lanes, weight = (g->n + lanes - 1) / lanes;
    return (double)batch * (double)(g->n + PACKING) < (double)weight * (double)(g->m + PACKING) ? kernels : NULL;
}

/* Elements from step to step of the packed batch. */
static ptrdiff_t packed_step(const turned *t, ptrdiff_t cols) {
    const ptrdiff_t panel = t->kernels->panel[t->g->dtype];
    return cols < panel ? fc_full_lanes(t->kernels, t->g->dtype, cols) : panel;
}

/* n rows of the weight, from `begin` on, times what is packed. */
static void multiply(const turned *t, ptrdiff_t begin, ptrdiff_t n, ptrdiff_t row, ptrdiff_t cols, ptrdiff_t k, ptrdiff_t steps,
                     const char *packed, char *total) {
    const fc_gemm *g = t->g;
    const ptrdiff_t size = fc_size(g->dtype), panel = t->kernels->panel[g->dtype];
    const ptrdiff_t step = packed_step(t, cols);
    for (ptrdiff_t at = 0; at < cols; at += panel, total += n * panel * size) {
        const ptrdiff_t m = cols - at < panel ? cols - at : panel;
        for (ptrdiff_t i = 0; i < n; i += t->tile) {
            fc_gemm_job job = {
                .a = (const char *)g->b + (begin + i) * g->b_j + k * size, .a_row = g->b_j, .fetch_a = g->n - begin - i,
                .b = packed + at * steps * size, .b_step = step, .b_tail = step, .total = total + i * panel * size,
                .m = n - i < t->tile ? n - i : t->tile, .n = m, .k = steps, .first = k == 0, .epilogue = g->epilogue,
            };
            t->kernels->gemm[g->dtype](&job);
        }
        if (k + steps < g->k) continue;
        fc_finish_job finish = {
            .sum = total, .sum_row = panel, .turned = FC_LONG_PIECE / size, .epilogue = g->epilogue, .row = row + at,
            .col = begin, .m = m, .n = n,
        };
        t->kernels->finish[g->dtype](&finish);
    }
}

static void run_unit(void *context, int thread, ptrdiff_t unit) {
    const turned *t = context;
    const fc_gemm *g = t->g;
    const ptrdiff_t size = fc_size(g->dtype);
    const ptrdiff_t begin = unit * t->rows, rows = g->n - begin < t->rows ? g->n - begin : t->rows;
    char *packed = t->workspace + thread * t->bytes, *total = packed + t->packed_bytes;
    for (ptrdiff_t row = 0; row < g->m; row += t->cols) {
        const ptrdiff_t cols = g->m - row < t->cols ? g->m - row : t->cols;
        for (ptrdiff_t k = 0; k < g->k; k += t->chunk) {
            const ptrdiff_t steps = g->k - k < t->chunk ? g->k - k : t->chunk;
            const ptrdiff_t step = packed_step(t, cols);
            fc_pack_job pack = {
                .src = (const char *)g->a + row * g->a_row + k * size, .src_j = g->a_row, .src_k = size, .dst = packed,
                .step = step, .pitch = step * steps, .n = cols, .k = steps,
            };
            t->kernels->pack[g->dtype](&pack);
            for (ptrdiff_t at = 0; at < rows; at += AT_ONCE)
                multiply(t, begin + at, rows - at < AT_ONCE ? rows - at : AT_ONCE, row, cols, k, steps, packed,
                         total + at * t->cols * size);
        }
    }
}

fc_status fc_turned_run(const fc_gemm *g, const fc_kernels *kernels, int team) {
    const ptrdiff_t size = fc_size(g->dtype), panel = kernels->panel[g->dtype];
    turned t = {.g = g, .kernels = kernels, .cols = COLS_BYTES / size};
    if (g->m < t.cols) t.cols = (g->m + panel - 1) / panel * panel;
    /* The packed batch and the sums have a quarter of L2 each. */
    const ptrdiff_t quarter = (ptrdiff_t)fc_l2_bytes() / 4 / size;
    const ptrdiff_t wide = g->m < panel ? packed_step(&t, g->m) : t.cols;
    t.chunk = quarter / wide / FC_BLOCK * FC_BLOCK;
    if (t.chunk < FC_BLOCK) t.chunk = FC_BLOCK;
    if (t.chunk > g->k) t.chunk = g->k;
    ptrdiff_t units = (g->n * t.cols + quarter - 1) / quarter;
    units = (units + team - 1) / team * team; /* as many for each thread */
    t.rows = (g->n + units - 1) / units;
    units = (g->n + t.rows - 1) / t.rows;
    if (team > units) team = (int)units;
    t.tile = g->b_j % L1_WAY ? AT_ONCE : L1_WAYS - 2;
    t.packed_bytes = (t.chunk * wide * size + 63) / 64 * 64;
    t.bytes = t.packed_bytes + (t.rows * t.cols * size + 63) / 64 * 64;
    t.workspace = fc_alloc((size_t)(team * t.bytes));
    if (!t.workspace) return FC_NO_MEMORY;
    fc_parallel_for(team, units, run_unit, &t);
    fc_free(t.workspace);
    return FC_OK;
}
