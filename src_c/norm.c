/* LayerNorm and RMSNorm, alone and behind a linear layer whose rows are still in the cache. */
#include "dispatch.h"
#include "gemm.h"
#include "memory.h"
#include "packed.h"
#include "reduce.h"
#include "threads.h"

/* An element costs about as much as so many multiply-adds, twice that backward; behind a product, whose workers are awake
 * still, sharing it out pays sooner. Elements at a time. */
enum { COST = 8, COST_BEHIND = 16, UNIT = 16384 };

typedef struct norming {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const fc_matrix *x, *y, *grad;
    const fc_norm *norm;
    const fc_norm_gradients *out;
    ptrdiff_t begin, end;      /* rows */
    ptrdiff_t rows;            /* of a unit */
    char *sums;                /* of each unit, two rows; or NULL */
} norming;

static void *row_of(const fc_matrix *m, ptrdiff_t row) { return (char *)m->data + row * m->row_stride; }

static void forward_unit(void *context, int thread, ptrdiff_t unit) {
    const norming *c = context;
    const ptrdiff_t row = c->begin + unit * c->rows, left = c->end - row;
    (void)thread;
    fc_norm_job job = {
        .x = row_of(c->x, row), .x_row = c->x->row_stride, .y = row_of(c->y, row), .y_row = c->y->row_stride,
        .norm = c->norm, .row = row, .m = left < c->rows ? left : c->rows, .n = c->x->cols,
    };
    c->kernels->norm[c->dtype](&job);
}

static void forward_rows(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *x, const fc_norm *norm, const fc_matrix *y,
                         ptrdiff_t begin, ptrdiff_t end, int cost, int threads) {
    const ptrdiff_t n = x->cols, m = end - begin;
    if (!n) return;
    norming c = {.kernels = kernels, .dtype = dtype, .x = x, .y = y, .norm = norm, .begin = begin, .end = end};
    c.rows = n < UNIT / 4 ? UNIT / n / 4 * 4 : 4;
    fc_parallel_for(fc_team_for((double)m * (double)n * cost, threads), (m + c.rows - 1) / c.rows, forward_unit, &c);
}

void fc_norm_forward(fc_dtype dtype, const fc_matrix *x, const fc_norm *norm, const fc_matrix *y, int threads) {
    forward_rows(fc_current(), dtype, x, norm, y, 0, x->rows, COST, threads);
}

static void backward_unit(void *context, int thread, ptrdiff_t unit) {
    const norming *c = context;
    const ptrdiff_t row = c->begin + unit * c->rows, left = c->end - row, n = c->x->cols;
    (void)thread;
    fc_norm_grad_job job = {
        .grad = row_of(c->grad, row), .grad_row = c->grad->row_stride, .x = row_of(c->x, row), .x_row = c->x->row_stride,
        .norm = c->norm, .row = row, .m = left < c->rows ? left : c->rows, .n = n,
    };
    if (c->out->gx) {
        job.gx = row_of(c->out->gx, row);
        job.gx_row = c->out->gx->row_stride;
    }
    if (c->sums) job.sums = c->sums + row / FC_BLOCK * 2 * n * fc_size(c->dtype);
    c->kernels->norm_grad[c->dtype](&job);
}

static int wants_sums(const fc_norm_gradients *out) { return out->gamma || out->beta; }
static size_t sums_bytes(fc_dtype dtype, const fc_matrix *x) {
    return (size_t)((x->rows + FC_BLOCK - 1) / FC_BLOCK * 2 * x->cols * fc_size(dtype));
}

/* begin is a multiple of FC_BLOCK. */
static void backward_rows(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *grad, const fc_matrix *x, const fc_norm *norm,
                          const fc_norm_gradients *out, ptrdiff_t begin, ptrdiff_t end, char *sums, int threads) {
    const ptrdiff_t n = x->cols, m = end - begin;
    if (!n) return;
    norming c = {.kernels = kernels, .dtype = dtype, .x = x, .grad = grad, .norm = norm, .out = out, .begin = begin, .end = end,
                 .sums = sums};
    c.rows = sums ? FC_BLOCK : n < UNIT / 4 ? UNIT / n / 4 * 4 : 4;
    fc_parallel_for(fc_team_for((double)m * (double)n * 2 * COST, threads), (m + c.rows - 1) / c.rows, backward_unit, &c);
}

static void add_sums(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *x, const fc_norm_gradients *out, char *sums,
                     int threads) {
    const ptrdiff_t n = x->cols, size = fc_size(dtype);
    fc_matrix parts = {sums, (x->rows + FC_BLOCK - 1) / FC_BLOCK, n, 2 * n * size, size};
    if (out->gamma) fc_column_sums(kernels, dtype, &parts, out->gamma, 0, threads);
    parts.data = sums + n * size;
    if (out->beta) fc_column_sums(kernels, dtype, &parts, out->beta, 0, threads);
}

