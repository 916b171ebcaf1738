/* The blocked product that everything dense is made of: y = epilogue(a * b). Internal; drivers only. */
#ifndef FC_GEMM_H
#define FC_GEMM_H
#include "kernels.h"

typedef struct fc_gemm {
    const fc_kernels *kernels;
    fc_dtype dtype;
    ptrdiff_t m, n, k;
    const void *a;             /* m rows of k contiguous, aligned elements */
    ptrdiff_t a_row;           /* bytes */
    const void *panels;        /* b packed for `kernels`, or NULL: */
    const void *b;             /* element (k, j) at b + j * b_j + k * b_k */
    ptrdiff_t b_j, b_k;        /* bytes */
    const fc_epilogue *epilogue;
    int threads;
} fc_gemm;

fc_status fc_gemm_run(const fc_gemm *g);
/* The same where outputs are few (few_outputs.c): whether that paid, and is done. */
int fc_few_outputs_run(const fc_gemm *g, int team);
/* The last outputs, as many as are better done by themselves, or 0; and the product in two parts. */
ptrdiff_t fc_outputs_apart(const fc_gemm *g);
fc_status fc_apart_run(const fc_gemm *g, ptrdiff_t apart);
/* The same with the batch, a, packed in place of the weight, b (turned.c); and the kernels it pays with, or NULL. */
const fc_kernels *fc_turned_kernels(const fc_gemm *g);
fc_status fc_turned_run(const fc_gemm *g, const fc_kernels *kernels, int team);

/* The first two of most CPUs. Rows so many bytes apart fall into one set. */
enum { L1_WAYS = 8, L1_WAY = 4096 };

static inline ptrdiff_t fc_full_lanes(const fc_kernels *kernels, fc_dtype dtype, ptrdiff_t n) {
    const ptrdiff_t lanes = kernels->lanes[dtype];
    return (n + lanes - 1) / lanes * lanes;
}
/* Elements from row to row of panel p of n columns of a packed weight: the panel's width; in the last panel as many as fill
 * vectors, but of a few columns in one vector only these. */
static inline ptrdiff_t fc_panel_step(const fc_kernels *kernels, fc_dtype dtype, ptrdiff_t n, ptrdiff_t p) {
    const ptrdiff_t left = n - p * kernels->panel[dtype];
    if (left >= kernels->panel[dtype]) return kernels->panel[dtype];
    return left <= FC_DOTS && left < kernels->lanes[dtype] ? left : fc_full_lanes(kernels, dtype, left);
}
static inline ptrdiff_t fc_panels(const fc_kernels *kernels, fc_dtype dtype, ptrdiff_t n) {
    return (n + kernels->panel[dtype] - 1) / kernels->panel[dtype];
}

/* A matrix whose rows are contiguous and aligned: itself where it already is, else a copy in *owned (to be given to
 * fc_free). swap: the transpose of src is wanted. */
fc_status fc_contiguous_rows(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *src, int swap, int threads,
                             fc_matrix *rows, void **owned);
/* The same, and a copy too where so many rows fall into one set of L1 that they push each other out, of at most 32 MiB. */
fc_status fc_rows_apart(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *src, int threads, fc_matrix *rows,
                        void **owned);

#endif
