/* The dense layer: forward and backward as products of fc_gemm_run. */
#include "dispatch.h"
#include "gemm.h"
#include "memory.h"
#include "packed.h"
#include "reduce.h"

static fc_status forward(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *x, const fc_matrix *w,
                         const fc_packed *packed, const fc_epilogue *epilogue, int threads) {
    fc_matrix rows;
    void *owned;
    if (fc_contiguous_rows(kernels, dtype, x, 0, threads, &rows, &owned)) return FC_NO_MEMORY;
    fc_gemm g = {
        .kernels = kernels, .dtype = dtype, .m = x->rows, .k = x->cols, .a = rows.data, .a_row = rows.row_stride,
        .epilogue = epilogue, .threads = threads,
    };
    if (packed) {
        g.n = packed->n;
        g.panels = packed->panels;
    } else {
        g.n = w->rows;
        g.b = w->data;
        g.b_j = w->row_stride;
        g.b_k = w->col_stride;
    }
    const fc_status status = fc_gemm_run(&g);
    fc_free(owned);
    return status;
}

fc_status fc_linear_forward(fc_dtype dtype, const fc_matrix *x, const fc_matrix *w, const fc_epilogue *epilogue,
                            int threads) {
    return forward(fc_current(), dtype, x, w, NULL, epilogue, threads);
}

fc_status fc_linear_forward_packed(fc_dtype dtype, const fc_matrix *x, const fc_packed *packed,
                                   const fc_epilogue *epilogue, int threads) {
    return forward(packed->kernels, dtype, x, NULL, packed, epilogue, threads);
}

/* out (+)= a * b; accumulating is an epilogue with the old values as residual. */
static fc_status product(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *a, const fc_matrix *b,
                         fc_matrix *out, int add, int threads) {
    const fc_epilogue epilogue = {
        .residual = add ? out->data : NULL, .residual_row = out->row_stride, .y = out->data, .y_row = out->row_stride,
    };
    const fc_gemm g = {
        .kernels = kernels, .dtype = dtype, .m = a->rows, .n = b->cols, .k = a->cols, .a = a->data,
        .a_row = a->row_stride, .b = b->data, .b_j = b->col_stride, .b_k = b->row_stride, .epilogue = &epilogue,
        .threads = threads,
    };
    return fc_gemm_run(&g);
}

fc_status fc_linear_backward(fc_dtype dtype, const fc_upstream *up, const fc_matrix *x, const fc_matrix *w,
                             const fc_gradients *out, int threads) {
    const fc_kernels *kernels = fc_current();
    fc_matrix grad, across;
    void *owned_grad = NULL, *owned_across = NULL;
    fc_status status = FC_NO_MEMORY;
    /* All that can fail comes before anything is written. */
    if (fc_upstream_rows(kernels, dtype, up, threads, &grad, &owned_grad)) goto done;
    if (out->gw && fc_contiguous_rows(kernels, dtype, &grad, 1, threads, &across, &owned_across)) goto done;
    if (out->gx && (status = product(kernels, dtype, &grad, w, out->gx, 0, threads))) goto done;
    if (out->gw && (status = product(kernels, dtype, &across, x, out->gw, out->accumulate, threads))) goto done;
    if (out->gb) fc_column_sums(kernels, dtype, &grad, out->gb, out->accumulate, threads);
    status = FC_OK;
done:
    fc_free(owned_across);
    fc_free(owned_grad);
    return status;
}
