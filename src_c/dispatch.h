/* Which target's kernels run. */
#ifndef FC_DISPATCH_H
#define FC_DISPATCH_H
#include "kernels.h"

const fc_kernels *fc_current(void);
/* Of a target with long vectors one with shorter ones, which few rows fill better; or NULL. */
const fc_kernels *fc_shorter(const fc_kernels *kernels);
extern int fc_fast_gathers; /* this CPU's gathers are faster than loads one by one; the C tests try both */
extern int fc_fast_scalars; /* this CPU multiplies entries one by one as fast as it fills lanes with them; likewise */
extern int fc_split_indexed; /* this CPU splits a product of 64 bytes whose address has an index in two; likewise */
extern int fc_long_shuffles; /* this CPU shuffles 64 bytes as fast as 32; likewise */
extern int fc_byte_tables;  /* this CPU looks up bytes in tables (AVX512-VBMI); likewise */

#endif
