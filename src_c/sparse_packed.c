/* Packed sparse weights: how they are laid out, and the products with them. fastfc.h states the order of summation,
 * kernels.h (fc_sparse_group) the layout of a segment.
 *
 *            k:  tile 0    tile 1    tile 2
 *             +---------+---------+---------+
 *     block 0 | segment | segment | segment |   A tile of x, its rows as wide as some vectors, stays in L1 while all
 *             +---------+---------+---------+   segments below it pass over it; the sums of their outputs wait in L2.
 *     block 1 | segment | segment | segment |   Blocks have about equal numbers of entries, so threads share them out.
 *             +---------+---------+---------+
 */
#include "dispatch.h"
#include "indices.h"
#include "memory.h"
#include "reduce.h"
#include "threads.h"
#include "values.h"

#include <stdlib.h>
#include <string.h>

struct fc_sparse {
    fc_dtype dtype;
    ptrdiff_t n, k, nnz;
    ptrdiff_t tile, tiles, blocks;
    size_t places;
    ptrdiff_t *block;        /* blocks + 1: the first row of each */
    ptrdiff_t *segment;      /* blocks * tiles + 1: the first group of each, tile after tile of a block */
    fc_sparse_group *groups;
    int step_bytes;
    void *values;
    void *steps;             /* right behind the values */
    uint32_t *source;        /* NULL, or of each place: its entry in the csr's order */
};

/* ---- Packing ------------------------------------------------------------------------------------------------------ */

/* Rows of entries, each entry a column and where it came from. */
typedef struct rows {
    int64_t *begin;          /* count + 1 places, and one of slack */
    int64_t *column, *source;
    ptrdiff_t count;
} rows;

static void release(rows *r) {
    fc_free(r->begin);
    fc_free(r->column);
    fc_free(r->source);
}

static int make_rows(rows *r, ptrdiff_t count, int64_t entries) {
    r->count = count;
    r->begin = fc_alloc((size_t)(count + 2) * sizeof *r->begin);
    r->column = fc_alloc((size_t)entries * sizeof *r->column);
    r->source = fc_alloc((size_t)entries * sizeof *r->source);
    if (r->begin && r->column && r->source) return 1;
    release(r);
    return 0;
}

/* The transpose, by a counting sort: entries of a column keep the order of their rows. */
static int turn(const rows *from, ptrdiff_t columns, rows *to) {
    const int64_t entries = from->begin[from->count];
    if (!make_rows(to, columns, entries)) return 0;
    /* Counts go two places up, so that after placing each entry at begin[c + 1]++ every start stands in its place. */
    memset(to->begin, 0, (size_t)(columns + 2) * sizeof *to->begin);
    for (int64_t e = 0; e < entries; e++) to->begin[from->column[e] + 2]++;
    for (ptrdiff_t c = 2; c <= columns; c++) to->begin[c] += to->begin[c - 1];
    for (ptrdiff_t r = 0; r < from->count; r++)
        for (int64_t e = from->begin[r]; e < from->begin[r + 1]; e++) {
            const int64_t place = to->begin[from->column[e] + 1]++;
            to->column[place] = r;
            to->source[place] = from->source[e];
        }
    return 1;
}

/* The rows of csr, or of its transpose, with the entries of each in order of columns: turned once, or twice. */
static int ordered(const fc_csr *csr, int transpose, rows *r) {
    rows stored, across;
    const int64_t entries = read_index(csr->indptr, csr->index_bytes, csr->rows);
    if (!make_rows(&stored, csr->rows, entries)) return 0;
    for (ptrdiff_t i = 0; i <= csr->rows; i++) stored.begin[i] = read_index(csr->indptr, csr->index_bytes, i);
    for (int64_t e = 0; e < entries; e++) {
        stored.column[e] = read_index(csr->indices, csr->index_bytes, e);
        stored.source[e] = e;
    }
    int done = turn(&stored, csr->cols, &across);
    release(&stored);
    if (!done || transpose) {
        *r = across;
        return done;
    }
    done = turn(&across, csr->rows, r);
    release(&across);
    return done;
}

/* A tile fills L1 with rows of 256 bytes up to 128 steps, of 128 bytes up to 255; longer ones stand in L2. Wide ones read a weight
 * half as often. Up to 255 steps, the one behind the tile counted, one takes a byte. */
