/* Every target with FMA gives the bits of `scalar`, which is the definition, and scalar's are the same on every
 * architecture: of its results a hash is kept here. Dense and sparse layers forward and backward, column sums,
 * activations and optimisers, in both dtypes, with tails in every dimension. Runs without Python, so also under emulation. */
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"
#include "fastfc.h"

static int failures;

static uint64_t next(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static double uniform(uint64_t *state) { return (double)(int64_t)next(state) * 0x1p-63; }

/* ---- Arrays that remember their size ------------------------------------------------------------------------------ */

typedef struct array {
    void *data;
    fc_dtype dtype;
    ptrdiff_t n;
} array;

static size_t size_of(fc_dtype dtype) { return dtype == FC_F32 ? 4 : 8; }

static array make(fc_dtype dtype, ptrdiff_t n) {
    return (array){calloc((size_t)n + 1, size_of(dtype)), dtype, n};
}
static void put(array a, ptrdiff_t i, double v) {
    if (a.dtype == FC_F32) ((float *)a.data)[i] = (float)v;
    else ((double *)a.data)[i] = v;
}
static array noise(fc_dtype dtype, ptrdiff_t n, double scale, uint64_t seed) {
    const array a = make(dtype, n);
    for (ptrdiff_t i = 0; i < n; i++) put(a, i, uniform(&seed) * scale);
    return a;
}
static fc_matrix matrix(array a, ptrdiff_t rows, ptrdiff_t cols) {
    const ptrdiff_t size = (ptrdiff_t)size_of(a.dtype);
    return (fc_matrix){a.data, rows, cols, cols * size, size};
}

/* ---- Results, in the order in which a run produces them ----------------------------------------------------------- */

typedef struct record {
    char *bytes;
    size_t used, room;
} record;

/* NaNs count as one: where they stand is promised, their sign and payload are not. */
static void keep(record *r, array a) {
    const size_t bytes = (size_t)a.n * size_of(a.dtype);
    if (r->used + bytes > r->room) r->bytes = realloc(r->bytes, r->room = 2 * (r->used + bytes));
    for (ptrdiff_t i = 0; i < a.n; i++) {
        if (a.dtype == FC_F32 && isnan(((float *)a.data)[i])) ((float *)a.data)[i] = NAN;
        if (a.dtype == FC_F64 && isnan(((double *)a.data)[i])) ((double *)a.data)[i] = (double)NAN;
    }
    memcpy(r->bytes + r->used, a.data, bytes);
    r->used += bytes;
}

static uint64_t hash(const record *r) {
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < r->used; i++) h = (h ^ (unsigned char)r->bytes[i]) * 0x100000001b3u;
    return h;
}

/* ---- What is run -------------------------------------------------------------------------------------------------- */

static void dense(fc_dtype dtype, record *r) {
    static const int shapes[][3] = {{1, 1, 1},   {1, 3, 4},    {2, 16, 5},  {3, 17, 191}, {5, 33, 192},
                                    {6, 64, 193}, {7, 65, 400}, {13, 100, 37}, {25, 129, 577}, {30, 205, 201},
                                    {39, 1, 60},  {37, 2, 200},  {1, 1, 3100}, {2, 3, 800}, {40, 2, 1024},
                                    {3, 10, 500}, {20, 12, 300}, {1, 20, 1536}};
    const int long_shuffles = fc_long_shuffles;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
        array x = noise(dtype, (ptrdiff_t)m * k, 1, i), w = noise(dtype, (ptrdiff_t)n * k, 1, i + 100);
        array bias = noise(dtype, n, 1, i + 200), residual = noise(dtype, (ptrdiff_t)m * n, 1, i + 300);
        array y = make(dtype, (ptrdiff_t)m * n), z = make(dtype, (ptrdiff_t)m * n);
        array gx = make(dtype, (ptrdiff_t)m * k), gw = make(dtype, (ptrdiff_t)n * k), gb = make(dtype, n);
        const fc_matrix xm = matrix(x, m, k), wm = matrix(w, n, k), zm = matrix(z, m, n), gm = matrix(residual, m, n);
        fc_matrix gxm = matrix(gx, m, k), gwm = matrix(gw, n, k);
        const ptrdiff_t row = n * (ptrdiff_t)size_of(dtype);
        for (int activation = FC_IDENTITY; activation <= FC_HARDSWISH; activation++) {
            fc_long_shuffles = activation % 2; /* few outputs by vectors of either length */
            const fc_epilogue e = {
                .bias = bias.data, .residual = residual.data, .residual_row = row, .activation = (fc_activation)activation,
                .parameter = 0.75, .y = y.data, .y_row = row, .z = z.data, .z_row = row,
            };
            failures += fc_linear_forward(dtype, &xm, &wm, &e, 1) != FC_OK;
            keep(r, y);
            keep(r, z);
            fc_packed *packed = fc_pack(dtype, &wm, 1);
            failures += fc_linear_forward_packed(dtype, &xm, packed, &e, 1) != FC_OK;
            fc_packed_free(packed);
            keep(r, y);
        }
        const fc_upstream up = {.grad_y = &gm, .activation = FC_GELU, .z = &zm};
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            const fc_gradients out = {.gx = &gxm, .gw = &gwm, .gb = gb.data, .accumulate = accumulate};
            failures += fc_linear_backward(dtype, &up, &xm, &wm, &out, 1) != FC_OK;
            keep(r, gx);
            keep(r, gw);
            keep(r, gb);
        }
        array all[] = {x, w, bias, residual, y, z, gx, gw, gb};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) free(all[j].data);
    }
    fc_long_shuffles = long_shuffles;
}

