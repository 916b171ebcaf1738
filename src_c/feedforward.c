/* The feed-forward block: two or three products, and what stands between them kept in cache. */
#include "dispatch.h"
#include "memory.h"
#include "packed.h"
#include "threads.h"
#include <stdlib.h>

/* act(z), or act(z) * factor, in place or not, and the gradient: all elementwise. */
typedef struct middle {
    const fc_kernels *kernels;
    fc_dtype dtype;
    fc_activation activation;
    double parameter;
    const char *grad;         /* NULL: the forward pass */
    const char *z, *factor;   /* factor NULL: no gate */
    char *h, *dz, *dfactor;
    ptrdiff_t n;
} middle;

/* An element costs about as much as so many multiply-adds; elements at a time, few enough that two threads get equal
 * shares of 8 rows. */
enum { COST = 16, UNIT = 2048 };

static void run_middle(void *context, int thread, ptrdiff_t i) {
    const middle *c = context;
    const ptrdiff_t begin = i * UNIT, skip = begin * fc_size(c->dtype), n = c->n - begin < UNIT ? c->n - begin : UNIT;
    (void)thread;
    if (c->grad) {
        fc_gate_grad_job job = {
            .grad = c->grad + skip, .z = c->z + skip, .factor = c->factor + skip, .dz = c->dz + skip,
            .dfactor = c->dfactor + skip, .n = n, .activation = c->activation, .parameter = c->parameter,
        };
        c->kernels->gate_grad[c->dtype](&job);
    } else if (c->factor) {
        fc_gate_job job = {
            .z = c->z + skip, .factor = c->factor + skip, .dst = c->h + skip, .n = n, .activation = c->activation,
            .parameter = c->parameter,
        };
        c->kernels->gate[c->dtype](&job);
    } else {
        const fc_epilogue epilogue = {.activation = c->activation, .parameter = c->parameter, .y = c->h + skip};
        fc_finish_job job = {.sum = c->z + skip, .epilogue = &epilogue, .m = 1, .n = n};
        c->kernels->finish[c->dtype](&job);
    }
}

static void middle_run(const middle *c, int threads) {
    fc_parallel_for(fc_team_for((double)c->n * COST, threads), (c->n + UNIT - 1) / UNIT, run_middle, (void *)(uintptr_t)c);
}

void fc_gate_forward(fc_dtype dtype, fc_activation activation, double parameter, const void *z, const void *factor, void *h,
                     ptrdiff_t n, int threads) {
    const middle c = {
        .kernels = fc_current(), .dtype = dtype, .activation = activation, .parameter = parameter, .z = z, .factor = factor,
        .h = h, .n = n,
    };
    middle_run(&c, threads);
}

void fc_gate_backward(fc_dtype dtype, fc_activation activation, double parameter, const void *grad, const void *z,
                      const void *factor, void *dz, void *dfactor, ptrdiff_t n, int threads) {
    const middle c = {
        .kernels = fc_current(), .dtype = dtype, .activation = activation, .parameter = parameter, .grad = grad, .z = z,
        .factor = factor, .dz = dz, .dfactor = dfactor, .n = n,
    };
    middle_run(&c, threads);
}

/* The weights are read once a block of rows: with so many that costs little, whatever the block's memory. */
enum { SCRATCH = 3 << 20, LEAST_ROWS = 64 };

fc_status fc_feedforward_forward(fc_dtype dtype, const fc_matrix *x, const fc_feedforward *block, const fc_matrix *y,
                                 int threads) {
    const ptrdiff_t size = fc_size(dtype), width = block->w1->n, h_row = width * size, factors = block->w3 ? 2 : 1;
    if (!x->rows) return FC_OK;
    const char *fused_s = getenv("FF_FUSED"), *scratch_s = getenv("FF_SCRATCH");
    const ptrdiff_t budget = scratch_s ? atol(scratch_s) << 10 : SCRATCH;
    ptrdiff_t rows = h_row ? budget / (factors * h_row) : x->rows;
    if (rows < LEAST_ROWS) rows = LEAST_ROWS;
    /* Blocks as even as can be. */
    const ptrdiff_t blocks = (x->rows + rows - 1) / rows;
    rows = (x->rows + blocks - 1) / blocks;
    if (h_row && rows > PTRDIFF_MAX / (factors * h_row)) return FC_NO_MEMORY;
    char *h = fc_alloc((size_t)(rows * h_row * factors)), *factor = block->w3 ? h + rows * h_row : NULL;
    if (!h) return FC_NO_MEMORY;

    const int fused = (fused_s && fused_s[0] == '1') && !block->w3;
    fc_status status = FC_OK;
    for (ptrdiff_t row = 0; row < x->rows && status == FC_OK; row += rows) {
        const ptrdiff_t m = x->rows - row < rows ? x->rows - row : rows;
        const fc_matrix part = {(char *)x->data + row * x->row_stride, m, x->cols, x->row_stride, x->col_stride};
        const fc_epilogue first = {.bias = block->b1, .y = h, .y_row = h_row, .activation = fused ? block->activation : FC_IDENTITY, .parameter = block->parameter};
        status = fc_linear_forward_packed(dtype, &part, block->w1, &first, threads);
        if (status == FC_OK && block->w3) {
            const fc_epilogue gate = {.bias = block->b3, .y = factor, .y_row = h_row};
            status = fc_linear_forward_packed(dtype, &part, block->w3, &gate, threads);
        }
        if (status != FC_OK) break;
        if (!fused) {
        const middle c = {
            .kernels = block->w1->kernels, .dtype = dtype, .activation = block->activation, .parameter = block->parameter,
            .z = h, .factor = factor, .h = h, .n = m * width,
        };
        middle_run(&c, threads);
        }
        const fc_matrix middle_rows = {h, m, width, h_row, size};
        const fc_epilogue last = {.bias = block->b2, .y = (char *)y->data + row * y->row_stride, .y_row = y->row_stride};
        status = fc_linear_forward_packed(dtype, &middle_rows, block->w2, &last, threads);
    }
    fc_free(h);
    return status;
}
