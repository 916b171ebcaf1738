#include "reduce.h"

#include "gemm.h"
#include "memory.h"
#include "threads.h"

typedef struct grads {
    const fc_kernels *kernels;
    fc_dtype dtype;
    const fc_upstream *up;
    fc_matrix grad, z, rows;
    ptrdiff_t tall;           /* rows of a unit */
} grads;

static void activation_grad_rows(void *context, int thread, ptrdiff_t unit) {
    const grads *c = context;
    const ptrdiff_t begin = unit * c->tall, end = c->rows.rows - begin < c->tall ? c->rows.rows : begin + c->tall;
    (void)thread;
    for (ptrdiff_t i = begin; i < end; i++) {
        fc_activation_grad_job job = {
            .grad = (const char *)c->grad.data + i * c->grad.row_stride,
            .z = (const char *)c->z.data + i * c->z.row_stride,
            .dst = (char *)c->rows.data + i * c->rows.row_stride,
            .n = c->rows.cols, .activation = c->up->activation, .parameter = c->up->parameter,
        };
        c->kernels->activation_grad[c->dtype](&job);
    }
}

void fc_activation_grad_rows(const fc_kernels *kernels, fc_dtype dtype, const fc_upstream *up, const fc_matrix *grad,
                             const fc_matrix *z, const fc_matrix *rows, int threads) {
    enum { UNIT = 4096 }; /* elements, about */
    grads c = {kernels, dtype, up, *grad, *z, *rows, rows->cols < UNIT ? UNIT / (rows->cols + 1) : 1};
    fc_parallel_for(fc_team_for((double)rows->rows * (double)rows->cols * 8, threads), (rows->rows + c.tall - 1) / c.tall,
                    activation_grad_rows, &c);
}

fc_status fc_upstream_rows(const fc_kernels *kernels, fc_dtype dtype, const fc_upstream *up, int threads, fc_matrix *rows,
                           void **owned) {
    fc_status status = fc_contiguous_rows(kernels, dtype, up->grad_y, 0, threads, rows, owned);
    if (status != FC_OK || up->activation == FC_IDENTITY) return status;
    fc_matrix grad = *rows, z;
    void *owned_z;
    status = fc_contiguous_rows(kernels, dtype, up->z, 0, threads, &z, &owned_z);
    if (status == FC_OK && !*owned && !up->overwrite) {
        rows->col_stride = fc_size(dtype);
        rows->row_stride = rows->cols * rows->col_stride;
        rows->data = *owned = fc_alloc((size_t)(rows->rows * rows->row_stride));
        if (!*owned) status = FC_NO_MEMORY;
    }
    if (status == FC_OK) fc_activation_grad_rows(kernels, dtype, up, &grad, &z, rows, threads);
    fc_free(owned_z);
    if (status != FC_OK) {
        fc_free(*owned);
        *owned = NULL;
    }
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