enum { BLOCK_ROWS = 256, MOST_TILE = 1 << 15, WIDE_TILE = 112, WIDER_TILE = 176, BYTE_TILE = 240, FAR_ENTRIES = 1 << 21 };

/* Behind a tile a table has its row of +0 (tile_pitch). */
_Static_assert(WIDE_TILE % 64 == 48 && WIDER_TILE % 64 == 48 && BYTE_TILE % 64 == 48, "tiles fill tables but for 16 places");

static ptrdiff_t choose_tile(ptrdiff_t n, ptrdiff_t k, int64_t entries) {
    const double places = (double)n * (double)k, stored = (double)entries;
    if (stored > 0.4 * places) return WIDE_TILE;
    if (stored > 0.15 * places) return entries < FAR_ENTRIES ? WIDER_TILE : WIDE_TILE;
    if (stored > 0.07 * places) return BYTE_TILE;
    ptrdiff_t tile = 384;
    while (tile < MOST_TILE && tile < k && stored * (double)tile < 12 * places) tile *= 2;
    if (tile > MOST_TILE) tile = MOST_TILE;
    if (tile >= k) return tile;
    /* They are alike: a short one would cost its segments all the same. */
    ptrdiff_t tiles = (k + tile / 2) / tile;
    if (tiles * MOST_TILE < k) tiles++;
    return ((k + tiles - 1) / tiles + 15) / 16 * 16; /* whole lines, whatever the width of a strip's rows */
}

/* Blocks of about equal numbers of entries and rows; in fours, so that few threads get equal shares. */
static int choose_blocks(fc_sparse *s, const rows *r) {
    const int64_t weight = r->begin[s->n] + s->n;
    ptrdiff_t count = s->n / BLOCK_ROWS;
    count = s->n < 64 ? 1 : (count + 3) / 4 * 4 + (count == 0) * 4;
    s->block = malloc((size_t)(count + s->n / FC_SPARSE_ROWS + 2) * sizeof *s->block);
    if (!s->block) return 0;
    s->block[0] = 0;
    for (ptrdiff_t i = 1, row = 0; row < s->n; i++) {
        const ptrdiff_t begin = row;
        while (row < s->n && row - begin < FC_SPARSE_ROWS &&
               (row == begin || (double)(r->begin[row] + row) * (double)count < (double)weight * (double)i))
            row++;
        if (row - begin == FC_SPARSE_ROWS) i--; /* an extra one */
        s->block[++s->blocks] = row;
    }
    return 1;
}

typedef struct sorted_row {
    int64_t entries;
    ptrdiff_t row;
} sorted_row;

static int most_first(const void *a, const void *b) {
    const sorted_row *x = a, *y = b;
    return x->entries != y->entries ? (x->entries < y->entries ? 1 : -1) : (x->row > y->row) - (x->row < y->row);
}

/* The widest group that the rows from `row` on can form with at most an eighth of it padding. */
static int widest(const sorted_row *row, ptrdiff_t left) {
    for (int width = 8; width > 1; width /= 2) {
        if (width > left || (row[0].entries && !row[width - 1].entries)) continue;
        int64_t padding = 0;
        for (int j = 1; j < width; j++) padding += row[0].entries - row[j].entries;
        if (8 * padding <= width * row[0].entries) return width;
    }
    return 1;
}

static void put_step(fc_sparse *s, size_t place, int64_t step) {
    if (s->step_bytes == 1) ((uint8_t *)s->steps)[place] = (uint8_t)step;
    else ((uint16_t *)s->steps)[place] = (uint16_t)step;
}

static int group_room(fc_sparse *s, ptrdiff_t used, ptrdiff_t *room) {
    if (used < *room) return 1;
    const ptrdiff_t more = 2 * *room + 64;
    fc_sparse_group *groups = realloc(s->groups, (size_t)more * sizeof *groups);
    if (!groups) return 0;
    s->groups = groups;
    *room = more;
    return 1;
}

