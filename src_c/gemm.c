/* Blocking and threads of the dense product. Start reading at fc_gemm_run.
 *
 * The loops, outside in: units (a block of rows of a by a strip of b's panels), shared out to threads; chunks of k; and inside the
 * kernel row tiles, then k. A chunk of a panel stays in L2 while all its row tiles read it; sums that go on from chunk to
 * chunk wait in a scratch of totals, never in y. */
#include "dispatch.h"
#include "gemm.h"
#include "memory.h"
#include "threads.h"

/* How a panel of b is walked. */
enum way {
    CHUNKS, /* in chunks of k, each by all row tiles before the next */
    ONCE,   /* all of k by one row tile, or by one in each strip */
    NEAR,   /* likewise, in two strips, by up to a tile of half a panel: what stays in L3 */
    AFAR,   /* likewise: what comes from memory, where L1 has no room to fetch ahead into */
    TURNS,  /* by tiles in turn: what comes from memory, where L1 has; and from L3 for somewhat more rows than a tile has */
};

typedef struct plan {
    const fc_gemm *g;
    double weight;                /* bytes of b */
    enum way way;
    int stands;                   /* b's rows of outputs are contiguous, and so few rows of a that it is read where it stands */
    int packs;                    /* b is packed, or read in place in chunks: */
    int in_place;
    ptrdiff_t cols;               /* of a unit of work, a multiple of the kernels' width */
    ptrdiff_t together;           /* of these, so many are packed together, */
    ptrdiff_t at_once;            /* and so many packed, or gone on from totals, before the next */
    ptrdiff_t strips, splits;     /* units = strips of `cols` columns x splits of the rows */
    ptrdiff_t chunk;              /* steps of k at a time, a multiple of FC_BLOCK unless it is all of k */
    int stream;                   /* steps of b to fetch ahead where it is walked once, */
    int far;                      /* and into L2 */
    int turn;                     /* steps of a row tile's turn; 0: each runs all of k */
    int halves;                   /* strips of half a panel: L2 is busy and asked for less, or a copy stays in L1 */
    int ahead;                    /* the next chunk is fetched while this one is worked on */
    int rows_first;               /* b's strip stays in L2 while rows of a pass by, and y is written along its rows */
    int fetch_y;                  /* y is larger than L2 and its sums are short: mostly writing */
    int direct;                   /* b's rows of outputs are contiguous: it is read where it stands, but for last columns that fill no
                                     vectors, */
    int copies;                   /* and packed while it is first used */
    int few;                      /* b is read where it stands, its columns of k contiguous */
    size_t pack_bytes, total_bytes;
    char *workspace;
} plan;

/* One chunk of k, from step k on, of the n columns from `col` on. */
static void run_chunk(const plan *p, char *packed, char *total, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t col, ptrdiff_t n,
                      ptrdiff_t k) {
    const fc_gemm *g = p->g;
    const fc_kernels *kernels = g->kernels;
    const ptrdiff_t size = fc_size(g->dtype), panel = kernels->panel[g->dtype];
    const ptrdiff_t steps = g->k - k < p->chunk ? g->k - k : p->chunk, left = g->k - k - steps;
    fc_gemm_job job = {
        .a = (const char *)g->a + begin * g->a_row + k * size, .a_row = g->a_row, .b_step = panel, .b_tail = panel,
        .m = end - begin, .n = n, .k = steps, .total = p->total_bytes ? total : NULL,
        .rows_first = p->rows_first,
        .fetch_a = (double)(end - begin) * (double)g->k * (double)size > (double)fc_l2_bytes() / 4 ? g->m - begin : 0,
        .fetch_y = p->fetch_y,
        .first = k == 0, .last = k + p->chunk >= g->k, .epilogue = g->epilogue, .row = begin, .col = col,
    };
    if (g->panels) {
        job.b_tail = fc_panel_step(kernels, g->dtype, g->n, (g->n - 1) / panel);
        job.b_panel = panel * g->k;
        job.b = (const char *)g->panels + (col * g->k + k * (n < panel ? job.b_tail : panel)) * size;
        job.between = g->k;
        job.behind = col + n >= g->n ? left : g->n - col - n >= panel ? g->k : g->k * job.b_tail / panel;
        job.ahead = p->ahead;
        job.alternate = p->turn;
        job.halves = p->halves;
        job.stream = p->ahead ? 0 : p->stream;
        job.far = p->far;
    } else if (p->direct && n % kernels->lanes[g->dtype] == 0) {
        job.b = (const char *)g->b + col * g->b_j + k * g->b_k;
        job.b_step = job.b_tail = g->b_k / size;
        job.b_panel = panel;
        job.between = job.behind = left;
        job.stream = p->stream;
        job.halves = p->halves;
        if (p->copies) {
            job.copy = packed;
            if (left) job.next = (const char *)job.b + steps * g->b_k;
            else if (g->n - col >= 2 * panel) job.next = (const char *)g->b + (col + panel) * g->b_j;
            job.next_rows = left ? left : g->k;
        }
    } else {
        fc_pack_job pack = {
            .src = (const char *)g->b + col * g->b_j + k * g->b_k, .src_j = g->b_j, .src_k = g->b_k,
            .dst = packed, .step = panel, .pitch = panel * job.k + 64 / size, .n = n, .k = job.k,
            .rows = g->k - k,
        };
        kernels->pack[g->dtype](&pack);
        job.b = packed;
        job.b_panel = pack.pitch;
    }
    kernels->gemm[g->dtype](&job);
}

