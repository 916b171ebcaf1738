/* The vector vocabulary on AVX-512 (F, BW, DQ, VL): 32 registers of 512 bits.
 *
 * Every vec_<isa>.h defines the same names, once per dtype, with the suffix _f32 or _f64; kernels/vocabulary.h lists
 * them and says what each means. The arithmetic operators + - * / are the compiler's own on vector types. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "../indices.h"

#define FC_INLINE static inline __attribute__((always_inline))

typedef __m512 vec_f32;
typedef __m512d vec_f64;
enum { VL_f32 = 16, VL_f64 = 8 };
typedef uint64_t words __attribute__((vector_size(64)));
enum { VL_words = 8 };

/* 32 registers: 6 rows by 4 vectors leave 8 for W and x. */
enum { ROWS_1 = 12, ROWS_2 = 12, ROWS_3 = 8, ROWS_4 = 6 };
#define FEW_ROWS_f32 12 /* 16 registers hold a block that is transposed, of float64 8 */
enum { PANEL_VECS = 4 };

FC_INLINE vec_f32 v_zero_f32(void) { return _mm512_setzero_ps(); }
FC_INLINE vec_f64 v_zero_f64(void) { return _mm512_setzero_pd(); }
FC_INLINE vec_f32 v_set1_f32(float x) { return _mm512_set1_ps(x); }
FC_INLINE vec_f64 v_set1_f64(double x) { return _mm512_set1_pd(x); }
/* 8 rows of a group of a sparse weight: half a vector of float32. */
enum { PICK_f32 = 8, PICK_f64 = 8 };
FC_INLINE vec_f32 low_f32(__m256 low) { return _mm512_castps256_ps512(low); }
#define AT(e) p[read_step(i, bytes, e)]
FC_INLINE vec_f32 v_pick_f32(const float *p, const void *i, const int bytes) {
    return low_f32(_mm256_setr_ps(AT(0), AT(1), AT(2), AT(3), AT(4), AT(5), AT(6), AT(7)));
}
FC_INLINE vec_f64 v_pick_f64(const double *p, const void *i, const int bytes) {
    return _mm512_setr_pd(AT(0), AT(1), AT(2), AT(3), AT(4), AT(5), AT(6), AT(7));
}
#undef AT
#define FC_HAS_GATHERS 1
#define FC_FETCH_ROWS 0
/* The four places of a row are one word of 64 bits, and so an index of a gather, four times. */
FC_INLINE __m512i place4(const void *i, const int bytes, int s) {
    const __m512i all = bytes == 1 ? _mm512_cvtepu32_epi64(_mm256_loadu_si256(i)) : _mm512_loadu_si512(i);
    const __m512i row = _mm512_srli_epi64(all, (unsigned)(8 * bytes * s));
    return s < 3 ? _mm512_and_si512(row, _mm512_set1_epi64(bytes == 1 ? 0xff : 0xffff)) : row;
}
FC_INLINE void v_pick4_f32(const float *p, const void *i, const int bytes, vec_f32 *t) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) t[s] = low_f32(_mm512_i64gather_ps(place4(i, bytes, s), p, 4));
}
FC_INLINE void v_pick4_f64(const double *p, const void *i, const int bytes, vec_f64 *t) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) t[s] = _mm512_i64gather_pd(place4(i, bytes, s), p, 8);
}
/* 8 rows of 4 elements, row after row, become 4 half vectors of 8. */
FC_INLINE void turn4_f32(__m512 low, __m512 high, vec_f32 *t) {
    const __m512i even = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
#pragma GCC unroll 2
    for (int s = 0; s < 4; s += 2) {
        t[s] = _mm512_permutex2var_ps(low, _mm512_add_epi32(even, _mm512_set1_epi32(s)), high);
        t[s + 1] = low_f32(_mm512_extractf32x8_ps(t[s], 1));
    }
}
FC_INLINE void v_rows4_f32(const float *p, vec_f32 *t) { turn4_f32(_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16), t); }
/* Rows of 4 by 4 elements in each lane of 128 bits: t[i] has element i of each. */
FC_INLINE void turn_in_lanes_f32(__m512 r0, __m512 r1, __m512 r2, __m512 r3, __m512 *t) {
    const __m512d s0 = _mm512_castps_pd(_mm512_unpacklo_ps(r0, r1)), s1 = _mm512_castps_pd(_mm512_unpacklo_ps(r2, r3));
    const __m512d s2 = _mm512_castps_pd(_mm512_unpackhi_ps(r0, r1)), s3 = _mm512_castps_pd(_mm512_unpackhi_ps(r2, r3));
    t[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(s0, s1));
    t[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(s0, s1));
    t[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(s2, s3));
    t[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(s2, s3));
}
/* Vectors of 4 lanes of 128 bits: t[i] has lane i of each. */
FC_INLINE void turn_lanes_f64(__m512d a, __m512d b, __m512d c, __m512d d, __m512d *t) {
    const __m512d low0 = _mm512_shuffle_f64x2(a, b, 0x44), low2 = _mm512_shuffle_f64x2(c, d, 0x44);
    const __m512d high0 = _mm512_shuffle_f64x2(a, b, 0xee), high2 = _mm512_shuffle_f64x2(c, d, 0xee);
    t[0] = _mm512_shuffle_f64x2(low0, low2, 0x88);
    t[1] = _mm512_shuffle_f64x2(low0, low2, 0xdd);
    t[2] = _mm512_shuffle_f64x2(high0, high2, 0x88);
    t[3] = _mm512_shuffle_f64x2(high0, high2, 0xdd);
}
/* Tables: an element's halves stand in two planes of 32 to a vector, or its bytes in four of 64, where the CPU has permutes of
 * bytes (VBMI, which is not part of this target). The vectors of a plane stand side by side. */