/* A CSR weight with rows of 0 to a few hundred entries, in no order and with repeats. */
static void sparse(fc_dtype dtype, record *r) {
    enum { M = 21, N = 37, K = 75 };
    for (int index_bytes = 4; index_bytes <= 8; index_bytes += 4) {
        uint64_t seed = 7;
        int64_t indptr64[N + 1] = {0}, *indices64 = malloc(N * 400 * sizeof *indices64);
        int32_t indptr32[N + 1], *indices32 = malloc(N * 400 * sizeof *indices32);
        for (int i = 0; i < N; i++) {
            const int64_t entries = i % 5 == 0 ? 0 : (int64_t)(next(&seed) % (i % 7 == 0 ? 400 : 20));
            indptr64[i + 1] = indptr64[i] + entries;
            for (int64_t e = indptr64[i]; e < indptr64[i + 1]; e++) indices64[e] = (int64_t)(next(&seed) % K);
        }
        const ptrdiff_t nnz = indptr64[N];
        for (int i = 0; i <= N; i++) indptr32[i] = (int32_t)indptr64[i];
        for (ptrdiff_t e = 0; e < nnz; e++) indices32[e] = (int32_t)indices64[e];
        array values = noise(dtype, nnz, 1, 1), x = noise(dtype, M * K, 1, 2), w = noise(dtype, M * K, 1, 3);
        array bias = noise(dtype, N, 1, 4), y = make(dtype, M * N), z = make(dtype, M * N), g = noise(dtype, M * N, 1, 5);
        array gx = make(dtype, M * K), gv = make(dtype, nnz), gb = make(dtype, N), gw = make(dtype, M * K);
        const fc_csr csr = {values.data, index_bytes == 8 ? (void *)indices64 : (void *)indices32,
                            index_bytes == 8 ? (void *)indptr64 : (void *)indptr32, index_bytes, N, K, nnz};
        const fc_matrix xm = matrix(x, M, K), wm = matrix(w, M, K), zm = matrix(z, M, N), gm = matrix(g, M, N);
        fc_matrix gxm = matrix(gx, M, K), gwm = matrix(gw, M, K);
        const ptrdiff_t size = (ptrdiff_t)size_of(dtype);
        fc_epilogue e = {.bias = bias.data, .activation = FC_SILU, .y = y.data, .y_row = N * size, .z = z.data,
                         .z_row = N * size};
        failures += fc_linear_forward_csr(dtype, &xm, &csr, &e, 1) != FC_OK;
        keep(r, y);
        const fc_upstream up = {.grad_y = &gm, .activation = FC_SILU, .z = &zm};
        const fc_gradients out = {.gx = &gxm, .gb = gb.data, .values = gv.data};
        failures += fc_linear_backward_csr(dtype, &up, &xm, &csr, &out, 1) != FC_OK;
        keep(r, gx);
        keep(r, gv);
        keep(r, gb);
        /* The same matrix as x (N by K) of a dense weight (M by K). */
        e.bias = NULL;
        e.y_row = e.z_row = M * size;
        failures += fc_linear_forward_csr_x(dtype, &csr, &wm, NULL, &e, 1) != FC_OK;
        keep(r, y);
        const fc_matrix gt = matrix(g, N, M), zt = matrix(z, N, M);
        const fc_upstream up_x = {.grad_y = &gt, .activation = FC_SILU, .z = &zt};
        const fc_gradients out_x = {.gw = &gwm};
        failures += fc_linear_backward_csr_x(dtype, &up_x, &csr, &out_x, 1) != FC_OK;
        keep(r, gw);
        array all[] = {values, x, w, bias, y, z, g, gx, gv, gb, gw};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) free(all[j].data);
        free(indices32);
        free(indices64);
    }
}

