#define FC_ISA avx2
#define FC_HAS_FMA 1
#include "vec_avx2.h"
#include "../kernels/all.inc"
