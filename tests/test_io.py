"""Saving and loading: round trips, atomic writing, damaged files; and copies of every layer."""

import copy
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastfc
from fastfc import layers

FORMATS = ["npz"]
try:
    import safetensors.numpy
    FORMATS.append("safetensors")
except ImportError:
    safetensors = None
NEEDS_SAFETENSORS = pytest.mark.skipif(safetensors is None, reason="safetensors is not installed")
ALL_FORMATS = pytest.mark.parametrize("suffix", FORMATS)


def model_of(seed=0):
    return fastfc.Sequential(fastfc.Linear(5, 4, rng=seed), fastfc.ReLU(),
                             fastfc.SparseLinear(4, 3, sparsity=0.5, rng=seed), fastfc.Linear(3, 2, rng=seed + 1))


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name


# -- round trips -------------------------------------------------------------------------------------------------------

@ALL_FORMATS
@pytest.mark.parametrize("eval_mode", [False, True])
def test_a_model_comes_back_bit_for_bit(tmp_path, suffix, eval_mode):
    path, model, other = tmp_path / f"model.{suffix}", model_of(0).train(not eval_mode), model_of(1)
    fastfc.save(path, model, metadata={"epoch": "3", "ключ": "Wert"})
    state = fastfc.load(path)
    same(dict(state), model.state_dict())
    assert state.metadata == {"epoch": "3", "ключ": "Wert"}
    other.load_state_dict(state)
    x = np.random.default_rng(0).standard_normal((7, 5), dtype=np.float32)
    np.testing.assert_array_equal(other(x), model(x))


@ALL_FORMATS
def test_any_array_under_any_name(tmp_path, suffix):
    grid = np.arange(24, dtype=np.float64).reshape(4, 6)
    state = {
        "file": grid, "a b/c": grid.T, "strided": grid[::2, ::-3], "scalar": np.float32(3), "empty": np.zeros((0, 3)),
        "nan": np.array([np.nan, -0.0, np.inf]), "arr_0": np.array([True, False]),
        "длинно": np.arange(3, dtype=np.int8), "big-endian": np.arange(3, dtype=">i4"),
        "no axis": np.array(7, np.uint64), "list": [1.0, 2.0],
    }  # fmt: skip
    fastfc.save(tmp_path / f"x.{suffix}", state)
    back = fastfc.load(tmp_path / f"x.{suffix}")
    known = {name: np.asarray(value) for name, value in state.items()}
    same(dict(back), {name: a.astype(a.dtype.newbyteorder("="), order="C") for name, a in known.items()})
    assert all(array.flags.writeable for array in back.values()) and back.metadata == {}


@ALL_FORMATS
def test_half_precision_is_widened_or_kept(tmp_path, suffix):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="has bfloat16")
    values = np.float32([0, -0.0, 1, -3.5, 3.0e38, 1e-40, np.inf, -np.inf, np.nan])
    state = {"bf": values.astype(ml_dtypes.bfloat16), "half": np.float16([1, 65504, 6e-8, np.nan]), "f": values,
             "scalar": np.array(2.5, ml_dtypes.bfloat16)}
    path = tmp_path / f"x.{suffix}"
    fastfc.save(path, state)
    same(dict(fastfc.load(path, keep_dtype=True)), state)
    wide = fastfc.load(path)
    same(dict(wide), {name: array.astype(np.float32) for name, array in state.items()})


@ALL_FORMATS
def test_bfloat16_is_read_without_ml_dtypes(tmp_path, suffix, monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="writes bfloat16")
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / f"x.{suffix}"
    fastfc.save(path, {"all": bits.view(ml_dtypes.bfloat16), "after": np.ones(3)})
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    state = fastfc.load(path)
    np.testing.assert_array_equal(state["all"].view(np.uint32), bits.astype(np.uint32) << 16)
    np.testing.assert_array_equal(state["after"], np.ones(3))
    with pytest.raises(TypeError, match=r"keep_dtype must be a bool, got ndarray"):
        fastfc.load(path, keep_dtype=np.ones(2))
    with pytest.raises(ImportError, match=r"keeping bfloat16 needs ml_dtypes: pip install ml_dtypes"):
        fastfc.load(path, keep_dtype=True)


