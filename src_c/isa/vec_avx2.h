/* The vector vocabulary on AVX2 with FMA: 16 registers of 256 bits. See kernels/vocabulary.h. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../indices.h"

#define FC_INLINE static inline __attribute__((always_inline))

typedef __m256 vec_f32;
typedef __m256d vec_f64;
enum { VL_f32 = 8, VL_f64 = 4 };
typedef uint64_t words __attribute__((vector_size(32)));
enum { VL_words = 4 };

/* 16 registers: 6 by 2, or for a few rows 3 by 4, and 12 by 1, so that enough independent chains run. */
enum { ROWS_1 = 12, ROWS_2 = 6, ROWS_3 = 3, ROWS_4 = 3 };
enum { PANEL_VECS = 2 };

FC_INLINE vec_f32 v_zero_f32(void) { return _mm256_setzero_ps(); }
FC_INLINE vec_f64 v_zero_f64(void) { return _mm256_setzero_pd(); }
FC_INLINE vec_f32 v_set1_f32(float x) { return _mm256_set1_ps(x); }
FC_INLINE vec_f64 v_set1_f64(double x) { return _mm256_set1_pd(x); }
enum { PICK_f32 = VL_f32, PICK_f64 = VL_f64 };
/* Four indices in one load: loads are what there are too few of. */
FC_INLINE vec_f32 v_pick_f32(const float *p, const void *i, const int bytes) {
    const uint64_t a = read_steps(i, bytes, 0, 4), b = read_steps(i, bytes, 4, 4);
#define AT(four, s) p[step_of(four, bytes, s)]
    return _mm256_setr_ps(AT(a, 0), AT(a, 1), AT(a, 2), AT(a, 3), AT(b, 0), AT(b, 1), AT(b, 2), AT(b, 3));
#undef AT
}
FC_INLINE vec_f64 v_pick_f64(const double *p, const void *i, const int bytes) {
    return _mm256_setr_pd(p[read_step(i, bytes, 0)], p[read_step(i, bytes, 1)], p[read_step(i, bytes, 2)], p[read_step(i, bytes, 3)]);
}
/* Four rows at a time, so that their indices, four in one load, stay in registers. */
FC_INLINE void pick4_rows(const float *p, const void *i, const int bytes, __m128 *t) {
    uint64_t a = read_steps(i, bytes, 0, 4), b = read_steps(i, bytes, 4, 4);
    uint64_t c = read_steps(i, bytes, 8, 4), d = read_steps(i, bytes, 12, 4);
    __asm__("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d)); /* or the compiler makes vectors of them, and takes these apart */
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++, a >>= 8 * bytes, b >>= 8 * bytes, c >>= 8 * bytes, d >>= 8 * bytes)
        t[s] = _mm_setr_ps(p[step_of(a, bytes, 0)], p[step_of(b, bytes, 0)], p[step_of(c, bytes, 0)],
                           p[step_of(d, bytes, 0)]);
}
FC_INLINE void v_pick4_f32(const float *p, const void *i, const int bytes, vec_f32 *t) {
    __m128 low[4], high[4];
    pick4_rows(p, i, bytes, low);
    pick4_rows(p, (const char *)i + 16 * bytes, bytes, high);
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) t[s] = _mm256_set_m128(high[s], low[s]);
}
FC_INLINE void v_pick4_f64(const double *p, const void *i, const int bytes, vec_f64 *t) {
    for (int s = 0; s < 4; s++)
        t[s] = _mm256_setr_pd(p[read_step(i, bytes, s)], p[read_step(i, bytes, 4 + s)], p[read_step(i, bytes, 8 + s)],
                              p[read_step(i, bytes, 12 + s)]);
}
FC_INLINE void v_each4_f32(const float *p, vec_f32 *t) {
    const __m256 four = _mm256_broadcast_ps((const __m128 *)p);
    t[0] = _mm256_permute_ps(four, 0x00);
    t[1] = _mm256_permute_ps(four, 0x55);
    t[2] = _mm256_permute_ps(four, 0xaa);
    t[3] = _mm256_permute_ps(four, 0xff);
}
FC_INLINE void v_each4_f64(const double *p, vec_f64 *t) {
    const __m256d low = _mm256_broadcast_pd((const __m128d *)p), high = _mm256_broadcast_pd((const __m128d *)(p + 2));
    t[0] = _mm256_permute_pd(low, 0x0);
    t[1] = _mm256_permute_pd(low, 0xf);
    t[2] = _mm256_permute_pd(high, 0x0);
    t[3] = _mm256_permute_pd(high, 0xf);
}
FC_INLINE vec_f32 v_load_f32(const void *p) { return _mm256_loadu_ps(p); }
FC_INLINE vec_f64 v_load_f64(const void *p) { return _mm256_loadu_pd(p); }
FC_INLINE void v_store_f32(void *p, vec_f32 v) { _mm256_storeu_ps(p, v); }
FC_INLINE void v_store_f64(void *p, vec_f64 v) { _mm256_storeu_pd(p, v); }
/* -1 in the first n of 8 lanes. */
FC_INLINE __m256i first_lanes(ptrdiff_t n) {
    static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(lanes + 8 - n));
}
FC_INLINE vec_f32 v_load_n_f32(const void *p, ptrdiff_t n) { return _mm256_maskload_ps((const float *)p, first_lanes(n)); }
FC_INLINE vec_f64 v_load_n_f64(const void *p, ptrdiff_t n) { return _mm256_maskload_pd((const double *)p, first_lanes(2 * n)); }
/* By halves: a store under a mask takes some CPUs as long as 12 others. */
FC_INLINE void store_lanes(char *p, __m256i v, ptrdiff_t n) {
    __m128i part = _mm256_castsi256_si128(v);
    if (n >= 8) {
        _mm256_storeu_si256((__m256i *)p, v);
        return;
    }
    if (n & 4) {
        _mm_storeu_si128((__m128i *)p, part);
        part = _mm256_extracti128_si256(v, 1);
        p += 16;
    }
    if (n & 2) {
        _mm_storel_epi64((__m128i *)p, part);
        part = _mm_unpackhi_epi64(part, part);
        p += 8;
    }
    const int32_t last = _mm_cvtsi128_si32(part);
    if (n & 1) memcpy(p, &last, sizeof last);
}
FC_INLINE void v_store_n_f32(void *p, vec_f32 v, ptrdiff_t n) { store_lanes(p, _mm256_castps_si256(v), n); }
FC_INLINE void v_store_n_f64(void *p, vec_f64 v, ptrdiff_t n) { store_lanes(p, _mm256_castpd_si256(v), 2 * n); }
FC_INLINE vec_f32 v_fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm256_fmadd_ps(a, b, c); }
FC_INLINE vec_f64 v_fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm256_fmadd_pd(a, b, c); }

