"""Adagrad."""

import numpy as np

from fastfc import _core
from fastfc.optim.base import Optimizer, Option, flags, not_negative

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """Adagrad [1]_, with torch's rule.

    At step t, from 1::

        g = grad + weight_decay · w
        s = s + g²                                  (s begins as initial_accumulator_value)
        w = w - lr / (1 + (t - 1) · lr_decay) · g / (√s + eps)

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        Such as ``model.parameters()``; see `Optimizer` for groups.
    lr : float >= 0
        Learning rate.
    lr_decay, weight_decay, initial_accumulator_value, eps : float >= 0
    maximize : bool
        Go up the gradient rather than down.

    Raises
    ------
    TypeError
        If `params` is not an iterable of Parameters or of dicts.
    ValueError
        If `params` is empty or holds one twice, or a number is out of range.

    Notes
    -----
    A `SparseGrad` is taken without weight decay, which concerns all rows.

    References
    ----------
    .. [1] J. Duchi, E. Hazan, Y. Singer: Adaptive subgradient methods for online learning and stochastic
       optimization. Journal of Machine Learning Research 12, 2011.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.Parameter(np.ones(2, dtype=np.float32))
    >>> opt = fastfc.optim.Adagrad([p], lr=0.5)
    >>> p.grad = np.float32([1, -100])
    >>> opt.step()
    >>> p.data
    array([0.5, 1.5], dtype=float32)
    """

    slots = ("sum",)
    by_step = True
    lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize = (Option() for _ in range(6))

    def __init__(self, params, lr=1e-2, *, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10,
                 maximize=False):
        super().__init__(params, {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay,
                                  "initial_accumulator_value": initial_accumulator_value, "eps": eps,
                                  "maximize": maximize})

    def _check(self, where, lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize):
        flags(where, maximize=maximize)
        not_negative(where, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay,
                     initial_accumulator_value=initial_accumulator_value, eps=eps)

    def _plan(self, group):
        return self.slots

    def _rule(self, group, step):
        return _core.Rule("adagrad", maximize=group["maximize"], lr=group["lr"] / (1 + (step - 1) * group["lr_decay"]),
                          decay=group["weight_decay"], eps=group["eps"])

    def _begin(self, group, name, data):
        return np.full(data.shape, group["initial_accumulator_value"], data.dtype)

    def _sparse_problem(self, group):
        return "Adagrad takes sparse gradients without weight_decay only" if group["weight_decay"] else None
