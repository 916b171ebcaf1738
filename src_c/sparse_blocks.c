/* Sparse weights whose entries stand in blocks: how they are laid out, and the products with them. fastfc.h states the
 * order of summation of each layout, kernels.h what the kernels read. */
#include "dispatch.h"
#include "gemm.h"
#include "indices.h"
#include "memory.h"
#include "threads.h"
#include "values.h"

#include <stdlib.h>
#include <string.h>

/* What stands together: so many outputs by so many inputs, and of these inputs so many stored. */
typedef struct block_shape {
    ptrdiff_t outputs, inputs;
    int stored;
} block_shape;

static const block_shape shapes[] = {
    [FC_16X1] = {16, 1, 1}, [FC_1X16] = {1, 16, 16}, [FC_2OF4] = {1, 4, 2}, [FC_1OF4] = {1, 4, 1},
};

struct fc_blocks {
    fc_dtype dtype;
    fc_layout layout;
    ptrdiff_t n, k;
    ptrdiff_t panels, steps;     /* of 16 outputs, of 1, or of FC_QUADS; steps: of each panel of n:4 */
    int64_t *begin;              /* 16x1, 1x16: panels + 1 places, the first block of each */
    uint32_t *place;             /* and of each block its input, or its number along the inputs */
    uint32_t *codes;             /* n:4 */
    void *values;
    uint32_t *source;            /* NULL, or of each value: its entry in the csr's order */
    size_t codes_bytes, values_bytes;
};

/* ---- Packing ------------------------------------------------------------------------------------------------------ */

static int is_quads(fc_layout layout) { return shapes[layout].stored < shapes[layout].inputs; }
static ptrdiff_t rows_of_panel(fc_layout layout) { return is_quads(layout) ? FC_QUADS : shapes[layout].outputs; }

/* Of the rows first .. last - 1, which make up blocks side by side: a bit for each place of each block that is stored. */
static void mark(const fc_csr *csr, block_shape s, ptrdiff_t first, ptrdiff_t last, uint16_t *mask) {
    memset(mask, 0, (size_t)(csr->cols / s.inputs) * sizeof *mask);
    for (ptrdiff_t r = first; r < last; r++) {
        const int64_t end = read_index(csr->indptr, csr->index_bytes, r + 1);
        for (int64_t e = read_index(csr->indptr, csr->index_bytes, r); e < end; e++) {
            const int64_t c = read_index(csr->indices, csr->index_bytes, e);
            mask[c / s.inputs] |= (uint16_t)(1u << (s.outputs > 1 ? r - first : c % s.inputs));
        }
    }
}

static int bits(unsigned mask) {
    int count = 0;
    for (; mask; mask &= mask - 1) count++;
    return count;
}

int fc_blocks_fit(const fc_csr *csr, fc_layout layout) {
    const block_shape s = shapes[layout];
    if (csr->cols % s.inputs || (uint64_t)csr->cols > UINT32_MAX) return FC_UNFIT;
    uint16_t *mask = fc_alloc((size_t)(csr->cols / s.inputs + 1) * sizeof *mask);
    if (!mask) return FC_UNFIT;
    int fit = FC_WHOLE;
    int64_t places = 0;
    /* Where any part of a block will do, one that is not full says it all. */
    const int least = s.stored < s.inputs ? FC_FILLED : FC_WHOLE;
    for (ptrdiff_t r = 0; r < csr->rows && fit >= least; r += s.outputs) {
        const ptrdiff_t last = r + s.outputs < csr->rows ? r + s.outputs : csr->rows;
        const int full = s.outputs > 1 ? (int)(last - r) : s.stored;
        mark(csr, s, r, last, mask);
        for (ptrdiff_t u = 0; u < csr->cols / s.inputs; u++) {
            const int count = bits(mask[u]);
            places += count;
            if (count > full) fit = FC_UNFIT;
            else if (count < full && (count || s.stored < s.inputs) && fit) fit = FC_FILLED;
        }
    }
    fc_free(mask);
    /* A place that occurs twice becomes one. */
    return fit == FC_WHOLE && places != read_index(csr->indptr, csr->index_bytes, csr->rows) ? FC_FILLED : fit;
}