FC_INLINE float v_sum_f32(vec_f32 v) {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
FC_INLINE double v_sum_f64(vec_f64 v) {
    const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}
/* Halves of two vectors at a time, then quarters of four and so on: half the shuffles of a transpose. */
FC_INLINE void v_sums4_f32(const vec_f32 *v, float *p) {
    __m256d two[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        two[i] = _mm256_castps_pd(_mm256_add_ps(_mm256_permute2f128_ps(v[i], v[i + 2], 0x20), _mm256_permute2f128_ps(v[i], v[i + 2], 0x31)));
    /* Of v[0] and v[1] two lanes each, and behind them those of v[2] and v[3]. */
    const __m256 four = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(two[0], two[1])),
                                      _mm256_castpd_ps(_mm256_unpackhi_pd(two[0], two[1])));
    const __m128 low = _mm256_castps256_ps128(four), high = _mm256_extractf128_ps(four, 1);
    _mm_storeu_ps(p, _mm_add_ps(_mm_shuffle_ps(low, high, 0x88), _mm_shuffle_ps(low, high, 0xdd)));
}
FC_INLINE void v_sums4_f64(const vec_f64 *v, double *p) {
    __m256d two[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        two[i] = _mm256_add_pd(_mm256_permute2f128_pd(v[i], v[i + 2], 0x20), _mm256_permute2f128_pd(v[i], v[i + 2], 0x31));
    _mm256_storeu_pd(p, _mm256_add_pd(_mm256_unpacklo_pd(two[0], two[1]), _mm256_unpackhi_pd(two[0], two[1])));
}
FC_INLINE vec_f32 v_positive_f32(vec_f32 test, vec_f32 v) {
    return _mm256_and_ps(_mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_NLE_UQ), v);
}
FC_INLINE vec_f64 v_positive_f64(vec_f64 test, vec_f64 v) {
    return _mm256_and_pd(_mm256_cmp_pd(test, _mm256_setzero_pd(), _CMP_NLE_UQ), v);
}

