#define FC_ISA avx512
#define FC_HAS_FMA 1
#include "vec_avx512.h"
#include "../kernels/all.inc"
