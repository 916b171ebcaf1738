/* CSR operands. One routine, spmm(), serves four products: rows of a sparse matrix times a dense operand that is walked
 * in panels, 64 columns wide, so that the batch or the outputs run along the lanes.
 *
 *     product               sparse rows      dense operand, along the lanes    output
 *     y  = x wᵀ   (csr w)   w: n over k      xᵀ: k by m                        transposed into y
 *     gx = g w    (csr w)   wᵀ: k over n     gᵀ: n by m                        transposed into gx
 *     y  = x wᵀ   (csr x)   x: m over k      wᵀ: k by n                        y
 *     gw = gᵀ x   (csr x)   xᵀ: k over m     g: m by n                         transposed into gw
 */
#include "dispatch.h"
#include "gemm.h"
#include "memory.h"
#include "packed.h"
#include "reduce.h"
#include "threads.h"

#include <string.h>

/* ---- Structure ---------------------------------------------------------------------------------------------------- */

static int64_t read_index(const void *p, int bytes, ptrdiff_t i) {
    return bytes == 8 ? ((const int64_t *)p)[i] : ((const int32_t *)p)[i];
}

fc_csr_fault fc_csr_check(const fc_csr *csr, ptrdiff_t *at) {
    *at = 0;
    int64_t last = read_index(csr->indptr, csr->index_bytes, 0);
    if (last != 0) return FC_CSR_START;
    for (ptrdiff_t r = 0; r < csr->rows; r++) {
        const int64_t next = read_index(csr->indptr, csr->index_bytes, r + 1);
        *at = next < last ? r : r + 1;
        if (next < last) return FC_CSR_FALLS;
        if (next > csr->nnz) return FC_CSR_OVERRUNS;
        last = next;
    }
    /* A block of entries at a time without a branch each; the culprit is looked for only in a bad block. */
    for (int64_t begin = 0; begin < last; begin += 4096) {
        const int64_t end = last - begin < 4096 ? last : begin + 4096;
        int bad = 0;
        if (csr->index_bytes == 8)
            for (int64_t e = begin; e < end; e++) bad |= (uint64_t)((const int64_t *)csr->indices)[e] >= (uint64_t)csr->cols;
        else
            for (int64_t e = begin; e < end; e++) bad |= (uint64_t)(int64_t)((const int32_t *)csr->indices)[e] >= (uint64_t)csr->cols;
        for (int64_t e = begin; bad && e < end; e++) {
            const int64_t c = read_index(csr->indices, csr->index_bytes, e);
            *at = e;
            if (c < 0 || c >= csr->cols) return FC_CSR_INDEX;
        }
    }
    return FC_CSR_OK;
}

/* Rows of a sparse matrix as kernels read them. */
typedef struct structure {
    int64_t *begin;        /* rows + 1, owned */
    const void *indices;
    int index_bytes;
    int64_t *order;        /* NULL, or where the value of each place stands; owned */
    void *owned;           /* indices, when they are ours */
    ptrdiff_t rows;
} structure;

static void release(structure *s) {
    fc_free(s->begin);
    fc_free(s->order);
    fc_free(s->owned);
}

static fc_status as_stored(const fc_csr *csr, structure *s) {
    *s = (structure){.indices = csr->indices, .index_bytes = csr->index_bytes, .rows = csr->rows};
    s->begin = fc_alloc((size_t)(csr->rows + 1) * sizeof *s->begin);
    if (!s->begin) return FC_NO_MEMORY;
    for (ptrdiff_t r = 0; r <= csr->rows; r++) s->begin[r] = read_index(csr->indptr, csr->index_bytes, r);
    return FC_OK;
}

