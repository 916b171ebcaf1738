/* The vector vocabulary that kernel bodies are written in, without a dtype: a body is included once with DT = f32 and
 * once with DT = f64, and each name below becomes the operation of that dtype in the target's vec_<isa>.h.
 *
 *   vec, VL                   a vector, its lanes; + - * / work on vectors
 *   v_zero() v_set1(x)        all lanes +0, all lanes x
 *   v_load(p) v_store(p, v)   VL elements, any alignment
 *   PICK                      the lanes of the next three: VL, but 8 at most
 *   v_pick(p, i, bytes)       p[i[0]], p[i[1]], ..., i being steps (indices.h): loads one by one, which beats most CPUs' gathers
 *   v_pick4(p, i, bytes, t)   lane j of t[s] = p[i[4 * j + s]], s from 0 to 3: likewise, but by gathers if FC_HAS_GATHERS is 1
 *   v_rows4(p, t)             lane j of t[s] = p[4 * j + s]
 *   v_each4(p, t)             all lanes of t[s] = p[s], s from 0 to 3
 *   v_each16(p, j, t)         if FC_HAS_EACH16 is 1: likewise p[4 * j + s], and p[0] to p[15] are there to be loaded at once
 *   v_load_n v_store_n        the first n of them, 0 <= n <= VL; the rest is never touched, and loads as +0
 *   v_fma(a, b, c)            a*b + c, rounded once (twice on baseline, which alone lacks the instruction)
 *   v_sum(v)                  of all lanes, a number: a tree of halves, lanes 0 to VL / 2 - 1 plus the others first
 *   v_sums4(v, p)             p[s] = v_sum(v[s]), s from 0 to 3
 *   v_positive(t, v)          v where t > 0 or t is NaN, else +0
 *   v_min(a, b)               a where a < b, else b: b's NaN passes, a's does not
 *   v_max(a, b)               a where a > b, else b: likewise
 *   v_where_lt(a, b, x, y)    x where a < b, else y
 *   v_abs(v)                  without the sign
 *   v_copysign(v, s)          v, whose sign is +, with the sign of s
 *   v_pow2(b)                 2^n for b = n + POW2_BIAS (activation_constants.h), n within the normal exponents
 *   v_exponent(v)             n of v = 2^n m, 1 <= m < 2, for normal v > 0
 *   v_residue(a, b, c)        c - a*b, rounded once on every target, where c is a*b but for an ulp or so
 *   v_sqrt(v)                 rounded correctly
 *   v_widen(p)                VL_f64 elements of the dtype as a vector of float64
 *   v_transpose(src, row, t)  lane j of t[i] = element i of row j of src: VL rows, `row` bytes apart, TRANSPOSE elements
 *                             of each
 *   v_transpose_at(p, t)      likewise of rows at p[0] to p[VL - 1]
 *   v_turn(src, row, t)       likewise, TURN elements of each: half as many, where vectors have 64 bytes
 *   quad, v_quad(p)           4 elements, from any address
 *   codes, v_codes(p)         lanes of unsigned integers, from VL uint32_t; >> works on them
 *   v_of4(q, c)               of each lane of c the lowest 2 bits, and the element of the quad that they number
 *   SUBS                      the vectors that make 16 virtual lanes
 *   words, VL_words           a vector of uint64_t, without a dtype; + ^ & | << >> work on it
 *   w_mul32(a, b)             the full product of each lane's low halves
 *   ROWS_1 .. ROWS_4          the most rows of a register tile that is 1 to 4 vectors wide
 *   PANEL_VECS                vectors in a panel, 2 or 4: as wide as the tile that many rows run in, because then a panel is
 *                             one contiguous stream. Where it is 2, tiles 4 wide run over two panels side by side
 *   If FC_HAS_TABLES is 1, of groups a and b of 8 rows each, whose 16 lanes stand in an order of their own until v_in_order:
 *   v_table(p, blocks, bytes, x)  p[0] to p[64 * blocks - 1] in vectors, for permutes of bytes or of halves; 2, 3 or 4 blocks
 *   v_look4(x, blocks, bytes, i, t)  lane of a row of t[s] = the element of the table that its step s names, i being
 *   v_places4(a, b)           4 steps, a byte each, row after row, behind a and b
 *   v_places1(a, n, b, m)     n and m steps, one step's rows after the other's; n and m are 3 at most
 *   v_both4(a, b, t)          lane of a row of t[s] = its element s, 4 elements a row
 *   v_both1(a, n, b, m)       its element, one a row; of a only if n, of b only if m
 *   v_fma_both(x, y, z, n, m) v_fma of a's rows only if n, of b's only if m; else z
 *   v_in_order(v)             a's rows, then b's
 */
#define FC_PASTE2(a, b) a##b
#define FC_PASTE(a, b) FC_PASTE2(a, b)
#define FC_TYPED(name) FC_PASTE(name, DT)

