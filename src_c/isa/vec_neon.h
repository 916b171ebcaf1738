/* The vector vocabulary on AArch64's NEON: 32 registers of 128 bits. See kernels/vocabulary.h. */
#include <arm_neon.h>
#include <stddef.h>
#include <string.h>

#include "../indices.h"

#define FC_INLINE static inline __attribute__((always_inline))

typedef float32x4_t vec_f32;
typedef float64x2_t vec_f64;
enum { VL_f32 = 4, VL_f64 = 2 };
typedef uint64x2_t words;
enum { VL_words = 2 };

/* 32 registers: 6 rows by 4 vectors leave 8 for W and x. */
enum { ROWS_1 = 12, ROWS_2 = 12, ROWS_3 = 8, ROWS_4 = 6 };
enum { PANEL_VECS = 4 };

FC_INLINE vec_f32 v_zero_f32(void) { return vdupq_n_f32(0); }
FC_INLINE vec_f64 v_zero_f64(void) { return vdupq_n_f64(0); }
FC_INLINE vec_f32 v_set1_f32(float x) { return vdupq_n_f32(x); }
FC_INLINE vec_f64 v_set1_f64(double x) { return vdupq_n_f64(x); }
/* By bytes, so that any address will do. */
FC_INLINE vec_f32 v_load_f32(const void *p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }
FC_INLINE vec_f64 v_load_f64(const void *p) { return vreinterpretq_f64_u8(vld1q_u8(p)); }
FC_INLINE void v_store_f32(void *p, vec_f32 v) { vst1q_u8(p, vreinterpretq_u8_f32(v)); }
FC_INLINE void v_store_f64(void *p, vec_f64 v) { vst1q_u8(p, vreinterpretq_u8_f64(v)); }
FC_INLINE vec_f32 v_load_n_f32(const void *p, ptrdiff_t n) {
    float t[4] = {0};
    memcpy(t, p, (size_t)n * sizeof *t);
    return vld1q_f32(t);
}
FC_INLINE vec_f64 v_load_n_f64(const void *p, ptrdiff_t n) {
    double t[2] = {0};
    memcpy(t, p, (size_t)n * sizeof *t);
    return vld1q_f64(t);
}
FC_INLINE void v_store_n_f32(void *p, vec_f32 v, ptrdiff_t n) { memcpy(p, &v, (size_t)n * sizeof(float)); }
FC_INLINE void v_store_n_f64(void *p, vec_f64 v, ptrdiff_t n) { memcpy(p, &v, (size_t)n * sizeof(double)); }
FC_INLINE vec_f32 v_fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return vfmaq_f32(c, a, b); }
FC_INLINE vec_f64 v_fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return vfmaq_f64(c, a, b); }

FC_INLINE vec_f32 v_positive_f32(vec_f32 test, vec_f32 v) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vclezq_f32(test)));
}
FC_INLINE vec_f64 v_positive_f64(vec_f64 test, vec_f64 v) {
    return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(v), vclezq_f64(test)));
}

FC_INLINE vec_f32 v_where_lt_f32(vec_f32 a, vec_f32 b, vec_f32 x, vec_f32 y) { return vbslq_f32(vcltq_f32(a, b), x, y); }
FC_INLINE vec_f64 v_where_lt_f64(vec_f64 a, vec_f64 b, vec_f64 x, vec_f64 y) { return vbslq_f64(vcltq_f64(a, b), x, y); }
/* Not vminq: it lets the NaN of either side pass. */
FC_INLINE vec_f32 v_min_f32(vec_f32 a, vec_f32 b) { return v_where_lt_f32(a, b, a, b); }
FC_INLINE vec_f64 v_min_f64(vec_f64 a, vec_f64 b) { return v_where_lt_f64(a, b, a, b); }
FC_INLINE vec_f32 v_max_f32(vec_f32 a, vec_f32 b) { return v_where_lt_f32(b, a, a, b); }
FC_INLINE vec_f64 v_max_f64(vec_f64 a, vec_f64 b) { return v_where_lt_f64(b, a, a, b); }
FC_INLINE vec_f32 v_abs_f32(vec_f32 v) { return vabsq_f32(v); }
FC_INLINE vec_f64 v_abs_f64(vec_f64 v) { return vabsq_f64(v); }
FC_INLINE vec_f32 v_copysign_f32(vec_f32 v, vec_f32 s) { return vbslq_f32(vdupq_n_u32(0x80000000u), s, v); }
FC_INLINE vec_f64 v_copysign_f64(vec_f64 v, vec_f64 s) { return vbslq_f64(vdupq_n_u64(0x8000000000000000u), s, v); }
FC_INLINE vec_f32 v_pow2_f32(vec_f32 b) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(b), 23)); }
FC_INLINE vec_f64 v_pow2_f64(vec_f64 b) { return vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(b), 52)); }
FC_INLINE vec_f32 v_exponent_f32(vec_f32 v) {
    const uint32x4_t e = vshrq_n_u32(vreinterpretq_u32_f32(v), 23);
    return vreinterpretq_f32_u32(vorrq_u32(e, vdupq_n_u32(0x4b000000))) - vdupq_n_f32(0x1p23f + 127);
}
FC_INLINE vec_f64 v_exponent_f64(vec_f64 v) {
    const uint64x2_t e = vshrq_n_u64(vreinterpretq_u64_f64(v), 52);
    return vreinterpretq_f64_u64(vorrq_u64(e, vdupq_n_u64(0x4330000000000000))) - vdupq_n_f64(0x1p52 + 1023);
}
FC_INLINE vec_f32 v_residue_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return vfmsq_f32(c, a, b); }
FC_INLINE vec_f64 v_residue_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return vfmsq_f64(c, a, b); }
FC_INLINE vec_f32 v_sqrt_f32(vec_f32 v) { return vsqrtq_f32(v); }
FC_INLINE vec_f64 v_sqrt_f64(vec_f64 v) { return vsqrtq_f64(v); }
FC_INLINE vec_f64 v_widen_f32(const void *p) { return vcvt_f64_f32(vreinterpret_f32_u8(vld1_u8(p))); }
FC_INLINE vec_f64 v_widen_f64(const void *p) { return v_load_f64(p); }
FC_INLINE words w_mul32(words a, words b) { return vmull_u32(vmovn_u64(a), vmovn_u64(b)); }

