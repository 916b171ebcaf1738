"""`fit`: the training loop, from shuffled mini-batches to early stopping."""

import math
import numbers
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np

from fastfc import init, optim
from fastfc.arrays import array_of
from fastfc.layers.arguments import among, flag
from fastfc.module import Module
from fastfc.rows import Rows
from fastfc.sparse import CSR, as_csr, is_sparse

__all__ = ["History", "NonFiniteLoss", "fit"]

# Validation runs in batches of at least so many rows: small ones would only cost calls.
VALIDATION_ROWS = 256


class NonFiniteLoss(FloatingPointError):
    """Training stopped because the loss (or the gradient's norm, if it is clipped) became NaN or infinite.

    Attributes
    ----------
    epoch, batch : int
        Where, both counted from 1. The batch has changed no parameter.
    history : History
        Of the epochs before.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> model = fastfc.Linear(2, 2, rng=0)
    >>> opt = fastfc.optim.SGD(model.parameters(), lr=0.1)
    >>> x, y = np.float32([[1, 2], [np.nan, 3]]), np.array([0, 1])
    >>> fastfc.fit(model, x, y, loss=fastfc.CrossEntropyLoss(), optimizer=opt, epochs=1, batch_size=1, shuffle=False,
    ...            progress=False)
    Traceback (most recent call last):
        ...
    fastfc.training.NonFiniteLoss: fit(): the loss is nan in epoch 1, batch 2 of 2
    """

    def __init__(self, message, epoch=0, batch=0, history=None):
        super().__init__(message)
        self.epoch, self.batch, self.history = epoch, batch, history


