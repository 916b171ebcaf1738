"""The self-test: all is well here, and a fault in any kernel is seen and taken out of use."""

import textwrap

import faults
import numpy as np
import pytest
from samples import FMA_ISAS
from test_runtime import python

import fastfc
from fastfc import __main__, _core, diagnosis

with_symbols = pytest.mark.skipif(not faults.symbols(), reason="the library's symbols are stripped")


def script(text, **environment):
    return python(textwrap.dedent(text), **environment)


def test_all_is_well(capsys):
    before = fastfc.available_isas(), fastfc.current_isa()
    report = fastfc.selftest()
    assert report and report.ok and not report.failures and not report.dropped, report
    assert report.isas == fastfc.available_isas() and 0 < report.seconds
    assert "ok" in str(report) and all(f"{isa:9} ok" in str(report) for isa in report.isas)
    assert (fastfc.available_isas(), fastfc.current_isa()) == before
    assert __main__.main(["selftest"]) == 0
    assert "self-test: ok" in capsys.readouterr().out


@with_symbols
@pytest.mark.parametrize("isa", [isa for isa in fastfc.available_isas() if isa != "scalar"] or ["scalar"])
def test_a_fault_in_any_kernel_is_seen(isa):
    """Each kernel of kernels.def, for both dtypes: one that does nothing, and one that rounds the wrong way, of which
    only the last bits tell. (pack and dropout only copy and scale, the probe's numbers are thrown away.)"""
    result = script(
        f"""
        import sys
        from faults import faulty
        from fastfc import _core, diagnosis
        isa, seen = {isa!r}, 0
        right, none = diagnosis._run("scalar")
        def failures():
            values, found = diagnosis._run(isa)
            return found + diagnosis._compare({{"scalar": right, isa: values}}, {{f.isa for f in found}})
        assert not none and not failures()
        for kernel in _core.kernel_names():
            for fault in ("idle", "truncates"):
                if fault == "truncates" and (isa == "baseline" or kernel in ("pack", "dropout", "probe")):
                    continue
                for dtype in ("f32", "f64"):
                    with faulty(isa, kernel, dtype, fault):
                        found = failures()
                    if not found or {{f.isa for f in found}} != {{isa}}:
                        print("not seen:", kernel, dtype, fault, found[:2])
                    seen += 1
        assert not failures()
        print(seen)
        """
    )
    kernels = len(_core.kernel_names())
    expected = 2 * (kernels + (kernels - 3) * (isa != "baseline"))
    assert result.stdout.strip() == str(expected), result.stdout + result.stderr


@with_symbols
def test_a_faulty_target_is_taken_out_of_dispatch():
    """With a warning that says what to report, and an exit status; what comes after is right."""
    result = script(
        """
        import warnings
        import fastfc, numpy as np
        from faults import faulty
        from fastfc import __main__
        best, *others = fastfc.available_isas()
        x, w = np.arange(40 * 30.).reshape(40, 30) % 7, np.arange(50 * 30.).reshape(50, 30) % 5
        with faulty(best, "gemm", "f64", "idle"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            status = __main__.main(["selftest"])
            assert status == 1
            assert fastfc.available_isas() == others and fastfc.current_isa() == others[0] != best
            assert (fastfc.linear(x, w) == x @ w.T).all() and (fastfc.linear(x, fastfc.pack(w)) == x @ w.T).all()
            again = fastfc.selftest()
            assert again.ok and again.isas == others
        (warning,) = caught
        assert warning.category is RuntimeWarning
        text = str(warning.message)
        assert best in text and "python -m fastfc selftest" in text and "report" in text and others[0] in text, text
        """
    )
    assert result.returncode == 0, result.stderr
    assert "self-test: FAILED" in result.stdout and "FAILED, out of use now" in result.stdout
    assert "dense, float64" in result.stdout


@with_symbols
@pytest.mark.parametrize("which, left", [("scalar", -1), ("all", None)])
def test_what_is_left_when_the_definition_or_everything_is_wrong(which, left):
    """A fault in `scalar`, with which the others are compared, does not cost the others their place; and with all
    targets faulty, none is dropped, and the report says so."""
    result = script(
        f"""
        import contextlib, warnings
        import fastfc
        from faults import faulty
        isas = fastfc.available_isas()
        faulty_ones = isas if {which!r} == "all" else ["scalar"]
        with contextlib.ExitStack() as stack, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for isa in faulty_ones:
                stack.enter_context(faulty(isa, "gemm", "f32", "idle"))
            report = fastfc.selftest()
        assert not report and len(caught) == 1
        assert fastfc.available_isas() == (isas[:{left}])
        assert report.dropped == ([] if {which!r} == "all" else ["scalar"])
        assert ("do not trust" in str(caught[0].message)) == ({which!r} == "all")
        """
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(len(FMA_ISAS) < 2, reason="needs two targets of one bits")
def test_other_threads_keep_their_target():
    """A target that a thread selects for itself is its own."""
    import threading

    seen = []
    other = next(isa for isa in fastfc.available_isas() if isa != fastfc.current_isa())
    _core.select_isa_here(other)
    try:
        thread = threading.Thread(target=lambda: seen.append(fastfc.pack(np.ones((3, 4))).isa))
        thread.start()
        thread.join()
        mine = fastfc.pack(np.ones((3, 4))).isa
    finally:
        _core.select_isa_here(None)
    assert seen == [fastfc.current_isa()] and mine == other
    with pytest.raises(ValueError, match="not available"):
        _core.select_isa_here("mmx")
    assert fastfc.pack(np.ones((3, 4))).isa == fastfc.current_isa()


def test_differences_are_described():
    a = np.array([1.0, np.nan, 0.0, 2.0])
    assert diagnosis._difference(a, a.copy()) == ""
    assert "1 of 4" in diagnosis._difference(np.array([1.0, np.nan, -0.0, 2.0]), a)
    assert "shape" in diagnosis._difference(a[:2], a)
    near = np.nextafter(a, 3)
    near[2] = 0
    assert diagnosis._difference(near, a) and diagnosis._difference(near, a, 1e-13) == ""
