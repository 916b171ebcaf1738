/* Constants of kernels/activation.inc, printed by tools/minimax.py, which says how they are found. */

/* ---- f32 ---------------------------------------------------------------------------------------------------- */

/* n + POW2_BIAS has 2^n's bits at its low end; POW2_UP is 64 (512) more; DOWN = 2^-64 (2^-512). */
static const float POW2_BIAS_f32 = 0x1.8000fep+23f;
static const float POW2_UP_f32 = 0x1.80017ep+23f;
static const float DOWN_f32 = 0x1.p-64f;
/* log2(e); ln 2 = HI + LO, where n * HI is exact for every exponent n. */
static const float LOG2E_f32 = 0x1.715476p+0f;
static const float LN2_HI_f32 = 0x1.62e4p-1f;
static const float LN2_LO_f32 = 0x1.7f7d1cp-20f;
/* exp(-EXP_LIMIT), times any factor that comes up, rounds to 0. */
static const float EXP_LIMIT_f32 = 110.0f;
/* From here on tanh(x) rounds to 1, and exp(-x) - 1 to -1. */
static const float ONE_LIMIT_f32 = 20.0f;
/* expm1(r) = r + r^2 P(r) for |r| <= ln(2) / 2, with an absolute error of 2^-27.7 */
static const float EXPM1_f32[] = {
    0x1.p-1f, 0x1.55548ep-3f, 0x1.555462p-5f, 0x1.123b54p-7f,
    0x1.6db1cap-10f,
};
/* atanh(w) = w + w^3 P(w^2) for 0 <= w <= 1/3, with a relative error of 2^-30.4 */
static const float ATANH_f32[] = {
    0x1.555558p-2f, 0x1.9996a8p-3f, 0x1.25097cp-3f, 0x1.b6d5d6p-4f,
    0x1.f1b1c4p-4f,
};
/* t * Phi(-t) rounds to 0 from t = 15 on. u = t / (t + GELU_B) - GELU_CENTER. */
static const float GELU_LIMIT_f32 = 15.0f;
static const float GELU_A_f32 = 0x1.ap-1f;
static const float GELU_B_f32 = 0x1.cp+1f;
static const float GELU_CENTER_f32 = 0x1.ap-2f;
/* Phi(-t) exp(t^2/2) (2 t + 2 GELU_A) = 1 + P(u), with a relative error of 2^-27.1 */
static const float GELU_f32[] = {
    -0x1.f8eaf4p-5f, -0x1.883e24p-3f, -0x1.df881ep-2f, 0x1.41eec2p+0f,
    -0x1.61fc7p+0f, 0x1.25b224p-1f, 0x1.44eabep-2f, -0x1.680b86p-2f,
    -0x1.e768p-4f, 0x1.3ea226p-3f, 0x1.00a4ecp-4f,
};
/* Half of the root of gelu'(-t), in two parts. */
static const float GELU_ROOT_HI_f32 = 0x1.80ead2p-2f;
static const float GELU_ROOT_LO_f32 = -0x1.a03fd4p-28f;
/* gelu'(-t) exp(t^2/2) = (root - t) / 2 * (1 + P(u)), with a relative error of 2^-27.3 */
static const float GELU_GRAD_f32[] = {
    -0x1.ee9baep-7f, -0x1.15c724p-1f, 0x1.259a26p-1f, -0x1.a01ap-2f,
    0x1.15bb5ap-3f, 0x1.8126ecp-5f, -0x1.bd600cp-5f, -0x1.4b4b58p-7f,
    0x1.3c38cap-6f, 0x1.1bf8d8p-8f,
};
/* The root of silu'(-t), and exp(-root), each in two parts. */
static const float SILU_ROOT_HI_f32 = 0x1.474974p+0f;
static const float SILU_ROOT_LO_f32 = -0x1.bdf6fap-27f;
static const float SILU_EXP_HI_f32 = 0x1.1d25dp-2f;
static const float SILU_EXP_LO_f32 = -0x1.bdf6fap-27f;
/* gelu_tanh(x) = x / (1 + exp(-v)), v = x (K0 + K1 x^2), K0 = 2 sqrt(2/pi), K1 = 0.044715 K0; from
 * |x| = TANH_LIMIT on it is x or rounds to 0. K0_HI is short: (K0_HI + k x^2) - K0_HI is exact. */