def test_numpy_reads_what_is_written_and_the_other_way_round(tmp_path):
    model = model_of()
    fastfc.save(tmp_path / "a.npz", model)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        same(dict(archive), model.state_dict())
    np.savez(tmp_path / "b.npz", **model.state_dict())
    same(dict(fastfc.load(tmp_path / "b.npz")), model.state_dict())
    fastfc.save(tmp_path / "c.npz", model)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()  # no date, no chance


@NEEDS_SAFETENSORS
def test_the_library_reads_what_is_written_and_the_other_way_round(tmp_path):
    model = model_of()
    fastfc.save(tmp_path / "a.safetensors", model)
    same(safetensors.numpy.load_file(tmp_path / "a.safetensors"), model.state_dict())
    safetensors.numpy.save_file(model.state_dict(), tmp_path / "b.safetensors")
    same(dict(fastfc.load(tmp_path / "b.safetensors")), model.state_dict())


@ALL_FORMATS
@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop"])
def test_an_optimiser_goes_on_where_it_was_saved(tmp_path, suffix, kind):
    options = {"SGD": {"lr": 0.1, "momentum": 0.9}, "AdamW": {"betas": (0.8, 0.9)}, "RMSprop": {"momentum": 0.5}}[kind]
    results = []
    for saved in (False, True):
        model = fastfc.Linear(5, 4, rng=0)
        first, second = ([p] for p in model.parameters())
        opt = getattr(fastfc.optim, kind)([{"params": first}, {"params": second, "lr": 0.01}], **options)
        schedule = fastfc.optim.StepLR(opt, 2)
        rng = np.random.default_rng(1)
        for step in range(6):
            if saved and step == 3:
                fastfc.save(tmp_path / f"opt.{suffix}", opt, metadata={"step": "3"})
                opt = getattr(fastfc.optim, kind)([{"params": first}, {"params": second}])
                state = fastfc.load(tmp_path / f"opt.{suffix}")
                assert state.metadata["step"] == "3"
                opt.load_state_dict(state)
                schedule.optimizer = opt
            for p in model.parameters():
                p.grad = rng.standard_normal(p.data.shape, dtype=np.float32)
            opt.step()
            schedule.step()
        results.append({name: array.tobytes() for name, array in model.state_dict().items()})
    assert results[0] == results[1]


@pytest.mark.parametrize(("arrays", "groups"), [({"a": 1.0}, "[]"), ({"x.y": 1.0}, "[]"), ({}, "["), ({}, "[" * 10**6)])
def test_a_file_that_is_no_optimisers(tmp_path, arrays, groups):
    path = tmp_path / "x.npz"
    fastfc.save(path, arrays, metadata={"param_groups": groups})
    refused(path, "not the state of an optimiser")


# -- writing -----------------------------------------------------------------------------------------------------------

@ALL_FORMATS
@pytest.mark.parametrize("where", ["fsync", "replace", "write"])
def test_the_old_file_stays_whole_whatever_fails(tmp_path, suffix, where, monkeypatch):
    path = tmp_path / f"x.{suffix}"
    fastfc.save(path, {"a": np.ones(3)})
    before = path.read_bytes()

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if where == "write" and suffix == "npz":
            patch.setattr(np.lib.format, "write_array", fail)
        elif where == "write":
            patch.setattr(safetensors.numpy, "save_file", fail)
        else:
            patch.setattr(os, where, fail)
        with pytest.raises(OSError, match="No space"):
            fastfc.save(path, {"a": np.zeros(300)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@ALL_FORMATS
def test_a_new_file_takes_the_place_and_the_rights_of_the_old(tmp_path, suffix):
    path, link = tmp_path / f"x.{suffix}", tmp_path / f"link.{suffix}"
    fastfc.save(path, {"a": np.ones(3)})
    path.chmod(0o640)
    link.symlink_to(path)
    fastfc.save(str(link), {"a": np.zeros(2)})
    assert link.is_symlink() and path.stat().st_mode & 0o7777 == 0o640
    np.testing.assert_array_equal(fastfc.load(path)["a"], np.zeros(2))
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, link.name])


