"""fastfc: fully connected layers on CPUs, for numpy arrays.

``linear``, ``linear_backward`` and ``pack`` are the functions; layers, losses and optimisers stand on them.
``show_config()`` says what this machine runs.
"""

from fastfc import runtime as _runtime
from fastfc._version import __version__

_runtime.start()

from fastfc import (  # noqa: E402
    activations,
    init,
    layers,
    optim,
    prune,
)
from fastfc.clip import clip_grad_norm_, clip_grad_value_  # noqa: E402
from fastfc.containers import Sequential  # noqa: E402
from fastfc.diagnosis import selftest  # noqa: E402
from fastfc.functional import PackedSparse, PackedWeight, linear, linear_backward  # noqa: E402
from fastfc.io import load, save  # noqa: E402
from fastfc.layers import *  # noqa: E402, F403
from fastfc.losses import (  # noqa: E402
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from fastfc.module import Module, Parameter, UninitializedParameter  # noqa: E402
from fastfc.packing import pack  # noqa: E402
from fastfc.runtime import (  # noqa: E402
    available_isas,
    current_isa,
    get_num_threads,
    num_threads,
    set_num_threads,
    show_config,
)
from fastfc.sparse import CSR, sparse_matmul  # noqa: E402
from fastfc.sparse_grad import SparseGrad  # noqa: E402
from fastfc.training import History, NonFiniteLoss, fit  # noqa: E402

__all__ = [
    *layers.__all__,
    "BCEWithLogitsLoss",
    "CSR",
    "CrossEntropyLoss",
    "History",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "Module",
    "NLLLoss",
    "NonFiniteLoss",
    "PackedSparse",
    "PackedWeight",
    "Parameter",
    "Sequential",
    "SmoothL1Loss",
    "SparseGrad",
    "UninitializedParameter",
    "__version__",
    "activations",
    "available_isas",
    "clip_grad_norm_",
    "clip_grad_value_",
    "current_isa",
    "fit",
    "get_num_threads",
    "init",
    "linear",
    "linear_backward",
    "load",
    "num_threads",
    "optim",
    "pack",
    "prune",
    "save",
    "selftest",
    "set_num_threads",
    "show_config",
    "sparse_matmul",
]
