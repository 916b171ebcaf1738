"""No instruction of a higher level outside its own objects: the built library, disassembled.

Each function goes back through the assembler, which is told what its source file may use and refuses the rest: the
drivers and the portable kernels x86-64 and no more, the kernels of AVX2 and AVX-512 what dispatch.c asks the CPU for.
Tables of bytes (kernels/tables.inc) are for CPUs that have VBMI too, which it asks for on its own.
"""

import os
import platform
import re
import shutil
import subprocess
from collections import defaultdict

import pytest

from fastfc import _core

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="levels of x86-64"),
    pytest.mark.skipif(not shutil.which("objdump") or not shutil.which("as"), reason="needs binutils"),
]

PORTABLE = "generic64"
LEVELS = {  # source file -> what the assembler may know
    "avx2.c": "generic64+avx2+fma+popcnt",
    "avx512.c": "generic64+avx2+fma+popcnt+avx512f+avx512bw+avx512dq+avx512vl",
    # libgcc's: asks the CPU, and then the system, whether there is AVX.
    "cpuinfo.o": "generic64+xsave",
    "cpuinfo.c": "generic64+xsave",
}


def run(*command, text=None):
    result = subprocess.run(command, input=text, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    return result.returncode, result.stdout, result.stderr


def functions(library):
    """{address: (source file, name)} of the functions of a library or object file."""
    found, source = {}, ""
    for line in run("readelf", "--syms", "--wide", str(library))[1].splitlines():
        fields = line.split()
        if len(fields) < 7 or not fields[0].rstrip(":").isdecimal():
            continue
        kind, name = fields[3], fields[7] if len(fields) > 7 else ""
        if kind == "FILE":
            source = name
        elif kind == "FUNC" and fields[6] != "UND":
            # Hidden names follow all files; a kernel's says its target.
            target = re.fullmatch(r"fc_\w+__(\w+?)(\.\w+)*", name)
            found[int(fields[1], 16)] = (f"{target[1]}.c" if target else source, name)
    return found


def instructions(library):
    """(source file, function, instruction) of each line of the disassembly."""
    known, at = functions(library), ("", "")
    for line in run("objdump", "-d", "--no-show-raw-insn", str(library))[1].splitlines():
        head = re.fullmatch(r"([0-9a-f]+) <(.+)>:", line)
        if head:
            at = known.get(int(head[1], 16), ("", head[2]))
        elif re.match(r" *[0-9a-f]+:\t", line):
            yield *at, line.split("\t", 1)[1].split("#")[0]


def as_source(text):
    """An instruction as the assembler reads it. Jumps, padding and markers that every x86-64 runs go; tzcnt is what
    objdump calls GCC's `rep bsf`, which counts the same on a CPU that does not know it."""
    text = re.sub(r"<[^>]*>", "", text).strip()
    text = re.sub(r"\b(bnd|notrack|data16)\b *", "", text)
    text = re.sub(r"\btzcnt", "bsf", text)
    return "nop" if not text or re.search(r"\bnop[wl]?\b|^endbr64|^(call|j\w+) +[0-9a-f]+$", text) else text


def refused(library):
    """[(source file, function, instruction)] that are above the level of their source file."""
    by_level = defaultdict(list)
    for source, function, text in instructions(library):
        level = LEVELS.get(source, PORTABLE)
        if source == "avx512.c" and re.match(r"tables_1_\d_f32\b", function):
            level += "+avx512_vbmi"
        by_level[level].append((source, function, as_source(text)))
    out = []
    for level, found in by_level.items():
        program = "".join(f"{text}\n" for *_, text in found)
        _, _, errors = run("as", f"-march={level}", "-o", os.devnull, "-", text=program)
        out += [found[int(number) - 1] for number in re.findall(r"^[^:]*:(\d+): Error", errors, re.MULTILINE)]
    return out


def test_the_library_keeps_to_the_levels_of_its_files():
    files = {source for source, *_ in instructions(_core.__file__)}
    if "dispatch.c" not in files:
        pytest.skip("the library's symbols are stripped")
    assert {"baseline.c", "scalar.c", "avx2.c", "avx512.c", "gemm.c", "sparse.c", "threads.c", "_core.c"} <= files
    found = refused(_core.__file__)
    assert not found, found[:10]
    # What the check is for is there to be found.
    texts = defaultdict(list)
    for source, _, text in instructions(_core.__file__):
        texts[source].append(text)
    assert any("%zmm" in text for text in texts["avx512.c"])
    assert any("vfmadd" in text and "%ymm" in text for text in texts["avx2.c"])


@pytest.mark.parametrize("name, flags", [("driver.c", "-mavx2"), ("driver.c", "-mfma"), ("avx2.c", "-mavx512f"),
                                         ("driver.c", "-msse4.1"), ("driver.c", "-mbmi2"), ("avx2.c", "-mavx2"),
                                         ("driver.c", "-O2")])  # fmt: skip
def test_the_check_sees_a_file_built_for_more(tmp_path, name, flags):
    compiler = os.environ.get("CC", "cc").split()
    if not shutil.which(compiler[0]):
        pytest.skip("no C compiler")
    source = tmp_path / name
    source.write_text(
        "#include <math.h>\n"
        "void scale(double *x, int n) { for (int i = 0; i < n; i++) x[i] = fma(x[i], 3.0, floor(x[i])); }\n"
        "long shift(long x, int by) { return x << by; }\n"
    )
    made = str(tmp_path / "made.o")
    done = run(*compiler, "-O3", "-fno-math-errno", *flags.split(), "-c", str(source), "-o", made)
    assert done[0] == 0, done
    allowed = (name, flags) in (("avx2.c", "-mavx2"), ("driver.c", "-O2"))
    assert bool(refused(made)) != allowed, refused(made)