@pytest.mark.parametrize(("path", "state", "options", "error", "message"), [
    ("x.pt", {}, {}, ValueError, r"save\(\): path must end in .safetensors or .npz, got '.*x.pt'"),
    ("x", {}, {}, ValueError, r"path must end in"),
    ("x.npz", [np.ones(3)], {}, TypeError, r"state must be a Module, an Optimizer or a mapping.*got list"),
    ("x.npz", {"a": np.ones(3, complex)}, {}, TypeError, r"a must be of float16.*got complex128"),
    ("x.npz", {"a": object()}, {}, TypeError, r"a must be of float16.*got object"),
    ("x.npz", {"a": "text"}, {}, TypeError, r"a must be of float16.*got <U4"),
    ("x.npz", {"a": np.ones(3, "V2")}, {}, TypeError, r"a must be of float16.*got \|V2"),
    ("x.npz", {3: np.ones(3)}, {}, TypeError, r"names of arrays must be strings, got 3"),
    ("x.npz", {"": np.ones(3)}, {}, ValueError, r"cannot have the name ''"),
    ("x.npz", {"__metadata__": np.ones(3)}, {}, ValueError, r"cannot have the name '__metadata__'"),
    ("x.npz", {"a\0b": np.ones(3)}, {}, ValueError, r"cannot have the name 'a\\x00b'"),
    ("x.npz", {}, {"metadata": {"a": 3}}, TypeError, r"metadata must be a mapping from str to str, got {'a': 3}"),
    ("x.npz", {}, {"metadata": "a"}, TypeError, r"metadata must be a mapping from str to str, got 'a'"),
])
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, path, state, options, error, message):
    with pytest.raises(error, match=message):
        fastfc.save(tmp_path / path, state, **options)
    assert os.listdir(tmp_path) == []


def test_without_the_library_the_message_says_what_to_install(tmp_path, monkeypatch):
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ImportError, match=r"this format needs safetensors"):
        fastfc.save(tmp_path / "x.safetensors", {"a": np.ones(3)})
    assert os.listdir(tmp_path) == []
    (tmp_path / "x.safetensors").write_bytes(b"12345678")
    with pytest.raises(ImportError, match=r"this format needs safetensors: pip install safetensors"):
        fastfc.load(tmp_path / "x.safetensors")


# -- damaged files -----------------------------------------------------------------------------------------------------

def refused(path, message):
    """The load raises ValueError with `message`, and a model that it was for is as it was."""
    model = model_of()
    before = pickle.dumps(model.state_dict())
    with pytest.raises(ValueError, match=message) as caught:
        model.load_state_dict(fastfc.load(path))
    assert str(path) in str(caught.value)
    assert pickle.dumps(model.state_dict()) == before


def npz(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)


def npy(array=None, *, descr="<f4", shape=(3,), data=b"\0" * 12):
    file = io.BytesIO()
    if array is not None:
        np.save(file, array)
    else:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        file.write(data)
    return file.getvalue()