/* Packed sparse weights, of which every second to every hundredth place is stored, and batches of all widths; of each two
 * weights one meets single rows by gathers, and of two products one by tables of bytes, if the target has them. */
static void packed_sparse(fc_dtype dtype, record *r) {
    enum { M = 200, N = 90, K = 410 };
    static const int batches[] = {1, 2, 5, 8, 9, 16, 31, 64, 70, M};
    static const int everies[] = {2, 5, 8, 32, 128};
    const int byte_tables = fc_byte_tables;
    for (size_t which = 0; which < sizeof everies / sizeof *everies; which++) {
        const int every = everies[which];
        uint64_t seed = (uint64_t)every;
        fc_fast_gathers = !fc_fast_gathers;
        fc_fast_scalars = !fc_fast_scalars;
        fc_split_indexed = !fc_split_indexed;
        int32_t indptr[N + 1] = {0}, *indices = malloc((size_t)N * K * sizeof *indices);
        for (int n = 0; n < N; n++) {
            indptr[n + 1] = indptr[n];
            for (int k = 0; k < K; k++)
                if (next(&seed) % (uint64_t)every == 0 || n == 17) indices[indptr[n + 1]++] = k;
        }
        const ptrdiff_t nnz = indptr[N], size = (ptrdiff_t)size_of(dtype);
        array values = noise(dtype, nnz, 1, 1), x = noise(dtype, M * K, 1, 2), bias = noise(dtype, N, 1, 3);
        array g = noise(dtype, M * N, 1, 4), gv = make(dtype, nnz);
        const fc_csr csr = {values.data, indices, indptr, 4, N, K, nnz};
        fc_sparse *w = fc_sparse_pack(dtype, &csr, FC_SPARSE_UPDATE), *across = fc_sparse_pack(dtype, &csr, FC_SPARSE_TRANSPOSE);
        for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
            const int m = batches[i];
            array y = make(dtype, (ptrdiff_t)m * N), gx = make(dtype, (ptrdiff_t)m * K);
            const fc_matrix xm = matrix(x, m, K), gm = matrix(g, m, N);
            fc_matrix gxm = matrix(gx, m, K);
            const fc_epilogue e = {.bias = bias.data, .y = y.data, .y_row = N * size};
            failures += fc_linear_forward_sparse(dtype, &xm, w, &e, 1) != FC_OK;
            keep(r, y);
            if (m == 1) {
                fc_byte_tables = 0;
                failures += fc_linear_forward_sparse(dtype, &xm, w, &e, 1) != FC_OK;
                keep(r, y);
                fc_byte_tables = byte_tables;
            }
            const fc_upstream up = {.grad_y = &gm};
            const fc_gradients out = {.gx = &gxm, .values = gv.data};
            failures += fc_linear_backward_sparse(dtype, &up, &xm, w, across, &out, 1) != FC_OK;
            keep(r, gx);
            keep(r, gv);
            free(y.data);
            free(gx.data);
        }
        fc_sparse_free(w);
        fc_sparse_free(across);
        array all[] = {values, x, bias, g, gv};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) free(all[j].data);
        free(indices);
    }
}

