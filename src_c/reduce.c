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

static void activation_grads(void *context, int thread, int team) {
    const grads *c = context;
    for (ptrdiff_t i = c->rows->rows * thread / team; i < c->rows->rows * (thread + 1) / team; i++) {
        fc_activation_grad_job job = {
            .grad = (const char *)c->grad->data + i * c->grad->row_stride,
            .z = (const char *)c->z->data + i * c->z->row_stride,
            .dst = (char *)c->rows->data + i * c->rows->row_stride,
            .n = c->rows->cols, .activation = c->up->activation, .parameter = c->up->parameter,
        };
        c->kernels->activation_grad[c->dtype](&job);
    }
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
        grads c = {kernels, dtype, up, &grad, &z, rows};
        fc_parallel(fc_team_for((double)rows->rows * (double)rows->cols * 8, threads), activation_grads, &c);
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

static void column_sums(void *context, int thread, int team) {
    const sums *c = context;
    const ptrdiff_t size = fc_size(c->dtype), panel = c->kernels->panel[c->dtype];
    const ptrdiff_t panels = fc_panels(c->kernels, c->dtype, c->src->cols);
    const ptrdiff_t begin = panels * thread / team * panel;
    ptrdiff_t end = panels * (thread + 1) / team * panel;
    if (end > c->src->cols) end = c->src->cols;
    fc_column_sum_job job = {
        .src = (const char *)c->src->data + begin * size, .src_row = c->src->row_stride, .m = c->src->rows, .n = end - begin,
        .out = (char *)c->out + begin * size, .add = c->add,
    };
    if (job.n > 0) c->kernels->column_sum[c->dtype](&job);
}

void fc_column_sums(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *src, void *out, int add, int threads) {
    sums c = {kernels, dtype, src, out, add};
    fc_parallel(fc_team_for((double)src->rows * (double)src->cols * 8, threads), column_sums, &c);
}
