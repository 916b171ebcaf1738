"""Prints src_c/kernels/activation_constants.h: python tools/minimax.py > src_c/kernels/activation_constants.h

Each polynomial is a minimax approximation (Remez' exchange in 60 digits). Its coefficients are then
rounded to the dtype, and the error that is stated is theirs. Needs mpmath.
"""

import mpmath as mp
from mpmath import mpf

mp.mp.dps = 60
BITS = {"f32": 24, "f64": 53}
LN2 = mp.log(2)


def rounded(x, bits):
    """x to so many significant bits."""
    if x == 0:
        return mpf(0)
    e = bits - 1 - int(mp.floor(mp.log(abs(x), 2)))
    return mp.nint(mp.ldexp(x, e)) * mp.ldexp(1, -e)


def remez(f, weight, a, b, n):
    """The n coefficients c that minimise max |weight(x) * (f(x) - sum c_i x**i)| on [a, b], and that maximum."""
    grid = [(a + b) / 2 - (b - a) / 2 * mp.cos(mp.pi * i / (24 * n)) for i in range(24 * n + 1)]
    values = [(f(x), weight(x)) for x in grid]
    at = [round(24 * n * i / n) for i in range(n + 1)]
    for _ in range(30):
        system = mp.matrix(n + 1, n + 1)
        right = mp.matrix(n + 1, 1)
        for row, i in enumerate(at):
            for p in range(n):
                system[row, p] = grid[i] ** p
            system[row, n] = (-1) ** row / values[i][1]
            right[row] = values[i][0]
        solution = mp.lu_solve(system, right)
        c = [solution[i] for i in range(n)]
        error = [w * (y - mp.polyval(c[::-1], x)) for x, (y, w) in zip(grid, values, strict=True)]
        # The largest error between each two changes of sign is a new point.
        extremes, best = [], 0
        for i in range(1, len(grid)):
            if (error[i] > 0) != (error[best] > 0):
                extremes.append(best)
                best = i
            elif abs(error[i]) > abs(error[best]):
                best = i
        extremes.append(best)
        while len(extremes) > n + 1:
            extremes.pop(0 if abs(error[extremes[0]]) < abs(error[extremes[-1]]) else -1)
        worst = max(map(abs, error))
        if len(extremes) < n + 1 or worst < abs(solution[n]) * mpf("1.01"):
            break
        at = extremes
    return c, worst


def fit(f, weight, a, b, degree, bits):
    """Coefficients rounded to `bits`, lowest power first, and the base-2 logarithm of the largest weighted error."""
    c, _ = remez(f, weight, a, b, degree + 1)
    c = [rounded(x, bits) for x in c]
    points = [a + (b - a) * i / 1000 for i in range(1001)]
    return c, float(mp.log(max(abs(weight(x) * (f(x) - mp.polyval(c[::-1], x))) for x in points), 2))


def literal(x, dtype):
    value, suffix = float(x), "f" if dtype == "f32" else ""
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.1f}{suffix}"
    digits, exponent = value.hex().split("p")
    return f"{digits.rstrip('0')}p{exponent}{suffix}"


def array(name, dtype, coefficients, comment):
    kind = "float" if dtype == "f32" else "double"
    print(f"/* {comment} */")
    print(f"static const {kind} {name}_{dtype}[] = {{")
    for i in range(0, len(coefficients), 4):
        print("    " + ", ".join(literal(c, dtype) for c in coefficients[i : i + 4]) + ",")
    print("};")


def constants(dtype, **values):
    kind = "float" if dtype == "f32" else "double"
    for name, value in values.items():
        print(f"static const {kind} {name}_{dtype} = {literal(value, dtype)};")


def split(x, bits, first=None):
    """x as a sum of two numbers of the dtype."""
    high = rounded(x, first or bits)
    return high, rounded(x - high, bits)


def exponential(dtype):
    bits, single = BITS[dtype], dtype == "f32"
    up, limit = (64, 110) if single else (512, 760)
    bias = mpf(3) * 2 ** (bits - 2) + (127 if single else 1023)
    print("/* n + POW2_BIAS has 2^n's bits at its low end; POW2_UP is 64 (512) more; DOWN = 2^-64 (2^-512). */")
    constants(dtype, POW2_BIAS=bias, POW2_UP=bias + up, DOWN=mpf(2) ** -up)
    print("/* log2(e); ln 2 = HI + LO, where n * HI is exact for every exponent n. */")
    high, low = split(LN2, bits, bits - (9 if single else 12))
    constants(dtype, LOG2E=rounded(1 / LN2, bits), LN2_HI=high, LN2_LO=low)
    print("/* exp(-EXP_LIMIT), times any factor that comes up, rounds to 0. */")
    constants(dtype, EXP_LIMIT=limit)
    print("/* From here on tanh(x) rounds to 1, and exp(-x) - 1 to -1. */")
    constants(dtype, ONE_LIMIT=20 if single else 40)

    def f(r):
        return (mp.expm1(r) - r) / r**2 if abs(r) > 1e-12 else 1 / mpf(2) + r / 6

    a = LN2 / 2 * mpf("1.0001")
    coefficients, error = fit(f, lambda r: max(r * r, mpf("1e-6")), -a, a, 4 if single else 9, bits)
    said = f"expm1(r) = r + r^2 P(r) for |r| <= ln(2) / 2, with an absolute error of 2^{error:.1f}"
    array("EXPM1", dtype, coefficients, said)


