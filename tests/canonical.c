/* The canonical order of summation in plain loops: what every FMA target must equal bit for bit. Compiled by the tests
 * with -O2 -ffp-contract=off; this file includes itself once for each dtype.
 *
 *     y[m,n] = act(sum_k x[m,k] * w[n,k] + bias[n] + residual[m,n])
 */
#ifndef REAL
#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { BLOCK = 192, LANES = 16 };

#define REAL float
#define FMA fmaf
#define NAME(name) name##_f32
#include "canonical.c"
#undef REAL
#undef FMA
#undef NAME

#define REAL double
#define FMA fma
#define NAME(name) name##_f64
#include "canonical.c"

#else

/* sum of a[i] * b[i]: blocks from +0, the total starts as the first block's sum, further ones are added in order. */
static REAL NAME(chain)(int64_t length, const REAL *a, int64_t a_step, const REAL *b, int64_t b_step) {
    REAL total = 0;
    for (int64_t block = 0; block < length; block += BLOCK) {
        REAL sum = 0;
        for (int64_t i = block; i < length && i < block + BLOCK; i++) sum = FMA(a[i * a_step], b[i * b_step], sum);
        total = block ? total + sum : sum;
    }
    return total;
}

/* out[i,j] = sum over l of a[i,l] * b[j,l]; steps in elements, out is contiguous. */
void NAME(product)(int64_t rows, int64_t cols, int64_t length, const REAL *a, int64_t a_row, int64_t a_step, const REAL *b,
                   int64_t b_row, int64_t b_step, REAL *out) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            out[i * cols + j] = NAME(chain)(length, a + i * a_row, a_step, b + j * b_row, b_step);
}

/* Row r of a CSR operand times column j of a dense one: its stored entries in stored order, blocks of entries. */
void NAME(csr_product)(int64_t rows, int64_t cols, const int64_t *indptr, const int64_t *indices, const REAL *values,
                       const REAL *dense, int64_t dense_index, int64_t dense_col, REAL *out) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < cols; j++) {
            REAL total = 0;
            for (int64_t block = indptr[r]; block < indptr[r + 1]; block += BLOCK) {
                REAL sum = 0;
                for (int64_t e = block; e < indptr[r + 1] && e < block + BLOCK; e++)
                    sum = FMA(values[e], dense[indices[e] * dense_index + j * dense_col], sum);
                total = block > indptr[r] ? total + sum : sum;
            }
            out[r * cols + j] = total;
        }
}

/* Finished sums become y: bias, then residual, then the activation; z is the value before it. */
void NAME(finish)(int64_t m, int64_t n, const REAL *sum, const REAL *bias, const REAL *residual, int relu, REAL *y, REAL *z) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            REAL v = sum[i * n + j];
            if (bias) v = v + bias[j];
            if (residual) v = v + residual[i * n + j];
            z[i * n + j] = v;
            y[i * n + j] = !relu || v > 0 || v != v ? v : 0;
        }
}

/* The gradient behind relu. */
void NAME(gate)(int64_t count, const REAL *grad, const REAL *z, REAL *out) {
    for (int64_t i = 0; i < count; i++) out[i] = z[i] > 0 || z[i] != z[i] ? grad[i] : 0;
}

/* The gradient of the bias: plain adds over the batch, in blocks. */
void NAME(column_sum)(int64_t m, int64_t n, const REAL *g, REAL *out) {
    for (int64_t j = 0; j < n; j++) {
        REAL total = 0;
        for (int64_t block = 0; block < m; block += BLOCK) {
            REAL sum = 0;
            for (int64_t i = block; i < m && i < block + BLOCK; i++) sum = sum + g[i * n + j];
            total = block ? total + sum : sum;
        }
        out[j] = total;
    }
}

/* The gradient of stored entry e = (r, c): 16 lanes over each block of the batch, which is padded to whole 16s with +0;
 * lanes added as a tree of halves, blocks in order. */
void NAME(sddmm)(int64_t m, int64_t n, int64_t k, const int64_t *indptr, const int64_t *indices, const REAL *g,
                 const REAL *x, REAL *out) {
    for (int64_t r = 0; r < n; r++)
        for (int64_t e = indptr[r]; e < indptr[r + 1]; e++) {
            REAL total = 0;
            for (int64_t block = 0; block < m; block += BLOCK) {
                const int64_t end = m - block < BLOCK ? m : block + BLOCK, padded = (end - block + LANES - 1) / LANES * LANES;
                REAL lane[LANES] = {0};
                for (int64_t i = 0; i < padded; i++) {
                    const int inside = block + i < end;
                    const REAL a = inside ? g[(block + i) * n + r] : 0, b = inside ? x[(block + i) * k + indices[e]] : 0;
                    lane[i % LANES] = FMA(a, b, lane[i % LANES]);
                }
                for (int half = LANES / 2; half; half /= 2)
                    for (int l = 0; l < half; l++) lane[l] = lane[l] + lane[l + half];
                total = block ? total + lane[0] : lane[0];
            }
            out[e] = total;
        }
}
#endif
