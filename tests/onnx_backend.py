"""ONNX operators on fastfc: a node in, arrays out. Enough for onnx's own node tests of what fastfc implements.

The specification is onnx's (docs/Operators.md there); names here are those of its inputs and attributes.
"""

import math

import numpy as np
from onnx import helper

import fastfc
from fastfc import optim


def run(model, inputs):
    """Outputs of a model of one node."""
    (node,) = model.graph.node
    given = dict(zip((i.name for i in model.graph.input), inputs, strict=True))
    arguments = [given[name] if name else None for name in node.input]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
    opset = max(o.version for o in model.opset_import if o.domain == node.domain)
    operator = OPERATORS[node.op_type]
    extra = {"outputs": len(node.output)} if operator in COUNTED else {}
    extra |= {"opset": opset} if operator is softmax else {}
    results = operator(*arguments, **attributes, **extra)
    return results if isinstance(results, tuple) else (results,)


# ---- Products -------------------------------------------------------------------------------------------------------


def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    a, weight = a.T if transA else a, b if transB else b.T
    bias = residual = None
    if c is not None:
        c = np.asarray(c * a.dtype.type(beta))
        if c.shape == (len(weight),):
            bias = c
        else:
            residual = np.broadcast_to(c, (len(a), len(weight)))
    return fastfc.linear(a * a.dtype.type(alpha), weight, bias, residual=residual)


def matmul(a, b):
    """As numpy means it: a batch of products where b has more than two axes."""
    if b.ndim == 1:
        return fastfc.linear(a, b[None])[..., 0]
    if b.ndim == 2:
        return fastfc.linear(a, b.T)
    rows = a[None] if a.ndim == 1 else a
    leading = np.broadcast_shapes(rows.shape[:-2], b.shape[:-2])
    rows = np.broadcast_to(rows, (*leading, *rows.shape[-2:]))
    b = np.broadcast_to(b, (*leading, *b.shape[-2:]))
    y = np.empty((*leading, rows.shape[-2], b.shape[-1]), a.dtype)
    for at in np.ndindex(leading):
        fastfc.linear(rows[at], b[at].T, out=y[at])
    return y[..., 0, :] if a.ndim == 1 else y


# ---- Element by element ---------------------------------------------------------------------------------------------


def elementwise(layer, **defaults):
    """An operator that is a layer; `defaults` gives onnx's for each of the layer's arguments, by onnx's name."""

    def operator(x, **attributes):
        return layer(*[attributes.pop(name, default) for name, default in defaults.items()], **attributes)(x)

    return operator


def swish(x, *, alpha=1.0):
    """x sigmoid(alpha x): silu of alpha x, over alpha."""
    return fastfc.SiLU()(x * x.dtype.type(alpha)) / x.dtype.type(alpha)


def swiglu(a, b, *, alpha=1.0):
    return swish(a, alpha=alpha) * b


def dropout(x, ratio=None, training_mode=None, *, seed=0, outputs=1):
    if ratio is None or training_mode is None or not training_mode:
        y, mask = fastfc.Dropout(0.5 if ratio is None else float(ratio)).eval()(x), np.ones(x.shape, bool)
    else:
        layer = fastfc.Dropout(float(ratio), rng=seed)
        y, backward = layer.vjp(x)
        mask = backward(np.ones_like(x)) != 0
    return (y, mask)[:outputs]


# ---- Rows -----------------------------------------------------------------------------------------------------------


def softmax(x, *, axis=None, layer=fastfc.Softmax, opset=13):
    if opset >= 13:
        return layer(-1 if axis is None else axis)(x)
    axis = 1 if axis is None else axis
    return layer(-1)(flatten(x, axis=axis)).reshape(x.shape)


def log_softmax(x, *, axis=-1):
    return softmax(x, axis=axis, layer=fastfc.LogSoftmax)


def flatten(x, *, axis=1):
    axis += x.ndim if axis < 0 else 0
    leading = fastfc.Flatten(0, axis - 1)(x) if axis else x[None]
    return fastfc.Flatten(1)(leading) if leading.ndim > 1 else leading[:, None]


def layer_normalization(x, scale, bias=None, *, axis=-1, epsilon=1e-5, stash_type=1, outputs=1):
    axis %= x.ndim
    layer = fastfc.LayerNorm(x.shape[axis:], epsilon, bias=bias is not None, dtype=x.dtype)
    load(layer, scale, bias)
    y, mean, rstd, _ = layer._norm(x, True)
    shape = (*x.shape[:axis], *(1,) * (x.ndim - axis))
    return (y, mean.reshape(shape), rstd.reshape(shape))[:outputs]


