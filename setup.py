"""Builds fastfc/_core: the Cython boundary, the C drivers, and the kernels once for each target.

Environment: FASTFC_WERROR=1 turns warnings of the C sources into errors; FASTFC_NO_OPENMP=1 builds without threads;
FASTFC_SANITIZE=address,undefined builds with GCC's sanitizers (`make test-asan`).
"""

import glob
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Never -ffast-math: the order of summation is promised, and FMAs are explicit. -g0: Python's own flags ask for
# debugging symbols, which would be four fifths of the wheel.
COMMON = ["-std=c11", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
NEON = platform.machine().lower() in ("aarch64", "arm64")
# The one list of targets: name -> flags. dispatch.c says which of them a CPU can run.
TARGETS = {"baseline": [], "scalar": []}
if X86:
    TARGETS["avx2"] = ["-mavx2", "-mfma"]
    TARGETS["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"]
if NEON:
    TARGETS["neon"] = []
DRIVERS = [
    "activation", "dispatch", "dropout", "feedforward", "few_outputs", "gemm", "linear", "loss", "memory", "norm",
    "optim", "packed", "probe", "reduce", "sparse", "sparse_blocks", "sparse_packed", "threads", "turned", "values",
]


class build_kernels(build_ext):
    """build_ext that compiles the kernels with each target's flags, and finds out about OpenMP."""

    def build_extension(self, ext):
        macros = [(name, "1") for name, here in (("FC_HAVE_X86", X86), ("FC_HAVE_NEON", NEON)) if here]
        warnings = ["-Wall", "-Wextra", "-Werror"] if os.environ.get("FASTFC_WERROR") == "1" else []
        openmp = [] if os.environ.get("FASTFC_NO_OPENMP") == "1" else self.openmp_flags()
        sanitizers = os.environ.get("FASTFC_SANITIZE", "")
        sanitize = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-g1"] if sanitizers else []
        # Kernels unroll, inline and load all they do: with every check at each load GCC takes minutes for a file.
        checks = "signed-integer-overflow,shift,bounds,float-cast-overflow"
        light = ["-O1", "-fno-sanitize=undefined", f"-fsanitize={checks}"] if "undefined" in sanitizers else []

        def compile_c(sources, flags, last=()):
            return self.compiler.compile(
                sources,
                output_dir=self.build_temp,
                macros=macros,
                include_dirs=["src_c"],
                debug=self.debug,
                extra_postargs=[*COMMON, *warnings, *flags, *sanitize, *last],
                depends=ext.depends,
            )

        def compile_target(name):
            return compile_c([f"src_c/isa/{name}.c"], ["-O3", *TARGETS[name]], light)

        objects = compile_c([f"src_c/{name}.c" for name in DRIVERS], ["-O2", *openmp])
        # Half a minute each; the largest first.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for compiled in pool.map(compile_target, reversed(TARGETS)):
                objects += compiled
        ext.extra_objects = objects
        ext.extra_compile_args += sanitize
        ext.extra_link_args = [*openmp, *sanitize, "-lm"]
        super().build_extension(ext)

    def openmp_flags(self):
        """["-fopenmp"] if this compiler can build and link with it; fastfc works without, on one thread."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "openmp.c")
            with open(source, "w") as file:
                file.write("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            command = [*self.compiler.compiler_so, "-fopenmp", source, "-o", os.path.join(folder, "openmp")]
            command = [part for part in command if part not in ("-c", "-shared")]
            try:
                found = subprocess.run(command, capture_output=True).returncode == 0
            except OSError:
                found = False
        if not found:
            print("fastfc: this compiler has no OpenMP; building for one thread", file=sys.stderr)
        return ["-fopenmp"] if found else []


def c_files():
    for folder, _, files in os.walk("src_c"):
        yield from (os.path.join(folder, name) for name in files)


core = Extension(
    "fastfc._core",
    ["fastfc/_core.pyx"],
    include_dirs=["src_c", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), ("NPY_TARGET_VERSION", "NPY_1_22_API_VERSION")],
    extra_compile_args=["-O2", "-g0"],
    depends=sorted(c_files()) + sorted(glob.glob("fastfc/*.pxi")),
)

setup(ext_modules=cythonize([core], build_dir="build/cython"), cmdclass={"build_ext": build_kernels})
