/* Random sparse structures, sound ones and malformed ones, through everything that takes a CSR operand: a malformed one is
 * said to be so, a sound one gives what a few plain loops give, and no byte outside of the arrays is touched, which
 * AddressSanitizer sees (every array is as long as it has to be and no longer). Argument: how many structures. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "fastfc.h"

static uint64_t state = 20240601;

static uint64_t next(void) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static ptrdiff_t below(ptrdiff_t n) { return (ptrdiff_t)(next() % (uint64_t)n); }

static void *room(ptrdiff_t count, ptrdiff_t size) { return malloc((size_t)(count * size)); }

/* Small integers, whose sums of products are exact in any order. */
static double get(fc_dtype dtype, const void *p, ptrdiff_t i) {
    return dtype == FC_F32 ? ((const float *)p)[i] : ((const double *)p)[i];
}
static void *numbers(fc_dtype dtype, ptrdiff_t n) {
    void *p = room(n, dtype == FC_F32 ? 4 : 8);
    for (ptrdiff_t i = 0; i < n; i++) {
        const double v = (double)(below(9) - 4);
        if (dtype == FC_F32) ((float *)p)[i] = (float)v;
        else ((double *)p)[i] = v;
    }
    return p;
}

static int64_t index_at(const fc_csr *csr, const void *p, ptrdiff_t i) {
    return csr->index_bytes == 8 ? ((const int64_t *)p)[i] : ((const int32_t *)p)[i];
}
static void set_index(const fc_csr *csr, void *p, ptrdiff_t i, int64_t v) {
    if (csr->index_bytes == 8) ((int64_t *)p)[i] = v;
    else ((int32_t *)p)[i] = (int32_t)v;
}

static void fail(const char *what, const fc_csr *csr, long number) {
    fprintf(stderr, "structure %ld (%td by %td, %td entries): %s\n", number, csr->rows, csr->cols, csr->nnz, what);
    exit(1);
}

static void expect(fc_dtype dtype, const void *got, const double *wanted, ptrdiff_t n, const char *what, const fc_csr *csr,
                   long number) {
    for (ptrdiff_t i = 0; i < n; i++)
        if (get(dtype, got, i) != wanted[i]) fail(what, csr, number);
}

static fc_matrix matrix(void *data, ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t size) {
    return (fc_matrix){data, rows, cols, cols * size, size};
}

