/* The vector vocabulary on AVX-512 (F, BW, DQ, VL): 32 registers of 512 bits.
 *
 * Every vec_<isa>.h defines the same names, once per dtype, with the suffix _f32 or _f64; kernels/vocabulary.h lists
 * them and says what each means. The arithmetic operators + - * / are the compiler's own on vector types. */
#include <immintrin.h>
#include <stddef.h>

#define FC_INLINE static inline __attribute__((always_inline))

typedef __m512 vec_f32;
typedef __m512d vec_f64;
enum { VL_f32 = 16, VL_f64 = 8 };

/* 32 registers: 6 rows by 4 vectors leave 8 for W and x. */
enum { ROWS_1 = 12, ROWS_2 = 12, ROWS_3 = 8, ROWS_4 = 6 };

FC_INLINE vec_f32 v_zero_f32(void) { return _mm512_setzero_ps(); }
FC_INLINE vec_f64 v_zero_f64(void) { return _mm512_setzero_pd(); }
FC_INLINE vec_f32 v_set1_f32(float x) { return _mm512_set1_ps(x); }
FC_INLINE vec_f64 v_set1_f64(double x) { return _mm512_set1_pd(x); }
FC_INLINE vec_f32 v_load_f32(const void *p) { return _mm512_loadu_ps(p); }
FC_INLINE vec_f64 v_load_f64(const void *p) { return _mm512_loadu_pd(p); }
FC_INLINE void v_store_f32(void *p, vec_f32 v) { _mm512_storeu_ps(p, v); }
FC_INLINE void v_store_f64(void *p, vec_f64 v) { _mm512_storeu_pd(p, v); }
FC_INLINE vec_f32 v_load_n_f32(const void *p, ptrdiff_t n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
FC_INLINE vec_f64 v_load_n_f64(const void *p, ptrdiff_t n) { return _mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p); }
FC_INLINE void v_store_n_f32(void *p, vec_f32 v, ptrdiff_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v); }
FC_INLINE void v_store_n_f64(void *p, vec_f64 v, ptrdiff_t n) { _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), v); }
FC_INLINE vec_f32 v_fma_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm512_fmadd_ps(a, b, c); }
FC_INLINE vec_f64 v_fma_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm512_fmadd_pd(a, b, c); }

FC_INLINE vec_f32 v_positive_f32(vec_f32 test, vec_f32 v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_NLE_UQ), v);
}
FC_INLINE vec_f64 v_positive_f64(vec_f64 test, vec_f64 v) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(test, _mm512_setzero_pd(), _CMP_NLE_UQ), v);
}

/* Lane q of 128 bits takes its rows from 4q to 4q+3: broadcasts under a mask are loads, not shuffles, so a block of
 * 16 by 4 costs 8 shuffles. */
FC_INLINE __m512 rows_f32(const char *p, ptrdiff_t row) {
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps((const float *)p));
    v = _mm512_mask_broadcast_f32x4(v, 0x00f0, _mm_loadu_ps((const float *)(p + 4 * row)));
    v = _mm512_mask_broadcast_f32x4(v, 0x0f00, _mm_loadu_ps((const float *)(p + 8 * row)));
    return _mm512_mask_broadcast_f32x4(v, 0xf000, _mm_loadu_ps((const float *)(p + 12 * row)));
}
FC_INLINE __m512d rows_f64(const char *p, ptrdiff_t row) {
    __m512d v = _mm512_castpd128_pd512(_mm_loadu_pd((const double *)p));
    v = _mm512_mask_broadcast_f64x2(v, 0x0c, _mm_loadu_pd((const double *)(p + 2 * row)));
    v = _mm512_mask_broadcast_f64x2(v, 0x30, _mm_loadu_pd((const double *)(p + 4 * row)));
    return _mm512_mask_broadcast_f64x2(v, 0xc0, _mm_loadu_pd((const double *)(p + 6 * row)));
}

enum { TRANSPOSE_f32 = 4, TRANSPOSE_f64 = 2 };
FC_INLINE void v_transpose_f32(const char *src, ptrdiff_t row, float *dst, ptrdiff_t step) {
    __m512 r0 = rows_f32(src, row), r1 = rows_f32(src + row, row);
    __m512 r2 = rows_f32(src + 2 * row, row), r3 = rows_f32(src + 3 * row, row);
    __m512d t0 = _mm512_castps_pd(_mm512_unpacklo_ps(r0, r1)), t1 = _mm512_castps_pd(_mm512_unpacklo_ps(r2, r3));
    __m512d t2 = _mm512_castps_pd(_mm512_unpackhi_ps(r0, r1)), t3 = _mm512_castps_pd(_mm512_unpackhi_ps(r2, r3));
    _mm512_storeu_pd(dst, _mm512_unpacklo_pd(t0, t1));
    _mm512_storeu_pd(dst + step, _mm512_unpackhi_pd(t0, t1));
    _mm512_storeu_pd(dst + 2 * step, _mm512_unpacklo_pd(t2, t3));
    _mm512_storeu_pd(dst + 3 * step, _mm512_unpackhi_pd(t2, t3));
}
FC_INLINE void v_transpose_f64(const char *src, ptrdiff_t row, double *dst, ptrdiff_t step) {
    __m512d r0 = rows_f64(src, row), r1 = rows_f64(src + row, row);
    _mm512_storeu_pd(dst, _mm512_unpacklo_pd(r0, r1));
    _mm512_storeu_pd(dst + step, _mm512_unpackhi_pd(r0, r1));
}
