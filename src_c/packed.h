/* The packed weight's own fields; internal, drivers only. */
#ifndef FC_PACKED_H
#define FC_PACKED_H
#include "kernels.h"

struct fc_packed {
    const fc_kernels *kernels; /* whose panels these are */
    fc_dtype dtype;
    ptrdiff_t n, k;
    size_t bytes;
    void *panels;
};

#endif
