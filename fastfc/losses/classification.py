"""Losses of one label a row: cross-entropy of logits, negative log-likelihood of log-probabilities."""

import numpy as np

from fastfc import _core
from fastfc.arrays import array_of, contiguous
from fastfc.layers.arguments import float_array
from fastfc.losses.loss import Loss, like, number, weights

__all__ = ["CrossEntropyLoss", "NLLLoss"]


class LabelLoss(Loss):
    """What both share: class weights, the label that is ignored, and the check of labels."""

    prediction = "logits"

    def __init__(self, weight, ignore_index, reduction):
        super().__init__(reduction)
        name = type(self).__name__
        self.weight = weights(name, "weight", weight)
        if self.weight is not None and self.weight.ndim != 1:
            raise ValueError(f"{name}(): weight must be (classes,), got shape {self.weight.shape}")
        if isinstance(ignore_index, bool | np.bool_) or not isinstance(ignore_index, int | np.integer):
            raise TypeError(f"{name}(): ignore_index must be an integer, got {type(ignore_index).__name__}")
        if not -(2**63) <= ignore_index < 2**63:
            raise ValueError(f"{name}(): ignore_index must fit 64 bits, got {ignore_index}")
        self.ignore_index = int(ignore_index)

    def _prediction(self, prediction):
        """The prediction, contiguous, and the class weights in its dtype."""
        name, argument = type(self).__name__, self.prediction
        float_array(name, argument, prediction)
        if prediction.ndim != 2:
            raise ValueError(f"{name}: {argument} must be (batch, classes), got shape {prediction.shape}")
        weight = self.weight
        if weight is not None:
            if weight.size != prediction.shape[1]:
                raise ValueError(f"{name}: {argument} has {prediction.shape[1]} classes, weight has {weight.size}")
            weight = weight.astype(prediction.dtype)
        return contiguous(prediction), weight

    def _labels(self, target, batch, classes):
        """The target as a contiguous array of int64, each in range or ignored."""
        name = type(self).__name__
        if target.dtype.kind not in "iu":
            raise TypeError(f"{name}: target must be of integers, got {target.dtype}")
        if target.shape != (batch,):
            raise ValueError(f"{name}: target must have shape ({batch},), got {target.shape}")
        labels = contiguous(target.astype(np.int64, copy=False))
        bad = _core.first_bad_label(labels, classes, self.ignore_index)
        if bad >= 0:
            raise ValueError(f"{name}: target[{bad}] is {target[bad]}, expected a label in [0, {classes})")
        return labels


class CrossEntropyLoss(LabelLoss):
    """Cross-entropy of softmax(logits) and the target: ``-Σⱼ q[j] log softmax(z)[j]`` for each row z of the logits,
    with ``q[j] = weight[j] ((1 - s) p[j] + s / classes)``, s the label smoothing; p is the target's row, or 1 at the
    label and 0 elsewhere.

    The mean is over the rows, where targets are probabilities; over labels it is Σ loss / Σ weight[label], without
    those that are ignored. NaN and Inf travel. The mean of an empty batch, or of one that is all ignored, is NaN, as in
    torch.

    Parameters
    ----------
    weight : array_like, (classes,), optional
    ignore_index : int
        Rows with this label count for nothing: their loss and gradient are 0.
    reduction : "mean", "sum" or "none"
    label_smoothing : float in [0, 1]

    Raises
    ------
    TypeError
        If logits are no float32 or float64 array, a target is neither of integers nor of the logits' dtype, or an
        argument has a wrong type.
    ValueError
        If a shape does not fit, a label is out of range (the message says which), or an argument has a wrong value.

    Notes
    -----
    Logits: float32 or float64, (batch, classes). Target: integers in [0, classes), (batch,); or probabilities, of the
    logits' shape and dtype. See `fastfc.losses` for ``backward``.

    Each row is read once, for its loss and its gradient; exp and log are fixed sequences of vector operations, sums run
    in a fixed order: the same bits on any number of threads and every target with FMA.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> loss = fastfc.CrossEntropyLoss()
    >>> value, backward = loss.vjp(np.zeros((2, 4), dtype=np.float32), np.array([0, 3]))
    >>> round(value, 4)                                   # log 4
    1.3863
    >>> backward()                                        # of the shape and dtype of the logits
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]], dtype=float32)
    """

    def __init__(self, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0):
        super().__init__(weight, ignore_index, reduction)
        self.label_smoothing = number("CrossEntropyLoss", "label_smoothing", label_smoothing, lambda s: 0 <= s <= 1,
                                      "in [0, 1]")

    def _arguments(self, logits, target):
        if self.weight is None and _core.plain_labels(logits, target, self.ignore_index):
            return logits, target, None, None
        z, weight = self._prediction(logits)
        target = array_of("CrossEntropyLoss: target", target)
        if target.dtype.kind != "f" or target.ndim < 2:
            return z, self._labels(target, *z.shape), None, weight
        if self.ignore_index >= 0:
            raise ValueError(f"CrossEntropyLoss: ignore_index is {self.ignore_index}, which targets that are "
                             "probabilities don't have")
        if z.shape[1] == 0 and len(z):
            raise ValueError(f"CrossEntropyLoss: logits must have a class, got shape {z.shape}")
        return z, None, like("CrossEntropyLoss", "target", target, z, "logits"), weight

    def _run(self, arguments, want_grad):
        return _core.cross_entropy(*arguments, self.label_smoothing, self.ignore_index, self.reduction, want_grad)


class NLLLoss(LabelLoss):
    """Negative log-likelihood, ``-weight[t] x[t]`` for each row x of log-probabilities and its label t.

    Reductions as of `CrossEntropyLoss`, which takes logits and is the better choice for a model that ends in them.

    Parameters
    ----------
    weight : array_like, (classes,), optional
    ignore_index : int
        Rows with this label count for nothing.
    reduction : "mean", "sum" or "none"

    Raises
    ------
    TypeError, ValueError
        As `CrossEntropyLoss`.

    Notes
    -----
    Log-probabilities: float32 or float64, (batch, classes). Target: integers in [0, classes), (batch,).

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> value, backward = fastfc.NLLLoss().vjp(np.log(np.array([[0.25, 0.75]])), np.array([1]))
    >>> round(value, 4), backward()
    (0.2877, array([[ 0., -1.]]))
    """

    prediction = "log_probs"

    def __init__(self, weight=None, *, ignore_index=-100, reduction="mean"):
        super().__init__(weight, ignore_index, reduction)

    def _arguments(self, log_probs, target):
        x, weight = self._prediction(log_probs)
        return x, self._labels(array_of("NLLLoss: target", target), *x.shape), weight

    def _run(self, arguments, want_grad):
        x, labels, weight = arguments
        rows = np.flatnonzero(labels != self.ignore_index)
        at = rows, labels[rows]
        factor = np.ones(rows.size, x.dtype) if weight is None else weight[at[1]]
        with np.errstate(all="ignore"):
            losses = np.zeros(len(x), x.dtype)
            losses[rows] = -x[at] * factor
            value, scale = losses, 1.0
            if self.reduction != "none":
                value = np.add.reduce(losses, dtype=np.float64)
            if self.reduction == "mean":
                count = np.add.reduce(factor, dtype=np.float64)
                value, scale = value / count, 1 / count
            grad = np.zeros(x.shape, x.dtype) if want_grad else None
            if want_grad:
                grad[at] = -factor * x.dtype.type(scale)
        return value if self.reduction == "none" else float(value), grad
