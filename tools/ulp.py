"""Finds the largest error of each activation: python tools/ulp.py [--full] [--dtype float32] [--isa NAME] [NAME...]

Compiles tools/ulp.c with the C library (GCC and libquadmath, x86-64) and runs it. Without --full it looks at every
1021st float32 and at 2e5 float64; --full takes all 2^32 float32 (about two minutes a function and thread) and 4e6
float64.
fastfc/activations.py keeps what a full run found.
"""

import argparse
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def build(folder):
    """The program, compiled into `folder`."""
    makefile = os.path.join(ROOT, "tests", "c", "Makefile")
    subprocess.run(["make", "-s", "-f", makefile, f"BUILD={folder}", f"{folder}/ulp"], check=True)
    return os.path.join(folder, "ulp")


def measure(program, isa, dtype, amount, names=()):
    """Yields (name, pass, ulp, at, ulp where the result is denormal or None) for each function."""
    command = [program, isa, {"float32": "f32", "float64": "f64"}[dtype], str(amount), *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            name, which, _, ulp, _, at, *denormal = line.split()
            yield name, which, float(ulp), float(at), float(denormal[1]) if denormal else None
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--dtype", choices=["float32", "float64"])
    parser.add_argument("--isa", default="best", help="a target; those with FMA agree bit for bit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = build(folder)
        for dtype in [options.dtype] if options.dtype else ["float32", "float64"]:
            if dtype == "float32":
                amount = 1 if options.full else 1021
            else:
                amount = 4 * 10**6 if options.full else 2 * 10**5
            for name, which, ulp, at, denormal in measure(program, options.isa, dtype, amount, options.names):
                below = "" if denormal is None else f"   where the result is denormal: {denormal:.4f}"
                print(f"{name:10} {which:8} {dtype}  {ulp:.4f} ULP at {at!r}{below}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
