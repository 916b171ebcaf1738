"""Saving and loading of states: files of named arrays, as safetensors or ``.npz``.

A file comes from anywhere, so nothing in it is believed before it is checked, and nothing in it is ever run: arrays
only, no pickles. What a header claims must fit the file before memory is taken for it.
"""

import math
import os
from collections.abc import Mapping
from contextlib import contextmanager, suppress

import numpy as np

from fastfc.arrays import array_of
from fastfc.layers.arguments import flag
from fastfc.module import Module
from fastfc.optim import Optimizer

__all__ = ["load", "save"]

GROUPS = "param_groups"  # of an optimiser, JSON in the metadata
METADATA = "__metadata__"  # safetensors reserves the name; in an .npz it is one more array, JSON in bytes

# bfloat16 without ml_dtypes: two bytes that numpy knows nothing about. So does numpy read them back from an .npz.
BFLOAT16 = np.dtype("V2")

# Names of dtypes in safetensors; what is missing here (complex numbers, 8 and fewer bits) no layer has a use for.
SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "V2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
KNOWN = frozenset(np.dtype(dtype).newbyteorder("=") for dtype in SAFETENSORS.values())


class State(dict):
    """What `load` returns: arrays by name, and the file's `metadata`, a dict of strings."""

    def __init__(self, arrays=(), metadata=None):
        super().__init__(arrays)
        self.metadata = dict(metadata or {})


def save(path, state, *, metadata=None):
    """Write a model's state to a file.

    The file is written beside the old one, brought to disk and then renamed over it: whatever fails, `path` holds
    either the old state or the new one, whole.

    Parameters
    ----------
    path : path ending in ``.safetensors`` or ``.npz``
        The first needs the package safetensors (``pip install fastfc[safetensors]``), and is what torch, transformers
        and others read; the second numpy only, and is what ``numpy.load`` reads.
    state : Module, Optimizer, or mapping from str to array
        The first two stand for their ``state_dict()``. Arrays of float16, float32, float64, bfloat16 (of ml_dtypes),
        integers or bool, and CPU tensors that ``numpy.asarray`` takes.
    metadata : mapping from str to str, optional
        What else is worth keeping, such as the version of the data.

    Raises
    ------
    TypeError
        If `state` or `metadata` is of another kind, or an array of a dtype that is not listed.
    ValueError
        If `path` ends otherwise, or a name cannot be one.
    ImportError
        Without the package that the format needs.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import fastfc, os, tempfile
    >>> model = fastfc.Sequential(fastfc.Linear(4, 3, rng=0), fastfc.ReLU(), fastfc.Linear(3, 2, rng=1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.npz")
    ...     fastfc.save(path, model, metadata={"data": "2026-11"})
    ...     state = fastfc.load(path)
    >>> list(state), state.metadata
    (['0.weight', '0.bias', '2.weight', '2.bias'], {'data': '2026-11'})
    >>> model.load_state_dict(state)
    LoadResult(missing_keys=[], unexpected_keys=[])
    """
    path, write, _ = _format("save", path)
    metadata = {} if metadata is None else metadata
    if not (isinstance(metadata, Mapping) and all(isinstance(text, str) for pair in metadata.items() for text in pair)):
        raise TypeError(f"save(): metadata must be a mapping from str to str, got {metadata!r}")
    if isinstance(state, Module):
        state = state.state_dict()
    elif isinstance(state, Optimizer):
        state, metadata = _flattened(state.state_dict(), metadata)
    if not isinstance(state, Mapping):
        raise TypeError(f"save(): state must be a Module, an Optimizer or a mapping from str to array, "
                        f"got {type(state).__name__}")
    arrays = {_name(name): _native(name, value) for name, value in state.items()}
    with _replacing(path) as partial:
        write(partial, arrays, dict(metadata))


