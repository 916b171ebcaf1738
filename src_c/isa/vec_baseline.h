/* The vector vocabulary in the compiler's own vectors of 128 bits (SSE2 on x86-64, whatever another architecture has),
 * without FMA: v_fma rounds twice. See kernels/vocabulary.h. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../indices.h"

#define FC_INLINE static inline __attribute__((always_inline))

typedef float vec_f32 __attribute__((vector_size(16)));
typedef double vec_f64 __attribute__((vector_size(16)));
typedef int32_t bits_f32 __attribute__((vector_size(16)));
typedef int64_t bits_f64 __attribute__((vector_size(16)));
enum { VL_f32 = 4, VL_f64 = 2 };
typedef uint64_t words __attribute__((vector_size(16)));
enum { VL_words = 2 };
enum { ROWS_1 = 6, ROWS_2 = 6, ROWS_3 = 3, ROWS_4 = 3 };
enum { PANEL_VECS = 2 };

FC_INLINE vec_f32 v_zero_f32(void) { return (vec_f32){0}; }
FC_INLINE vec_f64 v_zero_f64(void) { return (vec_f64){0}; }
FC_INLINE vec_f32 v_set1_f32(float x) { return (vec_f32){x, x, x, x}; }
FC_INLINE vec_f64 v_set1_f64(double x) { return (vec_f64){x, x}; }
FC_INLINE vec_f32 v_load_f32(const void *p) { vec_f32 v; memcpy(&v, p, sizeof v); return v; }
FC_INLINE vec_f64 v_load_f64(const void *p) { vec_f64 v; memcpy(&v, p, sizeof v); return v; }
FC_INLINE void v_store_f32(void *p, vec_f32 v) { memcpy(p, &v, sizeof v); }
FC_INLINE void v_store_f64(void *p, vec_f64 v) { memcpy(p, &v, sizeof v); }
FC_INLINE vec_f32 v_load_n_f32(const void *p, ptrdiff_t n) {
    vec_f32 v = {0};
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
}
FC_INLINE vec_f64 v_load_n_f64(const void *p, ptrdiff_t n) {
    vec_f64 v = {0};
    memcpy(&v, p, (size_t)n * sizeof(double));
    return v;
}
FC_INLINE void v_store_n_f32(void *p, vec_f32 v, ptrdiff_t n) { memcpy(p, &v, (size_t)n * sizeof(float)); }
FC_INLINE void v_store_n_f64(void *p, vec_f64 v, ptrdiff_t n) { memcpy(p, &v, (size_t)n * sizeof(double)); }
FC_INLINE vec_f32 v_fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return a * b + c; }
FC_INLINE vec_f64 v_fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return a * b + c; }
FC_INLINE vec_f32 v_positive_f32(vec_f32 test, vec_f32 v) { return (vec_f32)(~(bits_f32)(test <= 0.0f) & (bits_f32)v); }
FC_INLINE vec_f64 v_positive_f64(vec_f64 test, vec_f64 v) { return (vec_f64)(~(bits_f64)(test <= 0.0) & (bits_f64)v); }

FC_INLINE vec_f32 v_where_lt_f32(vec_f32 a, vec_f32 b, vec_f32 x, vec_f32 y) {
    const bits_f32 less = a < b;
    return (vec_f32)((less & (bits_f32)x) | (~less & (bits_f32)y));
}
FC_INLINE vec_f64 v_where_lt_f64(vec_f64 a, vec_f64 b, vec_f64 x, vec_f64 y) {
    const bits_f64 less = a < b;
    return (vec_f64)((less & (bits_f64)x) | (~less & (bits_f64)y));
}
FC_INLINE vec_f32 v_min_f32(vec_f32 a, vec_f32 b) { return v_where_lt_f32(a, b, a, b); }
FC_INLINE vec_f64 v_min_f64(vec_f64 a, vec_f64 b) { return v_where_lt_f64(a, b, a, b); }
FC_INLINE vec_f32 v_max_f32(vec_f32 a, vec_f32 b) { return v_where_lt_f32(b, a, a, b); }
FC_INLINE vec_f64 v_max_f64(vec_f64 a, vec_f64 b) { return v_where_lt_f64(b, a, a, b); }
FC_INLINE vec_f32 v_abs_f32(vec_f32 v) { return (vec_f32)((bits_f32)v & INT32_MAX); }
FC_INLINE vec_f64 v_abs_f64(vec_f64 v) { return (vec_f64)((bits_f64)v & INT64_MAX); }
FC_INLINE vec_f32 v_copysign_f32(vec_f32 v, vec_f32 s) { return (vec_f32)((bits_f32)v | ((bits_f32)s & INT32_MIN)); }
FC_INLINE vec_f64 v_copysign_f64(vec_f64 v, vec_f64 s) { return (vec_f64)((bits_f64)v | ((bits_f64)s & INT64_MIN)); }
FC_INLINE vec_f32 v_pow2_f32(vec_f32 b) { return (vec_f32)((bits_f32)b << 23); }
FC_INLINE vec_f64 v_pow2_f64(vec_f64 b) { return (vec_f64)((bits_f64)b << 52); }
/* Of positive numbers only, so the shift is one of zeros. */
FC_INLINE vec_f32 v_exponent_f32(vec_f32 v) { return (vec_f32)(((bits_f32)v >> 23) | 0x4b000000) - (0x1p23f + 127); }
FC_INLINE vec_f64 v_exponent_f64(vec_f64 v) { return (vec_f64)(((bits_f64)v >> 52) | 0x4330000000000000) - (0x1p52 + 1023); }
/* Dekker's product: the factors are cut into halves whose products are exact. They are far from overflow here. */
FC_INLINE vec_f32 v_residue_f32(vec_f32 a, vec_f32 b, vec_f32 c) {
    const vec_f32 ca = a * 4097.0f, cb = b * 4097.0f, ah = ca - (ca - a), bh = cb - (cb - b), al = a - ah, bl = b - bh;
    return (((c - ah * bh) - ah * bl) - al * bh) - al * bl;
}
FC_INLINE vec_f64 v_residue_f64(vec_f64 a, vec_f64 b, vec_f64 c) {
    const vec_f64 ca = a * 134217729.0, cb = b * 134217729.0, ah = ca - (ca - a), bh = cb - (cb - b), al = a - ah, bl = b - bh;
    return (((c - ah * bh) - ah * bl) - al * bh) - al * bl;
}
FC_INLINE vec_f32 v_sqrt_f32(vec_f32 v) {
    return (vec_f32){__builtin_sqrtf(v[0]), __builtin_sqrtf(v[1]), __builtin_sqrtf(v[2]), __builtin_sqrtf(v[3])};
}
FC_INLINE vec_f64 v_sqrt_f64(vec_f64 v) { return (vec_f64){__builtin_sqrt(v[0]), __builtin_sqrt(v[1])}; }
FC_INLINE vec_f64 v_widen_f32(const void *p) {
    float v[2];
    memcpy(v, p, sizeof v);
    return (vec_f64){(double)v[0], (double)v[1]};
}
FC_INLINE vec_f64 v_widen_f64(const void *p) { return v_load_f64(p); }
FC_INLINE words w_mul32(words a, words b) { return (a & UINT32_MAX) * (b & UINT32_MAX); }

