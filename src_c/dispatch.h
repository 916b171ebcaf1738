/* Which target's kernels run. */
#ifndef FC_DISPATCH_H
#define FC_DISPATCH_H
#include "kernels.h"

const fc_kernels *fc_current(void);
int fc_fast_gathers(void); /* of this CPU: faster than loads one by one */

#endif