#define FC_HAS_TABLES_f32 1
FC_INLINE __m512i plane_of_halves(const float *p, int upper) {
    const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24, 22, 20,
                                          18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(p), _mm512_add_epi16(even, _mm512_set1_epi16((short)upper)),
                                     _mm512_loadu_si512(p + 16));
}
/* Elements 4 * j + i of four each: i and j change places. */
FC_INLINE __m512i across_i32(__m512i v) {
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v);
}
/* Bytes likewise, in each 16. */
FC_INLINE __m512i across_i8(__m512i v) {
    return _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}
/* The four planes of 64 elements. */
FC_INLINE void planes_of_bytes(const float *p, __m512d *plane) {
    __m512d v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) /* lane j: bytes j */
        v[i] = _mm512_castsi512_pd(across_i32(across_i8(_mm512_loadu_si512(p + 16 * i))));
    turn_lanes_f64(v[0], v[1], v[2], v[3], plane);
}
FC_INLINE void v_table_f32(const float *p, const int blocks, const int bytes, vec_f32 *table) {
    const int of_a_plane = bytes ? (blocks + 1) / 2 * 2 : 2 * blocks;
#pragma GCC unroll 8
    for (int i = 0; i < of_a_plane; i++) {
        if (bytes) {
            __m512d plane[4];
            planes_of_bytes(p + 64 * (i < blocks ? i : blocks - 1), plane);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) table[j * of_a_plane + i] = _mm512_castpd_ps(plane[j]);
        } else {
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++) table[j * of_a_plane + i] = _mm512_castsi512_ps(plane_of_halves(p + 32 * i, j));
        }
    }
}
FC_INLINE __m512i look_bytes(const vec_f32 *pair, __m512i at) {
    __asm__("vpermi2b %2, %1, %0" : "+v"(at) : "v"(pair[0]), "v"(pair[1]));
    return at;
}
/* One plane's 64 bytes, or 32 halves; the places' upper bits choose the pair of vectors. */
FC_INLINE __m512i plane_bytes(const vec_f32 *plane, const int blocks, __m512i at, __mmask64 upper) {
    const __m512i first = look_bytes(plane, at);
    return blocks <= 2 ? first : _mm512_mask_mov_epi8(first, upper, look_bytes(plane + 2, at));
}
FC_INLINE __m512i plane_halves(const vec_f32 *plane, const int blocks, __m512i at, __mmask32 odd, __mmask32 upper) {
    __m512i part[4];
#pragma GCC unroll 4
    for (int p = 0; p < blocks; p++)
        part[p] = _mm512_permutex2var_epi16(_mm512_castps_si512(plane[2 * p]), at, _mm512_castps_si512(plane[2 * p + 1]));
    const __m512i first = _mm512_mask_mov_epi16(part[0], odd, part[1]);
    if (blocks == 2) return first;
    return _mm512_mask_mov_epi16(first, upper, blocks == 3 ? part[2] : _mm512_mask_mov_epi16(part[2], odd, part[3]));
}
FC_INLINE void v_look4_f32(const vec_f32 *table, const int blocks, const int bytes, __m512i at, vec_f32 *t) {
    if (bytes) {
        const int of_a_plane = (blocks + 1) / 2 * 2;
        const __mmask64 upper = blocks > 2 ? _mm512_movepi8_mask(at) : 0;
        __m512i b[4];
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) b[p] = plane_bytes(table + p * of_a_plane, blocks, at, upper);
        const __m512i low0 = _mm512_unpacklo_epi8(b[0], b[1]), high0 = _mm512_unpacklo_epi8(b[2], b[3]);
        const __m512i low2 = _mm512_unpackhi_epi8(b[0], b[1]), high2 = _mm512_unpackhi_epi8(b[2], b[3]);
        t[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low0, high0));
        t[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low0, high0));
        t[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low2, high2));
        t[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low2, high2));
        return;
    }
    const __m512i none = _mm512_setzero_si512();
