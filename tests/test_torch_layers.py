"""Layers against torch's: forward, gradients of inputs and parameters; names, shapes and text of what they are."""

import copy

import numpy as np
import pytest

import fastfc

torch = pytest.importorskip("torch", reason="compares layers with torch.nn's")
nn, functional = torch.nn, torch.nn.functional

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}
RNG = np.random.default_rng(0)


def draw(shape, dtype):
    return RNG.standard_normal(shape).astype(dtype)


def close(actual, expected, dtype, what):
    """Relative to the norm."""
    expected = np.asarray(expected.detach() if torch.is_tensor(expected) else expected)
    assert actual.shape == expected.shape and actual.dtype == expected.dtype, what
    assert np.linalg.norm(actual - expected) <= TOLERANCE[dtype] * max(np.linalg.norm(expected), 1e-30), what


def compare(ours, theirs, xs, dtype, kwargs=None, rename=lambda name: name, reshape=False):
    """Both in float32 or float64, with the state of theirs; kwargs go to both."""
    theirs = theirs.to(torch.float32 if dtype == np.float32 else torch.float64)
    state = {rename(name): value for name, value in theirs.state_dict().items()}
    if reshape:
        state = {name: value.reshape(ours.state_dict()[name].shape) for name, value in state.items()}
    else:
        assert sorted(state) == sorted(ours.state_dict())
    ours.load_state_dict(state)
    kwargs = kwargs or {}
    tensors = [torch.from_numpy(np.array(x, order="C")) for x in xs]
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.requires_grad_()
    torch_kwargs = {name: torch.as_tensor(value) for name, value in kwargs.items()}
    expected = theirs(*tensors, **torch_kwargs)
    y, backward = ours.vjp(*xs, **kwargs)
    close(y, expected, dtype, "y")
    g = draw(y.shape, dtype)
    grads = backward(g)
    expected.backward(torch.from_numpy(g))
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    grads = grads if isinstance(grads, tuple) else (grads,) if floats else ()
    for i, (grad, tensor) in enumerate(zip(grads, floats, strict=True)):
        close(grad, tensor.grad, dtype, f"gradient of input {i}")
    gradients = {rename(name): p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        close(p.grad, gradients.pop(name).reshape(p.shape), dtype, name)
    assert not gradients
    ours.eval()
    theirs.eval()
    close(ours(*xs, **kwargs), theirs(*tensors, **torch_kwargs), dtype, "y in eval()")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(50,), (33, 50), (2, 7, 50)])
def test_linear(bias, shape, dtype):
    ours, theirs = fastfc.Linear(50, 41, bias, dtype=dtype), nn.Linear(50, 41, bias)
    compare(ours, theirs, [draw(shape, dtype)], dtype)
    assert repr(ours) == repr(theirs)


def test_lazy_linear(dtype):
    ours, theirs = fastfc.LazyLinear(41, dtype=dtype), nn.LazyLinear(41)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.has_uninitialized_params() and theirs.has_uninitialized_params()
    x = draw((33, 50), dtype)
    ours(x), theirs(torch.from_numpy(x).float())
    assert repr(ours) == repr(theirs)
    compare(ours, theirs, [x], dtype)
    lazy = fastfc.LazyLinear(41, dtype=dtype)
    lazy.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(lazy(x), ours(x))


@pytest.mark.parametrize("text", [
    "ReLU()", "LeakyReLU(negative_slope=0.01)", "LeakyReLU(negative_slope=0.3)", "ELU(alpha=1.0)", "ELU(alpha=0.4)",
    "GELU(approximate='none')", "GELU(approximate='tanh')", "SiLU()", "Sigmoid()", "Tanh()",
    "Softplus(beta=1.0, threshold=20.0)", "Softplus(beta=3.0, threshold=20.0)", "Hardswish()", "Softmax(dim=-1)",
    "Softmax(dim=0)", "LogSoftmax(dim=-1)", "LogSoftmax(dim=0)", "Identity()", "Flatten(start_dim=1, end_dim=-1)",
    "Flatten(start_dim=0, end_dim=1)", "Unflatten(dim=1, unflattened_size=(2, -1))"])