static void run_unit(void *context, int thread, ptrdiff_t unit) {
    const plan *p = context;
    const fc_gemm *g = p->g;
    char *packed = p->workspace + (size_t)thread * (p->pack_bytes + p->total_bytes), *total = packed + p->pack_bytes;
    const ptrdiff_t split = unit / p->strips, col = unit % p->strips * p->cols, n = g->n - col < p->cols ? g->n - col : p->cols;
    /* Shares that differ by a row at most. */
    const ptrdiff_t share = g->m / p->splits, longer = g->m % p->splits;
    const ptrdiff_t begin = share * split + (split < longer ? split : longer), end = begin + share + (split < longer);
    if (p->few) {
        fc_few_job job = {
            .a = g->a, .a_row = g->a_row, .a_step = fc_size(g->dtype), .w = (const char *)g->b + col * g->b_j, .w_row = g->b_j,
            .m = g->m, .n = n, .k = g->k, .epilogue = g->epilogue, .at = col,
        };
        g->kernels->few[g->dtype](&job);
        return;
    }
    const ptrdiff_t at_once = p->at_once < n ? p->at_once : n;
    for (ptrdiff_t at = 0; at < n; at += at_once)
        for (ptrdiff_t k = 0; k == 0 || k < g->k; k += p->chunk)
            run_chunk(p, packed, total, begin, end, col + at, n - at < at_once ? n - at : at_once, k);
}

/* A panel's row is several lines: half of one is worth a walk. */
static int has_long_panels(const fc_gemm *g) {
    return !g->kernels->narrow && g->kernels->panel[g->dtype] * fc_size(g->dtype) > 64;
}

enum { PAGE = 4096 };

/* The largest power of two that divides the bytes from row to row of b. They fall into sets of a cache as rows so far apart do. */
static ptrdiff_t pitch(const fc_gemm *g) {
    return g->b_k & -g->b_k;
}

/* The most rows of the batch for which a weight of so many bytes, whose rows of outputs are contiguous, is read where it stands.
 * With more of them, or from memory, a packed copy brings more than it costs; the sooner where its rows crowd into few sets, or
 * each has a page. */
static ptrdiff_t most_in_place(const fc_gemm *g, double weight) {
    const int crowded = pitch(g) >= FC_CROWDED;
    if (!has_long_panels(g) || weight > (crowded ? (double)fc_l2_bytes() : (double)fc_l3_bytes() / 2)) return FC_FEW;
    if (crowded) return g->kernels->tile_rows;
    return 2 * pitch(g) < FC_CROWDED && -PAGE < g->b_k && g->b_k < PAGE ? 96 : 64;
}

/* Beyond the third one weight comes from L3 or from memory, as others leave room in it; beyond three quarters from memory. */
static int beyond_third_of_l3(const plan *p) { return 3 * p->weight > (double)fc_l3_bytes(); }
static int within_l3(const plan *p) { return 4 * p->weight <= 3 * (double)fc_l3_bytes(); }
static int beyond_l2(const plan *p) { return 2 * p->weight > (double)fc_l2_bytes(); } /* or more than x and y leave of it */
static int large_l1(void) { return fc_l1_bytes() > FC_SMALL_L1; }