typedef const float *quad_f32;
typedef const double *quad_f64;
typedef uint32_t codes_f32 __attribute__((vector_size(16)));
typedef uint64_t codes_f64 __attribute__((vector_size(16)));
FC_INLINE quad_f32 v_quad_f32(const void *p) { return p; }
FC_INLINE quad_f64 v_quad_f64(const void *p) { return p; }
FC_INLINE codes_f32 v_codes_f32(const uint32_t *p) { codes_f32 c; memcpy(&c, p, sizeof c); return c; }
FC_INLINE codes_f64 v_codes_f64(const uint32_t *p) { return (codes_f64){p[0], p[1]}; }
FC_INLINE vec_f32 v_of4_f32(quad_f32 q, codes_f32 c) { return (vec_f32){q[c[0] & 3], q[c[1] & 3], q[c[2] & 3], q[c[3] & 3]}; }
FC_INLINE vec_f64 v_of4_f64(quad_f64 q, codes_f64 c) { return (vec_f64){q[c[0] & 3], q[c[1] & 3]}; }

enum { TRANSPOSE_f32 = 4, TRANSPOSE_f64 = 2 };
FC_INLINE void v_transpose_at_f32(const char *const *p, vec_f32 *t) {
    const vec_f32 r0 = v_load_f32(p[0]), r1 = v_load_f32(p[1]), r2 = v_load_f32(p[2]), r3 = v_load_f32(p[3]);
    for (int i = 0; i < 4; i++) t[i] = (vec_f32){r0[i], r1[i], r2[i], r3[i]};
}
FC_INLINE void v_transpose_at_f64(const char *const *p, vec_f64 *t) {
    const vec_f64 r0 = v_load_f64(p[0]), r1 = v_load_f64(p[1]);
    for (int i = 0; i < 2; i++) t[i] = (vec_f64){r0[i], r1[i]};
}

#include "vec_16bytes.h"
