/* CSR operands. One routine, spmm(), serves four products: rows of a sparse matrix times a dense operand that is walked
 * in panels, 64 columns wide, so that the batch or the outputs run along the lanes.
 *
 *     product               sparse rows      dense operand, along the lanes    output
 *     y  = x wᵀ   (csr w)   w: n over k      xᵀ: k by m                        transposed into y
 *     gx = g w    (csr w)   wᵀ: k over n     gᵀ: n by m                        transposed into gx
 *     y  = x wᵀ   (csr x)   x: m over k      wᵀ: k by n                        y
 *     gw = gᵀ x   (csr x)   xᵀ: k over m     g: m by n                         transposed into gw
 *
 * gx of a few rows of g, and gw of a few columns, go by spmm_t(), which takes the sparse rows as they are stored, where these
 * name each column often enough.
 */
#include "dispatch.h"
#include "gemm.h"
#include "indices.h"
#include "memory.h"
#include "packed.h"
#include "reduce.h"
#include "threads.h"

#include <stdatomic.h>
#include <string.h>

/* ---- Structure ---------------------------------------------------------------------------------------------------- */

/* Whether all of some indices are in range. A block at a time without a branch each, and of a length that the compiler makes
 * whole vectors of. */
static int indices_fit(const void *indices, int bytes, ptrdiff_t cols, int64_t begin, int64_t end) {
    int64_t e = begin;
    if (bytes == 8) {
        uint64_t bad = 0;
        for (; e < end; e++) bad |= (uint64_t)((const int64_t *)indices)[e] >= (uint64_t)cols;
        return !bad;
    }
    if (!cols) return begin >= end;
    /* The sign of i | (cols - 1 - i) is set where i is negative or too large. */
    const uint32_t *index = indices, last = cols > INT32_MAX ? INT32_MAX : (uint32_t)cols - 1;
    uint32_t bad = 0;
    for (; e + 16 <= end; e += 16)
        for (int i = 0; i < 16; i++) bad |= index[e + i] | (last - index[e + i]);
    for (; e < end; e++) bad |= index[e] | (last - index[e]);
    return !(bad >> 31);
}

fc_csr_fault fc_csr_check_places(const fc_csr *csr, ptrdiff_t *at) {
    *at = 0;
    int64_t last = read_index(csr->indptr, csr->index_bytes, 0);
    if (last != 0) return FC_CSR_START;
    ptrdiff_t r = 0;
    if (csr->index_bytes == 4 && csr->nnz <= INT32_MAX) {
        /* As far as all is well, without a branch for each: the sign of b - a and of nnz - b, none of which overflows, for a
         * and b are not negative where those before them are in order. */
        const uint32_t *places = csr->indptr, most = (uint32_t)csr->nnz;
        for (; r + 16 <= csr->rows; r += 16) {
            uint32_t bad = 0;
            for (int i = 0; i < 16; i++)
                bad |= places[r + i + 1] | (places[r + i + 1] - places[r + i]) | (most - places[r + i + 1]);
            if (bad >> 31) break;
        }
        last = places[r];
    }
    for (; r < csr->rows; r++) {
        const int64_t next = read_index(csr->indptr, csr->index_bytes, r + 1);
        *at = next < last ? r : r + 1;
        if (next < last) return FC_CSR_FALLS;
        if (next > csr->nnz) return FC_CSR_OVERRUNS;
        last = next;
    }
    return FC_CSR_OK;
}

fc_csr_fault fc_csr_check(const fc_csr *csr, ptrdiff_t *at) {
    const fc_csr_fault fault = fc_csr_check_places(csr, at);
    if (fault) return fault;
    const int64_t last = read_index(csr->indptr, csr->index_bytes, csr->rows);
    if (indices_fit(csr->indices, csr->index_bytes, csr->cols, 0, last)) return FC_CSR_OK;
    for (*at = 0;; ++*at) {
        const int64_t c = read_index(csr->indices, csr->index_bytes, *at);
        if (c < 0 || c >= csr->cols) return FC_CSR_INDEX;
    }
}

/* Rows of a sparse matrix as kernels read them. */
typedef struct structure {
    const void *places;    /* where each row begins, and the last one ends */
    int place_bytes;
    const void *indices;
    int index_bytes;
    ptrdiff_t rows;
    int64_t *begin;        /* places, when they are ours */
    void *owned;           /* indices, likewise */
    void *values;          /* NULL, or in the order of these rows; owned */
} structure;

static inline int64_t place_of(const structure *s, ptrdiff_t row) { return read_index(s->places, s->place_bytes, row); }

static void release(structure *s) {
    fc_free(s->begin);
    fc_free(s->values);
    fc_free(s->owned);
}

static structure as_stored(const fc_csr *csr) {
    return (structure){.places = csr->indptr, .place_bytes = csr->index_bytes, .indices = csr->indices,
                       .index_bytes = csr->index_bytes, .rows = csr->rows};
}

/* The same with places of 8 bytes. */
static fc_status with_places(const fc_csr *csr, structure *s) {
    *s = as_stored(csr);
    s->begin = fc_alloc((size_t)(csr->rows + 1) * sizeof *s->begin);
    if (!s->begin) return FC_NO_MEMORY;
    for (ptrdiff_t r = 0; r <= csr->rows; r++) s->begin[r] = place_of(s, r);
    s->places = s->begin;
    s->place_bytes = 8;
    return FC_OK;
}

