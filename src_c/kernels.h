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

/* The widest panel of any target, in elements (avx512, f32). */
enum { FC_PANEL_MAX = 64 };

/* gemm: m rows of a times one panel b, and the epilogue.
 *
 *        k                 n <= panel
 *   +---------+         +-----------+           y (through the epilogue, when last)
 * m | a  ->   |       k | b, row k at|     ->   or total (m rows of `panel` elements), which the next
 *   +---------+         | b+k*b_step|          call for the same tile goes on from
 *                       +-----------+
 * The k of all calls but the last is a multiple of FC_BLOCK. b's rows are readable up to the next full vector. */
typedef struct fc_gemm_job {
    const void *a;
    ptrdiff_t a_row;          /* bytes from row to row; elements of a row are contiguous */
    const void *b;
    ptrdiff_t b_step;         /* elements from row to row */
    ptrdiff_t m, n, k;
    int stream;               /* b comes from farther than L2: the steps of it to fetch ahead, into L1; 0: it is in L2 */
    int fetch_y;              /* the rows of y come from memory: fetch them while the sum runs */
    void *copy;               /* NULL, or where the first of several row tiles leaves b for the others: */
    ptrdiff_t copy_step;      /* elements from row to row */
    const void *next;         /* NULL, or what to fetch into L2 meanwhile: as many bytes as b, which come next */
    void *total;              /* may be NULL when first and last */
    int first, last;
    const fc_epilogue *epilogue;
    ptrdiff_t row, col;       /* where this tile stands in y */
} fc_gemm_job;

/* few: m <= FC_FEW rows of a times n rows of w, whose k is contiguous; both may stand anywhere. With `across` it is the
 * outputs that are few: a is the weight, w the batch, and the sum of rows i and j belongs at y[j, i]. */
enum { FC_FEW = 6 };
typedef struct fc_few_job {
    const void *a;
    ptrdiff_t a_row, a_step;  /* bytes from row to row, and along k */
    const void *w;
    ptrdiff_t w_row;          /* bytes */
    ptrdiff_t m, n, k;
    const fc_epilogue *epilogue;
    ptrdiff_t at;             /* where row 0 of w stands in y: its column, or its row with across */
    int across;
} fc_few_job;

/* pack: dst[k * step + j] = src(j, k) for j < n, +0 from n up to the next full vector. */
typedef struct fc_pack_job {
    const void *src;
    ptrdiff_t src_j, src_k;   /* bytes */
    void *dst;
    ptrdiff_t step;           /* elements */
    ptrdiff_t n, k;
} fc_pack_job;

/* epilogue: rows of finished sums (m by n, `row_stride` elements apart) become rows of y. */
typedef struct fc_finish_job {
    const void *sum;
    ptrdiff_t sum_row;
    const fc_epilogue *epilogue;
    ptrdiff_t row, col, m, n;
} fc_finish_job;

/* spmm: sum[r, 0:n] = sum over the stored entries e of row r of values[e] * dense[index[e], 0:n], in stored order, in
 * blocks of FC_BLOCK entries counted from the row's first. dense's rows are readable up to the next full vector. */
typedef struct fc_spmm_job {
    const void *values;
    const void *indices;      /* NULL: place e names row e */
    int index_bytes;
    const int64_t *order;     /* NULL, or the entry that stands at place e */
    const int64_t *begin;     /* rows + 1 places */
    ptrdiff_t rows, n;
    const void *dense;
    ptrdiff_t dense_step;     /* elements */
    void *sum;
    ptrdiff_t sum_row;        /* elements */
} fc_spmm_job;

/* sddmm: out[e] (+)= sum_m g[row of e, m] * x[col of e, m] over one block of at most FC_BLOCK batch rows: 16 virtual
 * lanes (lane l sums m = l mod 16, in order, from +0), then the tree of halves 8, 4, 2, 1. */
typedef struct fc_sddmm_job {
    const void *indices;
    int index_bytes;
    const int64_t *begin;     /* rows + 1 places */
    ptrdiff_t rows, m;        /* m padded to 16 with +0 */
    const void *g, *x;        /* row r of g at g + r * step */
    ptrdiff_t step;
    void *out;
    int add;
} fc_sddmm_job;

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
    ptrdiff_t lanes[2];
    ptrdiff_t tile_rows[2];   /* the most rows of any tile */
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
