/* New values of a packed sparse weight, each from its entry's place in the matrix that was packed. */
#include "values.h"

#include "kernels.h"
#include "threads.h"

typedef struct put {
    fc_dtype dtype;
    void *packed;
    const void *values;
    const uint32_t *source;
    ptrdiff_t count;
} put;

enum { UNIT = 1 << 16 }; /* values at a time */

static void put_unit(void *context, int thread, ptrdiff_t unit) {
    const put *p = context;
    const uint32_t *source = p->source;
    const ptrdiff_t begin = unit * UNIT, end = p->count - begin < UNIT ? p->count : begin + UNIT;
    (void)thread;
    if (p->dtype == FC_F32)
        for (ptrdiff_t i = begin; i < end; i++)
            ((float *)p->packed)[i] = source[i] == FC_PADDING ? -0.0f : ((const float *)p->values)[source[i]];
    else
        for (ptrdiff_t i = begin; i < end; i++)
            ((double *)p->packed)[i] = source[i] == FC_PADDING ? -0.0 : ((const double *)p->values)[source[i]];
}

void fc_put_values(fc_dtype dtype, void *packed, const void *values, const uint32_t *source, ptrdiff_t count, int threads) {
    put p = {dtype, packed, values, source, count};
    fc_parallel_for(fc_team_for((double)count * 8, threads), (count + UNIT - 1) / UNIT, put_unit, &p);
}
