"""checkpoint: the bits of the segment itself, and less memory."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from reference import assert_same_bits
from samples import gaussian, in_threads
from test_layers import check_gradients, state_of

import fastfc


def segment(width=6, dropout=0.4, dtype=np.float64, rng=0):
    return fastfc.Sequential(
        fastfc.Linear(width, 2 * width, dtype=dtype, rng=rng), fastfc.ReLU(), fastfc.Dropout(dropout, rng=rng + 1),
        fastfc.SparseLinear(2 * width, width, sparsity=0.3, dtype=dtype, rng=rng + 2))


def model(wrap, segments=3, **options):
    return fastfc.Sequential(*[wrap(segment(rng=10 * i, **options)) for i in range(segments)])


class Counting(fastfc.Module):
    """Changes what a layer may change: an attribute, and a buffer, in place and by a fresh array."""

    buffers = ("moved", "replaced")

    def __init__(self):
        self.calls, self.moved, self.replaced = 0, np.zeros(1), np.zeros(1)

    def __call__(self, x):
        return self.vjp(x)[0]

    def vjp(self, x):
        if not self.training:
            return x, lambda grad_y, needs_input_grad=True: grad_y
        self.calls += 1
        self.moved += 2
        self.replaced = self.replaced + 3
        factor = float(self.calls + 10 * self.moved[0] + 100 * self.replaced[0])
        return factor * x, lambda grad_y, needs_input_grad=True: factor * grad_y


def step(wrapped, x, grad_y):
    wrapped.zero_grad()
    y, backward = wrapped.vjp(x)
    gx = backward(grad_y)
    return y, gx, [p.grad for p in wrapped.parameters()]


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_step_after_step_dropout_included(dtype, threads, rng):
    one, other = model(fastfc.checkpoint, dtype=dtype), model(lambda module: module, dtype=dtype)
    with fastfc.num_threads(threads):
        for _ in range(3):
            x, grad_y = gaussian(rng, (2, 5, 6), dtype), gaussian(rng, (2, 5, 6), dtype)
            (y, gx, grads), (expected, expected_gx, expected_grads) = step(one, x, grad_y), step(other, x, grad_y)
            assert_same_bits(y, expected)
            assert_same_bits(gx, expected_gx)
            for a, b in zip(grads, expected_grads, strict=True):
                assert_same_bits(a, b)
    assert_same_bits(one(x), other(x))
    one.eval()
    other.eval()
    assert_same_bits(one(x), other(x))
    for a, b in zip(step(one, x, grad_y)[2], step(other, x, grad_y)[2], strict=True):
        assert_same_bits(a, b)


def test_gradients_by_finite_differences(rng):
    check_gradients(model(fastfc.checkpoint, dropout=0.0), gaussian(rng, (4, 6), np.float64))


def test_a_checkpoint_in_a_checkpoint(rng):
    x, grad_y = gaussian(rng, (4, 6), np.float64), gaussian(rng, (4, 6), np.float64)
    nested = fastfc.checkpoint(fastfc.Sequential(segment(rng=0), fastfc.checkpoint(segment(rng=10))))
    plain = fastfc.Sequential(segment(rng=0), segment(rng=10))
    for a, b in zip(step(nested, x, grad_y)[2], step(plain, x, grad_y)[2], strict=True):
        assert_same_bits(a, b)
    assert_same_bits(nested(x), plain(x))


def test_whatever_a_training_call_changes_is_put_back_for_the_second_pass():
    """Also with other calls between the passes, one back twice, and a buffer that is changed in place."""
    layer, check = Counting(), Counting()
    wrapped = fastfc.checkpoint(layer)
    x = np.ones(3)
    passes, expected = [wrapped.vjp(x) for _ in range(3)], [check.vjp(x) for _ in range(3)]
    for i in (1, 0, 2, 0):
        np.testing.assert_array_equal(passes[i][0], expected[i][0])
        moved = layer.moved
        np.testing.assert_array_equal(passes[i][1](x), expected[i][1](x))
        assert layer.moved is moved
        assert (layer.calls, layer.moved[0], layer.replaced[0]) == (3, 6, 9)
    layer.eval()  # the second pass is a training pass nevertheless, as the first was
    np.testing.assert_array_equal(passes[2][1](x), expected[2][1](x))
    assert not layer.training and layer.calls == 3
    y, backward = wrapped.vjp(x)
    layer.train()
    np.testing.assert_array_equal(backward(x), x)
    assert layer.training and layer.calls == 3


def test_a_pass_that_fails_leaves_the_attributes_as_they_were():
    class Failing(Counting):
        fail = False

        def vjp(self, x):
            result = super().vjp(x)
            if self.fail:
                raise MemoryError("no memory")
            return result

    layer = Failing()
    _, backward = fastfc.checkpoint(layer).vjp(np.ones(3))
    Failing.fail = True
    with pytest.raises(MemoryError):
        backward(np.ones(3))
    assert (layer.calls, layer.moved[0], layer.replaced[0]) == (1, 2, 3)


def test_threads_may_share_it_in_eval(rng):
    wrapped = model(fastfc.checkpoint).eval()
    x = gaussian(rng, (5, 6), np.float64)
    y, backward = wrapped.vjp(x)
    expected = backward(x, needs_input_grad=True)
    variables = {module: dict(vars(module)) for module in wrapped.modules()}
    wrong = []

    def work():
        for _ in range(50):
            # The gradients of the parameters are shared; that of x is the caller's.
            y2, backward2 = wrapped.vjp(x)
            if not (np.array_equal(y, y2) and np.array_equal(wrapped(x), y)):
                wrong.append(1)

    in_threads(4, work)
    assert not wrong
    np.testing.assert_array_equal(wrapped.vjp(x)[1](x), expected)
    assert all(vars(module) == before for module, before in variables.items())


def test_state_is_the_segments():
    inner = segment()
    wrapped = fastfc.checkpoint(inner)
    assert state_of(wrapped) == state_of(inner)
    assert [name for name, _ in wrapped.named_parameters()] == [name for name, _ in inner.named_parameters()]
    assert list(fastfc.Sequential(wrapped).state_dict()) == [f"0.{name}" for name in inner.state_dict()]
    other = segment(rng=5)
    wrapped.load_state_dict(other.state_dict())
    assert state_of(inner) == state_of(other)
    with pytest.raises(ValueError, match="0.bias: missing"):
        wrapped.load_state_dict({})
    wrapped.eval()
    assert not inner.training and not inner[0].weight.data.flags.writeable
    assert not wrapped.train(False).training


def test_repr_copies_and_pickles(rng):
    wrapped = fastfc.checkpoint(fastfc.Sequential(fastfc.Linear(6, 6, rng=0), fastfc.Dropout(0.5, rng=0)))
    assert repr(wrapped) == (
        "Checkpoint(\n"
        "  (module): Sequential(\n"
        "    (0): Linear(in_features=6, out_features=6, bias=True)\n"
        "    (1): Dropout(p=0.5)\n"
        "  )\n"
        ")")
    x = gaussian(rng, (5, 6), np.float32)
    wrapped(x)
    for other in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        again = copy.deepcopy(wrapped)
        for a, b in zip(step(other, x, x)[2], step(again, x, x)[2], strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("wrong", [None, "Linear", lambda x: x, fastfc.Linear])
def test_what_is_no_module_is_refused(wrong):
    with pytest.raises(TypeError, match=r"checkpoint\(\): module must be a Module, got"):
        fastfc.checkpoint(wrong)


def test_input_gradient_can_be_left_out(rng):
    wrapped = fastfc.checkpoint(segment())
    x = gaussian(rng, (4, 6), np.float64)
    _, backward = wrapped.vjp(x)
    assert backward(x, needs_input_grad=False) is None
    assert all(p.grad is not None for p in wrapped.parameters())


def peak_of_a_step(model, x):
    """The most bytes that a step holds beyond the model, its gradients and x."""
    model.vjp(x)[1](x)  # the gradients are there
    tracemalloc.start()
    try:
        _, backward = model.vjp(x)
        held = tracemalloc.get_traced_memory()[0]
        backward(x)
        return held, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.measures_memory
def test_peak_memory():
    """n segments hold n inputs, and in the backward pass the activations of one more segment; without, of all n."""
    rows, width, n = 2000, 16, 8
    x = np.ones((rows, width), np.float32)
    unit = x.nbytes  # of a segment's input; its middle is twice as wide, and there are several arrays of it
    held, peak = peak_of_a_step(model(fastfc.checkpoint, n, width=width, dtype=np.float32), x)
    all_held, all_peak = peak_of_a_step(model(lambda module: module, n, width=width, dtype=np.float32), x)
    slack = 100_000
    assert held < n * unit + slack
    assert peak < (n + 12) * unit + slack
    assert all_held > 4 * n * unit and all_peak > all_held
    assert peak < all_peak / 2
