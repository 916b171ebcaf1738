"""Adam and its relatives."""

import math

from fastfc import _core
from fastfc.optim.base import Optimizer, Option, betas_in_range, flags, not_negative

__all__ = ["Adam", "AdamW", "SparseAdam"]


class Adam(Optimizer):
    """Adam [1]_, with torch's rule.

    At step t, with the bias corrections ``c1 = 1 - beta1ᵗ`` and ``c2 = 1 - beta2ᵗ``::

        g = grad + weight_decay · w                 (decoupled: w = (1 - lr · weight_decay) · w instead [2]_)
        m = beta1 · m + (1 - beta1) · g
        v = beta2 · v + (1 - beta2) · g²            (amsgrad [3]_: its largest value so far in its place below)
        w = w - lr / c1 · m / (√v / √c2 + eps)

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        Such as ``model.parameters()``; see `Optimizer` for groups.
    lr : float >= 0
        Learning rate.
    betas : (float, float), each in [0, 1)
    eps : float >= 0
    weight_decay : float >= 0
    amsgrad : bool
    maximize : bool
        Go up the gradient rather than down.
    decoupled_weight_decay : bool
        True makes this `AdamW`.

    Raises
    ------
    TypeError
        If `params` is not an iterable of Parameters or of dicts.
    ValueError
        If `params` is empty or holds one twice, or a number is out of range.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba: Adam: A method for stochastic optimization. ICLR 2015.
    .. [2] I. Loshchilov, F. Hutter: Decoupled weight decay regularization. ICLR 2019.
    .. [3] S. J. Reddi, S. Kale, S. Kumar: On the convergence of Adam and beyond. ICLR 2018.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.Parameter(np.ones(2, dtype=np.float32))
    >>> opt = fastfc.optim.Adam([p], lr=0.5)
    >>> p.grad = np.float32([1, -100])
    >>> opt.step()
    >>> p.data
    array([0.5, 1.5], dtype=float32)
    """

    slots = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay = (Option() for _ in range(7))

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, *, weight_decay=0.0, amsgrad=False,
                 maximize=False, decoupled_weight_decay=False):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "amsgrad": amsgrad, "maximize": maximize,
                                  "decoupled_weight_decay": decoupled_weight_decay})

    def _check(self, where, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay):
        flags(where, amsgrad=amsgrad, maximize=maximize, decoupled_weight_decay=decoupled_weight_decay)
        not_negative(where, lr=lr, eps=eps, weight_decay=weight_decay)
        betas_in_range(where, betas)

    def _plan(self, group):
        return self.slots if group["amsgrad"] else self.slots[:2]

    def _rule(self, group, step):
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        decoupled = group["decoupled_weight_decay"]
        return _core.Rule("adam", maximize=group["maximize"], lr=lr, beta1=beta1, beta2=beta2, eps=group["eps"],
                          decay=0 if decoupled else decay, shrink=1 - lr * decay if decoupled else 1, correct=True)


class AdamW(Adam):
    """`Adam` with decoupled weight decay: ``w`` shrinks by ``lr · weight_decay`` of itself in each step.

    The arguments are those of `Adam`; only the default of `weight_decay` differs.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.Parameter(np.ones(2, dtype=np.float32))
    >>> opt = fastfc.optim.AdamW([p], lr=0.5, weight_decay=0.1)
    >>> p.grad = np.float32([0, 1])
    >>> opt.step()
    >>> p.data
    array([0.95, 0.45], dtype=float32)
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, *, weight_decay=0.01, amsgrad=False,
                 maximize=False):
        super().__init__(params, lr, betas, eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
                         decoupled_weight_decay=True)


class SparseAdam(Optimizer):
    """Adam for gradients that are a `SparseGrad`: rows that it does not name keep their values and moments.

    With torch's rule, of which ``c1 = 1 - beta1ᵗ`` and ``c2 = 1 - beta2ᵗ`` count every step of the parameter::

        m = beta1 · m + (1 - beta1) · g
        v = beta2 · v + (1 - beta2) · g²
        w = w - lr · √c2 / c1 · m / (√v + eps)

    Parameters
    ----------
    params : iterable of Parameter, or of dict
        Such as ``embedding.parameters()``; see `Optimizer` for groups.
    lr : float >= 0
        Learning rate.
    betas : (float, float), each in [0, 1)
    eps : float >= 0
    maximize : bool
        Go up the gradient rather than down.

    Raises
    ------
    TypeError
        If `params` is not an iterable of Parameters or of dicts.
    ValueError
        If `params` is empty or holds one twice, or a number is out of range.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.Parameter(np.ones((3, 2), dtype=np.float32))
    >>> opt = fastfc.optim.SparseAdam([p], lr=0.5)
    >>> p.grad = fastfc.SparseGrad([1], np.float32([[2, -2]]), (3, 2))
    >>> opt.step()
    >>> p.data.round(4)
    array([[1. , 1. ],
           [0.5, 1.5],
           [1. , 1. ]], dtype=float32)
    """

    slots = ("exp_avg", "exp_avg_sq")
    takes_dense, by_step = False, True
    lr, betas, eps, maximize = (Option() for _ in range(4))

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, *, maximize=False):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})

    def _check(self, where, lr, betas, eps, maximize):
        flags(where, maximize=maximize)
        not_negative(where, lr=lr, eps=eps)
        betas_in_range(where, betas)

    def _plan(self, group):
        return self.slots

    def _rule(self, group, step):
        beta1, beta2 = group["betas"]
        return _core.Rule("adam", maximize=group["maximize"], beta1=beta1, beta2=beta2, eps=group["eps"],
                          lr=group["lr"] * math.sqrt(1 - beta2 ** step) / (1 - beta1 ** step))

    def _sparse_problem(self, group):
        return None