class History(Rows):
    """What `fit` did, epoch by epoch; prints as a table.

    ``history["loss"]`` is the column of that name, ``history[-1]`` the last epoch as a dict, ``len(history)`` the
    number of epochs. Columns: ``epoch``, ``loss`` (mean over the epoch's batches, each with the weights that it met),
    ``val_loss`` and the metrics if there are validation data, ``lr`` (of the first parameter group) if there is a
    schedule, ``seconds``.

    Attributes
    ----------
    best_epoch : int or None
        The epoch of the lowest validation loss (training loss without validation data).
    stopped : str or None
        What ended training before the last epoch: ``"patience"``, ``"callback"`` or ``"interrupt"``.
    interrupted : bool
        Whether it was ^C; the last epoch is then cut short.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> model = fastfc.Linear(1, 1, rng=0)
    >>> opt = fastfc.optim.SGD(model.parameters(), lr=0.0)
    >>> x = np.zeros((4, 1), np.float32)
    >>> history = fastfc.fit(model, x, np.zeros(4, int), loss=fastfc.CrossEntropyLoss(), optimizer=opt, epochs=3,
    ...                      progress=False)
    >>> history["loss"], len(history)
    ([0.0, 0.0, 0.0], 3)
    """

    def __init__(self):
        super().__init__()
        self.best_epoch = self.stopped = None

    @property
    def interrupted(self):
        return self.stopped == "interrupt"

    def __repr__(self):
        names = list(self.rows[0]) if self.rows else ["epoch"]
        table = [names, *([_text(row[name]) for name in names] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in table]
        if self.best_epoch is not None:
            lines.append(f"best epoch: {self.best_epoch}")
        if self.stopped is not None:
            lines.append(f"stopped by: {self.stopped}")
        return "\n".join(lines)


def fit(model, x, y, *, loss, optimizer, epochs, batch_size=32, shuffle=True, rng=None, validation_data=None,
        metrics=None, patience=None, min_delta=0.0, restore_best=True, schedule=None, schedule_each="epoch",
        clip_norm=None, accumulate=1, callbacks=(), progress=True):
    """Train `model` on x and y by mini-batches.

    The same seed gives the same bits, for any number of threads.

    Parameters
    ----------
    model : Module
        Trained in place. In ``eval()`` it is put into ``train()`` meanwhile.
    x : ndarray (samples, ...), CSR or scipy CSR (samples, in_features)
    y : array_like (samples, ...)
        What `loss` compares with.
    loss : object with ``vjp(prediction, target)``
        Such as `CrossEntropyLoss`.
    optimizer : Optimizer
        Made with the model's parameters.
    epochs : int >= 1
    batch_size : int >= 1
        The last batch of an epoch may be smaller.
    shuffle : bool
        False: batches follow each other as x does, every epoch, and are not copied.
    rng : numpy.random.Generator, int or None
        Source of the shuffling: one permutation an epoch.
    validation_data : (x, y), optional
        Evaluated after each epoch, with dropout and the like off.
    metrics : mapping from str to callable(prediction, target) -> float, optional
        Of the validation data; the predictions come as one array.
    patience : int >= 1, optional
        Stop after so many epochs without a loss that is lower by more than `min_delta` than the best so far; the
        validation loss counts, without validation data that of training.
    min_delta : float >= 0
    restore_best : bool
        With validation data or patience, the model ends with the weights of the best epoch, however training ends
        (one copy of them is kept). False: with the last.
    schedule : learning rate schedule of `fastfc.optim`, optional
        A `ReduceLROnPlateau` is given the loss that `patience` watches.
    schedule_each : "epoch" or "step"
        When ``schedule.step()`` is called.
    clip_norm : float > 0, optional
        Scale the gradients before each step so that their norm is at most this.
    accumulate : int >= 1
        Batches whose gradients add up before a step: the gradient of one batch of that many times the size, in the
        memory of one. (Of a loss that is a mean, it is the mean over all their rows.)
    callbacks : sequence of callable(model, history)
        Called after each epoch. One that returns a true value ends training. One with a method ``before_step(model)``
        has it called before each step of the optimiser, when the gradients stand. While one has a true attribute
        `pending`, as those of `fastfc.prune` do until the model has its final sparsity, no epoch counts as the best
        one.
    progress : bool
        A bar if tqdm is installed, otherwise a line an epoch.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or lengths disagree; the model is then as it was. A batch raises what the
        layers and the loss raise.
    NonFiniteLoss
        If the loss becomes NaN or infinite; says in which epoch and batch, which is not applied.

    Notes
    -----
    ^C (in the main thread, unless the program has a handler of its own) ends the epoch after the batch in work; the
    epoch is validated and recorded, and training ends as with `patience`. A second ^C raises KeyboardInterrupt at
    once, with the best weights restored all the same.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((256, 8), dtype=np.float32)
    >>> y = (x[:, 0] * x[:, 1] > 0).astype(int)
    >>> model = fastfc.Sequential(fastfc.Linear(8, 32, rng=rng), fastfc.ReLU(), fastfc.Linear(32, 2, rng=rng))
    >>> opt = fastfc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> history = fastfc.fit(model, x[:192], y[:192], loss=fastfc.CrossEntropyLoss(), optimizer=opt, epochs=50, rng=rng,
    ...                      validation_data=(x[192:], y[192:]), patience=10, progress=False)
    >>> history.best_epoch == history["epoch"][int(np.argmin(history["val_loss"]))]
    True
    """
    for name, argument, kind, wanted in (
            ("model", model, Module, "a Module"), ("metrics", metrics, Mapping | None, "a mapping of callables")):
        if not isinstance(argument, kind):
            raise TypeError(f"fit(): {name} must be {wanted}, got {type(argument).__name__}")
    for name, argument, methods in (("loss", loss, ["vjp"]), ("optimizer", optimizer, ["step", "zero_grad"]),
                                    ("schedule", schedule, [] if schedule is None else ["step"])):
        for method in methods:
            if not callable(getattr(argument, method, None)):
                raise TypeError(f"fit(): {name} must have a method {method}(), got {type(argument).__name__}")
    for name, count in (("epochs", epochs), ("batch_size", batch_size), ("accumulate", accumulate),
                        ("patience", 1 if patience is None else patience)):
        if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
            raise ValueError(f"fit(): {name} must be an integer >= 1, got {count!r}")
    shuffle, restore_best = flag("fit", "shuffle", shuffle), flag("fit", "restore_best", restore_best)
    progress, largest = flag("fit", "progress", progress), sys.float_info.max  # an int can be larger
    if not isinstance(min_delta, numbers.Real) or not 0 <= min_delta <= largest:
        raise ValueError(f"fit(): min_delta must be finite and >= 0, got {min_delta!r}")
    if clip_norm is not None and not (
            isinstance(clip_norm, numbers.Real) and (0 < clip_norm <= largest or clip_norm == math.inf)):
        raise ValueError(f"fit(): clip_norm must be > 0, got {clip_norm!r}")
    if not among(schedule_each, ("epoch", "step")):
        raise ValueError(f"fit(): schedule_each must be 'epoch' or 'step', got {schedule_each!r}")
    plateau = isinstance(schedule, optim.ReduceLROnPlateau)
    if plateau and schedule_each == "step":
        raise ValueError("fit(): a ReduceLROnPlateau goes by the loss of an epoch, schedule_each must be 'epoch'")
    reduction = getattr(loss, "reduction", "mean")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"fit(): loss must be one number, its reduction is {reduction!r}")
    callbacks = tuple(callbacks)
    for i, callback in enumerate(callbacks):
        if not callable(callback):
            raise TypeError(f"fit(): callbacks[{i}] must be callable, got {type(callback).__name__}")
    if metrics and validation_data is None:
        raise ValueError("fit(): metrics are of the validation data, but validation_data is None")
    if validation_data is not None:
        try:
            validation_x, validation_y = validation_data
        except (TypeError, ValueError):
            raise TypeError("fit(): validation_data must be a pair (x, y)") from None
        validation_data = _samples("validation x", validation_x, "validation y", validation_y)
    x, y = _samples("x", x, "y", y)
    rng = init.generator(rng)

    gather_x, gather_y = _gatherer(x, batch_size), _gatherer(y, batch_size)
    hooks = [callback.before_step for callback in callbacks if hasattr(callback, "before_step")]
    samples, batches, settled = len(y), -(-len(y) // batch_size), 0
    history, best = History(), _Best(model, min_delta, restore_best and (patience or validation_data) is not None)
    was_training = model.training
    if not was_training:
        model.train()

    def one_epoch(epoch):
        """Train on every batch once, or until ^C, and return the loss of the epoch."""
        order = rng.permutation(samples) if shuffle else None
        total, seen = 0.0, 0
        optimizer.zero_grad()
        for batch in range(batches):
            first = batch * batch_size
            rows = slice(first, min(first + batch_size, samples)) if order is None else order[first:first + batch_size]
            prediction, backward = model.vjp(gather_x(rows))
            value, loss_backward = loss.vjp(prediction, gather_y(rows))
            value = float(value)
            if not math.isfinite(value):
                raise NonFiniteLoss(f"fit(): the loss is {value} in epoch {epoch}, batch {batch + 1} of {batches}",
                                    epoch, batch + 1, history)
            grad, count = loss_backward(), min(batch_size, samples - first)
            if accumulate > 1 and reduction == "mean":
                together = first // (accumulate * batch_size) * accumulate * batch_size
                grad *= count / min(accumulate * batch_size, samples - together)
            backward(grad, needs_input_grad=False)
            total += value * count if reduction == "mean" else value
            seen += count
            if (batch + 1) % accumulate == 0 or batch + 1 == batches:
                if clip_norm is not None:
                    norm = float(optim.clip_grad_norm_(model.parameters(), clip_norm))
                    if not math.isfinite(norm):
                        raise NonFiniteLoss(f"fit(): the norm of the gradients is {norm} in epoch {epoch}, "
                                            f"batch {batch + 1} of {batches}", epoch, batch + 1, history)
                for before_step in hooks:
                    before_step(model)
                optimizer.step()
                optimizer.zero_grad()
                if schedule is not None and schedule_each == "step":
                    schedule.step()
                if interrupt.pressed:
                    break
            show.batch()
        return total / seen if reduction == "mean" else total

    with _Interrupt() as interrupt, _progress(progress, epochs, batches) as show:
        try:
            for epoch in range(1, epochs + 1):
                start = time.perf_counter()
                best.stale = True
                row = {"epoch": epoch, "loss": one_epoch(epoch)}
                if validation_data is not None:
                    row |= _evaluate(model, loss, metrics, *validation_data, max(batch_size, VALIDATION_ROWS))
                watched = row.get("val_loss", row["loss"])
                if schedule is not None:
                    row["lr"] = optimizer.param_groups[0]["lr"]
                    if schedule_each == "epoch":
                        schedule.step(*[watched] if plateau else [])
                row["seconds"] = time.perf_counter() - start
                history.rows.append(row)
                if any(getattr(callback, "pending", False) for callback in callbacks):
                    settled = epoch
                else:
                    best.see(epoch, watched)
                history.best_epoch = best.epoch
                show.epoch(row)
                called = [callback(model, history) for callback in callbacks]
                if interrupt.pressed:
                    history.stopped = "interrupt"
                elif any(called):
                    history.stopped = "callback"
                elif patience is not None and epoch - (best.epoch or settled) >= patience:
                    history.stopped = "patience"
                if history.stopped:
                    break
        finally:
            optimizer.zero_grad()
            best.restore()
            if not was_training:
                model.eval()
    return history


# -- data --------------------------------------------------------------------------------------------------------------

def _samples(x_name, x, y_name, y):
    """x as an array or a CSR, and y as an array, of one length that is not 0."""
    x = as_csr("fit", x_name, x) if is_sparse(x) else array_of(f"fit(): {x_name}", x)
    y = array_of(f"fit(): {y_name}", y)
    for name, shape in ((x_name, x.shape), (y_name, y.shape)):
        if not shape:
            raise ValueError(f"fit(): {name} must have an axis of samples, got a scalar")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"fit(): {x_name} and {y_name} must have one length, got {x.shape[0]} and {y.shape[0]}")
    if not x.shape[0]:
        raise ValueError(f"fit(): {x_name} is empty")
    return x, y