/* Blocks of each layout, half of them stored, at sizes that none of the tiles divides. */
static void blocks(fc_dtype dtype, record *r) {
    enum { M = 70, N = 75, K = 784 };
    static const int batches[] = {1, 2, 5, 6, 13, 16, M};
    for (int layout = FC_16X1; layout <= FC_1OF4; layout++) {
        uint64_t seed = (uint64_t)layout + 1;
        int32_t indptr[N + 1] = {0}, *indices = malloc((size_t)N * K * sizeof *indices);
        char stored[K] = {0};
        for (int n = 0; n < N; n++) {
            indptr[n + 1] = indptr[n];
            for (int k = 0; k < K; k++) {
                const int first = layout == FC_16X1 ? n % 16 == 0 : layout == FC_1X16 ? k % 16 == 0 : k % 4 == 0;
                if (first && layout <= FC_1X16) stored[k] = (char)(next(&seed) % 2);
                else if (first) stored[k] = (char)(next(&seed) % 4);
                else if (layout > FC_16X1) stored[k] = stored[k - 1];
                const int place = stored[k] ^ (k % 4);
                if (layout <= FC_1X16 ? stored[k] : layout == FC_2OF4 ? place < 2 : place == 0) indices[indptr[n + 1]++] = k;
            }
        }
        const ptrdiff_t nnz = indptr[N], size = (ptrdiff_t)size_of(dtype);
        array values = noise(dtype, nnz, 1, 1), x = noise(dtype, M * K, 1, 2), bias = noise(dtype, N, 1, 3);
        const fc_csr csr = {values.data, indices, indptr, 4, N, K, nnz};
        failures += fc_blocks_fit(&csr, (fc_layout)layout) != FC_WHOLE;
        fc_blocks *w = fc_blocks_pack(dtype, &csr, (fc_layout)layout, FC_SPARSE_UPDATE);
        fc_blocks_update(w, values.data, 1);
        for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
            const int m = batches[i];
            array y = make(dtype, (ptrdiff_t)m * N);
            const fc_matrix xm = matrix(x, m, K);
            const fc_epilogue e = {.bias = bias.data, .activation = i % 2 ? FC_RELU : FC_SILU, .y = y.data, .y_row = N * size};
            failures += fc_linear_forward_blocks(dtype, &xm, w, &e, 1) != FC_OK;
            keep(r, y);
            free(y.data);
        }
        fc_blocks_free(w);
        free(values.data);
        free(x.data);
        free(bias.data);
        free(indices);
    }
}

static void elementwise(fc_dtype dtype, record *r) {
    enum { N = 5003 };
    array x = make(dtype, N), g = noise(dtype, N, 2, 1), y = make(dtype, N);
    uint64_t seed = 11;
    for (ptrdiff_t i = 0; i < N; i++) {
        static const double scales[] = {1, 8, 40, 800};
        put(x, i, uniform(&seed) * scales[i % 4]);
        const uint64_t bits = next(&seed);
        if (i % 5 == 0) memcpy((char *)x.data + (size_t)i * size_of(dtype), &bits, size_of(dtype));
    }
    const double specials[] = {0.0, -0.0, INFINITY, -INFINITY, NAN};
    for (ptrdiff_t i = 0; i < 5; i++) put(x, i, specials[i]);
    for (int activation = FC_IDENTITY; activation <= FC_HARDSWISH; activation++)
        for (ptrdiff_t n = N; n > N - 16; n -= 3) {
            const double parameter = activation == FC_LEAKY_RELU ? 0.01 : n == N ? 1 : 1.7;
            y.n = n;
            fc_activation_forward(dtype, (fc_activation)activation, parameter, x.data, y.data, n, 1);
            keep(r, y);
            fc_activation_backward(dtype, (fc_activation)activation, parameter, g.data, x.data, y.data, n, 1);
            keep(r, y);
        }
    free(x.data);
    free(g.data);
    free(y.data);
}

