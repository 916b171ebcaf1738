/* The feed-forward block: two or three products, and what stands between them kept in cache. */
#include "dispatch.h"
#include "memory.h"
#include "packed.h"
#include "threads.h"

/* act(z), or act(z) * factor, or its gradient, elementwise, over rows of `width` elements. */
typedef struct middle {
    const fc_kernels *kernels;
    fc_dtype dtype;
    fc_activation activation;
    double parameter;
    const char *z, *factor;         /* factor NULL: no gate */
    char *h;
    const char *grad;               /* of h; NULL: the forward pass */
    char *dz, *dfactor;
    ptrdiff_t rows, width, row;     /* bytes from row to row */
    ptrdiff_t tall, wide, strips;   /* a unit is `tall` rows of one of `strips` strips of `wide` columns */
} middle;

static void run_middle(void *context, int thread, ptrdiff_t unit) {
    const middle *c = context;
    const ptrdiff_t begin = unit / c->strips * c->tall, end = c->rows - begin < c->tall ? c->rows : begin + c->tall;
    const ptrdiff_t col = unit % c->strips * c->wide, n = c->width - col < c->wide ? c->width - col : c->wide;
    (void)thread;
    for (ptrdiff_t r = begin; r < end; r++) {
        const ptrdiff_t skip = r * c->row + col * fc_size(c->dtype);
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
}

static void middle_run(middle *c, ptrdiff_t tall, ptrdiff_t wide, int threads) {
    enum { COST = 48 }; /* of an element, in multiply-adds */
    c->tall = tall;
    c->wide = wide;
    c->strips = (c->width + wide - 1) / wide;
    fc_parallel_for(fc_team_for((double)c->rows * (double)c->width * COST, threads), c->strips * ((c->rows + tall - 1) / tall),
                    run_middle, c);
}

void fc_gate_forward(fc_dtype dtype, fc_activation activation, double parameter, const void *z, const void *factor, void *h,
                     ptrdiff_t n, int threads) {
    middle c = {
        .kernels = fc_current(), .dtype = dtype, .activation = activation, .parameter = parameter, .z = z, .factor = factor,
        .h = h, .rows = 1, .width = n,
    };
    middle_run(&c, 1, 8192, threads);
}

void fc_gate_backward(fc_dtype dtype, fc_activation activation, double parameter, const void *grad, const void *z,
                      const void *factor, void *dz, void *dfactor, ptrdiff_t n, int threads) {
    middle c = {
        .kernels = fc_current(), .dtype = dtype, .activation = activation, .parameter = parameter, .grad = grad, .z = z,
        .factor = factor, .dz = dz, .dfactor = dfactor, .rows = 1, .width = n,
    };
    middle_run(&c, 1, 8192, threads);
}

/* The weights are read once for each block of rows; from so many rows on that costs nothing that shows, however wide they
 * are. A larger scratch is no faster: the products themselves go over 192 rows at a time. */
enum { SCRATCH = 9 << 18, LEAST_ROWS = 64 };

fc_status fc_feedforward_forward(fc_dtype dtype, const fc_matrix *x, const fc_feedforward *block, const fc_matrix *y,
                                 int threads) {
    const ptrdiff_t size = fc_size(dtype), width = block->w1->n, factors = block->w3 ? 2 : 1;
    const ptrdiff_t h_row = fc_apart(width * size);
    if (!x->rows) return FC_OK;
    ptrdiff_t rows = SCRATCH / (factors * h_row);
    if (rows < LEAST_ROWS) rows = LEAST_ROWS;
    /* As even as can be: a last block of few rows would be a slow one. */
    const ptrdiff_t blocks = (x->rows + rows - 1) / rows;
    rows = (x->rows + blocks - 1) / blocks;
    if (rows > PTRDIFF_MAX / factors / h_row) return FC_NO_MEMORY;
    char *h = fc_alloc((size_t)(rows * h_row * factors)), *factor = block->w3 ? h + rows * h_row : NULL;
    if (!h) return FC_NO_MEMORY;

    fc_status status = FC_OK;
    for (ptrdiff_t row = 0; row < x->rows && status == FC_OK; row += rows) {
        const ptrdiff_t m = x->rows - row < rows ? x->rows - row : rows;
        const fc_matrix part = {(char *)x->data + row * x->row_stride, m, x->cols, x->row_stride, x->col_stride};
        const fc_matrix h_rows = {h, m, width, h_row, size};
        /* The activation is a pass of its own over what is in cache: by tiles, between the products' FMAs, it takes twice
         * as long. */
        const fc_epilogue z = {.bias = block->b1, .y = h, .y_row = h_row};
        const fc_epilogue gate = {.bias = block->b3, .y = factor, .y_row = h_row};
        const fc_epilogue last = {.bias = block->b2, .y = (char *)y->data + row * y->row_stride, .y_row = y->row_stride};
        middle c = {
            .kernels = block->w1->kernels, .dtype = dtype, .activation = block->activation, .parameter = block->parameter,
            .z = h, .factor = factor, .h = h, .rows = m, .width = width, .row = h_row,
        };
        status = fc_linear_forward_packed(dtype, &part, block->w1, &z, threads);
        if (status == FC_OK && block->w3) status = fc_linear_forward_packed(dtype, &part, block->w3, &gate, threads);
        if (status != FC_OK) break;
        /* Few rows by columns, so that each thread meets those that it has made; many as they stand in memory. */
        const int few = m <= 16;
        middle_run(&c, few ? m : 1, few ? 256 : 2048, threads);
        status = fc_linear_forward_packed(dtype, &h_rows, block->w2, &last, threads);
    }
    fc_free(h);
    return status;
}
