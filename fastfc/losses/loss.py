"""What losses share: the reduction, and how a gradient is handed out."""

import numpy as np

from fastfc.arrays import contiguous
from fastfc.layers.arguments import among, float_array

REDUCTIONS = ("mean", "sum", "none")


class Loss:
    """Base: a subclass checks its arguments in `_arguments` and computes in `_run`."""

    def __init__(self, reduction):
        if not among(reduction, REDUCTIONS):
            names = ", ".join(repr(name) for name in REDUCTIONS)
            raise ValueError(f"{type(self).__name__}(): reduction must be one of {names}, got {reduction!r}")
        self.reduction = reduction

    def __call__(self, prediction, target):
        """Return the loss: a float, or with ``reduction="none"`` an array; see the class."""
        return self._run(self._arguments(prediction, target), False)[0]

    def vjp(self, prediction, target):
        """Return the loss and the function that returns its gradient with respect to the prediction."""
        arguments = self._arguments(prediction, target)
        value, grad = self._run(arguments, True)
        # It is there already, and who asks first has it; asked again, it is made again.
        made = [grad]

        def backward(grad_value=None):
            scaled = grad_value is not None or self.reduction == "none"
            factor = self._factor(grad_value, value, prediction) if scaled else None
            grad = made.pop() if made else self._run(arguments, True)[1]
            if scaled:
                with np.errstate(all="ignore"):
                    np.multiply(grad, factor, out=grad)
            return grad

        return value, backward

    def _factor(self, grad_value, value, prediction):
        """What the gradient of the value multiplies that of the loss by."""
        name = type(self).__name__
        if self.reduction == "none":
            if not isinstance(grad_value, np.ndarray) or grad_value.dtype != value.dtype:
                got = grad_value.dtype if isinstance(grad_value, np.ndarray) else type(grad_value).__name__
                raise TypeError(f"{name} backward: with reduction 'none' grad must be a {value.dtype} array, got {got}")
            if grad_value.shape != value.shape:
                raise ValueError(f"{name} backward: grad must have shape {value.shape}, got {grad_value.shape}")
            return grad_value.reshape(value.shape + (1,) * (prediction.ndim - value.ndim))
        if not is_number(grad_value):
            raise TypeError(f"{name} backward: grad must be a number, got {type(grad_value).__name__}")
        return prediction.dtype.type(grad_value)

    def __repr__(self):
        return f"{type(self).__name__}()"


def like(name, argument, array, other, reference):
    """`array`, C-contiguous, if it has the dtype and shape of `other`."""
    float_array(name, argument, array)
    if array.dtype != other.dtype:
        raise TypeError(f"{name}: {argument} is {array.dtype}, {reference} is {other.dtype}; "
                        "mixed dtypes are not converted")
    if array.shape != other.shape:
        raise ValueError(f"{name}: {argument} must have shape {other.shape}, got {array.shape}")
    return contiguous(array)


def is_number(value):
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def number(name, argument, value, condition, expected):
    if not is_number(value):
        raise TypeError(f"{name}(): {argument} must be a number, got {type(value).__name__}")
    if not condition(value):
        raise ValueError(f"{name}(): {argument} must be {expected}, got {value}")
    return float(value)


def weights(name, argument, array):
    """A copy of array_like weights as float64, or None."""
    if array is None:
        return None
    try:
        array = np.array(array)
    except ValueError as error:  # rows of several lengths
        raise TypeError(f"{name}(): {argument} must be of numbers: {error}") from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}(): {argument} must be of numbers, got {array.dtype}")
    return array.astype(np.float64)
