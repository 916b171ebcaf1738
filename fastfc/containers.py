"""Modules made of modules."""

from collections.abc import Mapping
from itertools import pairwise

from fastfc._core import ChainBackward
from fastfc.layers import (
    GroupedLinear,
    LayerNorm,
    LazyLinear,
    Linear,
    LowRankLinear,
    MaskedLinear,
    RMSNorm,
    SeparableLinear,
    SparseLinear,
)
from fastfc.layers.activation import ELEMENTWISE
from fastfc.layers.norm import LinearNorm
from fastfc.module import Module

__all__ = ["Sequential"]

# Exact types: a subclass may compute something else, so it is run as it is.
FUSES = frozenset(
    {GroupedLinear, LazyLinear, Linear, LowRankLinear, MaskedLinear, SeparableLinear, SparseLinear}
)
NORMS = frozenset({LayerNorm, RMSNorm})


class Sequential(Module):
    """Layers run one after the other.

    A `Linear`, or another layer of its kind, without an activation and an activation layer after it run as one fused
    call, with the same bits; so do a `Linear`, its activation if there is one, and a `LayerNorm` or `RMSNorm` of its
    outputs. Names in ``state_dict`` are ``"0.weight"``, ``"0.bias"`` and so on, as in torch.

    Parameters
    ----------
    *layers : Module
        Or one mapping from names to modules: its names then take the place of the numbers.

    Raises
    ------
    TypeError
        If a layer is not a `Module`, or a name is not a string.
    ValueError
        On a call, before anything is computed, if a layer expects another number of features than the one before it
        gives; the message says which. An error that a layer raises in either pass is raised on with the layer's place
        and text before it.

    Notes
    -----
    A slice, as torch's, shares the layers and keeps their names. ``del model[i]`` numbers the rest afresh.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> model = fastfc.Sequential(fastfc.Linear(64, 128), fastfc.ReLU(), fastfc.Linear(128, 10))
    >>> model
    Sequential(
      (0): Linear(in_features=64, out_features=128, bias=True)
      (1): ReLU()
      (2): Linear(in_features=128, out_features=10, bias=True)
    )
    >>> model(np.ones((32, 64), dtype=np.float32)).shape
    (32, 10)
    >>> len(model), model[-1], len(model[:2])
    (3, Linear(in_features=128, out_features=10, bias=True), 2)
    >>> named = fastfc.Sequential({"hidden": fastfc.Linear(4, 3), "out": fastfc.Linear(3, 2)})
    >>> list(named.state_dict()), named.out
    (['hidden.weight', 'hidden.bias', 'out.weight', 'out.bias'], Linear(in_features=3, out_features=2, bias=True))
    """

    def __init__(self, *layers):
        self._layers, self._made = {}, None
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            for name, layer in layers[0].items():
                self._add(name, layer)
        else:
            self.extend(layers)

    # -- the two passes -----------------------------------------------------------------------------------------------

    def __call__(self, x):
        at = 0
        steps = self._made or self._steps()
        try:
            for layer, following, _, _, call in steps:
                if following is None:
                    x = call(x)
                elif layer.activation is None:
                    x = layer.forward(x, following.activation)
                else:
                    x = following(layer(x))
                at += 1
        except (TypeError, ValueError) as error:
            _say_where(error, steps[at])
            raise
        return x

    def vjp(self, x):
        passes = []
        steps = self._made or self._steps()
        try:
            for layer, following, _, hidden, _ in steps:
                if following is not None and layer.activation is not None:
                    x, backward = _both(layer, following, x)
                elif following is not None or hidden:
                    activation = layer.activation if following is None else following.activation
                    x, backward = layer.forward_vjp(x, activation, hidden)
                else:
                    x, backward = layer.vjp(x)
                passes.append(backward)
        except (TypeError, ValueError) as error:
            _say_where(error, steps[len(passes)])
            raise

        return x, ChainBackward(passes, steps, _say_where)

    def _steps(self):
        """Steps: a layer; the activation layer that may be fused into it, or None to run it as it is; its name; whether
        it is an affine layer before another one, so that nobody writes into its y; and what to call. (Of a step made
        here that is its ``__call__``, which takes less time. A layer's class can change, and that with it.)

        Made once, and again after a change of the layers. It goes by the layers' types alone: whether the first has
        an activation of its own, and what the second's parameter is, is looked up in each call.
        """
        self._check_widths()
        steps = []
        for name, layer in self.named_children():
            before = steps[-1] if steps else (None, None, None)
            if type(layer) in ELEMENTWISE and before[1] is None and type(before[0]) in FUSES:
                steps[-1] = before[0], layer, before[2]
            elif type(layer) in NORMS and type(before[0]) is Linear:
                steps[-1] = LinearNorm(*before[:2], layer), None, before[2]
            else:
                steps.append((layer, None, name))
        hidden = [type(layer) in FUSES and type(following[0]) in FUSES for (layer, *_), following in pairwise(steps)]
        calls = [layer.__call__ if type(layer) is LinearNorm else layer for layer, *_ in steps]
        self._made = [(*step, *rest) for step, *rest in zip(steps, [*hidden, False], calls, strict=False)]
        return self._made

    def _check_widths(self):
        width = source = None
        for name, layer in _flat(self):
            expected = getattr(layer, "in_features", None)
            if width is not None and expected is not None and width != expected and not isinstance(layer, LazyLinear):
                raise ValueError(f"Sequential: layer {name}, {_text(layer)}: expected {expected} features, got {width} "
                                 f"from layer {source}")
            if not layer.keeps_width:
                width, source = getattr(layer, "out_features", None), f"{name}, {_text(layer)}"

    def __getstate__(self):
        return {**vars(self), "_made": None}

    # -- the sequence -------------------------------------------------------------------------------------------------

    def append(self, layer):
        """Add `layer` at the end, and return self."""
        number = len(self._layers)
        while str(number) in self._layers:  # of a slice, which keeps its names
            number += 1
        self._add(str(number), layer)
        return self

    def extend(self, layers):
        """Add each of `layers` at the end, and return self."""
        for layer in layers:
            self.append(layer)
        return self

    def insert(self, index, layer):
        """Put `layer` before the one at `index`, number all afresh, and return self."""
        layers = list(self)
        layers.insert(index, _checked(layer, index))
        self._number(layers)
        return self

    def pop(self, index=-1):
        """Take the layer at `index` out, number the rest afresh, and return it."""
        layer = self[index]
        del self[index]
        return layer

    def named_children(self):
        return self._layers.items()

    def __len__(self):
        return len(self._layers)

    def __iter__(self):
        return iter(self._layers.values())

    def __getitem__(self, index):
        """The layer at `index`, or for a slice a Sequential that shares the layers, under the names they have here."""
        if isinstance(index, slice):
            return Sequential(dict(list(self._layers.items())[index]))
        return list(self)[index]

    def __setitem__(self, index, layer):
        name = list(self._layers)[index]
        self._layers[name] = _checked(layer, name)
        self._made = None

    def __delitem__(self, index):
        layers = list(self)
        del layers[index]
        self._number(layers)

    def __getattr__(self, name):
        try:
            return vars(self)["_layers"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    def _add(self, name, layer):
        if not isinstance(name, str):
            raise TypeError(f"Sequential: a layer's name must be a string, got {type(name).__name__}")
        if not name or "." in name:
            raise ValueError(f'Sequential: a layer\'s name must not be empty or hold a ".", got {name!r}')
        self._layers[name] = _checked(layer, name)
        self._made = None

    def _number(self, layers):
        self._layers = {str(i): layer for i, layer in enumerate(layers)}
        self._made = None


def _checked(layer, name):
    if not isinstance(layer, Module):
        raise TypeError(f"Sequential: layer {name} must be a Module, got {type(layer).__name__}")
    return layer


def _say_where(error, step):
    """Put a layer's name and text before the message of an error. Subclasses of the two types are left alone: their
    arguments mean something else."""
    if type(error) in (TypeError, ValueError) and len(error.args) == 1:
        layer, _, name, *_ = step
        error.args = (f"layer {name}, {_text(layer)}: {error.args[0]}",)


def _both(layer, following, x):
    y, back = layer.vjp(x)
    z, following_back = following.vjp(y)
    return z, lambda grad, needs_input_grad=True: back(following_back(grad), needs_input_grad)


def _flat(sequential, prefix=""):
    """Dotted names and layers, those of nested Sequentials in their place."""
    for name, layer in sequential.named_children():
        if type(layer) is Sequential:
            yield from _flat(layer, f"{prefix}{name}.")
        else:
            yield prefix + name, layer


def _text(layer):
    """A layer in one line."""
    text = repr(layer)
    return text if "\n" not in text else type(layer).__name__