#pragma GCC unroll 2
    for (int s = 0; s < 4; s += 2) {
        const __m512i half = s ? _mm512_unpackhi_epi8(at, none) : _mm512_unpacklo_epi8(at, none);
        const __mmask32 odd = _mm512_test_epi16_mask(half, _mm512_set1_epi16(64));
        const __mmask32 upper = blocks > 2 ? _mm512_test_epi16_mask(half, _mm512_set1_epi16(128)) : 0;
        const __m512i low = plane_halves(table, blocks, half, odd, upper);
        const __m512i high = plane_halves(table + 2 * blocks, blocks, half, odd, upper);
        t[s] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low, high));
        t[s + 1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low, high));
    }
}
/* 16 rows, 8 behind a and 8 behind b, in the order of unpacking: lane 4 * i + j is row 4 * j + i. */
FC_INLINE __m512i v_places4_f32(const void *a, const void *b) {
    return across_i8(across_i32(_mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(a)), _mm256_loadu_si256(b), 1)));
}
FC_INLINE __m512i v_places1_f32(const void *a, uint32_t n, const void *b, uint32_t m) {
    const __m256i of_a = _mm256_maskz_loadu_epi8((1u << 8 * n) - 1, a), of_b = _mm256_maskz_loadu_epi8((1u << 8 * m) - 1, b);
    const __m512i rows = _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15); /* of each step */
    return across_i32(across_i8(_mm512_permutexvar_epi32(rows, _mm512_inserti64x4(_mm512_castsi256_si512(of_a), of_b, 1))));
}
FC_INLINE void v_both4_f32(const float *a, const float *b, vec_f32 *t) {
    turn_in_lanes_f32(_mm512_loadu_ps(a), _mm512_loadu_ps(a + 16), _mm512_loadu_ps(b), _mm512_loadu_ps(b + 16), t);
}
FC_INLINE vec_f32 across_f32(vec_f32 v) { return _mm512_castsi512_ps(across_i32(_mm512_castps_si512(v))); }
/* Only what is there is read. */
FC_INLINE vec_f32 v_both1_f32(const float *a, int of_a, const float *b, int of_b) {
    const __m256 low = _mm256_maskz_loadu_ps((__mmask8)-of_a, a), high = _mm256_maskz_loadu_ps((__mmask8)-of_b, b);
    return across_f32(_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1));
}
FC_INLINE vec_f32 v_fma_both_f32(vec_f32 x, vec_f32 y, vec_f32 z, int of_a, int of_b) {
    return _mm512_mask3_fmadd_ps(x, y, z, (__mmask16)((-of_a & 0x3333) | (-of_b & 0xcccc)));
}
FC_INLINE vec_f32 v_in_order_f32(vec_f32 v) { return across_f32(v); }
FC_INLINE void v_rows4_f64(const double *p, vec_f64 *t) {
    const __m512d r0 = _mm512_loadu_pd(p), r1 = _mm512_loadu_pd(p + 8), r2 = _mm512_loadu_pd(p + 16), r3 = _mm512_loadu_pd(p + 24);
    const __m512i from = _mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13);
