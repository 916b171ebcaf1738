/* fastfc: the fully connected layer on CPUs. This header is the manual of the C library.
 *
 *     y[m,n] = act( sum_k x[m,k] * w[n,k]  +  bias[n]  +  residual[m,n] )
 *
 * m counts the rows of the batch, n the output features, k the input features.
 *
 * ## The order of summation
 * K is cut into numeric blocks of fc_numeric_block() steps. Within a block `acc = fma(x[k], w[k], acc)` from +0, k
 * ascending. The total starts as the first block's sum, further block sums are added in order; K = 0 gives +0. Then the
 * bias is added (if there is one), then the residual (if there is one), then the activation is applied. The gradient of x
 * is the same sum over n, the gradients of w and bias the same over m (for bias: plain adds). Nothing else (batch size,
 * place in the batch, threads, strides, packing, target) changes a bit, on every target that has FMA. A CSR operand's
 * sum runs over its stored entries in stored order, in blocks of the same length counted from the row's first entry. The
 * gradient of a CSR weight's entries runs over the batch on 16 virtual lanes (lane l takes m = l mod 16; a block's end is
 * padded to 16 with products of +0), in blocks of the same length, lanes added as a tree of halves, blocks in order.
 *
 * ## Rules that hold for every function
 * - Strides are in bytes, may be negative or zero, and need not be multiples of the element's size. Matrices that are
 *   written have contiguous rows and do not overlap what is read, nor themselves.
 * - Arguments are trusted: shapes must agree, pointers must be valid for their shape (NULL where a dimension is 0 is
 *   fine), indices of CSR operands must be in range (fc_csr_check says so). The Python layer checks them all.
 * - Work runs in round-to-nearest with denormals honoured on every thread; the caller's floating-point mode and status
 *   flags are left as they were.
 * - `threads` is an upper bound; small work stays on the calling thread. Functions are re-entrant. Workspace is taken
 *   before the work that needs it and given back at the end, each block with 64 bytes more; if it can't be had, FC_NO_MEMORY
 *   comes back. A forward pass has then written nothing; of a backward pass some gradients may be complete and the others
 *   untouched.
 */
#ifndef FASTFC_H
#define FASTFC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fc_status { FC_OK = 0, FC_NO_MEMORY = 1, FC_BAD_INDEX = 2 } fc_status;
typedef enum fc_dtype { FC_F32 = 0, FC_F64 = 1 } fc_dtype;

/* relu(x) is x for x > 0, NaN for NaN, +0 otherwise. kernels/activation.inc says what the others are. */
typedef enum fc_activation {
    FC_IDENTITY = 0,
    FC_RELU,
    FC_LEAKY_RELU,          /* parameter: the slope for x <= 0 */
    FC_ELU,                 /* parameter: alpha */
    FC_GELU,                /* x Phi(x), by erf */
    FC_GELU_TANH,           /* its approximation by tanh */
    FC_SILU,
    FC_SIGMOID,
    FC_TANH,
    FC_SOFTPLUS,            /* parameter: beta > 0; x where beta x > 20 */
    FC_HARDSWISH
} fc_activation;

/* ---- Targets ------------------------------------------------------------------------------------------------------ */

/* Names of the targets that this build has and this CPU and operating system can run, best first, NULL at the end. */
const char *const *fc_available_isas(void);
/* The target in use; the best one until fc_select_isa says otherwise. */
const char *fc_current_isa(void);
/* Uses the named target from now on: 0, or -1 if it is not available. Not to be called while work runs. Weights that
 * are packed already keep the target that packed them. */
int fc_select_isa(const char *name);
/* The same for calls of this thread alone, until NULL has it go with the others again. */
int fc_select_isa_here(const char *name);
/* Takes a target that was found to be faulty out of the available ones, until the process ends; if it was in use, the best
 * of the others is from now on. 0, or -1 if it is not available or the only one. */
int fc_drop_isa(const char *name);
int fc_numeric_block(void);
/* Names of the kernels that every target has, NULL at the end. */
const char *const *fc_kernel_names(void);

/* ---- Threads ------------------------------------------------------------------------------------------------------ */

