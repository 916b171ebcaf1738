/* Many threads call the library at once, on operands that they share, each with a team of its own size: everybody gets
 * what it gets alone. Run under ThreadSanitizer it also says that nothing is touched by two without order between them. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastfc.h"

enum { M = 150, N = 130, K = 200, ROUNDS = 12, CALLERS = 4, OUT = M * N + N * K + M * K + N };

static float x[M * K], w[N * K], grad[M * N], bias[N], alone[OUT];
static int32_t indices[N * K / 2], indptr[N + 1];
static fc_packed *packed;
static fc_csr csr;
static const fc_matrix xm = {x, M, K, K * sizeof(float), sizeof(float)}, wm = {w, N, K, K * sizeof(float), sizeof(float)},
                       gm = {grad, M, N, N * sizeof(float), sizeof(float)};

static void fill(float *a, int n, unsigned seed) {
    for (int i = 0; i < n; i++) a[i] = (float)((seed = seed * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1;
}

/* Everything in turn, into one array of results. */
static int compute(float *out, int threads) {
    int failed = 0;
    float *y = out, *gw = y + M * N, *gx = gw + N * K, *gb = gx + M * K;
    fc_epilogue e = {.bias = bias, .activation = FC_GELU, .y = y, .y_row = N * sizeof(float)};
    failed += fc_linear_forward(FC_F32, &xm, &wm, &e, threads) != FC_OK;
    failed += fc_linear_forward_csr(FC_F32, &xm, &csr, &e, threads) != FC_OK;
    failed += fc_linear_forward_packed(FC_F32, &xm, packed, &e, threads) != FC_OK;
    fc_matrix gxm = {gx, M, K, K * sizeof(float), sizeof(float)}, gwm = {gw, N, K, K * sizeof(float), sizeof(float)};
    const fc_upstream up = {.grad_y = &gm, .activation = FC_SILU, .z = &gm};
    const fc_gradients gradients = {.gx = &gxm, .gw = &gwm, .gb = gb};
    failed += fc_linear_backward(FC_F32, &up, &xm, &wm, &gradients, threads) != FC_OK;
    const fc_gradients entries = {.gx = &gxm, .values = gw};
    failed += fc_linear_backward_csr(FC_F32, &up, &xm, &csr, &entries, threads) != FC_OK;
    fc_packed *mine = fc_pack(FC_F32, &wm, threads);
    failed += !mine;
    fc_packed_free(mine);
    return failed;
}

static void *caller(void *argument) {
    const int number = *(int *)argument;
    float *out = calloc(OUT, sizeof *out);
    long failed = !out;
    for (int round = 0; out && round < ROUNDS; round++)
        failed += compute(out, 1 + (number + round) % 4) || memcmp(out, alone, sizeof alone);
    free(out);
    return (void *)failed;
}

int main(void) {
    fill(x, M * K, 1);
    fill(w, N * K, 2);
    fill(grad, M * N, 3);
    fill(bias, N, 4);
    for (int n = 0; n <= N; n++) indptr[n] = n * (K / 2);
    for (int i = 0; i < N * K / 2; i++) indices[i] = i * 7 % K;
    csr = (fc_csr){w, indices, indptr, 4, N, K, N * K / 2};
    packed = fc_pack(FC_F32, &wm, 1);
    long failures = !packed || compute(alone, 1);
    pthread_t threads[CALLERS];
    int numbers[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        numbers[i] = i;
        failures += pthread_create(&threads[i], NULL, caller, &numbers[i]) != 0;
    }
    for (int i = 0; i < CALLERS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        failures += (long)failed;
    }
    fc_packed_free(packed);
    printf(failures ? "%ld failures\n" : "all callers agree\n", failures);
    return failures != 0;
}