/* `next` holds where each row begins, and moves on from tile to tile. */
static int lay_out(fc_sparse *s, const rows *r, int64_t *next) {
    sorted_row row[FC_SPARSE_ROWS];
    ptrdiff_t groups = 0, room = 0;
    s->segment[0] = 0;
    for (ptrdiff_t b = 0; b < s->blocks; b++)
        for (ptrdiff_t t = 0; t < s->tiles; t++) {
            const ptrdiff_t first = s->block[b], count = s->block[b + 1] - first;
            for (ptrdiff_t i = 0; i < count; i++) {
                int64_t e = next[first + i];
                while (e < r->begin[first + i + 1] && r->column[e] < (t + 1) * s->tile) e++;
                row[i] = (sorted_row){e - next[first + i], i};
            }
            qsort(row, (size_t)count, sizeof *row, most_first);
            for (ptrdiff_t i = 0; i < count && (row[i].entries || t == 0);) {
                if (!group_room(s, groups, &room)) return 0;
                fc_sparse_group *g = &s->groups[groups++];
                *g = (fc_sparse_group){.at = (uint32_t)s->places, .count = (uint32_t)row[i].entries,
                                       .width = (uint16_t)widest(row + i, count - i)};
                for (int j = 0; j < g->width; j++, i++) {
                    g->row[j] = (uint16_t)row[i].row;
                    int64_t *e = &next[first + row[i].row];
                    for (int64_t step = 0; step < g->count; step++) {
                        const size_t place = fc_sparse_place(g, (uint32_t)step, j);
                        const int stored = step < row[i].entries;
                        put_step(s, place, stored ? r->column[*e] - t * s->tile : s->tile);
                        s->source[place] = stored ? (uint32_t)r->source[(*e)++] : FC_PADDING;
                    }
                }
                s->places += (size_t)g->count * g->width;
            }
            s->segment[b * s->tiles + t + 1] = groups;
        }
    return 1;
}

/* What one row fetches ahead reaches beyond the steps: where there is no page, a fetch takes ten times as long. So where
 * the system may map an allocation on its own (glibc: from 128 KiB), there is something behind them. */
static size_t behind_bytes(size_t bytes) { return bytes < 64 << 10 ? 0 : 2048; }
static size_t kept_bytes(const fc_sparse *s) {
    const size_t bytes = s->places * (size_t)(fc_size(s->dtype) + s->step_bytes);
    return bytes + behind_bytes(bytes);
}

fc_sparse *fc_sparse_pack(fc_dtype dtype, const fc_csr *csr, int flags) {
    const int64_t entries = read_index(csr->indptr, csr->index_bytes, csr->rows);
    const int transpose = flags & FC_SPARSE_TRANSPOSE;
    if (entries > INT32_MAX) return NULL;
    rows r;
    if (!ordered(csr, transpose, &r)) return NULL;
    int64_t *next = NULL;
    void *steps = NULL;
    fc_sparse *s = calloc(1, sizeof *s);
    if (!s) goto failed;
    s->dtype = dtype;
    s->n = r.count;
    s->k = transpose ? csr->rows : csr->cols;
    s->nnz = entries;
    s->tile = choose_tile(s->n, s->k, entries);
    s->tiles = s->k ? (s->k + s->tile - 1) / s->tile : 1; /* the first one's sums are always written */
    /* Padding is at most an eighth of a group. */
    const size_t most = (size_t)entries * 8 / 7 + 8;
    next = fc_alloc((size_t)(s->n + 1) * sizeof *next);
    s->step_bytes = s->tile <= BYTE_TILE ? 1 : 2;
    s->steps = steps = malloc(most * (size_t)s->step_bytes);
    s->source = malloc(most * sizeof *s->source);
    if (!next || !s->steps || !s->source || !choose_blocks(s, &r)) goto failed;
    s->segment = malloc((size_t)(s->blocks * s->tiles + 1) * sizeof *s->segment);
    if (!s->segment) goto failed;
    memcpy(next, r.begin, (size_t)s->n * sizeof *next);
    if (!lay_out(s, &r, next)) goto failed;
    s->values = fc_map(kept_bytes(s));
    if (!s->values) goto failed;
    fc_sparse_update(s, csr->values, 1);
    s->steps = (char *)s->values + s->places * (size_t)fc_size(dtype);
    const size_t step_bytes = s->places * (size_t)s->step_bytes;
    memcpy(s->steps, steps, step_bytes);
    memset((char *)s->steps + step_bytes, 0, kept_bytes(s) - s->places * (size_t)fc_size(dtype) - step_bytes);
    /* What is not needed goes back. A smaller piece that can't be had leaves the larger one in use. */
    void *smaller;
    if (!(flags & FC_SPARSE_UPDATE)) {
        free(s->source);
        s->source = NULL;
    } else if ((smaller = realloc(s->source, (s->places + 1) * sizeof *s->source))) {
        s->source = smaller;
    }
    if ((smaller = realloc(s->groups, (size_t)(s->segment[s->blocks * s->tiles] + 1) * sizeof *s->groups))) s->groups = smaller;
    free(steps);
    fc_free(next);
    release(&r);
    return s;
failed:
    free(steps);
    fc_free(next);
    release(&r);
    fc_sparse_free(s);
    return NULL;
}

