"""spectral_norm and weight_norm: a layer whose weight is computed from other parameters in each pass."""

import functools
import math
from numbers import Real

import numpy as np

from fastfc import init
from fastfc.arrays import immutable
from fastfc.functional import linear
from fastfc.layers.affine import Affine
from fastfc.layers.arguments import integer, size
from fastfc.module import Module, Parameter, UninitializedParameter

__all__ = ["remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"]


def spectral_norm(layer, name="weight", n_power_iterations=1, eps=1e-12, dim=0, *, rng=None):
    """Divide a layer's weight by its largest singular value, in each pass [1]_.

    With W the parameter as it is trained, seen as a matrix whose rows run along `dim`, the layer computes with
    ``W / σ``, ``σ = u · (W v)``. In ``train()`` each pass first iterates ``v = Wᵀu / ‖Wᵀu‖``, ``u = W v / ‖W v‖``; in
    ``eval()`` u and v stay as they are and W / σ is computed once. In the backward pass u and v are constants::

        grad_W = grad / σ - (Σ grad · W / σ²) · u vᵀ

    Parameters
    ----------
    layer : Module
        Changed in place: ``layer.weight`` is now what it computes with, ``layer.weight_orig`` what is trained. It
        becomes an instance of a subclass of its class with the same name.
    name : str
        A parameter with two or more axes, "weight" for most.
    n_power_iterations : int
        Iterations in each pass of training.
    eps : float > 0
        The least norm that is divided by.
    dim : int
        The axis of the outputs.
    rng : numpy.random.Generator, int or None
        Source of u and v at first.

    Returns
    -------
    Module
        `layer`.

    Raises
    ------
    TypeError, ValueError
        If `layer` has no such parameter, it has less than two axes or waits for a first batch, is normalised already,
        or a number is out of range.

    Notes
    -----
    ``state_dict`` holds ``weight_orig``, ``weight_u`` and ``weight_v``, the keys of ``torch.nn.utils.spectral_norm``
    (not those of ``torch.nn.utils.parametrizations``).

    References
    ----------
    .. [1] T. Miyato, T. Kataoka, M. Koyama, Y. Yoshida: Spectral normalization for generative adversarial networks.
       ICLR 2018. arXiv:1802.05957

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.spectral_norm(fastfc.Linear(20, 40, rng=0), n_power_iterations=30, rng=0)
    >>> y = layer(np.ones((2, 20), dtype=np.float32))
    >>> round(float(np.linalg.norm(layer.weight.data, 2)), 3)
    1.0
    >>> list(layer.state_dict())
    ['bias', 'weight_orig', 'weight_u', 'weight_v']
    """
    parameter = _parameter("spectral_norm", layer, name, dim)
    iterations = size("spectral_norm", "n_power_iterations", n_power_iterations, 1)
    if not isinstance(eps, Real):
        raise TypeError(f"spectral_norm(): eps must be a number, got {type(eps).__name__}")
    if not eps > 0:
        raise ValueError(f"spectral_norm(): eps must be > 0, got {eps}")
    rng = init.generator(rng)
    norm = SpectralNorm(name, dim % parameter.data.ndim, parameter._packer, iterations, eps)
    rows, columns = norm.matrix(parameter.data).shape
    _install(layer, norm, {"orig": parameter.data.copy()}, {
        label: _unit(init.normal_(np.empty(count, parameter.dtype), rng=rng), eps)
        for label, count in (("u", rows), ("v", columns))})
    return layer


def remove_spectral_norm(layer, name="weight"):
    """Undo `spectral_norm`: the weight that the layer computes with now becomes an ordinary parameter.

    Parameters
    ----------
    layer : Module
    name : str

    Returns
    -------
    Module
        `layer`.

    Raises
    ------
    ValueError
        If the parameter is not under `spectral_norm`.

    Examples
    --------
    >>> import fastfc
    >>> layer = fastfc.remove_spectral_norm(fastfc.spectral_norm(fastfc.Linear(20, 40)))
    >>> list(layer.state_dict())
    ['bias', 'weight']
    """
    return _remove("remove_spectral_norm", layer, name, SpectralNorm)