/* 1 if built with OpenMP; without it `threads` is ignored. */
int fc_has_openmp(void);
/* The number of threads that callers with no wish of their own pass on: theirs to read and set, nothing here reads it. The
 * one symbol that a shared library shows besides its entry, so that threadpoolctl knows the library by it. */
extern int fc_default_threads;

/* ---- Operands ----------------------------------------------------------------------------------------------------- */

/* Element (i, j) stands at data + i * row_stride + j * col_stride. */
typedef struct fc_matrix {
    void *data;
    ptrdiff_t rows, cols;
    ptrdiff_t row_stride, col_stride; /* bytes */
} fc_matrix;

/* Compressed sparse rows. Entries of a row stand in any order and may repeat: repeats add up. */
typedef struct fc_csr {
    const void *values;     /* nnz of the dtype, contiguous */
    const void *indices;    /* nnz column numbers */
    const void *indptr;     /* rows + 1 places */
    int index_bytes;        /* 4 or 8, for indices and indptr */
    ptrdiff_t rows, cols, nnz;
} fc_csr;

/* Why a CSR structure is malformed, and where. */
typedef enum fc_csr_fault {
    FC_CSR_OK = 0,
    FC_CSR_START,           /* indptr[0] is not 0 */
    FC_CSR_FALLS,           /* indptr[at + 1] < indptr[at] */
    FC_CSR_OVERRUNS,        /* indptr[at] > nnz */
    FC_CSR_INDEX            /* indices[at] outside 0 .. cols - 1 */
} fc_csr_fault;
/* Reads indptr (rows + 1) and, only if it is sound, indices up to indptr[rows]; *at says where the fault is. */
fc_csr_fault fc_csr_check(const fc_csr *csr, ptrdiff_t *at);
/* The first half of it: indptr alone. */
fc_csr_fault fc_csr_check_places(const fc_csr *csr, ptrdiff_t *at);

/* A weight (n by k) copied into the order in which a target's kernel reads it: panels of a fixed number of outputs,
 * each k-major. One copy plus padding to the vector length (a vector in all, where the last panel has three outputs or fewer). */
typedef struct fc_packed fc_packed;
fc_packed *fc_pack(fc_dtype dtype, const fc_matrix *w, int threads); /* NULL: no memory */
void fc_packed_free(fc_packed *packed);
/* Copies the weight back into w (n by k, any strides). */
void fc_unpack(const fc_packed *packed, const fc_matrix *w);
size_t fc_packed_bytes(const fc_packed *packed);
const char *fc_packed_isa(const fc_packed *packed);

/* A sparse weight (n by k) copied into the order in which the kernels read it, for batches of any size. K is cut into tiles
 * of fc_sparse_tile() steps. The sum of an output over its entries in a tile runs from +0 in order of k (entries of one place
 * in stored order), each `sum = fma(x, w, sum)`; the total starts at +0, and the sums of the tiles in which the output has
 * entries are added in order of k. Only stored entries are multiplied. Tile: 112 steps if more than 40 % of the places are
 * stored; 176 if more than 15 %, but 112 from 2^21 entries on; 240 if more than 7 %; else 384, doubled until a row has 12
 * entries in it, while it is shorter than K, up to 32768. If that, T, is shorter than K, K is cut into K / T tiles, rounded, but
 * so many that none is longer than 32768, of one length, rounded up to a multiple of 16.
 * With FC_SPARSE_TRANSPOSE the weight is csr's transpose; its entries are still counted in csr's order. With FC_SPARSE_UPDATE
 * new values can be put in, and the gradient of the entries be taken; that is 4 bytes more an entry. */
typedef struct fc_sparse fc_sparse;
enum { FC_SPARSE_TRANSPOSE = 1, FC_SPARSE_UPDATE = 2 };
fc_sparse *fc_sparse_pack(fc_dtype dtype, const fc_csr *csr, int flags); /* NULL: no memory, or 2^31 entries and more */
void fc_sparse_free(fc_sparse *sparse);
size_t fc_sparse_bytes(const fc_sparse *sparse);
ptrdiff_t fc_sparse_tile(const fc_sparse *sparse);
/* Entries that are computed for each one that is stored, 1 or a little more. */
double fc_sparse_padding(const fc_sparse *sparse);
/* Replaces the values by these, in csr's order; FC_SPARSE_UPDATE. */
void fc_sparse_update(fc_sparse *sparse, const void *values, int threads);
/* Writes the matrix as CSR with 64-bit indices, columns of a row in order: nnz values and columns, rows + 1 places. */
void fc_sparse_unpack(const fc_sparse *sparse, void *values, int64_t *indices, int64_t *indptr);

