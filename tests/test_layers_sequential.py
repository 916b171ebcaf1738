"""Sequential: what it fuses, its sequence of layers, and what it says of layers that do not fit."""

import concurrent.futures
import copy
import pickle

import numpy as np
import pytest
from gradients import check_gradients

import fastfc


class PlainReLU(fastfc.ReLU):
    """Another type, so that Sequential does not fuse it."""


FUSED = {
    "Linear": fastfc.Linear,
    "SparseLinear": fastfc.SparseLinear,
    "MaskedLinear": fastfc.MaskedLinear,
    "LazyLinear": lambda inputs, outputs, **kw: fastfc.LazyLinear(outputs, **kw),
    "LowRankLinear": lambda inputs, outputs, **kw: fastfc.LowRankLinear(inputs, outputs, 7, **kw),
    "GroupedLinear, dense": lambda inputs, outputs, **kw: fastfc.GroupedLinear(inputs, outputs, 1, **kw),
    "GroupedLinear, small": lambda inputs, outputs, **kw: fastfc.GroupedLinear(inputs, outputs, 3, **kw),
    "SeparableLinear": lambda inputs, outputs, **kw: fastfc.SeparableLinear(inputs, outputs, 3, 4, **kw),
}
ACTIVATIONS = [fastfc.ReLU, fastfc.LeakyReLU, lambda: fastfc.LeakyReLU(0.3), fastfc.ELU, fastfc.GELU,
               lambda: fastfc.GELU("tanh"), fastfc.SiLU, fastfc.Sigmoid, fastfc.Tanh, fastfc.Softplus,
               lambda: fastfc.Softplus(2.5), fastfc.Hardswish]


def unfused(activation):
    """The same layer, of another type."""
    kind = type(activation)
    activation.__class__ = type(kind.__name__, (kind,), {})
    return activation


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
@pytest.mark.parametrize("eval_mode", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_equals_unfused_bit_for_bit(make, dtype, eval_mode, activation):
    layer, last = make(21, 33, dtype=dtype, rng=1), fastfc.Linear(33, 5, dtype=dtype, rng=2)
    x = np.random.default_rng(3).standard_normal((40, 21)).astype(dtype)
    x[3, 4], x[5, 6], x[7, 8] = np.nan, np.inf, -np.inf
    g = np.random.default_rng(4).standard_normal((40, 5)).astype(dtype)
    results = []
    for act in (activation(), unfused(activation())):
        model = fastfc.Sequential(layer, act, last).train(not eval_mode)
        assert len(model._steps()) == 2 + bool(results)
        model.zero_grad()
        y, backward = model.vjp(x)
        np.testing.assert_array_equal(model(x), y)
        results.append([y, backward(g), *(p.grad for p in model.parameters())])
    for fused, plain in zip(*results, strict=True):
        np.testing.assert_array_equal(fused, plain)
        np.testing.assert_array_equal(np.signbit(fused[fused == 0]), np.signbit(plain[plain == 0]))


def test_what_is_fused_and_what_is_not():
    class MyLinear(fastfc.Linear):
        def __call__(self, x):
            return super().__call__(x) - 1

    linear, sparse, relu = fastfc.Linear(3, 3, rng=0), fastfc.SparseLinear(3, 3, rng=0), fastfc.ReLU()
    own, active, plain = MyLinear(3, 3, rng=0), fastfc.Linear(3, 3, activation="relu", rng=0), PlainReLU()
    model = fastfc.Sequential(relu, linear, relu, relu, sparse, relu, own, relu, active, relu, linear, plain)
    pairs = [(layer, following) for layer, following, *_ in model._steps()]
    assert pairs == [(relu, None), (linear, relu), (relu, None), (sparse, relu), (own, None), (relu, None),
                     (active, relu), (linear, None), (plain, None)]
    assert [name for _, _, name, *_ in model._steps()] == ["0", "1", "3", "4", "6", "7", "8", "10", "11"]
    x = expected = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    for layer in model:
        expected = layer(expected)
    np.testing.assert_array_equal(model(x), expected)


def test_an_activation_that_changes_after_a_call_counts():
    layer, act = fastfc.Linear(3, 3, rng=0), fastfc.LeakyReLU(0.1)
    model = fastfc.Sequential(layer, act)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)

    def check():
        expected, act_backward = act.vjp(layer(x))
        np.testing.assert_array_equal(model(x), expected)
        y, backward = model.vjp(x)
        np.testing.assert_array_equal(y, expected)
        g = np.ones_like(y)
        np.testing.assert_array_equal(backward(g), layer.vjp(x)[1](act_backward(g)))

    check()
    act.negative_slope = 0.7
    check()
    layer.activation = "tanh"
    check()


