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

enum { UNIT = 1 << 16, AHEAD = 64 }; /* values at a time, and how many before its use a value is fetched */

#define FC_PUT(real, minus_zero) { \
        const real *values = p->values; \
        real *packed = p->packed; \
        ptrdiff_t i = begin; \
        for (; i < end - AHEAD; i++) { \
            __builtin_prefetch(values + source[i + AHEAD]); \
            packed[i] = source[i] == FC_PADDING ? (minus_zero) : values[source[i]]; \
        } \
        for (; i < end; i++) packed[i] = source[i] == FC_PADDING ? (minus_zero) : values[source[i]]; \
    }

static void put_unit(void *context, int thread, ptrdiff_t unit) {
    const put *p = context;
    const uint32_t *source = p->source;
    const ptrdiff_t begin = unit * UNIT, end = p->count - begin < UNIT ? p->count : begin + UNIT;
    (void)thread;
    if (p->dtype == FC_F32) FC_PUT(float, -0.0f)
    else FC_PUT(double, -0.0)
}

void fc_put_values(fc_dtype dtype, void *packed, const void *values, const uint32_t *source, ptrdiff_t count, int threads) {
    put p = {dtype, packed, values, source, count};
    fc_parallel_for(fc_team_for((double)count * 8, threads), (count + UNIT - 1) / UNIT, put_unit, &p);
}