/* The transpose's rows and values: a counting sort, so entries of a column keep the order of their rows. */
static fc_status transposed(fc_dtype dtype, const fc_csr *csr, structure *s) {
    const int64_t entries = read_index(csr->indptr, csr->index_bytes, csr->rows);
    *s = (structure){.place_bytes = 8, .index_bytes = csr->rows <= INT32_MAX ? 4 : 8, .rows = csr->cols};
    s->begin = fc_alloc((size_t)(csr->cols + 2) * sizeof *s->begin);
    s->places = s->begin;
    s->indices = s->owned = fc_alloc((size_t)(entries * s->index_bytes));
    s->values = fc_alloc((size_t)(entries * fc_size(dtype)));
    if (!s->begin || !s->owned || !s->values) {
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
            if (s->index_bytes == 4) ((int32_t *)s->owned)[place] = (int32_t)r;
            else ((int64_t *)s->owned)[place] = r;
            if (dtype == FC_F32) ((float *)s->values)[place] = ((const float *)csr->values)[e];
            else ((double *)s->values)[place] = ((const double *)csr->values)[e];
        }
    }
    return FC_OK;
}

/* A row that is shared out to several threads in numeric blocks. */
typedef struct long_row {
    ptrdiff_t row;
    int64_t begin, end;
    ptrdiff_t block;       /* its first one among the blocks of all long rows */
} long_row;

/* The first row at which at least a share of the entries (and rows themselves, which cost about as much) lie behind, long
 * rows apart. */
