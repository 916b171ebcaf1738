"""What is measured: kinds of work, shapes and batches, and the data they run on.

Letters as everywhere in fastfc: ``y[m, n] = act(x[m, k] · w[n, k]ᵀ + b[n])``, ``m`` is the batch.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

#: What can be measured, and how a table names it.
KINDS = {
    "forward": "forward, weight known ahead (packed where a library can)",
    "plain": "forward, weight a plain array",
    "backward": "backward: gradients of x, weight and bias together",
    "sparse": "forward, sparse weight known ahead (packed where a library can)",
    "csr": "forward, CSR weight",
    "csr-backward": "backward, CSR weight: gradients of x, stored entries and bias",
    "call": "one small call, what the call itself costs",
    "epilogue": "forward with bias, residual and activation, against the bare product",
    "train": "a training step: forward, cross-entropy, backward, optimiser",
    "feedforward": "feed-forward block in inference, against its two bare products",
    "norm": "Linear followed by LayerNorm in inference, against Linear alone",
}
SPARSE_KINDS = ("sparse", "csr", "csr-backward")
#: Of more than one layer.
NETWORKS = ("train", "feedforward")

#: (n, k) = (out_features, in_features): layers of recommenders, MNIST MLPs, transformers, classifier heads.
SHAPES = ((128, 256), (256, 784), (3072, 768), (768, 3072), (1000, 4096), (1024, 1024), (1024, 479))
BATCHES = (1, 4, 16, 64, 256, 1024)

QUICK_SHAPES = ((128, 256), (1024, 1024), (3072, 768))
QUICK_BATCHES = (1, 16, 256)

SPARSE_SHAPES = ((3072, 768),)
SPARSE_BATCHES = (16, 64, 512)
#: Shares of stored entries: 80, 90 and 95 % zeros.
DENSITIES = (0.2, 0.1, 0.05)

CALL_SHAPES = ((4, 3), (10, 64))
CALL_BATCHES = (1,)

EPILOGUE_SHAPES = ((3072, 768), (768, 3072))
EPILOGUE_BATCHES = (64, 256)
#: (activation, residual); ``None`` is the identity.
EPILOGUES = (("relu", True), ("gelu", False), ("silu", False), ("tanh", False), ("sigmoid", False))


#: (widths of a ReLU network from its input to its output, batch).
NETS = (
    ((64, 128, 64, 10), 32),
    ((784, 512, 256, 10), 128),
    ((784, 512, 256, 10), 1024),
    ((768, 3072, 768), 256),
    ((4096, 4096, 1000), 64),
)
#: The settings that each library gets; weight decay is AdamW's (decoupled). Rates so low that thousands of steps on one
#: batch change the work of none: no gradient comes near the denormal numbers.
OPTIMIZERS = {
    "sgd": {"lr": 1e-3, "momentum": 0.9},
    "adamw": {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1},
}
#: Steps of which the answer of a training case is the end.
STEPS = 3

#: Widths and batches of what is measured against its own products.
BLOCKS = {"feedforward": ((768, 3072, 768), (8, 64, 512)), "norm": ((256, 512), (8, 64, 512))}


@dataclass(frozen=True)
class Case:
    """One cell of a table: a kind of work on one shape, batch, dtype and thread count."""

    kind: str
    n: int
    k: int
    m: int
    dtype: str = "float32"
    threads: int = 1
    density: float = 1.0
    activation: str | None = None
    residual: bool = False
    cold: bool = False
    hidden: tuple[int, ...] = ()
    optimizer: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(self.hidden))  # JSON gives a list
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if min(self.n, self.k, self.m, self.threads) < 1:
            raise ValueError(f"n, k, m and threads must be at least 1, got {self}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")
        if not 0 < self.density <= 1:
            raise ValueError(f"density must be in (0, 1], got {self.density}")
        if (self.kind == "train") != (self.optimizer in OPTIMIZERS) or (self.kind in NETWORKS) != bool(self.hidden):
            raise ValueError(f"hidden and optimizer must fit the kind, got {self}")

    @property
    def sparse(self) -> bool:
        return self.kind in SPARSE_KINDS

    @property
    def backward(self) -> bool:
        return self.kind.endswith("backward")

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize

    @property
    def widths(self) -> tuple[int, ...]:
        """From the input to the output."""
        return (self.k, *self.hidden, self.n)

    @property
    def stored(self) -> int:
        """Entries of the weights that are stored: all of a dense one's."""
        if self.sparse:
            return round(self.density * self.n * self.k)
        return sum(n * k for k, n in itertools.pairwise(self.widths))

    @property
    def flops(self) -> int:
        """A multiply and an add a stored entry and row; backward does that for x and for the weight.

        A training step does all three, but has no use for the gradient of its input.
        """
        if self.kind == "train":
            return 6 * self.m * self.stored - 2 * self.m * self.widths[0] * self.widths[1]
        return (4 if self.backward else 2) * self.m * self.stored

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight: values, and of a sparse one the places; for CSR int32 indices and row bounds, where a
        library may choose its own form 2 bytes an entry.
        """
        values = self.stored * self.itemsize
        if self.kind == "sparse":
            return values + 2 * self.stored
        return values + 4 * (self.stored + self.n + 1) if self.sparse else values

    @property
    def traffic_bytes(self) -> int:
        """Bytes that must cross from memory however good the code: the weight, and backward its gradient too; in
        training what the optimiser reads and writes of weights and state.
        """
        if self.kind == "train":
            return {"sgd": 4, "adamw": 6}[self.optimizer] * self.weight_bytes
        return self.weight_bytes + (self.stored * self.itemsize if self.backward else 0)

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, flops a byte of weight traffic: the x axis of the roofline."""
        return self.flops / self.traffic_bytes

    @property
    def shape(self) -> str:
        if self.kind in ("train", *BLOCKS):
            return "-".join(map(str, self.widths))
        return f"{self.n}×{self.k}"

    @property
    def label(self) -> str:
        """What stands before the numbers: ``3072×768``, with zeros or activation where there are any."""
        label = self.shape
        if self.sparse:
            label += f" {100 * (1 - self.density):.0f}% zeros"
        if self.kind == "epilogue":
            label += " bias" + ("+residual" if self.residual else "") + f"+{self.activation or 'none'}"
        if self.optimizer:
            label += f" {self.optimizer}"
        return label

    @property
    def key(self) -> tuple:
        """Identity across runs, for ``--compare``."""
        return dataclasses.astuple(self)