fc_status fc_norm_backward(fc_dtype dtype, const fc_matrix *grad_y, const fc_matrix *x, const fc_norm *norm,
                           const fc_norm_gradients *out, int threads) {
    const fc_kernels *kernels = fc_current();
    char *sums = NULL;
    if (wants_sums(out) && !(sums = fc_alloc(sums_bytes(dtype, x)))) return FC_NO_MEMORY;
    backward_rows(kernels, dtype, grad_y, x, norm, out, 0, x->rows, sums, threads);
    if (sums) add_sums(kernels, dtype, x, out, sums, threads);
    fc_free(sums);
    return FC_OK;
}

/* ---- Behind a linear layer ---------------------------------------------------------------------------------------- */

/* Rows at a time: enough of them that the weight, read for each block, costs little. One that is not packed is packed
 * for each block, so these are as long as those of fc_gemm_run. */
enum { TILES = 40, TILES_PACKING = 80 };

fc_status fc_linear_norm_forward(fc_dtype dtype, const fc_matrix *x, const fc_matrix *w, const fc_packed *packed,
                                 const fc_epilogue *epilogue, const fc_norm *norm, const fc_matrix *y, int threads) {
    const ptrdiff_t m = x->rows, n = y->cols, size = fc_size(dtype);
    const fc_kernels *kernels = packed ? packed->kernels : fc_current();
    const fc_matrix h = {epilogue->y, m, n, epilogue->y_row, size};
    const ptrdiff_t tiles = packed ? TILES * fc_team_for((double)m * (double)n * (double)x->cols, threads) : TILES_PACKING;
    const ptrdiff_t rows = tiles * kernels->tile_rows;
    for (ptrdiff_t i = 0; i < m; i += rows) {
        const ptrdiff_t end = m - i < rows ? m : i + rows;
        const fc_matrix part = {row_of(x, i), end - i, x->cols, x->row_stride, x->col_stride};
        fc_epilogue e = *epilogue;
        e.y = row_of(&h, i);
        if (e.z) e.z = (char *)e.z + i * e.z_row;
        if (e.residual) e.residual = (const char *)e.residual + i * e.residual_row;
        const fc_status status = packed ? fc_linear_forward_packed(dtype, &part, packed, &e, threads)
                                        : fc_linear_forward(dtype, &part, w, &e, threads);
        if (status) return status;
        forward_rows(kernels, dtype, &h, norm, y, i, end, COST_BEHIND, threads);
    }
    return FC_OK;
}

/* Rows whose gradient goes on into gx while it is in the cache. */
enum { CHUNK = 2 * FC_BLOCK };

fc_status fc_linear_norm_backward(fc_dtype dtype, const fc_upstream *up, const fc_matrix *h, const fc_norm *norm,
                                  const fc_matrix *x, const fc_matrix *w, const fc_gradients *out,
                                  const fc_norm_gradients *norm_out, int threads) {
    const fc_kernels *kernels = fc_current();
    const ptrdiff_t m = h->rows, n = h->cols, size = fc_size(dtype);
    fc_matrix grad = {fc_alloc((size_t)(m * n * size)), m, n, n * size, size};
    char *sums = wants_sums(norm_out) ? fc_alloc(sums_bytes(dtype, h)) : NULL;
    const fc_norm_gradients to = {.gx = &grad};
    fc_status status = grad.data && (sums || !wants_sums(norm_out)) ? FC_OK : FC_NO_MEMORY;
    for (ptrdiff_t begin = 0; !status && begin < m; begin += CHUNK) {
        const ptrdiff_t end = m - begin < CHUNK ? m : begin + CHUNK;
        const fc_matrix g = {row_of(&grad, begin), end - begin, n, grad.row_stride, size};
        backward_rows(kernels, dtype, up->grad_y, h, norm, &to, begin, end, sums, threads);
        if (up->activation != FC_IDENTITY) {
            const fc_matrix z = {row_of(up->z, begin), g.rows, n, up->z->row_stride, size};
            fc_activation_grad_rows(kernels, dtype, up, &g, &z, &g, threads);
        }
        if (!out->gx) continue;
        const fc_matrix part = {row_of(x, begin), g.rows, x->cols, x->row_stride, x->col_stride};
        fc_matrix gx = {row_of(out->gx, begin), g.rows, x->cols, out->gx->row_stride, size};
        status = fc_linear_backward(dtype, &(fc_upstream){.grad_y = &g}, &part, w, &(fc_gradients){.gx = &gx}, threads);
    }
    if (!status) {
        const fc_gradients rest = {.gw = out->gw, .gb = out->gb, .accumulate = out->accumulate};
        status = fc_linear_backward(dtype, &(fc_upstream){.grad_y = &grad}, x, w, &rest, threads);
    }
    if (!status && sums) add_sums(kernels, dtype, h, norm_out, sums, threads);
    fc_free(sums);
    fc_free(grad.data);
    return status;
}