#pragma GCC unroll 2
    for (int s = 0; s < 4; s += 2) {
        const __m512i of = _mm512_add_epi64(from, _mm512_set1_epi64(s));
        const __m512d low = _mm512_permutex2var_pd(r0, of, r1), high = _mm512_permutex2var_pd(r2, of, r3);
        t[s] = _mm512_shuffle_f64x2(low, high, 0x44);
        t[s + 1] = _mm512_shuffle_f64x2(low, high, 0xee);
    }
}
FC_INLINE void v_each4_f32(const float *p, vec_f32 *t) {
    const __m512 four = _mm512_broadcast_f32x4(_mm_loadu_ps(p));
    t[0] = _mm512_permute_ps(four, 0x00);
    t[1] = _mm512_permute_ps(four, 0x55);
    t[2] = _mm512_permute_ps(four, 0xaa);
    t[3] = _mm512_permute_ps(four, 0xff);
}
FC_INLINE void v_each4_f64(const double *p, vec_f64 *t) {
    const __m512d low = _mm512_broadcast_f64x2(_mm_loadu_pd(p)), high = _mm512_broadcast_f64x2(_mm_loadu_pd(p + 2));
    t[0] = _mm512_permute_pd(low, 0x00);
    t[1] = _mm512_permute_pd(low, 0xff);
    t[2] = _mm512_permute_pd(high, 0x00);
    t[3] = _mm512_permute_pd(high, 0xff);
}
#define FC_HAS_EACH16_f32 1
FC_INLINE void v_each16_f32(const float *p, const int j, vec_f32 *t) {
    const __m512 all = _mm512_loadu_ps(p);
    const __m512 four = j == 0   ? _mm512_shuffle_f32x4(all, all, 0x00)
                        : j == 1 ? _mm512_shuffle_f32x4(all, all, 0x55)
                        : j == 2 ? _mm512_shuffle_f32x4(all, all, 0xaa)
                                 : _mm512_shuffle_f32x4(all, all, 0xff);
    t[0] = _mm512_permute_ps(four, 0x00);
    t[1] = _mm512_permute_ps(four, 0x55);
    t[2] = _mm512_permute_ps(four, 0xaa);
    t[3] = _mm512_permute_ps(four, 0xff);
}
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

FC_INLINE float v_sum_f32(vec_f32 v) {
    const __m256 low = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
    const __m128 two = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
FC_INLINE double v_sum_f64(vec_f64 v) {
    const __m256d low = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
    const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(low), _mm256_extractf128_pd(low, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}
/* Halves of two vectors at a time, then quarters of four and so on: half the shuffles of a transpose. */
FC_INLINE void v_sums4_f32(const vec_f32 *v, float *p) {
    __m512 two[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        two[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x44), _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xee));
    __m512 sum = _mm512_add_ps(_mm512_shuffle_f32x4(two[0], two[1], 0x88), _mm512_shuffle_f32x4(two[0], two[1], 0xdd));
    sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0x4e));
    sum = _mm512_add_ps(sum, _mm512_permute_ps(sum, 0xb1));
    const __m512i first = _mm512_castsi128_si512(_mm_set_epi32(12, 8, 4, 0));
    _mm_storeu_ps(p, _mm512_castps512_ps128(_mm512_permutexvar_ps(first, sum)));
}
FC_INLINE void v_sums4_f64(const vec_f64 *v, double *p) {
    __m256d half[4], two[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) half[i] = _mm256_add_pd(_mm512_castpd512_pd256(v[i]), _mm512_extractf64x4_pd(v[i], 1));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        two[i] = _mm256_add_pd(_mm256_permute2f128_pd(half[i], half[i + 2], 0x20), _mm256_permute2f128_pd(half[i], half[i + 2], 0x31));
    _mm256_storeu_pd(p, _mm256_add_pd(_mm256_unpacklo_pd(two[0], two[1]), _mm256_unpackhi_pd(two[0], two[1])));
}
FC_INLINE vec_f32 v_positive_f32(vec_f32 test, vec_f32 v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_NLE_UQ), v);
}
FC_INLINE vec_f64 v_positive_f64(vec_f64 test, vec_f64 v) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(test, _mm512_setzero_pd(), _CMP_NLE_UQ), v);
}