void fc_sparse_free(fc_sparse *s) {
    if (!s) return;
    if (s->values) fc_unmap(s->values, kept_bytes(s));
    free(s->block);
    free(s->segment);
    free(s->groups);
    free(s->source);
    free(s);
}

size_t fc_sparse_bytes(const fc_sparse *s) {
    const size_t segments = (size_t)(s->blocks * s->tiles);
    return kept_bytes(s) + (s->source ? s->places * sizeof *s->source : 0) +
           (size_t)s->segment[segments] * sizeof *s->groups + (segments + 1) * sizeof *s->segment +
           (size_t)(s->blocks + 1) * sizeof *s->block;
}

ptrdiff_t fc_sparse_tile(const fc_sparse *s) { return s->tile; }
double fc_sparse_padding(const fc_sparse *s) { return s->nnz ? (double)s->places / (double)s->nnz : 1; }

/* ---- Values ------------------------------------------------------------------------------------------------------- */

void fc_sparse_update(fc_sparse *s, const void *values, int threads) {
    fc_put_values(s->dtype, s->values, values, s->source, (ptrdiff_t)s->places, threads);
}

void fc_sparse_unpack(const fc_sparse *s, void *values, int64_t *indices, int64_t *indptr) {
    const size_t size = (size_t)fc_size(s->dtype);
    memset(indptr, 0, (size_t)(s->n + 1) * sizeof *indptr);
    /* First the rows are counted, one place up; then each begins where those before it end, and moves on as it is filled. */
    for (int fill = 0; fill < 2; fill++) {
        for (ptrdiff_t b = 0; b < s->blocks; b++)
            for (ptrdiff_t i = s->segment[b * s->tiles]; i < s->segment[(b + 1) * s->tiles]; i++) {
                const fc_sparse_group *g = &s->groups[i];
                ptrdiff_t t = 0; /* the segment that holds group i */
                if (fill)
                    while (s->segment[b * s->tiles + t + 1] <= i) t++;
                for (int j = 0; j < g->width; j++) {
                    const ptrdiff_t row = s->block[b] + g->row[j];
                    for (uint32_t step = 0; step < g->count; step++) {
                        const size_t place = fc_sparse_place(g, step, j);
                        const ptrdiff_t at = read_step(s->steps, s->step_bytes, (ptrdiff_t)place);
                        if (at == s->tile) break;
                        if (fill) {
                            indices[indptr[row]] = t * s->tile + at;
                            memcpy((char *)values + (size_t)indptr[row] * size, (char *)s->values + place * size, size);
                        }
                        indptr[fill ? row : row + 1]++;
                    }
                }
            }
        if (!fill)
            for (ptrdiff_t row = 0; row < s->n; row++) indptr[row + 1] += indptr[row];
    }
    memmove(indptr + 1, indptr, (size_t)s->n * sizeof *indptr);
    indptr[0] = 0;
}

/* ---- Forward ------------------------------------------------------------------------------------------------------ */

enum { SHARED_L3 = 128 << 20, X_SHARE = 4 };
/* To make tiles of x takes as long as 8 entries of each column; 16 times that is little beside it. */
enum { TILES_COST = 128 };

/* Columns of the batch that are worked on together. */
typedef struct strip {
    ptrdiff_t begin, columns;
    int vecs;
} strip;

typedef struct product {
    const fc_kernels *kernels;
    const fc_sparse *sparse;
    const fc_matrix *x;
    const fc_epilogue *epilogue;
    ptrdiff_t lanes, widest;     /* elements of a vector, vectors of the widest strip */
    ptrdiff_t ranges, strips;
    ptrdiff_t most_rows;         /* of a range of blocks */
    char *workspace;
    ptrdiff_t x_bytes, sum_bytes;
} product;

