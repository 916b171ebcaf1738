"""Layers that move no numbers: Identity, Flatten, Unflatten."""

import math

import numpy as np

from fastfc.layers.arguments import integer, size
from fastfc.module import Module

__all__ = ["Flatten", "Identity", "Unflatten"]


class Identity(Module):
    """``y = x``, the very array. Takes and ignores any arguments, as torch's does, to stand in for another layer.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> x = np.ones(3)
    >>> fastfc.Identity(54, unused=True)(x) is x
    True
    """

    keeps_width = True

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, x):
        return x

    def vjp(self, x):
        return x, lambda grad_y, needs_input_grad=True: grad_y if needs_input_grad else None


class Reshape(Module):
    """Gives x another shape; a subclass says which. A view where strides allow it, otherwise a copy."""

    def __call__(self, x):
        return self.vjp(x)[0]

    def vjp(self, x):
        if not isinstance(x, np.ndarray):
            raise TypeError(f"{type(self).__name__}: x must be a numpy array, got {type(x).__name__}")
        before, after = x.shape, self._shape(x.shape)

        def backward(grad_y, needs_input_grad=True):
            if np.shape(grad_y) != after:
                raise ValueError(f"{type(self).__name__}: grad_y must have shape {after}, got {np.shape(grad_y)}")
            return grad_y.reshape(before) if needs_input_grad else None

        return x.reshape(after), backward

    def _axis(self, name, value, shape):
        if not -len(shape) <= value < len(shape):
            raise ValueError(f"{type(self).__name__}: {name} is {value}, expected an axis of x, which has shape "
                             f"{shape}")
        return value % len(shape)


class Flatten(Reshape):
    """Joins the axes from `start_dim` to `end_dim` into one: (batch, …) to (batch, features) by default.

    Parameters
    ----------
    start_dim, end_dim : int
        First and last axis, from the end if negative.

    Raises
    ------
    TypeError, ValueError
        If x is no array, has no such axes, or they are in the wrong order.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.Flatten()(np.ones((2, 3, 4))).shape
    (2, 12)
    """

    def __init__(self, start_dim=1, end_dim=-1):
        self.start_dim = integer("Flatten", "start_dim", start_dim)
        self.end_dim = integer("Flatten", "end_dim", end_dim)

    def _shape(self, shape):
        shape = shape or (1,)  # as torch, which makes an axis of none
        start, end = self._axis("start_dim", self.start_dim, shape), self._axis("end_dim", self.end_dim, shape)
        if start > end:
            raise ValueError(f"Flatten: start_dim {self.start_dim} comes after end_dim {self.end_dim} in shape {shape}")
        return (*shape[:start], math.prod(shape[start:end + 1]), *shape[end + 1:])

    def extra_repr(self):
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Reshape):
    """Splits axis `dim` into axes of the lengths `unflattened_size`, of which one may be -1.

    Parameters
    ----------
    dim : int
    unflattened_size : tuple of int

    Raises
    ------
    TypeError, ValueError
        If x is no array, has no such axis, or its length is not the product of the sizes.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> fastfc.Unflatten(1, (3, -1))(np.ones((2, 12))).shape
    (2, 3, 4)
    """

    def __init__(self, dim, unflattened_size):
        self.dim = integer("Unflatten", "dim", dim)
        try:
            sizes = tuple(unflattened_size)
        except TypeError:
            raise TypeError("Unflatten(): unflattened_size must be a tuple of integers, "
                            f"got {type(unflattened_size).__name__}") from None
        self.unflattened_size = tuple(size("Unflatten", "unflattened_size", n, -1) for n in sizes)
        if self.unflattened_size.count(-1) > 1:
            raise ValueError(f"Unflatten(): unflattened_size may hold -1 once, got {self.unflattened_size}")

    def _shape(self, shape):
        at, sizes = self._axis("dim", self.dim, shape), self.unflattened_size
        if -1 in sizes:
            known = -math.prod(sizes)
            rest = shape[at] // known if known else 0
            sizes = tuple(rest if n == -1 else n for n in sizes)
        if math.prod(sizes) != shape[at]:
            raise ValueError(f"Unflatten: axis {self.dim} of x has length {shape[at]}, "
                             f"which {self.unflattened_size} does not make")
        return (*shape[:at], *sizes, *shape[at + 1:])

    def extra_repr(self):
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