FC_INLINE vec_f32 v_min_f32(vec_f32 a, vec_f32 b) { return _mm512_min_ps(a, b); }
FC_INLINE vec_f64 v_min_f64(vec_f64 a, vec_f64 b) { return _mm512_min_pd(a, b); }
FC_INLINE vec_f32 v_max_f32(vec_f32 a, vec_f32 b) { return _mm512_max_ps(a, b); }
FC_INLINE vec_f64 v_max_f64(vec_f64 a, vec_f64 b) { return _mm512_max_pd(a, b); }
FC_INLINE vec_f32 v_where_lt_f32(vec_f32 a, vec_f32 b, vec_f32 x, vec_f32 y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
FC_INLINE vec_f64 v_where_lt_f64(vec_f64 a, vec_f64 b, vec_f64 x, vec_f64 y) {
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), y, x);
}
FC_INLINE vec_f32 v_abs_f32(vec_f32 v) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), v); }
FC_INLINE vec_f64 v_abs_f64(vec_f64 v) { return _mm512_andnot_pd(_mm512_set1_pd(-0.0), v); }
FC_INLINE vec_f32 v_copysign_f32(vec_f32 v, vec_f32 s) { return _mm512_or_ps(v, _mm512_and_ps(_mm512_set1_ps(-0.0f), s)); }
FC_INLINE vec_f64 v_copysign_f64(vec_f64 v, vec_f64 s) { return _mm512_or_pd(v, _mm512_and_pd(_mm512_set1_pd(-0.0), s)); }
FC_INLINE vec_f32 v_pow2_f32(vec_f32 b) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(b), 23)); }
FC_INLINE vec_f64 v_pow2_f64(vec_f64 b) { return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(b), 52)); }
/* Not getexp: it has another answer for Inf and 0 than the other targets. */
FC_INLINE vec_f32 v_exponent_f32(vec_f32 v) {
    const __m512i e = _mm512_srli_epi32(_mm512_castps_si512(v), 23);
    return _mm512_castsi512_ps(_mm512_or_si512(e, _mm512_set1_epi32(0x4b000000))) - _mm512_set1_ps(0x1p23f + 127);
}
FC_INLINE vec_f64 v_exponent_f64(vec_f64 v) {
    const __m512i e = _mm512_srli_epi64(_mm512_castpd_si512(v), 52);
    return _mm512_castsi512_pd(_mm512_or_si512(e, _mm512_set1_epi64(0x4330000000000000))) - _mm512_set1_pd(0x1p52 + 1023);
}
FC_INLINE vec_f32 v_residue_f32(vec_f32 a, vec_f32 b, vec_f32 c) { return _mm512_fnmadd_ps(a, b, c); }
FC_INLINE vec_f64 v_residue_f64(vec_f64 a, vec_f64 b, vec_f64 c) { return _mm512_fnmadd_pd(a, b, c); }
FC_INLINE words w_mul32(words a, words b) { return (words)_mm512_mul_epu32((__m512i)a, (__m512i)b); }

FC_INLINE vec_f32 v_sqrt_f32(vec_f32 v) { return _mm512_sqrt_ps(v); }
FC_INLINE vec_f64 v_sqrt_f64(vec_f64 v) { return _mm512_sqrt_pd(v); }
FC_INLINE vec_f64 v_widen_f32(const void *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
FC_INLINE vec_f64 v_widen_f64(const void *p) { return v_load_f64(p); }

/* Every 4 lanes hold the quad, so whatever the codes' higher bits say, they name the same element. */
typedef __m512 quad_f32;
typedef __m512d quad_f64;
typedef uint32_t codes_f32 __attribute__((vector_size(64)));
typedef uint64_t codes_f64 __attribute__((vector_size(64)));
FC_INLINE quad_f32 v_quad_f32(const void *p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
FC_INLINE quad_f64 v_quad_f64(const void *p) { return _mm512_broadcast_f64x4(_mm256_loadu_pd(p)); }
FC_INLINE codes_f32 v_codes_f32(const uint32_t *p) { return (codes_f32)_mm512_loadu_si512(p); }
FC_INLINE codes_f64 v_codes_f64(const uint32_t *p) { return (codes_f64)_mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i *)p)); }
FC_INLINE vec_f32 v_of4_f32(quad_f32 q, codes_f32 c) { return _mm512_permutevar_ps(q, (__m512i)c); }
FC_INLINE vec_f64 v_of4_f64(quad_f64 q, codes_f64 c) { return _mm512_permutexvar_pd((__m512i)c, q); }

