#include "reduce.h"

#include "gemm.h"
#include "memory.h"
#include "threads.h"

typedef struct grads {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const fc_upstream *up;
    const fc_matrix *grad, *z, *rows;
} grads;

static void activation_grad_row(void *context, int thread, ptrdiff_t i) {
    const grads *c = context;
    (void)thread;
    fc_activation_grad_job job = {
        .grad = (const char *)c->grad->data + i * c->grad->row_stride,
        .z = (const char *)c->z->data + i * c->z->row_stride,
        .dst = (char *)c->rows->data + i * c->rows->row_stride,
        .n = c->rows->cols, .activation = c->up->activation, .parameter = c->up->parameter,
    };
    c->kernels->activation_grad[c->dtype](&job);
}

void fc_activation_grad_rows(const fc_kernels *kernels, fc_dtype dtype, const fc_upstream *up, const fc_matrix *grad,
                             const fc_matrix *z, const fc_matrix *rows, int threads) {
    grads c = {kernels, dtype, up, grad, z, rows};
    fc_parallel_for(fc_team_for((double)rows->rows * (double)rows->cols * 8, threads), rows->rows, activation_grad_row, &c);
}

fc_status fc_upstream_rows(const fc_kernels *kernels, fc_dtype dtype, const fc_upstream *up, int threads, fc_matrix *rows,
                           void **owned) {
    if (up->activation == FC_IDENTITY) return fc_contiguous_rows(kernels, dtype, up->grad_y, 0, threads, rows, owned);
    fc_matrix grad, z;
    void *owned_grad = NULL, *owned_z = NULL;
    fc_status status = FC_NO_MEMORY;
    *rows = *up->grad_y;
    rows->col_stride = fc_size(dtype);
    rows->row_stride = rows->cols * rows->col_stride;
    *owned = NULL;
    if (fc_contiguous_rows(kernels, dtype, up->grad_y, 0, threads, &grad, &owned_grad) == FC_OK &&
        fc_contiguous_rows(kernels, dtype, up->z, 0, threads, &z, &owned_z) == FC_OK &&
        (*owned = fc_alloc((size_t)(rows->rows * rows->row_stride)))) {
        rows->data = *owned;
        fc_activation_grad_rows(kernels, dtype, up, &grad, &z, rows, threads);
        status = FC_OK;
    }
    fc_free(owned_grad);
    fc_free(owned_z);
    return status;
}

typedef struct sums {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const fc_matrix *src;
    void *out;
    int add;
} sums;

static void column_sum_strip(void *context, int thread, ptrdiff_t i) {
    const sums *c = context;
    const ptrdiff_t size = fc_size(c->dtype), width = c->kernels->width[c->dtype], begin = i * width;
    (void)thread;
    fc_column_sum_job job = {
        .src = (const char *)c->src->data + begin * size, .src_row = c->src->row_stride, .m = c->src->rows,
        .n = c->src->cols - begin < width ? c->src->cols - begin : width, .out = (char *)c->out + begin * size, .add = c->add,
    };
    c->kernels->column_sum[c->dtype](&job);
}

void fc_column_sums(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *src, void *out, int add, int threads) {
    sums c = {kernels, dtype, src, out, add};
    fc_parallel_for(fc_team_for((double)src->rows * (double)src->cols * 8, threads), (src->cols + kernels->width[dtype] - 1) / kernels->width[dtype],
                    column_sum_strip, &c);
}