/* A sparse weight (n by k) whose entries stand in blocks, copied into the order in which the kernels read it, for batches of
 * any size. What a block has no entry for is filled up with zeros, which are stored and multiplied as entries are; entries
 * of one place are added up, in stored order. Only stored entries are multiplied.
 *
 *   FC_16X1           16 outputs that follow each other (from a multiple of 16 on) store the same inputs. An output's sum runs
 *                     over its entries as a CSR operand's does: chains of FMAs from +0 in order of k, fc_numeric_block()
 *                     entries long; the total starts as the first chain's sum, further ones are added in order.
 *   FC_1X16           16 inputs that follow each other are stored together; 16 divides k. 16 virtual lanes (lane l takes
 *                     k = l mod 16), each one chain of FMAs from +0 over the blocks in order, added as a tree of halves.
 *   FC_2OF4, FC_1OF4  of 4 inputs that follow each other 2, or 1, are stored, for each output others; 4 divides k. The sum is
 *                     that of FC_16X1. */
typedef struct fc_blocks fc_blocks;
typedef enum fc_layout { FC_16X1 = 0, FC_1X16, FC_2OF4, FC_1OF4 } fc_layout;
/* How a matrix goes into a layout: not at all, with zeros that fill up or repeated
 * entries added up, or as it stands. (No memory: not at all.) */
enum { FC_UNFIT = 0, FC_FILLED, FC_WHOLE };
int fc_blocks_fit(const fc_csr *csr, fc_layout layout);
/* Of what fits; NULL: no memory. With FC_SPARSE_UPDATE, where no place is stored twice and there are less than 2^32 - 1 entries,
 * new values can be put in; that is 4 bytes more an entry. */
fc_blocks *fc_blocks_pack(fc_dtype dtype, const fc_csr *csr, fc_layout layout, int flags);
void fc_blocks_free(fc_blocks *blocks);
void fc_blocks_update(fc_blocks *blocks, const void *values, int threads);
/* Entries, those that fill up included; and bytes. */
int64_t fc_blocks_entries(const fc_blocks *blocks);
size_t fc_blocks_bytes(const fc_blocks *blocks);
/* As fc_sparse_unpack, all entries. */
void fc_blocks_unpack(const fc_blocks *blocks, void *values, int64_t *indices, int64_t *indptr);

/* What happens to a finished sum. bias has n contiguous elements; rows of residual, y and z are contiguous. */
typedef struct fc_epilogue {
    const void *bias;       /* or NULL */
    const void *residual;   /* or NULL */
    ptrdiff_t residual_row; /* bytes */
    fc_activation activation;
    double parameter;       /* of the activation, where it has one */
    void *y;
    ptrdiff_t y_row;        /* bytes */
    void *z;                /* the value before the activation, or NULL */
    ptrdiff_t z_row;        /* bytes */
} fc_epilogue;

/* ---- Forward ------------------------------------------------------------------------------------------------------
 * Exactly one of w, packed, csr is the weight. Workspace: for each thread at most 1.25 MiB (panels of one operand in half
 * of L2, and sums); for an x whose rows are not contiguous or not aligned one copy of x, its rows padded to 64 bytes and up
 * to 64 apart. With a CSR operand instead, for each thread 64 KiB and a panel of the dense one, 256 bytes for each of its k
 * features (none where it is packed); and 8 bytes for each row of the CSR. (tests/test_workspace.py measures all this.) */
fc_status fc_linear_forward(fc_dtype dtype, const fc_matrix *x, const fc_matrix *w, const fc_epilogue *epilogue,
                            int threads);
fc_status fc_linear_forward_packed(fc_dtype dtype, const fc_matrix *x, const fc_packed *packed,
                                   const fc_epilogue *epilogue, int threads);
fc_status fc_linear_forward_csr(fc_dtype dtype, const fc_matrix *x, const fc_csr *w, const fc_epilogue *epilogue,
                                int threads);