def load(path, *, keep_dtype=False):
    """Read what `save`, torch (as safetensors) or ``numpy.savez`` wrote.

    Parameters
    ----------
    path : path ending in ``.safetensors`` or ``.npz``
    keep_dtype : bool
        False: float16 and bfloat16 are widened to float32, without loss. True: they stay as they are, bfloat16 as
        ml_dtypes has it (that package is then needed).

    Returns
    -------
    dict from str to ndarray
        For ``model.load_state_dict``; its attribute ``metadata`` is a dict of strings. Of an optimiser's file, what
        its ``state_dict`` returned.

    Raises
    ------
    ValueError
        If `path` ends otherwise, or the file is damaged, truncated, compressed or not of its format; says what is
        wrong with which array. What the file claims is checked against its length before memory is taken.
    ImportError
        Without the package that the format or the dtype needs.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import fastfc, os, tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "half.npz")
    ...     fastfc.save(path, {"weight": np.ones((2, 3), np.float16)})
    ...     fastfc.load(path)["weight"].dtype, fastfc.load(path, keep_dtype=True)["weight"].dtype
    (dtype('float32'), dtype('float16'))
    """
    (path, _, read), keep_dtype = _format("load", path), flag("load", "keep_dtype", keep_dtype)
    with open(path, "rb") as file:
        arrays, metadata = read(path, file, os.fstat(file.fileno()).st_size)
    arrays = {name: _widened(array, keep_dtype) for name, array in arrays.items()}
    return State(_nested(path, arrays, metadata) if GROUPS in metadata else arrays, metadata)


def _format(function, path):
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"{function}(): path must be a string or a path, got {type(path).__name__}")
    path = os.fsdecode(path)
    suffix = os.path.splitext(path)[1]
    if suffix not in FORMATS:
        raise ValueError(f"{function}(): path must end in {' or '.join(FORMATS)}, got {path!r}")
    return path, *FORMATS[suffix]


def _name(name):
    if not isinstance(name, str):
        raise TypeError(f"save(): names of arrays must be strings, got {name!r}")
    if not name or name == METADATA or "\0" in name:
        raise ValueError(f"save(): an array cannot have the name {name!r}")
    return name


def _native(name, value):
    """`value` as a C-contiguous array in the machine's byte order."""
    array = array_of(f"save(): {name}", value)
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    if array.dtype not in KNOWN - {BFLOAT16} and array.dtype.name != "bfloat16":
        raise TypeError(f"save(): {name} must be of float16, float32, float64, bfloat16, integers or bool, "
                        f"got {array.dtype}")
    return array


def _widened(array, keep_dtype):
    if array.dtype == BFLOAT16:
        if keep_dtype:
            return array.view(_needed("ml_dtypes", "load(keep_dtype=True)", "keeping bfloat16").bfloat16)
        wide = array.view(np.uint16).astype(np.uint32)
        return np.left_shift(wide, 16, out=wide).view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 and not keep_dtype else array


def _needed(module, function, what):
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(f"{function}: {what} needs {name}: pip install {name}") from error


def _flattened(state, metadata):
    """State and metadata for an optimiser: "0.exp_avg" for the arrays, JSON for the options."""
    import json

    arrays = {f"{i}.{name}": value for i, slots in state["state"].items() for name, value in slots.items()}
    return arrays, {**metadata, GROUPS: json.dumps(state[GROUPS])}


def _nested(path, arrays, metadata):
    import json

    try:
        groups, state = json.loads(metadata[GROUPS]), {}
        for name, array in arrays.items():
            i, slot = name.split(".", 1)
            state.setdefault(int(i), {})[slot] = array
    except (ValueError, RecursionError) as error:
        raise ValueError(f"load(): {path}: not the state of an optimiser: {error}") from None
    return {"state": state, GROUPS: groups}