/* Full strips, and then as few as cover the rest: 3 vectors count as 4, 7 as 8. */
static strip strip_at(const product *p, ptrdiff_t i) {
    const ptrdiff_t wide = p->widest * p->lanes, full = p->x->rows / wide;
    if (i < full) return (strip){i * wide, wide, (int)p->widest};
    strip s = {.begin = full * wide};
    for (ptrdiff_t at = full; at <= i; at++) {
        s.begin += s.columns;
        const ptrdiff_t left = p->x->rows - s.begin, vecs = (left + p->lanes - 1) / p->lanes;
        s.vecs = vecs >= 7 ? 8 : vecs >= 3 ? 4 : (int)vecs;
        if (s.vecs > p->widest) s.vecs = (int)p->widest;
        s.columns = left < s.vecs * p->lanes ? left : s.vecs * p->lanes;
        if (left == 1) s.vecs = 0; /* scalars */
    }
    return s;
}

static ptrdiff_t count_strips(const product *p) {
    ptrdiff_t strips = p->x->rows / (p->widest * p->lanes);
    for (ptrdiff_t done = strips * p->widest * p->lanes; done < p->x->rows; done += strip_at(p, strips++).columns) {}
    return strips;
}

static ptrdiff_t range_begin(const product *p, ptrdiff_t i) { return p->sparse->blocks * i / p->ranges; }

/* x's columns of this strip, as rows of the tile. */
static void take_tile(const product *p, const strip *s, ptrdiff_t t, char *tile) {
    const fc_matrix *x = p->x;
    const ptrdiff_t begin = t * p->sparse->tile, left = x->cols - begin;
    const ptrdiff_t length = left < p->sparse->tile ? left : p->sparse->tile;
    fc_pack_job job = {
        .src = (const char *)x->data + s->begin * x->row_stride + begin * x->col_stride, .src_j = x->row_stride,
        .src_k = x->col_stride, .dst = tile, .step = s->vecs * p->lanes, .n = s->columns, .k = length,
    };
    if (!s->vecs) { /* one row, copied as it is */
        job.src_j = x->col_stride;
        job.step = job.n = length;
        job.k = 1;
    }
    p->kernels->pack[p->sparse->dtype](&job);
}

/* Bytes from one tile of x to the next: rows, one of +0, and what a table may read. */
static ptrdiff_t tile_pitch(const fc_sparse *w, ptrdiff_t row) { return (w->tile + 16) * row; }

static void product_unit(void *context, int thread, ptrdiff_t unit) {
    const product *p = context;
    const fc_sparse *w = p->sparse;
    const fc_dtype dtype = w->dtype;
    const ptrdiff_t size = fc_size(dtype);
    const strip s = strip_at(p, unit / p->ranges);
    const ptrdiff_t first = range_begin(p, unit % p->ranges), last = range_begin(p, unit % p->ranges + 1);
    const ptrdiff_t row = (s.vecs ? s.vecs * p->lanes : 1) * size, begin = w->block[first], end = w->block[last];
    char *x = p->workspace + thread * (p->x_bytes + p->sum_bytes);
    char *sum = x + p->x_bytes;
    /* Narrow strips do less with an entry: fetching then costs more than it brings, but from memory; or from an L3 that is so
     * large that it is many cores', and far away. */
    const double l2 = (double)fc_l2_bytes(), l3 = (double)fc_l3_bytes();
    const double far = s.vecs >= 4 ? 2 * l2 : l3 > SHARED_L3 ? 4 * l2 : l3 / 4;
    const int fetch = (double)kept_bytes(w) > far;
    /* So many tiles are at hand. The row behind each belongs to padding, and the last vectors of a strip may be nobody's. */
    const ptrdiff_t pitch = tile_pitch(w, row), fit = p->x_bytes / pitch, tiles = fit < w->tiles ? fit : w->tiles;
    if (s.columns <= (s.vecs - 1) * p->lanes) memset(x, 0, (size_t)(tiles * pitch));
    else
        for (ptrdiff_t t = 0; t < tiles; t++) memset(x + t * pitch + w->tile * row, 0, (size_t)row);
    for (ptrdiff_t group = 0; group < w->tiles; group += tiles) {
        const ptrdiff_t behind = w->tiles - group < tiles ? w->tiles : group + tiles;
        for (ptrdiff_t t = group; t < behind; t++) take_tile(p, &s, t, x + (t - group) * pitch);
        for (ptrdiff_t b = first; b < last; b++)
            for (ptrdiff_t t = group; t < behind; t++) {
                const ptrdiff_t *segment = w->segment + b * w->tiles + t;
                fc_tiled_job job = {
                    .groups = w->groups + segment[0], .count = segment[1] - segment[0], .steps = w->steps,
                    .step_bytes = w->step_bytes, .values = w->values, .x = x + (t - group) * pitch, .tile = w->tile, .vecs = s.vecs,
                    .fetch = fetch, .gather = fc_fast_gathers, .scalars = fc_fast_scalars, .plain = fc_split_indexed,
                    .byte_tables = fc_byte_tables, .first = t == 0,
                    .sum = sum + (w->block[b] - begin) * row,
                };
                p->kernels->tiled[dtype](&job);
            }
    }
    /* From one row of y to the next the sums of a piece stay in a large L1: that is worth more than long pieces. */
    const ptrdiff_t piece = fc_l1_bytes() > FC_SMALL_L1 ? FC_SMALL_L1 / row : FC_LONG_PIECE / size;
    fc_finish_job job = {
        .sum = sum, .sum_row = row / size, .turned = s.vecs ? piece : 0, .epilogue = p->epilogue, .row = s.begin, .col = begin,
        .m = s.columns, .n = end - begin,
    };
    p->kernels->finish[dtype](&job);
}

