"""Layers: each a class with its forward pass and, right under it, its backward pass.

A ``vjp`` returns y and a closure ``backward(grad_y, needs_input_grad=True)``, which adds to the gradients of the
parameters and returns that of x. The closure refers to x and to the weights as they are: between the two passes
neither x nor (by an optimiser's step) the parameters may be written into, as in torch. y may.
"""

from fastfc.layers.activation import ReLU
from fastfc.layers.affine import Linear
from fastfc.layers.checkpoint import checkpoint
from fastfc.layers.dropout import Dropout
from fastfc.layers.feedforward import FeedForward
from fastfc.layers.norm import LayerNorm, RMSNorm
from fastfc.layers.sparse import SparseLinear

__all__ = ["Dropout", "FeedForward", "LayerNorm", "Linear", "RMSNorm", "ReLU", "SparseLinear", "checkpoint"]