def logarithm(dtype):
    def f(z):
        return (mp.atanh(mp.sqrt(z)) / mp.sqrt(z) - 1) / z

    coefficients, error = fit(f, lambda z: z, mpf("1e-6"), 1 / mpf(9), 4 if dtype == "f32" else 10, BITS[dtype])
    said = f"atanh(w) = w + w^3 P(w^2) for 0 <= w <= 1/3, with a relative error of 2^{error:.1f}"
    array("ATANH", dtype, coefficients, said)


def gelu(dtype):
    bits, single = BITS[dtype], dtype == "f32"
    # a keeps 1 + P near 1. b and the degrees were found by trial; the center makes the interval symmetric.
    a, b, end = mpf("0.8125"), mpf("3.5") if single else mpf(4), mpf(15 if single else 39)
    center = mpf("0.40625") if single else mpf("0.453125")
    low, high = -center, end / (end + b) - center
    print(f"/* t * Phi(-t) rounds to 0 from t = {int(end)} on. u = t / (t + GELU_B) - GELU_CENTER. */")
    constants(dtype, GELU_LIMIT=end, GELU_A=a, GELU_B=b, GELU_CENTER=center)

    def at(u):
        return b * (u + center) / (1 - u - center)

    def scaled(t):
        """Phi(-t) exp(t^2 / 2)"""
        return mp.erfc(t / mp.sqrt(2)) * mp.exp(t * t / 2) / 2

    def f(u):
        return scaled(at(u)) * (2 * at(u) + 2 * a) - 1

    coefficients, error = fit(f, lambda u: 1 / (1 + f(u)), low, high, 10 if single else 21, bits)
    said = f"Phi(-t) exp(t^2/2) (2 t + 2 GELU_A) = 1 + P(u), with a relative error of 2^{error:.1f}"
    array("GELU", dtype, coefficients, said)

    c = 1 / mp.sqrt(2 * mp.pi)
    root = mp.findroot(lambda t: scaled(t) - c * t, mpf("0.75"))
    print("/* Half of the root of gelu'(-t), in two parts. */")
    root_high, root_low = split(root / 2, bits)
    constants(dtype, GELU_ROOT_HI=root_high, GELU_ROOT_LO=root_low)

    def slope(u):
        t = at(u)
        if abs(t - root) < mpf("1e-25"):
            t += mpf("1e-20")
        return (scaled(t) - c * t) / ((root - t) / 2) - 1

    coefficients, error = fit(slope, lambda u: 1 / (1 + slope(u)), low, high, 9 if single else 21, bits)
    said = f"gelu'(-t) exp(t^2/2) = (root - t) / 2 * (1 + P(u)), with a relative error of 2^{error:.1f}"
    array("GELU_GRAD", dtype, coefficients, said)


def silu(dtype):
    bits = BITS[dtype]
    root = mp.findroot(lambda t: 1 + mp.exp(-t) - t, mpf("1.28"))
    print("/* The root of silu'(-t), and exp(-root), each in two parts. */")
    high, low = split(root, bits)
    e_high, e_low = split(mp.exp(-root), bits)
    constants(dtype, SILU_ROOT_HI=high, SILU_ROOT_LO=low, SILU_EXP_HI=e_high, SILU_EXP_LO=e_low)


def gelu_tanh(dtype):
    bits, single = BITS[dtype], dtype == "f32"
    k0 = 2 * mp.sqrt(2 / mp.pi)
    k1 = mpf("0.044715") * k0

    def argument(t):
        return t * (k0 + k1 * t * t)

    def slope(t):
        return t * (k0 + 3 * k1 * t * t)

    print("/* gelu_tanh(x) = x / (1 + exp(-v)), v = x (K0 + K1 x^2), K0 = 2 sqrt(2/pi), K1 = 0.044715 K0; from")
    print(" * |x| = TANH_LIMIT on it is x or rounds to 0. K0_HI is short: (K0_HI + k x^2) - K0_HI is exact. */")
    high, low = split(k0, bits, bits - (3 if single else 5))
    k1_high, k1_low = split(k1, bits)
    constants(dtype, TANH_LIMIT=11 if single else 22, K0_HI=high, K0_LO=low, K1_HI=k1_high, K1_LO=k1_low)
    print("/* The root of its derivative at -t, v there, and exp(-v), each in two parts; t v'(t) = t (K0 + K3 t^2). */")
    root = mp.findroot(lambda t: 1 + mp.exp(-argument(t)) - slope(t), mpf("0.75"))
    high, low = split(root, bits)
    v_high, v_low = split(argument(root), bits)
    e_high, e_low = split(mp.exp(-argument(root)), bits)
    k3_high, k3_low = split(3 * k1, bits)
    constants(dtype, TANH_ROOT_HI=high, TANH_ROOT_LO=low, TANH_V_HI=v_high, TANH_V_LO=v_low)
    constants(dtype, TANH_EXP_HI=e_high, TANH_EXP_LO=e_low, K3_HI=k3_high, K3_LO=k3_low)
    constants(dtype, K3_ROOT=rounded(3 * k1 * root, bits), K3_ROOT_SQUARE=rounded(3 * k1 * root**2, bits))


def main():
    print("/* Constants of kernels/activation.inc, printed by tools/minimax.py, which says how they are found. */")
    for dtype in BITS:
        print(f"\n/* ---- {dtype} " + "-" * 100 + " */\n")
        for part in (exponential, logarithm, gelu, silu, gelu_tanh):
            part(dtype)


if __name__ == "__main__":
    main()