@pytest.mark.parametrize("change", [
    lambda model: model.append(fastfc.Linear(4, 4, rng=5)),
    lambda model: model.insert(1, fastfc.Tanh()),
    lambda model: model.__setitem__(1, fastfc.Tanh()),
    lambda model: model.__delitem__(1),
    lambda model: model.pop(0),
    lambda model: model.extend([fastfc.ReLU(), fastfc.Linear(4, 4, rng=5)]),
])
def test_a_change_of_the_layers_is_seen_by_the_next_call(change):
    model = fastfc.Sequential(fastfc.Linear(4, 4, rng=0), fastfc.ReLU(), fastfc.Linear(4, 4, rng=1), fastfc.Sigmoid())
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    before = model(x)
    change(model)
    expected = x
    for layer in model:
        expected = layer(expected)
    assert not np.array_equal(expected, before)
    np.testing.assert_array_equal(model(x), expected)
    np.testing.assert_array_equal(model.vjp(x)[0], expected)


def test_sequential_is_a_sequence():
    a, b, c = fastfc.Linear(3, 4), fastfc.ReLU(), fastfc.Linear(4, 2)
    model = fastfc.Sequential(a, b)
    assert model.append(c) is model
    assert list(model) == [a, b, c]
    assert len(model) == 3
    assert model[0] is a and model[-1] is c
    part = model[:2]
    assert isinstance(part, fastfc.Sequential) and list(part) == [a, b]
    with pytest.raises(IndexError):
        model[3]
    assert model.extend([b, a]) is model and list(model) == [a, b, c, b, a]
    assert model.insert(1, c) is model and list(model) == [a, c, b, c, b, a]
    assert model.pop() is a and model.pop(1) is c and list(model) == [a, b, c, b]
    del model[1:3]
    assert list(model) == [a, b]
    model[1] = c
    model[-2] = b
    assert list(model) == [b, c]
    assert [name for name, _ in model.named_children()] == ["0", "1"]
    for bad in (2, -3):
        with pytest.raises(IndexError):
            model[bad] = a
        with pytest.raises(IndexError):
            del model[bad]
    for change in (model.append, lambda layer: model.insert(0, layer), lambda layer: model.__setitem__(0, layer)):
        with pytest.raises(TypeError, match="must be a Module, got"):
            change(np.tanh)
    assert list(model) == [b, c]


def test_empty_sequential_is_the_identity():
    model, x = fastfc.Sequential(), np.ones((2, 3))
    y, backward = model.vjp(x)
    assert model(x) is x and y is x and backward(x) is x
    assert backward(x, needs_input_grad=False) is None
    assert repr(model) == "Sequential()"


def test_nested_sequential():
    inner = fastfc.Sequential(fastfc.Linear(5, 6, dtype=np.float64, rng=0), fastfc.ReLU())
    model = fastfc.Sequential(inner, fastfc.ReLU(), fastfc.Sequential(fastfc.Linear(6, 4, dtype=np.float64, rng=1)))
    assert [name for name, _ in model.named_parameters()] == ["0.0.weight", "0.0.bias", "2.0.weight", "2.0.bias"]
    check_gradients(model, np.random.default_rng(1).standard_normal((6, 5)))


@pytest.mark.parametrize("bad", [np.maximum, None, fastfc.ReLU])
def test_sequential_refuses_what_is_no_layer(bad):
    with pytest.raises(TypeError, match=r"Sequential: layer 1 must be a Module, got"):
        fastfc.Sequential(fastfc.ReLU(), bad)


def test_repr_is_torchs():
    model = fastfc.Sequential(fastfc.Linear(64, 128), fastfc.Sequential(fastfc.ReLU()), fastfc.Linear(128, 10, False))
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Linear(in_features=64, out_features=128, bias=True)\n"
        "  (1): Sequential(\n"
        "    (0): ReLU()\n"
        "  )\n"
        "  (2): Linear(in_features=128, out_features=10, bias=False)\n"
        ")")
    assert repr(fastfc.Linear(2, 3, activation="relu")) == (
        "Linear(in_features=2, out_features=3, bias=True, activation='relu')")