#define real FC_TYPED(real_)
#define vec FC_TYPED(vec_)
#define VL FC_TYPED(VL_)
#define TRANSPOSE FC_TYPED(TRANSPOSE_)
#define v_zero FC_TYPED(v_zero_)
#define v_set1 FC_TYPED(v_set1_)
#define PICK FC_TYPED(PICK_)
#define v_pick FC_TYPED(v_pick_)
#define v_pick4 FC_TYPED(v_pick4_)
#define v_rows4 FC_TYPED(v_rows4_)
#define v_each4 FC_TYPED(v_each4_)
#define v_each16 FC_TYPED(v_each16_)
#define v_load FC_TYPED(v_load_)
#define v_store FC_TYPED(v_store_)
#define v_load_n FC_TYPED(v_load_n_)
#define v_store_n FC_TYPED(v_store_n_)
#define v_fma FC_TYPED(v_fma_)
#define v_positive FC_TYPED(v_positive_)
#define v_sum FC_TYPED(v_sum_)
#define v_sums4 FC_TYPED(v_sums4_)
#define v_min FC_TYPED(v_min_)
#define v_max FC_TYPED(v_max_)
#define v_where_lt FC_TYPED(v_where_lt_)
#define v_abs FC_TYPED(v_abs_)
#define v_copysign FC_TYPED(v_copysign_)
#define v_pow2 FC_TYPED(v_pow2_)
#define v_exponent FC_TYPED(v_exponent_)
#define v_residue FC_TYPED(v_residue_)
#define v_sqrt FC_TYPED(v_sqrt_)
#define v_widen FC_TYPED(v_widen_)
#define v_transpose FC_TYPED(v_transpose_)
#define v_transpose_at FC_TYPED(v_transpose_at_)
#if FC_HAS_TURN
#define TURN FC_TYPED(TURN_)
#define v_turn FC_TYPED(v_turn_)
#else /* such are a target's vectors that v_transpose does the same */
#define TURN TRANSPOSE
#define v_turn v_transpose
#endif
#define quad FC_TYPED(quad_)
#define codes FC_TYPED(codes_)
#define v_quad FC_TYPED(v_quad_)
#define v_codes FC_TYPED(v_codes_)
#define v_of4 FC_TYPED(v_of4_)

#define SUBS (16 / VL)
#ifndef FC_HAS_TURN
#define FC_HAS_TURN 0
#endif
#ifndef FC_HAS_GATHERS
#define FC_HAS_GATHERS 0
#endif
/* The most rows of a batch that meet a plain weight transposed in registers. */
#ifndef FEW_ROWS_f32
#define FEW_ROWS_f32 FC_FEW
#endif
#ifndef FEW_ROWS_f64
#define FEW_ROWS_f64 FC_FEW
#endif
#define FEW_ROWS FC_TYPED(FEW_ROWS_)
/* 0: CPUs with this target follow the rows of a plain weight by themselves. */
#ifndef FC_FETCH_ROWS
#define FC_FETCH_ROWS 1
#endif
#ifndef FC_HAS_EACH16_f32
#define FC_HAS_EACH16_f32 0
#endif
#ifndef FC_HAS_EACH16_f64
#define FC_HAS_EACH16_f64 0
#endif
#define FC_HAS_EACH16 FC_TYPED(FC_HAS_EACH16_)
#ifndef FC_HAS_TABLES_f32
#define FC_HAS_TABLES_f32 0
#endif
#ifndef FC_HAS_TABLES_f64
#define FC_HAS_TABLES_f64 0
#endif
#define FC_HAS_TABLES FC_TYPED(FC_HAS_TABLES_)
#define v_table FC_TYPED(v_table_)
#define v_look4 FC_TYPED(v_look4_)
#define v_places4 FC_TYPED(v_places4_)
#define v_places1 FC_TYPED(v_places1_)
#define v_both4 FC_TYPED(v_both4_)
#define v_both1 FC_TYPED(v_both1_)
#define v_fma_both FC_TYPED(v_fma_both_)
#define v_in_order FC_TYPED(v_in_order_)

/* Makes the compiler take an address as given: left to itself it keeps one for each row of a block, on the stack. */
#define FC_OPAQUE(pointer) __asm__("" : "+r"(pointer))

/* Likewise a vector as being in a register: left to itself it loads one anew for each row of a tile. */
#if defined(__aarch64__)
#define FC_LOADED(vector) __asm__("" : "+w"(vector))
#elif defined(__AVX512F__)
#define FC_LOADED(vector) __asm__("" : "+v"(vector))
#elif defined(__x86_64__)
#define FC_LOADED(vector) __asm__("" : "+x"(vector))
#else
#define FC_LOADED(vector) (void)(vector)
#endif

/* Elements in a row of a panel, and of the widest tile. */
#define PANEL (PANEL_VECS * VL)
#define WIDTH (4 * VL)

/* How a tile of gemm meets b: in L2, fetching what comes next; from farther away; or likewise, leaving a copy for other tiles. */
enum { IN_L2, STREAM, STREAM_COPY };

/* The symbol of a compiled kernel: fc_gemm_f32__avx2. */
#define FC_KERNEL_NAME(name) FC_PASTE(FC_PASTE(FC_PASTE(fc_##name##_, DT), __), FC_ISA)

typedef float real_f32;
typedef double real_f64;

/* One scalar from any address. */
FC_INLINE float load1_f32(const void *p) { float v; __builtin_memcpy(&v, p, sizeof v); return v; }
FC_INLINE double load1_f64(const void *p) { double v; __builtin_memcpy(&v, p, sizeof v); return v; }
#define load1 FC_TYPED(load1_)

/* v_fma of one lane. */
#if FC_HAS_FMA
FC_INLINE float fma1_f32(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FC_INLINE double fma1_f64(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
FC_INLINE float fma1_f32(float a, float b, float c) { return a * b + c; }
FC_INLINE double fma1_f64(double a, double b, double c) { return a * b + c; }
#endif
#define fma1 FC_TYPED(fma1_)