/* Values of one place add up; the zeros that fill up blocks are -0, so that what is stored keeps its bits. */
static void put(const fc_blocks *b, ptrdiff_t place, const void *values, int64_t e) {
    if (b->dtype == FC_F32) ((float *)b->values)[place] += ((const float *)values)[e];
    else ((double *)b->values)[place] += ((const double *)values)[e];
    if (b->source) b->source[place] = (uint32_t)e;
}

static int make_values(fc_blocks *b, ptrdiff_t count, int flags) {
    b->values_bytes = (size_t)(count * fc_size(b->dtype));
    b->values = fc_map(b->values_bytes);
    if (flags & FC_SPARSE_UPDATE) b->source = malloc((size_t)(count + 1) * sizeof *b->source);
    if (!b->values || (!b->source && flags & FC_SPARSE_UPDATE)) return 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        if (b->dtype == FC_F32) ((float *)b->values)[i] = -0.0f;
        else ((double *)b->values)[i] = -0.0;
        if (b->source) b->source[i] = FC_PADDING;
    }
    return 1;
}

/* Blocks are listed in order of their inputs; `mask` is room for the marks, `slot` for the number of each block. */
static int lay_out_lists(fc_blocks *b, const fc_csr *csr, uint16_t *mask, int64_t *slot, int flags) {
    const block_shape s = shapes[b->layout];
    const ptrdiff_t units = b->k / s.inputs;
    b->begin = malloc((size_t)(b->panels + 1) * sizeof *b->begin);
    if (!b->begin) return 0;
    int64_t count = 0;
    for (int fill = 0; fill < 2; fill++) {
        count = b->begin[0] = 0;
        for (ptrdiff_t p = 0; p < b->panels; p++) {
            const ptrdiff_t first = p * s.outputs, last = first + s.outputs < b->n ? first + s.outputs : b->n;
            mark(csr, s, first, last, mask);
            for (ptrdiff_t u = 0; u < units; u++)
                if (mask[u]) {
                    if (fill) b->place[count] = (uint32_t)u;
                    slot[u] = count++;
                }
            b->begin[p + 1] = count;
            for (ptrdiff_t r = first; fill && r < last; r++) {
                const int64_t end = read_index(csr->indptr, csr->index_bytes, r + 1);
                for (int64_t e = read_index(csr->indptr, csr->index_bytes, r); e < end; e++) {
                    const int64_t c = read_index(csr->indices, csr->index_bytes, e);
                    put(b, slot[c / s.inputs] * 16 + (s.outputs > 1 ? r - first : c % s.inputs), csr->values, e);
                }
            }
        }
        if (fill) continue;
        b->place = malloc((size_t)(count + 1) * sizeof *b->place);
        if (!b->place || !make_values(b, count * 16, flags)) return 0;
    }
    return 1;
}

/* The first `stored` places of a group that has fewer are filled up. */
static void fill_up(uint16_t *mask, ptrdiff_t groups, int stored) {
    for (ptrdiff_t g = 0; g < groups; g++)
        for (int i = 0; bits(mask[g]) < stored; i++) mask[g] |= (uint16_t)(1u << i);
}

static int lay_out_quads(fc_blocks *b, const fc_csr *csr, uint16_t *mask, int flags) {
    const block_shape s = shapes[b->layout];
    const ptrdiff_t groups = b->k / 4, coded = (b->steps + 15) / 16;
    b->codes_bytes = (size_t)(b->panels * coded * FC_QUADS) * sizeof *b->codes;
    b->codes = fc_map(b->codes_bytes);
    if (!b->codes || !make_values(b, b->panels * b->steps * FC_QUADS, flags)) return 0;
    memset(b->codes, 0, b->codes_bytes);
    for (ptrdiff_t r = 0; r < b->n; r++) {
        const ptrdiff_t p = r / FC_QUADS, lane = r % FC_QUADS;
        mark(csr, s, r, r + 1, mask);
        fill_up(mask, groups, s.stored);
        for (ptrdiff_t g = 0, step = 0; g < groups; g++)
            for (unsigned i = 0; i < 4; i++)
                if (mask[g] >> i & 1) {
                    b->codes[(p * coded + step / 16) * FC_QUADS + lane] |= i << step % 16 * 2;
                    step++;
                }
        const int64_t end = read_index(csr->indptr, csr->index_bytes, r + 1);
        for (int64_t e = read_index(csr->indptr, csr->index_bytes, r); e < end; e++) {
            const int64_t c = read_index(csr->indices, csr->index_bytes, e);
            const ptrdiff_t step = c / 4 * s.stored + bits(mask[c / 4] & ((1u << c % 4) - 1));
            put(b, (p * b->steps + step) * FC_QUADS + lane, csr->values, e);
        }
    }
    return 1;
}

