"""Finding the layers of a model that can be pruned, and putting others in their place."""

import math
import numbers

from fastfc.containers import Sequential
from fastfc.layers import Linear, MaskedLinear
from fastfc.layers.arguments import among
from fastfc.module import Module, UninitializedParameter

__all__ = ["Place", "fraction", "module_of", "places", "whole"]


class Place:
    """A layer, its dotted name, and where it hangs."""

    def __init__(self, name, parent, key, layer):
        self.name, self.parent, self.key, self.layer = name, parent, key, layer

    def put(self, layer):
        if layer.training != self.layer.training:
            layer.train(self.layer.training)
        self.layer = layer
        if isinstance(self.parent, Sequential):
            self.parent[list(dict(self.parent.named_children())).index(self.key)] = layer
        elif self.parent is not None:
            setattr(self.parent, self.key, layer)


def places(function, model, layers=None, kinds=(Linear, MaskedLinear)):
    """The layers of exactly these kinds in `model`, in its order; of `layers`, dotted names, those alone.

    It looks into `Sequential` and into modules that are not fastfc's own: those compute with the layers they have.
    """
    found = [place for place in _walk(module_of(function, model), "", None, "") if type(place.layer) in kinds]
    if layers is not None:
        try:
            wanted = None if isinstance(layers, str) else list(layers)
        except TypeError:
            wanted = None
        if wanted is None:
            raise TypeError(f"{function}(): layers must be a sequence of names, got {layers!r}")
        known = [place.name for place in found]
        for name in wanted:
            if not among(name, known):
                raise ValueError(f"{function}(): layers names {name!r}, the model has {', '.join(known) or 'none'}")
        found = [place for place in found if place.name in wanted]
    if not found:
        raise ValueError(f"{function}(): the model has no {' or '.join(kind.__name__ for kind in kinds)}")
    for place in found:
        if isinstance(place.layer.weight, UninitializedParameter):
            raise ValueError(f"{function}(): layer {place.name} is uninitialised; call the model on a first batch "
                             "before")
    return found


def module_of(function, model):
    if not isinstance(model, Module):
        raise TypeError(f"{function}(): model must be a Module, got {type(model).__name__}")
    return model


def _walk(module, name, parent, key):
    yield Place(name or type(module).__name__, parent, key, module)
    if isinstance(module, Sequential) or not type(module).__module__.startswith("fastfc."):
        for child_key, child in list(module.named_children()):
            yield from _walk(child, f"{name}.{child_key}" if name else child_key, module, child_key)


def fraction(function, name, value):
    """`value` as a share of zeros: a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{function}(): {name} must be a number in [0, 1), got {type(value).__name__}")
    value = float(value)
    if not (0 <= value < 1) or math.isnan(value):
        raise ValueError(f"{function}(): {name} must be in [0, 1), got {value}")
    return value


def whole(function, name, value, least=1):
    """`value` as an int of at least so much."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{function}(): {name} must be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{function}(): {name} must be >= {least}, got {value}")
    return int(value)