def _gatherer(array, most):
    """A function from rows (a slice, or numbers, at most `most`) to those rows of `array`, until its next call."""
    if isinstance(array, CSR):
        return lambda rows: _csr_rows(array, rows)
    if not array.flags.c_contiguous:
        return array.__getitem__  # take would copy all of it each time
    buffer = np.empty((min(most, len(array)), *array.shape[1:]), array.dtype)

    def gather(rows):
        if isinstance(rows, slice):
            return array[rows]
        # Every row is there to be clipped to; "raise" would write into a copy of the buffer first.
        return array.take(rows, 0, buffer[:len(rows)], "clip")

    return gather


def _csr_rows(csr, rows):
    """Those rows of a CSR, as one, for the length of a batch."""
    if isinstance(rows, slice):
        rows = np.arange(rows.start, rows.stop)
    starts = csr.indptr[rows]
    lengths = csr.indptr[rows + 1] - starts
    indptr = np.zeros(len(rows) + 1, csr.indptr.dtype)
    np.cumsum(lengths, out=indptr[1:])
    places = np.repeat(starts - indptr[:-1], lengths)
    places += np.arange(len(places), dtype=places.dtype)
    return CSR._of(csr.data[places], csr.indices[places], indptr, (len(rows), csr.shape[1]))


