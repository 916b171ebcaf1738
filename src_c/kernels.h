/* What drivers and kernels say to each other: the arguments of each kind of kernel, and the table of one target.
 *
 * One legend throughout: y[m,n] = act(sum_k x[m,k] * w[n,k] + bias[n] + residual[m,n]).
 * Strides are in bytes where the memory is the user's (numpy's may be any), in elements inside panels and tiles. */
#ifndef FC_KERNELS_H
#define FC_KERNELS_H

#include "fastfc.h"

/* K is cut into numeric blocks of this many steps: part of the definition of the result (see fastfc.h), not a tuning
 * knob. 192 keeps the mean error on Gaussian data under MKL's; 128 costs 2 to 4 % at small M. */
enum { FC_BLOCK = 192 };

/* The widest tile of any target, in elements (avx512, f32). */
enum { FC_WIDTH_MAX = 64 };

/* Rows a multiple of so many bytes apart crowd into one or two sets of L1. */
enum { FC_CROWDED = 2048 };

/* The outputs of a panel of an n:4 sparse weight: as many chains as hide what one waits for. */
enum { FC_QUADS = 32 };

/* The most rows of the batch whose tiles alternate. */
enum { FC_ALTERNATE = 18 };

/* gemm: m rows of a times the panels of b, one after the other, and the epilogue.
 *
 *        k                 n
 *   +---------+         +-----------+           y (through the epilogue, when last)
 * m | a  ->   |       k | b, row k at|     ->   or total (m rows), which the next
 *   +---------+         | b+k*b_step|          call for the same tile goes on from
 *                       +-----------+
 * The k of all calls but the last is a multiple of FC_BLOCK. b's rows are readable up to the next full vector. */
typedef struct fc_gemm_job {
    const void *a;
    ptrdiff_t a_row;          /* bytes from row to row; elements of a row are contiguous */
    const void *b;
    ptrdiff_t b_step, b_tail; /* elements from row to row of a panel, and of a last one that is not full */
    ptrdiff_t b_panel;        /* elements from panel to panel */
    ptrdiff_t m, n, k;
    int rows_first;           /* each row tile meets all panels before the next; else each panel all row tiles */
    ptrdiff_t fetch_a;        /* a's rows come from farther than L2: fetch the heads of the next tile's, of so many in all, from
                                 the first one here on; 0: they are near */
    int stream;               /* b comes from farther than L2: the steps of it to fetch ahead, into L1; 0: it is in L2 */
    int far;                  /* and before that into L2; 0: nothing */
    int fetch_y;              /* the rows of y come from memory: fetch them while the sum runs */
    void *copy;               /* NULL, or (n <= panel) where the first of several row tiles leaves b, packed, for the others */
    const void *next;         /* NULL, or with copy where the next call's rows of b begin: fetched into L2 meanwhile, */
    ptrdiff_t next_rows;      /* so many at most */
    int alternate;            /* panels of 4 vectors, first and last, no copy: so many steps after which the next row tile has its
                                 turn, of FC_ALTERNATE rows at most; 0: a tile runs all of k */
    int halves;               /* strips of half a panel, where their tiles are higher */
    int ahead;                /* what stands right behind each panel comes next: fetch it into L2 meanwhile */
    ptrdiff_t between, behind; /* steps of b behind the k of each panel, and of the last, that stand as these do */
    void *total;              /* panels of m rows of `panel` elements; may be NULL when first and last */
    int first, last;
    const fc_epilogue *epilogue;
    ptrdiff_t row, col;       /* where this tile stands in y */
} fc_gemm_job;

/* few: up to few_rows (fc_kernels) rows of a times n rows of w, whose k is contiguous; both may stand anywhere. With `across` it
 * is the outputs that are few: a is the weight, w the batch, and the sum of rows i and j belongs at y[j, i]. */
#define FC_FEW 6
typedef struct fc_few_job {
    const void *a;
    ptrdiff_t a_row, a_step;  /* bytes from row to row, and along k */
    const void *w;
    ptrdiff_t w_row;          /* bytes */
    ptrdiff_t m, n, k;
    const fc_epilogue *epilogue;
    ptrdiff_t at;             /* where row 0 of w stands in y: its column, or its row with across */
    int across, far;          /* far: the batch comes from memory */
} fc_few_job;