def test_a_shared_layer_is_listed_once_and_saved_under_each_name():
    layer = fastfc.Linear(3, 3, rng=0)
    model = fastfc.Sequential(layer, fastfc.ReLU(), layer)
    assert list(model.parameters()) == [layer.weight, layer.bias]
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert list(model.modules()) == [model, layer, model[1]]
    model.eval().train().eval()
    assert not layer.weight.data.flags.writeable


def test_a_slice_keeps_the_names_as_torchs_does():
    model = fastfc.Sequential(fastfc.Linear(4, 3), fastfc.ReLU(), fastfc.Linear(3, 2))
    part = model[2:]
    assert list(part.state_dict()) == ["2.weight", "2.bias"]
    assert list(model[1:].append(fastfc.Linear(2, 2)).append(fastfc.Linear(2, 2)).state_dict()) == [
        "2.weight", "2.bias", "3.weight", "3.bias", "4.weight", "4.bias"]
    assert [name for name, _ in model[::-1].named_children()] == ["2", "1", "0"]


def test_named_layers():
    model = fastfc.Sequential({"hidden": fastfc.Linear(4, 3, rng=0), "act": fastfc.ReLU()})
    model.append(fastfc.Linear(3, 2, rng=1))
    assert list(model.state_dict()) == ["hidden.weight", "hidden.bias", "2.weight", "2.bias"]
    assert model.hidden is model[0] and model.act is model[1]
    assert repr(model).splitlines()[1] == "  (hidden): Linear(in_features=4, out_features=3, bias=True)"
    assert model(np.ones((1, 4), np.float32)).shape == (1, 2)
    with pytest.raises(AttributeError, match="'Sequential' object has no attribute 'nothing'"):
        model.nothing  # noqa: B018
    with pytest.raises(ValueError, match=r"layer hidden, Linear\(in_features=4"):
        model(np.ones((1, 5), np.float32))
    for bad, error in ((3, TypeError), ("", ValueError), ("a.b", ValueError)):
        with pytest.raises(error, match="Sequential: a layer's name must"):
            fastfc.Sequential({bad: fastfc.ReLU()})
    twin = pickle.loads(pickle.dumps(model))
    assert repr(twin) == repr(model) and twin.hidden.weight.shape == (3, 4)


class Counts(fastfc.Module):
    """The identity, which counts how often it ran."""

    keeps_width = True
    ran = 0

    def __call__(self, x):
        self.ran += 1
        return x

    def vjp(self, x):
        return self(x), lambda grad_y, needs_input_grad=True: grad_y


@pytest.mark.parametrize("call", [lambda model, x: model(x), lambda model, x: model.vjp(x)])
def test_mismatched_widths_are_refused_before_work(call):
    counts = Counts()
    model = fastfc.Sequential(
        counts, fastfc.Linear(4, 8), fastfc.ReLU(), fastfc.Sequential(fastfc.Identity(), fastfc.Linear(7, 2)))
    with pytest.raises(ValueError) as caught:
        call(model, np.ones((3, 4), np.float32))
    assert str(caught.value) == (
        "Sequential: layer 3.1, Linear(in_features=7, out_features=2, bias=True): expected 7 features, got 8 "
        "from layer 1, Linear(in_features=4, out_features=8, bias=True)")
    assert counts.ran == 0
    model[3][1] = fastfc.Linear(8, 2)
    assert call(model, np.ones((3, 4), np.float32)) is not None
    assert counts.ran == 1


def test_widths_that_are_not_known_are_not_checked():
    model = fastfc.Sequential(fastfc.Linear(4, 8), fastfc.Flatten(), fastfc.Linear(24, 2), fastfc.LazyLinear(3),
                              fastfc.Linear(3, 1))
    assert model(np.ones((5, 3, 4), np.float32)).shape == (5, 1)
    model = fastfc.Sequential(fastfc.LazyLinear(3), fastfc.Linear(4, 1))
    with pytest.raises(ValueError, match=r"layer 1, .* expected 4 features, got 3 from layer 0, LazyLinear"):
        model(np.ones((5, 3), np.float32))


def test_errors_deep_inside_say_where():
    model = fastfc.Sequential(fastfc.ReLU(), fastfc.Sequential(fastfc.Flatten(), fastfc.Linear(6, 2)))
    for call in (model, model.vjp):
        with pytest.raises(ValueError, match=(
                r"^layer 1, Sequential: layer 1, Linear\(in_features=6, out_features=2, bias=True\): linear\(\): "
                r"x has 5 features in its last axis, weight expects 6")):
            call(np.ones((3, 5), np.float32))
        with pytest.raises(TypeError, match=r"^layer 0, ReLU\(\): relu\(\): x must be float32 or float64"):
            call(np.ones((3, 6), np.int32))
    _, backward = model.vjp(np.ones((3, 6), np.float32))
    with pytest.raises(ValueError, match=r"^layer 1, Sequential: layer 1, Linear\(.*grad_y has shape \(3, 5\)"):
        backward(np.ones((3, 5), np.float32))
    assert all(p.grad is None for p in model.parameters())