#define FC_HAS_TURN 1
enum { TURN_f32 = 8, TURN_f64 = 4 };
/* Half a vector of each of two rows. */
FC_INLINE __m512d both_f64(const char *low, const char *high) {
    return _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd((const double *)low)), _mm256_loadu_pd((const double *)high), 1);
}
FC_INLINE void v_turn_f32(const char *src, ptrdiff_t row, vec_f32 *t) {
    __m512 u[2][4]; /* u[g][c], lanes: rows 8g to 8g+3 of columns c and 4+c, then rows 8g+4 to 8g+7 */
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++) {
        __m512 r[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) r[i] = _mm512_castpd_ps(both_f64(src + (8 * g + i) * row, src + (8 * g + 4 + i) * row));
        turn_in_lanes_f32(r[0], r[1], r[2], r[3], u[g]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        t[c] = _mm512_shuffle_f32x4(u[0][c], u[1][c], 0x88);
        t[4 + c] = _mm512_shuffle_f32x4(u[0][c], u[1][c], 0xdd);
    }
}
FC_INLINE void v_turn_f64(const char *src, ptrdiff_t row, vec_f64 *t) {
    __m512d r[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) r[i] = both_f64(src + (i + i / 2 * 2) * row, src + (i + i / 2 * 2 + 2) * row);
    const __m512d s0 = _mm512_unpacklo_pd(r[0], r[1]), s1 = _mm512_unpackhi_pd(r[0], r[1]);
    const __m512d s2 = _mm512_unpacklo_pd(r[2], r[3]), s3 = _mm512_unpackhi_pd(r[2], r[3]);
    t[0] = _mm512_shuffle_f64x2(s0, s2, 0x88);
    t[1] = _mm512_shuffle_f64x2(s1, s3, 0x88);
    t[2] = _mm512_shuffle_f64x2(s0, s2, 0xdd);
    t[3] = _mm512_shuffle_f64x2(s1, s3, 0xdd);
}
/* Blocks of 16 by 16 and 8 by 8: every row gives one whole line, so rows whose addresses fall into one L1 set (a
 * stride of 4096 bytes) are read once all the same. First 4 by 4 (2 by 2) inside the lanes of 128 bits, then the lanes. */
enum { TRANSPOSE_f32 = 16, TRANSPOSE_f64 = 8 };
FC_INLINE void transposed_f32(const __m512 *r, vec_f32 *t) {
    __m512 u[4][4]; /* u[g][c], lane q: rows 4g to 4g+3 of column 4q+c */
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) turn_in_lanes_f32(r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3], u[g]);
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        __m512d v[4];
        turn_lanes_f64(_mm512_castps_pd(u[0][c]), _mm512_castps_pd(u[1][c]), _mm512_castps_pd(u[2][c]), _mm512_castps_pd(u[3][c]),
                       v);
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) t[4 * q + c] = _mm512_castpd_ps(v[q]);
    }
}
FC_INLINE void v_transpose_f32(const char *src, ptrdiff_t row, vec_f32 *t) {
    __m512 r[16];
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        const char *p = src + 4 * g * row;
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) r[4 * g + i] = _mm512_loadu_ps(p + i * row);
    }
    transposed_f32(r, t);
}
FC_INLINE void v_transpose_at_f32(const char *const *p, vec_f32 *t) {
    __m512 r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(p[i]);
    transposed_f32(r, t);
}
FC_INLINE void transposed_f64(const __m512d *r, vec_f64 *t) {
    __m512d u[4][2]; /* u[g][c], lane q: rows 2g and 2g+1 of column 2q+c */
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
        u[g][0] = _mm512_unpacklo_pd(r[2 * g], r[2 * g + 1]);
        u[g][1] = _mm512_unpackhi_pd(r[2 * g], r[2 * g + 1]);
    }
#pragma GCC unroll 2
    for (int c = 0; c < 2; c++) {
        __m512d v[4];
        turn_lanes_f64(u[0][c], u[1][c], u[2][c], u[3][c], v);
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) t[2 * q + c] = v[q];
    }
}
FC_INLINE void v_transpose_f64(const char *src, ptrdiff_t row, vec_f64 *t) {
    __m512d r[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = _mm512_loadu_pd(src + i * row);
    transposed_f64(r, t);
}
FC_INLINE void v_transpose_at_f64(const char *const *p, vec_f64 *t) {
    __m512d r[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = _mm512_loadu_pd(p[i]);
    transposed_f64(r, t);
}
