"""fastfc.fit: what it computes, how it ends, what it refuses."""

import _thread
import math
import signal
import sys
import threading

import numpy as np
import pytest

import fastfc
from fastfc import training

LOSS = fastfc.CrossEntropyLoss()


@pytest.fixture(autouse=True)
def ctrl_c_arrives():
    """As in a shell: a process that was started in the background ignores ^C, and its children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def problem(samples=100, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, 6)).astype(dtype)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64) + (x[:, 2] > 1)


def net(seed=0, dtype=np.float32):
    return fastfc.Sequential(fastfc.Linear(6, 16, rng=seed, dtype=dtype), fastfc.ReLU(),
                             fastfc.Linear(16, 3, rng=seed + 1, dtype=dtype))


def sgd(model, lr=0.1, momentum=0.9):
    return fastfc.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def run(model=None, x=None, y=None, **options):
    """fit with defaults; returns the model and its history."""
    model = net() if model is None else model
    if x is None:
        x, y = problem()
    optimizer = options.pop("optimizer", None) or sgd(model)
    options = {"loss": LOSS, "optimizer": optimizer, "epochs": 3, "batch_size": 16, "rng": 0, "progress": False,
               **options}
    return model, fastfc.fit(model, x, y, **options)


def bits(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


# -- what it computes --------------------------------------------------------------------------------------------------

def by_hand(model, x, y, epochs, size, orders, optimizer=None):
    """The loop as one would write it; `orders` is a Generator, or the rows of each epoch."""
    optimizer, losses = optimizer or sgd(model), []
    for epoch in range(epochs):
        total = 0.0
        order = orders.permutation(len(x)) if isinstance(orders, np.random.Generator) else orders[epoch]
        for first in range(0, len(order), size):
            rows = order[first:first + size]
            prediction, backward = model.vjp(x[rows])
            value, loss_backward = LOSS.vjp(prediction, y[rows])
            optimizer.zero_grad()
            backward(loss_backward())
            optimizer.step()
            total += value * len(rows)
        losses.append(total / len(order))
    return losses


@pytest.mark.parametrize("size", [1, 7, 16, 100, 1000])
def test_it_is_the_loop_that_one_would_write(size):
    x, y = problem()
    expected = net()
    losses = by_hand(expected, x, y, 3, size, np.random.default_rng(5))
    model, history = run(batch_size=size, rng=np.random.default_rng(5))
    assert bits(model) == bits(expected)
    assert history["loss"] == losses
    assert history["epoch"] == [1, 2, 3] and len(history) == 3 and history.stopped is None
    assert all(p.grad is None for p in model.parameters()) and model.training


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda a: np.repeat(a, 2, 0)[::2],
                                    lambda a: a[::-1].copy()[::-1], lambda a: np.repeat(a, 2, -1)[..., ::2]])
@pytest.mark.parametrize("shuffle", [False, True])
def test_any_layout_of_x_and_y(layout, shuffle):
    x, y = problem()
    expected, _ = run(shuffle=shuffle)
    model, _ = run(None, layout(x), layout(y), shuffle=shuffle)
    assert bits(model) == bits(expected)


def test_memory_mapped_lists_and_more_axes(tmp_path):
    x, y = problem()
    np.save(tmp_path / "x.npy", x)
    expected, _ = run()
    assert bits(run(None, np.load(tmp_path / "x.npy", mmap_mode="r"), y.tolist())[0]) == bits(expected)

    class Flat(fastfc.Module):
        def __init__(self):
            self.net = net()

        def vjp(self, x):
            return self.net.vjp(x.reshape(len(x), -1))

    model, _ = run(Flat(), x.reshape(-1, 2, 3), y)
    assert bits(model.net) == bits(expected)


def test_batches_are_not_copied_more_than_they_must():
    x, y = problem()
    seen = []

    class Spy(fastfc.Linear):
        def vjp(self, x):
            seen.append(x)
            return super().vjp(x)

    run(Spy(6, 3, rng=0), x, y, epochs=1)
    assert len({a.__array_interface__["data"][0] for a in seen}) == 1  # one buffer for all
    seen.clear()
    run(Spy(6, 3, rng=0), x, y, epochs=1, shuffle=False)
    assert all(np.shares_memory(a, x) for a in seen)


@pytest.mark.parametrize("sparse", ["fastfc", "scipy"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_csr_x_gives_what_its_dense_twin_gives(sparse, shuffle):
    x, y = problem()
    x[np.random.default_rng(1).random(x.shape) < 0.7] = 0
    x[3] = 0
    rows, columns = np.nonzero(x)
    parts = x[rows, columns], columns, np.searchsorted(rows, np.arange(len(x) + 1))
    if sparse == "scipy":
        scipy_sparse = pytest.importorskip("scipy.sparse", reason="makes the matrix")
        csr = scipy_sparse.csr_array(parts, shape=x.shape)
    else:
        csr = fastfc.CSR(*parts, x.shape)
    results = []
    for data in (x, csr):
        model, history = run(None, data, y, validation_data=(data, y), shuffle=shuffle)
        results.append((model.state_dict(), history))
    for name, array in results[0][0].items():
        np.testing.assert_allclose(results[1][0][name], array, rtol=0, atol=1e-5)
    np.testing.assert_allclose(results[1][1]["val_loss"], results[0][1]["val_loss"], atol=1e-5)


@pytest.mark.parametrize("seed", [0, np.random.default_rng(0)])
def test_same_seed_same_bits_for_any_thread_count(seed, dtype):
    x, y = problem(600, dtype)
    results = []
    for threads in (1, 2, 3):
        with fastfc.num_threads(threads):
            model = fastfc.Sequential(fastfc.Linear(6, 700, rng=0, dtype=dtype), fastfc.ReLU(),
                                      fastfc.Linear(700, 3, rng=1, dtype=dtype))
            _, history = run(model, x, y, batch_size=256, validation_data=(x, y), rng=np.random.default_rng(7)
                             if isinstance(seed, np.random.Generator) else seed)
        results.append((bits(model), history["loss"], history["val_loss"]))
    assert results[0] == results[1] == results[2]


def test_another_seed_shuffles_otherwise():
    assert bits(run(rng=0)[0]) == bits(run(rng=0)[0]) != bits(run(rng=1)[0])


@pytest.mark.parametrize("samples", [96, 100, 17, 5])
def test_accumulated_gradients_are_those_of_the_large_batch(samples):
    x, y = problem(samples, np.float64)
    large, _ = run(net(dtype=np.float64), x, y, batch_size=32, shuffle=False)
    small, _ = run(net(dtype=np.float64), x, y, batch_size=8, accumulate=4, shuffle=False)
    for name, array in large.state_dict().items():
        np.testing.assert_allclose(small.state_dict()[name], array, rtol=0, atol=1e-12)


class SumLoss:
    """The sum over the batch of squared errors."""

    reduction = "sum"

    def __call__(self, prediction, target):
        return self.vjp(prediction, target)[0]

    def vjp(self, prediction, target):
        difference = prediction - target
        return float((difference**2).sum()), lambda: 2 * difference


def test_a_loss_that_is_a_sum():
    x, _ = problem(20, np.float64)
    y = x[:, :2].copy()
    models = [fastfc.Linear(6, 2, rng=0, dtype=np.float64) for _ in range(2)]
    options = {"loss": SumLoss(), "validation_data": (x, y), "epochs": 2, "shuffle": False}
    histories = [run(model, x, y, optimizer=sgd(model, 1e-3), batch_size=size, accumulate=20 // size, **options)[1]
                 for model, size in zip(models, (20, 5), strict=True)]
    np.testing.assert_allclose(models[0].weight.data, models[1].weight.data, rtol=0, atol=1e-12)
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"])
    np.testing.assert_allclose(histories[0][0]["val_loss"], histories[0][1]["loss"])


# -- validation, stopping, the best weights ----------------------------------------------------------------------------

def accuracy(prediction, target):
    return np.mean(prediction.argmax(1) == target)


def test_validation_loss_and_metrics():
    x, y = problem(700)
    model, history = run(None, x[:100], y[:100], validation_data=(x[100:], y[100:]), metrics={"accuracy": accuracy},
                         restore_best=False)
    assert history[-1]["val_loss"] == LOSS(model(x[100:]), y[100:])
    assert history["accuracy"][-1] == accuracy(model(x[100:]), y[100:])
    assert list(history[0]) == ["epoch", "loss", "val_loss", "accuracy", "seconds"]


def test_validation_is_inference_and_leaves_modes_as_they_were():
    x, y = problem()
    modes = []

    class Spy(fastfc.Linear):
        def __call__(self, x):
            modes.append(("call", self.training))
            return super().__call__(x)

        def vjp(self, x):
            modes.append(("vjp", self.training))
            return super().vjp(x)

    model = fastfc.Sequential(Spy(6, 8, rng=0), Spy(8, 3, rng=1))
    frozen = model[1]
    frozen.training = False  # the user's own, such as a dropout that is to stay off
    run(model, x, y, validation_data=(x, y), epochs=1, batch_size=100)
    assert modes == [("vjp", True), ("vjp", False), ("call", False), ("call", False)]
    assert model.training and model[0].training and not frozen.training


def test_patience_stops_and_the_best_weights_come_back():
    x, y = problem(60)
    states = []
    model, history = run(None, x[:30], y[:30], epochs=300, validation_data=(x[30:], y[30:]), patience=5,
                         callbacks=[lambda model, history: states.append(bits(model))])
    values = history["val_loss"]
    assert history.stopped == "patience" and len(history) < 300
    assert history.best_epoch == int(np.argmin(values)) + 1 == len(history) - 5
    assert bits(model) == states[history.best_epoch - 1] != states[-1]
    again, _ = run(None, x[:30], y[:30], epochs=len(history), validation_data=(x[30:], y[30:]), restore_best=False)
    assert bits(again) == states[-1]


def test_patience_without_validation_watches_the_training_loss():
    model = net()
    _, history = run(model, epochs=10, patience=2, optimizer=sgd(model, lr=0.0, momentum=0.0), shuffle=False)
    assert len(history) == 3 and history.best_epoch == 1 and history.stopped == "patience"


def test_min_delta():
    _, history = run(epochs=10, patience=2, min_delta=100.0)
    assert len(history) == 3 and history.best_epoch == 1


def test_nothing_is_restored_without_something_to_judge_by(monkeypatch):
    monkeypatch.setattr(fastfc.Module, "state_dict", lambda self: pytest.fail("no copy is needed"))
    _, history = run()
    assert history.best_epoch == int(np.argmin(history["loss"])) + 1


def test_a_model_in_eval_is_trained_and_in_eval_again():
    model = net().eval()
    expected, _ = run()
    run(model)
    assert not model.training and bits(model) == bits(expected)
    assert isinstance(model[0].weight.operand, fastfc.PackedWeight)
    with pytest.raises(ValueError):
        model[0].weight.data[0, 0] = 1


def test_callbacks_see_each_epoch_and_may_stop():
    seen = []

    def callback(model, history):
        seen.append((history[-1]["epoch"], len(history)))
        return len(history) == 2

    _, history = run(epochs=5, callbacks=[callback, lambda model, history: None])
    assert seen == [(1, 1), (2, 2)] and history.stopped == "callback" and not history.interrupted


class Countdown(fastfc.CrossEntropyLoss):
    """Presses ^C in the n-th batch (of training: validation does not count).

    To Python it is ^C; a signal proper would need the stack for signals, which an engine that another test measures in
    this process may have left unusable.
    """

    def __init__(self, batch, times=1):
        super().__init__()
        self.left, self.times = batch, times

    def __call__(self, logits, target):
        return LOSS(logits, target)

    def vjp(self, logits, target):
        self.left -= 1
        if self.left == 0:
            for _ in range(self.times):
                _thread.interrupt_main()
        return super().vjp(logits, target)


def test_ctrl_c_ends_the_epoch_cleanly_and_keeps_the_best_weights():
    x, y = problem()
    states = []
    options = {"validation_data": (x, y), "epochs": 100, "batch_size": 10}
    model, history = run(loss=Countdown(23), callbacks=[lambda model, history: states.append(bits(model))], **options)
    assert history.interrupted and history.stopped == "interrupt" and len(history) == 3
    assert bits(model) == states[history.best_epoch - 1]
    assert all(p.grad is None for p in model.parameters())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # The batch in work was applied, and no other: two epochs and three batches.
    last, _ = run(loss=Countdown(23), restore_best=False, **options)
    other, order = net(), np.random.default_rng(0)
    optimizer = sgd(other)
    by_hand(other, x, y, 2, 10, order, optimizer)
    assert history["val_loss"][1] == LOSS(other(x), y)
    rows = order.permutation(100)[:30]
    (loss,) = by_hand(other, x, y, 1, 10, [rows], optimizer)
    assert bits(other) == bits(last)
    assert history["loss"][-1] == pytest.approx(loss, rel=1e-12)


def test_ctrl_c_waits_for_the_step_of_accumulated_batches():
    class Steps(fastfc.optim.SGD):
        count = 0

        def step(self):
            self.count += 1
            super().step()

    model = net()
    optimizer = Steps(model.parameters(), lr=0.1)
    run(model, loss=Countdown(2), optimizer=optimizer, batch_size=10, accumulate=4)
    assert optimizer.count == 1


def test_a_second_ctrl_c_raises_at_once_with_the_best_weights():
    x, y = problem()
    states, model = [], net()
    with pytest.raises(KeyboardInterrupt):
        run(model, loss=Countdown(23, times=2), epochs=100, batch_size=10, validation_data=(x, y), min_delta=10,
            callbacks=[lambda model, history: states.append(bits(model))])
    assert bits(model) == states[0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_with_a_handler_of_its_own_keeps_it():
    calls = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        _, history = run(loss=Countdown(3))
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT] and not history.interrupted


def test_fit_runs_in_another_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(bits(run()[0])))
    thread.start()
    thread.join()
    assert results == [bits(run()[0])]


# -- what goes wrong ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_and_says_where(bad):
    x, y = problem()
    x[57] = bad
    model, expected = net(), net()
    with pytest.raises(fastfc.NonFiniteLoss, match=r"the loss is (nan|inf) in epoch 1, batch 6 of 10") as caught:
        run(model, x, y, batch_size=10, shuffle=False)
    run(expected, x[:50], y[:50], batch_size=10, shuffle=False, epochs=1)
    assert bits(model) == bits(expected)  # the batch was not applied
    assert (caught.value.epoch, caught.value.batch, len(caught.value.history)) == (1, 6, 0)
    assert isinstance(caught.value, FloatingPointError)


def test_a_diverged_model_gets_its_best_weights_back():
    x, y = problem()
    model, states = net(), []

    def diverge(model, history):
        states.append(bits(model))
        if len(history) == 3:
            model[0].weight.data[...] = np.nan

    with pytest.raises(fastfc.NonFiniteLoss, match="epoch 4, batch 1 of 7") as caught:
        run(model, epochs=9, validation_data=(x, y), callbacks=[diverge])
    history = caught.value.history
    assert len(history) == 3
    assert bits(model) == states[history.best_epoch - 1]


@pytest.mark.parametrize("progress", [False, True])
def test_an_exception_on_the_way_leaves_a_model_that_works(progress):
    x, y = problem()
    y[55] = 99
    model = net().eval()
    with pytest.raises(ValueError, match=r"target\[5\] is 99"):
        run(model, x, y, batch_size=10, shuffle=False, progress=progress)
    assert not model.training and all(p.grad is None for p in model.parameters())


X, Y = problem(20)


class NoReduction:
    reduction = "none"

    def vjp(self, prediction, target):
        raise AssertionError("not to be called")


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"x": X[:19]}, ValueError, r"x and y must have one length, got 19 and 20"),
    ({"y": Y[:19]}, ValueError, r"x and y must have one length, got 20 and 19"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, r"x is empty"),
    ({"x": np.float32(3)}, ValueError, r"x must have an axis of samples, got a scalar"),
    ({"validation_data": (X, Y[1:])}, ValueError, r"validation x and validation y must have one length, got 20 and 19"),
    ({"validation_data": (X[:0], Y[:0])}, ValueError, r"validation x is empty"),
    ({"validation_data": (X, Y, 3)}, TypeError, r"validation_data must be a pair \(x, y\)"),
    ({"validation_data": 0.2}, TypeError, r"validation_data must be a pair"),
    ({"metrics": {"accuracy": accuracy}}, ValueError, r"metrics are of the validation data"),
    ({"metrics": [accuracy], "validation_data": (X, Y)}, TypeError, r"metrics must be a mapping.*got list"),
    ({"epochs": 0}, ValueError, r"epochs must be an integer >= 1, got 0"),
    ({"epochs": 2.5}, ValueError, r"epochs must be an integer >= 1, got 2.5"),
    ({"batch_size": 0}, ValueError, r"batch_size must be an integer >= 1, got 0"),
    ({"accumulate": -1}, ValueError, r"accumulate must be an integer >= 1, got -1"),
    ({"patience": 0}, ValueError, r"patience must be an integer >= 1, got 0"),
    ({"patience": True}, ValueError, r"patience must be an integer >= 1, got True"),
    ({"min_delta": -1}, ValueError, r"min_delta must be finite and >= 0, got -1"),
    ({"min_delta": math.nan}, ValueError, r"min_delta must be finite"),
    ({"clip_norm": 0}, ValueError, r"clip_norm must be > 0, got 0"),
    ({"clip_norm": math.nan}, ValueError, r"clip_norm must be > 0, got nan"),
    ({"schedule_each": "batch"}, ValueError, r"schedule_each must be 'epoch' or 'step', got 'batch'"),
    ({"schedule_each": np.ones(2)}, ValueError, r"schedule_each must be 'epoch' or 'step', got array"),
    ({"min_delta": np.ones(2)}, ValueError, r"min_delta must be finite and >= 0, got array"),
    ({"clip_norm": np.ones(2)}, ValueError, r"clip_norm must be > 0, got array"),
    ({"clip_norm": 10**400}, ValueError, r"clip_norm must be > 0, got 1000"),
    ({"min_delta": 10**400}, ValueError, r"min_delta must be finite and >= 0, got 1000"),
    ({"shuffle": np.ones(2)}, TypeError, r"shuffle must be a bool, got ndarray"),
    ({"restore_best": np.ones(2)}, TypeError, r"restore_best must be a bool, got ndarray"),
    ({"progress": np.ones(2)}, TypeError, r"progress must be a bool, got ndarray"),
    ({"schedule": 3}, TypeError, r"schedule must have a method step\(\), got int"),
    ({"loss": accuracy}, TypeError, r"loss must have a method vjp\(\), got function"),
    ({"loss": NoReduction()}, ValueError, r"loss must be one number, its reduction is 'none'"),
    ({"optimizer": "sgd"}, TypeError, r"optimizer must have a method step\(\), got str"),
    ({"model": np.dot}, TypeError, r"model must be a Module, got"),
    ({"callbacks": [3]}, TypeError, r"callbacks\[0\] must be callable, got int"),
    ({"rng": "seed"}, TypeError, r"rng must be a numpy.random.Generator"),
    ({"rng": -1}, ValueError, r"rng must be a seed >= 0"),
    ({"x": X[:, :5]}, ValueError, r"linear\(\)"),
])
def test_what_does_not_fit_is_refused_before_anything_is_changed(change, error, message):
    model = net()
    before, generator = bits(model), np.random.default_rng(3)
    state = generator.bit_generator.state
    arguments = {"model": model, "x": X, "y": Y, "rng": generator, "optimizer": sgd(model), **change}
    with pytest.raises(error, match=message):
        run(**arguments)
    assert bits(model) == before and all(p.grad is None for p in model.parameters())
    assert generator.bit_generator.state == state or "linear" in message


# -- schedule, progress, history ---------------------------------------------------------------------------------------

class Halve:
    def __init__(self, optimizer):
        self.optimizer, self.calls = optimizer, 0

    def step(self):
        self.calls += 1
        self.optimizer.lr /= 2


@pytest.mark.parametrize(("each", "calls", "rates"), [("epoch", 3, [0.1, 0.05, 0.025]), ("step", 21, None)])
def test_a_schedule_steps_each_epoch_or_each_step(each, calls, rates):
    model = net()
    optimizer = sgd(model)
    schedule = Halve(optimizer)
    _, history = run(model, optimizer=optimizer, schedule=schedule, schedule_each=each)
    assert schedule.calls == calls
    if rates:
        assert history["lr"] == rates


@pytest.mark.parametrize("validate", [False, True])
def test_a_plateau_is_told_the_loss_that_counts(validate):
    x, y = problem()
    model, told = net(), []

    class Spy(fastfc.optim.ReduceLROnPlateau):
        def step(self, metrics):
            told.append(metrics)
            super().step(metrics)

    optimizer = sgd(model)
    _, history = run(model, optimizer=optimizer, schedule=Spy(optimizer), validation_data=(x, y) if validate else None)
    assert told == history["val_loss" if validate else "loss"]
    with pytest.raises(ValueError, match="goes by the loss of an epoch"):
        run(model, optimizer=optimizer, schedule=Spy(optimizer), schedule_each="step")


def test_gradients_are_clipped_before_each_step():
    x, y = problem(64)
    norms = []

    class Spy(fastfc.optim.SGD):
        def step(self):
            norms.append(np.sqrt(sum(float((p.grad**2).sum()) for p in self.params)))
            super().step()

    for clip in (None, 0.01):
        model = net()
        run(model, x, y, optimizer=Spy(model.parameters(), lr=0.1), epochs=1, clip_norm=clip)
    assert max(norms[4:]) <= 0.01 * (1 + 1e-6) < min(norms[:4])


def test_a_norm_that_is_not_finite_stops_before_the_step():
    class Spoilt(fastfc.CrossEntropyLoss):
        def vjp(self, logits, target):
            value, backward = super().vjp(logits, target)
            return value, lambda: backward() * np.float32(np.nan)

    model = net()
    before = bits(model)
    with pytest.raises(fastfc.NonFiniteLoss, match="the norm of the gradients is nan in epoch 1, batch 1 of 7"):
        run(model, loss=Spoilt(), clip_norm=1.0)
    assert bits(model) == before


def test_lines_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    x, y = problem()
    run(progress=True, validation_data=(x, y))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("epoch 1/3: loss ") and "val_loss" in lines[0]


def test_a_bar_with_tqdm(capsys):
    pytest.importorskip("tqdm", reason="draws the bar")
    run(progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "21/21" in err and "epoch 3: loss" in err


def test_nothing_is_printed_without_progress(capfd):
    run()
    assert capfd.readouterr() == ("", "")


def test_history_prints_as_a_table():
    x, y = problem()
    _, history = run(validation_data=(x, y), patience=1, min_delta=9, epochs=5)
    lines = repr(history).splitlines()
    assert lines[0].split() == ["epoch", "loss", "val_loss", "seconds"]
    assert len({len(line) for line in lines[:3]}) == 1
    assert lines[3:] == ["best epoch: 1", "stopped by: patience"]
    assert repr(training.History()).strip() == "epoch"
    assert [row["epoch"] for row in history] == [1, 2]
