"""What every optimiser is made of: groups of parameters with their options, states, and one call of C a step."""

import contextlib
import math
from numbers import Real

import numpy as np

from fastfc import _core
from fastfc.module import Parameter, UninitializedParameter
from fastfc.sparse_grad import SparseGrad

__all__ = ["Optimizer"]


class Option:
    """An option as an attribute: reading gives what all groups agree on, assigning sets it in every group."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, optimizer, owner=None):
        if optimizer is None:
            return self
        values = [group[self.name] for group in optimizer.param_groups]
        if any(value != values[0] for value in values[1:]):
            raise AttributeError(f"{self.name} differs between the parameter groups ({', '.join(map(str, values))}); "
                                 "see param_groups")
        return values[0]

    def __set__(self, optimizer, value):
        for group in optimizer.param_groups:
            group[self.name] = value


class Optimizer:
    """Base of the optimisers: objects that change parameters in place by their gradients.

    Parameters come as one iterable (``model.parameters()``), or, to have options of their own, as groups: dicts with an
    entry ``"params"`` and any of the optimiser's options; options that a group does not name are those of the call.

    Attributes
    ----------
    param_groups : list of dict
        Each with ``"params"``, a list of Parameters, and the value of every option. Values may be changed between
        steps; they are checked by the next one. Entries with other names are kept and have no meaning here.
    state : dict
        From Parameter to dict: the arrays that belong to it, and the number of its steps.
    defaults : dict
        Options of groups that name none.

    Each option is also an attribute: reading it gives the value that all groups share (`AttributeError` if they
    differ), assigning it sets it in every group.

    Notes
    -----
    ``step()`` is one call of C for all parameters, one pass over the arrays of each. Every element takes the same fixed
    sequence of roundings, so a step gives the same bits for any number of threads and on every target that has FMA.

    Gradients add up over backward passes until `zero_grad`: to work with a batch in parts, run forward and backward for
    each part and step once. Dividing (each part's loss by their number, say) is left to the caller.

    A gradient may be a `fastfc.SparseGrad` (of an embedding) where the optimiser says so: only the rows that it names
    are read and changed then.
    """

    # A subclass names its options as attributes `Option()`, and gives what `_core.optimizer_step` asks for.
    takes_dense = True
    counts = True
    by_step = False

    def __init__(self, params, defaults):
        name = type(self).__name__
        self.defaults, self.param_groups, self.state, self._plans = defaults, [], {}, {}
        given = params
        try:
            params = None if isinstance(params, (Parameter, dict)) else list(params)
        except TypeError:
            params = None
        if params is None:
            raise TypeError(f"{name}(): params must be an iterable of Parameters, such as model.parameters(), "
                            f"or a list of dicts, got {type(given).__name__}")
        if not params:
            raise ValueError(f"{name}(): params is empty")
        self._check(f"{name}()", **defaults)
        for group in params if any(isinstance(p, dict) for p in params) else [{"params": params}]:
            self._add(f"{name}()", group)
        keep_freed_memory()

    @property
    def params(self):
        """All parameters, group after group."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def add_param_group(self, param_group):
        """Add a group of parameters.

        Parameters
        ----------
        param_group : dict
            ``"params"`` (a Parameter or an iterable of Parameters) and any options; the others are those of the call
            that made the optimiser.

        Raises
        ------
        TypeError
            If it is no dict, or ``"params"`` holds something else than Parameters.
        ValueError
            If ``"params"`` is missing or holds a Parameter that is there already, or an option is out of range.
        """
        self._add(f"{type(self).__name__}.add_param_group()", param_group)

    def _add(self, where, group):
        if not isinstance(group, dict):
            raise TypeError(f"{where}: a parameter group must be a dict with 'params', got {type(group).__name__}")
        if "params" not in group:
            raise ValueError(f"{where}: a parameter group needs an entry 'params', got {sorted(group)}")
        given, known = group["params"], self.params
        if isinstance(given, (set, frozenset)):
            raise TypeError(f"{where}: params must be in an order, got a {type(given).__name__}")
        try:
            given = [given] if isinstance(given, Parameter) else list(given)
        except TypeError:
            raise TypeError(f"{where}: params must be a Parameter or an iterable of them, "
                            f"got {type(given).__name__}") from None
        for i, parameter in enumerate(given):
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(f"{where}: params[{i}] is uninitialised; call the model on a first batch before")
            if not isinstance(parameter, Parameter):
                raise TypeError(f"{where}: params[{i}] must be a Parameter, got {type(parameter).__name__}")
        if len({*known, *given}) < len(known) + len(given):
            raise ValueError(f"{where}: params holds a Parameter twice")
        full = {**self.defaults, **group, "params": given}
        self._check(where, **{name: full[name] for name in self.defaults})
        self.param_groups.append(full)

    def zero_grad(self, set_to_none=True):
        """Forget the gradients, so that the next backward pass starts afresh.

        Parameters
        ----------
        set_to_none : bool
            True: each becomes None, and the next backward pass makes a new array. False: arrays are kept and filled
            with zeros (a SparseGrad becomes None); a parameter that no backward pass reaches then still takes steps.
        """
        if set_to_none is not True:
            flags("zero_grad()", set_to_none=set_to_none)
        for group in self.param_groups:
            if set_to_none:
                _core.clear_grads(group["params"])
                continue
            for parameter in group["params"]:
                if isinstance(parameter.grad, np.ndarray):
                    parameter.grad.fill(0)
                else:
                    parameter.clear_grad()

    def step(self):
        """Update, in place, every parameter that has a gradient.

        Raises
        ------
        TypeError
            If a gradient is neither an array nor a SparseGrad, or a SparseGrad that this optimiser cannot take.
        ValueError
            If a parameter is read-only (call ``model.train()``), its gradient is of another shape or dtype, or an
            option is out of range. No parameter and no state is changed by a call that raises.
        """
        _core.optimizer_step(self)

    def __getstate__(self):
        return {**vars(self), "_plans": {}}

    # -- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self):
        """Return options and states as copies, in torch's form: ``{"state": ..., "param_groups": [...]}``.

        Parameters are known by their number, counted over all groups.
        """
        params = self.params
        state = {i: {name: value.copy() if isinstance(value, np.ndarray) else value
                     for name, value in self.state[parameter].items()}
                 for i, parameter in enumerate(params) if self.state.get(parameter)}
        number = {parameter: i for i, parameter in enumerate(params)}
        groups = [{**group, "params": [number[p] for p in group["params"]]} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict):
        """Replace options and states by copies of what `state_dict` returned, here or in torch.

        Tensors on the CPU are taken as arrays are. Options that the saved groups lack keep their values, but ``"lr"``
        may not be missing; entries that are no options are kept (schedules have some).

        Raises
        ------
        ValueError
            If it belongs to other parameters or another optimiser, or an option is out of range. Nothing is then
            changed.
        """
        where = f"{type(self).__name__}.load_state_dict()"
        try:
            saved = [{"lr": group["lr"], **group} for group in state_dict["param_groups"]]
            numbers = [number for group in saved for number in group["params"]]
            states = {number: dict(slots) for number, slots in state_dict["state"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: not the state of a {type(self).__name__}: {error!r}") from None
        if len(saved) != len(self.param_groups):
            raise ValueError(f"{where}: expected {len(self.param_groups)} parameter groups, got {len(saved)}")
        groups, place = [], {}
        for old, new in zip(self.param_groups, saved, strict=True):
            if len(new["params"]) != len(old["params"]):
                raise ValueError(f"{where}: expected {len(old['params'])} parameters, got {len(new['params'])}")
            options = {name: tuple(value) if isinstance(value, list) else value for name, value in new.items()}
            group = {**{name: old[name] for name in self.defaults}, **options, "params": old["params"]}
            self._check(where, **{name: group[name] for name in self.defaults})
            groups.append(group)
            for number, parameter in zip(new["params"], old["params"], strict=True):
                place[number] = parameter, group
        if len(place) != len(numbers):
            raise ValueError(f"{where}: param_groups name a parameter twice")
        state = {}
        for number, slots in states.items():
            loaded = {}
            for name, value in slots.items():
                if number not in place or name not in self._known_states:
                    raise ValueError(f"{where}: unexpected state[{number!r}][{name!r}]")
                if value is not None:
                    loaded[name] = self._loaded(f"{where}: ", number, name, np.asarray(value), place[number][0].data)
            if not loaded:
                continue
            parameter, group = place[number]
            for name in (*self._plan(group), *(["step"] if self.counts else [])):
                if name is not None and name not in loaded:
                    raise ValueError(f"{where}: state[{number!r}][{name!r}] is missing")
            state[parameter] = loaded
        self.param_groups[:], self.state = groups, state

    @property
    def _known_states(self):
        return (*self.slots, "step") if self.counts else self.slots

    def _loaded(self, where, number, name, value, data):
        if name == "step":
            if value.size != 1 or not float(value.item()).is_integer() or value.item() < 0:
                raise ValueError(f"{where}expected state[{number!r}]['step'] to be a number of steps, got {value}")
            return int(value.item())
        if value.shape != data.shape:
            raise ValueError(f"{where}expected state[{number!r}][{name!r}] of shape {data.shape}, got {value.shape}")
        if value.dtype.kind != "f":
            raise ValueError(f"{where}expected state[{number!r}][{name!r}] of floats, got {value.dtype}")
        return np.array(value, dtype=data.dtype, order="C")

    # -- what a step asks for, see _core.optimizer_step -------------------------------------------------------------

    def _check(self, where, **options):
        """Raise an error that begins with `where` if an option is out of range."""
        raise NotImplementedError

    def _check_now(self, group):
        """The same for options as they stand in a group, before a step."""
        self._check(f"{type(self).__name__}.step()", **{name: group[name] for name in self.defaults})

    def _plan(self, group):
        """Names of the states that the rule uses with the options of this group, in its order; None: does without."""
        raise NotImplementedError

    def _rule(self, group, step):
        """The rule of a parameter's step number `step` (unless `by_step`: 1 where a state is new, else 2)."""
        raise NotImplementedError

    def _begin(self, group, name, data):
        """A state as it is before the first step."""
        return np.zeros(data.shape, data.dtype)

    def _sparse_problem(self, group):
        """Why a SparseGrad cannot be taken with these options, or None."""
        return f"{type(self).__name__} does not take sparse gradients; SGD, Adagrad and SparseAdam do"

    def _read_only(self, place):
        raise ValueError(f"{type(self).__name__}.step(): params[{place}] is read-only, because the model is in eval(); "
                         "call model.train() first")

    def _bad_state(self, place, name):
        raise ValueError(f"{type(self).__name__}.step(): state of params[{place}]: {name!r} must be a writeable, "
                         "C-contiguous array of the parameter's shape and dtype")

    def _unusual(self, place, parameter, group):
        """The gradient as a contiguous array, or rows and values of a sparse one."""
        where, data, grad = f"{type(self).__name__}.step()", parameter.data, parameter.grad
        sparse = isinstance(grad, SparseGrad)
        if not sparse and not isinstance(grad, np.ndarray):
            raise TypeError(f"{where}: params[{place}].grad must be an array or a SparseGrad, "
                            f"got {type(grad).__name__}")
        if grad.shape != data.shape or grad.dtype != data.dtype:
            raise ValueError(f"{where}: params[{place}].grad must be {data.dtype} of shape {data.shape}, "
                             f"got {grad.dtype} of shape {grad.shape}")
        if not sparse:
            if not self.takes_dense:
                raise TypeError(f"{where}: params[{place}].grad is dense, expected a SparseGrad")
            return np.require(np.asarray(grad), requirements="CA")
        problem = self._sparse_problem(group)
        if problem:
            raise TypeError(f"{where}: params[{place}].grad is a SparseGrad: {problem}")
        once = grad.coalesce()
        # The rows are a copy: nobody else can change them while C goes by them.
        return np.array(once.indices), np.require(np.asarray(once.values), requirements="CA")

    def __repr__(self):
        lines = []
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([f"{type(self).__name__} (", *lines, ")"])


def keep_freed_memory():
    """Have the C library keep what a step frees for the next one, which needs it again.

    glibc hands the free end of its heap back to the system, and to fault the same pages in anew costs up to an eighth
    of a step. How much it keeps follows from the largest block that it has seen freed, up to 32 MiB: twice as much.
    """
    with contextlib.suppress(MemoryError):
        np.empty(31 << 20, np.uint8)  # never touched, so that it takes no memory


def not_negative(where, **numbers):
    """Refuse what is no finite number >= 0."""
    for name, value in numbers.items():
        try:
            fine = value >= 0 and math.isfinite(value)
        except (TypeError, ValueError, OverflowError):  # an array, or an integer beyond all floats
            raise TypeError(f"{where}: {name} must be a number, got {value!r}") from None
        if not fine:
            raise ValueError(f"{where}: {name} must be finite and >= 0, got {value}")


def flags(where, **values):
    """Refuse what is neither true nor false, an array."""
    for name, value in values.items():
        try:
            bool(value)
        except (TypeError, ValueError):
            raise TypeError(f"{where}: {name} must be a bool, got {type(value).__name__}") from None


def betas_in_range(where, betas):
    if not (isinstance(betas, (tuple, list)) and len(betas) == 2
            and all(isinstance(beta, Real) and 0 <= beta < 1 for beta in betas)):
        raise ValueError(f"{where}: betas must be two numbers in [0, 1), got {betas}")