static enum way choose_way(const plan *p) {
    const fc_gemm *g = p->g;
    const ptrdiff_t tile = g->kernels->tile_rows;
    const int wide = g->panels && !g->kernels->narrow && g->m > FC_FEW;
    const int room_ahead = wide && has_long_panels(g) && beyond_l2(p) && large_l1();
    if (room_ahead && g->m <= tile && within_l3(p)) return NEAR;
    if (room_ahead && g->k >= FC_BLOCK && g->m <= (within_l3(p) ? tile + 2 : FC_ALTERNATE)) return TURNS;
    if (wide && !room_ahead && p->weight > (double)fc_l3_bytes() && g->m < tile) return AFAR;
    if (g->panels) return g->m <= FC_FEW ? ONCE : CHUNKS;
    const int full = p->stands && g->n % g->kernels->lanes[g->dtype] == 0;
    return full && (g->m <= FC_FEW || p->weight <= 4 * (double)fc_l2_bytes()) ? ONCE : CHUNKS;
}

/* How far ahead: what is near comes within the time of a few steps; out of a busy L3 it takes longer, up to a third of L1,
 * and where rows are apart something between, because they crowd into few sets. From memory the hardware's own streams bring
 * most, and fetching far ahead gets in their way; and so it does from L3 where a step of wide panels is several lines and L1
 * small. Where L1 has room, a fetch costs up to 1/20 where the streams run as they should, but now and then, for a whole
 * process, they are a fifth slower without one. Only one row from memory asks so little beside its stream that it needs none. */
static int steps_ahead(const plan *p) {
    const fc_gemm *g = p->g;
    if (!g->panels) return p->stands && g->m > FC_FEW ? 16 : 32;
    if (p->way == TURNS) return g->m <= g->kernels->tile_rows ? 48 : 96;
    if (p->way == AFAR) return 24;
    if (p->way == NEAR) return 64;
    if (g->kernels->narrow) {
        if (p->weight > (double)fc_l3_bytes()) return g->m <= 2 ? 4 : 16;
        return p->weight > 8 * (double)fc_l2_bytes() ? 64 : 16;
    }
    if (!large_l1()) return p->weight <= (double)fc_l2_bytes() ? 16 : 0;
    return !beyond_third_of_l3(p) ? 16 : g->m > 1 || within_l3(p) ? 64 : 0;
}

/* A chunk takes a quarter of L2: x streams by, and of a packed weight the next one has to fit too. (Of narrow panels that are
 * packed here, half: they have no next one.) Of a packed weight at most 6 blocks, because longer ones bring nothing more; of
 * wide panels 3, where all of k is more than that. From memory, with few rows, narrow ones come evenly in small chunks. Rows in
 * place take as much of it as their pitch. And what few rows copy in half panels stays in L1, one block of it. */
static ptrdiff_t choose_chunk(const plan *p) {
    const fc_gemm *g = p->g;
    if (p->way != CHUNKS) return g->k ? g->k : 1;
    const int narrow = g->kernels->narrow;
    const ptrdiff_t row = p->together * fc_size(g->dtype);
    ptrdiff_t room = (ptrdiff_t)fc_l2_bytes() / (g->panels || !narrow ? 4 : 2);
    if (g->panels && narrow && beyond_third_of_l3(p) && g->m <= 2 * g->kernels->tile_rows) room = 48 << 10;
    ptrdiff_t chunk = room / (p->in_place && pitch(g) > row ? pitch(g) : row) / FC_BLOCK * FC_BLOCK;
    if (g->panels && chunk > 6 * FC_BLOCK) chunk = 6 * FC_BLOCK;
    if (chunk < FC_BLOCK || (p->packs && !p->in_place && p->halves)) chunk = FC_BLOCK;
    if (chunk >= g->k) return g->k ? g->k : 1;
    if (g->panels && !narrow && chunk > 3 * FC_BLOCK) return 3 * FC_BLOCK;
    if (!p->packs) return chunk;
    /* Evenly: one is fetched, or waited for, while the one before is worked on. */
    const ptrdiff_t blocks = (g->k + FC_BLOCK - 1) / FC_BLOCK, chunks = (g->k + chunk - 1) / chunk;
    return (blocks + chunks - 1) / chunks * FC_BLOCK;
}

/* Multiply-adds of a unit: some 10 us. */
static const double UNIT = 1 << 19;