static ptrdiff_t row_at(const structure *s, const long_row *cut, ptrdiff_t cuts, double share) {
    int64_t apart = 0;
    for (ptrdiff_t i = 0; i < cuts; i++) apart += cut[i].end - cut[i].begin;
    const double target = share * (double)(place_of(s, s->rows) - apart + s->rows);
    ptrdiff_t low = 0, high = s->rows;
    while (low < high) {
        const ptrdiff_t middle = low + (high - low) / 2;
        int64_t behind = place_of(s, middle) + middle;
        for (ptrdiff_t i = 0; i < cuts && cut[i].row < middle; i++) behind -= cut[i].end - cut[i].begin;
        if ((double)behind < target) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* ---- Sparse times dense ------------------------------------------------------------------------------------------- */

enum { TILE_ROWS = 64 };

/* Bytes of dense rows that a tile of rows goes over, when it takes all columns of them at once: what comes in together
 * with a line is then still there. */
static const ptrdiff_t TILE_BYTES = 128 << 10;
/* Bytes of sums of long rows' blocks at a time. */
static const ptrdiff_t CUT_BYTES = 64 << 20;

typedef struct spmm {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const structure *sparse;
    const void *values;
    const void *panels;          /* the dense operand, packed, or NULL: */
    const char *dense;           /* element (i, j) at dense + i * dense_i + j * dense_j */
    ptrdiff_t dense_i, dense_j;  /* bytes */
    ptrdiff_t inner, width;      /* its shape */
    int transpose;               /* the sum of row r and column j belongs at y[j, r], not y[r, j] */
    const fc_epilogue *epilogue;
    atomic_int *bad;             /* NULL, or set where an index is out of range */
    /* What follows is spmm_run's. */
    int gather;                  /* a copy of dense's row for each entry, instead of a panel of all rows */
    int in_place;                /* dense is read where it stands */
    int by_rows;                 /* all columns of some rows, then of the next; else all rows of a panel */
    int straight;                /* sums are written where they belong */
    int fetch;                   /* as in fc_spmm_job */
    ptrdiff_t panel, count;      /* columns at a time, and how many times */
    ptrdiff_t tile;              /* rows at a time */
    char *workspace;
    size_t panel_bytes, tile_bytes;
    int shares;
    long_row *cut;
    ptrdiff_t cuts, blocks;
    char *block_sums;
    ptrdiff_t cut_col, cut_n;    /* the columns that block_sums are of */
} spmm;

static int fits(const spmm *p, int64_t begin, int64_t end) {
    if (!p->bad || indices_fit(p->sparse->indices, p->sparse->index_bytes, p->inner, begin, end)) return 1;
    atomic_store_explicit(p->bad, 1, memory_order_relaxed);
    return 0;
}

/* Finished sums of m rows and n columns go to y. across: room for a tile. */
static void deliver(const fc_kernels *kernels, fc_dtype dtype, const fc_epilogue *epilogue, int transpose, char *across,
                    const void *sum, ptrdiff_t sum_row, ptrdiff_t row, ptrdiff_t m, ptrdiff_t col, ptrdiff_t n) {
    const ptrdiff_t size = fc_size(dtype);
    fc_finish_job finish = {.sum = sum, .sum_row = sum_row, .epilogue = epilogue, .row = row, .col = col, .m = m, .n = n};
    if (transpose) {
        if (m > 1) {
            fc_pack_job turn = {.src = sum, .src_j = sum_row * size, .src_k = size, .dst = across, .step = TILE_ROWS, .n = m,
                                .k = n};
            kernels->pack[dtype](&turn);
        }
        finish = (fc_finish_job){.sum = m > 1 ? across : sum, .sum_row = m > 1 ? TILE_ROWS : 1, .epilogue = epilogue,
                                 .row = col, .col = row, .m = n, .n = m};
    }
    kernels->finish[dtype](&finish);
}

static fc_spmm_job job_of(const spmm *p) {
    return (fc_spmm_job){
        .values = p->values, .indices = p->sparse->indices, .index_bytes = p->sparse->index_bytes,
        .fetch = p->fetch, .places = place_of(p->sparse, p->sparse->rows),
    };
}

/* The dense operand's columns from `col` on, as the job takes them: a copy for the rows from `begin` to `end`, if it has to
 * be one. */
static void dense_of_panel(const spmm *p, char *workspace, ptrdiff_t at, ptrdiff_t begin, ptrdiff_t end, fc_spmm_job *job) {
    const ptrdiff_t size = fc_size(p->dtype), col = at * p->panel;
    const ptrdiff_t n = at + 1 < p->count ? p->panel : p->width - col;
    const char *dense = p->dense + col * p->dense_j;
    job->n = n;
    if (p->panels) {
        job->dense = (const char *)p->panels + col * p->inner * size;
        job->dense_step = fc_panel_step(p->kernels, p->dtype, p->width, at);
        return;
    }
    if (p->in_place) {
        job->dense = dense;
        job->dense_step = p->dense_i / size;
        return;
    }
    job->dense = workspace;
    job->dense_step = fc_full_lanes(p->kernels, p->dtype, n);
    if (!p->gather) {
        fc_pack_job pack = {.src = dense, .src_j = p->dense_j, .src_k = p->dense_i, .dst = workspace, .step = job->dense_step,
                            .n = n, .k = p->inner};
        p->kernels->pack[p->dtype](&pack);
        return;
    }
    for (int64_t e = place_of(p->sparse, begin); e < place_of(p->sparse, end); e++) {
        const int64_t row = read_index(p->sparse->indices, p->sparse->index_bytes, e);
        if (!fits(p, e, e + 1)) continue;
        fc_pack_job pack = {.src = dense + row * p->dense_i, .src_j = p->dense_j, .src_k = size,
                            .dst = workspace + e * job->dense_step * size, .step = job->dense_step, .n = n, .k = 1};
        p->kernels->pack[p->dtype](&pack);
    }
    job->indices = NULL;
}

/* The columns of the job, from `col` on, of m rows. */
static void multiply_tile(const spmm *p, char *workspace, fc_spmm_job *job, ptrdiff_t row, ptrdiff_t m, ptrdiff_t col) {
    const ptrdiff_t size = fc_size(p->dtype);
    int64_t begin[TILE_ROWS + 1];
    for (ptrdiff_t r = 0; r <= m; r++) begin[r] = place_of(p->sparse, row + r);
    if (!p->gather && !fits(p, begin[0], begin[m])) return;
    job->begin = begin;
    job->rows = m;
    if (p->straight) {
        job->sum_row = p->transpose ? 1 : p->epilogue->y_row / size;
        job->sum = (char *)p->epilogue->y + row * job->sum_row * size + col * size;
        p->kernels->spmm[p->dtype](job);
        return;
    }
    job->sum = workspace + p->panel_bytes;
    job->sum_row = p->panel + p->kernels->lanes[p->dtype];
    p->kernels->spmm[p->dtype](job);
    deliver(p->kernels, p->dtype, p->epilogue, p->transpose, workspace + p->panel_bytes + p->tile_bytes, job->sum,
            job->sum_row, row, m, col, job->n);
}

/* Rows from `begin` to `end`, without the long ones. */
static void multiply_rows(const spmm *p, char *workspace, fc_spmm_job *job, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t at) {
    ptrdiff_t next = 0;
    while (next < p->cuts && p->cut[next].row < begin) next++;
    for (ptrdiff_t row = begin; row < end;) {
        const ptrdiff_t stop = next < p->cuts && p->cut[next].row < end ? p->cut[next].row : end;
        if (row == stop) { /* a long one */
            next++;
            row++;
            continue;
        }
        const ptrdiff_t m = stop - row < p->tile ? stop - row : p->tile;
        if (!p->by_rows) {
            multiply_tile(p, workspace, job, row, m, at * p->panel);
        } else if (p->straight) {
            job->n = p->width;
            multiply_tile(p, workspace, job, row, m, 0);
        } else {
            for (ptrdiff_t i = 0; i < p->count; i++) {
                dense_of_panel(p, workspace, i, row, row + m, job);
                multiply_tile(p, workspace, job, row, m, i * p->panel);
            }
        }
        row += m;
    }
}

/* Panels side by side make one long list of rows, cut into contiguous parts with equal shares of the entries: so a
 * thread packs few panels, and a row with many entries weighs what it costs. */
static void spmm_share(void *context, int thread, ptrdiff_t share) {
    const spmm *p = context;
    char *workspace = p->workspace + (size_t)thread * (p->panel_bytes + 2 * p->tile_bytes);
    const ptrdiff_t lists = p->by_rows ? 1 : p->count;
    const double begin = (double)lists * (double)share / p->shares, end = (double)lists * (double)(share + 1) / p->shares;
    for (ptrdiff_t at = (ptrdiff_t)begin; at < lists && (double)at < end; at++) {
        const double from = begin > (double)at ? begin - (double)at : 0, to = end < (double)at + 1 ? end - (double)at : 1;
        const ptrdiff_t first = from > 0 ? row_at(p->sparse, p->cut, p->cuts, from) : 0;
        const ptrdiff_t last = to < 1 ? row_at(p->sparse, p->cut, p->cuts, to) : p->sparse->rows;
        if (first >= last) continue;
        fc_spmm_job job = job_of(p);
        dense_of_panel(p, workspace, at, first, last, &job);
        multiply_rows(p, workspace, &job, first, last, at);
    }
}

/* Blocks of long rows: each a row of its own, whose sum waits for those before it. */
static void cut_share(void *context, int thread, ptrdiff_t share) {
    const spmm *p = context;
    const ptrdiff_t size = fc_size(p->dtype);
    const ptrdiff_t first = p->blocks * share / p->shares, last = p->blocks * (share + 1) / p->shares;
    (void)thread;
    for (ptrdiff_t i = 0; i < p->cuts; i++) {
        const long_row *c = &p->cut[i];
        const ptrdiff_t end = c->block + (c->end - c->begin + FC_BLOCK - 1) / FC_BLOCK;
        for (ptrdiff_t block = c->block > first ? c->block : first; block < end && block < last;) {
            int64_t begin[TILE_ROWS + 1];
            ptrdiff_t m = 0;
            for (; m < TILE_ROWS && block + m < end && block + m < last; m++)
                begin[m] = c->begin + (block + m - c->block) * FC_BLOCK;
            const int64_t stop = c->begin + (block + m - c->block) * FC_BLOCK;
            begin[m] = stop < c->end ? stop : c->end;
            fc_spmm_job job = job_of(p);
            job.begin = begin;
            job.rows = m;
            job.n = p->cut_n;
            job.dense = p->dense + p->cut_col * p->dense_j;
            job.dense_step = p->dense_i / size;
            job.sum_row = p->cut_n;
            job.sum = p->block_sums + block * job.sum_row * size;
            if (fits(p, begin[0], begin[m])) p->kernels->spmm[p->dtype](&job);
            block += m;
        }
    }
}

/* And their sum, in order. */
static void cut_sum(void *context, int thread, ptrdiff_t at) {
    const spmm *p = context;
    const long_row *c = &p->cut[at];
    const ptrdiff_t size = fc_size(p->dtype), blocks = (c->end - c->begin + FC_BLOCK - 1) / FC_BLOCK;
    char *total = p->block_sums + c->block * p->cut_n * size;
    (void)thread;
    const fc_epilogue add = {.residual = total, .y = total};
    for (ptrdiff_t b = 1; b < blocks; b++)
        deliver(p->kernels, p->dtype, &add, 0, NULL, total + b * p->cut_n * size, 0, 0, 1, 0, p->cut_n);
    deliver(p->kernels, p->dtype, p->epilogue, p->transpose, NULL, total, 0, c->row, 1, p->cut_col, p->cut_n);
}

/* Rows with so many entries that they would keep one thread busy while the others wait. */
static fc_status find_long_rows(spmm *p, int team) {
    const int64_t entries = place_of(p->sparse, p->sparse->rows);
    int64_t limit = entries / (4 * team);
    if (limit < 16 * FC_BLOCK) limit = 16 * FC_BLOCK;
    if (team == 1 || !p->in_place || entries <= limit) return FC_OK;
    p->cut = fc_alloc((size_t)(entries / limit + 1) * sizeof *p->cut);
    if (!p->cut) return FC_NO_MEMORY;
    for (ptrdiff_t r = 0; r < p->sparse->rows; r++) {
        const int64_t begin = place_of(p->sparse, r), end = place_of(p->sparse, r + 1);
        if (end - begin <= limit) continue;
        p->cut[p->cuts++] = (long_row){r, begin, end, p->blocks};
        p->blocks += (end - begin + FC_BLOCK - 1) / FC_BLOCK;
    }
    return FC_OK;
}

static fc_status multiply_long_rows(spmm *p, int team) {
    const ptrdiff_t size = fc_size(p->dtype), lanes = p->kernels->lanes[p->dtype];
    ptrdiff_t most = CUT_BYTES / (p->blocks * size) / lanes * lanes;
    if (most < 4 * lanes) most = 4 * lanes;
    if (most + lanes > p->width) most = p->width;
    p->block_sums = fc_alloc((size_t)(p->blocks * (most < p->width ? most + lanes : most) * size));
    if (!p->block_sums) return FC_NO_MEMORY;
    p->shares = team * 4;
    for (p->cut_col = 0; p->cut_col < p->width; p->cut_col += p->cut_n) {
        const ptrdiff_t left = p->width - p->cut_col;
        p->cut_n = left < most + lanes ? left : most; /* what is left over is never less than a vector */
        fc_parallel_for(team, p->shares, cut_share, p);
        fc_parallel_for(team, p->cuts, cut_sum, p);
    }
    fc_free(p->block_sums);
    return FC_OK;
}

static fc_status spmm_run(spmm *p, int threads) {
    if (!p->sparse->rows || !p->width) return FC_OK;
    const ptrdiff_t size = fc_size(p->dtype), lanes = p->kernels->lanes[p->dtype], l2 = (ptrdiff_t)fc_l2_bytes();
    const int64_t entries = place_of(p->sparse, p->sparse->rows);
    const fc_epilogue *e = p->epilogue;
    const int whole = p->width == 1 || p->width >= lanes; /* no row has to be padded */
    p->panel = p->panels ? p->kernels->panel[p->dtype] : p->kernels->width[p->dtype];
    p->count = (p->width + p->panel - 1) / p->panel;
    p->tile = TILE_ROWS;
    p->in_place = !p->panels && whole && (p->dense_j == size || p->width == 1) && p->dense_i % size == 0 &&
                  (uintptr_t)p->dense % (uintptr_t)size == 0;
    p->straight = p->in_place && !e->bias && !e->residual && !e->z && e->activation == FC_IDENTITY &&
                  (!p->transpose || p->width == 1) && e->y_row % size == 0;
    const int team = fc_team_for((double)(entries + p->sparse->rows) * (double)(p->width + FC_ENTRY), threads);
    const double touched = (double)(entries < p->inner ? entries : p->inner) * (double)(p->width * size);
    const int afar = touched > (double)fc_l3_bytes() / 2 ? FC_FROM_MEMORY : FC_FROM_L3;
    if (p->in_place) {
        /* The last panel also takes what would be less than a vector. */
        if (p->count > 1 && p->width % p->panel && p->width % p->panel < lanes) p->count--;
        /* A panel that stays in L2 while many entries meet each row of it is worth going over all rows for. */
        p->by_rows = p->inner * p->width * size <= l2 / 2 || p->inner * p->panel * size > l2 / 2 || entries < 4 * p->inner;
        p->fetch = p->by_rows && p->width > 1 && p->inner * p->width * size > l2 / 2 ? afar : 0;
        if (p->fetch) {
            p->tile = (ptrdiff_t)((double)TILE_BYTES * (double)p->sparse->rows / ((double)(entries + 1) * (double)(p->width * size)));
            p->tile = p->tile < 2 ? 2 : p->tile > TILE_ROWS ? TILE_ROWS : p->tile;
        }
        if (find_long_rows(p, team)) return FC_NO_MEMORY;
    } else {
        p->fetch = p->panels && p->inner * p->panel * size > l2 / 2 ? afar : 0;
        /* With fewer entries than rows of the dense operand, only what they name is copied. */
        const ptrdiff_t step = p->width < p->panel ? fc_full_lanes(p->kernels, p->dtype, p->width) : p->panel;
        p->gather = !p->panels && !p->transpose && entries < p->inner;
        if (!p->panels) p->panel_bytes = (size_t)((p->gather ? entries : p->inner) * step * size + 63) / 64 * 64;
    }
    p->tile_bytes = (size_t)(TILE_ROWS * (p->panel + lanes) * size);
    p->workspace = fc_alloc((size_t)team * (p->panel_bytes + 2 * p->tile_bytes));
    fc_status status = p->workspace ? FC_OK : FC_NO_MEMORY;
    /* What is copied for a share is copied for each. */
    p->shares = p->in_place && team > 1 ? 8 * team : team;
    if (!status) fc_parallel_for(team, p->shares, spmm_share, p);
    if (!status && p->cuts) status = multiply_long_rows(p, team);
    fc_free(p->workspace);
    fc_free(p->cut);
    return status;
}

/* ---- Times the transpose --------------------------------------------------------------------------------------------- */

/* The last entry of a numeric block of a row of out. */
typedef struct full_block {
    int64_t last;
    ptrdiff_t row;
    int first;             /* of this row's blocks */
} full_block;

/* out[c] gets its products in the order in which they are stored: a row of dense meets the entries of one row and is added to
 * the rows of out that they name. */
typedef struct spmm_t {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const structure *sparse;
    const void *values;
    const char *dense;           /* as in spmm */
    ptrdiff_t dense_i, dense_j;
    ptrdiff_t cols, width;       /* of out: rows, columns */
    int transpose;
    const fc_epilogue *epilogue;
    atomic_int *bad;
    int in_blocks;               /* sums are those of numeric blocks, as if the transpose had been made; else of parts: */
    int parts, group;            /* of the entries; panels at a time */
    full_block *full;
    ptrdiff_t fulls;
    uint8_t *begun, *filled;     /* of each row of out: entries of its last block; whether it has full ones */
    int in_place, straight;
    ptrdiff_t panel, first;      /* columns at a time; the first panel of the group */
    char *sums, *workspace;
    size_t sum_bytes, tile_bytes;
} spmm_t;

/* The entries are cut at fixed places into as many parts as are worth a row of sums each, so that several threads can work
 * on one column: a function of the structure alone. */
static int parts_of(int64_t entries, ptrdiff_t cols) {
    if (entries < 1 << 16) return 1;
    return entries >= 256 * cols ? 8 : entries >= 64 * cols ? 4 : entries >= 16 * cols ? 2 : 1;
}

static ptrdiff_t panel_width(const spmm_t *p, ptrdiff_t at) {
    const ptrdiff_t left = p->width - at * p->panel;
    return left < p->panel ? left : p->panel;
}

static fc_status find_full_blocks(spmm_t *p) {
    const structure *s = p->sparse;
    const int64_t entries = place_of(s, s->rows);
    p->full = fc_alloc((size_t)(entries / FC_BLOCK + 1) * sizeof *p->full);
    p->begun = fc_alloc((size_t)p->cols * 2);
    if (!p->full || !p->begun) return FC_NO_MEMORY;
    p->filled = p->begun + p->cols;
    memset(p->begun, 0, (size_t)p->cols * 2);
    for (int64_t e = 0; e < entries; e++) {
        const ptrdiff_t row = read_index(s->indices, s->index_bytes, e);
        if (++p->begun[row] < FC_BLOCK) continue;
        p->full[p->fulls++] = (full_block){e, row, !p->filled[row]};
        p->begun[row] = 0;
        p->filled[row] = 1;
    }
    return FC_OK;
}

/* total = sum, or total + sum. */
static void add_row(const spmm_t *p, int first, char *total, const char *sum, ptrdiff_t n) {
    const fc_epilogue add = {.residual = total, .y = total};
    if (first) memcpy(total, sum, (size_t)(n * fc_size(p->dtype)));
    else deliver(p->kernels, p->dtype, &add, 0, NULL, sum, 0, 0, 1, 0, n);
}

/* The entries from `from` to `to`, times n columns of dense from `col` on. *at: a row that is not behind the first of them, and
 * then the last one's. */
static void scatter_range(const spmm_t *p, fc_spmm_t_job *job, char *copy, ptrdiff_t *at, int64_t from, int64_t to, ptrdiff_t col,
                          ptrdiff_t n) {
    const structure *s = p->sparse;
    const ptrdiff_t size = fc_size(p->dtype), step = fc_full_lanes(p->kernels, p->dtype, n);
    ptrdiff_t row = *at;
    while (row < s->rows && place_of(s, row + 1) <= from) row++;
    while (row < s->rows && place_of(s, row) < to) {
        int64_t begin[TILE_ROWS + 1];
        for (job->rows = 0; job->rows < TILE_ROWS && row + job->rows < s->rows; job->rows++) {
            const int64_t place = place_of(s, row + job->rows);
            if (place >= to) break;
            begin[job->rows] = place < from ? from : place;
        }
        const int64_t end = place_of(s, row + job->rows);
        begin[job->rows] = end < to ? end : to;
        job->begin = begin;
        const char *dense = p->dense + row * p->dense_i + col * p->dense_j;
        if (p->in_place) {
            job->dense = dense;
            job->dense_step = p->dense_i / size;
        } else {
            fc_pack_job pack = {.src = dense, .src_j = p->dense_j, .src_k = p->dense_i, .dst = copy, .step = step, .n = n,
                                .k = job->rows};
            p->kernels->pack[p->dtype](&pack);
            job->dense = copy;
            job->dense_step = step;
        }
        if (!p->bad || indices_fit(s->indices, s->index_bytes, p->cols, begin[0], begin[job->rows])) p->kernels->spmm_t[p->dtype](job);
        else atomic_store_explicit(p->bad, 1, memory_order_relaxed);
        row += job->rows;
        *at = row - 1;
    }
}

/* Elements from row to row of sums: a row that is less than a vector is one, unless it stands in dense where it is read. */
static ptrdiff_t sum_step(const spmm_t *p, ptrdiff_t n) {
    const ptrdiff_t lanes = p->kernels->lanes[p->dtype];
    return p->in_blocks && !p->in_place && n > 1 && n < lanes ? lanes : n;
}

static void scatter_part(void *context, int thread, ptrdiff_t unit) {
    const spmm_t *p = context;
    const structure *s = p->sparse;
    const ptrdiff_t size = fc_size(p->dtype), lanes = p->kernels->lanes[p->dtype];
    const ptrdiff_t at = p->first + unit / p->parts, part = unit % p->parts, col = at * p->panel, n = panel_width(p, at);
    const int64_t entries = place_of(s, s->rows), from = entries * part / p->parts, to = entries * (part + 1) / p->parts;
    char *copy = p->workspace + (size_t)thread * 2 * p->tile_bytes;
    fc_spmm_t_job job = {.values = p->values, .indices = s->indices, .index_bytes = s->index_bytes, .n = n, .places = entries};
    const ptrdiff_t step = sum_step(p, n), row_bytes = step * size;
    if (p->straight) { /* zeros stand there already */
        job.out_step = p->transpose ? 1 : p->epilogue->y_row / size;
        job.out = (char *)p->epilogue->y + col * size;
    } else {
        job.n = job.out_step = step;
        job.out = p->sums + (size_t)unit * p->sum_bytes;
        memset(job.out, 0, (size_t)(p->cols * row_bytes));
    }
    job.fetch = p->cols * n * size > (ptrdiff_t)fc_l2_bytes() && n >= lanes;
    ptrdiff_t row = 0, high = s->rows; /* the row of the first entry */
    while (row < high) {
        const ptrdiff_t middle = row + (high - row) / 2;
        if (place_of(s, middle + 1) <= from) row = middle + 1;
        else high = middle;
    }
    if (!p->in_blocks) {
        scatter_range(p, &job, copy, &row, from, to, col, n);
        return;
    }
    char *sums = job.out, *totals = sums + p->cols * row_bytes;
    int64_t done = 0;
    for (ptrdiff_t i = 0; i < p->fulls; i++) {
        const full_block *b = &p->full[i];
        const ptrdiff_t skip = b->row * row_bytes;
        scatter_range(p, &job, copy, &row, done, b->last + 1, col, n);
        add_row(p, b->first, totals + skip, sums + skip, n);
        memset(sums + skip, 0, (size_t)row_bytes);
        done = b->last + 1;
    }
    scatter_range(p, &job, copy, &row, done, to, col, n);
    for (ptrdiff_t c = 0; c < p->cols; c++) {
        const ptrdiff_t skip = c * row_bytes;
        if (p->filled[c]) add_row(p, !p->begun[c], sums + skip, totals + skip, n);
    }
}

/* A tile of rows of out: its parts added up, in order. */
static void add_parts(void *context, int thread, ptrdiff_t unit) {
    const spmm_t *p = context;
    const ptrdiff_t size = fc_size(p->dtype);
    const ptrdiff_t tiles = (p->cols + TILE_ROWS - 1) / TILE_ROWS, tile = unit % tiles, at = p->first + unit / tiles;
    const ptrdiff_t row = tile * TILE_ROWS, m = p->cols - row < TILE_ROWS ? p->cols - row : TILE_ROWS;
    const ptrdiff_t n = panel_width(p, at);
    char *across = p->workspace + ((size_t)thread * 2 + 1) * p->tile_bytes;
    const ptrdiff_t step = sum_step(p, n);
    char *sum = p->sums + (size_t)(unit / tiles * p->parts) * p->sum_bytes + row * step * size;
    const fc_epilogue add = {.residual = sum, .y = sum};
    for (ptrdiff_t part = 1; part < p->parts; part++)
        deliver(p->kernels, p->dtype, &add, 0, NULL, sum + (size_t)part * p->sum_bytes, 0, 0, 1, 0, m * n);
    deliver(p->kernels, p->dtype, p->epilogue, p->transpose, across, sum, step, row, m, at * p->panel, n);
}

static fc_status spmm_t_run(spmm_t *p, int threads) {
    if (!p->cols || !p->width) return FC_OK;
    const ptrdiff_t size = fc_size(p->dtype), lanes = p->kernels->lanes[p->dtype], most = p->kernels->width[p->dtype];
    const int64_t entries = place_of(p->sparse, p->sparse->rows);
    const int team = fc_team_for((double)(entries + p->sparse->rows) * (double)(p->width + FC_ENTRY), threads);
    p->parts = p->in_blocks ? 1 : parts_of(entries, p->cols);
    p->in_place = (p->dense_j == size || p->width == 1) && p->dense_i % size == 0 &&
                  (uintptr_t)p->dense % (uintptr_t)size == 0;
    p->straight = !p->in_blocks && p->parts == 1 && (!p->transpose || p->width == 1) && p->epilogue->y_row % size == 0;
    /* Columns shared out evenly, in full vectors; as many as fit the registers at a time where they are copied. */
    const ptrdiff_t even = (p->width + team - 1) / team, vectors = (even + lanes - 1) / lanes * lanes;
    p->panel = p->width < lanes ? p->width : p->straight && p->in_place ? vectors : vectors < most ? vectors : most;
    while (p->in_blocks && p->panel > lanes && p->cols * p->panel * size > (ptrdiff_t)fc_l2_bytes() / 2)
        p->panel = (p->panel / 2 + lanes - 1) / lanes * lanes;
    const ptrdiff_t panels = (p->width + p->panel - 1) / p->panel, tiles = (p->cols + TILE_ROWS - 1) / TILE_ROWS;
    p->group = (team + p->parts - 1) / p->parts;
    if (p->group > panels) p->group = (int)panels;
    p->tile_bytes = (size_t)(TILE_ROWS * (p->panel + lanes) * size + 63) / 64 * 64;
    p->sum_bytes = p->straight ? 0 : (size_t)(p->cols * sum_step(p, p->panel) * size * (p->in_blocks ? 2 : 1) + 63) / 64 * 64;
    p->workspace = fc_alloc((size_t)team * 2 * p->tile_bytes);
    p->sums = fc_alloc((size_t)(p->group * p->parts) * p->sum_bytes);
    fc_status status = p->workspace && p->sums ? FC_OK : FC_NO_MEMORY;
    if (!status && p->in_blocks) status = find_full_blocks(p);
    for (p->first = 0; !status && p->first < panels; p->first += p->group) {
        const ptrdiff_t count = panels - p->first < p->group ? panels - p->first : p->group;
        fc_parallel_for(team, count * p->parts, scatter_part, p);
        if (!p->straight) fc_parallel_for(team, count * tiles, add_parts, p);
    }
    fc_free(p->begun);
    fc_free(p->full);
    fc_free(p->sums);
    fc_free(p->workspace);
    return status;
}

fc_status fc_sparse_product(fc_dtype dtype, const fc_csr *csr, int transposed, const fc_matrix *dense, const fc_matrix *out,
                            int threads) {
    const structure s = as_stored(csr);
    const ptrdiff_t size = fc_size(dtype);
    const int across = out->col_stride != size && out->cols != 1;
    const fc_epilogue epilogue = {.y = out->data, .y_row = across ? out->col_stride : out->row_stride};
    atomic_int bad = 0;
    fc_status status;
    if (transposed) {
        spmm_t p = {.kernels = fc_current(), .dtype = dtype, .sparse = &s, .values = csr->values, .dense = dense->data,
                    .dense_i = dense->row_stride, .dense_j = dense->col_stride, .cols = csr->cols, .width = dense->cols,
                    .transpose = across, .epilogue = &epilogue, .bad = &bad};
        status = spmm_t_run(&p, threads);
    } else {
        spmm p = {.kernels = fc_current(), .dtype = dtype, .sparse = &s, .values = csr->values, .dense = dense->data,
                  .dense_i = dense->row_stride, .dense_j = dense->col_stride, .inner = csr->cols, .width = dense->cols,
                  .transpose = across, .epilogue = &epilogue, .bad = &bad};
        status = spmm_run(&p, threads);
    }
    return status ? status : bad ? FC_BAD_INDEX : FC_OK;
}

/* ---- Forward ------------------------------------------------------------------------------------------------------ */

fc_status fc_linear_forward_csr(fc_dtype dtype, const fc_matrix *x, const fc_csr *w, const fc_epilogue *epilogue,
                                int threads) {
    const structure s = as_stored(w);
    spmm p = {
        .kernels = fc_current(), .dtype = dtype, .sparse = &s, .values = w->values, .dense = x->data, .dense_i = x->col_stride,
        .dense_j = x->row_stride, .inner = x->cols, .width = x->rows, .transpose = 1, .epilogue = epilogue,
    };
    return spmm_run(&p, threads);
}

fc_status fc_linear_forward_csr_x(fc_dtype dtype, const fc_csr *x, const fc_matrix *w, const fc_packed *packed,
                                  const fc_epilogue *epilogue, int threads) {
    const structure s = as_stored(x);
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
    return spmm_run(&p, threads);
}

/* ---- Backward ----------------------------------------------------------------------------------------------------- */

/* Up to such rows of dense, in bytes, each entry is sooner added where it belongs than sorted by columns before, if columns have
 * so many. */
enum { SCATTERED_BYTES = 512, SCATTERED_ENTRIES = 8 };

static fc_status product(const fc_csr *csr, spmm *p, const fc_matrix *out, int add, int threads) {
    const fc_epilogue epilogue = {
        .residual = add ? out->data : NULL, .residual_row = out->row_stride, .y = out->data, .y_row = out->row_stride,
    };
    const structure stored = as_stored(csr);
    if (p->width * fc_size(p->dtype) <= SCATTERED_BYTES && place_of(&stored, stored.rows) >= SCATTERED_ENTRIES * csr->cols) {
        spmm_t t = {.kernels = p->kernels, .dtype = p->dtype, .sparse = &stored, .values = csr->values, .dense = p->dense,
                    .dense_i = p->dense_i, .dense_j = p->dense_j, .cols = csr->cols, .width = p->width, .transpose = 1,
                    .epilogue = &epilogue, .in_blocks = 1};
        return spmm_t_run(&t, threads);
    }
    structure s;
    if (transposed(p->dtype, csr, &s)) return FC_NO_MEMORY;
    p->sparse = &s;
    p->values = s.values;
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
    char *grad_t, *x_t;          /* n (or k) rows of `step` elements of the batch; NULL: it is one, and read where it stands */
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
    const ptrdiff_t begin = share ? row_at(p->sparse, NULL, 0, (double)share / p->shares) : 0;
    const ptrdiff_t end = share + 1 < p->shares ? row_at(p->sparse, NULL, 0, (double)(share + 1) / p->shares) : p->sparse->rows;
    (void)thread;
    fc_sddmm_job job = {
        .indices = p->sparse->indices, .index_bytes = p->sparse->index_bytes, .begin = p->sparse->begin + begin,
        .rows = end - begin, .m = p->m == 1 ? 1 : (p->m + 15) / 16 * 16, .x = p->x_t ? p->x_t : p->x->data,
        .g = (p->grad_t ? p->grad_t : (const char *)p->grad->data) + begin * p->step * fc_size(p->dtype),
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
    if (with_places(w, &s)) return FC_NO_MEMORY;
    sddmm p = {.kernels = kernels, .dtype = dtype, .sparse = &s, .grad = grad, .x = x, .out = values};
    p.step = m < FC_BLOCK ? (m + 15) / 16 * 16 : FC_BLOCK;
    const int turned = m != 1 || grad->col_stride != size || x->col_stride != size || (uintptr_t)x->data % (uintptr_t)size;
    if (turned) {
        p.grad_t = fc_alloc((size_t)(grad->cols * p.step * size));
        p.x_t = fc_alloc((size_t)(x->cols * p.step * size));
    } else {
        p.step = 1;
    }
    /* With several blocks the sum is finished before it is added to what stands there. */
    const int64_t entries = s.begin[s.rows];
    const int apart = accumulate && m > FC_BLOCK;
    if (apart) p.out = sum = fc_alloc((size_t)(entries * size));
    if ((turned && (!p.grad_t || !p.x_t)) || (apart && !sum)) goto done;
    const int team = fc_team_for((double)entries * (double)((m < FC_BLOCK ? m : FC_BLOCK) + FC_ENTRY), threads);
    p.shares = team;
    if (!m && !accumulate) memset(values, 0, (size_t)(entries * size));
    for (; p.row < m; p.row += FC_BLOCK) {
        p.m = m - p.row < FC_BLOCK ? m - p.row : FC_BLOCK;
        p.add = p.row > 0 || (accumulate && !apart);
        if (turned) fc_parallel_for(team, p.shares, turn_blocks, &p);
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
    /* Of a few rows of the batch long vectors hold little, and what they store takes longer. */
    const fc_kernels *kernels = fc_current(), *shorter = fc_shorter(kernels);
    if (shorter && x->rows <= 4 * shorter->lanes[dtype]) kernels = shorter;
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
