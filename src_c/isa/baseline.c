#define FC_ISA baseline
#define FC_HAS_FMA 0
#include "vec_baseline.h"
#include "../kernels/all.inc"
