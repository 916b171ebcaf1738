/* Finds the largest error of each activation and derivative; tools/ulp.py builds and runs it.
 *
 *     ulp ISA f32 STRIDE [NAME...]     every STRIDE-th of the 2^32 float32 inputs, against double
 *     ulp ISA f64 SAMPLES [NAME...]    so many random inputs, against __float128
 *
 * A line for each: name, pass, dtype, error, input. Forward: the error in units in the last place (ULP) of the exact
 * result, where that is normal, and a second pair where it is not. Gradient: in ULP of the larger of |result| and 2^-20.
 * The references are sums of a few library calls, right to well under 2^-20 ULP of the result. */
#include <math.h>
#include <quadmath.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastfc.h"

#define REAL double
#define FN(name) name##_d
#define CALL(name) name
#define C(x) x
#include "ulp_reference.inc"
#undef REAL
#undef FN
#undef CALL
#undef C
#define REAL __float128
#define FN(name) name##_q
#define CALL(name) name##q
#define C(x) x##Q
#include "ulp_reference.inc"

typedef struct function {
    const char *name;
    fc_activation activation;
    double parameter;
    double (*f_d)(double), (*g_d)(double);
    __float128 (*f_q)(__float128), (*g_q)(__float128);
} function;
#define F(name, number, parameter) {#name, number, parameter, name##_d, name##_grad_d, name##_q, name##_grad_q}
static const function functions[] = {
    F(relu, FC_RELU, 0), F(leaky_relu, FC_LEAKY_RELU, 0.01), F(elu, FC_ELU, 1), F(gelu, FC_GELU, 0),
    F(gelu_tanh, FC_GELU_TANH, 0), F(silu, FC_SILU, 0), F(sigmoid, FC_SIGMOID, 0), F(tanh, FC_TANH, 0),
    F(softplus, FC_SOFTPLUS, 1), F(hardswish, FC_HARDSWISH, 0),
};
enum { FUNCTIONS = sizeof functions / sizeof *functions, BLOCK = 1 << 14 };

typedef struct worst {
    double error, at;
} worst;

static void note(worst *w, double error, double at) {
    if (!(error <= w->error)) *w = (worst){error, at};
}

/* Of float32: 24 bits, normal from 2^-126 on; of float64: 53, -1022. */
static double ulp_f32(double y) {
    int e = -126;
    if (fabs(y) >= 0x1p-126) frexp(y, &e), e -= 1;
    return ldexp(1, (e < -126 ? -126 : e) - 23);
}
static __float128 ulp_f64(__float128 y) {
    int e = -1022;
    if (fabsq(y) >= 0x1p-1022Q) frexpq(y, &e), e -= 1;
    return ldexpq(1, (e < -1022 ? -1022 : e) - 52);
}

static void f32(const function *f, int gradient, uint64_t stride, worst *normal, worst *denormal) {
    const int64_t count = (int64_t)((0xffffffffu) / stride + 1), blocks = (count + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t b = 0; b < blocks; b++) {
        float x[BLOCK], y[BLOCK], one[BLOCK];
        worst n = {0, 0}, d = {0, 0};
        for (int i = 0; i < BLOCK; i++) {
            const uint32_t bits = (uint32_t)((uint64_t)(b * BLOCK + i) * stride);
            memcpy(&x[i], &bits, sizeof bits);
            one[i] = 1;
        }
        if (gradient) fc_activation_backward(FC_F32, f->activation, f->parameter, one, x, y, BLOCK, 1);
        else fc_activation_forward(FC_F32, f->activation, f->parameter, x, y, BLOCK, 1);
        for (int i = 0; i < BLOCK; i++) {
            if (!isfinite(x[i])) continue;
            const double want = gradient ? f->g_d(x[i]) : f->f_d(x[i]);
            if (gradient) note(&n, fabs(y[i] - want) / ulp_f32(fmax(fabs(want), 0x1p-20)), x[i]);
            else note(fabs(want) >= 0x1p-126 ? &n : &d, fabs(y[i] - want) / ulp_f32(want), x[i]);
        }
#pragma omp critical
        {
            note(normal, n.error, n.at);
            note(denormal, d.error, d.at);
        }
    }
}

static uint64_t random64(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Any bit pattern; or uniform in (-1, 1), (-8, 8), (-64, 64), (-768, 768); or near a derivative's root. */
static double sample(uint64_t *state) {
    const uint64_t bits = random64(state);
    const double unit = (double)(int64_t)random64(state) * 0x1p-63;
    static const double roots[] = {-0.7517915246935645, -0.7524613866, -1.2784645427610738, -1.5};
    double x;
    switch (bits & 7) {
    case 0: memcpy(&x, &bits, sizeof x); return x;
    case 1: return unit;
    case 2: case 3: case 4: return unit * 8;
    case 5: return unit * 64;
    case 6: return unit * 768;
    default: return roots[bits >> 3 & 3] + ldexp(unit, -(int)(bits >> 5 & 31));
    }
}

static void f64(const function *f, int gradient, uint64_t samples, worst *normal, worst *denormal) {
    const int64_t blocks = (int64_t)((samples + BLOCK - 1) / BLOCK);
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; b++) {
        static _Thread_local double x[BLOCK], y[BLOCK], one[BLOCK];
        uint64_t state = (uint64_t)b << 32;
        worst n = {0, 0}, d = {0, 0};
        for (int i = 0; i < BLOCK; i++) x[i] = sample(&state), one[i] = 1;
        if (gradient) fc_activation_backward(FC_F64, f->activation, f->parameter, one, x, y, BLOCK, 1);
        else fc_activation_forward(FC_F64, f->activation, f->parameter, x, y, BLOCK, 1);
        for (int i = 0; i < BLOCK; i++) {
            if (!isfinite(x[i])) continue;
            const __float128 want = gradient ? f->g_q(x[i]) : f->f_q(x[i]), error = fabsq(y[i] - want);
            if (gradient) note(&n, (double)(error / ulp_f64(fmaxq(fabsq(want), 0x1p-20Q))), x[i]);
            else note(fabsq(want) >= 0x1p-1022Q ? &n : &d, (double)(error / ulp_f64(want)), x[i]);
        }
#pragma omp critical
        {
            note(normal, n.error, n.at);
            note(denormal, d.error, d.at);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 4 || (strcmp(argv[1], "best") && fc_select_isa(argv[1]))) {
        fprintf(stderr, "usage: ulp ISA f32|f64 STRIDE|SAMPLES [NAME...]; ISA is best or one of");
        for (const char *const *isa = fc_available_isas(); *isa; isa++) fprintf(stderr, " %s", *isa);
        fprintf(stderr, "\n");
        return 2;
    }
    const int single = !strcmp(argv[2], "f32");
    const uint64_t amount = strtoull(argv[3], NULL, 0);
    for (int i = 0; i < FUNCTIONS; i++) {
        int wanted = argc == 4;
        for (int j = 4; j < argc; j++) wanted |= !strcmp(argv[j], functions[i].name);
        for (int gradient = 0; wanted && gradient < 2; gradient++) {
            worst normal = {0, 0}, denormal = {0, 0};
            (single ? f32 : f64)(&functions[i], gradient, amount, &normal, &denormal);
            printf("%-10s %-8s %s  %.4f at %.17g", functions[i].name, gradient ? "gradient" : "forward", argv[2],
                   normal.error, normal.at);
            if (!gradient) printf("   denormal %.4f at %.17g", denormal.error, denormal.at);
            printf("\n");
            fflush(stdout);
        }
    }
    return 0;
}