@dataclass
class Data:
    """The arrays of a case, C-contiguous. The sparse weight is ``(values, indices, indptr)`` beside its dense
    twin. Of a network, `weights` and `biases` layer by layer, and `target` the labels.
    """

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray
    gy: np.ndarray | None
    residual: np.ndarray | None
    values: np.ndarray | None = None
    indices: np.ndarray | None = None
    indptr: np.ndarray | None = None
    weights: tuple[np.ndarray, ...] = ()
    biases: tuple[np.ndarray, ...] = ()
    target: np.ndarray | None = None

    @property
    def rows(self) -> np.ndarray:
        """The row of each stored entry."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


def empty(shape, dtype) -> np.ndarray:
    """``np.empty`` from a cache line on, as fastfc, torch and the engines make their arrays themselves. numpy's begin
    16 or 32 bytes into one, where each full-width load or store meets two: which would blur whose kernels are fast.
    """
    bytes_ = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(bytes_ + 64, np.uint8)
    skip = -memory.ctypes.data % 64
    return memory[skip : skip + bytes_].view(dtype).reshape(shape)


def empty_like(array: np.ndarray) -> np.ndarray:
    """An `empty` of the shape and dtype of `array`."""
    return empty(array.shape, array.dtype)


def copied(array: np.ndarray) -> np.ndarray:
    """A copy of `array` in an `empty`."""
    copy = empty_like(array)
    copy[...] = array
    return copy


def make_data(case: Case) -> Data:
    """Independent Gaussian data for `case`; the same case always gets the same numbers."""
    return _make_data(
        case.n,
        case.k,
        case.m,
        case.dtype,
        case.density if case.sparse else None,
        case.backward,
        case.residual,
        case.hidden,
    )


# The thread counts of one problem follow each other: two entries are enough, and bound the memory.
@functools.lru_cache(maxsize=2)
def _make_data(n, k, m, dtype, density, backward, residual, hidden) -> Data:
    rng = np.random.default_rng([n, k, m, int(1000 * (density or 1))])

    def draw(*shape):
        return rng.standard_normal(dtype=np.dtype(dtype), out=empty(shape, dtype))

    data = Data(
        x=draw(m, k), w=None if hidden else draw(n, k), b=draw(n), gy=draw(m, n) if backward else None,
        residual=draw(m, n) if residual else None,
    )  # fmt: skip
    if hidden:
        # Of the size at which activations keep theirs.
        sides = list(itertools.pairwise((k, *hidden, n)))
        data.weights = tuple(copied(draw(n, k) * data.x.dtype.type(1 / math.sqrt(k))) for k, n in sides)
        data.biases = tuple(draw(n) for _, n in sides)
        data.target = rng.integers(0, n, m)
        data.w, data.b = data.weights[-1], data.biases[-1]
    if density is not None:
        # Entries anywhere, so that rows differ in length as pruned layers' rows do.
        flat = np.sort(rng.choice(n * k, round(density * n * k), replace=False))
        data.values = copied(data.w.ravel()[flat])
        data.indices = copied((flat % k).astype(np.int32))
        data.indptr = np.searchsorted(flat, np.arange(n + 1) * k).astype(np.int32)
        data.w[...] = 0
        data.w.ravel()[flat] = data.values
    return data


def parse_shapes(text: str) -> tuple[tuple[int, int], ...]:
    """``"128x256,10x64"`` as ((128, 256), (10, 64)): out_features x in_features."""
    shapes = []
    for part in text.split(","):
        try:
            n, k = (int(side) for side in part.lower().replace("×", "x").split("x"))
        except ValueError:
            raise ValueError(f"a shape is written NxK (out_features x in_features), got {part!r}") from None
        if n < 1 or k < 1:
            raise ValueError(f"the sides of a shape must be at least 1, got {part!r}")
        shapes.append((n, k))
    return tuple(shapes)


def cases(
    kind: str,
    shapes=None,
    batches=None,
    dtypes=("float32",),
    threads=(1,),
    densities=DENSITIES,
    cold: bool = False,
) -> list[Case]:
    """All cells of one kind, threads innermost (so that neighbours share their data).

    `shapes` and `batches` default to those of the kind; networks and blocks are what they are, whatever the shapes.
    """
    if kind == "train":
        return [
            Case(kind, widths[-1], widths[0], m, dtype, count, cold=cold, hidden=widths[1:-1], optimizer=optimizer)
            for dtype, (widths, batch), optimizer in itertools.product(dtypes, NETS, OPTIMIZERS)
            for m, count in itertools.product(batches or (batch,), threads)
        ]
    if kind in BLOCKS:
        widths, sizes = BLOCKS[kind]
        return [
            Case(kind, widths[-1], widths[0], m, dtype, count, cold=cold, hidden=widths[1:-1])
            for dtype, m, count in itertools.product(dtypes, batches or sizes, threads)
        ]
    default_shapes, default_batches = {
        "sparse": (SPARSE_SHAPES, SPARSE_BATCHES),
        "csr": (SPARSE_SHAPES, SPARSE_BATCHES),
        "csr-backward": (SPARSE_SHAPES, SPARSE_BATCHES),
        "call": (CALL_SHAPES, CALL_BATCHES),
        "epilogue": (EPILOGUE_SHAPES, EPILOGUE_BATCHES),
    }.get(kind, (SHAPES, BATCHES))
    shapes, batches = shapes or default_shapes, batches or default_batches
    if kind == "call":
        threads = threads[:1]
    variants: tuple[dict, ...] = ({},)
    if kind in SPARSE_KINDS:
        variants = tuple({"density": density} for density in densities)
    elif kind == "epilogue":
        variants = tuple({"activation": activation, "residual": residual} for activation, residual in EPILOGUES)
    return [
        Case(kind, n, k, m, dtype, count, cold=cold, **variant)
        for dtype, (n, k), variant, m, count in itertools.product(dtypes, shapes, variants, batches, threads)
    ]