@pytest.mark.parametrize(("members", "message"), [
    ([("a.npy", npy(shape=(4,)))], r"array 'a': shape \(4,\) of float32 takes 16 bytes, there are 12"),
    ([("a.npy", npy(shape=(2,)))], r"array 'a': shape \(2,\) of float32 takes 8 bytes, there are 12"),
    ([("ok.npy", npy()), ("a.npy", npy(shape=(1 << 40, 1 << 20)))], r"array 'a': shape .* there are 12"),
    ([("a.npy", npy(shape=(1 << 62, 4), data=b""))], r"array 'a': shape .* there are 0"),
    ([("a.npy", npy(shape=(-3, -1)))], r"array 'a': shape \(-3, -1\)"),
    ([("a.npy", npy(descr="|O", data=pickle.dumps([1, 2, 3])))], r"array 'a': dtype object is not one"),
    ([("a.npy", npy(descr="<c8"))], r"array 'a': dtype complex64 is not one"),
    ([("a.npy", npy(descr="<U1"))], r"array 'a': dtype <U1 is not one"),
    ([("a.npy", b"\x93NUMPY\x01\x00\x05\x00xxxxx")], r"array 'a': "),
    ([("a.npy", b"\x93NUMPY\x07\x00\x05\x00xxxxx")], r"array 'a': .*7"),
    ([("a.npy", b"")], r"array 'a': "),
    ([("a.npy", pickle.dumps(3))], r"array 'a': "),
    ([("a.txt", b"hello")], r"array 'a.txt': is no .npy"),
    ([("a.npy", npy()), ("a.npy", npy())], r"array 'a': is there twice"),
    ([("__metadata__.npy", npy(np.frombuffer(b"[3]", np.uint8)))], r"__metadata__: expected a JSON object of strings"),
    ([("__metadata__.npy", npy(np.frombuffer(b"{", np.uint8)))], r"__metadata__: "),
])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_npz_that_lies(tmp_path, members, message):
    npz(tmp_path / "x.npz", members)
    refused(tmp_path / "x.npz", message)


def raw_npy(header, data=b"", version=b"\x01\x00"):
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


#: Files whose reading could take what they claim, run what they hold, or never end.
NPZ_LIES = {
    "terabytes": npy(shape=(1 << 40,)), "nothing times much": npy(shape=(0, 1 << 62), data=b""),
    "much times nothing": npy(shape=(1 << 62, 1 << 62, 0), data=b""),
    "objects": npy(descr="|O", data=b"cos\nabort\n(tR."),
    "a record of objects": npy(descr=[("a", "|O")], data=b"cos\nabort\n(tR."),
    "a header that is code": raw_npy(b"__import__('os').abort()"), "a header that nests": raw_npy(b"[" * 9000),
    "a header of signs": raw_npy(b"-" * 9000 + b"1"), "a long header": raw_npy(b" " * 60000),
    "a header longer than the file": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
    "version 3": raw_npy(b"{}", version=b"\x03\x00"),
}  # fmt: skip


@pytest.mark.measures_memory
@pytest.mark.parametrize("lie", NPZ_LIES)
def test_an_npz_takes_no_more_memory_than_it_has_bytes_and_runs_nothing(tmp_path, lie):
    npz(tmp_path / "x.npz", [("ok.npy", npy(np.ones(5))), ("a.npy", NPZ_LIES[lie])])
    with taking_at_most((tmp_path / "x.npz").stat().st_size):
        refused(tmp_path / "x.npz", "array 'a': ")


@pytest.mark.parametrize("field", ["crc", "data", "sizes", "compressed size", "offset"])
def test_an_npz_whose_directory_lies(tmp_path, field):
    path = tmp_path / "x.npz"
    npz(path, [("a.npy", npy(np.zeros(1000))), ("b.npy", npy(np.ones(1000)))])
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02")
    if field == "crc":
        raw[at + 16] ^= 1
    elif field == "data":
        raw[raw.index(b"a.npy") + 500] ^= 1
    elif field == "sizes":
        raw[at + 20:at + 28] = struct.pack("<II", 9000, 9000)
    elif field == "compressed size":
        raw[at + 20:at + 24] = struct.pack("<I", 100)
    else:
        raw[at + 42:at + 46] = struct.pack("<I", 40)
    path.write_bytes(raw)
    with taking_at_most(len(raw)):
        refused(path, "no sound .npz: ")