def _evaluate(model, loss, metrics, x, y, rows):
    """Loss and metrics of the validation data, as a dict."""
    gather, parts = _gatherer(x, rows), None
    with _inference(model):
        for first in range(0, len(y), rows):
            part = model(gather(slice(first, min(first + rows, len(y)))))
            if parts is None:
                parts = np.empty((len(y), *part.shape[1:]), part.dtype)
            parts[first:first + rows] = part
    return {"val_loss": float(loss(parts, y)),
            **{name: float(metric(parts, y)) for name, metric in (metrics or {}).items()}}


@contextmanager
def _inference(model):
    """Every module as in ``eval()``, but nothing packed or copied: that costs more than one pass gains."""
    modules = [module for module in model.modules() if module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True


# -- the best weights, ^C, progress ------------------------------------------------------------------------------------

class _Best:
    """The lowest value so far, and a copy of the model as it was then."""

    def __init__(self, model, min_delta, keeps):
        self.model, self.min_delta, self.keeps = model, min_delta, keeps
        self.value, self.epoch, self.state = math.inf, None, None
        self.stale = False  # whether the model has changed since

    def see(self, epoch, value):
        if value < self.value - self.min_delta or (self.epoch is None and value == value):
            self.value, self.epoch, self.stale = value, epoch, False
            if self.keeps:
                self.state = None  # its memory first
                self.state = self.model.state_dict()

    def restore(self):
        if self.stale and self.state is not None:
            self.model.load_state_dict(self.state)


class _Interrupt:
    """Inside, the first ^C sets `pressed`, and the second raises."""

    def __enter__(self):
        self.pressed = self.mine = False
        if threading.current_thread() is threading.main_thread():
            self.mine = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.mine:
            signal.signal(signal.SIGINT, self._press)
        return self

    def _press(self, number, frame):
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def __exit__(self, *exception):
        if self.mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _Silent:
    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def batch(self):
        pass

    def epoch(self, row):
        pass


class _Lines(_Silent):
    def __init__(self, epochs):
        self.epochs = epochs

    def epoch(self, row):
        print(f"epoch {row['epoch']}/{self.epochs}: {_numbers(row)}", flush=True)


class _Bar(_Silent):
    def __init__(self, tqdm, epochs, batches):
        self.bar, self.batches = tqdm(total=epochs * batches, unit="batch"), batches

    def __exit__(self, *exception):
        self.bar.close()

    def batch(self):
        self.bar.update()

    def epoch(self, row):
        self.bar.update(row["epoch"] * self.batches - self.bar.n)
        self.bar.set_postfix_str(f"epoch {row['epoch']}: {_numbers(row)}", refresh=False)


def _progress(wanted, epochs, batches):
    if not wanted:
        return _Silent()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return _Lines(epochs)
    return _Bar(tqdm, epochs, batches)


def _numbers(row):
    return ", ".join(f"{name} {_text(value)}" for name, value in row.items() if name != "epoch")


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