typedef uint8x16_t quad_f32;
typedef uint8x16x2_t quad_f64;
typedef uint32x4_t codes_f32;
typedef uint64x2_t codes_f64;
FC_INLINE quad_f32 v_quad_f32(const void *p) { return vld1q_u8(p); }
FC_INLINE quad_f64 v_quad_f64(const void *p) { return vld1q_u8_x2(p); }
FC_INLINE codes_f32 v_codes_f32(const uint32_t *p) { return vld1q_u32(p); }
FC_INLINE codes_f64 v_codes_f64(const uint32_t *p) { return vmovl_u32(vld1_u32(p)); }
/* The numbers of an element's bytes. */
FC_INLINE vec_f32 v_of4_f32(quad_f32 q, codes_f32 c) {
    const uint32x4_t bytes = vmlaq_n_u32(vdupq_n_u32(0x03020100), vandq_u32(c, vdupq_n_u32(3)), 0x04040404);
    return vreinterpretq_f32_u8(vqtbl1q_u8(q, vreinterpretq_u8_u32(bytes)));
}
FC_INLINE vec_f64 v_of4_f64(quad_f64 q, codes_f64 c) {
    const uint32x4_t low = vandq_u32(vreinterpretq_u32_u64(c), vreinterpretq_u32_u64(vdupq_n_u64(3)));
    const uint32x4_t both = vorrq_u32(low, vreinterpretq_u32_u64(vshlq_n_u64(vreinterpretq_u64_u32(low), 32)));
    const uint32x4_t first = vreinterpretq_u32_u64(vdupq_n_u64(0x0706050403020100));
    return vreinterpretq_f64_u8(vqtbl2q_u8(q, vreinterpretq_u8_u32(vmlaq_n_u32(first, both, 0x08080808))));
}

enum { TRANSPOSE_f32 = 4, TRANSPOSE_f64 = 2 };
FC_INLINE void v_transpose_at_f32(const char *const *p, vec_f32 *t) {
    const vec_f32 r0 = v_load_f32(p[0]), r1 = v_load_f32(p[1]), r2 = v_load_f32(p[2]), r3 = v_load_f32(p[3]);
    const vec_f64 s0 = vreinterpretq_f64_f32(vtrn1q_f32(r0, r1)), s1 = vreinterpretq_f64_f32(vtrn1q_f32(r2, r3));
    const vec_f64 s2 = vreinterpretq_f64_f32(vtrn2q_f32(r0, r1)), s3 = vreinterpretq_f64_f32(vtrn2q_f32(r2, r3));
    t[0] = vreinterpretq_f32_f64(vzip1q_f64(s0, s1));
    t[1] = vreinterpretq_f32_f64(vzip1q_f64(s2, s3));
    t[2] = vreinterpretq_f32_f64(vzip2q_f64(s0, s1));
    t[3] = vreinterpretq_f32_f64(vzip2q_f64(s2, s3));
}
FC_INLINE void v_transpose_at_f64(const char *const *p, vec_f64 *t) {
    const vec_f64 r0 = v_load_f64(p[0]), r1 = v_load_f64(p[1]);
    t[0] = vzip1q_f64(r0, r1);
    t[1] = vzip2q_f64(r0, r1);
}

#include "vec_16bytes.h"
