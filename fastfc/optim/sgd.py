"""Stochastic gradient descent."""

from numbers import Real

from fastfc import _core
from fastfc.optim.base import Optimizer, Option, flags, not_negative

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent, with torch's rule.

    ::

        g = grad + weight_decay · w
        v = momentum · v + (1 - dampening) · g      (v = g in the first step)
        w = w - lr · v                              (with nesterov: w - lr · (g + momentum · v))

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        Such as ``model.parameters()``; see `Optimizer` for groups.
    lr : float >= 0
        Learning rate.
    momentum : float >= 0
    dampening : float
    weight_decay : float >= 0
    nesterov : bool
        Needs a momentum > 0 and no dampening.
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
    A `SparseGrad` is taken without momentum and weight decay, which concern all rows.

    References
    ----------
    .. [1] I. Sutskever, J. Martens, G. Dahl, G. Hinton: On the importance of initialization and momentum in deep
       learning. ICML 2013. As torch has it, the learning rate multiplies v rather than g.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.Parameter(np.ones(2, dtype=np.float32))
    >>> opt = fastfc.optim.SGD([p], lr=0.5)
    >>> p.grad = np.float32([1, -1])
    >>> opt.step()
    >>> p.data
    array([0.5, 1.5], dtype=float32)

    Weights decay and biases do not:

    >>> layer = fastfc.Linear(3, 2)
    >>> opt = fastfc.optim.SGD([{"params": layer.weight, "weight_decay": 1e-4}, {"params": layer.bias}], lr=0.1)
    >>> [group["weight_decay"] for group in opt.param_groups]
    [0.0001, 0.0]
    """

    slots = ("momentum_buffer",)
    counts = False
    lr, momentum, dampening, weight_decay, nesterov, maximize = (Option() for _ in range(6))

    def __init__(self, params, lr=1e-3, momentum=0.0, *, dampening=0.0, weight_decay=0.0, nesterov=False,
                 maximize=False):
        super().__init__(params, {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
                                  "nesterov": nesterov, "maximize": maximize})

    def _check(self, where, lr, momentum, dampening, weight_decay, nesterov, maximize):
        flags(where, nesterov=nesterov, maximize=maximize)
        not_negative(where, lr=lr, momentum=momentum, weight_decay=weight_decay)
        if not isinstance(dampening, Real) or not -float("inf") < dampening < float("inf"):
            raise ValueError(f"{where}: dampening must be a finite number, got {dampening!r}")
        if nesterov and not momentum > 0:
            raise ValueError(f"{where}: nesterov needs a momentum > 0, got {momentum}")
        if nesterov and dampening != 0:
            raise ValueError(f"{where}: nesterov needs a dampening of 0, got {dampening}")

    def _plan(self, group):
        return self.slots if group["momentum"] else ()

    def _rule(self, group, step):
        return _core.Rule("sgd", maximize=group["maximize"], lr=group["lr"], decay=group["weight_decay"],
                          momentum=group["momentum"], fresh=1 if step == 1 else 1 - group["dampening"],
                          nesterov=group["nesterov"])

    def _sparse_problem(self, group):
        if group["momentum"] or group["weight_decay"]:
            return "SGD takes sparse gradients without momentum and weight_decay only"