FC_INLINE vec_f32 v_min_f32(vec_f32 a, vec_f32 b) { return _mm256_min_ps(a, b); }
FC_INLINE vec_f64 v_min_f64(vec_f64 a, vec_f64 b) { return _mm256_min_pd(a, b); }
FC_INLINE vec_f32 v_max_f32(vec_f32 a, vec_f32 b) { return _mm256_max_ps(a, b); }
FC_INLINE vec_f64 v_max_f64(vec_f64 a, vec_f64 b) { return _mm256_max_pd(a, b); }
FC_INLINE vec_f32 v_where_lt_f32(vec_f32 a, vec_f32 b, vec_f32 x, vec_f32 y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
FC_INLINE vec_f64 v_where_lt_f64(vec_f64 a, vec_f64 b, vec_f64 x, vec_f64 y) {
    return _mm256_blendv_pd(y, x, _mm256_cmp_pd(a, b, _CMP_LT_OQ));
}
FC_INLINE vec_f32 v_abs_f32(vec_f32 v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
FC_INLINE vec_f64 v_abs_f64(vec_f64 v) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), v); }
FC_INLINE vec_f32 v_copysign_f32(vec_f32 v, vec_f32 s) { return _mm256_or_ps(v, _mm256_and_ps(_mm256_set1_ps(-0.0f), s)); }
FC_INLINE vec_f64 v_copysign_f64(vec_f64 v, vec_f64 s) { return _mm256_or_pd(v, _mm256_and_pd(_mm256_set1_pd(-0.0), s)); }
FC_INLINE vec_f32 v_pow2_f32(vec_f32 b) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(b), 23)); }
FC_INLINE vec_f64 v_pow2_f64(vec_f64 b) { return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(b), 52)); }
FC_INLINE vec_f32 v_exponent_f32(vec_f32 v) {
    const __m256i e = _mm256_srli_epi32(_mm256_castps_si256(v), 23);
    return _mm256_castsi256_ps(_mm256_or_si256(e, _mm256_set1_epi32(0x4b000000))) - _mm256_set1_ps(0x1p23f + 127);
}
FC_INLINE vec_f64 v_exponent_f64(vec_f64 v) {
    const __m256i e = _mm256_srli_epi64(_mm256_castpd_si256(v), 52);
    return _mm256_castsi256_pd(_mm256_or_si256(e, _mm256_set1_epi64x(0x4330000000000000))) - _mm256_set1_pd(0x1p52 + 1023);
}
FC_INLINE vec_f32 v_residue_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm256_fnmadd_ps(a, b, c); }
FC_INLINE vec_f64 v_residue_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm256_fnmadd_pd(a, b, c); }
FC_INLINE words w_mul32(words a, words b) { return (words)_mm256_mul_epu32((__m256i)a, (__m256i)b); }

FC_INLINE vec_f32 v_sqrt_f32(vec_f32 v) { return _mm256_sqrt_ps(v); }
FC_INLINE vec_f64 v_sqrt_f64(vec_f64 v) { return _mm256_sqrt_pd(v); }
FC_INLINE vec_f64 v_widen_f32(const void *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
FC_INLINE vec_f64 v_widen_f64(const void *p) { return v_load_f64(p); }

FC_INLINE __m256 both_f32(const void *low, const void *high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}
FC_INLINE __m256d both_f64(const void *low, const void *high) {
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(low)), _mm_loadu_pd(high), 1);
}