/* dots: m <= FC_DOTS_ROWS rows of x times n <= FC_DOTS outputs that stand one after the other, or alternate along k, of 16 steps
 * or more. */
enum { FC_DOTS = 3, FC_DOTS_ROWS = 256 };
typedef struct fc_dots_job {
    const void *x;
    ptrdiff_t x_row, m;       /* bytes from row to row; elements of a row are contiguous */
    const void *w;
    ptrdiff_t w_row, w_step;  /* bytes from output to output, and along k: either an element */
    ptrdiff_t n, k;
    const fc_epilogue *epilogue;
    ptrdiff_t at;             /* where row 0 of x stands in y: its row, or, without across, its column */
    int across;
} fc_dots_job;

/* pack: dst[k * step + j] = src(j, k) for j < n, +0 from n up to the next full vector, or, where n fills none and step is less,
 * up to the next row, and behind the last. With a `pitch` every panel of
 * columns starts anew: column j of panel p stands at dst + p * pitch + k * step + j. */
typedef struct fc_pack_job {
    const void *src;
    ptrdiff_t src_j, src_k;   /* bytes */
    void *dst;
    ptrdiff_t step, pitch;    /* elements */
    ptrdiff_t n, k;
    ptrdiff_t rows;           /* with a pitch: steps of k to the end of src, so many to fetch ahead; 0: none */
} fc_pack_job;

/* finish: rows of finished sums (m by n, `sum_row` elements apart) become rows of y. Or they are turned: n rows of m, readable
 * up to the next full vector. */
typedef struct fc_finish_job {
    const void *sum;
    ptrdiff_t sum_row;
    ptrdiff_t turned;            /* outputs at a time, if sums are turned, those of an output in a row; else 0 */
    const fc_epilogue *epilogue;
    ptrdiff_t row, col, m, n;
} fc_finish_job;

/* Bytes of a row of y that the processor sees being written, and fetches ahead. */
enum { FC_LONG_PIECE = 4096 };

/* Entries from the one that is multiplied to the one whose row of dense is fetched: half as many where that is more than four
 * vectors of it; from memory twice as many; and there from four vectors on twice as many again, into L2. */
enum { FC_FETCH = 16 };
/* The processor itself brings a line's neighbour when it is not busy with memory: FC_FROM_L3 leaves every second line of a
 * long row to it. */
enum { FC_FROM_L3 = 1, FC_FROM_MEMORY };

/* spmm: sum[r, 0:n] = sum over the stored entries e of row r of values[e] * dense[index[e], 0:n], in stored order, in
 * blocks of FC_BLOCK entries counted from the row's first. With 1 < n < a full vector, rows of dense are readable and rows
 * of sum writeable up to that. */
typedef struct fc_spmm_job {
    const void *values;
    const void *indices;      /* NULL: place e names row e */
    int index_bytes;
    const int64_t *begin;     /* rows + 1 places */
    ptrdiff_t rows, n;
    const void *dense;
    ptrdiff_t dense_step;     /* elements */
    void *sum;
    ptrdiff_t sum_row;        /* elements */
    int fetch;                /* 0, or where dense comes from: fetch its rows ahead */
    int64_t places;           /* of all indices, with fetch */
} fc_spmm_job;

/* spmm_t: out[index[e], 0:n] = values[e] * dense[r, 0:n] + out[index[e], 0:n] for the entries e of row r, one after the
 * other, row after row. */
typedef struct fc_spmm_t_job {
    const void *values;
    const void *indices;
    int index_bytes;
    const int64_t *begin;     /* rows + 1 places */
    ptrdiff_t rows, n;
    const void *dense;
    ptrdiff_t dense_step;     /* elements */
    void *out;
    ptrdiff_t out_step;       /* elements */
    int fetch;                /* out is larger than L2: fetch its rows ahead */
    int64_t places;
} fc_spmm_t_job;