fc_status fc_linear_forward_sparse(fc_dtype dtype, const fc_matrix *x, const fc_sparse *w, const fc_epilogue *epilogue,
                                   int threads) {
    if (!x->rows || !w->n) return FC_OK;
    const fc_kernels *kernels = fc_current(), *shorter = fc_shorter(kernels);
    const int alone = x->rows == 1 && ((kernels->tables[dtype] && w->step_bytes == 1) || fc_fast_gathers);
    if (shorter && x->rows <= shorter->lanes[dtype] && !alone) kernels = shorter;
    const ptrdiff_t size = fc_size(dtype), lanes = kernels->lanes[dtype];
    product p = {.kernels = kernels, .sparse = w, .x = x, .epilogue = epilogue, .lanes = lanes};
    /* The longest ones take what L2 can give. Of long vectors 128 bytes are too few to an entry. */
    const ptrdiff_t bytes = w->tile <= (lanes * size < 64 ? WIDE_TILE : WIDER_TILE) ? 256 : 128;
    p.widest = bytes / (lanes * size) < 8 ? bytes / (lanes * size) : 8;
    const ptrdiff_t step = p.widest * lanes;
    p.strips = count_strips(&p);
    const int team = fc_team_for((double)(w->nnz + w->n) * (double)(x->rows + FC_ENTRY), threads);
    /* The sums of a range of outputs share L2 with what passes through it. Each range makes the tiles of x for itself. */
    const ptrdiff_t range = (ptrdiff_t)fc_l2_bytes() / 2;
    p.ranges = (w->n * step * size + range - 1) / range;
    const ptrdiff_t ranges = fc_ranges_for(team, p.strips, w->nnz / (TILES_COST * w->k + 1));
    if (p.ranges < ranges) p.ranges = ranges;
    if (p.ranges > w->blocks) p.ranges = w->blocks;
    for (ptrdiff_t i = 0; i < p.ranges; i++) {
        const ptrdiff_t rows = w->block[range_begin(&p, i + 1)] - w->block[range_begin(&p, i)];
        if (p.most_rows < rows) p.most_rows = rows;
    }
    /* Of a weight from memory segments are read in the order in which they stand, past all tiles of x, if x takes little of L2. */
    const ptrdiff_t columns = x->rows <= step ? strip_at(&p, 0).vecs * lanes : step;
    const ptrdiff_t all = w->tiles * tile_pitch(w, (columns ? columns : 1) * size);
    const int far = 2 * (double)kept_bytes(w) > (double)fc_l3_bytes();
    p.x_bytes = far && all <= (ptrdiff_t)fc_l2_bytes() / X_SHARE ? all : tile_pitch(w, step * size);
    p.sum_bytes = (p.most_rows * step * size + 63) / 64 * 64;
    const ptrdiff_t units = p.ranges * p.strips;
    p.workspace = fc_alloc((size_t)((team < units ? team : units) * (p.x_bytes + p.sum_bytes)));
    if (!p.workspace) return FC_NO_MEMORY;
    fc_parallel_for(team, units, product_unit, &p);
    fc_free(p.workspace);
    return FC_OK;
}