@pytest.mark.parametrize("fused", [False, True])
def test_activations_and_shapes(text, fused, dtype):
    ours, theirs = eval(text, vars(fastfc)), eval(text, vars(nn))
    assert repr(ours) == repr(theirs) == text
    if fused and "dim=0" in text:
        pytest.skip("over the batch the gradient of the bias is 0, and has no norm to be relative to")
    if fused:
        ours = fastfc.Sequential(fastfc.Linear(12, 8, dtype=dtype), ours)
        theirs = nn.Sequential(nn.Linear(12, 8), theirs)
    compare(ours, theirs, [4 * draw((33, 12), dtype)], dtype)


def test_sequential(dtype):
    def make(lib, **kw):
        inner = lib.Sequential(lib.Linear(20, 16, False, **kw), lib.GELU())
        return lib.Sequential(lib.Flatten(), lib.Linear(24, 20, **kw), lib.ReLU(), inner, lib.Linear(16, 3, **kw))

    ours, theirs = make(fastfc, dtype=dtype), make(nn)
    assert repr(ours) == repr(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
    assert list(ours[2:].state_dict()) == list(theirs[2:].state_dict())
    for change in (lambda m: m.append(m[2]), lambda m: m.insert(1, m[2]), lambda m: m.__delitem__(0),
                   lambda m: m.pop(1), lambda m: m.extend([m[0]])):
        one, two = copy.deepcopy(ours), copy.deepcopy(theirs)
        change(one), change(two)
        assert repr(one) == repr(two)
    compare(ours, theirs, [draw((33, 6, 4), dtype)], dtype)


def test_named_sequential(dtype):
    ours = fastfc.Sequential({"first": fastfc.Linear(4, 3, dtype=dtype), "act": fastfc.Tanh()})
    theirs = nn.Sequential(torch.nn.modules.container.OrderedDict(first=nn.Linear(4, 3), act=nn.Tanh()))
    assert repr(ours) == repr(theirs)
    compare(ours, theirs, [draw((5, 4), dtype)], dtype)


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(mask.shape)), nn.Parameter(torch.randn(len(mask)))
        self.register_buffer("mask", mask)

    def forward(self, x):
        return functional.linear(x, self.weight * self.mask, self.bias)


def test_masked_and_sparse_linear(dtype):
    ours = fastfc.MaskedLinear(50, 41, sparsity=0.8, dtype=dtype, rng=0)
    theirs = Masked(torch.from_numpy(ours.mask.copy()).float())
    x = draw((33, 50), dtype)
    compare(ours, theirs, [x], dtype)

    sparse = ours.to_sparse()
    tensor = torch.from_numpy(x).requires_grad_()
    theirs.zero_grad()
    expected = theirs(tensor)
    y, backward = sparse.vjp(x)
    close(y, expected, dtype, "y")
    g = draw(y.shape, dtype)
    grad_x = backward(g)
    expected.backward(torch.from_numpy(g))
    close(grad_x, tensor.grad, dtype, "gradient of x")
    close(sparse.weight.grad, theirs.weight.grad.numpy()[ours.mask], dtype, "weight")
    close(sparse.bias.grad, theirs.bias.grad, dtype, "bias")


def test_low_rank_linear(dtype):
    theirs = nn.Sequential(torch.nn.modules.container.OrderedDict(A=nn.Linear(50, 7, False), B=nn.Linear(7, 41)))
    compare(fastfc.LowRankLinear(50, 41, 7, dtype=dtype), theirs, [draw((33, 50), dtype)], dtype)


