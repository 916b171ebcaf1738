/* What the backward passes share: the gradient behind the activation, and its column sums. Internal; drivers only. */
#ifndef FC_REDUCE_H
#define FC_REDUCE_H
#include "kernels.h"

/* grad_y * act'(z) with contiguous, aligned rows: grad_y itself where that is possible, else a copy in *owned. */
fc_status fc_upstream_rows(const fc_kernels *kernels, fc_dtype dtype, const fc_upstream *up, int threads, fc_matrix *rows,
                           void **owned);

/* out[n] (+)= sum over m of src[m, n]; the rows of src are contiguous and aligned. */
void fc_column_sums(const fc_kernels *kernels, fc_dtype dtype, const fc_matrix *src, void *out, int add, int threads);

/* rows = grad * act'(z), row by row; all have contiguous rows, and rows may be grad. */
void fc_activation_grad_rows(const fc_kernels *kernels, fc_dtype dtype, const fc_upstream *up, const fc_matrix *grad,
                             const fc_matrix *z, const fc_matrix *rows, int threads);

#endif
