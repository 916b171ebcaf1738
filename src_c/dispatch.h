/* Which target's kernels run. */
#ifndef FC_DISPATCH_H
#define FC_DISPATCH_H
#include "kernels.h"

const fc_kernels *fc_current(void);
extern int fc_fast_gathers; /* this CPU's gathers are faster than loads one by one; the C tests try both */

#endif