static const float TANH_LIMIT_f32 = 11.0f;
static const float K0_HI_f32 = 0x1.98845p+0f;
static const float K0_LO_f32 = 0x1.9ea1b2p-23f;
static const float K1_HI_f32 = 0x1.2444f2p-4f;
static const float K1_LO_f32 = 0x1.49b16ap-29f;
/* The root of its derivative at -t, v there, and exp(-v), each in two parts; t v'(t) = t (K0 + K3 t^2). */
static const float TANH_ROOT_HI_f32 = 0x1.8142ap-1f;
static const float TANH_ROOT_LO_f32 = -0x1.85a06cp-27f;
static const float TANH_V_HI_f32 = 0x1.3b2cf8p+0f;
static const float TANH_V_LO_f32 = -0x1.8e0cp-25f;
static const float TANH_EXP_HI_f32 = 0x1.2af64ep-2f;
static const float TANH_EXP_LO_f32 = 0x1.3890bep-27f;
static const float K3_HI_f32 = 0x1.b6676cp-3f;
static const float K3_LO_f32 = -0x1.175e2p-32f;
static const float K3_ROOT_f32 = 0x1.49e1dp-3f;
static const float K3_ROOT_SQUARE_f32 = 0x1.f07274p-4f;

/* ---- f64 ---------------------------------------------------------------------------------------------------- */

/* n + POW2_BIAS has 2^n's bits at its low end; POW2_UP is 64 (512) more; DOWN = 2^-64 (2^-512). */
static const double POW2_BIAS_f64 = 0x1.80000000003ffp+52;
static const double POW2_UP_f64 = 0x1.80000000005ffp+52;
static const double DOWN_f64 = 0x1.p-512;
/* log2(e); ln 2 = HI + LO, where n * HI is exact for every exponent n. */
static const double LOG2E_f64 = 0x1.71547652b82fep+0;
static const double LN2_HI_f64 = 0x1.62e42fefa4p-1;
static const double LN2_LO_f64 = -0x1.8432a1b0e2634p-43;
/* exp(-EXP_LIMIT), times any factor that comes up, rounds to 0. */
static const double EXP_LIMIT_f64 = 760.0;
/* From here on tanh(x) rounds to 1, and exp(-x) - 1 to -1. */
static const double ONE_LIMIT_f64 = 40.0;
/* expm1(r) = r + r^2 P(r) for |r| <= ln(2) / 2, with an absolute error of 2^-56.5 */
static const double EXPM1_f64[] = {
    0x1.000000000000bp-1, 0x1.5555555555561p-3, 0x1.555555555002cp-5, 0x1.111111110d5d6p-7,
    0x1.6c16c185a80d4p-10, 0x1.a01a01bb0055fp-13, 0x1.a0199691d2a32p-16, 0x1.71dddf8bca2adp-19,
    0x1.28b04adf57172p-22, 0x1.af85ea809b694p-26,
};
/* atanh(w) = w + w^3 P(w^2) for 0 <= w <= 1/3, with a relative error of 2^-58.6 */
static const double ATANH_f64[] = {
    0x1.5555555555556p-2, 0x1.999999999955dp-3, 0x1.24924924c1da7p-3, 0x1.c71c71a5dd26bp-4,
    0x1.745d1e033c612p-4, 0x1.3b12d5d40bdf9p-4, 0x1.1123461f0c1abp-4, 0x1.dfe29d68e175fp-5,
    0x1.c16fec5d32a79p-5, 0x1.1e7b23ea6acc6p-5, 0x1.51428acf7ee04p-4,
};
/* t * Phi(-t) rounds to 0 from t = 39 on. u = t / (t + GELU_B) - GELU_CENTER. */
static const double GELU_LIMIT_f64 = 39.0;
static const double GELU_A_f64 = 0x1.ap-1;
static const double GELU_B_f64 = 4.0;
static const double GELU_CENTER_f64 = 0x1.dp-2;
/* Phi(-t) exp(t^2/2) (2 t + 2 GELU_A) = 1 + P(u), with a relative error of 2^-53.8 */
static const double GELU_f64[] = {
    -0x1.45343d044a414p-4, -0x1.f9f9a625483d2p-3, -0x1.7e050648a37a6p-3, 0x1.dbdd21d0930dep-1,
    -0x1.8789e53e26ad3p+0, 0x1.6d24a26304c61p+0, -0x1.3093cdf38ad4dp-1, -0x1.fcc7a816256e2p-3,
    0x1.903d781884651p-2, 0x1.20ba7742d4052p-7, -0x1.b9b93f8054fbep-3, 0x1.6fc6b15983ef5p-7,
    0x1.0f744cd8c14d9p-3, 0x1.a8a7e6f13988ep-8, -0x1.6815792366685p-4, -0x1.ae07610ce7df9p-6,
    0x1.c8b56f4dfb174p-5, 0x1.38b7b9ce67ba1p-5, -0x1.ced5cf903181p-6, -0x1.2092cb64df89bp-5,
    0x1.09356a69c43fap-7, 0x1.13e838fdb86f8p-6,
};
/* Half of the root of gelu'(-t), in two parts. */
static const double GELU_ROOT_HI_f64 = 0x1.80ead197f00b4p-2;
static const double GELU_ROOT_LO_f64 = -0x1.13e74c58cada8p-57;
/* gelu'(-t) exp(t^2/2) = (root - t) / 2 * (1 + P(u)), with a relative error of 2^-55.0 */
static const double GELU_GRAD_f64[] = {
    -0x1.c3434f52f5a8bp-5, -0x1.d8fc82f7b0a6bp-2, 0x1.1a1eec39ce408p-1, -0x1.0485463d037dap-1,
    0x1.5214721363acdp-2, -0x1.b4d4a5a1aa371p-4, -0x1.251c38b7ec6cap-5, 0x1.94830dc486b41p-5,
    -0x1.3c10f5750558cp-11, -0x1.5318b064d930bp-6, 0x1.1a83bc9d6796cp-9, 0x1.5279cdf70fc7fp-7,
    -0x1.9c020343f0f8ap-12, -0x1.841aec9779477p-8, -0x1.0b94894887d15p-10, 0x1.c39e98ce85c6bp-9,
    0x1.c73743b26203dp-10, -0x1.c2623e9e0fe6p-10, -0x1.adb5f7c77c8acp-10, 0x1.237c83359a5ap-11,
    0x1.a233b03666227p-11, -0x1.95846c534c0cfp-15,
};
/* The root of silu'(-t), and exp(-root), each in two parts. */
static const double SILU_ROOT_HI_f64 = 0x1.474973c84120bp+0;
static const double SILU_ROOT_LO_f64 = 0x1.f8d74bc9ac154p-54;
static const double SILU_EXP_HI_f64 = 0x1.1d25cf210482ep-2;
static const double SILU_EXP_LO_f64 = -0x1.ca2d0d94faaecp-60;
/* gelu_tanh(x) = x / (1 + exp(-v)), v = x (K0 + K1 x^2), K0 = 2 sqrt(2/pi), K1 = 0.044715 K0; from
 * |x| = TANH_LIMIT on it is x or rounds to 0. K0_HI is short: (K0_HI + k x^2) - K0_HI is exact. */
