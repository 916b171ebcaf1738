"""Losses: ``loss(prediction, target)`` is the value, ``loss.vjp(prediction, target)`` also its backward pass."""

import numpy as np

__all__ = ["CrossEntropyLoss"]


class CrossEntropyLoss:
    """Mean over the batch of ``-log softmax(logits)[target]``.

    Computed stably as ``log Σ exp(z - max z) - (z[target] - max z)`` for each row z of the logits; the gradient
    is ``(softmax(logits) - onehot(target)) / batch``. NaN and Inf travel. An empty batch gives NaN, as in torch.

    Logits: float32 or float64, (batch, classes). Target: integers in [0, classes), (batch,).

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

    def __call__(self, logits, target):
        """Return the loss as a float; see `vjp`."""
        return self.vjp(logits, target)[0]

    def vjp(self, logits, target):
        """Return the loss and the function that returns its gradient with respect to the logits.

        Parameters
        ----------
        logits : ndarray of float32 or float64, (batch, classes)
        target : array_like of integers in [0, classes), (batch,)

        Returns
        -------
        value : float
        backward : callable
            ``backward()`` is a fresh array of the shape and dtype of `logits`.

        Raises
        ------
        TypeError
            If `logits` is no array of float32 or float64, or `target` is not of integers.
        ValueError
            If a shape does not fit or a label is out of range.
        """
        labels = _check(logits, target)
        batch = len(labels)
        if batch == 0:
            return float("nan"), lambda: np.empty_like(logits)
        rows = np.arange(batch)
        with np.errstate(all="ignore"):
            # Contiguous rows, so that a row's sum does not depend on the layout of the logits.
            shifted = np.subtract(logits, np.maximum.reduce(logits, axis=1, keepdims=True), order="C")
            target_shifted = shifted[rows, labels]
            exps = np.exp(shifted, out=shifted)
            sums = np.add.reduce(exps, axis=1, keepdims=True)
            losses = np.log(sums[:, 0]) - target_shifted
            value = float(np.add.reduce(losses, dtype=np.float64)) / batch

        def backward():
            with np.errstate(all="ignore"):
                grad = exps / (sums * batch)
                grad[rows, labels] -= 1 / batch
            return grad

        return value, backward

    def __repr__(self):
        return "CrossEntropyLoss()"


def _check(logits, target):
    """Refuse what does not fit, and return the target as an array of intp."""
    if not isinstance(logits, np.ndarray) or logits.dtype not in (np.float32, np.float64):
        got = logits.dtype if isinstance(logits, np.ndarray) else type(logits).__name__
        raise TypeError(f"CrossEntropyLoss: logits must be a float32 or float64 array, got {got}")
    if logits.ndim != 2:
        raise ValueError(f"CrossEntropyLoss: logits must be (batch, classes), got shape {logits.shape}")
    target = np.asarray(target)
    if target.dtype.kind not in "iu":
        raise TypeError(f"CrossEntropyLoss: target must be of integers, got {target.dtype}")
    batch, classes = logits.shape
    if target.shape != (batch,):
        raise ValueError(f"CrossEntropyLoss: target must have shape ({batch},), got {target.shape}")
    labels = target.astype(np.intp, copy=False)
    # Seen as unsigned, a negative label is a huge one: one pass finds both kinds.
    if batch and np.maximum.reduce(labels.view(np.uintp)) >= classes:
        first = int(np.argmax(labels.view(np.uintp) >= classes))
        raise ValueError(f"CrossEntropyLoss: target[{first}] is {target[first]}, "
                         f"expected a label in [0, {classes})")
    return labels
