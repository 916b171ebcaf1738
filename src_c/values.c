/* New values of a packed sparse weight, each from its entry's place in the matrix that was packed. */
#include "values.h"

#include "kernels.h"
#include "threads.h"

#include <string.h>

typedef struct put {
    fc_dtype dtype;
    void *packed;
    const void *values;
    const uint32_t *source;
    ptrdiff_t count;
} put;

enum { UNIT = 1 << 16, AHEAD = 192 }; /* values at a time, and how many before its use a value is fetched, or the first of four */

#define FC_PUT(real, minus_zero) { \
        const real *values = p->values; \
        real *packed = p->packed; \
        ptrdiff_t i = begin; \
        for (; i + AHEAD + 4 <= end; i += 4) { \
            const uint32_t *s = source + i; \
            if (fc_side_by_side(s)) { \
                __builtin_prefetch(values + s[AHEAD]); \
                memcpy(packed + i, values + s[0], 4 * sizeof(real)); \
                continue; \
            } \
            _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) { \
                __builtin_prefetch(values + s[AHEAD + j]); \
                packed[i + j] = s[j] == FC_PADDING ? (minus_zero) : values[s[j]]; \
            } \
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