/* The transpose's rows: a counting sort, so entries of a column keep the order of their rows. */
static fc_status transposed(const fc_csr *csr, structure *s) {
    const int64_t entries = read_index(csr->indptr, csr->index_bytes, csr->rows);
    int64_t *row;
    *s = (structure){.index_bytes = 8, .rows = csr->cols};
    s->begin = fc_alloc((size_t)(csr->cols + 2) * sizeof *s->begin);
    s->order = fc_alloc((size_t)entries * sizeof *s->order);
    s->owned = row = fc_alloc((size_t)entries * sizeof *row);
    s->indices = row;
    if (!s->begin || !s->order || !row) {
        release(s);
        return FC_NO_MEMORY;
    }
    /* Counts go two places up, so that after placing each entry at begin[c + 1]++ every start stands in its place. */
    memset(s->begin, 0, (size_t)(csr->cols + 2) * sizeof *s->begin);
    for (int64_t e = 0; e < entries; e++) s->begin[read_index(csr->indices, csr->index_bytes, e) + 2]++;
    for (ptrdiff_t c = 2; c <= csr->cols; c++) s->begin[c] += s->begin[c - 1];
    for (ptrdiff_t r = 0; r < csr->rows; r++) {
        const int64_t end = read_index(csr->indptr, csr->index_bytes, r + 1);
        for (int64_t e = read_index(csr->indptr, csr->index_bytes, r); e < end; e++) {
            const int64_t place = s->begin[read_index(csr->indices, csr->index_bytes, e) + 1]++;
            s->order[place] = e;
            row[place] = r;
        }
    }
    return FC_OK;
}

