#include "packed.h"

#include "dispatch.h"
#include "gemm.h"
#include "memory.h"
#include "threads.h"

#include <stdlib.h>
#include <string.h>

typedef struct packing {
    const fc_packed *packed;
    const fc_matrix *w;
} packing;

static void pack_panel(void *context, int thread, ptrdiff_t i) {
    const packing *c = context;
    const fc_packed *p = c->packed;
    const ptrdiff_t size = fc_size(p->dtype), panel = p->kernels->panel[p->dtype], col = i * panel;
    (void)thread;
    fc_pack_job job = {
        .src = (const char *)c->w->data + col * c->w->row_stride, .src_j = c->w->row_stride, .src_k = c->w->col_stride,
        .dst = (char *)p->panels + col * p->k * size, .step = fc_panel_step(p->kernels, p->dtype, p->n, i),
        .n = p->n - col < panel ? p->n - col : panel, .k = p->k,
    };
    p->kernels->pack[p->dtype](&job);
}

fc_packed *fc_pack(fc_dtype dtype, const fc_matrix *w, int threads) {
    const fc_kernels *kernels = fc_current();
    const ptrdiff_t lanes = kernels->lanes[dtype], size = fc_size(dtype), panels = fc_panels(kernels, dtype, w->rows);
    const ptrdiff_t padded =
        panels ? (panels - 1) * kernels->panel[dtype] + fc_panel_step(kernels, dtype, w->rows, panels - 1) : 0;
    if (w->cols && padded > (PTRDIFF_MAX / size - lanes) / w->cols) return NULL;
    /* A last row without padding is read as a whole vector. */
    const ptrdiff_t behind = w->cols ? fc_full_lanes(kernels, dtype, padded) - padded : 0;
    fc_packed *p = malloc(sizeof *p);
    if (!p) return NULL;
    *p = (fc_packed){kernels, dtype, w->rows, w->cols, (size_t)((padded * w->cols + behind) * size), NULL};
    p->panels = fc_map(p->bytes);
    if (!p->panels) {
        free(p);
        return NULL;
    }
    packing c = {p, w};
    if (p->bytes)
        fc_parallel_for(fc_team_for((double)w->rows * (double)w->cols * 8, threads), panels, pack_panel, &c);
    return p;
}

void fc_packed_free(fc_packed *packed) {
    if (!packed) return;
    fc_unmap(packed->panels, packed->bytes);
    free(packed);
}

void fc_unpack(const fc_packed *p, const fc_matrix *w) {
    const ptrdiff_t size = fc_size(p->dtype), panel = p->kernels->panel[p->dtype];
    for (ptrdiff_t n = 0; n < p->n; n++) {
        const ptrdiff_t i = n / panel, step = fc_panel_step(p->kernels, p->dtype, p->n, i);
        const char *src = (const char *)p->panels + (i * panel * p->k + n % panel) * size;
        char *dst = (char *)w->data + n * w->row_stride;
        for (ptrdiff_t k = 0; k < p->k; k++, src += step * size, dst += w->col_stride) memcpy(dst, src, (size_t)size);
    }
}

size_t fc_packed_bytes(const fc_packed *packed) { return packed->bytes; }
const char *fc_packed_isa(const fc_packed *packed) { return packed->kernels->isa; }