static const double TANH_LIMIT_f64 = 22.0;
static const double K0_HI_f64 = 0x1.9884533d4366p+0;
static const double K0_LO_f64 = -0x1.ee5e069875fe9p-49;
static const double K1_HI_f64 = 0x1.2444f2a4d8b4bp-4;
static const double K1_LO_f64 = -0x1.6c843a29d1c7p-61;
/* The root of its derivative at -t, v there, and exp(-v), each in two parts; t v'(t) = t (K0 + K3 t^2). */
static const double TANH_ROOT_HI_f64 = 0x1.81429f9e97e4dp-1;
static const double TANH_ROOT_LO_f64 = -0x1.4f523ed77dbdcp-55;
static const double TANH_V_HI_f64 = 0x1.3b2cf738f9ffep+0;
static const double TANH_V_LO_f64 = -0x1.0b556131950eap-56;
static const double TANH_EXP_HI_f64 = 0x1.2af64e9c485eep-2;
static const double TANH_EXP_LO_f64 = -0x1.3ca470b477afcp-57;
static const double K3_HI_f64 = 0x1.b6676bf7450fp-3;
static const double K3_LO_f64 = 0x1.bba7351828aabp-57;
static const double K3_ROOT_f64 = 0x1.49e1d0b1444ebp-3;
static const double K3_ROOT_SQUARE_f64 = 0x1.f07274c20325fp-4;