static int lay_out(fc_blocks *b, const fc_csr *csr, int flags) {
    const ptrdiff_t units = b->k / shapes[b->layout].inputs;
    uint16_t *mask = fc_alloc((size_t)(units + 1) * sizeof *mask);
    int64_t *slot = fc_alloc((size_t)(units + 1) * sizeof *slot);
    const int done = mask && slot && (b->steps < 0 ? lay_out_lists(b, csr, mask, slot, flags) : lay_out_quads(b, csr, mask, flags));
    fc_free(mask);
    fc_free(slot);
    return done;
}

fc_blocks *fc_blocks_pack(fc_dtype dtype, const fc_csr *csr, fc_layout layout, int flags) {
    fc_blocks *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    const ptrdiff_t rows = rows_of_panel(layout);
    b->dtype = dtype;
    b->layout = layout;
    b->n = csr->rows;
    b->k = csr->cols;
    b->panels = (b->n + rows - 1) / rows;
    b->steps = is_quads(layout) ? b->k / 4 * shapes[layout].stored : -1;
    if (lay_out(b, csr, flags)) return b;
    fc_blocks_free(b);
    return NULL;
}

void fc_blocks_free(fc_blocks *b) {
    if (!b) return;
    if (b->values) fc_unmap(b->values, b->values_bytes);
    if (b->codes) fc_unmap(b->codes, b->codes_bytes);
    free(b->begin);
    free(b->place);
    free(b->source);
    free(b);
}

int64_t fc_blocks_entries(const fc_blocks *b) {
    if (is_quads(b->layout)) return b->n * b->steps;
    if (b->layout == FC_1X16) return b->begin[b->panels] * 16;
    int64_t entries = 0;
    for (ptrdiff_t p = 0; p < b->panels; p++) {
        const ptrdiff_t left = b->n - p * 16;
        entries += (b->begin[p + 1] - b->begin[p]) * (left < 16 ? left : 16);
    }
    return entries;
}

size_t fc_blocks_bytes(const fc_blocks *b) {
    const size_t source = b->source ? b->values_bytes / (size_t)fc_size(b->dtype) * sizeof *b->source : 0;
    if (is_quads(b->layout)) return b->values_bytes + b->codes_bytes + source;
    return b->values_bytes + source + (size_t)(b->panels + 1) * sizeof *b->begin + (size_t)b->begin[b->panels] * sizeof *b->place;
}

void fc_blocks_update(fc_blocks *b, const void *values, int threads) {
    fc_put_values(b->dtype, b->values, values, b->source, (ptrdiff_t)b->values_bytes / fc_size(b->dtype), threads);
}

