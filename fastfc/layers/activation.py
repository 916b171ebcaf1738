"""Activations as layers."""

import numpy as np

from fastfc.layers.arguments import float_array
from fastfc.module import Module


class ReLU(Module):
    """Rectified linear unit, ``relu(x) = max(x, 0)``: x for x > 0, NaN for NaN, +0 otherwise.

    x : (..., features), float32 or float64; y of the same shape and dtype. The gradient passes where x > 0, and
    through NaN, as in torch. In a `Sequential` after a layer without an activation it costs no pass of its own.

    Raises
    ------
    TypeError
        If x is no array of float32 or float64.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.ReLU()(np.float32([-1, 0, 2]))
    array([0., 0., 2.], dtype=float32)
    """

    activation = "relu"

    def __call__(self, x):
        x = float_array("ReLU", "x", x)
        y = np.maximum(x, 0)
        y += 0  # max(-0, +0) may be either; this makes it +0
        return y

    def vjp(self, x):
        y = self(x)
        dead = x <= 0

        def backward(grad_y, needs_input_grad=True):
            float_array("ReLU", "grad_y", grad_y)
            if grad_y.shape != dead.shape:
                raise ValueError(f"ReLU backward: grad_y must have shape {dead.shape}, got {grad_y.shape}")
            return np.where(dead, 0, grad_y) if needs_input_grad else None

        return y, backward