/* sddmm: out[e] (+)= sum_m g[row of e, m] * x[col of e, m] over one block of at most FC_BLOCK batch rows: 16 virtual
 * lanes (lane l sums m = l mod 16, in order, from +0), then the tree of halves 8, 4, 2, 1. */
typedef struct fc_sddmm_job {
    const void *indices;
    int index_bytes;
    const int64_t *begin;     /* rows + 1 places */
    ptrdiff_t rows, m;        /* m padded to 16 with +0, unless it is 1 */
    const void *g, *x;        /* row r of g at g + r * step */
    ptrdiff_t step;
    void *out;
    int add;
} fc_sddmm_job;

/* A packed sparse weight is cut into segments, a block of up to FC_SPARSE_ROWS rows by a tile of k. Rows of a segment with about
 * as many entries stand together in groups of 8, 4, 2 or 1: at each of `count` steps, one entry of each row. Where a row has
 * fewer, -0 stands for a value, and its step is the tile's length, where the tile of x holds +0: fma(-0, +0, sum) is sum. All rows
 * of a block stand in its first segment, those without entries in groups of 0 steps. */
enum { FC_SPARSE_ROWS = 1024 };
typedef struct fc_sparse_group {
    uint32_t at;              /* the first of its count * width places in values and steps */
    uint32_t count;
    uint16_t width;
    uint16_t row[8];          /* in the block */
} fc_sparse_group;

/* Steps go by fours, because one load brings four values or steps of a row: four of row 0, of row 1 and so on. What is left
 * of them goes one by one: a step of row 0, of row 1. */
static inline size_t fc_sparse_place(const fc_sparse_group *g, uint32_t step, int row) {
    const uint32_t fours = g->count & ~3u;
    return g->at + (step < fours ? (size_t)((step & ~3u) * g->width + 4u * (uint32_t)row + (step & 3u))
                                 : (size_t)(step * g->width + (uint32_t)row));
}

/* tiled: sum[row, :] = sum[row, :] (+0 with `first`) + (sum over the row's entries in the segment, in order of k, of
 * value * x[step, :], from +0). Rows of x and of sum are vecs (0, 1, 2, 4, 8) vectors wide; with 0 vecs they are single elements. */
typedef struct fc_tiled_job {
    const fc_sparse_group *groups;
    ptrdiff_t count;
    const void *steps;
    int step_bytes;           /* 1, or 2 where the tile is too long */
    const void *values;
    const void *x;            /* `tile` rows, and one of +0; with 0 vecs readable up to a multiple of 256 bytes */
    ptrdiff_t tile;
    int vecs;
    int fetch;                /* the weight comes from afar */
    int gather;               /* gathers are faster than loads one by one */
    int scalars;              /* entries of one row are multiplied one by one: filling lanes takes longer than it saves */
    int plain;                /* addresses are to be one register each */
    int byte_tables;          /* the CPU looks up bytes in tables */
    int first;                /* the first segment of its rows: nothing stands in sum yet */
    void *sum;                /* a row for each of the block */
} fc_tiled_job;

#define FC_PADDING UINT32_MAX /* the source of places that are no entries */
/* Four places belong to entries side by side, as four steps of a row mostly do. (As unsigned numbers go entry 0 follows padding.) */
static inline int fc_side_by_side(const uint32_t *source) {
    return source[1] - source[0] == 1 && source[2] - source[0] == 2 && source[3] - source[0] == 3 && source[0] != FC_PADDING;
}

/* tiled_grad: out[source] (+)= sum_m g[row, m] * x[step, m] for the entries of a segment, over a block of the batch as sddmm. */
typedef struct fc_tiled_grad_job {
    const fc_sparse_group *groups;
    ptrdiff_t count;
    ptrdiff_t side_by_side;   /* groups at a time */
    const void *steps;
    int step_bytes;
    const uint32_t *source;   /* of each place: its entry in the weight's own order */
    const void *g, *x;
    ptrdiff_t step, m;        /* elements from row to row; m padded to 16 with +0 */
    void *out;
    int add;
} fc_tiled_grad_job;