void fc_blocks_unpack(const fc_blocks *b, void *values, int64_t *indices, int64_t *indptr) {
    const size_t size = (size_t)fc_size(b->dtype);
    const block_shape s = shapes[b->layout];
    const ptrdiff_t rows = rows_of_panel(b->layout), quads = is_quads(b->layout) ? b->steps : 0;
    int64_t at = 0;
    indptr[0] = 0;
    for (ptrdiff_t r = 0; r < b->n; r++) {
        const ptrdiff_t p = r / rows, lane = r % rows;
        for (ptrdiff_t step = 0; step < quads; step++, at++) {
            const uint32_t code = b->codes[(p * ((quads + 15) / 16) + step / 16) * FC_QUADS + lane];
            indices[at] = step / s.stored * 4 + (code >> step % 16 * 2 & 3);
            memcpy((char *)values + (size_t)at * size,
                   (const char *)b->values + (size_t)((p * quads + step) * FC_QUADS + lane) * size, size);
        }
        const int64_t end = b->begin ? b->begin[p + 1] : 0;
        for (int64_t e = b->begin ? b->begin[p] : 0; e < end; e++)
            for (ptrdiff_t i = 0; i < s.inputs; i++, at++) {
                indices[at] = b->place[e] * s.inputs + i;
                memcpy((char *)values + (size_t)at * size, (const char *)b->values + (size_t)(e * 16 + lane + i) * size, size);
            }
        indptr[r + 1] = at;
    }
}

/* ---- Forward ------------------------------------------------------------------------------------------------------ */

/* Units are strips of panels by splits of the rows. In a unit a group of panels, whose values stay in L2, meets all rows, a
 * tile of them after the other. (Spans of chains, so that a tile's part of x stays in L1 too, lost to their own cost.) */
typedef struct product {
    const fc_kernels *kernels;
    const fc_blocks *blocks;
    fc_matrix x;
    const fc_epilogue *epilogue;
    ptrdiff_t row;               /* of y where x's first one goes */
    ptrdiff_t width;             /* outputs of a panel */
    ptrdiff_t strips, splits;
    ptrdiff_t group;             /* panels at a time */
} product;

/* Steps of the panels before number p. */
static int64_t steps_before(const fc_blocks *b, ptrdiff_t p) { return b->begin ? b->begin[p] : p * b->steps; }

/* Ranges of panels with about equal numbers of steps: the first panel of number i of `count`. */
static ptrdiff_t range_begin(const fc_blocks *b, ptrdiff_t i, ptrdiff_t count) {
    const double weight = (double)(steps_before(b, b->panels) + b->panels) * (double)i / (double)count;
    ptrdiff_t low = 0, high = b->panels;
    while (low < high) {
        const ptrdiff_t middle = (low + high) / 2;
        if ((double)(steps_before(b, middle) + middle) < weight) low = middle + 1;
        else high = middle;
    }
    return low;
}

enum { NEAR = 16 }; /* entries */

/* Panels `panel` .. `panel` + panels - 1 times m rows from `row` on. */
static void run_group(const product *p, ptrdiff_t row, ptrdiff_t m, ptrdiff_t panel, ptrdiff_t panels) {
    const fc_blocks *b = p->blocks;
    const char *x = (const char *)p->x.data + row * p->x.row_stride;
    const ptrdiff_t col = panel * p->width, n = b->n - col, size = fc_size(b->dtype);
    if (b->layout == FC_16X1) {
        fc_panels_job job = {
            .x = x, .x_row = p->x.row_stride, .m = m, .values = b->values, .columns = b->place, .begin = b->begin + panel,
            .panels = panels, .epilogue = p->epilogue, .row = p->row + row, .col = col, .n = n,
        };
        /* What comes next: where few rows are done with an entry at once, what is near; else the next group, if that is whole. */
        if (m <= p->kernels->tile_rows) job.ahead = NEAR;
        else if (panel + 2 * panels <= b->panels) job.ahead = b->begin[panel + panels] - b->begin[panel];
        p->kernels->panels[b->dtype](&job);
    } else if (b->layout == FC_1X16) {
        fc_across_job job = {
            .x = x, .x_row = p->x.row_stride, .m = m, .values = b->values, .blocks = b->place, .begin = b->begin + panel,
            .epilogue = p->epilogue, .row = p->row + row, .col = col, .n = panels,
        };
        p->kernels->across[b->dtype](&job);
    } else {
        fc_quads_job job = {
            .x = x, .x_row = p->x.row_stride, .m = m,
            .values = (const char *)b->values + panel * b->steps * FC_QUADS * size,
            .places = b->codes + panel * ((b->steps + 15) / 16) * FC_QUADS, .panels = panels, .steps = b->steps,
            .of = shapes[b->layout].stored, .epilogue = p->epilogue, .row = p->row + row, .col = col, .n = n,
        };
        p->kernels->quads[b->dtype](&job);
    }
}