def weight_norm(layer, name="weight", dim=0):
    """Train a layer's weight as a length and a direction, ``W = g · v / ‖v‖`` [1]_.

    Norms run over all axes but `dim`, so for 0 each output has a length of its own. W is as it was at first. In the
    backward pass, with ``d = v / ‖v‖`` and sums over the same axes::

        grad_g = Σ grad · d        grad_v = g / ‖v‖ · (grad - d · grad_g)

    Parameters
    ----------
    layer : Module
        Changed in place: ``layer.weight`` is now what it computes with, ``layer.weight_g`` and ``layer.weight_v`` what
        is trained. It becomes an instance of a subclass of its class with the same name.
    name : str
        A parameter with two or more axes.
    dim : int or None
        None: one length for all.

    Returns
    -------
    Module
        `layer`.

    Raises
    ------
    TypeError, ValueError
        If `layer` has no such parameter, it has less than two axes or waits for a first batch, or is normalised
        already.

    Notes
    -----
    ``state_dict`` holds ``weight_g`` and ``weight_v``, the keys of ``torch.nn.utils.weight_norm``.

    References
    ----------
    .. [1] T. Salimans, D. P. Kingma: Weight normalization: a simple reparameterization to accelerate training of deep
       neural networks. NeurIPS 2016. arXiv:1602.07868

    Examples
    --------
    >>> import fastfc
    >>> layer = fastfc.weight_norm(fastfc.Linear(20, 40))
    >>> layer.weight_g.shape, layer.weight_v.shape
    ((40, 1), (40, 20))
    """
    parameter = _parameter("weight_norm", layer, name, 0 if dim is None else dim)
    norm = WeightNorm(name, None if dim is None else dim % parameter.data.ndim, parameter._packer)
    v = parameter.data.copy()
    _install(layer, norm, {"g": norm.length(v), "v": v}, {})
    return layer


def remove_weight_norm(layer, name="weight"):
    """Undo `weight_norm`: the weight that the layer computes with now becomes an ordinary parameter.

    Parameters
    ----------
    layer : Module
    name : str

    Returns
    -------
    Module
        `layer`.

    Raises
    ------
    ValueError
        If the parameter is not under `weight_norm`.

    Examples
    --------
    >>> import fastfc
    >>> layer = fastfc.remove_weight_norm(fastfc.weight_norm(fastfc.Linear(20, 40)))
    >>> list(layer.state_dict())
    ['bias', 'weight']
    """
    return _remove("remove_weight_norm", layer, name, WeightNorm)


# ---- The two norms: how W follows from what is trained, and how its gradient goes back -----------------------------


class SpectralNorm:
    parts = ("orig", "u", "v")

    def __init__(self, name, dim, packer, iterations, eps):
        self.name, self.dim, self.packer, self.iterations, self.eps = name, dim, packer, iterations, eps

    def matrix(self, weight):
        """Rows along dim, all else along the columns."""
        weight = np.moveaxis(weight, self.dim, 0)
        return weight.reshape(weight.shape[0], math.prod(weight.shape[1:]))

    def advance(self, layer):
        """The power iteration of a pass in training."""
        w = self.matrix(getattr(layer, f"{self.name}_orig").data)
        u, v = (getattr(layer, f"{self.name}_{part}") for part in "uv")
        for _ in range(self.iterations):
            v = _unit(linear(u, w.T), self.eps)
            u = _unit(linear(v, w), self.eps)
        vars(layer).update({f"{self.name}_u": immutable(u), f"{self.name}_v": immutable(v)})

    def forward(self, weight, u, v):
        sigma = np.add.reduce(u * linear(v, self.matrix(weight)))
        return weight / sigma, (weight, u, v, sigma)

    def backward(self, grad, context):
        weight, u, v, sigma = context
        along = np.add.reduce((grad * weight).reshape(-1)) / (sigma * sigma)
        shape = np.moveaxis(weight, self.dim, 0).shape
        return {"orig": grad / sigma - np.moveaxis((along * u[:, None] * v).reshape(shape), 0, self.dim)}


