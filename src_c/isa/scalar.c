#define FC_ISA scalar
#define FC_HAS_FMA 1
#include "vec_scalar.h"
#include "../kernels/all.inc"