/* Steps of each rule in all its forms, over tensors of many lengths and over single rows, and sums of squares. */
static void optimisers(fc_dtype dtype, record *r) {
    static const ptrdiff_t lengths[] = {1, 7, 16, 0, 33, 8192, 8195};
    enum { TENSORS = sizeof lengths / sizeof *lengths };
    static const fc_rule rules[] = {
        {FC_SGD, 0, 1, 0.1, 0, 1, 0, 1, 0, 0, 0, 1, 0},          {FC_SGD, 0, -1, 0.1, 0.01, 1, 0.9, 0.7, 0, 0, 0, 1, 0},
        {FC_SGD, 1, 1, 0.1, 0.01, 1, 0.9, 1, 0, 0, 0, 1, 0},     {FC_ADAM, 0, 1, 0.1, 0, 0.99, 0, 1, 0.9, 0.999, 1e-8, 3, 0},
        {FC_ADAM, 0, -1, 0.1, 0.01, 1, 0, 1, 0.5, 0.9, 0, 7, 0}, {FC_ADAGRAD, 0, 1, 0.1, 0.01, 1, 0, 1, 0, 0, 1e-10, 1, 0},
        {FC_RMSPROP, 0, 1, 0.1, 0, 1, 0, 1, 0, 0.99, 1e-8, 1, 0}, {FC_RMSPROP, 0, 1, 0.1, 0.01, 1, 0.9, 1, 0, 0.9, 1e-8, 1, 0},
        {FC_SCALE, 0, 1, 0, 0, 0.3, 0, 1, 0, 0, 0, 1, 0},        {FC_CLAMP, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0.25},
    };
    static const int64_t rows[] = {0, 2, 5, 6};
    static const int required[] = {[FC_ADAM] = 3, [FC_ADAGRAD] = 1, [FC_RMSPROP] = 1, [FC_CLAMP] = 0};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        for (int states = 0; states < 8; states++) { /* which of them there are */
            if ((states & required[rules[i].kind]) != required[rules[i].kind]) continue;
            fc_tensor tensors[TENSORS + 1];
            array all[TENSORS + 1][5];
            for (int t = 0; t <= TENSORS; t++) {
                const ptrdiff_t n = t < TENSORS ? lengths[t] : 7 * 19;
                tensors[t] = (fc_tensor){.dtype = dtype, .rule = rules[i], .n = n};
                for (int j = 0; j < 5; j++) all[t][j] = noise(dtype, n, 1, i * 100 + (size_t)(t * 5 + j));
                tensors[t].w = all[t][0].data;
                tensors[t].grad = all[t][1].data;
                for (int j = 0; j < 3; j++) {
                    for (ptrdiff_t e = 0; e < n; e++) put(all[t][2 + j], e, 0.5 + 0.125 * (double)((e + j) % 11));
                    if (states >> j & 1) tensors[t].state[j] = all[t][2 + j].data;
                }
            }
            tensors[TENSORS].rows = rows;
            tensors[TENSORS].dim = 19;
            tensors[TENSORS].n = 4 * 19;
            for (int step = 0; step < 2; step++) fc_update(tensors, TENSORS + 1, 1);
            for (int t = 0; t <= TENSORS; t++) tensors[t].n = all[t][0].n;
            array sum = make(FC_F64, 1);
            failures += fc_square_sum(tensors, TENSORS + 1, 0.5, sum.data, 1) != FC_OK;
            keep(r, sum);
            free(sum.data);
            for (int t = 0; t <= TENSORS; t++)
                for (int j = 0; j < 5; j++) {
                    keep(r, all[t][j]);
                    free(all[t][j].data);
                }
        }
}

/* Blocks of rows, gated or not, and what stands between their products on its own. */
static void feedforward(fc_dtype dtype, record *r) {
    enum { K = 7, D_FF = 4097, N = 35 };
    for (int rows = 1; rows <= 160; rows += 53) {
        array x = noise(dtype, (ptrdiff_t)rows * K, 2, 1), y = make(dtype, (ptrdiff_t)rows * N);
        array w[] = {noise(dtype, D_FF * K, 1, 2), noise(dtype, N * D_FF, 1, 3), noise(dtype, D_FF * K, 1, 4)};
        array b[] = {noise(dtype, D_FF, 1, 5), noise(dtype, N, 1, 6), noise(dtype, D_FF, 1, 7)};
        const fc_matrix xm = matrix(x, rows, K), ym = matrix(y, rows, N);
        const fc_matrix wm[] = {matrix(w[0], D_FF, K), matrix(w[1], N, D_FF), matrix(w[2], D_FF, K)};
        fc_packed *packed[] = {fc_pack(dtype, &wm[0], 1), fc_pack(dtype, &wm[1], 1), fc_pack(dtype, &wm[2], 1)};
        for (int gated = 0; gated < 2; gated++) {
            const fc_feedforward block = {
                .w1 = packed[0], .w2 = packed[1], .w3 = gated ? packed[2] : NULL, .b1 = b[0].data, .b2 = b[1].data,
                .b3 = gated ? b[2].data : NULL, .activation = gated ? FC_SILU : FC_GELU,
            };
            failures += fc_feedforward_forward(dtype, &xm, &block, &ym, 1) != FC_OK;
            keep(r, y);
        }
        for (int i = 0; i < 3; i++) {
            fc_packed_free(packed[i]);
            free(w[i].data);
            free(b[i].data);
        }
        free(x.data);
        free(y.data);
    }
    for (int activation = FC_IDENTITY; activation <= FC_HARDSWISH; activation++)
        for (ptrdiff_t n = 1; n < 200; n += 33) {
            array grad = noise(dtype, n, 2, 1), z = noise(dtype, n, 8, 2), factor = noise(dtype, n, 2, 3), h = make(dtype, n);
            fc_gate_forward(dtype, (fc_activation)activation, 0.75, z.data, factor.data, h.data, n, 1);
            keep(r, h);
            fc_gate_backward(dtype, (fc_activation)activation, 0.75, grad.data, z.data, factor.data, z.data, factor.data, n, 1);
            keep(r, z);
            keep(r, factor);
            free(grad.data);
            free(z.data);
            free(factor.data);
            free(h.data);
        }
}