/* panels: 16 outputs at a time have a list of stored inputs, and of each entry 16 values; chains of FC_BLOCK entries. */
typedef struct fc_panels_job {
    const void *x;
    ptrdiff_t x_row, m;       /* bytes from row to row; elements of a row are contiguous */
    const void *values;
    const uint32_t *columns;
    const int64_t *begin;     /* panels + 1 places: the first entry of each */
    ptrdiff_t panels;
    int64_t ahead;            /* what comes next stands so many entries behind: fetch it; 0: nothing */
    const fc_epilogue *epilogue;
    ptrdiff_t row, col, n;    /* where row 0 and the first panel stand in y, and how many outputs there are from there on */
} fc_panels_job;

/* panels_turned: the same panels times rows of x that are packed, `vecs` vectors of them, 1 or 2: inputs by batch. Sums are
 * outputs by batch, those of all 16 of each panel. */
typedef struct fc_panels_turned_job {
    const void *x;
    int vecs, fetch;          /* fetch: values come from beyond L2 */
    const void *values;
    const uint32_t *columns;
    const int64_t *begin;
    ptrdiff_t panels;
    void *sum;
} fc_panels_turned_job;

/* quads: FC_QUADS outputs at a time, of which each stores `of` inputs of every 4. Steps of a panel go through its groups of 4
 * in order, `of` to a group: values are steps by FC_QUADS, and of 16 steps the places in their groups, 2 bits each from the
 * lowest on, make one code an output. Chains of FC_BLOCK steps. */
typedef struct fc_quads_job {
    const void *x;
    ptrdiff_t x_row, m;
    const void *values;
    const uint32_t *places;
    ptrdiff_t panels, steps;  /* steps of each panel, padded to 16 where codes are counted */
    int of;
    const fc_epilogue *epilogue;
    ptrdiff_t row, col, n;
} fc_quads_job;

/* across: each output has a list of blocks of 16 inputs, and their values; 16 virtual lanes, each one chain over the blocks. */
typedef struct fc_across_job {
    const void *x;
    ptrdiff_t x_row, m;
    const void *values;
    const uint32_t *blocks;
    const int64_t *begin;     /* n + 1 places: the first block of each output */
    const fc_epilogue *epilogue;
    ptrdiff_t row, col, n;
} fc_across_job;

/* column_sum: out[j] = sum over the m rows of src of src[i, j], in blocks of FC_BLOCK rows, blocks in order. */
typedef struct fc_column_sum_job {
    const void *src;
    ptrdiff_t src_row;        /* bytes; elements of a row are contiguous */
    ptrdiff_t m, n;
    void *out;
    int add;                  /* out[j] + sum instead of sum */
} fc_column_sum_job;

/* activation_grad: dst[i] = grad[i] * act'(z[i]) for n contiguous elements. */
typedef struct fc_activation_grad_job {
    const void *grad, *z;
    void *dst;
    ptrdiff_t n;
    int activation;
    double parameter;
} fc_activation_grad_job;

/* update: what fc_update says of one tensor, for n contiguous elements of it. */
typedef struct fc_update_job {
    const fc_rule *rule;
    void *w;
    const void *grad;
    void *state[3];
    ptrdiff_t n;
} fc_update_job;

/* square_sum: sum over the n elements of (scale * x)^2 in float64: 16 virtual lanes (lane l sums x[l mod 16], in order, from
 * +0; the end is padded with +0), then the tree of halves 8, 4, 2, 1. */
typedef struct fc_square_sum_job {
    const void *x;
    ptrdiff_t n;
    double scale, sum;        /* sum: out */
} fc_square_sum_job;

/* gate: dst[i] = act(z[i]) * factor[i] for n contiguous elements; dst may be an operand. */
typedef struct fc_gate_job {
    const void *z, *factor;
    void *dst;
    ptrdiff_t n;
    int activation;
    double parameter;
} fc_gate_job;

/* gate_grad: dz[i] = grad[i] * factor[i] * act'(z[i]) and dfactor[i] = grad[i] * act(z[i]); each may be an operand. */
typedef struct fc_gate_grad_job {
    const void *grad, *z, *factor;
    void *dz, *dfactor;
    ptrdiff_t n;
    int activation;
    double parameter;
} fc_gate_grad_job;