/* Workspace: for each thread a tile of x and 16 rows, or tiles in a quarter of L2, and the sums of a range of outputs, each up to
 * 256 bytes wide: ranges take half of L2, or up to 1024 outputs, where all rows of the weight have about as many entries; else one
 * may have more outputs, because ranges have about as many entries and rows together. */
fc_status fc_linear_forward_sparse(fc_dtype dtype, const fc_matrix *x, const fc_sparse *w, const fc_epilogue *epilogue,
                                   int threads);
/* Workspace: a copy of x as above; likewise of an x of at most 32 MiB whose rows, more than 8, are multiples of 4096 bytes apart. Of
 * FC_16X1 also 128 (k + 256) bytes for each thread, a quarter of L3 and 32 KiB at most. */
fc_status fc_linear_forward_blocks(fc_dtype dtype, const fc_matrix *x, const fc_blocks *w, const fc_epilogue *epilogue,
                                   int threads);
/* A CSR x: w is dense (packed NULL) or packed (w NULL). */
fc_status fc_linear_forward_csr_x(fc_dtype dtype, const fc_csr *x, const fc_matrix *w, const fc_packed *packed,
                                  const fc_epilogue *epilogue, int threads);

/* ---- Backward -----------------------------------------------------------------------------------------------------
 * grad_y is m by n. With an activation, z holds its argument in the forward pass and grad_y * act'(z) takes grad_y's
 * place; for relu that is grad_y where z > 0 or z is NaN, else +0, whatever grad_y holds. Outputs that are NULL are not computed; with `accumulate` gw and gb are added to what stands in them.
 * Workspace: what a forward product takes for each thread; a transposed copy of grad_y for gw; with an activation (unless
 * grad_y may be overwritten), or where grad_y's rows are not contiguous, one copy of grad_y, and while that is made one of z
 * where its rows are not.
 * A CSR weight: for gx a copy of its values, 4 bytes an entry (8 beyond 2^31 rows), 8 a column, and for each thread 64 KiB
 * and 256 bytes for each of n; but up to 512 bytes of a column of grad_y, where columns have 8 entries and more, twice gx (its
 * batch in full vectors), an eighth of a byte an entry, 2 a column, and 64 KiB for each thread. Then for the values n + k rows
 * of 192 elements, 8 bytes a row, and with `accumulate` and more than 192 rows one copy of the values. A CSR x: for gw the same as for gx with m in place of n. */
typedef struct fc_gradients {
    fc_matrix *gx;          /* m by k, contiguous rows */
    fc_matrix *gw;          /* n by k, contiguous rows */
    void *gb;               /* n contiguous elements */
    void *values;           /* csr weight: nnz elements, in place of gw */
    int accumulate;
} fc_gradients;
typedef struct fc_upstream {
    const fc_matrix *grad_y;
    fc_activation activation;
    double parameter;
    const fc_matrix *z;     /* m by n; NULL without an activation */
    int overwrite;          /* grad_y * act'(z) may be written into grad_y */
} fc_upstream;

fc_status fc_linear_backward(fc_dtype dtype, const fc_upstream *up, const fc_matrix *x, const fc_matrix *w,
                             const fc_gradients *out, int threads);
fc_status fc_linear_backward_csr(fc_dtype dtype, const fc_upstream *up, const fc_matrix *x, const fc_csr *w,
                                 const fc_gradients *out, int threads);
/* w, FC_SPARSE_UPDATE, for the gradient of its entries (out->values, in csr's order, as for a csr weight); its transpose for gx.
 * Either may be NULL where it is not needed. Workspace: x by blocks of 192 rows, as much of it as fits into a quarter
 * of L3 but at least a tile; for each thread 192 rows of grad_y's columns of a block; nnz values to accumulate over more than 192
 * rows. */
fc_status fc_linear_backward_sparse(fc_dtype dtype, const fc_upstream *up, const fc_matrix *x, const fc_sparse *w,
                                    const fc_sparse *transposed, const fc_gradients *out, int threads);
/* A CSR x: gw is n by k and dense; gx must be NULL. */
fc_status fc_linear_backward_csr_x(fc_dtype dtype, const fc_upstream *up, const fc_csr *x, const fc_gradients *out,
                                   int threads);

