/* Which target's kernels run. */
#ifndef FC_DISPATCH_H
#define FC_DISPATCH_H
#include "kernels.h"

const fc_kernels *fc_current(void);

#endif
