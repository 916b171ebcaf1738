#define FC_ISA neon
#define FC_HAS_FMA 1
#include "vec_neon.h"
#include "../kernels/all.inc"