/* The first row at which at least `entries` entries (and rows themselves, which cost about as much) lie behind. */
static ptrdiff_t row_at(const structure *s, double share) {
    const double target = share * (double)(s->begin[s->rows] + s->rows);
    ptrdiff_t low = 0, high = s->rows;
    while (low < high) {
        const ptrdiff_t middle = low + (high - low) / 2;
        if ((double)(s->begin[middle] + middle) < target) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* ---- Sparse times dense ------------------------------------------------------------------------------------------- */

enum { TILE_ROWS = 64 };

typedef struct spmm {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const structure *sparse;
    const void *values;
    const void *panels;          /* the dense operand, packed, or NULL: */
    const char *dense;           /* element (i, j) at dense + i * dense_i + j * dense_j */
    ptrdiff_t dense_i, dense_j;  /* bytes */
    ptrdiff_t inner, width;      /* its shape */
    int gather;                  /* a copy of dense's row for each entry, instead of a panel of all rows */
    ptrdiff_t panel;             /* columns at a time */
    int transpose;               /* the sum of row r and column j belongs at y[j, r], not y[r, j] */
    const fc_epilogue *epilogue;
    char *workspace;
    size_t panel_bytes, tile_bytes;
    int shares;
} spmm;

static void rows_of_panel(const spmm *p, char *workspace, ptrdiff_t at, ptrdiff_t begin, ptrdiff_t end) {
    const fc_kernels *kernels = p->kernels;
    const fc_dtype dtype = p->dtype;
    const ptrdiff_t size = fc_size(dtype), panel = p->panel, lanes = kernels->lanes[dtype];
    const ptrdiff_t col = at * panel, n = p->width - col < panel ? p->width - col : panel;
    fc_spmm_job job = {
        .values = p->values, .indices = p->sparse->indices, .index_bytes = p->sparse->index_bytes, .order = p->sparse->order,
        .n = n, .dense_step = (n + lanes - 1) / lanes * lanes, .sum = workspace + p->panel_bytes,
        .sum_row = panel,
    };
    const char *dense = p->dense + col * p->dense_j;
    if (p->panels) {
        job.dense = (const char *)p->panels + col * p->inner * size;
    } else if (p->dense_j == size && p->dense_i % size == 0 && (uintptr_t)dense % (uintptr_t)size == 0 && n % lanes == 0) {
        job.dense = dense;
        job.dense_step = p->dense_i / size;
    } else if (p->gather) {
        for (int64_t e = p->sparse->begin[begin]; e < p->sparse->begin[end]; e++) {
            const int64_t row = read_index(p->sparse->indices, p->sparse->index_bytes, e);
            fc_pack_job pack = {
                .src = dense + row * p->dense_i, .src_j = p->dense_j, .src_k = size, .dst = workspace + e * job.dense_step * size,
                .step = job.dense_step, .n = n, .k = 1,
            };
            kernels->pack[dtype](&pack);
        }
        job.dense = workspace;
        job.indices = NULL;
    } else {
        fc_pack_job pack = {
            .src = dense, .src_j = p->dense_j, .src_k = p->dense_i, .dst = workspace, .step = job.dense_step, .n = n,
            .k = p->inner,
        };
        kernels->pack[dtype](&pack);
        job.dense = workspace;
    }
    for (ptrdiff_t row = begin; row < end; row += TILE_ROWS) {
        job.begin = p->sparse->begin + row;
        job.rows = end - row < TILE_ROWS ? end - row : TILE_ROWS;
        kernels->spmm[dtype](&job);
        fc_finish_job finish = {.sum = job.sum, .sum_row = job.sum_row, .epilogue = p->epilogue, .row = row, .col = col,
                                .m = job.rows, .n = n};
        if (p->transpose) {
            char *across = workspace + p->panel_bytes + p->tile_bytes;
            fc_pack_job turn = {
                .src = job.sum, .src_j = job.sum_row * size, .src_k = size, .dst = across, .step = TILE_ROWS, .n = job.rows,
                .k = n,
            };
            kernels->pack[dtype](&turn);
            finish.sum = across;
            finish.sum_row = TILE_ROWS;
            finish.row = col;
            finish.col = row;
            finish.m = n;
            finish.n = job.rows;
        }
        kernels->finish[dtype](&finish);
    }
}

/* Panels side by side make one long list of rows, cut into contiguous parts with equal shares of the entries: so a
 * thread packs few panels, and a row with many entries weighs what it costs. */
static void spmm_share(void *context, int thread, ptrdiff_t share) {
    const spmm *p = context;
    char *workspace = p->workspace + (size_t)thread * (p->panel_bytes + 2 * p->tile_bytes);
    const ptrdiff_t panels = (p->width + p->panel - 1) / p->panel;
    const double begin = (double)panels * (double)share / p->shares, end = (double)panels * (double)(share + 1) / p->shares;
    for (ptrdiff_t at = (ptrdiff_t)begin; at < panels && (double)at < end; at++) {
        const double from = begin > (double)at ? begin - (double)at : 0, to = end < (double)at + 1 ? end - (double)at : 1;
        const ptrdiff_t first = row_at(p->sparse, from), last = to < 1 ? row_at(p->sparse, to) : p->sparse->rows;
        if (first < last) rows_of_panel(p, workspace, at, first, last);
    }
}

static fc_status spmm_run(spmm *p, int threads) {
    if (!p->sparse->rows || !p->width) return FC_OK;
    const ptrdiff_t size = fc_size(p->dtype), lanes = p->kernels->lanes[p->dtype];
    p->panel = p->panels ? p->kernels->panel[p->dtype] : p->kernels->width[p->dtype];
    const ptrdiff_t step = p->width < p->panel ? (p->width + lanes - 1) / lanes * lanes : p->panel;
    const int team = fc_team_for((double)(p->sparse->begin[p->sparse->rows] + p->sparse->rows) * (double)p->width, threads);
    /* With fewer entries than rows of the dense operand, only what they name is copied. */
    const int64_t entries = p->sparse->begin[p->sparse->rows];
    p->gather = !p->transpose && entries < p->inner;
    if (!p->panels) p->panel_bytes = (size_t)((p->gather ? entries : p->inner) * step * size + 63) / 64 * 64;
    p->tile_bytes = (size_t)(TILE_ROWS * FC_WIDTH_MAX * size);
    p->workspace = fc_alloc((size_t)team * (p->panel_bytes + 2 * p->tile_bytes));
    if (!p->workspace) return FC_NO_MEMORY;
    p->shares = team;
    fc_parallel_for(team, team, spmm_share, p);
    fc_free(p->workspace);
    return FC_OK;
}

/* ---- Forward ------------------------------------------------------------------------------------------------------ */

fc_status fc_linear_forward_csr(fc_dtype dtype, const fc_matrix *x, const fc_csr *w, const fc_epilogue *epilogue,
                                int threads) {
    structure s;
    if (as_stored(w, &s)) return FC_NO_MEMORY;
    spmm p = {
        .kernels = fc_current(), .dtype = dtype, .sparse = &s, .values = w->values, .dense = x->data, .dense_i = x->col_stride,
        .dense_j = x->row_stride, .inner = x->cols, .width = x->rows, .transpose = 1, .epilogue = epilogue,
    };
    const fc_status status = spmm_run(&p, threads);
    release(&s);
    return status;
}

fc_status fc_linear_forward_csr_x(fc_dtype dtype, const fc_csr *x, const fc_matrix *w, const fc_packed *packed,
                                  const fc_epilogue *epilogue, int threads) {
    structure s;
    if (as_stored(x, &s)) return FC_NO_MEMORY;
    spmm p = {.kernels = fc_current(), .dtype = dtype, .sparse = &s, .values = x->values, .inner = x->cols, .epilogue = epilogue};
    if (packed) {
        p.kernels = packed->kernels;
        p.panels = packed->panels;
        p.width = packed->n;
    } else {
        p.dense = w->data;
        p.dense_i = w->col_stride;
        p.dense_j = w->row_stride;
        p.width = w->rows;
    }
    const fc_status status = spmm_run(&p, threads);
    release(&s);
    return status;
}

/* ---- Backward ----------------------------------------------------------------------------------------------------- */

static fc_status product(const fc_csr *csr, spmm *p, const fc_matrix *out, int add, int threads) {
    structure s;
    if (transposed(csr, &s)) return FC_NO_MEMORY;
    const fc_epilogue epilogue = {
        .residual = add ? out->data : NULL, .residual_row = out->row_stride, .y = out->data, .y_row = out->row_stride,
    };
    p->sparse = &s;
    p->values = csr->values;
    p->transpose = 1;
    p->epilogue = &epilogue;
    const fc_status status = spmm_run(p, threads);
    release(&s);
    return status;
}

typedef struct sddmm {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const structure *sparse;
    const fc_matrix *grad, *x;
    char *grad_t, *x_t;          /* n (or k) rows of `step` elements of the batch */
    ptrdiff_t step, row, m;      /* this block of the batch */
    void *out;
    int add, shares;
} sddmm;

static void turn_block(const sddmm *p, const fc_matrix *src, char *dst, ptrdiff_t share) {
    const ptrdiff_t size = fc_size(p->dtype);
    const ptrdiff_t begin = src->cols * share / p->shares, end = src->cols * (share + 1) / p->shares;
    if (p->m % 16) memset(dst + begin * p->step * size, 0, (size_t)((end - begin) * p->step * size));
    fc_pack_job job = {
        .src = (const char *)src->data + p->row * src->row_stride + begin * src->col_stride, .src_j = src->row_stride,
        .src_k = src->col_stride, .dst = dst + begin * p->step * size, .step = p->step, .n = p->m, .k = end - begin,
    };
    p->kernels->pack[p->dtype](&job);
}

static void turn_blocks(void *context, int thread, ptrdiff_t share) {
    const sddmm *p = context;
    (void)thread;
    turn_block(p, p->grad, p->grad_t, share);
    turn_block(p, p->x, p->x_t, share);
}

static void sddmm_share(void *context, int thread, ptrdiff_t share) {
    const sddmm *p = context;
    const ptrdiff_t begin = share ? row_at(p->sparse, (double)share / p->shares) : 0;
    const ptrdiff_t end = share + 1 < p->shares ? row_at(p->sparse, (double)(share + 1) / p->shares) : p->sparse->rows;
    (void)thread;
    fc_sddmm_job job = {
        .indices = p->sparse->indices, .index_bytes = p->sparse->index_bytes, .begin = p->sparse->begin + begin,
        .rows = end - begin, .m = (p->m + 15) / 16 * 16, .g = p->grad_t + begin * p->step * fc_size(p->dtype), .x = p->x_t,
        .step = p->step, .out = p->out, .add = p->add,
    };
    p->kernels->sddmm[p->dtype](&job);
}

static fc_status stored_gradient(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *grad, const fc_matrix *x,
                                 const fc_csr *w, void *values, int accumulate, int threads) {
    const ptrdiff_t size = fc_size(dtype), m = grad->rows;
    structure s;
    fc_status status = FC_NO_MEMORY;
    void *sum = NULL;
    if (as_stored(w, &s)) return FC_NO_MEMORY;
    sddmm p = {.kernels = kernels, .dtype = dtype, .sparse = &s, .grad = grad, .x = x, .out = values};
    p.step = m < FC_BLOCK ? (m + 15) / 16 * 16 : FC_BLOCK;
    p.grad_t = fc_alloc((size_t)(grad->cols * p.step * size));
    p.x_t = fc_alloc((size_t)(x->cols * p.step * size));
    /* With several blocks the sum is finished before it is added to what stands there. */
    const int64_t entries = s.begin[s.rows];
    const int apart = accumulate && m > FC_BLOCK;
    if (apart) p.out = sum = fc_alloc((size_t)(entries * size));
    if (!p.grad_t || !p.x_t || (apart && !sum)) goto done;
    const int team = fc_team_for((double)entries * (double)(m < FC_BLOCK ? m : FC_BLOCK), threads);
    p.shares = team;
    if (!m && !accumulate) memset(values, 0, (size_t)(entries * size));
    for (; p.row < m; p.row += FC_BLOCK) {
        p.m = m - p.row < FC_BLOCK ? m - p.row : FC_BLOCK;
        p.add = p.row > 0 || (accumulate && !apart);
        fc_parallel_for(team, p.shares, turn_blocks, &p);
        fc_parallel_for(team, p.shares, sddmm_share, &p);
    }
    if (apart) {
        const fc_epilogue add = {.residual = values, .y = values};
        fc_finish_job finish = {.sum = sum, .epilogue = &add, .m = 1, .n = entries};
        kernels->finish[dtype](&finish);
    }
    status = FC_OK;
done:
    fc_free(sum);
    fc_free(p.x_t);
    fc_free(p.grad_t);
    release(&s);
    return status;
}

fc_status fc_linear_backward_csr(fc_dtype dtype, const fc_upstream *up, const fc_matrix *x, const fc_csr *w,
                                 const fc_gradients *out, int threads) {
    const fc_kernels *kernels = fc_current();
    fc_matrix grad;
    void *owned;
    fc_status status = fc_upstream_rows(kernels, dtype, up, threads, &grad, &owned);
    if (status) return status;
    if (out->gx) {
        spmm p = {
            .kernels = kernels, .dtype = dtype, .dense = grad.data, .dense_i = grad.col_stride, .dense_j = grad.row_stride,
            .inner = grad.cols, .width = grad.rows,
        };
        status = product(w, &p, out->gx, 0, threads);
    }
    if (!status && out->values) status = stored_gradient(kernels, dtype, &grad, x, w, out->values, out->accumulate, threads);
    if (!status && out->gb) fc_column_sums(kernels, dtype, &grad, out->gb, out->accumulate, threads);
    fc_free(owned);
    return status;
}

fc_status fc_linear_backward_csr_x(fc_dtype dtype, const fc_upstream *up, const fc_csr *x, const fc_gradients *out,
                                   int threads) {
    const fc_kernels *kernels = fc_current();
    fc_matrix grad;
    void *owned;
    fc_status status = fc_upstream_rows(kernels, dtype, up, threads, &grad, &owned);
    if (status) return status;
    if (out->gw) {
        spmm p = {
            .kernels = kernels, .dtype = dtype, .dense = grad.data, .dense_i = grad.row_stride, .dense_j = grad.col_stride,
            .inner = grad.rows, .width = grad.cols,
        };
        status = product(x, &p, out->gw, out->accumulate, threads);
    }
    if (!status && out->gb) fc_column_sums(kernels, dtype, &grad, out->gb, out->accumulate, threads);
    fc_free(owned);
    return status;
}