static void product_unit(void *context, int thread, ptrdiff_t unit) {
    const product *p = context;
    const ptrdiff_t split = unit / p->strips, strip = unit % p->strips;
    const ptrdiff_t first = range_begin(p->blocks, strip, p->strips), last = range_begin(p->blocks, strip + 1, p->strips);
    const ptrdiff_t share = p->x.rows / p->splits, longer = p->x.rows % p->splits;
    const ptrdiff_t row = share * split + (split < longer ? split : longer), m = share + (split < longer);
    (void)thread;
    for (ptrdiff_t panel = first; panel < last; panel += p->group)
        run_group(p, row, m, panel, last - panel < p->group ? last - panel : p->group);
}

/* Panels of a group, and tiles of rows of a unit, at most. */
enum { MOST_PANELS = 64, MOST_TILES = 32 };

/* x's rows are contiguous, and apart. */
static void forward_rows(const fc_kernels *kernels, const fc_matrix *x, ptrdiff_t row, const fc_blocks *b,
                         const fc_epilogue *epilogue, int threads) {
    product p = {.kernels = kernels, .blocks = b, .x = *x, .epilogue = epilogue, .row = row, .width = rows_of_panel(b->layout)};
    const int team = fc_team_for((double)(x->rows + 4) * (double)fc_blocks_entries(b), threads);
    const double bytes = (double)b->values_bytes / (double)b->panels, room = (double)fc_l2_bytes() / 2 / (bytes + 1);
    p.group = room < 1 ? 1 : room > MOST_PANELS ? MOST_PANELS : (ptrdiff_t)room;
    p.strips = (b->panels + p.group - 1) / p.group;
    if (team > 1 && p.strips < 8 * team) p.strips = 8 * team < b->panels ? 8 * team : b->panels;
    const ptrdiff_t rows = MOST_TILES * kernels->tile_rows;
    p.splits = (x->rows + rows - 1) / rows;
    fc_parallel_for(team, p.strips * p.splits, product_unit, &p);
}

/* ---- Forward, turned ---------------------------------------------------------------------------------------------- */

/* Panels with lanes along the batch. Units are strips of one or two vectors of the batch by ranges of panels; each packs its
 * strip of x, which L2 holds, and the values pass by. */
typedef struct turned {
    const fc_kernels *kernels;
    const fc_blocks *blocks;
    const fc_matrix *x;
    const fc_epilogue *epilogue;
    ptrdiff_t lanes, strips, ranges, group;
    ptrdiff_t x_bytes, thread_bytes; /* of a thread's workspace: for x, and for sums too */
    char *workspace;
} turned;

static void turned_unit(void *context, int thread, ptrdiff_t unit) {
    const turned *p = context;
    const fc_blocks *b = p->blocks;
    const ptrdiff_t strip = unit / p->ranges, range = unit % p->ranges;
    const ptrdiff_t first = range_begin(b, range, p->ranges), last = range_begin(b, range + 1, p->ranges);
    const ptrdiff_t row = strip * 2 * p->lanes, left = p->x->rows - row, m = left < 2 * p->lanes ? left : 2 * p->lanes;
    const int vecs = m > p->lanes ? 2 : 1;
    char *x = p->workspace + thread * p->thread_bytes, *sum = x + p->x_bytes;
    fc_pack_job pack = {
        .src = (const char *)p->x->data + row * p->x->row_stride, .src_j = p->x->row_stride, .src_k = p->x->col_stride,
        .dst = x, .step = vecs * p->lanes, .n = m, .k = p->x->cols,
    };
    p->kernels->pack[b->dtype](&pack);
    for (ptrdiff_t panel = first; panel < last; panel += p->group) {
        const ptrdiff_t panels = last - panel < p->group ? last - panel : p->group, col = 16 * panel, n = b->n - col;
        fc_panels_turned_job job = {
            .x = x, .vecs = vecs, .fetch = b->values_bytes > fc_l2_bytes() / 2, .values = b->values, .columns = b->place,
            .begin = b->begin + panel, .panels = panels, .sum = sum,
        };
        p->kernels->panels_turned[b->dtype](&job);
        fc_finish_job finish = {
            .sum = sum, .sum_row = vecs * p->lanes, .turned = 16 * p->group, .epilogue = p->epilogue, .row = row, .col = col,
            .m = m, .n = n < 16 * panels ? n : 16 * panels,
        };
        p->kernels->finish[b->dtype](&finish);
    }
}