@pytest.mark.parametrize("sizes", [(48, 32, 4), (48, 96, 2), (48, 48, 48), (48, 36, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_grouped_linear(sizes, bias, dtype):
    ours = fastfc.GroupedLinear(*sizes, bias, dtype=dtype)
    theirs = nn.Sequential(nn.Unflatten(1, (-1, 1)), nn.Conv1d(*sizes[:2], 1, groups=sizes[2], bias=bias), nn.Flatten())
    compare(ours, theirs, [draw((33, 48), dtype)], dtype, rename=lambda name: name.removeprefix("1."), reshape=True)


class Separable(nn.Module):
    """x as (batch, groups, positions): a convolution with a kernel of all positions for each channel, a mixing one."""

    def __init__(self, inputs, outputs, groups, multiplier):
        super().__init__()
        self.groups = groups
        self.depthwise = nn.Conv1d(groups, groups * multiplier, inputs // groups, groups=groups, bias=False)
        self.pointwise = nn.Conv1d(groups * multiplier, outputs, 1)

    def forward(self, x):
        return self.pointwise(self.depthwise(x.reshape(len(x), self.groups, -1)))[..., 0]


@pytest.mark.parametrize("sizes", [(48, 10, 8, 1), (48, 10, 8, 3), (48, 10, 2, 20)])
def test_separable_linear(sizes, dtype):
    ours = fastfc.SeparableLinear(*sizes, dtype=dtype)
    compare(ours, Separable(*sizes), [draw((33, 48), dtype)], dtype, reshape=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (33,), (2, 5)])
def test_bilinear(bias, leading, dtype):
    ours, theirs = fastfc.Bilinear(7, 9, 11, bias, dtype=dtype), nn.Bilinear(7, 9, 11, bias)
    compare(ours, theirs, [draw((*leading, 7), dtype), draw((*leading, 9), dtype)], dtype)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("padding", [None, 3, -1])
@pytest.mark.parametrize("shape", [(), (7,), (33, 5)])
@pytest.mark.parametrize("sparse", [False, True])
def test_embedding(padding, shape, sparse, dtype):
    ours = fastfc.Embedding(20, 13, padding, sparse=sparse, dtype=dtype)
    theirs = nn.Embedding(20, 13, padding, sparse=sparse)
    assert repr(ours) == repr(theirs)
    if not shape:
        ours.sparse = theirs.sparse = False
    x = RNG.integers(0, 20, shape)
    if not sparse or not shape:  # torch has no sparse gradient of a single index
        compare(ours, theirs, [np.asarray(x)], dtype)
        return
    theirs = theirs.to(torch.float32 if dtype == np.float32 else torch.float64)
    ours.load_state_dict(theirs.state_dict())
    y, backward = ours.vjp(x)
    expected = theirs(torch.as_tensor(x))
    g = draw(y.shape, dtype)
    backward(g)
    expected.backward(torch.from_numpy(g))
    close(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense(), dtype, "weight")


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("offsets", [None, [0, 4, 4, 9, 60]])
def test_embedding_bag(mode, padding, offsets, dtype):
    ours = fastfc.EmbeddingBag(20, 13, mode=mode, padding_idx=padding, dtype=dtype)
    theirs = nn.EmbeddingBag(20, 13, mode=mode, padding_idx=padding)
    assert repr(ours) == repr(theirs)
    x = RNG.integers(0, 20, (12, 5))
    kwargs = {} if offsets is None else {"offsets": offsets[:-1]}
    compare(ours, theirs, [x if offsets is None else x.reshape(-1)], dtype, kwargs)


def test_embedding_bag_with_weights(dtype):
    ours = fastfc.EmbeddingBag(20, 13, mode="sum", dtype=dtype)
    theirs = nn.EmbeddingBag(20, 13, mode="sum").to(torch.float32 if dtype == np.float32 else torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x, weights = RNG.integers(0, 20, 30), draw(30, dtype)
    tensor = torch.from_numpy(weights).requires_grad_()
    expected = theirs(torch.from_numpy(x), torch.tensor([0, 4, 4, 9]), tensor)
    y, backward = ours.vjp(x, [0, 4, 4, 9], weights)
    close(y, expected, dtype, "y")
    g = draw(y.shape, dtype)
    grad = backward(g)
    expected.backward(torch.from_numpy(g))
    close(grad, tensor.grad, dtype, "per_sample_weights")
    close(ours.weight.grad, theirs.weight.grad, dtype, "weight")


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
def test_spectral_norm(iterations, bilinear, dtype):
    def make(lib, **kw):
        return lib.Bilinear(7, 9, 11, **kw) if bilinear else lib.Linear(50, 41, **kw)

    ours = fastfc.spectral_norm(make(fastfc, dtype=dtype), n_power_iterations=iterations)
    theirs = make(nn).to(torch.float32 if dtype == np.float32 else torch.float64)
    theirs = nn.utils.spectral_norm(theirs, n_power_iterations=iterations)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    xs = [draw((33, 7), dtype), draw((33, 9), dtype)] if bilinear else [draw((33, 50), dtype)]
    compare(ours, theirs, xs, dtype)
    for name, expected in theirs.state_dict().items():  # the power iteration is the same
        close(ours.state_dict()[name], expected, dtype, name)
    fastfc.remove_spectral_norm(ours), nn.utils.remove_spectral_norm(theirs)
    close(ours.weight.data, theirs.weight, dtype, "weight")


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_weight_norm(dim, dtype):
    ours = fastfc.weight_norm(fastfc.Linear(50, 41, dtype=dtype), dim=dim)
    theirs = nn.Linear(50, 41).to(torch.float32 if dtype == np.float32 else torch.float64)
    theirs = nn.utils.weight_norm(theirs, dim=dim)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    compare(ours, theirs, [draw((33, 50), dtype)], dtype)
    fastfc.remove_weight_norm(ours), nn.utils.remove_weight_norm(theirs)
    close(ours.weight.data, theirs.weight, dtype, "weight")


@pytest.mark.parametrize("kind", ["Linear", "Bilinear", "Embedding", "GroupedLinear"])
def test_initial_values_come_from_torchs_distribution(kind):
    stats = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    ours, theirs = {
        "Linear": lambda: (fastfc.Linear(50, 2000, rng=0), nn.Linear(50, 2000)),
        "Bilinear": lambda: (fastfc.Bilinear(20, 50, 100, rng=0), nn.Bilinear(20, 50, 100)),
        "Embedding": lambda: (fastfc.Embedding(1000, 100, rng=0), nn.Embedding(1000, 100)),
        "GroupedLinear": lambda: (fastfc.GroupedLinear(200, 2000, 4, rng=0), nn.Conv1d(200, 2000, 1, groups=4)),
    }[kind]()
    for name, p in theirs.named_parameters():
        sample = p.detach().numpy().ravel()
        assert sample.size == 100_000 or name == "bias"
        assert stats.ks_2samp(ours.state_dict()[name].ravel(), sample).pvalue > 1e-3


@pytest.mark.parametrize(("name", "arguments"), [
    ("uniform_", (-1, 3)), ("normal_", (1, 2)), ("trunc_normal_", ()), ("trunc_normal_", (1, 2, 0, 5)),
    ("kaiming_uniform_", ()), ("kaiming_uniform_", (0.3, "fan_out")), ("kaiming_normal_", (0, "fan_in", "relu")),
    ("xavier_uniform_", (2,)), ("xavier_normal_", ()), ("orthogonal_", (3,)), ("sparse_", (0.3, 0.5))])
def test_init_draws_from_torchs_distribution(name, arguments):
    stats = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    theirs = getattr(nn.init, name)(torch.empty(400, 250), *arguments).numpy().ravel()
    ours = getattr(fastfc.init, name)(np.empty((400, 250), np.float32), *arguments, rng=0).ravel()
    assert abs(ours.mean() - theirs.mean()) < 6 * theirs.std() / 316
    assert abs(ours.std() / theirs.std() - 1) < 0.02
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


@pytest.mark.parametrize("name", ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains(name):
    assert abs(fastfc.init.calculate_gain(name) - nn.init.calculate_gain(name)) < 1e-15
    assert abs(fastfc.init.calculate_gain(name, 0.3) - nn.init.calculate_gain(name, 0.3)) < 1e-15