/* Work runs in round-to-nearest whatever the caller's mode, and leaves mode and flags as they were. */
static void mode(void) {
    enum { N = 1000 };
    array x = noise(FC_F32, N, 8, 1), y[2] = {make(FC_F32, N), make(FC_F32, N)};
    fc_activation_forward(FC_F32, FC_GELU, 0, x.data, y[0].data, N, 1);
    fesetround(FE_TOWARDZERO);
    feclearexcept(FE_ALL_EXCEPT);
    fc_activation_forward(FC_F32, FC_GELU, 0, x.data, y[1].data, N, 1);
    const int kept = fegetround() == FE_TOWARDZERO && !fetestexcept(FE_ALL_EXCEPT);
    fesetround(FE_TONEAREST);
    const int same = !memcmp(y[0].data, y[1].data, N * sizeof(float));
    failures += !kept + !same;
    printf("%s floating-point mode\n", kept && same ? "ok  " : "FAIL");
    free(x.data);
    free(y[0].data);
    free(y[1].data);
}

/* What scalar gave on x86-64. */
static const struct {
    const char *name;
    void (*run)(fc_dtype dtype, record *r);
    uint64_t hash[2];
} parts[] = {
    {"dense", dense, {0x1d7da1b04914f008u, 0xc21a7b4d911b2815u}},
    {"sparse", sparse, {0x5694258253c2df89u, 0xc60e31eb7233fc45u}},
    {"packed sparse", packed_sparse, {0x12d5a5edb1267c9eu, 0x3d63440b3e53cdaau}},
    {"blocks", blocks, {0xcec9e6b945e14ebau, 0x40a24f007c2537a6u}},
    {"feedforward", feedforward, {0x9d27e90536286e31u, 0x25b0d3f90c5a0398u}},
    {"elementwise", elementwise, {0x22e48d4963b9ec89u, 0xf1c40e89636adfe8u}},
    {"optimisers", optimisers, {0x689cdd1823ab6d26u, 0xd259a49db4fa445du}},
};

/* Which targets there are: those named on the command line, best first, and the first of them is in use. */
static void dispatched(int count, char **names) {
    const char *const *isa = fc_available_isas();
    int same = !strcmp(fc_current_isa(), isa[0]);
    for (int i = 0; i < count; i++) same = same && isa[i] && !strcmp(isa[i], names[i]);
    same = same && !isa[count];
    failures += !same;
    printf("%s targets:", same ? "ok  " : "FAIL");
    while (*isa) printf(" %s", *isa++);
    printf("\n");
}

/* Runs, when named targets are given, only where these and no others are there. */
int main(int count, char **arguments) {
    if (count > 1) dispatched(count - 1, arguments + 1);
    mode();
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
        for (int dtype = FC_F32; dtype <= FC_F64; dtype++) {
            record expected = {0};
            fc_select_isa("scalar");
            parts[p].run((fc_dtype)dtype, &expected);
            const uint64_t h = hash(&expected);
            if (h != parts[p].hash[dtype]) {
                failures++;
                printf("FAIL scalar %s f%d: hash 0x%016llx is not the one that is kept\n", parts[p].name, 32 << dtype,
                       (unsigned long long)h);
            }
            for (const char *const *isa = fc_available_isas(); *isa; isa++) {
                if (!strcmp(*isa, "baseline") || !strcmp(*isa, "scalar")) continue;
                record got = {0};
                fc_select_isa(*isa);
                parts[p].run((fc_dtype)dtype, &got);
                size_t at = 0;
                while (at < expected.used && got.bytes[at] == expected.bytes[at]) at++;
                const int same = got.used == expected.used && at == expected.used;
                failures += !same;
                printf("%s %s %s f%d, %zu bytes", same ? "ok  " : "FAIL", *isa, parts[p].name, 32 << dtype, expected.used);
                if (same) printf("\n");
                else printf(": differs from byte %zu on\n", at);
                free(got.bytes);
            }
            free(expected.bytes);
        }
    printf(failures ? "%d failures\n" : "all agree\n", failures);
    return failures != 0;
}
