"""On x86-64 CPUs of other kinds, emulated (`make test-x86`): the built library, as it is, and which kernels it chooses.

Not part of the tests that run by themselves: a minute for each CPU on which the whole self-test runs.
"""

import os
import shutil
import signal
import subprocess
import sys

import pytest

import fastfc

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="the library is for x86-64"),
]
PORTABLE = ["baseline", "scalar"]


def emulated(cpu, *command):
    assert shutil.which("qemu-x86_64"), "needs the Debian package qemu-user"
    # What OpenBLAS was told about this machine's CPU (OPENBLAS_CORETYPE) is not true of that one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    return subprocess.run(
        ["qemu-x86_64", "-cpu", cpu, *command], capture_output=True, text=True, timeout=500, env=environment
    )


def python(cpu, script, **environment):
    folders = [os.path.dirname(os.path.dirname(os.path.abspath(fastfc.__file__))), *sys.path]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "FASTFC_NUM_THREADS": "1", **environment}
    settings = [argument for name, value in variables.items() for argument in ("-E", f"{name}={value}")]
    return emulated(cpu, *settings, sys.executable, "-c", script)


@pytest.mark.parametrize(
    "cpu, isas, whole",
    [
        ("Nehalem", PORTABLE, True),  # no AVX
        ("IvyBridge", PORTABLE, False),  # AVX, neither AVX2 nor FMA
        ("Haswell,-fma", PORTABLE, False),
        ("Haswell,-avx2", PORTABLE, False),
        ("Haswell", ["avx2", *PORTABLE], True),
    ],
)
def test_the_right_kernels_run_and_are_right(cpu, isas, whole):
    """The emulator ends a process at an instruction that its CPU lacks. `whole`: all targets, and their bits compared;
    otherwise the one that is chosen."""
    result = python(
        cpu,
        "import fastfc\n"
        "from fastfc import diagnosis\n"
        f"print(fastfc.available_isas(), fastfc.current_isa(), "
        f"{'fastfc.selftest().failures' if whole else 'diagnosis._run(fastfc.current_isa())[1]'})\n",
    )
    assert result.stdout.strip() == f"{isas} {isas[0]} []", result.stdout + result.stderr


def test_what_the_cpu_lacks_is_refused_at_import():
    result = python("Nehalem", "import fastfc", FASTFC_ISA="avx2")
    assert result.returncode == 1 and "ImportError: FASTFC_ISA='avx2' is not available" in result.stderr


@pytest.mark.parametrize("cpu, ends", [("Nehalem", True), ("IvyBridge", True), ("Haswell", False)])
def test_the_emulator_ends_at_what_its_cpu_lacks(tmp_path, cpu, ends):
    source, program = tmp_path / "program.c", str(tmp_path / "program")
    source.write_text(
        "#include <immintrin.h>\n"
        "int main(int n, char **a) {\n"
        "    (void)a;\n"
        "    return _mm256_extract_epi32(_mm256_add_epi32(_mm256_set1_epi32(n), _mm256_set1_epi32(-1)), 3);\n"
        "}\n"
    )
    subprocess.run([*os.environ.get("CC", "cc").split(), "-mavx2", str(source), "-o", program], check=True)
    assert emulated(cpu, program).returncode == (-signal.SIGILL if ends else 0)
