/* Activations on their own: an epilogue without a product. */
#include "dispatch.h"
#include "gemm.h"
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

/* An element costs about as much as so many multiply-adds. */
enum { COST = 16 };

static void forward(void *context, int thread, int team) {
    const elementwise *c = context;
    const ptrdiff_t begin = c->n * thread / team, end = c->n * (thread + 1) / team, skip = begin * fc_size(c->dtype);
    const fc_epilogue epilogue = {.activation = c->activation, .parameter = c->parameter, .y = (char *)c->y + skip};
    fc_finish_job job = {.sum = (const char *)c->x + skip, .epilogue = &epilogue, .m = 1, .n = end - begin};
    c->kernels->finish[c->dtype](&job);
}

void fc_activation_forward(fc_dtype dtype, fc_activation activation, double parameter, const void *x, void *y, ptrdiff_t n,
                           int threads) {
    elementwise c = {fc_current(), dtype, activation, parameter, NULL, x, y, n};
    fc_parallel(fc_team_for((double)n * COST, threads), forward, &c);
}

static void backward(void *context, int thread, int team) {
    const elementwise *c = context;
    const ptrdiff_t begin = c->n * thread / team, end = c->n * (thread + 1) / team, skip = begin * fc_size(c->dtype);
    fc_activation_grad_job job = {
        .grad = (const char *)c->grad + skip, .z = (const char *)c->x + skip, .dst = (char *)c->y + skip, .n = end - begin,
        .activation = c->activation, .parameter = c->parameter,
    };
    c->kernels->activation_grad[c->dtype](&job);
}

void fc_activation_backward(fc_dtype dtype, fc_activation activation, double parameter, const void *grad, const void *x,
                            void *dst, ptrdiff_t n, int threads) {
    elementwise c = {fc_current(), dtype, activation, parameter, grad, x, dst, n};
    fc_parallel(fc_team_for((double)n * COST, threads), backward, &c);
}
