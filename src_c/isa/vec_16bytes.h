/* What targets whose vectors have 16 bytes do alike, in C's own vectors; included at the end of
 * their vec_<isa>.h. */
enum { PICK_f32 = VL_f32, PICK_f64 = VL_f64 };
#define AT(e) p[read_step(i, bytes, e)]
FC_INLINE vec_f32 v_pick_f32(const float *p, const void *i, const int bytes) { return (vec_f32){AT(0), AT(1), AT(2), AT(3)}; }
FC_INLINE vec_f64 v_pick_f64(const double *p, const void *i, const int bytes) { return (vec_f64){AT(0), AT(1)}; }
FC_INLINE void v_pick4_f32(const float *p, const void *i, const int bytes, vec_f32 *t) {
    for (int s = 0; s < 4; s++) t[s] = (vec_f32){AT(s), AT(4 + s), AT(8 + s), AT(12 + s)};
}
FC_INLINE void v_pick4_f64(const double *p, const void *i, const int bytes, vec_f64 *t) {
    for (int s = 0; s < 4; s++) t[s] = (vec_f64){AT(s), AT(4 + s)};
}
#undef AT
FC_INLINE void v_each4_f32(const float *p, vec_f32 *t) {
    for (int s = 0; s < 4; s++) t[s] = v_set1_f32(p[s]);
}
FC_INLINE void v_each4_f64(const double *p, vec_f64 *t) {
    for (int s = 0; s < 4; s++) t[s] = v_set1_f64(p[s]);
}
FC_INLINE float v_sum_f32(vec_f32 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
FC_INLINE double v_sum_f64(vec_f64 v) { return v[0] + v[1]; }
FC_INLINE void v_sums4_f32(const vec_f32 *v, float *p) { for (int i = 0; i < 4; i++) p[i] = v_sum_f32(v[i]); }
FC_INLINE void v_sums4_f64(const vec_f64 *v, double *p) { for (int i = 0; i < 4; i++) p[i] = v_sum_f64(v[i]); }
FC_INLINE void v_transpose_f32(const char *src, ptrdiff_t row, vec_f32 *t) {
    v_transpose_at_f32((const char *const[]){src, src + row, src + 2 * row, src + 3 * row}, t);
}
FC_INLINE void v_transpose_f64(const char *src, ptrdiff_t row, vec_f64 *t) {
    v_transpose_at_f64((const char *const[]){src, src + row}, t);
}
FC_INLINE void v_rows4_f32(const float *p, vec_f32 *t) { v_transpose_f32((const char *)p, 16, t); }
FC_INLINE void v_rows4_f64(const double *p, vec_f64 *t) {
    v_transpose_f64((const char *)p, 32, t);
    v_transpose_f64((const char *)(p + 2), 32, t + 2);
}
