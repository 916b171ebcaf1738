"""The fuzzer (fuzz.py): a short piece of it, and that it sees what is wrong."""

import os
import signal
import subprocess
import sys
import textwrap

import fuzz
import numpy as np
import pytest

import fastfc
from fastfc import _core


@pytest.fixture(scope="module", autouse=True)
def ready(tmp_path_factory):
    fuzz.set_up(str(tmp_path_factory.mktemp("fuzz")))
    before = fastfc.current_isa()
    yield
    _core.select_isa(before)


def found(only, count=300):
    """What the first cases of one kind have against it."""
    out = []
    for number in range(count):
        try:
            fuzz.run(0, number, only)
        except fuzz.Wrong as error:
            out.append(str(error))
    return out


@pytest.mark.parametrize("only", [target.__name__ for target in fuzz.TARGETS])
def test_nothing_is_wrong(only):
    assert found(only) == []


def test_a_case_is_the_same_again():
    for number in range(40):
        one, two = fuzz.Case(3, number), fuzz.Case(3, number)
        _, a, _, _ = fuzz.linear(one)
        _, b, _, _ = fuzz.linear(two)
        assert list(a) == list(b) and np.array_equal(np.asarray(one.before[0][1]), np.asarray(two.before[0][1]))


FAULTS = {
    "a wrong bit": lambda x, w, *a, **o: plus_one_bit(LINEAR(x, w, *a, **o)),
    "a malformed argument that passes": lambda x, w, *a, **o: LINEAR(x, w, *a, **{**o, "activation": None}),
    "a message without the name": lambda x, w, *a, **o: nameless(lambda: LINEAR(x, w, *a, **o)),
    "another kind of error": lambda x, w, *a, **o: other_error(lambda: LINEAR(x, w, *a, **o)),
    "an input that is written": lambda x, w, *a, **o: overwrite(x, LINEAR(x, w, *a, **o)),
}
LINEAR = fastfc.linear


def plus_one_bit(result):
    y = result[0] if isinstance(result, tuple) else result
    if y.size:
        y[(0,) * y.ndim] = np.nextafter(y[(0,) * y.ndim], y.dtype.type(np.inf))
    return result


def nameless(call):
    try:
        return call()
    except (TypeError, ValueError):
        raise ValueError("no") from None


def other_error(call):
    try:
        return call()
    except (TypeError, ValueError):
        raise AttributeError("shape") from None


def overwrite(x, result):
    if isinstance(x, np.ndarray) and x.size and x.flags.writeable:
        x[...] = 7
    return result


@pytest.mark.parametrize("fault", FAULTS)
def test_it_sees(fault, monkeypatch):
    def linear(x, weight, bias=None, **options):
        return FAULTS[fault](x, weight, bias, **options)

    monkeypatch.setattr(fastfc, "linear", linear)
    assert found("linear", 100)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("if number == 7: os.kill(os.getpid(), 11)", f"WRONG case 7: ends the process with status {-signal.SIGSEGV}"),
        ("if number == 7: time.sleep(60)", "WRONG case 7: hangs"),
        ("kept.append(bytearray(1000))", "WRONG memory"),
        ("pass", "60 of 60 calls, 0 wrong"),
    ],
)
def test_it_goes_on_after_a_crash_a_hang_and_growth(tmp_path, body, said):
    """In a fuzzer whose cases do nothing but that."""
    script = tmp_path / "fuzzer.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys, time, runpy
        sys.path.insert(0, {os.path.dirname(os.path.abspath(fuzz.__file__))!r})
        import fuzz
        kept = []
        def run(seed, number, only=None):
            {body}
        fuzz.run, fuzz.__file__ = run, __file__
        sys.exit(fuzz.main())
        """)
    )
    calls = "12000" if "kept" in body else "60"
    result = subprocess.run(
        [sys.executable, str(script), "--calls", calls, "--stall", "2"], capture_output=True, text=True, timeout=100
    )
    assert said in result.stdout, result.stdout + result.stderr
    assert result.returncode == ("0 wrong" not in said)