/* The products of a sound structure against loops; n: width of the dense operand. */
static void products(fc_dtype dtype, const fc_csr *csr, ptrdiff_t n, int threads, long number) {
    const ptrdiff_t size = dtype == FC_F32 ? 4 : 8, rows = csr->rows, cols = csr->cols;
    void *a = numbers(dtype, cols * n), *b = numbers(dtype, rows * n);
    double *ca = calloc((size_t)(rows * n + 1), sizeof *ca), *cb = calloc((size_t)(cols * n + 1), sizeof *cb);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (int64_t e = index_at(csr, csr->indptr, r); e < index_at(csr, csr->indptr, r + 1); e++)
            for (ptrdiff_t j = 0; j < n; j++) {
                const int64_t c = index_at(csr, csr->indices, e);
                ca[r * n + j] += get(dtype, csr->values, e) * get(dtype, a, c * n + j);
                cb[c * n + j] += get(dtype, csr->values, e) * get(dtype, b, r * n + j);
            }
    void *ya = calloc((size_t)(rows * n + 1), (size_t)size), *yb = calloc((size_t)(cols * n + 1), (size_t)size);
    ya = realloc(ya, (size_t)(rows * n * size)), yb = realloc(yb, (size_t)(cols * n * size));
    const fc_matrix am = matrix(a, cols, n, size), bm = matrix(b, rows, n, size);
    const fc_matrix yam = matrix(ya, rows, n, size), ybm = matrix(yb, cols, n, size);
    if (fc_sparse_product(dtype, csr, 0, &am, &yam, threads)) fail("csr dense failed", csr, number);
    expect(dtype, ya, ca, rows * n, "csr dense", csr, number);
    if (fc_sparse_product(dtype, csr, 1, &bm, &ybm, threads)) fail("csr^T dense failed", csr, number);
    expect(dtype, yb, cb, cols * n, "csr^T dense", csr, number);

    /* As x of a layer, whose weight's transpose is a; and its gradient, whose transpose is cb. */
    const fc_matrix w = {a, n, cols, size, n * size};
    fc_epilogue e = {.y = ya, .y_row = n * size};
    if (fc_linear_forward_csr_x(dtype, csr, &w, NULL, &e, threads)) fail("forward, csr x failed", csr, number);
    expect(dtype, ya, ca, rows * n, "forward, csr x", csr, number);
    void *gw = room(cols * n, size), *gb = room(n, size);
    fc_matrix gwm = matrix(gw, n, cols, size);
    fc_gradients g = {.gw = &gwm, .gb = gb};
    const fc_upstream up = {.grad_y = &bm};
    if (fc_linear_backward_csr_x(dtype, &up, csr, &g, threads)) fail("backward, csr x failed", csr, number);
    for (ptrdiff_t j = 0; j < n; j++)
        for (ptrdiff_t c = 0; c < cols; c++)
            if (get(dtype, gw, j * cols + c) != cb[c * n + j]) fail("backward, csr x", csr, number);

    /* As a weight: x is a's transpose, the gradient of y b's. */
    void *y = room(n * rows, size), *gx = room(n * cols, size), *values = room(csr->nnz, size), *bias = room(rows, size);
    const fc_matrix x = {a, n, cols, size, n * size}, gy = {b, n, rows, size, n * size};
    e = (fc_epilogue){.y = y, .y_row = rows * size};
    if (fc_linear_forward_csr(dtype, &x, csr, &e, threads)) fail("forward, csr weight failed", csr, number);
    for (ptrdiff_t j = 0; j < n; j++)
        for (ptrdiff_t r = 0; r < rows; r++)
            if (get(dtype, y, j * rows + r) != ca[r * n + j]) fail("forward, csr weight", csr, number);
    fc_sparse *packed = fc_sparse_pack(dtype, csr, 0);
    if (!packed) fail("packing failed", csr, number);
    const int byte_tables = fc_byte_tables;
    if (number % 2) fc_byte_tables = 0;
    if (n > 0 && rows > 0) memset(y, 0xff, (size_t)(n * rows * size));
    if (fc_linear_forward_sparse(dtype, &x, packed, &e, threads)) fail("forward, packed failed", csr, number);
    for (ptrdiff_t j = 0; j < n; j++)
        for (ptrdiff_t r = 0; r < rows; r++)
            if (get(dtype, y, j * rows + r) != ca[r * n + j]) fail("forward, packed", csr, number);
    fc_byte_tables = byte_tables;
    fc_sparse_free(packed);
    fc_matrix gxm = matrix(gx, n, cols, size);
    g = (fc_gradients){.gx = &gxm, .values = values, .gb = bias};
    const fc_upstream down = {.grad_y = &gy};
    if (fc_linear_backward_csr(dtype, &down, &x, csr, &g, threads)) fail("backward, csr weight failed", csr, number);
    for (ptrdiff_t j = 0; j < n; j++)
        for (ptrdiff_t c = 0; c < cols; c++)
            if (get(dtype, gx, j * cols + c) != cb[c * n + j]) fail("backward, csr weight, gx", csr, number);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (int64_t at = index_at(csr, csr->indptr, r); at < index_at(csr, csr->indptr, r + 1); at++) {
            double d = 0;
            const int64_t c = index_at(csr, csr->indices, at);
            for (ptrdiff_t j = 0; j < n; j++) d += get(dtype, b, r * n + j) * get(dtype, a, c * n + j);
            if (get(dtype, values, at) != d) fail("backward, csr weight, stored entries", csr, number);
        }
    free(a), free(b), free(ca), free(cb), free(ya), free(yb), free(gw), free(gb), free(y), free(gx), free(values), free(bias);
}