/* ---- Backward ----------------------------------------------------------------------------------------------------- */

/* The columns of x, as rows: tile after tile, and behind each a row of +0, which padding names. All threads read them, so each column
 * is turned once; those of the gradient are turned by who needs them. As much is turned at a time as a quarter of L3 holds: some
 * blocks of the batch, or some tiles of one. */
typedef struct stored {
    const fc_kernels *kernels;
    const fc_sparse *sparse;
    const fc_matrix *grad, *x;
    void *out;
    int accumulate;
    ptrdiff_t first, end;            /* rows of the batch at a time */
    ptrdiff_t first_tile, end_tile;
    ptrdiff_t step;                  /* rows of a block of the batch, padded to 16 */
    ptrdiff_t tile_bytes, x_bytes;   /* of a block of the batch */
    ptrdiff_t g_bytes;               /* of a block, and of a thread */
    ptrdiff_t side_by_side;          /* groups */
    char *turned_x, *turned_g;
} stored;

static ptrdiff_t rows_of_block(const stored *p, ptrdiff_t row) { return p->end - row < FC_BLOCK ? p->end - row : FC_BLOCK; }

/* Columns begin .. end - 1 of src, as rows of `step` elements: those of the block from `row` on, and +0. */
static void take_columns(const stored *p, const fc_matrix *src, ptrdiff_t row, ptrdiff_t begin, ptrdiff_t end, char *dst) {
    const fc_dtype dtype = p->sparse->dtype;
    const ptrdiff_t m = rows_of_block(p, row);
    if (m % 16) memset(dst, 0, (size_t)((end - begin) * p->step * fc_size(dtype)));
    fc_pack_job job = {
        .src = (const char *)src->data + row * src->row_stride + begin * src->col_stride, .src_j = src->row_stride,
        .src_k = src->col_stride, .dst = dst, .step = p->step, .n = m, .k = end - begin,
    };
    p->kernels->pack[dtype](&job);
}

/* Tile t of the block of the batch from `row` on. */
static char *tile_at(const stored *p, ptrdiff_t row, ptrdiff_t t) {
    return p->turned_x + (row - p->first) / FC_BLOCK * p->x_bytes + (t - p->first_tile) * p->tile_bytes;
}

static void turn_unit(void *context, int thread, ptrdiff_t unit) {
    const stored *p = context;
    const fc_sparse *w = p->sparse;
    const ptrdiff_t tiles = p->end_tile - p->first_tile, row = p->first + unit / tiles * FC_BLOCK, t = p->first_tile + unit % tiles;
    const ptrdiff_t begin = t * w->tile, end = begin + w->tile < w->k ? begin + w->tile : w->k;
    const ptrdiff_t row_bytes = p->step * fc_size(w->dtype);
    char *x = tile_at(p, row, t);
    (void)thread;
    take_columns(p, p->x, row, begin, end, x);
    memset(x + w->tile * row_bytes, 0, (size_t)row_bytes);
}

/* One block of the weight's rows: each entry is written by one thread alone, block of the batch after block. */
static void stored_unit(void *context, int thread, ptrdiff_t b) {
    const stored *p = context;
    const fc_sparse *w = p->sparse;
    char *g = p->turned_g + thread * p->g_bytes;
    for (ptrdiff_t row = p->first; row < p->end; row += FC_BLOCK) {
        take_columns(p, p->grad, row, w->block[b], w->block[b + 1], g);
        for (ptrdiff_t t = p->first_tile; t < p->end_tile; t++) {
            const ptrdiff_t *segment = w->segment + b * w->tiles + t;
            fc_tiled_grad_job job = {
                .groups = w->groups + segment[0], .count = segment[1] - segment[0], .side_by_side = p->side_by_side,
                .steps = w->steps, .step_bytes = w->step_bytes, .source = w->source, .g = g, .x = tile_at(p, row, t),
                .step = p->step, .m = (rows_of_block(p, row) + 15) / 16 * 16, .out = p->out, .add = row > 0 || p->accumulate,
            };
            p->kernels->tiled_grad[w->dtype](&job);
        }
    }
}