@contextmanager
def _replacing(path):
    """The path of a new file, which takes the place of `path` if the block ends well and is removed otherwise."""
    target = os.path.realpath(path)  # a link stays a link
    folder = os.path.dirname(target)
    partial = os.path.join(folder, f".{os.urandom(8).hex()}.partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        if os.path.exists(target):
            os.chmod(partial, os.stat(target).st_mode & 0o7777)
        os.replace(partial, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    if os.name == "posix":  # the new name, too, is on disk before this returns
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# -- .npz --------------------------------------------------------------------------------------------------------------

def _write_npz(path, arrays, metadata):
    import json
    import zipfile

    if metadata:
        arrays = {**arrays, METADATA: np.frombuffer(json.dumps(metadata).encode(), np.uint8)}
    with zipfile.ZipFile(path, "x", allowZip64=True) as archive:
        for name, array in arrays.items():
            # As numpy.savez does it, which takes no array of the name "file"; without the date, so that the same
            # state is the same file.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_npz(path, file, nbytes):
    import zipfile

    where, arrays = "", {}
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            for info in members:
                name = info.filename.removesuffix(".npy")
                where = f"array {name!r}: "
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise ValueError("is compressed or encrypted; numpy.savez writes what can be read")
                if name == info.filename or name in arrays:
                    raise ValueError("is there twice" if name in arrays else "is no .npy")
                arrays[name] = info
            where = ""
            # Whatever the directory says, the members together cannot be longer than the file.
            if sum(info.file_size for info in members) > nbytes:
                raise ValueError("its members claim more than that")
            for name, info in arrays.items():
                where = f"array {name!r}: "
                with archive.open(info) as member:
                    arrays[name] = _read_npy(member, info.file_size)
        where = f"{METADATA}: "
        metadata = _json_strings(arrays.pop(METADATA, None))
    except MemoryError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds for what a damaged file can hold
        what = f"{where}{str(error) or type(error).__name__}"
        raise ValueError(f"load(): {path} ({nbytes} bytes) is no sound .npz: {what}") from error
    return arrays, metadata


def _read_npy(member, nbytes):
    """The array in a member of `nbytes` bytes, whose header must say just that."""
    form = np.lib.format
    version = form.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format is not known")
    try:
        shape, _, dtype = (form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0)(member)
    except (MemoryError, RecursionError):  # so Python's parser says that it nests too deeply
        raise ValueError("its header is no description of an array") from None
    native = dtype.newbyteorder("=")
    if native not in KNOWN:
        raise ValueError(f"dtype {dtype} is not one that can be loaded")
    claimed, there = math.prod(shape) * dtype.itemsize, nbytes - member.tell()
    if min(shape, default=0) < 0 or claimed != there:
        raise ValueError(f"shape {shape} of {dtype} takes {claimed} bytes, there are {there}")
    member.seek(0)
    return form.read_array(member, allow_pickle=False).astype(native, copy=False)


def _json_strings(array):
    import json

    if array is None:
        return {}
    found = json.loads(array.tobytes())
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("expected a JSON object of strings")
    return found


# -- safetensors -------------------------------------------------------------------------------------------------------

def _write_safetensors(path, arrays, metadata):
    library = _needed("safetensors.numpy", "save()", "this format")
    library.save_file(arrays, path, metadata=metadata or None)


def _read_safetensors(path, file, nbytes):
    library = _needed("safetensors", "load()", "this format")
    try:
        # Checks the header: offsets that cover the file without a gap, each as long as its shape and dtype say.
        with library.safe_open(path, framework="np") as archive:
            metadata, names = archive.metadata() or {}, archive.offset_keys()
            parts = [archive.get_slice(name) for name in names]
            kinds = [(part.get_dtype(), tuple(part.get_shape())) for part in parts]
    except library.SafetensorError as error:
        raise ValueError(f"load(): {path} is no sound safetensors file: {error}{_fault(file, nbytes)}") from None
    # The arrays are read by numpy: the library's own reader knows no bfloat16 without ml_dtypes.
    arrays = {}
    file.seek(8 + int.from_bytes(file.read(8), "little"))
    for name, (kind, shape) in zip(names, kinds, strict=True):
        if kind not in SAFETENSORS:
            raise ValueError(f"load(): {path}: array {name!r}: dtype {kind} is not one that can be loaded")
        dtype = np.dtype(SAFETENSORS[kind])
        array = np.fromfile(file, dtype, math.prod(shape))
        if array.size != math.prod(shape):
            raise ValueError(f"load(): {path}: array {name!r}: the file ended while it was read")
        try:
            array = array.reshape(shape)
        except ValueError as error:  # no bytes, and lengths beyond what an array can have
            raise ValueError(f"load(): {path}: array {name!r}: shape {shape}: {error}") from None
        arrays[name] = array.astype(dtype.newbyteorder("="), copy=False)
    return {name: arrays[name] for name in sorted(arrays)}, metadata


def _fault(file, nbytes):
    """Where a file that the library refuses goes wrong: it says what, but not always in which array."""
    import json

    length = int.from_bytes(file.read(8), "little")
    if length > nbytes - 8:
        return f"; the header should take {length} bytes, the whole file has {nbytes}"
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        for name, entry in json.loads(file.read(length)).items():
            if name == METADATA:
                continue
            shape, (start, end) = entry["shape"], entry["data_offsets"]
            taken = math.prod(shape) * np.dtype(SAFETENSORS[entry["dtype"]]).itemsize
            if taken != end - start:
                return (f"; array {name!r}: shape {tuple(shape)} of {entry['dtype']} takes {taken} bytes, "
                        f"its offsets {start} to {end} give {end - start}")
            if 8 + length + end > nbytes:
                return f"; array {name!r} ends at byte {8 + length + end}, the file at {nbytes}"
    return ""


FORMATS = {".safetensors": (_write_safetensors, _read_safetensors), ".npz": (_write_npz, _read_npz)}
