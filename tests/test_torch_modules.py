"""torch's own module tests: its inputs (ModuleInfo) for every module that fastfc has too, with torch's module as the
reference, and gradcheck through an autograd function."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="has the module tests")
pytest.importorskip("expecttest", reason="torch's module tests import it")

from torch.testing._internal.common_modules import module_db  # noqa: E402

import fastfc  # noqa: E402

LAYERS = (
    "Linear",
    "Bilinear",
    "ELU",
    "Embedding",
    "GELU",
    "Hardswish",
    "LayerNorm",
    "LeakyReLU",
    "LogSoftmax",
    "RMSNorm",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
)
LOSSES = ("BCEWithLogitsLoss", "CrossEntropyLoss", "HuberLoss", "L1Loss", "MSELoss", "NLLLoss", "SmoothL1Loss")

#: What fastfc refuses, by the description of the input, and why.
REFUSED = {
    ("Softmax", "scalar"): "no axis to sum over",
    ("LogSoftmax", "multiparam_scalar"): "no axis to sum over",
    ("Softplus", "beta_threshold"): "a threshold other than 20",
    ("Softplus", "beta_threshold_scalar"): "likewise",
}


def samples(name, dtype):
    (info,) = (info for info in module_db if info.module_cls.__name__ == name)
    torch.manual_seed(0)
    return [
        (info, one)
        for one in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True)
    ]


def inputs_of(sample):
    return [*sample.forward_input.args, *sample.forward_input.kwargs.values()]


def cases(names):
    return [(name, i, one.desc) for name in names for i, (_, one) in enumerate(samples(name, torch.float64))]


def ours(name, theirs, constructor, dtype):
    """The same layer here, with the weights of theirs."""
    options = dict(constructor.kwargs)
    options.pop("inplace", None)
    args = [tuple(a) if isinstance(a, list | torch.Size) else a for a in constructor.args]
    kind = getattr(fastfc, name)
    layer = kind(*args, **options, **({"dtype": dtype} if list(theirs.parameters()) else {}))
    layer.load_state_dict({key: value.numpy().copy() for key, value in theirs.state_dict().items()})
    return layer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "number", "desc"), cases(LAYERS), ids=str)
def test_layer(name, number, desc, dtype):
    info, sample = samples(name, getattr(torch, dtype))[number]
    theirs = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs).to(
        getattr(torch, dtype)
    )
    if (name, desc) in REFUSED:
        with pytest.raises((TypeError, ValueError)):
            ours(name, theirs, sample.constructor_input, dtype)(*[a.numpy() for a in inputs_of(sample)])
        return
    layer = ours(name, theirs, sample.constructor_input, dtype)
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    inputs = [a.detach().clone().requires_grad_(a.is_floating_point()) for a in inputs_of(sample)]
    want = theirs(*inputs)
    got, backward = layer.vjp(*[a.detach().numpy() for a in inputs])
    close(got, want, tolerance)
    layer.eval()
    close(layer(*[a.detach().numpy() for a in inputs]), want, tolerance)
    layer.train()
    grad = torch.randn(want.shape, dtype=want.dtype)
    want.backward(grad)
    gradients = backward(grad.numpy())
    for g, a in zip(gradients if isinstance(gradients, tuple) else (gradients,), inputs, strict=True):
        if a.is_floating_point():
            close(g, a.grad, tolerance)
    for p, q in zip(layer.parameters(), theirs.parameters(), strict=True):
        close(p.grad, q.grad, tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "number", "desc"), cases(LOSSES), ids=str)
def test_loss(name, number, desc, dtype):
    info, sample = samples(name, getattr(torch, dtype))[number]
    options = {
        key: value.numpy() if isinstance(value, torch.Tensor) else value
        for key, value in sample.constructor_input.kwargs.items()
    }
    prediction, target = sample.forward_input.args
    labels = name == "NLLLoss" or (name == "CrossEntropyLoss" and not target.is_floating_point())
    if labels and prediction.ndim != 2 or name == "CrossEntropyLoss" and prediction.ndim != 2:
        # One row for each place: torch has the classes in the second axis.
        if prediction.ndim < 2:
            with pytest.raises((TypeError, ValueError)):
                getattr(fastfc, name)(**options)(prediction.numpy(), target.numpy())
            return
        classes = prediction.shape[1]
        target = target.reshape(-1) if labels else target.movedim(1, -1).reshape(-1, classes)
        prediction = prediction.movedim(1, -1).reshape(-1, classes)
    prediction = prediction.detach().clone().requires_grad_()
    theirs = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs).to(prediction.dtype)
    if target.shape != prediction.shape and not labels:
        with pytest.raises((TypeError, ValueError)):
            getattr(fastfc, name)(**options)(prediction.detach().numpy(), target.numpy())
        return
    want = theirs(prediction, target)
    got, backward = getattr(fastfc, name)(*sample.constructor_input.args, **options).vjp(
        prediction.detach().numpy(), target.numpy()
    )
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    close(np.asarray(got, dtype), want, tolerance)
    grad = torch.ones_like(want)
    want.backward(grad)
    close(backward(np.ones_like(got)) if options.get("reduction") == "none" else backward(), prediction.grad, tolerance)


def close(got, want, tolerance):
    """Relative to the largest value."""
    want = want.detach().numpy()
    assert got.shape == want.shape and got.dtype == want.dtype
    assert np.array_equal(np.isnan(got), np.isnan(want))
    error = np.nan_to_num(np.abs(got - want), nan=0.0)
    assert error.max(initial=0) <= tolerance * max(np.nan_to_num(np.abs(want)).max(initial=0), 1e-2)


# ---- gradcheck ------------------------------------------------------------------------------------------------------


class Linear(torch.autograd.Function):
    """fastfc.linear for autograd."""

    @staticmethod
    def forward(ctx, x, weight, bias, activation):
        a, w = x.detach().numpy(), weight.detach().numpy()
        b = None if bias is None else bias.detach().numpy()
        y, z = fastfc.linear(a, w, b, activation=activation, return_preactivation=True)
        ctx.save_for_backward(x, weight)
        ctx.z, ctx.activation, ctx.bias = z, activation, bias is not None
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx, grad):
        x, weight = (t.detach().numpy() for t in ctx.saved_tensors)
        needs = ("x", "weight", "bias") if ctx.bias else ("x", "weight")
        z = ctx.z if ctx.activation else None
        gradients = fastfc.linear_backward(
            grad.numpy(), x, weight, activation=ctx.activation, preactivation=z, needs=needs
        )
        return (*(None if g is None else torch.from_numpy(g) for g in gradients), None)


@pytest.mark.parametrize(("name", "number", "desc"), cases(["Linear"]), ids=str)
@pytest.mark.parametrize("activation", [None, "gelu", "tanh", "silu"])
def test_gradcheck(name, number, desc, activation):
    info, sample = samples(name, torch.float64)[number]
    theirs = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs).double()
    (x,) = inputs_of(sample)
    x = x.detach().clone().requires_grad_()
    parameters = [theirs.weight, theirs.bias]
    assert torch.autograd.gradcheck(lambda *a: Linear.apply(*a, activation), (x, *parameters))
    strided = torch.randn(7, 3, 10, dtype=torch.float64).transpose(0, 1)[:, ::2].requires_grad_()
    weight = torch.randn(10, 4, dtype=torch.float64).T.requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: Linear.apply(*a, activation), (strided, weight, None))


@pytest.mark.parametrize("kind", ["Linear", "LayerNorm", "FeedForward", "LowRankLinear", "GroupedLinear"])
def test_gradcheck_of_layers(kind):
    """With respect to x, through vjp."""
    layer = {
        "Linear": lambda: fastfc.Linear(6, 5, activation="gelu", dtype=np.float64, rng=0),
        "LayerNorm": lambda: fastfc.LayerNorm(6, dtype=np.float64),
        "FeedForward": lambda: fastfc.FeedForward(6, 9, 0.0, dtype=np.float64, rng=0),
        "LowRankLinear": lambda: fastfc.LowRankLinear(6, 5, rank=2, dtype=np.float64, rng=0),
        "GroupedLinear": lambda: fastfc.GroupedLinear(6, 4, 2, dtype=np.float64, rng=0),
    }[kind]()

    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y, ctx.backward_ = layer.vjp(x.detach().numpy())
            return torch.from_numpy(y)

        @staticmethod
        def backward(ctx, grad):
            return torch.from_numpy(ctx.backward_(np.ascontiguousarray(grad.numpy())))

    assert torch.autograd.gradcheck(Layer.apply, torch.randn(4, 6, dtype=torch.float64, requires_grad=True))