/* What is packed or worked on together, and by whom. */
static void share_out(plan *p, int team) {
    const fc_gemm *g = p->g;
    const ptrdiff_t size = fc_size(g->dtype), panel = g->kernels->panel[g->dtype], tile = g->kernels->tile_rows;
    const int narrow = g->kernels->narrow;
    ptrdiff_t rows = g->panels ? 32 * tile : 80 * tile; /* that all panels pass over before the next */
    if (rows > g->m) rows = g->m;
    /* A unit is large enough for its own cost not to show, and small enough to share out. */
    if (g->panels && p->chunk >= g->k) {
        const double column = (double)(rows * g->k);
        const ptrdiff_t most = g->n / (8 * team);
        while (p->cols * 2 <= most && (double)p->cols * column < UNIT) p->cols *= 2;
    }
    if (p->cols < p->together) p->cols = p->together;
    p->at_once = p->packs || p->chunk < g->k ? p->together : p->cols;
    /* Where k is short, what a tile stores counts: rows of y are then written from end to end of a strip. (A row of a wide tile
     * is four lines: that is too little only where k is short indeed.) */
    const int in_registers = g->epilogue->activation == FC_IDENTITY || g->epilogue->activation == FC_RELU;
    if (p->packs && p->chunk >= g->k && (narrow || g->k <= 256) && g->m > tile && in_registers) {
        const ptrdiff_t fit = (ptrdiff_t)fc_l2_bytes() / 2 / (p->chunk * size) / p->together * p->together;
        const ptrdiff_t all = (g->n + p->together - 1) / p->together * p->together;
        p->rows_first = 1;
        /* Read where it stands, a few steps ahead, where that is as good as contiguous. */
        if (g->n % g->kernels->lanes[g->dtype] || !has_long_panels(g) || g->b_k > 2 * panel * size) p->direct = 0;
        p->stream = 8;
        rows = g->m; /* or each block of them would pack b again */
        if (fit > p->together) p->cols = p->at_once = fit < all ? fit : all;
    }
    if (p->packs && !(p->rows_first && p->direct)) {
        p->copies = !p->in_place;
        p->pack_bytes = (size_t)(p->chunk * p->at_once * size + p->at_once / panel * 64 + 63) / 64 * 64;
    }
    if (p->chunk < g->k && !p->few) p->total_bytes = (size_t)(rows * p->at_once * size);

    /* All panels pass over one block of x's rows before the next, so that x, which is read again for each panel, comes
     * from L2 or L3; beside so many rows a panel's own way is short. And rows are split to even out the threads' shares. */
    p->strips = (g->n + p->cols - 1) / p->cols;
    p->splits = (g->m + rows - 1) / rows;
    if (team > 1 && g->m >= 2 * tile && !p->few) {
        ptrdiff_t even = (8 * team + p->strips - 1) / p->strips;
        if (even > g->m / tile) even = g->m / tile;
        if (p->splits < even) p->splits = even;
    }
}

