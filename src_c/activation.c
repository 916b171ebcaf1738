/* Activations on their own: an epilogue without a product. */
#include "dispatch.h"
#include "threads.h"

typedef struct elementwise {
    const fc_kernels *kernels;
    fc_dtype dtype;
    fc_activation activation;
    double parameter;
    const void *grad, *x;
    void *y;
    ptrdiff_t n;
} elementwise;

/* An element costs about as much as so many multiply-adds; elements at a time. */
enum { COST = 16, UNIT = 8192 };

static void forward(void *context, int thread, ptrdiff_t i) {
    const elementwise *c = context;
    const ptrdiff_t begin = i * UNIT, skip = begin * fc_size(c->dtype), n = c->n - begin < UNIT ? c->n - begin : UNIT;
    (void)thread;
    const fc_epilogue epilogue = {.activation = c->activation, .parameter = c->parameter, .y = (char *)c->y + skip};
    fc_finish_job job = {.sum = (const char *)c->x + skip, .epilogue = &epilogue, .m = 1, .n = n};
    c->kernels->finish[c->dtype](&job);
}

void fc_activation_forward(fc_dtype dtype, fc_activation activation, double parameter, const void *x, void *y, ptrdiff_t n,
                           int threads) {
    elementwise c = {fc_current(), dtype, activation, parameter, NULL, x, y, n};
    fc_parallel_for(fc_team_for((double)n * COST, threads), (n + UNIT - 1) / UNIT, forward, &c);
}

static void backward(void *context, int thread, ptrdiff_t i) {
    const elementwise *c = context;
    const ptrdiff_t begin = i * UNIT, skip = begin * fc_size(c->dtype), n = c->n - begin < UNIT ? c->n - begin : UNIT;
    (void)thread;
    fc_activation_grad_job job = {
        .grad = (const char *)c->grad + skip, .z = (const char *)c->x + skip, .dst = (char *)c->y + skip, .n = n,
        .activation = c->activation, .parameter = c->parameter,
    };
    c->kernels->activation_grad[c->dtype](&job);
}

void fc_activation_backward(fc_dtype dtype, fc_activation activation, double parameter, const void *grad, const void *x,
                            void *dst, ptrdiff_t n, int threads) {
    elementwise c = {fc_current(), dtype, activation, parameter, grad, x, dst, n};
    fc_parallel_for(fc_team_for((double)n * COST, threads), (n + UNIT - 1) / UNIT, backward, &c);
}