/* ---- Sparse times dense -------------------------------------------------------------------------------------------
 * out = csr dense, or out = csr^T dense (transposed): the matrix products on their own. Of dense any strides; out is new,
 * does not overlap dense, and either its rows or its columns are contiguous and aligned.
 *
 * The order of csr dense is that of a CSR operand of the layer. Of csr^T dense, element (c, j) is one chain of FMAs from +0
 * over the entries of column c, in the order in which they are stored; from 65536 entries on, the entries of all columns are
 * cut, into 2 parts of equal length if they are 16 times as many as the columns, 4 if 64 times, 8 if 256 times, with a chain
 * in each part, and the parts' sums are added in order.
 *
 * For the transpose zeros stand in out before. Here indices need not have been checked (indptr has to): if one is out of range, FC_BAD_INDEX comes back, and out holds
 * garbage. Workspace: a tile of 64 rows for each thread. Where dense has no contiguous rows, also a panel of it for each
 * thread, rows by 64 elements; for the transpose, unless it is one part and out's rows are contiguous, sums of out's rows by
 * 64 elements for each thread, or for each part. */
fc_status fc_sparse_product(fc_dtype dtype, const fc_csr *csr, int transposed, const fc_matrix *dense, const fc_matrix *out,
                            int threads);

/* ---- Activations on their own -------------------------------------------------------------------------------------
 * n contiguous elements; y may be x, and dst may be grad or x. The same bits as in an epilogue. */
void fc_activation_forward(fc_dtype dtype, fc_activation activation, double parameter, const void *x, void *y, ptrdiff_t n,
                           int threads);
/* dst = grad * act'(x). */
void fc_activation_backward(fc_dtype dtype, fc_activation activation, double parameter, const void *grad, const void *x,
                            void *dst, ptrdiff_t n, int threads);

/* ---- Optimisers ---------------------------------------------------------------------------------------------------
 * One call does a whole step: every tensor of the list is updated, element by element, in one pass over its arrays. With
 * g = sign * grad (+ decay * w, if decay is not 0), and states called by their place (s0, s1, s2; NULL where in brackets):
 *
 *   FC_SGD       [s0 = momentum * s0 + fresh * g;  g = s0, or with nesterov g + momentum * s0]
 *                w = w - lr * g
 *   FC_ADAM      s0 = beta1 * s0 + (1 - beta1) * g;  s1 = beta2 * s1 + (1 - beta2) * g^2;  [v = s2 = max(s2, s1), else s1]
 *                w = shrink * w - lr * s0 / (scale * sqrt(v) + eps)
 *   FC_ADAGRAD   s0 = s0 + g^2
 *                w = w - lr * g / (sqrt(s0) + eps)
 *   FC_RMSPROP   s0 = beta2 * s0 + (1 - beta2) * g^2;  [s1 = beta2 * s1 + (1 - beta2) * g;  v = max(s0 - s1^2, 0), else s0]
 *                g = g / (sqrt(v) + eps);  [s2 = momentum * s2 + g;  g = s2]
 *                w = w - lr * g
 *   FC_SCALE     w = shrink * w
 *   FC_CLAMP     w = -limit where w < -limit, limit where w > limit, w elsewhere (and for NaN)
 *
 * Each is one fixed sequence of roundings (kernels/optim.inc), so threads, places and FMA targets do not change a bit. */
typedef enum fc_rule_kind { FC_SGD = 0, FC_ADAM, FC_ADAGRAD, FC_RMSPROP, FC_SCALE, FC_CLAMP } fc_rule_kind;
typedef struct fc_rule {
    fc_rule_kind kind;
    int nesterov;
    double sign, lr, decay, shrink, momentum, fresh, beta1, beta2, eps, scale, limit;
} fc_rule;
typedef struct fc_tensor {
    fc_dtype dtype;
    fc_rule rule;
    void *w;                /* n contiguous elements, like the others */
    const void *grad;       /* may be w; FC_SCALE and FC_CLAMP have none */
    void *state[3];
    ptrdiff_t n;
    const int64_t *rows;    /* NULL, or n / dim rows, none twice: grad row i, dim elements, belongs to row rows[i] of w and */
    ptrdiff_t dim;          /* the states, of which no other is touched */
    ptrdiff_t unit;         /* the library's own */
} fc_tensor;
/* Arrays of different tensors do not overlap, but for grads. */
void fc_update(fc_tensor *tensors, ptrdiff_t count, int threads);
/* *sum = sum over all elements of all w of (scale * w)^2, in float64: blocks of 8192 elements, counted from the beginning of
 * each tensor, on 16 virtual lanes (kernels.h), added in order. Workspace: 8 bytes a block. */
