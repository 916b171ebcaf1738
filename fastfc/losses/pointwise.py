"""Losses that compare a prediction with a target element by element."""

import math

import numpy as np

from fastfc import _core
from fastfc.arrays import contiguous
from fastfc.layers.arguments import float_array
from fastfc.losses.loss import Loss, like, number, weights

__all__ = ["BCEWithLogitsLoss", "HuberLoss", "L1Loss", "MSELoss", "SmoothL1Loss"]


class PointwiseLoss(Loss):
    """A subclass says which `kind` of kernel, and its numbers."""

    argument = "pred"
    kind, width, factor = None, 1.0, 1.0

    def _arguments(self, prediction, target):
        name = type(self).__name__
        x = contiguous(float_array(name, self.argument, prediction))
        return x, like(name, "target", target, x, self.argument), None, None

    def _run(self, arguments, want_grad):
        return _core.pointwise_loss(self.kind, *arguments, self.width, self.factor, self.reduction, want_grad)


class MSELoss(PointwiseLoss):
    """Squared error, ``(pred - target)²``.

    Parameters
    ----------
    reduction : "mean", "sum" or "none"
        Over all elements. The mean of none is NaN.

    Raises
    ------
    TypeError, ValueError
        If `pred` is no float32 or float64 array, or `target` no array of its dtype and shape.

    Notes
    -----
    pred, target: any shape. Sums run in a fixed order, whatever the number of threads. See `fastfc.losses` for
    ``backward``.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> value, backward = fastfc.MSELoss().vjp(np.array([1.0, 2.0]), np.array([0.0, 4.0]))
    >>> value, backward()
    (2.5, array([ 1., -2.]))
    """

    kind = _core.SQUARED

    def __init__(self, *, reduction="mean"):
        super().__init__(reduction)


class L1Loss(PointwiseLoss):
    """Absolute error, ``|pred - target|``; its gradient at 0 is 0, and NaN at NaN (where torch has 0).

    Parameters
    ----------
    reduction : "mean", "sum" or "none"

    Raises
    ------
    TypeError, ValueError
        As `MSELoss`.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> value, backward = fastfc.L1Loss().vjp(np.array([1.0, 2.0]), np.array([0.0, 4.0]))
    >>> value, backward()
    (1.5, array([ 0.5, -0.5]))
    """

    kind = _core.ABSOLUTE

    def __init__(self, *, reduction="mean"):
        super().__init__(reduction)


class HuberLoss(PointwiseLoss):
    """With ``d = pred - target``: ``d² / 2`` where ``|d| <= delta``, else ``delta (|d| - delta / 2)``.

    Parameters
    ----------
    reduction : "mean", "sum" or "none"
    delta : float > 0

    Raises
    ------
    TypeError, ValueError
        As `MSELoss`; and if `delta` is no positive, finite number.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> value, backward = fastfc.HuberLoss().vjp(np.array([0.5, 3.0]), np.array([0.0, 0.0]))
    >>> value, backward()
    (1.3125, array([0.25, 0.5 ]))
    """

    kind = _core.HUBER

    def __init__(self, *, reduction="mean", delta=1.0):
        super().__init__(reduction)
        self.delta = self.width = number("HuberLoss", "delta", delta, lambda d: 0 < d < math.inf, "positive and finite")


class SmoothL1Loss(PointwiseLoss):
    """With ``d = pred - target``: ``d² / (2 beta)`` where ``|d| < beta``, else ``|d| - beta / 2``; beta 0: `L1Loss`.

    Parameters
    ----------
    reduction : "mean", "sum" or "none"
    beta : float >= 0

    Raises
    ------
    TypeError, ValueError
        As `MSELoss`; and if `beta` is negative or not finite.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> value, backward = fastfc.SmoothL1Loss(beta=2.0).vjp(np.array([1.0, 3.0]), np.array([0.0, 0.0]))
    >>> value, backward()
    (1.125, array([0.25, 0.5 ]))
    """

    def __init__(self, *, reduction="mean", beta=1.0):
        super().__init__(reduction)
        self.beta = number("SmoothL1Loss", "beta", beta, lambda b: 0 <= b < math.inf, ">= 0 and finite")
        self.kind, self.width, self.factor = (
            (_core.HUBER, self.beta, 1 / self.beta) if self.beta else (_core.ABSOLUTE, 1.0, 1.0))


class BCEWithLogitsLoss(PointwiseLoss):
    """Binary cross-entropy of sigmoid(logits) and the target t, times the weight w, positives weighing p:
    ``w ((1 - t) softplus(x) + p t softplus(-x))`` for each logit x.

    Parameters
    ----------
    weight : array_like, optional
        Broadcasts to the logits' shape.
    reduction : "mean", "sum" or "none"
        The mean is over all elements, whatever their weights, as in torch.
    pos_weight : array_like, optional
        Likewise.

    Raises
    ------
    TypeError, ValueError
        As `MSELoss`; and if a weight does not broadcast to the logits' shape.

    Notes
    -----
    logits, target: any shape; targets usually are in [0, 1]. Neither term cancels: a loss near 0 is as accurate as a
    large one.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> value, backward = fastfc.BCEWithLogitsLoss().vjp(np.zeros(2), np.array([0.0, 1.0]))
    >>> round(value, 4), backward()                       # log 2
    (0.6931, array([ 0.25, -0.25]))
    """

    argument, kind = "logits", _core.LOGIT

    def __init__(self, weight=None, *, reduction="mean", pos_weight=None):
        super().__init__(reduction)
        self.weight = weights("BCEWithLogitsLoss", "weight", weight)
        self.pos_weight = weights("BCEWithLogitsLoss", "pos_weight", pos_weight)

    def _arguments(self, logits, target):
        x, t, _, _ = super()._arguments(logits, target)
        return x, t, self._spread("weight", x), self._spread("pos_weight", x)

    def _spread(self, name, x):
        array = getattr(self, name)
        if array is None:
            return None
        try:
            return contiguous(np.broadcast_to(array.astype(x.dtype), x.shape))
        except ValueError:
            raise ValueError(f"BCEWithLogitsLoss: {name} of shape {array.shape} does not broadcast to logits of shape "
                             f"{x.shape}") from None
