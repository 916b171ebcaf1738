"""Trading time for memory: activations that are computed again in the backward pass instead of being kept."""

from contextlib import contextmanager

import numpy as np

from fastfc.module import Module, Parameter


def checkpoint(module):
    """Wrap `module` so that training keeps x of it alone, and computes the rest again when it is needed.

    ``vjp`` of the result runs the forward pass without keeping anything but x and y; its ``backward`` runs the
    module's own ``vjp``, at the cost of a second forward pass. So a model made of n checkpointed segments holds n
    inputs and the activations of one segment at a time, instead of those of all.

    Parameters
    ----------
    module : Module
        The segment: a layer, a `Sequential` or a model of your own.

    Returns
    -------
    Module
        With the same parameters and the same ``state_dict``, names included.

    Raises
    ------
    TypeError
        If `module` is not a `Module`.

    Notes
    -----
    y and all gradients have the bits of the module's own. What a training call changes in the modules' attributes,
    such as the number of calls by which `Dropout` draws its masks, is for the second forward pass put back to what it
    was before the first, and afterwards is as if that pass had not been. (A layer of your own that draws from a
    Generator keeps its state elsewhere, and would draw anew.) Between the passes neither x nor the parameters may be
    written into (see `fastfc.layers`).

    References
    ----------
    .. [1] T. Chen, B. Xu, C. Zhang, C. Guestrin, Training deep nets with sublinear memory cost, arXiv:1604.06174

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> block = fastfc.Sequential(fastfc.Linear(8, 32, rng=0), fastfc.ReLU(), fastfc.Linear(32, 8, rng=1))
    >>> model = fastfc.Sequential(fastfc.checkpoint(block), fastfc.Linear(8, 4, rng=2))
    >>> list(model.state_dict())
    ['0.0.weight', '0.0.bias', '0.2.weight', '0.2.bias', '1.weight', '1.bias']
    >>> y, backward = model.vjp(np.ones((16, 8), dtype=np.float32))
    >>> backward(np.ones_like(y)).shape
    (16, 8)
    """
    if not isinstance(module, Module):
        raise TypeError(f"checkpoint(): module must be a Module, got {type(module).__name__}")
    return Checkpoint(module)


class Checkpoint(Module):
    """What `checkpoint` returns."""

    def __init__(self, module):
        self.module = module

    def __call__(self, x):
        return self.module(x)

    def vjp(self, x):
        return recomputed(self.module, self.module, self.module.vjp, x)

    def _entries(self, prefix=""):
        return self.module._entries(prefix)


def recomputed(module, forward, vjp, x):
    """``vjp(x)``, whose first half is ``forward(x)`` and whose second computes all of `vjp`; `module` is what they
    change."""
    before = [(each, _changing(each)) for each in module.modules()]
    y = forward(x)

    def backward(grad_y, needs_input_grad=True):
        with _restored(before):
            _, module_backward = vjp(x)
        return module_backward(grad_y, needs_input_grad)

    return y, backward


def _changing(module):
    """What a call may change: in training the attributes, but for parameters and modules; in ``eval()`` nothing, so
    that several threads may call."""
    if not module.training:
        return {"training": False}
    return _copied(module, {**vars(module), "training": True})


def _copied(module, attributes):
    """Buffers that can be written in place are copied, others share their memory."""
    kept = {name: value for name, value in attributes.items() if not isinstance(value, Module | Parameter)}
    for name in module.buffers:
        if isinstance(kept.get(name), np.ndarray) and kept[name].flags.writeable:
            kept[name] = kept[name].copy()
    return kept


@contextmanager
def _restored(before):
    """The modules with the attributes that they had, for a while."""
    changed = [(module, attributes) for module, attributes in before if module.training or attributes["training"]]
    now = [(module, dict(vars(module))) for module, _ in changed]
    for module, attributes in changed:
        vars(module).update(_copied(module, attributes))
    try:
        yield
    finally:
        for module, attributes in now:
            vars(module).clear()
            vars(module).update(attributes)