fc_status fc_square_sum(fc_tensor *tensors, ptrdiff_t count, double scale, double *sum, int threads);

/* ---- The feed-forward block ---------------------------------------------------------------------------------------
 * y = h W2^T + b2 with h = act(x W1^T + b1), or gated: h = act(x W1^T + b1) * (x W3^T + b3). h is made and used a block of
 * rows at a time and is never whole; y has the bits of the products one after the other. */
typedef struct fc_feedforward {
    const fc_packed *w1, *w2; /* d_ff by d_model, and d_model (or any width) by d_ff */
    const fc_packed *w3;      /* the gate, like w1; NULL: none */
    const void *b1, *b2, *b3; /* contiguous, each or NULL */
    fc_activation activation;
    double parameter;
} fc_feedforward;

/* Workspace: rows of h (gated: of both its factors), at most 2.25 MiB of them or 64, whichever is more; besides, what
 * fc_linear_forward_packed takes for so many rows. If that cannot be had, earlier blocks may have been written. */
fc_status fc_feedforward_forward(fc_dtype dtype, const fc_matrix *x, const fc_feedforward *block, const fc_matrix *y,
                                 int threads);

/* Its middle on its own, for training: n contiguous elements; outputs may be inputs. h = act(z) * factor; and from the
 * gradient of h those of z and factor. */
void fc_gate_forward(fc_dtype dtype, fc_activation activation, double parameter, const void *z, const void *factor, void *h,
                     ptrdiff_t n, int threads);
void fc_gate_backward(fc_dtype dtype, fc_activation activation, double parameter, const void *grad, const void *z,
                      const void *factor, void *dz, void *dfactor, ptrdiff_t n, int threads);

/* ---- Normalisation of rows ----------------------------------------------------------------------------------------
 *
 *     y = (x - mean) * rstd * gamma + beta,   rstd = 1 / sqrt(average of (x - mean)^2 + eps)
 *
 * for each row, with its mean (LayerNorm) or with 0 in its place (RMSNorm). Averages are sums on 16 virtual lanes (lane l
 * takes the elements l mod 16, in order, from +0; the end is padded to 16 with what adds 0), joined as a tree of halves.
 * Gradients of gamma and beta are sums over the batch in numeric blocks, whose sums are added up likewise. Rows of x, y
 * and gradients are contiguous and aligned here. */
typedef struct fc_norm {
    int center;             /* LayerNorm: 1; RMSNorm: 0 */
    double eps;
    const void *gamma;      /* n contiguous elements, or NULL: ones */
    const void *beta;       /* likewise: zeros; only with gamma */
    void *mean, *rstd;      /* m elements each: forward writes them unless NULL, backward reads them (mean: with center) */
} fc_norm;
typedef struct fc_norm_gradients {
    fc_matrix *gx;          /* m by n, or NULL; it may be grad_y */
    void *gamma, *beta;     /* n contiguous elements each, or NULL */
} fc_norm_gradients;

/* y may be x. */
void fc_norm_forward(fc_dtype dtype, const fc_matrix *x, const fc_norm *norm, const fc_matrix *y, int threads);
/* Workspace: two sums of n for each numeric block of the batch. */
fc_status fc_norm_backward(fc_dtype dtype, const fc_matrix *grad_y, const fc_matrix *x, const fc_norm *norm,
                           const fc_norm_gradients *out, int threads);

/* A linear layer and the norm of its rows, a block of rows at a time, which then still is in the cache: the same bits as
 * one after the other. epilogue->y receives the layer's rows, y the normalised ones; they may be the same. The weight is w
 * or packed. If memory runs out, some rows may have been written. */
fc_status fc_linear_norm_forward(fc_dtype dtype, const fc_matrix *x, const fc_matrix *w, const fc_packed *packed,
                                 const fc_epilogue *epilogue, const fc_norm *norm, const fc_matrix *y, int threads);