/* A quad of float32 stands in both halves, where permutes reach it; of float64 it is one vector. */
typedef __m256 quad_f32;
typedef __m256d quad_f64;
typedef uint32_t codes_f32 __attribute__((vector_size(32)));
typedef uint64_t codes_f64 __attribute__((vector_size(32)));
FC_INLINE quad_f32 v_quad_f32(const void *p) { return _mm256_broadcast_ps(p); }
FC_INLINE quad_f64 v_quad_f64(const void *p) { return v_load_f64(p); }
FC_INLINE codes_f32 v_codes_f32(const uint32_t *p) { return (codes_f32)_mm256_loadu_si256((const __m256i *)p); }
FC_INLINE codes_f64 v_codes_f64(const uint32_t *p) { return (codes_f64)_mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i *)p)); }
FC_INLINE vec_f32 v_of4_f32(quad_f32 q, codes_f32 c) { return _mm256_permutevar_ps(q, (__m256i)c); }
/* Permutes by lane go within halves, by bit 1: one of each half, and then by the code's high bit between them. */
FC_INLINE vec_f64 v_of4_f64(quad_f64 q, codes_f64 c) {
    const __m256i low = (__m256i)(c << 1);
    return _mm256_blendv_pd(_mm256_permutevar_pd(_mm256_permute2f128_pd(q, q, 0x00), low),
                            _mm256_permutevar_pd(_mm256_permute2f128_pd(q, q, 0x11), low), _mm256_castsi256_pd((__m256i)(c << 62)));
}

enum { TRANSPOSE_f32 = 4, TRANSPOSE_f64 = 2 };
FC_INLINE void transposed_f32(__m256 r0, __m256 r1, __m256 r2, __m256 r3, vec_f32 *t) {
    __m256d s0 = _mm256_castps_pd(_mm256_unpacklo_ps(r0, r1)), s1 = _mm256_castps_pd(_mm256_unpacklo_ps(r2, r3));
    __m256d s2 = _mm256_castps_pd(_mm256_unpackhi_ps(r0, r1)), s3 = _mm256_castps_pd(_mm256_unpackhi_ps(r2, r3));
    t[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(s0, s1));
    t[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(s0, s1));
    t[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(s2, s3));
    t[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(s2, s3));
}
FC_INLINE void v_transpose_f32(const char *src, ptrdiff_t row, vec_f32 *t) {
    const char *src1 = src + row, *src2 = src + 2 * row, *src3 = src + 3 * row;
    transposed_f32(both_f32(src, src + 4 * row), both_f32(src1, src1 + 4 * row), both_f32(src2, src2 + 4 * row),
                   both_f32(src3, src3 + 4 * row), t);
}
FC_INLINE void v_transpose_at_f32(const char *const *p, vec_f32 *t) {
    transposed_f32(both_f32(p[0], p[4]), both_f32(p[1], p[5]), both_f32(p[2], p[6]), both_f32(p[3], p[7]), t);
}
FC_INLINE void transposed_f64(__m256d r0, __m256d r1, vec_f64 *t) {
    t[0] = _mm256_unpacklo_pd(r0, r1);
    t[1] = _mm256_unpackhi_pd(r0, r1);
}
FC_INLINE void v_transpose_f64(const char *src, ptrdiff_t row, vec_f64 *t) {
    transposed_f64(both_f64(src, src + 2 * row), both_f64(src + row, src + 3 * row), t);
}
FC_INLINE void v_transpose_at_f64(const char *const *p, vec_f64 *t) {
    transposed_f64(both_f64(p[0], p[2]), both_f64(p[1], p[3]), t);
}
FC_INLINE void v_rows4_f32(const float *p, vec_f32 *t) { v_transpose_f32((const char *)p, 16, t); }
FC_INLINE void v_rows4_f64(const double *p, vec_f64 *t) {
    v_transpose_f64((const char *)p, 32, t);
    v_transpose_f64((const char *)(p + 2), 32, t + 2);
}