def rms_normalization(x, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
    layer = fastfc.RMSNorm(x.shape[axis % x.ndim :], epsilon, dtype=x.dtype)
    load(layer, scale)
    return layer(x)


def load(layer, weight, bias=None):
    layer.weight.data = np.ascontiguousarray(np.broadcast_to(weight, layer.weight.shape))
    if bias is not None:
        layer.bias.data = np.ascontiguousarray(np.broadcast_to(bias, layer.bias.shape))


# ---- Losses ---------------------------------------------------------------------------------------------------------


def rows_of_classes(x):
    """(N, C, d1, ...) as (rows, C)."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def loss(kind, x, target, weight, ignore_index, reduction):
    options = {} if ignore_index is None else {"ignore_index": ignore_index}
    value = kind(weight, reduction=reduction, **options)(rows_of_classes(x), target.reshape(-1))
    return value.reshape(target.shape) if reduction == "none" else np.array(value, x.dtype)


def nll_loss(x, target, weight=None, *, ignore_index=None, reduction="mean"):
    return loss(fastfc.NLLLoss, x, target, weight, ignore_index, reduction)


def cross_entropy_loss(x, target, weight=None, *, ignore_index=None, reduction="mean", outputs=1):
    value = loss(fastfc.CrossEntropyLoss, x, target, weight, ignore_index, reduction)
    return (value, fastfc.LogSoftmax(1)(x))[:outputs]


# ---- Optimisers -----------------------------------------------------------------------------------------------------


def step(opt_of, slots, rest):
    """One step for all of X1, X2, ..., G1, ..., and the states: each optimiser's slots, in onnx's order."""
    count = len(rest) // (2 + len(slots))
    groups = [rest[i * count : (i + 1) * count] for i in range(2 + len(slots))]
    parameters = [fastfc.Parameter(x.copy()) for x in groups[0]]
    for p, g in zip(parameters, groups[1], strict=True):
        p.grad = g
    opt, steps = opt_of(parameters)
    states = {i: {name: groups[2 + s][i].copy() for s, name in enumerate(slots)} for i in range(count)}
    for state in states.values() if steps is not None else ():
        state["step"] = steps
    opt.load_state_dict({**opt.state_dict(), "state": states})
    opt.step()
    return [p.data for p in parameters], [opt.state[p][name] for name in slots for p in parameters]


def adam(r, t, *rest, norm_coefficient=0.0, norm_coefficient_post=0.0, alpha=0.9, beta=0.999, epsilon=1e-6):
    # onnx adds epsilon before the correction of the second moment, torch after it. Without one (t = 0): very late.
    correction = 1 - beta ** int(t) if t > 0 else 1.0
    steps = int(t) - 1 if t > 0 else 10**6

    def opt_of(parameters):
        return optim.Adam(
            parameters, float(r), (alpha, beta), epsilon / math.sqrt(correction), weight_decay=norm_coefficient
        ), steps

    new, states = step(opt_of, ("exp_avg", "exp_avg_sq"), rest)
    return (*(x * x.dtype.type(1 - norm_coefficient_post) for x in new), *states)


def adagrad(r, t, *rest, norm_coefficient=0.0, decay_factor=0.0, epsilon=1e-6):
    new, states = step(
        lambda parameters: (
            optim.Adagrad(parameters, float(r), lr_decay=decay_factor, eps=epsilon, weight_decay=norm_coefficient),
            int(t),
        ),
        ("sum",),
        rest,
    )
    return (*new, *states)


def momentum(r, t, *rest, mode, norm_coefficient=0.0, alpha=0.9, beta=1.0):
    fresh = beta if t > 0 else 1.0

    def opt_of(parameters):
        return optim.SGD(
            parameters, float(r), alpha, dampening=1 - fresh, weight_decay=norm_coefficient, nesterov=mode == "nesterov"
        ), None

    new, states = step(opt_of, ("momentum_buffer",), rest)
    return (*new, *states)


OPERATORS = {
    "Adagrad": adagrad,
    "Adam": adam,
    "Dropout": dropout,
    "Elu": elementwise(fastfc.ELU, alpha=1.0),
    "Flatten": flatten,
    "Gelu": elementwise(fastfc.GELU, approximate="none"),
    "Gemm": gemm,
    "HardSwish": elementwise(fastfc.Hardswish),
    "Identity": elementwise(fastfc.Identity),
    "LayerNormalization": layer_normalization,
    "LeakyRelu": elementwise(fastfc.LeakyReLU, alpha=0.01),
    "LogSoftmax": log_softmax,
    "MatMul": matmul,
    "Momentum": momentum,
    "NegativeLogLikelihoodLoss": nll_loss,
    "RMSNormalization": rms_normalization,
    "Relu": elementwise(fastfc.ReLU),
    "Sigmoid": elementwise(fastfc.Sigmoid),
    "Softmax": softmax,
    "SoftmaxCrossEntropyLoss": cross_entropy_loss,
    "Softplus": elementwise(fastfc.Softplus),
    "SwiGLU": swiglu,
    "Swish": swish,
    "Tanh": elementwise(fastfc.Tanh),
}
COUNTED = (dropout, layer_normalization, cross_entropy_loss)