class WeightNorm:
    parts = ("g", "v")

    def __init__(self, name, dim, packer):
        self.name, self.dim, self.packer = name, dim, packer

    def advance(self, layer):
        pass

    def sum(self, array):
        axes = tuple(axis for axis in range(array.ndim) if axis != self.dim)
        return np.asarray(np.add.reduce(array, axis=axes, keepdims=self.dim is not None), array.dtype)

    def length(self, v):
        return np.asarray(np.sqrt(self.sum(v * v)))

    def forward(self, g, v):
        length = self.length(v)
        direction = v / length
        return g * direction, (g, length, direction)

    def backward(self, grad, context):
        g, length, direction = context
        grad_g = self.sum(grad * direction)
        return {"g": grad_g, "v": g / length * (grad - direction * grad_g)}


# ---- The layer that computes with what they give -------------------------------------------------------------------


class Normalised:
    """Comes before a layer's own class: it makes the weight before each pass, and takes its gradient after.

    `_norms` are the norms by the weight's name; `_weights` the Parameters that the last pass was computed with, and
    the arrays that they were made from. In ``eval()`` those are immutable, so that these very arrays make that weight.
    """

    def _pass(self, forward, args, kwargs):
        self._make()
        return forward(self, *args, **kwargs)

    def _pass_vjp(self, vjp, args, kwargs):
        made = self._make()
        y, layer_backward = vjp(self, *args, **kwargs)

        def backward(*args, **kwargs):
            # The layer's own backward pass leaves its gradients in the weights that it was computed with.
            for _, _, weight, _ in made:
                weight.grad = None
            result = layer_backward(*args, **kwargs)
            for norm, _, weight, context in made:
                for part, grad in norm.backward(weight.grad, context).items():
                    getattr(self, f"{norm.name}_{part}").add_grad(grad)
            return result

        return y, backward

    def _make(self, advance=True):
        made = []
        for name, norm in self._norms.items():
            frozen = getattr(self, f"{name}_{norm.parts[0]}").frozen
            if advance and self.training and not frozen:
                norm.advance(self)
            sources = [_array(getattr(self, f"{name}_{part}")) for part in norm.parts]
            old = self._weights.get(name)
            if frozen and old and old[1].frozen and all(a is b for a, b in zip(old[0], sources, strict=True)):
                made.append((norm, *old))
                continue
            array, context = norm.forward(*sources)
            weight = Parameter(np.ascontiguousarray(array), packer=norm.packer)
            if frozen:
                weight.freeze()
            self._weights[name] = sources, weight, context
            made.append((norm, sources, weight, context))
        return made

    def __getattr__(self, name):
        if name not in vars(self).get("_norms", ()):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name not in self._weights:
            self._make(advance=False)
        return self._weights[name][1]

    def _replace_buffers(self, arrays):
        own = {name for norm in self._norms for name in (f"{norm}_u", f"{norm}_v")} & arrays.keys()
        vars(self).update({name: arrays[name] for name in own})
        super()._replace_buffers({name: array for name, array in arrays.items() if name not in own})

    def _loaded(self):
        self._weights = {}
        super()._loaded()

    def __reduce_ex__(self, protocol):
        base = type(self).__bases__[1]
        state = base.__getstate__(self) if hasattr(base, "__getstate__") else vars(self)
        return _restored, (base, {**state, "_weights": {}})


def _restored(base, state):
    layer = object.__new__(_class(base))
    if hasattr(base, "__setstate__"):
        layer.__setstate__(state)
    else:
        vars(layer).update(state)
    for name, norm in layer._norms.items():
        for part in norm.parts:
            value = getattr(layer, f"{name}_{part}")
            if not isinstance(value, Parameter):
                setattr(layer, f"{name}_{part}", immutable(value))
    return layer