fc_status fc_gemm_run(const fc_gemm *g) {
    if (!g->m || !g->n) return FC_OK;
    const fc_kernels *kernels = g->kernels;
    const ptrdiff_t size = fc_size(g->dtype), tile = kernels->tile_rows;
    /* An element of the weight costs its way from memory too: as much as 4 multiply-adds. */
    const int team = fc_team_for((double)(g->m + 4) * (double)g->n * (double)g->k, g->threads);
    if (fc_few_outputs_run(g, team)) return FC_OK;
    const fc_kernels *turned = fc_turned_kernels(g);
    if (turned) return fc_turned_run(g, turned, team);
    const ptrdiff_t apart = fc_outputs_apart(g);
    if (apart) return fc_apart_run(g, apart);

    plan p = {.g = g, .cols = kernels->width[g->dtype], .weight = (double)g->n * (double)g->k * (double)size};
    p.direct = !g->panels && g->b_j == size && g->b_k % size == 0 && (uintptr_t)g->b % (uintptr_t)size == 0;
    p.few = !g->panels && !p.direct && g->b_k == size && g->m <= kernels->few_rows[g->dtype];
    p.fetch_y = g->k <= 64 && (double)g->m * (double)g->n * (double)size > (double)fc_l2_bytes();
    p.stands = p.direct && g->m <= most_in_place(g, p.weight);
    p.way = choose_way(&p);
    if (p.way == TURNS) p.turn = g->m <= tile ? 24 : 96; /* two tiles outrun memory; three do not, and have longer turns */
    /* Where a panel's row is one line, several panels are packed at a time, and before they are used. */
    p.packs = !g->panels && p.way == CHUNKS && !p.few;
    p.together = p.packs && kernels->narrow ? 2 * p.cols : kernels->panel[g->dtype];
    if (p.packs && kernels->narrow) p.direct = 0;
    p.in_place = p.packs && p.direct && p.stands;
    p.stream = steps_ahead(&p);
    p.far = p.way == AFAR ? 96 : 0;
    /* With many rows there is time to bring the next chunk into L2 while this one is worked on. */
    p.ahead = g->panels && p.way == CHUNKS;
    if (g->panels)
        p.halves = p.way == AFAR || p.way == NEAR ||
                   (p.ahead && (beyond_third_of_l3(&p) || (beyond_l2(&p) && g->m < tile)));
    else
        p.halves = p.direct && has_long_panels(g) && g->m > FC_FEW &&
                   (p.stands ? p.weight > (double)fc_l1_bytes() : g->m <= 3 * tile);
    p.chunk = choose_chunk(&p);
    share_out(&p, team);

    char small[16384] __attribute__((aligned(64)));
    const ptrdiff_t units = p.strips * p.splits;
    const size_t bytes = (size_t)(team < units ? team : units) * (p.pack_bytes + p.total_bytes);
    p.workspace = bytes <= sizeof small ? small : fc_alloc(bytes);
    if (!p.workspace) return FC_NO_MEMORY;
    fc_parallel_for(team, units, run_unit, &p);
    if (p.workspace != small) fc_free(p.workspace);
    return FC_OK;
}

typedef struct copy {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const fc_matrix *src;
    const fc_matrix *rows;
} copy;

enum { COPY_UNIT = 64 }; /* rows at a time */
enum { MOST_COPIED = 32 << 20 };

static void copy_rows(void *context, int thread, ptrdiff_t unit) {
    const copy *c = context;
    const ptrdiff_t begin = unit * COPY_UNIT, left = c->rows->rows - begin;
    (void)thread;
    fc_pack_job job = {
        .src = (const char *)c->src->data + begin * c->src->row_stride, .src_j = c->src->col_stride, .src_k = c->src->row_stride,
        .dst = (char *)c->rows->data + begin * c->rows->row_stride, .step = c->rows->row_stride / fc_size(c->dtype),
        .n = c->rows->cols, .k = left < COPY_UNIT ? left : COPY_UNIT,
    };
    c->kernels->pack[c->dtype](&job);
}

static fc_status rows_of(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *view, int crowded, int threads,
                         fc_matrix *rows, void **owned) {
    const ptrdiff_t size = fc_size(dtype);
    *owned = NULL;
    *rows = *view;
    if (!view->rows || !view->cols) return FC_OK;
    if ((uintptr_t)view->data % (uintptr_t)size == 0 && view->row_stride % size == 0 &&
        (view->col_stride == size || view->cols == 1) && !crowded)
        return FC_OK;
    rows->col_stride = size;
    rows->row_stride = fc_apart(fc_full_lanes(kernels, dtype, view->cols) * size);
    if (view->rows > PTRDIFF_MAX / rows->row_stride || !(*owned = fc_alloc((size_t)(view->rows * rows->row_stride))))
        return FC_NO_MEMORY;
    rows->data = *owned;
    copy c = {kernels, dtype, view, rows};
    fc_parallel_for(fc_team_for((double)view->rows * (double)view->cols * 8, threads), (view->rows + COPY_UNIT - 1) / COPY_UNIT,
                    copy_rows, &c);
    return FC_OK;
}

fc_status fc_contiguous_rows(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *src, int swap, int threads,
                             fc_matrix *rows, void **owned) {
    const fc_matrix view = swap ? (fc_matrix){src->data, src->cols, src->rows, src->col_stride, src->row_stride} : *src;
    return rows_of(kernels, dtype, &view, 0, threads, rows, owned);
}

fc_status fc_rows_apart(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *src, int threads, fc_matrix *rows,
                        void **owned) {
    const int crowded = src->rows > L1_WAYS && src->row_stride && src->row_stride % L1_WAY == 0 &&
                        (double)src->rows * (double)src->cols * (double)fc_size(dtype) <= MOST_COPIED;
    return rows_of(kernels, dtype, src, crowded, threads, rows, owned);
}
