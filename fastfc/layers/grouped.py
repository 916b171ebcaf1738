"""GroupedLinear, whose weight is block-diagonal, and SeparableLinear, which mixes its groups."""

import functools

import numpy as np

from fastfc import init
from fastfc._core import Trainable, affine_vjp, needs_of
from fastfc.arrays import empty, immutable
from fastfc.functional import linear, linear_backward, pack
from fastfc.layers.affine import Affine, Factored, Linear, default_bias, default_weight
from fastfc.layers.arguments import flag, float_array, float_dtype, like, size
from fastfc.module import Parameter
from fastfc.sparse import CSR

__all__ = ["GroupedLinear", "SeparableLinear"]

# Elements of a group's block from which a dense product for each group is faster, in both passes together, than one
# product with the whole as a CSR matrix. With 1024 features and 64 rows it is 0.1 times as fast for blocks of 4×4, as
# fast for 16×16, and 3 times as fast for 64×64.
DENSE = 256


class GroupedLinear(Affine):
    """Fully connected layer in groups: the features are cut into `groups` equal parts, each with a weight of its own.

    ``y = act(concatenate(x_g W_gᵀ for g in groups) + b)``, x_g and y_g being contiguous parts of the last axis. It is a
    `Linear` whose weight is zero off its diagonal blocks, of which only the blocks are stored and multiplied, and what
    torch computes as a ``Conv1d`` with a kernel of 1 and `groups`.

    Parameters
    ----------
    in_features, out_features : int
    groups : int
        Divides both.
    bias : bool
    activation, dtype, rng
        As for `Linear`. Initial values are those of ``Conv1d``: U(-k, k), k = √(groups / in_features).

    Attributes
    ----------
    weight : Parameter, (out_features, in_features / groups)
        The blocks W_g, one below the other: row n belongs to output n.
    bias : Parameter, (out_features,), or None

    Raises
    ------
    TypeError, ValueError
        If a size is no integer, out of range, or `groups` does not divide it. A call raises what `fastfc.linear`
        raises.

    References
    ----------
    .. [1] A. Krizhevsky, I. Sutskever, G. Hinton: ImageNet classification with deep convolutional neural networks.
       NeurIPS 2012.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.GroupedLinear(64, 128, groups=4, rng=0)
    >>> layer
    GroupedLinear(in_features=64, out_features=128, groups=4, bias=True)
    >>> layer(np.ones((32, 64), dtype=np.float32)).shape, layer.weight.shape
    ((32, 128), (128, 16))
    """

    def __init__(self, in_features, out_features, groups, bias=True, *, activation=None, dtype=np.float32, rng=None):
        self.in_features = inputs = size("GroupedLinear", "in_features", in_features)
        self.out_features = outputs = size("GroupedLinear", "out_features", out_features)
        self.groups = groups = size("GroupedLinear", "groups", groups, 1)
        for name, value in (("in_features", inputs), ("out_features", outputs)):
            if value % groups:
                raise ValueError(f"GroupedLinear(): groups must divide {name}, got groups={groups}, {name}={value}")
        self.activation = activation
        dtype, rng = float_dtype("GroupedLinear", dtype), init.generator(rng)
        bias = flag("GroupedLinear", "bias", bias)
        self._block = outputs // groups, inputs // groups
        self._structure = self._made_structure()
        packer = None if self._structure else functools.partial(pack_groups, groups=groups)
        self.weight = Parameter(default_weight(outputs, inputs // groups, dtype, rng), packer=packer)
        self.bias = Parameter(default_bias(outputs, inputs // groups, dtype, rng)) if bias else None

    def _made_structure(self):
        """Indices and indptr of the weight as CSR, for small blocks; row by row, its values are the weight's."""
        n, k = self._block
        if n * k >= DENSE:
            return None
        kind = np.int32 if self.out_features * k <= np.iinfo(np.int32).max else np.int64
        first = np.arange(self.groups, dtype=kind) * k
        indices = np.repeat(first, n)[:, None] + np.arange(k, dtype=kind)
        return immutable(indices.reshape(-1)), immutable(np.arange(self.out_features + 1, dtype=kind) * k)

    def _matrix(self):
        shape = self.out_features, self.in_features
        return CSR._of(self.weight.data.reshape(-1), *self._structure, shape)

    _operand = _matrix

    def forward(self, x, activation):
        if self._structure:
            return super().forward(x, activation)
        return self._joined(self._dense(x, activation, False)[0])

    def forward_vjp(self, x, activation, hidden=False):
        if self._structure:
            return self._sparse_vjp(x, activation, hidden)
        weight, bias = self.weight, self.bias
        ys, zs = self._dense(x, activation, activation is not None)
        y = self._joined(ys)

        def backward(grad_y, needs_input_grad=True):
            grads = self._parts(like("GroupedLinear", "grad_y", grad_y, y), self._block[0])
            xs, ws = self._parts(x, self._block[1]), self._blocks(weight.data)
            grad_x = empty((self.groups, *x.shape[:-1], self._block[1]), x.dtype) if needs_input_grad else None
            grad_w = empty(ws.shape, x.dtype)
            grad_b = None if bias is None else np.empty((self.groups, self._block[0]), x.dtype)
            needs = needs_of(bias, needs_input_grad)
            for g in range(self.groups):
                linear_backward(
                    grads[g], xs[g], ws[g], activation=activation, preactivation=None if zs is None else zs[g],
                    needs=needs, out=(None if grad_x is None else grad_x[g], grad_w[g],
                                      None if grad_b is None else grad_b[g]))
            weight.add_grad(grad_w.reshape(weight.shape))
            if bias is not None:
                bias.add_grad(grad_b.reshape(-1))
            return self._joined(grad_x) if needs_input_grad else None

        return y, backward

    def _sparse_vjp(self, x, activation, hidden):
        # The gradient of a CSR weight is one row of elements.
        weight, matrix, into = self.weight, self._matrix(), Trainable()
        y, product_backward = affine_vjp(x, matrix, matrix, into, self.bias, activation, hidden)

        def backward(grad_y, needs_input_grad=True):
            into.grad = None if weight.grad is None else weight.grad.reshape(-1)
            grad_x = product_backward(grad_y, needs_input_grad)
            weight.grad = into.grad.reshape(weight.shape)
            return grad_x

        return y, backward

    def _dense(self, x, activation, return_preactivation):
        """y and z, group by group: arrays (groups, ..., out_features / groups)."""
        x = float_array("GroupedLinear", "x", x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"GroupedLinear: x must have shape (..., {self.in_features}), got {x.shape}")
        ws = self.weight.operand
        ws = self._blocks(ws) if isinstance(ws, np.ndarray) else ws
        bias = [None] * self.groups if self.bias is None else self.bias.data.reshape(self.groups, -1)
        y, z = empty((self.groups, *x.shape[:-1], self._block[0]), x.dtype), []
        for part, w, b, out in zip(self._parts(x, self._block[1]), ws, bias, y, strict=True):
            result = linear(part, w, b, activation=activation, out=out, return_preactivation=return_preactivation)
            if return_preactivation:
                z.append(result[1])
        return y, z if return_preactivation else None

    def _blocks(self, weight):
        return weight.reshape(self.groups, *self._block)

    def _parts(self, array, width):
        """(..., features) as a view (groups, ..., width)."""
        return np.moveaxis(array.reshape(*array.shape[:-1], self.groups, width), -2, 0)

    def _joined(self, parts):
        parts = np.moveaxis(parts, 0, -2)
        return parts.reshape(*parts.shape[:-2], parts.shape[-2] * parts.shape[-1])

    def to_dense(self):
        """Return the whole weight as a fresh array (out_features, in_features), zero off the blocks."""
        dense = np.zeros((self.groups, self._block[0], self.groups, self._block[1]), self.weight.dtype)
        each = np.arange(self.groups)
        dense[each, :, each] = self._blocks(self.weight.data)
        return dense.reshape(self.out_features, self.in_features)

    def __getstate__(self):
        return {**vars(self), "_structure": None}

    def __setstate__(self, state):
        vars(self).update(state)
        self._structure = self._made_structure()

    def extra_repr(self):
        return super().extra_repr().replace(", bias", f", groups={self.groups}, bias")


def pack_groups(weight, groups):
    return tuple(pack(block) for block in weight.reshape(groups, -1, weight.shape[1]))


class SeparableLinear(Factored):
    """Depthwise-separable fully connected layer: each group of features on its own, then a product that mixes them.

    The features are cut into `groups` equal parts x_g, and in a first step, without a bias, each is turned into
    `multiplier` numbers by a weight of its own; in a second one these are mixed::

        h = concatenate(x_g D_gᵀ for g in groups)        D_g (multiplier, in_features / groups)
        y = act(h Pᵀ + b)                                P (out_features, groups · multiplier)

    A group stands for what a channel is in a depthwise-separable convolution [1]_, with in_features / groups in place
    of the kernel's area: `multiplier` is its depth multiplier, P its pointwise (1×1) convolution. It has
    multiplier · (in_features + groups · out_features) weights in place of in_features · out_features.

    Parameters
    ----------
    in_features, out_features : int
    groups : int
        Divides in_features.
    multiplier : int
        Outputs of each group.
    bias : bool
    activation, dtype, rng
        As for `Linear`.

    Attributes
    ----------
    depthwise : GroupedLinear, in_features to groups · multiplier, without a bias
    pointwise : Linear, groups · multiplier to out_features

    Raises
    ------
    TypeError, ValueError
        If a size is no integer, out of range, or `groups` does not divide in_features. A call raises what
        `fastfc.linear` raises.

    References
    ----------
    .. [1] F. Chollet: Xception: deep learning with depthwise separable convolutions. CVPR 2017. arXiv:1610.02357

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> layer = fastfc.SeparableLinear(64, 128, groups=8, multiplier=2, rng=0)
    >>> layer
    SeparableLinear(in_features=64, out_features=128, groups=8, multiplier=2, bias=True)
    >>> [(name, p.shape) for name, p in layer.named_parameters()]
    [('depthwise.weight', (16, 8)), ('pointwise.weight', (128, 16)), ('pointwise.bias', (128,))]
    >>> layer(np.ones((32, 64), dtype=np.float32)).shape
    (32, 128)
    """

    steps = ("depthwise", "pointwise")

    def __init__(self, in_features, out_features, groups, multiplier=1, bias=True, *, activation=None,
                 dtype=np.float32, rng=None):
        inputs = size("SeparableLinear", "in_features", in_features)
        outputs = size("SeparableLinear", "out_features", out_features)
        groups = size("SeparableLinear", "groups", groups, 1)
        self.multiplier = size("SeparableLinear", "multiplier", multiplier, 1)
        if inputs % groups:
            raise ValueError(f"SeparableLinear(): groups must divide in_features, got groups={groups}, "
                             f"in_features={inputs}")
        dtype, rng = float_dtype("SeparableLinear", dtype), init.generator(rng)
        hidden = groups * self.multiplier
        self.depthwise = GroupedLinear(inputs, hidden, groups, False, dtype=dtype, rng=rng)
        self.pointwise = Linear(hidden, outputs, bias, activation=activation, dtype=dtype, rng=rng)

    groups = property(lambda self: self.depthwise.groups)

    def to_dense(self):
        """Return the weight of both steps together as a fresh array (out_features, in_features)."""
        return linear(self.pointwise.weight.data, self.depthwise.to_dense().T)

    def inner_repr(self):
        return f"groups={self.groups}, multiplier={self.multiplier}"
