/* New values of a packed sparse weight. Internal; drivers only. */
#ifndef FC_VALUES_H
#define FC_VALUES_H
#include "fastfc.h"

/* packed[i] = values[source[i]] for i < count, and -0 where source[i] is FC_PADDING. */
void fc_put_values(fc_dtype dtype, void *packed, const void *values, const uint32_t *source, ptrdiff_t count, int threads);

#endif