/* Its gradients: h is what epilogue->y received, and up->z with an activation what epilogue->z did. out->gx, gw and gb as
 * of fc_linear_backward, of the norm gamma and beta only. Workspace: one matrix like grad_y, besides that of both parts. */
fc_status fc_linear_norm_backward(fc_dtype dtype, const fc_upstream *up, const fc_matrix *h, const fc_norm *norm,
                                  const fc_matrix *x, const fc_matrix *w, const fc_gradients *out,
                                  const fc_norm_gradients *norm_out, int threads);

/* ---- Losses -------------------------------------------------------------------------------------------------------
 * The sum over the batch is taken in double, in order, whatever the number of threads. Workspace: of the cross-entropy one
 * element a row, unless `losses` is there; of the others 8 bytes for each 3072 elements. */
typedef enum fc_reduction { FC_SUM = 0, FC_MEAN } fc_reduction;

/* -sum_j q[j] log softmax(x)[j] for each row, q[j] = weight[j] * ((1 - smoothing) * target[j] + smoothing / n), where a
 * label stands for a target of 1 at its place and 0 elsewhere. A row whose label is `ignore` counts as 0. The mean is the
 * sum over the sum of the weights of the labels that are not ignored, or with targets over the number of rows. */
typedef struct fc_cross_entropy {
    const fc_matrix *x;         /* m by n, rows contiguous and aligned, as all here */
    const int64_t *labels;      /* m; or NULL: */
    const fc_matrix *targets;   /* m by n */
    const void *weight;         /* n, or NULL: ones */
    double smoothing;
    int64_t ignore;
    fc_reduction reduction;
    void *losses;               /* m elements, or NULL */
    const fc_matrix *grad;      /* m by n: the gradient of the reduced loss (for losses on their own: FC_SUM); or NULL */
} fc_cross_entropy;
/* The first row whose label is neither in 0 .. classes - 1 nor `ignore`, or -1. */
ptrdiff_t fc_labels_check(const int64_t *labels, ptrdiff_t rows, ptrdiff_t classes, int64_t ignore);
fc_status fc_cross_entropy_loss(fc_dtype dtype, const fc_cross_entropy *c, double *value, int threads);

typedef enum fc_pointwise {
    FC_SQUARED = 0,         /* d^2, d = x - target */
    FC_ABSOLUTE,            /* |d| */
    FC_HUBER,               /* d^2 / 2 where |d| <= width, else width (|d| - width / 2) */
    FC_LOGIT                /* (1 - target) softplus(x) + positive * target * softplus(-x) */
} fc_pointwise;
/* Sum or mean of weight * factor * loss of n contiguous elements each. */
typedef struct fc_pointwise_loss {
    fc_pointwise kind;
    double width, factor;
    const void *x, *target;
    const void *weight;     /* or NULL: ones */
    const void *positive;   /* likewise */
    ptrdiff_t n;
    fc_reduction reduction;
    void *losses, *grad;    /* n elements, or NULL; as above */
} fc_pointwise_loss;
fc_status fc_pointwise_loss_value(fc_dtype dtype, const fc_pointwise_loss *c, double *value, int threads);

/* ---- Dropout ------------------------------------------------------------------------------------------------------
 * y[i] = x[i] * (0 with probability p, else 1 / (1 - p)) for n contiguous elements; y may be x. What is dropped is a
 * function of seed, call and i alone (kernels/dropout.inc says which): the same on all targets, for both dtypes and any
 * number of threads. The gradient is the same function of grad_y. p is rounded to a multiple of 2^-32. */
void fc_dropout(fc_dtype dtype, const void *x, void *y, ptrdiff_t n, double p, uint64_t seed, uint64_t call, int threads);

/* ---- The machine's limits, for benchmarks ------------------------------------------------------------------------- */

/* The most flops per second of FMA chains in registers, over windows of `window` seconds within `seconds`. */
double fc_probe_fma(fc_dtype dtype, double seconds, double window, int threads);
/* The most bytes per second read from a buffer of float, each thread its own contiguous part of 512 bytes or more. */
double fc_probe_read(const float *buffer, size_t bytes, double seconds, double window, int threads);

#ifdef __cplusplus
}
#endif
#endif