/* To pack a strip takes as long as 8 blocks of each column, and is little beside 8 times that. */
enum { TURNING_COST = 64 };

static fc_status forward_turned(const fc_kernels *kernels, const fc_matrix *x, const fc_blocks *b, const fc_epilogue *epilogue,
                                int threads) {
    const ptrdiff_t lanes = kernels->lanes[b->dtype], row = 2 * lanes * fc_size(b->dtype);
    turned p = {.kernels = kernels, .blocks = b, .x = x, .epilogue = epilogue, .lanes = lanes};
    const int team = fc_team_for((double)(x->rows + 4) * (double)fc_blocks_entries(b), threads);
    p.strips = (x->rows + 2 * lanes - 1) / (2 * lanes);
    p.ranges = fc_ranges_for(team, p.strips, b->begin[b->panels] / (TURNING_COST * b->k + 1));
    if (p.ranges > b->panels) p.ranges = b->panels;
    p.group = FC_SMALL_L1 / (16 * row);
    p.x_bytes = (b->k * row + 63) / 64 * 64;
    p.thread_bytes = p.x_bytes + p.group * 16 * row;
    p.workspace = fc_alloc((size_t)(team * p.thread_bytes));
    if (!p.workspace) return FC_NO_MEMORY;
    fc_parallel_for(team, p.strips * p.ranges, turned_unit, &p);
    fc_free(p.workspace);
    return FC_OK;
}

/* So many rows of the batch, from the first on, lie along the lanes. */
static ptrdiff_t rows_turned(const fc_kernels *kernels, fc_dtype dtype, const fc_blocks *b, ptrdiff_t rows) {
    const ptrdiff_t lanes = kernels->lanes[dtype], size = fc_size(dtype);
    if (b->layout != FC_16X1 || b->k * 2 * lanes * size > (ptrdiff_t)fc_l3_bytes() / 4) return 0;
    /* Of shorter vectors more strips see each value, and a tile's rows share it as well. So there it pays only where an entry's
     * elements of x stand in lines of their own, beyond L1, and few other entries find these lines there. */
    const ptrdiff_t tile = kernels->tile_rows * b->k * size;
    if (lanes < 16 && (tile < 4 * (ptrdiff_t)fc_l1_bytes() || 3 * b->begin[b->panels] > b->panels * b->k)) return 0;
    /* A strip's last vector is worth it with over 3/4 of its lanes. What is left passes all values again. */
    const ptrdiff_t rest = rows % lanes;
    if (4 * rest > 3 * lanes) return rows;
    return rest && rows < 2 * lanes && 2 * b->values_bytes > fc_l3_bytes() ? 0 : rows - rest;
}

fc_status fc_linear_forward_blocks(fc_dtype dtype, const fc_matrix *x, const fc_blocks *b, const fc_epilogue *epilogue,
                                   int threads) {
    if (!x->rows || !b->n) return FC_OK;
    const fc_kernels *kernels = fc_current();
    fc_matrix strips = *x, rest = *x, apart;
    strips.rows = rows_turned(kernels, dtype, b, x->rows);
    rest.rows = x->rows - strips.rows;
    rest.data = (char *)x->data + strips.rows * x->row_stride;
    void *owned = NULL; /* all memory is there before anything is written */
    if (rest.rows && fc_rows_apart(kernels, dtype, &rest, threads, &apart, &owned)) return FC_NO_MEMORY;
    const fc_status status = strips.rows ? forward_turned(kernels, &strips, b, epilogue, threads) : FC_OK;
    if (rest.rows && !status) forward_rows(kernels, &apart, strips.rows, b, epilogue, threads);
    fc_free(owned);
    return status;
}