static fc_status stored_gradient(const fc_kernels *kernels, const fc_matrix *grad, const fc_matrix *x, const fc_sparse *w,
                                 void *values, int accumulate, int threads) {
    const ptrdiff_t size = fc_size(w->dtype), m = grad->rows;
    if (!m || !w->nnz) {
        if (!accumulate) memset(values, 0, (size_t)(w->nnz * size));
        return FC_OK;
    }
    stored p = {.kernels = kernels, .sparse = w, .grad = grad, .x = x, .out = values, .accumulate = accumulate};
    p.step = m < FC_BLOCK ? (m + 15) / 16 * 16 : FC_BLOCK;
    ptrdiff_t most = 0;
    for (ptrdiff_t b = 0; b < w->blocks; b++)
        if (most < w->block[b + 1] - w->block[b]) most = w->block[b + 1] - w->block[b];
    p.g_bytes = (most * p.step * size + 63) / 64 * 64;
    p.tile_bytes = (w->tile + 1) * p.step * size; /* a multiple of 64 */
    const ptrdiff_t fit = (ptrdiff_t)fc_l3_bytes() / 4 / p.tile_bytes;
    const ptrdiff_t tiles = fit < 1 ? 1 : fit < w->tiles ? fit : w->tiles;
    ptrdiff_t blocks = (m + FC_BLOCK - 1) / FC_BLOCK;
    if (blocks > fit / tiles) blocks = fit / tiles > 1 ? fit / tiles : 1;
    p.x_bytes = tiles * p.tile_bytes;
    /* Where a tile of x stands in L2 and rows have many entries, groups side by side find in L1 what the first one loaded. */
    p.side_by_side = w->step_bytes == 1 && p.tile_bytes > 2 * (ptrdiff_t)fc_l1_bytes() ? 4 : 1;
    const int team = fc_team_for((double)w->nnz * (double)(m + FC_ENTRY), threads);
    p.turned_x = fc_alloc((size_t)(blocks * p.x_bytes + team * p.g_bytes));
    if (!p.turned_x) return FC_NO_MEMORY;
    p.turned_g = p.turned_x + blocks * p.x_bytes;
    /* With several blocks the sum is finished before it is added to what stands there. */
    void *sum = NULL;
    if (accumulate && m > FC_BLOCK) {
        p.out = sum = fc_alloc((size_t)(w->nnz * size));
        p.accumulate = 0;
        if (!sum) {
            fc_free(p.turned_x);
            return FC_NO_MEMORY;
        }
    }
    for (; p.first < m; p.first = p.end) {
        p.end = m - p.first < blocks * FC_BLOCK ? m : p.first + blocks * FC_BLOCK;
        for (p.first_tile = 0; p.first_tile < w->tiles; p.first_tile = p.end_tile) {
            p.end_tile = w->tiles - p.first_tile < tiles ? w->tiles : p.first_tile + tiles;
            const ptrdiff_t turned = (p.end - p.first + FC_BLOCK - 1) / FC_BLOCK * (p.end_tile - p.first_tile);
            fc_parallel_for(team, turned, turn_unit, &p);
            fc_parallel_for(team, w->blocks, stored_unit, &p);
        }
    }
    if (sum) {
        const fc_epilogue add = {.residual = values, .y = values};
        fc_finish_job job = {.sum = sum, .epilogue = &add, .m = 1, .n = w->nnz};
        kernels->finish[w->dtype](&job);
    }
    fc_free(p.turned_x);
    fc_free(sum);
    return FC_OK;
}

fc_status fc_linear_backward_sparse(fc_dtype dtype, const fc_upstream *up, const fc_matrix *x, const fc_sparse *w,
                                    const fc_sparse *transposed, const fc_gradients *out, int threads) {
    const fc_kernels *kernels = fc_current();
    fc_matrix grad;
    void *owned;
    fc_status status = fc_upstream_rows(kernels, dtype, up, threads, &grad, &owned);
    if (status) return status;
    if (out->gx) {
        const fc_epilogue epilogue = {.y = out->gx->data, .y_row = out->gx->row_stride};
        status = fc_linear_forward_sparse(dtype, &grad, transposed, &epilogue, threads);
    }
    if (!status && out->values) status = stored_gradient(kernels, &grad, x, w, out->values, out->accumulate, threads);
    if (!status && out->gb) fc_column_sums(kernels, dtype, &grad, out->gb, out->accumulate, threads);
    fc_free(owned);
    return status;
}
