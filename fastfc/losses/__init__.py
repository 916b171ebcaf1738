"""Losses, with torch's names and numbers: ``loss(prediction, target)`` is the value, and
``value, backward = loss.vjp(prediction, target)`` also gives its backward pass.

``backward()`` is the gradient with respect to the prediction, of its shape and dtype; ``backward(grad)`` multiplies it
by the gradient of the value: a number, or with ``reduction="none"``, where the value is an array of losses and `grad`
is required, an array like it. The target is not differentiated. With the other reductions the value is a float, summed
in float64. Between the two passes neither argument may be written into.
"""

from fastfc.losses.classification import CrossEntropyLoss, NLLLoss
from fastfc.losses.pointwise import BCEWithLogitsLoss, HuberLoss, L1Loss, MSELoss, SmoothL1Loss

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "HuberLoss", "L1Loss", "MSELoss", "NLLLoss", "SmoothL1Loss"]