int main(int count, char **arguments) {
    const long structures = count > 1 ? atol(arguments[1]) : 20000;
    long malformed = 0;
    for (long number = 0; number < structures; number++) {
        const char *const *isa = fc_available_isas();
        for (ptrdiff_t skip = below(8); skip-- && isa[1];) isa++;
        fc_select_isa(*isa);
        const fc_dtype dtype = below(2) ? FC_F32 : FC_F64;
        const int large = number % 400 == 399; /* with a row that is cut, and parts */
        fc_csr csr = {.index_bytes = below(2) ? 8 : 4, .rows = below(large ? 5 : 40), .cols = below(30)};
        void *indptr = room(csr.rows + 1, csr.index_bytes);
        int64_t entries = 0;
        for (ptrdiff_t r = 0; r <= csr.rows; r++) {
            set_index(&csr, indptr, r, entries);
            if (r < csr.rows && csr.cols && below(4)) entries += below(large && r == 1 ? 60000 : 12);
        }
        csr.nnz = entries + (below(3) ? 0 : below(4)); /* unused places at the end */
        void *indices = room(csr.nnz, csr.index_bytes), *values = numbers(dtype, csr.nnz);
        for (ptrdiff_t i = 0; i < csr.nnz; i++) set_index(&csr, indices, i, i < entries ? below(csr.cols) : -7);
        csr.indptr = indptr;
        csr.indices = indices;
        csr.values = values;

        ptrdiff_t at;
        fc_csr_fault wanted = FC_CSR_OK;
        ptrdiff_t place = 0;
        switch (below(8)) {
        case 0:
            set_index(&csr, indptr, 0, below(2) ? 1 : -1);
            wanted = FC_CSR_START;
            break;
        case 1:
            if (!csr.rows) break;
            place = 1 + below(csr.rows);
            set_index(&csr, indptr, place, below(2) ? -1 - below(1 << 30) : index_at(&csr, indptr, place - 1) - 1);
            wanted = FC_CSR_FALLS;
            break;
        case 2:
            if (!csr.rows) break;
            place = 1 + below(csr.rows);
            set_index(&csr, indptr, place, below(2) ? csr.nnz + 1 : INT32_MAX);
            wanted = FC_CSR_OVERRUNS;
            break;
        case 3:
            if (!entries) break;
            place = below((ptrdiff_t)entries);
            set_index(&csr, indices, place, below(2) ? csr.cols + below(1 << 30) : -1 - below(1 << 30));
            wanted = FC_CSR_INDEX;
            break;
        }
        const fc_csr_fault fault = fc_csr_check(&csr, &at);
        if (fault != wanted) fail("another fault is found than was made", &csr, number);
        if (fault == FC_CSR_INDEX && at != place) fail("another place is blamed", &csr, number);
        const ptrdiff_t n = large ? 1 + below(70) : below(number % 16 ? 20 : 140);
        if (fault == FC_CSR_OK) products(dtype, &csr, n, 1 + (int)below(3), number);
        else malformed++;
        if (fault == FC_CSR_INDEX && n) {
            const ptrdiff_t size = dtype == FC_F32 ? 4 : 8;
            void *a = numbers(dtype, csr.cols * n), *b = numbers(dtype, csr.rows * n);
            void *ya = calloc((size_t)(csr.rows * n), (size_t)size), *yb = calloc((size_t)(csr.cols * n), (size_t)size);
            const fc_matrix am = matrix(a, csr.cols, n, size), bm = matrix(b, csr.rows, n, size);
            const fc_matrix yam = matrix(ya, csr.rows, n, size), ybm = matrix(yb, csr.cols, n, size);
            if (fc_sparse_product(dtype, &csr, 0, &am, &yam, 2) != FC_BAD_INDEX) fail("csr dense: not seen", &csr, number);
            if (fc_sparse_product(dtype, &csr, 1, &bm, &ybm, 2) != FC_BAD_INDEX) fail("csr^T dense: not seen", &csr, number);
            free(a), free(b), free(ya), free(yb);
        }
        free(indptr), free(indices), free(values);
    }
    printf("%ld structures, %ld of them malformed: all as they should be\n", structures, malformed);
    return 0;
}
