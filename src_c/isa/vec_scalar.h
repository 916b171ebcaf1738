/* The vector vocabulary with one lane and C's fma(): slow, and bit for bit the executable definition of what the FMA
 * targets compute. See kernels/vocabulary.h. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../indices.h"

#define FC_INLINE static inline __attribute__((always_inline))

typedef float vec_f32;
typedef double vec_f64;
enum { VL_f32 = 1, VL_f64 = 1 };
typedef uint64_t words;
enum { VL_words = 1 };
enum { ROWS_1 = 2, ROWS_2 = 2, ROWS_3 = 1, ROWS_4 = 1 };
enum { PANEL_VECS = 4 };

FC_INLINE vec_f32 v_zero_f32(void) { return 0.0f; }
FC_INLINE vec_f64 v_zero_f64(void) { return 0.0; }
FC_INLINE vec_f32 v_set1_f32(float x) { return x; }
FC_INLINE vec_f64 v_set1_f64(double x) { return x; }
enum { PICK_f32 = VL_f32, PICK_f64 = VL_f64 };
FC_INLINE vec_f32 v_pick_f32(const float *p, const void *i, const int bytes) {
    return p[read_step(i, bytes, 0)];
}
FC_INLINE vec_f64 v_pick_f64(const double *p, const void *i, const int bytes) {
    return p[read_step(i, bytes, 0)];
}
FC_INLINE void v_pick4_f32(const float *p, const void *i, const int bytes, vec_f32 *t) {
    for (int s = 0; s < 4; s++) t[s] = p[read_step(i, bytes, s)];
}
FC_INLINE void v_pick4_f64(const double *p, const void *i, const int bytes, vec_f64 *t) {
    for (int s = 0; s < 4; s++) t[s] = p[read_step(i, bytes, s)];
}
FC_INLINE void v_rows4_f32(const float *p, vec_f32 *t) { memcpy(t, p, 4 * sizeof *t); }
FC_INLINE void v_rows4_f64(const double *p, vec_f64 *t) { memcpy(t, p, 4 * sizeof *t); }
FC_INLINE void v_each4_f32(const float *p, vec_f32 *t) {
    for (int s = 0; s < 4; s++) t[s] = p[s];
}
FC_INLINE void v_each4_f64(const double *p, vec_f64 *t) {
    for (int s = 0; s < 4; s++) t[s] = p[s];
}
FC_INLINE vec_f32 v_load_f32(const void *p) { float v; memcpy(&v, p, sizeof v); return v; }
FC_INLINE vec_f64 v_load_f64(const void *p) { double v; memcpy(&v, p, sizeof v); return v; }
FC_INLINE void v_store_f32(void *p, vec_f32 v) { memcpy(p, &v, sizeof v); }
FC_INLINE void v_store_f64(void *p, vec_f64 v) { memcpy(p, &v, sizeof v); }
FC_INLINE vec_f32 v_load_n_f32(const void *p, ptrdiff_t n) { return n ? v_load_f32(p) : 0.0f; }
FC_INLINE vec_f64 v_load_n_f64(const void *p, ptrdiff_t n) { return n ? v_load_f64(p) : 0.0; }
FC_INLINE void v_store_n_f32(void *p, vec_f32 v, ptrdiff_t n) { if (n) v_store_f32(p, v); }
FC_INLINE void v_store_n_f64(void *p, vec_f64 v, ptrdiff_t n) { if (n) v_store_f64(p, v); }
FC_INLINE vec_f32 v_fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return fmaf(a, b, c); }
FC_INLINE vec_f64 v_fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return fma(a, b, c); }
FC_INLINE float v_sum_f32(vec_f32 v) { return v; }
FC_INLINE double v_sum_f64(vec_f64 v) { return v; }
FC_INLINE void v_sums4_f32(const vec_f32 *v, float *p) { for (int i = 0; i < 4; i++) p[i] = v_sum_f32(v[i]); }
FC_INLINE void v_sums4_f64(const vec_f64 *v, double *p) { for (int i = 0; i < 4; i++) p[i] = v_sum_f64(v[i]); }
FC_INLINE vec_f32 v_positive_f32(vec_f32 test, vec_f32 v) { return !(test <= 0.0f) ? v : 0.0f; }
FC_INLINE vec_f64 v_positive_f64(vec_f64 test, vec_f64 v) { return !(test <= 0.0) ? v : 0.0; }

FC_INLINE vec_f32 v_min_f32(vec_f32 a, vec_f32 b) { return a < b ? a : b; }
FC_INLINE vec_f64 v_min_f64(vec_f64 a, vec_f64 b) { return a < b ? a : b; }
FC_INLINE vec_f32 v_max_f32(vec_f32 a, vec_f32 b) { return a > b ? a : b; }
FC_INLINE vec_f64 v_max_f64(vec_f64 a, vec_f64 b) { return a > b ? a : b; }
FC_INLINE vec_f32 v_where_lt_f32(vec_f32 a, vec_f32 b, vec_f32 x, vec_f32 y) { return a < b ? x : y; }
FC_INLINE vec_f64 v_where_lt_f64(vec_f64 a, vec_f64 b, vec_f64 x, vec_f64 y) { return a < b ? x : y; }
FC_INLINE vec_f32 v_abs_f32(vec_f32 v) { return fabsf(v); }
FC_INLINE vec_f64 v_abs_f64(vec_f64 v) { return fabs(v); }
FC_INLINE vec_f32 v_copysign_f32(vec_f32 v, vec_f32 s) { return copysignf(v, s); }
FC_INLINE vec_f64 v_copysign_f64(vec_f64 v, vec_f64 s) { return copysign(v, s); }
FC_INLINE vec_f32 v_pow2_f32(vec_f32 b) {
    uint32_t i;
    memcpy(&i, &b, sizeof i);
    i <<= 23;
    memcpy(&b, &i, sizeof i);
    return b;
}
FC_INLINE vec_f64 v_pow2_f64(vec_f64 b) {
    uint64_t i;
    memcpy(&i, &b, sizeof i);
    i <<= 52;
    memcpy(&b, &i, sizeof i);
    return b;
}
FC_INLINE vec_f32 v_exponent_f32(vec_f32 v) {
    uint32_t i;
    memcpy(&i, &v, sizeof i);
    return (float)(i >> 23) - 127;
}
FC_INLINE vec_f64 v_exponent_f64(vec_f64 v) {
    uint64_t i;
    memcpy(&i, &v, sizeof i);
    return (double)(i >> 52) - 1023;
}
FC_INLINE vec_f32 v_residue_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return fmaf(-a, b, c); }
FC_INLINE vec_f64 v_residue_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return fma(-a, b, c); }
FC_INLINE vec_f32 v_sqrt_f32(vec_f32 v) { return sqrtf(v); }
FC_INLINE vec_f64 v_sqrt_f64(vec_f64 v) { return sqrt(v); }
FC_INLINE vec_f64 v_widen_f32(const void *p) { return v_load_f32(p); }
FC_INLINE vec_f64 v_widen_f64(const void *p) { return v_load_f64(p); }
FC_INLINE words w_mul32(words a, words b) { return (a & UINT32_MAX) * (b & UINT32_MAX); }

typedef const float *quad_f32;
typedef const double *quad_f64;
typedef uint32_t codes_f32;
typedef uint32_t codes_f64;
FC_INLINE quad_f32 v_quad_f32(const void *p) { return p; }
FC_INLINE quad_f64 v_quad_f64(const void *p) { return p; }
FC_INLINE codes_f32 v_codes_f32(const uint32_t *p) { return *p; }
FC_INLINE codes_f64 v_codes_f64(const uint32_t *p) { return *p; }
FC_INLINE vec_f32 v_of4_f32(quad_f32 q, codes_f32 c) { return q[c & 3]; }
FC_INLINE vec_f64 v_of4_f64(quad_f64 q, codes_f64 c) { return q[c & 3]; }

enum { TRANSPOSE_f32 = 1, TRANSPOSE_f64 = 1 };
FC_INLINE void v_transpose_f32(const char *src, ptrdiff_t row, vec_f32 *t) {
    (void)row;
    t[0] = v_load_f32(src);
}
FC_INLINE void v_transpose_f64(const char *src, ptrdiff_t row, vec_f64 *t) {
    (void)row;
    t[0] = v_load_f64(src);
}
FC_INLINE void v_transpose_at_f32(const char *const *p, vec_f32 *t) { t[0] = v_load_f32(p[0]); }
FC_INLINE void v_transpose_at_f64(const char *const *p, vec_f64 *t) { t[0] = v_load_f64(p[0]); }
