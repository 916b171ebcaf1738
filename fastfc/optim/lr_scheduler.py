"""Schedules: objects that set the learning rate of an optimiser's groups, epoch by epoch or step by step.

Names, arguments and numbers are torch's. Most schedules work on the rate as they find it, so two of them can be stepped
one after the other, and a rate changed by hand is gone on from.
"""

import math
from bisect import bisect_right
from numbers import Real

from fastfc.layers.arguments import among, flag
from fastfc.optim.base import Optimizer

__all__ = ["CosineAnnealingLR", "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR", "OneCycleLR", "ReduceLROnPlateau",
           "SequentialLR", "StepLR"]


class LRScheduler:
    """Base of the schedules. Call ``schedule.step()`` after the optimiser's step, once an epoch (or once a step, with
    numbers that count steps).

    Parameters
    ----------
    optimizer : Optimizer
    last_epoch : int
        -1 begins anew: the groups' rates are where the schedule starts from, noted in each as ``"initial_lr"``. To go
        on with groups that have that entry: the number of the last epoch.

    Attributes
    ----------
    last_epoch : int
        Calls of `step` so far.
    base_lrs : list of float
        Where each group started from.
    """

    def __init__(self, optimizer, last_epoch=-1):
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{name}(): optimizer must be an Optimizer, got {type(optimizer).__name__}")
        if not isinstance(last_epoch, int) or last_epoch < -1:
            raise ValueError(f"{name}(): last_epoch must be an integer >= -1, got {last_epoch!r}")
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise ValueError(f"{name}(): last_epoch is {last_epoch}, but param_groups[{i}] has no 'initial_lr' "
                                 "to go on from")
        self.optimizer, self.last_epoch = optimizer, last_epoch
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self._start()

    def step(self):
        """Go on by one: set the rate of every group."""
        self.last_epoch += 1
        self._set(self._rates())

    def get_last_lr(self):
        """Return the rates as this schedule has last set them, one a group."""
        return list(self._last_lr)

    # Three ways into an epoch: the first one, one by one, and (for SequentialLR) anew from the base rates.

    def _start(self):
        self.last_epoch += 1
        self._set(self._first_rates())

    def _restart(self):
        self.last_epoch = 0
        self._set(self._rates_at())

    def _set(self, rates):
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _now(self):
        return [group["lr"] for group in self.optimizer.param_groups]

    def _first_rates(self):
        """The rates to begin with."""
        return self._rates()

    def _rates(self):
        """The rates of epoch `last_epoch`, from those of the epoch before, which the groups have."""
        raise NotImplementedError

    def _rates_at(self):
        """The rates of epoch `last_epoch`, from the base rates, where that is not the same."""
        return self._rates()

    # -- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self):
        """Return all numbers of the schedule in a dict. The rates themselves are saved by the optimiser."""
        return {name: list(value) if isinstance(value, list) else value
                for name, value in vars(self).items() if name != "optimizer" and not callable(value)}

    def load_state_dict(self, state_dict):
        """Take over what `state_dict` returned, for a schedule of the same kind; load the optimiser's state as well.

        Raises
        ------
        ValueError
            If an entry is missing. Nothing is then changed.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state_dict]
        if missing:
            raise ValueError(f"{type(self).__name__}.load_state_dict(): not the state of a {type(self).__name__}, "
                             f"missing {', '.join(missing)}")
        vars(self).update({name: list(value) if isinstance(value, list) else value
                           for name, value in state_dict.items() if name in own})


def _positive_int(where, name, value):
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"{where}: {name} must be an integer > 0, got {value!r}")
    return value


def _number(where, name, value, fine=lambda value: True, expected=""):
    """`value`, if it is a number and `fine`; `expected` says what that is."""
    if not isinstance(value, Real):
        raise TypeError(f"{where}: {name} must be a number, got {type(value).__name__}")
    if not fine(value):
        raise ValueError(f"{where}: {name} must be {expected}, got {value}")
    return value


def _list(where, name, value, what):
    try:
        return list(value)
    except TypeError:
        raise TypeError(f"{where}: {name} must be a list of {what}, got {type(value).__name__}") from None


class StepLR(LRScheduler):
    """Multiply the rate by `gamma` every `step_size` epochs.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int > 0
    gamma : float
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> opt = fastfc.optim.SGD([fastfc.Parameter(np.ones(1))], lr=1.0)
    >>> schedule = fastfc.optim.StepLR(opt, step_size=2, gamma=0.5)
    >>> rates = []
    >>> for epoch in range(5):
    ...     rates.append(opt.lr)
    ...     opt.step()
    ...     schedule.step()
    >>> rates
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer, step_size, gamma=0.1, last_epoch=-1):
        self.step_size = _positive_int("StepLR()", "step_size", step_size)
        self.gamma = _number("StepLR()", "gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _rates(self):
        falls = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return [rate * self.gamma if falls else rate for rate in self._now()]

    def _rates_at(self):
        return [base * self.gamma ** (self.last_epoch // self.step_size) for base in self.base_lrs]


class MultiStepLR(LRScheduler):
    """Multiply the rate by `gamma` at each of the epochs `milestones` (twice at one that is named twice).

    Parameters
    ----------
    optimizer : Optimizer
    milestones : iterable of int
    gamma : float
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> opt = fastfc.optim.SGD([fastfc.Parameter(np.ones(1))], lr=1.0)
    >>> schedule = fastfc.optim.MultiStepLR(opt, milestones=[1, 3], gamma=0.5)
    >>> rates = []
    >>> for epoch in range(5):
    ...     rates.append(opt.lr)
    ...     schedule.step()
    >>> rates
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    def __init__(self, optimizer, milestones, gamma=0.1, last_epoch=-1):
        milestones = _list("MultiStepLR()", "milestones", milestones, "epochs")
        self.milestones = sorted(_number("MultiStepLR()", "milestones", epoch) for epoch in milestones)
        self.gamma = _number("MultiStepLR()", "gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _rates(self):
        times = self.milestones.count(self.last_epoch)
        return [rate * self.gamma ** times if times else rate for rate in self._now()]

    def _rates_at(self):
        return [base * self.gamma ** bisect_right(self.milestones, self.last_epoch) for base in self.base_lrs]


class LambdaLR(LRScheduler):
    """The rate is the base rate times a function of the epoch.

    Parameters
    ----------
    optimizer : Optimizer
    lr_lambda : callable, or list of them, one a group
        ``lr_lambda(epoch)`` is the factor. Functions are not part of ``state_dict()``.
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> opt = fastfc.optim.SGD([fastfc.Parameter(np.ones(1))], lr=1.0)
    >>> schedule = fastfc.optim.LambdaLR(opt, lambda epoch: 1 / (1 + epoch))
    >>> schedule.step()
    >>> opt.lr
    0.5
    """

    def __init__(self, optimizer, lr_lambda, last_epoch=-1):
        groups = len(getattr(optimizer, "param_groups", ()))
        lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * groups
        if len(lambdas) != groups and isinstance(optimizer, Optimizer):
            raise ValueError(f"LambdaLR(): lr_lambda must be a function or {groups} of them, one a group, "
                             f"got {len(lambdas)}")
        for function in lambdas:
            if not callable(function):
                raise TypeError(f"LambdaLR(): lr_lambda must be callable, got {type(function).__name__}")
        self.lr_lambdas = lambdas
        super().__init__(optimizer, last_epoch)

    def _rates(self):
        return [base * function(self.last_epoch) for base, function in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self):
        """Return all numbers of the schedule in a dict, without the functions."""
        state = super().state_dict()
        del state["lr_lambdas"]
        return state


class LinearLR(LRScheduler):
    """Warm-up: the factor of the rate goes in a line from `start_factor` to `end_factor` in `total_iters` epochs.

    Parameters
    ----------
    optimizer : Optimizer
    start_factor : float in (0, 1]
    end_factor : float in [0, 1]
    total_iters : int > 0
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> opt = fastfc.optim.SGD([fastfc.Parameter(np.ones(1))], lr=1.0)
    >>> schedule = fastfc.optim.LinearLR(opt, start_factor=0.25, total_iters=3)
    >>> rates = []
    >>> for epoch in range(5):
    ...     rates.append(opt.lr)
    ...     schedule.step()
    >>> rates
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(self, optimizer, start_factor=1 / 3, end_factor=1.0, total_iters=5, last_epoch=-1):
        where = "LinearLR()"
        self.start_factor = _number(where, "start_factor", start_factor, lambda f: 0 < f <= 1, "in (0, 1]")
        self.end_factor = _number(where, "end_factor", end_factor, lambda f: 0 <= f <= 1, "in [0, 1]")
        self.total_iters = _positive_int("LinearLR()", "total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def _factor(self, epoch):
        along = min(epoch, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * along

    def _first_rates(self):
        return [rate * self.start_factor if self.last_epoch == 0 else rate for rate in self._now()]

    def _rates(self):
        if self.last_epoch > self.total_iters:
            return self._now()
        ratio = self._factor(self.last_epoch) / self._factor(self.last_epoch - 1)
        return [rate * ratio for rate in self._now()]

    def _rates_at(self):
        return [base * self._factor(self.last_epoch) for base in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """Half a wave of a cosine down from the base rate to `eta_min` in `T_max` epochs (and up again in as many) [1]_.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int > 0
    eta_min : float
    last_epoch : int
        See `LRScheduler`.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter: SGDR: Stochastic gradient descent with warm restarts. ICLR 2017.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> opt = fastfc.optim.SGD([fastfc.Parameter(np.ones(1))], lr=1.0)
    >>> schedule = fastfc.optim.CosineAnnealingLR(opt, T_max=4)
    >>> rates = []
    >>> for epoch in range(5):
    ...     rates.append(round(opt.lr, 4))
    ...     schedule.step()
    >>> rates
    [1.0, 0.8536, 0.5, 0.1464, 0.0]
    """

    def __init__(self, optimizer, T_max, eta_min=0.0, last_epoch=-1):
        self.T_max = _positive_int("CosineAnnealingLR()", "T_max", T_max)
        self.eta_min = _number("CosineAnnealingLR()", "eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def _wave(self, epoch):
        return (1 + math.cos(math.pi * epoch / self.T_max)) / 2

    def _first_rates(self):
        return self._now()

    def _rates(self):
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:
            # Up from the bottom, where the rate says nothing about its height.
            return [rate + (base - self.eta_min) * self._wave(self.last_epoch)
                    for rate, base in zip(self._now(), self.base_lrs, strict=True)]
        ratio = self._wave(self.last_epoch) / self._wave(self.last_epoch - 1)
        return [ratio * (rate - self.eta_min) + self.eta_min for rate in self._now()]

    def _rates_at(self):
        return [self.eta_min + (base - self.eta_min) * self._wave(self.last_epoch) for base in self.base_lrs]


class OneCycleLR(LRScheduler):
    """One rise of the rate to `max_lr` and one fall to nearly nothing, within a known number of steps [1]_.

    The rate goes from ``max_lr / div_factor`` up to ``max_lr`` in the first ``pct_start`` of the steps and then down to
    ``max_lr / div_factor / final_div_factor``; momentum (``betas[0]`` of Adam) goes the other way. Call `step` after
    each batch.

    Parameters
    ----------
    optimizer : Optimizer
    max_lr : float, or list of them, one a group
    total_steps : int > 0, optional
        Or else `epochs` and `steps_per_epoch`, whose product it is.
    epochs, steps_per_epoch : int > 0, optional
    pct_start : float in [0, 1]
    anneal_strategy : {"cos", "linear"}
    cycle_momentum : bool
    base_momentum, max_momentum : float, or list of them, one a group
    div_factor, final_div_factor : float > 0
    three_phase : bool
        Fall back to the first rate as fast as it rose, and only then to the last one.
    last_epoch : int
        See `LRScheduler`.

    References
    ----------
    .. [1] L. N. Smith, N. Topin: Super-convergence: Very fast training of neural networks using large learning rates.
       2017.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> opt = fastfc.optim.SGD([fastfc.Parameter(np.ones(1))], lr=1.0, momentum=0.9)
    >>> schedule = fastfc.optim.OneCycleLR(opt, max_lr=1.0, total_steps=10)
    >>> rates = [opt.lr]
    >>> for step in range(9):
    ...     schedule.step()
    ...     rates.append(opt.lr)
    >>> [round(rate, 3) for rate in rates]
    [0.04, 0.52, 1.0, 0.95, 0.812, 0.611, 0.389, 0.188, 0.05, 0.0]
    """

    def __init__(self, optimizer, max_lr, total_steps=None, epochs=None, steps_per_epoch=None, pct_start=0.3,
                 anneal_strategy="cos", cycle_momentum=True, base_momentum=0.85, max_momentum=0.95, div_factor=25.0,
                 final_div_factor=1e4, three_phase=False, last_epoch=-1):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"OneCycleLR(): optimizer must be an Optimizer, got {type(optimizer).__name__}")
        if total_steps is None and (epochs is None or steps_per_epoch is None):
            raise ValueError("OneCycleLR(): needs total_steps, or epochs and steps_per_epoch")
        if total_steps is None:
            total_steps = (_positive_int("OneCycleLR()", "epochs", epochs)
                           * _positive_int("OneCycleLR()", "steps_per_epoch", steps_per_epoch))
        self.total_steps = _positive_int("OneCycleLR()", "total_steps", total_steps)
        _number("OneCycleLR()", "pct_start", pct_start, lambda p: 0 <= p <= 1, "in [0, 1]")
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            _number("OneCycleLR()", name, value, lambda f: f > 0, "> 0")
        if not among(anneal_strategy, ("cos", "linear")):
            raise ValueError(f"OneCycleLR(): anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        cycle_momentum = flag("OneCycleLR", "cycle_momentum", cycle_momentum)
        three_phase = flag("OneCycleLR", "three_phase", three_phase)
        self.anneal_strategy, self.cycle_momentum = anneal_strategy, cycle_momentum
        # (last step, rate and momentum at its end), as names of entries of the groups.
        up = pct_start * self.total_steps - 1
        self.phases = [(up, "max_lr", "base_momentum"), (self.total_steps - 1, "min_lr", "max_momentum")]
        if three_phase:
            self.phases.insert(1, (2 * up, "initial_lr", "max_momentum"))
        if cycle_momentum and not {"momentum", "betas"} & set(optimizer.defaults):
            raise ValueError(f"OneCycleLR(): {type(optimizer).__name__} has no momentum or betas for cycle_momentum")
        peaks = self._each(optimizer, "max_lr", max_lr)
        lows, highs = (self._each(optimizer, name, value)
                       for name, value in (("base_momentum", base_momentum), ("max_momentum", max_momentum)))
        if last_epoch == -1:
            for group, peak, low, high in zip(optimizer.param_groups, peaks, lows, highs, strict=True):
                first = peak / div_factor
                group.update(initial_lr=first, max_lr=peak, min_lr=first / final_div_factor)
                if cycle_momentum:
                    group.update(max_momentum=high, base_momentum=low)
        super().__init__(optimizer, last_epoch)

    @staticmethod
    def _each(optimizer, name, value):
        values = list(value) if isinstance(value, (list, tuple)) else [value] * len(optimizer.param_groups)
        if len(values) != len(optimizer.param_groups):
            raise ValueError(f"OneCycleLR(): {name} must be a number or {len(optimizer.param_groups)} of them, "
                             f"one a group, got {len(values)}")
        return [_number("OneCycleLR()", name, value) for value in values]

    def _between(self, start, end, along):
        if self.anneal_strategy == "linear":
            return start + (end - start) * along
        return end + (start - end) / 2 * (1 + math.cos(math.pi * along))

    def _rates(self):
        if self.last_epoch > self.total_steps:
            raise ValueError(f"OneCycleLR.step(): called {self.last_epoch} times, total_steps is {self.total_steps}")
        begin, rate, momentum = 0.0, "initial_lr", "max_momentum"
        for end, next_rate, next_momentum in self.phases:
            if self.last_epoch <= end or end == self.phases[-1][0]:
                break
            begin, rate, momentum = end, next_rate, next_momentum
        along = (self.last_epoch - begin) / (end - begin) if end > begin else 1.0
        groups = self.optimizer.param_groups
        if self.cycle_momentum:
            for group in groups:
                value = self._between(group[momentum], group[next_momentum], along)
                if "betas" in group:
                    group["betas"] = (value, *group["betas"][1:])
                else:
                    group["momentum"] = value
        return [self._between(group[rate], group[next_rate], along) for group in groups]


class SequentialLR(LRScheduler):
    """One schedule after the other: the next one begins, from the base rates, at each of the epochs `milestones`.

    Parameters
    ----------
    optimizer : Optimizer
    schedulers : list of LRScheduler
        Of the same optimiser, made just before, and stepped by this one only.
    milestones : list of int, ascending
        One fewer than schedules.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> from fastfc.optim import CosineAnnealingLR, LinearLR, SequentialLR
    >>> opt = fastfc.optim.SGD([fastfc.Parameter(np.ones(1))], lr=1.0)
    >>> warm_up, decay = LinearLR(opt, start_factor=0.5, total_iters=2), CosineAnnealingLR(opt, T_max=2)
    >>> schedule = SequentialLR(opt, [warm_up, decay], milestones=[2])
    >>> rates = []
    >>> for epoch in range(5):
    ...     rates.append(round(opt.lr, 4))
    ...     schedule.step()
    >>> rates
    [0.5, 0.75, 1.0, 0.5, 0.0]
    """

    def __init__(self, optimizer, schedulers, milestones, last_epoch=-1):
        where = "SequentialLR()"
        schedulers = _list(where, "schedulers", schedulers, "schedules")
        milestones = [_number(where, "milestones", epoch) for epoch in _list(where, "milestones", milestones, "epochs")]
        if not schedulers or len(milestones) != len(schedulers) - 1:
            raise ValueError(f"SequentialLR(): needs schedulers and one milestone fewer, got {len(schedulers)} "
                             f"schedulers and {len(milestones)} milestones")
        if milestones != sorted(set(milestones)):
            raise ValueError(f"SequentialLR(): milestones must ascend, got {milestones}")
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
                raise TypeError(f"SequentialLR(): schedulers[{i}] must be a schedule that steps by itself, "
                                f"got {type(scheduler).__name__}")
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"SequentialLR(): schedulers[{i}] belongs to another optimizer")
        self._schedulers, self.milestones = schedulers, milestones
        super().__init__(optimizer, last_epoch)

    def _rewind(self):
        """Take back the first epoch, which every schedule has begun when it was made."""
        for scheduler in self._schedulers:
            if isinstance(scheduler, SequentialLR):
                scheduler._rewind()
            scheduler.last_epoch -= 1

    def _start(self):
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self._rewind()
        self.last_epoch += 1
        self._turn(lambda scheduler: scheduler._start())

    def _restart(self):
        self.last_epoch = 0
        self._turn(lambda scheduler: scheduler._restart())

    def step(self):
        """Go on by one: set the rate of every group."""
        self.last_epoch += 1
        begins = self.last_epoch in self.milestones
        self._turn(lambda scheduler: scheduler._restart() if begins else scheduler.step())

    def _turn(self, move):
        scheduler = self._schedulers[bisect_right(self.milestones, self.last_epoch)]
        move(scheduler)
        self._last_lr = scheduler.get_last_lr()

    def state_dict(self):
        """Return all numbers of the schedule and of those that it is made of."""
        return {**super().state_dict(), "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict):
        """Take over what `state_dict` returned, for the same schedules; load the optimiser's state as well.

        Raises
        ------
        ValueError
            If an entry is missing.
        """
        own = self._schedulers
        super().load_state_dict(state_dict)
        self._schedulers = own
        for scheduler, state in zip(own, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rate by `factor` when a metric has not become better for more than `patience` epochs.

    Parameters
    ----------
    optimizer : Optimizer
    mode : {"min", "max"}
        Which way is better.
    factor : float < 1
    patience : int
    threshold : float
        Better means by this much: of the best value (`threshold_mode` ``"rel"``), or in itself (``"abs"``).
    threshold_mode : {"rel", "abs"}
    cooldown : int
        Epochs after a change that are not counted.
    min_lr : float, or list of them, one a group
    eps : float
        A change smaller than this is left out.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> opt = fastfc.optim.SGD([fastfc.Parameter(np.ones(1))], lr=1.0)
    >>> schedule = fastfc.optim.ReduceLROnPlateau(opt, factor=0.5, patience=1)
    >>> rates = []
    >>> for loss in [3.0, 2.0, 2.0, 2.0, 2.0]:
    ...     schedule.step(loss)
    ...     rates.append(opt.lr)
    >>> rates
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    def __init__(self, optimizer, mode="min", factor=0.1, patience=10, threshold=1e-4, threshold_mode="rel", cooldown=0,
                 min_lr=0.0, eps=1e-8):
        name = "ReduceLROnPlateau()"
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{name}: optimizer must be an Optimizer, got {type(optimizer).__name__}")
        _number(name, "factor", factor, lambda f: f < 1, "< 1")
        for label, value in (("patience", patience), ("threshold", threshold), ("cooldown", cooldown), ("eps", eps)):
            _number(name, label, value)
        if not among(mode, ("min", "max")):
            raise ValueError(f"{name}: mode must be 'min' or 'max', got {mode!r}")
        if not among(threshold_mode, ("rel", "abs")):
            raise ValueError(f"{name}: threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        groups = len(optimizer.param_groups)
        if isinstance(min_lr, (list, tuple)) and len(min_lr) != groups:
            raise ValueError(f"{name}: min_lr must be a number or {groups} of them, one a group, got {len(min_lr)}")
        for low in min_lr if isinstance(min_lr, (list, tuple)) else [min_lr]:
            _number(name, "min_lr", low)
        self.optimizer, self.last_epoch = optimizer, 0
        self.mode, self.factor, self.patience, self.cooldown, self.eps = mode, factor, patience, cooldown, eps
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.min_lr = list(min_lr) if isinstance(min_lr, (list, tuple)) else min_lr
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = 0
        self._last_lr = self._now()

    def step(self, metrics):
        """Look at the metric of an epoch, and set the rate of every group if it is time to."""
        value = float(metrics)
        self.last_epoch += 1
        if self._better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        rates = self._now()
        if self.num_bad_epochs > self.patience:
            lowest = self.min_lr if isinstance(self.min_lr, list) else [self.min_lr] * len(rates)
            lower = [max(rate * self.factor, low) for rate, low in zip(rates, lowest, strict=True)]
            rates = [new if old - new > self.eps else old for old, new in zip(rates, lower, strict=True)]
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._set(rates)

    def _better(self, value):
        sign = 1 if self.mode == "max" else -1
        bound = self.best + sign * self.threshold
        if self.threshold_mode == "rel":
            bound = self.best * (1 + sign * self.threshold)
        return sign * value > sign * bound
