/* Indices of a sparse matrix, of either width: of CSR, and of packed weights within a tile. Internal. */
#ifndef FC_INDICES_H
#define FC_INDICES_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline int64_t read_index(const void *p, int bytes, ptrdiff_t i) {
    return bytes == 8 ? ((const int64_t *)p)[i] : ((const int32_t *)p)[i];
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "packed sparse weights are read as little-endian"
#endif

/* Step i of those of 1 or 2 bytes. */
static inline ptrdiff_t read_step(const void *p, int bytes, ptrdiff_t i) {
    return bytes == 1 ? ((const uint8_t *)p)[i] : ((const uint16_t *)p)[i];
}
/* `count` of them from step i on, at most 8 bytes, in one load: all targets are little-endian. */
static inline uint64_t read_steps(const void *p, int bytes, ptrdiff_t i, int count) {
    uint64_t steps = 0;
    memcpy(&steps, (const char *)p + i * bytes, (size_t)(count * bytes));
    return steps;
}
/* And step s of these. */
static inline ptrdiff_t step_of(uint64_t steps, int bytes, int s) {
    return bytes == 1 ? (uint8_t)(steps >> 8 * s) : (uint16_t)(steps >> 16 * s);
}

#endif
