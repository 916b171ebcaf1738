/* Indices of a sparse matrix, of either width. Internal; drivers only. */
#ifndef FC_INDICES_H
#define FC_INDICES_H
#include <stddef.h>
#include <stdint.h>

static inline int64_t read_index(const void *p, int bytes, ptrdiff_t i) {
    return bytes == 8 ? ((const int64_t *)p)[i] : ((const int32_t *)p)[i];
}

#endif