def test_errors_of_other_kinds_are_passed_on_as_they_are():
    class Fails(fastfc.Module):
        def __call__(self, x):
            return b"\xff".decode()

    with pytest.raises(UnicodeDecodeError, match="^'utf-8' codec") as caught:
        fastfc.Sequential(Fails())(1)
    assert len(caught.value.args) == 5

    class Other(ValueError):
        pass

    def fails(x):
        raise Other("one")

    layer = fastfc.Identity()
    layer.vjp = fails
    with pytest.raises(Other, match="^one$"):
        fastfc.Sequential(layer).vjp(1)


def test_one_sequential_in_eval_for_many_threads():
    model = fastfc.Sequential(fastfc.Linear(5, 6, rng=0), fastfc.GELU(), fastfc.Linear(6, 4, rng=1)).eval()
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    expected, twin = model(x), copy.deepcopy(model)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for y in pool.map(twin, [x] * 64):
            np.testing.assert_array_equal(y, expected)


class Keeper(fastfc.Module):
    """Hands x on and keeps the gradients that it has given."""

    keeps_width = True

    def __init__(self):
        self.given = []

    def __call__(self, x):
        return x

    def vjp(self, x):
        def backward(grad_y, needs_input_grad=True):
            self.given.append(grad_y)
            return grad_y

        return x, backward


def test_only_gradients_that_nobody_else_has_are_overwritten():
    keeper = Keeper()
    layers = [fastfc.Linear(5, 7, rng=0), fastfc.ReLU(), keeper, fastfc.Linear(7, 6, activation="relu", rng=1),
              fastfc.Linear(6, 4, rng=2), fastfc.ReLU(), fastfc.Identity()]
    model = fastfc.Sequential(*layers)
    rng = np.random.default_rng(3)
    x, g = rng.standard_normal((9, 5), dtype=np.float32), rng.standard_normal((9, 4), dtype=np.float32)
    before = g.copy()
    _, backward = model.vjp(x)
    first = [backward(g), *(p.grad for p in model.parameters())]
    np.testing.assert_array_equal(g, before)
    kept = keeper.given[0].copy()
    model.zero_grad()
    second = [backward(g), *(p.grad for p in model.parameters())]  # the same pass once more
    np.testing.assert_array_equal(keeper.given[0], kept)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


class InPlace(fastfc.Module):
    """Writes into what it is given."""

    keeps_width = True

    def vjp(self, x):
        x *= -1
        return x, lambda grad_y, needs_input_grad=True: -grad_y


@pytest.mark.parametrize("last", [True, False])
def test_what_others_see_of_a_relu_may_be_written_into(last):
    """y of the last layer is the caller's, and that before a layer of the user's is that layer's."""
    linear, after = fastfc.Linear(5, 7, rng=0), [] if last else [InPlace(), fastfc.Linear(7, 4, rng=1)]
    model = fastfc.Sequential(linear, fastfc.ReLU(), *after)
    x = np.random.default_rng(2).standard_normal((9, 5), dtype=np.float32)
    y, backward = model.vjp(x)
    g = np.random.default_rng(3).standard_normal(y.shape, dtype=np.float32)
    if last:
        y *= -1
    grad_x = backward(g)
    grad_h = g if last else -g @ after[1].weight.data
    expected = grad_h * (x @ linear.weight.data.T + linear.bias.data > 0) @ linear.weight.data
    np.testing.assert_allclose(grad_x, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_an_activation_of_its_own_runs_as_one_behind_it(activation):
    """Before another affine layer, where a relu is kept once."""
    x = np.random.default_rng(0).standard_normal((9, 5), dtype=np.float32)
    g = np.random.default_rng(1).standard_normal((9, 4), dtype=np.float32)
    results = []
    for between in ([], [Keeper()]):
        first = fastfc.Linear(5, 7, activation=activation, rng=0)
        model = fastfc.Sequential(first, *between, fastfc.Linear(7, 4, rng=1))
        y, backward = model.vjp(x)
        results.append([y, backward(g), *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