@contextmanager
def taking_at_most(nbytes):
    """Python and numpy together, at any moment; beside it what a header's parser takes, of 10,000 characters."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < nbytes + (4 << 20)


def test_a_compressed_npz_is_refused(tmp_path):
    """A few bytes could stand for gigabytes."""
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(1000))
    refused(tmp_path / "x.npz", r"array 'a': is compressed or encrypted; numpy.savez writes what can be read")


def test_members_that_lie_over_each_other_are_refused(tmp_path):
    """Each alone fits into the file, all together do not."""
    npz(tmp_path / "x.npz", [("a.npy", npy(np.zeros(1000)))])
    raw = (tmp_path / "x.npz").read_bytes()
    start = raw.index(b"PK\x01\x02")
    entry, end = raw[start:raw.index(b"PK\x05\x06")], raw[raw.index(b"PK\x05\x06"):]
    copies = [entry.replace(b"a.npy", b"%c.npy" % (97 + i)) for i in range(9)]
    end = end[:8] + struct.pack("<HHII", 9, 9, 9 * len(entry), start) + end[20:]
    (tmp_path / "x.npz").write_bytes(raw[:start] + b"".join(copies) + end)
    refused(tmp_path / "x.npz", r"\(\d+ bytes\) is no sound .npz: its members claim more than that")


def write_safetensors(path, header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def entry(shape=(4,), start=0, end=16, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@NEEDS_SAFETENSORS
@pytest.mark.parametrize(("header", "data", "message"), [
    ({"a": entry()}, b"1234", r"array 'a' ends at byte \d+, the file at \d+"),
    ({"a": entry()}, b"1" * 20, r"not fully covered"),
    ({"b": entry(), "a": entry((5,), 16, 32)}, b"1" * 32,
     r"array 'a': shape \(5,\) of F32 takes 20 bytes, its offsets 16 to 32 give 16"),
    ({"a": entry((1 << 62,), 0, 1 << 64 - 1)}, b"1" * 16, r"array 'a'"),
    ({"a": entry((1 << 62, 8))}, b"1" * 16, r"array 'a'"),
    ({"a": entry(), "b": entry()}, b"1" * 16, r"`[ab]`"),
    ({"a": entry(dtype="F33")}, b"1" * 16, r"F33"),
    ({"a": entry(dtype="F8_E4M3", end=4)}, b"1" * 4, r"array 'a': dtype F8_E4M3 is not one that can be loaded"),
    ({"a": 3}, b"", r"no sound safetensors"),
    (b"{{{", b"", r"JSON"), (b"[" * 100_000, b"", r"JSON"), (b"\xff\xfe", b"", r"UTF-8"),
])
def test_a_safetensors_file_that_lies(tmp_path, header, data, message):
    write_safetensors(tmp_path / "x.safetensors", header, data)
    refused(tmp_path / "x.safetensors", message)


@NEEDS_SAFETENSORS
@pytest.mark.parametrize(("header", "data"), [
    ({"a": entry((1 << 40,), 0, 1 << 42)}, b"1" * 16), ({"a": entry((0, 1 << 62), 0, 0)}, b""),
    ({"a": entry((1 << 62, 1 << 62, 0), 0, 0)}, b""), ({"a": entry((-1, -4), 0, 16)}, b"1" * 16),
    ({"a": entry((4,), -16, 0)}, b"1" * 16), ({"a": entry((4,), 16, 0)}, b"1" * 16),
    ({"a": entry((2,), 0, 8), "b": entry((4,), 4, 20)}, b"1" * 20),
    ({"a": entry((2,), 0, 8), "b": entry((2,), 12, 20)}, b"1" * 20),
    ({"a": {**entry(), "shape": [2.5]}}, b"1" * 16), ({"a": {**entry(), "shape": "4"}}, b"1" * 16),
    ({"__metadata__": {"a": 3}, "a": entry()}, b"1" * 16), ({"__metadata__": [1], "a": entry()}, b"1" * 16),
    (b'{"a": 1e999}', b""), (b" " * 100, b""), (b"{}" + b"\0" * 30, b""),
])
def test_a_safetensors_file_takes_no_more_memory_than_it_has_bytes(tmp_path, header, data):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, header, data)
    with taking_at_most(path.stat().st_size):
        refused(path, "safetensors")


@NEEDS_SAFETENSORS
@pytest.mark.parametrize("raw", [b"", b"123", struct.pack("<Q", 1 << 63), struct.pack("<Q", 100) + b"{}"])
def test_a_safetensors_file_without_its_header(tmp_path, raw):
    (tmp_path / "x.safetensors").write_bytes(raw)
    refused(tmp_path / "x.safetensors", rf"the header should take \d+ bytes, the whole file has {len(raw)}")


@NEEDS_SAFETENSORS
def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path, read = tmp_path / "x.safetensors", np.fromfile

    def cut(file, dtype, count):
        os.truncate(path, path.stat().st_size - 1)
        return read(file, dtype, count)

    fastfc.save(path, {"a": np.ones(3, np.float32)})
    monkeypatch.setattr(np, "fromfile", cut)
    refused(path, r"array 'a': the file ended while it was read")


@ALL_FORMATS
def test_a_file_cut_anywhere_is_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    fastfc.save(path, model_of(), metadata={"a": "b"})
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path, "no sound")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    for suffix in FORMATS:
        fastfc.save(folder / f"x.{suffix}", model_of(), metadata={"a": "b"})
    return {suffix: (folder / f"x.{suffix}").read_bytes() for suffix in FORMATS}


@given(suffix=st.sampled_from(FORMATS), damage=st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), min_size=1, max_size=3))
def test_random_damage_raises_value_error_or_is_data(sound, tmp_path_factory, suffix, damage):
    """safetensors has no checksum, so damaged data are data; an .npz is protected throughout."""
    raw = bytearray(sound[suffix])
    for place, new in damage:
        at = int(place * len(raw))
        raw[at:at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    path.write_bytes(raw)
    try:
        state = fastfc.load(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert sum(array.nbytes for array in state.values()) <= 2 * len(raw)
        if suffix == "npz":
            original = path.with_name("original.npz")
            original.write_bytes(sound[suffix])
            known = fastfc.load(original)
            for name in known.keys() & state.keys():
                assert state[name].tobytes() == known[name].tobytes()


def test_a_file_that_is_not_there():
    for suffix in FORMATS:
        with pytest.raises(FileNotFoundError):
            fastfc.load(f"nowhere.{suffix}")
    with pytest.raises(ValueError, match=r"load\(\): path must end in .safetensors or .npz, got 'x.pkl'"):
        fastfc.load("x.pkl")


# -- pickle and deepcopy of every layer --------------------------------------------------------------------------------

#: Each layer: how one is made, and its x (or the shape of x); of more than one x, each. A new layer gets its line here,
#: a second form of it a second word.
LAYERS = {
    "Bilinear": (lambda: fastfc.Bilinear(5, 5, 4, rng=0), (3, 5), (3, 5)),
    "Dropout": (lambda: fastfc.Dropout(0.5), (3, 5)),
    "ELU": (lambda: fastfc.ELU(0.5), (3, 5)),
    "Embedding": (lambda: fastfc.Embedding(6, 4, rng=0), np.array([[1, 2], [5, 0]])),
    "EmbeddingBag": (lambda: fastfc.EmbeddingBag(6, 4, rng=0), np.array([[1, 2], [5, 0]])),
    "FeedForward": (lambda: fastfc.FeedForward(5, 8, dropout=0.0, rng=0), (3, 5)),
    "FeedForward gated": (lambda: fastfc.FeedForward(5, 8, dropout=0.0, gated=True, rng=0), (3, 5)),
    "Flatten": (lambda: fastfc.Flatten(), (3, 5, 2)),
    "GELU": (lambda: fastfc.GELU(approximate="tanh"), (3, 5)),
    "GroupedLinear": (lambda: fastfc.GroupedLinear(6, 4, groups=2, rng=0), (3, 6)),
    "Hardswish": (lambda: fastfc.Hardswish(), (3, 5)),
    "Identity": (lambda: fastfc.Identity(), (3, 5)),
    "LayerNorm": (lambda: fastfc.LayerNorm(5), (3, 5)),
    "LazyLinear": (lambda: fastfc.LazyLinear(4, rng=0), (3, 5)),
    "LeakyReLU": (lambda: fastfc.LeakyReLU(0.2), (3, 5)),
    "Linear": (lambda: fastfc.Linear(5, 4, rng=0), (3, 5)),
    "LogSoftmax": (lambda: fastfc.LogSoftmax(), (3, 5)),
    "LowRankLinear": (lambda: fastfc.LowRankLinear(5, 4, rank=2, rng=0), (3, 5)),
    "MaskedLinear": (lambda: fastfc.MaskedLinear(5, 4, rng=0), (3, 5)),
    "RMSNorm": (lambda: fastfc.RMSNorm(5), (3, 5)),
    "ReLU": (lambda: fastfc.ReLU(), (3, 5)),
    "SeparableLinear": (lambda: fastfc.SeparableLinear(6, 4, groups=2, rng=0), (3, 6)),
    "SiLU": (lambda: fastfc.SiLU(), (3, 5)),
    "Sigmoid": (lambda: fastfc.Sigmoid(), (3, 5)),
    "Softmax": (lambda: fastfc.Softmax(), (3, 5)),
    "Softplus": (lambda: fastfc.Softplus(), (3, 5)),
    "SparseLinear": (lambda: fastfc.SparseLinear(5, 4, rng=0), (3, 5)),
    "Tanh": (lambda: fastfc.Tanh(), (3, 5)),
    "Unflatten": (lambda: fastfc.Unflatten(1, (2, 3)), (3, 6)),
    "checkpoint": (lambda: fastfc.checkpoint(fastfc.Linear(5, 4, rng=0)), (3, 5)),
    "spectral_norm": (lambda: fastfc.spectral_norm(fastfc.Linear(5, 4, rng=0), rng=0), (3, 5)),
    "weight_norm": (lambda: fastfc.weight_norm(fastfc.Linear(5, 4, rng=0)), (3, 5)),
}


def test_every_layer_is_in_the_list():
    public = {name: getattr(layers, name) for name in layers.__all__}
    assert set(LAYERS) >= {name for name, kind in public.items() if isinstance(kind, type)}


def made(name):
    """A layer of the list and its x, one or more."""
    make, *xs = LAYERS[name]
    rng = np.random.default_rng(0)
    return make(), [rng.standard_normal(x).astype(np.float32) if isinstance(x, tuple) else x for x in xs]


def trained(layer, xs):
    """One step of SGD."""
    y, backward = layer.vjp(*xs)
    backward(np.ones_like(y))
    for parameter in layer.parameters():
        parameter.data[...] -= np.float32(0.1) * parameter.grad
    return layer


@pytest.mark.parametrize("name", sorted(LAYERS))
@pytest.mark.parametrize("kind", ["fresh", "trained", "packed", "inside"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
                         ids=["deepcopy", "pickle"])
def test_a_copy_of_a_layer_is_a_layer_of_its_own(name, kind, duplicate):
    layer, xs = made(name)
    if kind != "fresh":
        trained(layer, xs)
    if kind == "packed":
        layer.eval()
    if kind == "inside" and len(xs) == 1:
        layer = fastfc.Sequential(layer)
    twin = duplicate(layer)
    assert repr(twin) == repr(layer)
    if kind == "fresh" and name == "LazyLinear":
        trained(twin, xs)  # its copy takes shape, and not with it
        assert repr(twin) != repr(layer)
        return
    for model in (layer, twin):
        for module in model.modules():
            module.training = False  # nothing is dropped out, and nothing packed that was not
    same(twin.state_dict(), layer.state_dict())
    y = layer(*xs)
    np.testing.assert_array_equal(twin(*xs), y)
    twin.train()
    for parameter in twin.parameters():
        parameter.data[...] = 0.5
    np.testing.assert_array_equal(layer(*xs), y)


@ALL_FORMATS
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_goes_through_a_file(tmp_path, suffix, name):
    (layer, xs), (other, _) = made(name), made(name)
    trained(layer, xs).eval()
    other.vjp(*xs)
    other.eval()
    path = Path(tmp_path, f"x.{suffix}")
    fastfc.save(path, layer)
    other.load_state_dict(fastfc.load(path))
    np.testing.assert_array_equal(other(*xs), layer(*xs))
