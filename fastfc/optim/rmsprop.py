"""RMSprop."""

from numbers import Real

from fastfc import _core
from fastfc.optim.base import Optimizer, Option, flags, not_negative

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """RMSprop [1]_, centered as in [2]_, with torch's rule.

    ::

        g = grad + weight_decay · w
        v = alpha · v + (1 - alpha) · g²
        a = alpha · a + (1 - alpha) · g             (centered)
        d = g / (√v + eps)                          (centered: √(v - a²) in place of √v)
        b = momentum · b + d                        (with a momentum; without: b = d)
        w = w - lr · b

    Where rounding leaves ``v - a²`` below 0 it is taken as 0 (torch gives NaN there).

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        Such as ``model.parameters()``; see `Optimizer` for groups.
    lr : float >= 0
        Learning rate.
    alpha : float in [0, 1]
    eps, weight_decay, momentum : float >= 0
    centered : bool
    maximize : bool
        Go up the gradient rather than down.

    Raises
    ------
    TypeError
        If `params` is not an iterable of Parameters or of dicts.
    ValueError
        If `params` is empty or holds one twice, or a number is out of range.

    References
    ----------
    .. [1] G. Hinton: Neural networks for machine learning, lecture 6e. 2012.
    .. [2] A. Graves: Generating sequences with recurrent neural networks. 2013, section 4.2.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.Parameter(np.ones(2, dtype=np.float32))
    >>> opt = fastfc.optim.RMSprop([p], lr=0.5, alpha=0)
    >>> p.grad = np.float32([1, -100])
    >>> opt.step()
    >>> p.data
    array([0.5, 1.5], dtype=float32)
    """

    slots = ("square_avg", "grad_avg", "momentum_buffer")
    lr, alpha, eps, weight_decay, momentum, centered, maximize = (Option() for _ in range(7))

    def __init__(self, params, lr=1e-2, alpha=0.99, eps=1e-8, *, weight_decay=0.0, momentum=0.0, centered=False,
                 maximize=False):
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay,
                                  "momentum": momentum, "centered": centered, "maximize": maximize})

    def _check(self, where, lr, alpha, eps, weight_decay, momentum, centered, maximize):
        flags(where, centered=centered, maximize=maximize)
        not_negative(where, lr=lr, eps=eps, weight_decay=weight_decay, momentum=momentum)
        if not isinstance(alpha, Real) or not 0 <= alpha <= 1:
            raise ValueError(f"{where}: alpha must be a number in [0, 1], got {alpha!r}")

    def _plan(self, group):
        return (self.slots[0], self.slots[1] if group["centered"] else None,
                self.slots[2] if group["momentum"] else None)

    def _rule(self, group, step):
        return _core.Rule("rmsprop", maximize=group["maximize"], lr=group["lr"], decay=group["weight_decay"],
                          beta2=group["alpha"], eps=group["eps"], momentum=group["momentum"])
