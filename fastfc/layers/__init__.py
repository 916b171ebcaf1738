"""Layers: each a class with its forward pass and, right under it, its backward pass.

A ``vjp`` returns y and a closure ``backward(grad_y, needs_input_grad=True)``, which adds to the gradients of the
parameters and returns that of x. The closure refers to x and to the weights as they are: between the two passes
neither x nor (by an optimiser's step) the parameters may be written into, as in torch. y may.
"""

from fastfc.layers.activation import (
    ELU,
    GELU,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from fastfc.layers.affine import Linear
from fastfc.layers.bilinear import Bilinear
from fastfc.layers.checkpoint import checkpoint
from fastfc.layers.dropout import Dropout
from fastfc.layers.embedding import Embedding, EmbeddingBag
from fastfc.layers.feedforward import FeedForward
from fastfc.layers.grouped import GroupedLinear, SeparableLinear
from fastfc.layers.lazy import LazyLinear
from fastfc.layers.lowrank import LowRankLinear
from fastfc.layers.masked import MaskedLinear
from fastfc.layers.norm import LayerNorm, RMSNorm
from fastfc.layers.normalised_weight import remove_spectral_norm, remove_weight_norm, spectral_norm, weight_norm
from fastfc.layers.shape import Flatten, Identity, Unflatten
from fastfc.layers.sparse import SparseLinear

__all__ = [
    "Dropout",
    "FeedForward",
    "LayerNorm",
    "RMSNorm",
    "checkpoint",
    "Bilinear",
    "ELU",
    "Embedding",
    "EmbeddingBag",
    "Flatten",
    "GELU",
    "GroupedLinear",
    "Hardswish",
    "Identity",
    "LazyLinear",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "LowRankLinear",
    "MaskedLinear",
    "ReLU",
    "SeparableLinear",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SparseLinear",
    "Tanh",
    "Unflatten",
    "remove_spectral_norm",
    "remove_weight_norm",
    "spectral_norm",
    "weight_norm",
]