/* norm: y = norm of the m rows of x, whose elements are contiguous; y may be x. */
typedef struct fc_norm_job {
    const void *x;
    ptrdiff_t x_row;          /* bytes */
    void *y;
    ptrdiff_t y_row;
    const fc_norm *norm;
    ptrdiff_t row, m, n;      /* row: where this tile stands in mean and rstd */
} fc_norm_job;

/* norm_grad: gx of m rows (NULL: not wanted; it may be grad), and the rows' part of the gradients of gamma and beta. */
typedef struct fc_norm_grad_job {
    const void *grad, *x;
    ptrdiff_t grad_row, x_row; /* bytes */
    void *gx;
    ptrdiff_t gx_row;
    void *sums;               /* NULL, or 2 n elements: gamma's, then beta's */
    const fc_norm *norm;
    ptrdiff_t row, m, n;
} fc_norm_grad_job;

/* cross_entropy: of m rows of n logits, with q[j] = weight[j] * (keep * target[j] + spread), where a label's target is 1
 * at its place; labels are in range or `ignore`. */
typedef struct fc_cross_entropy_job {
    const void *x;
    ptrdiff_t x_row;          /* bytes */
    const int64_t *labels;    /* or NULL: */
    const void *targets;      /* m rows */
    ptrdiff_t targets_row;
    const void *weight;       /* n, or NULL: ones */
    double keep, spread, scale;
    int64_t ignore;
    void *losses;             /* m */
    void *grad;               /* NULL, or m rows: the gradients times scale */
    ptrdiff_t grad_row;
    ptrdiff_t m, n;
} fc_cross_entropy_job;

/* pointwise_loss: losses and their gradients (times scale), each times weight and factor, of n contiguous elements, and
 * their sum on 16 virtual lanes. */
typedef struct fc_pointwise_loss_job {
    int kind;
    const void *x, *target, *weight, *positive; /* weight, positive: or NULL, ones */
    double width, factor, scale;
    void *losses, *grad;      /* or NULL */
    ptrdiff_t n;
    double sum;               /* out */
} fc_pointwise_loss_job;

/* dropout: y[i] = x[i] * (word of element index + i >= least ? scale : 0); index is a multiple of 64. */
typedef struct fc_dropout_job {
    const void *x;
    void *y;
    ptrdiff_t n;
    uint64_t seed, call, index;
    uint32_t least;
    double scale;
} fc_dropout_job;

typedef struct fc_probe_job {
    const void *buffer;       /* read: count elements, contiguous; fma: NULL, count iterations */
    ptrdiff_t count;
    double flops;             /* out */
    double sink;              /* out: keeps the work alive */
} fc_probe_job;

/* One target's kernels, from kernels.def. */
typedef struct fc_kernels {
    const char *isa;
    int fma;                  /* keeps the canonical bits */
    ptrdiff_t panel[2];       /* elements, by dtype */
    ptrdiff_t width[2];       /* columns of the widest tile: as much as a unit of work is wide */
    ptrdiff_t lanes[2];
    ptrdiff_t tile_rows;      /* the most rows of any tile of two vectors and more */
    ptrdiff_t few_rows[2];    /* the most rows of a that `few` takes, by dtype */
    int tables[2];            /* `tiled` holds a column of x in registers where steps have a byte, by dtype */
    int narrow;               /* a row of a panel is one line: too little to fetch at a time from rows that stand apart */
#define FC_KERNEL(name) void (*name[2])(struct fc_##name##_job *);
#include "kernels.def"
#undef FC_KERNEL
} fc_kernels;

#define FC_TARGET(isa) extern const fc_kernels fc_kernels__##isa;
FC_TARGET(baseline)
FC_TARGET(scalar)
FC_TARGET(avx2)
FC_TARGET(avx512)
FC_TARGET(neon)
#undef FC_TARGET

/* Elements to skip from panel to panel, and so on, need the element's size. */
static inline ptrdiff_t fc_size(fc_dtype dtype) { return dtype == FC_F32 ? 4 : 8; }

#endif
