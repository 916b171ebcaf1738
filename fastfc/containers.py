"""Modules made of modules."""

from fastfc.layers import LayerNorm, Linear, ReLU, RMSNorm, SparseLinear
from fastfc.layers.norm import LinearNorm
from fastfc.module import Module

__all__ = ["Sequential"]

# Exact types: a subclass may compute something else, so it is run as it is.
FUSES = frozenset({Linear, SparseLinear})
ACTIVATIONS = frozenset({ReLU})
NORMS = frozenset({LayerNorm, RMSNorm})


class Sequential(Module):
    """Layers run one after the other.

    A `Linear` or `SparseLinear` without an activation and a `ReLU` after it run as one fused call, with the same
    bits; so do a `Linear`, its activation if there is one, and a `LayerNorm` or `RMSNorm` of its outputs. Names in
    ``state_dict`` are ``"0.weight"``, ``"0.bias"`` and so on, as in torch.

    Parameters
    ----------
    *layers : Module

    Raises
    ------
    TypeError
        If a layer is not a `Module`.

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
    """

    def __init__(self, *layers):
        self._layers = []
        for layer in layers:
            self.append(layer)

    def __call__(self, x):
        for layer, activation in self._steps():
            x = layer(x) if activation is None else layer.forward(x, activation)
        return x

    def vjp(self, x):
        passes = []
        for layer, activation in self._steps():
            x, backward = layer.vjp(x) if activation is None else layer.forward_vjp(x, activation)
            passes.append(backward)
        passes.reverse()

        def backward(grad_y, needs_input_grad=True):
            if not passes:
                return grad_y if needs_input_grad else None
            for layer_backward in passes[:-1]:
                grad_y = layer_backward(grad_y)
            return passes[-1](grad_y, needs_input_grad)

        return x, backward

    def _steps(self):
        """Pairs of a layer and the activation fused into it, or None to run the layer as it is."""
        steps, layers = [], self._layers
        for layer in layers:
            if steps and type(layer) in ACTIVATIONS:
                last, activation = steps[-1]
                if type(last) in FUSES and activation is None and last.activation is None:
                    steps[-1] = last, layer.activation
                    continue
            if steps and type(layer) in NORMS:
                last, activation = steps[-1]
                if type(last) is Linear and layer.normalized_shape == (last.out_features,):
                    steps[-1] = LinearNorm(last, last.activation if activation is None else activation, layer), None
                    continue
            steps.append((layer, None))
        return steps

    def append(self, layer):
        """Add `layer` at the end, and return self."""
        if not isinstance(layer, Module):
            raise TypeError(f"Sequential: layer {len(self._layers)} must be a Module, got {type(layer).__name__}")
        self._layers.append(layer)
        return self

    def named_children(self):
        return ((str(i), layer) for i, layer in enumerate(self._layers))

    def __len__(self):
        return len(self._layers)

    def __iter__(self):
        return iter(self._layers)

    def __getitem__(self, index):
        """The layer at `index`, or for a slice a Sequential that shares the layers."""
        if isinstance(index, slice):
            return Sequential(*self._layers[index])
        return self._layers[index]