@functools.cache
def _class(base):
    """`base` with its two passes wrapped: of an affine layer those that the others call, and that Sequential fuses."""
    forward, vjp = ("forward", "forward_vjp") if issubclass(base, Affine) else ("__call__", "vjp")
    return type(base.__name__, (Normalised, base), {
        "__module__": base.__module__, "__doc__": base.__doc__,
        forward: lambda self, *args, **kwargs: self._pass(getattr(base, forward), args, kwargs),
        vjp: lambda self, *args, **kwargs: self._pass_vjp(getattr(base, vjp), args, kwargs)})


def _install(layer, norm, parameters, buffers):
    frozen = vars(layer).pop(norm.name).frozen
    if not isinstance(layer, Normalised):
        layer._norms, layer._weights = {}, {}
        layer.__class__ = _class(type(layer))
    layer._norms[norm.name] = norm
    for part, array in parameters.items():
        parameter = Parameter(array)
        if frozen:
            parameter.freeze()
        setattr(layer, f"{norm.name}_{part}", parameter)
    for part, array in buffers.items():
        setattr(layer, f"{norm.name}_{part}", immutable(array))
    layer.buffers = (*layer.buffers, *(f"{norm.name}_{part}" for part in buffers))


def _remove(function, layer, name, kind):
    _named(function, layer, name)
    if not isinstance(layer, Normalised) or not isinstance(layer._norms.get(name), kind):
        raise ValueError(f"{function}(): name: {name!r} of {layer!r} is not normalised so")
    norm = layer._norms[name]
    sources = [_array(getattr(layer, f"{name}_{part}")) for part in norm.parts]
    frozen = getattr(layer, f"{name}_{norm.parts[0]}").frozen
    weight = Parameter(np.ascontiguousarray(norm.forward(*sources)[0]), packer=norm.packer)
    if frozen:
        weight.freeze()
    del layer._norms[name]
    layer._weights.pop(name, None)
    gone = [f"{name}_{part}" for part in norm.parts]
    for attribute in gone:
        delattr(layer, attribute)
    layer.buffers = tuple(buffer for buffer in layer.buffers if buffer not in gone)
    if not layer._norms:
        layer.__class__ = type(layer).__bases__[1]
        del layer._norms, layer._weights
    if layer.buffers == type(layer).buffers:
        del layer.buffers
    setattr(layer, name, weight)
    return layer


def _named(function, layer, name):
    if not isinstance(layer, Module):
        raise TypeError(f"{function}(): layer must be a Module, got {type(layer).__name__}")
    if not isinstance(name, str):
        raise TypeError(f"{function}(): name must be a string, got {type(name).__name__}")


def _parameter(function, layer, name, dim):
    """The parameter to be normalised, and that it can be."""
    _named(function, layer, name)
    if isinstance(layer, Normalised) and name in layer._norms:
        raise ValueError(f"{function}(): name: {name!r} of {layer!r} is normalised already")
    parameter = vars(layer).get(name)
    if not isinstance(parameter, Parameter):
        raise ValueError(f"{function}(): name: {layer!r} has no parameter {name!r}")
    if isinstance(parameter, UninitializedParameter):
        raise ValueError(f"{function}(): name: {name!r} of {layer!r} is uninitialised; call the layer on a first "
                         "batch before")
    if parameter.data.ndim < 2:
        raise ValueError(f"{function}(): name: {name!r} must have two axes or more, got shape {parameter.shape}")
    if not -parameter.data.ndim <= integer(function, "dim", dim) < parameter.data.ndim:
        raise ValueError(f"{function}(): dim is {dim}, expected an axis of {name!r}, of shape {parameter.shape}")
    if getattr(layer, "sparse", False):
        raise ValueError(f"{function}(): layer {layer!r} has a sparse gradient")
    return parameter


def _array(value):
    return value.data if isinstance(value, Parameter) else value


def _unit(vector, eps):
    return vector / max(np.sqrt(np.add.reduce(vector * vector)), vector.dtype.type(eps))
