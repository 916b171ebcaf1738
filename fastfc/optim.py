"""Optimisers: objects that change parameters in place by their gradients, with torch's update rules."""

import math

import numpy as np

from fastfc.module import Parameter, UninitializedParameter

__all__ = ["SGD"]

# Elements updated at a time: the scratch array and the slices in work then stay in the L2 cache (128 KiB each in
# float32), so a step reads and writes main memory once, whatever the number of passes.
CHUNK = 1 << 15


class Optimizer:
    """What optimisers share: the list of parameters, the checks before a step, saving and loading.

    A subclass names its numbers in `settings` and its arrays per parameter in `slots`.
    """

    settings = ()
    slots = ()

    def __init__(self, params):
        name = type(self).__name__
        if isinstance(params, Parameter) or not hasattr(params, "__iter__"):
            raise TypeError(f"{name}(): params must be an iterable of Parameters, such as model.parameters(), "
                            f"got {type(params).__name__}")
        self.params = list(params)
        if not self.params:
            raise ValueError(f"{name}(): params is empty")
        for i, parameter in enumerate(self.params):
            if not isinstance(parameter, Parameter):
                raise TypeError(f"{name}(): params[{i}] must be a Parameter, got {type(parameter).__name__}")
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(f"{name}(): params[{i}] is uninitialised; call the model on a first batch before")
        if len(set(self.params)) < len(self.params):
            raise ValueError(f"{name}(): params holds a Parameter twice")
        self._state = [dict.fromkeys(self.slots) for _ in self.params]

    def zero_grad(self):
        """Set the gradient of each parameter to None, as torch does: the next backward pass starts afresh."""
        for parameter in self.params:
            parameter.grad = None

    def state_dict(self):
        """Return settings and arrays as copies, in torch's form: ``{"state": ..., "param_groups": [...]}``.

        Parameters are known by their number in the list that the optimiser was made with.
        """
        state = {i: {slot: array.copy() for slot, array in arrays.items() if array is not None}
                 for i, arrays in enumerate(self._state)}
        group = {name: getattr(self, name) for name in self.settings}
        return {"state": {i: arrays for i, arrays in state.items() if arrays},
                "param_groups": [{**group, "params": list(range(len(self.params)))}]}

    def load_state_dict(self, state_dict):
        """Replace settings and arrays by copies of what `state_dict` returned.

        Raises
        ------
        ValueError
            If it belongs to other parameters or another optimiser. Nothing is then changed.
        """
        name = type(self).__name__
        try:
            (group,) = state_dict["param_groups"]
            settings = {key: group[key] for key in self.settings}
            count, arrays = len(group["params"]), state_dict["state"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name}.load_state_dict(): not the state of a {name}: {error!r}") from None
        if count != len(self.params):
            raise ValueError(f"{name}.load_state_dict(): expected {len(self.params)} parameters, got {count}")
        self._check_settings(**settings)
        fresh = [dict.fromkeys(self.slots) for _ in self.params]
        for i, slots in arrays.items():
            for slot, array in slots.items():
                if i not in range(count) or slot not in self.slots:
                    raise ValueError(f"{name}.load_state_dict(): unexpected state[{i!r}][{slot!r}]")
                array, data = None if array is None else np.asarray(array), self.params[i].data
                if array is not None and array.shape != data.shape:
                    raise ValueError(f"{name}.load_state_dict(): expected state[{i}][{slot!r}] of shape "
                                     f"{data.shape}, got {array.shape}")
                fresh[i][slot] = None if array is None else np.array(array, dtype=data.dtype, order="C")
        self._state = fresh
        vars(self).update(settings)

    def _work(self):
        """The parameters that have a gradient, with their arrays; all checked before any is written."""
        work = []
        for i, (parameter, state) in enumerate(zip(self.params, self._state, strict=True)):
            data, grad = parameter.data, parameter.grad
            if grad is None:
                continue
            if not data.flags.writeable:
                raise ValueError(f"{type(self).__name__}.step(): params[{i}] is read-only, because the model is "
                                 "in eval(); call model.train() first")
            if grad.shape != data.shape or grad.dtype != data.dtype:
                raise ValueError(f"{type(self).__name__}.step(): params[{i}].grad must be {data.dtype} of shape "
                                 f"{data.shape}, got {grad.dtype} of shape {grad.shape}")
            work.append((data, grad, state))
        return work


class SGD(Optimizer):
    """Stochastic gradient descent, with torch's rule.

    ::

        g = grad + weight_decay · w
        v = momentum · v + g        (v = g in the first step)
        w = w - lr · v              (with nesterov: w - lr · (g + momentum · v))

    Parameters
    ----------
    params : iterable of Parameter
        Such as ``model.parameters()``.
    lr : float >= 0
        Learning rate. It, `momentum` and `weight_decay` are attributes that may be changed between steps.
    momentum : float >= 0
    weight_decay : float >= 0
    nesterov : bool
        Needs a momentum > 0.

    Raises
    ------
    TypeError
        If `params` is not an iterable of Parameters.
    ValueError
        If `params` is empty or holds one twice, or a number is out of range.

    References
    ----------
    .. [1] I. Sutskever, J. Martens, G. Dahl, G. Hinton: On the importance of initialization and momentum in deep
       learning. ICML 2013. As torch has it, the learning rate multiplies v rather than g.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.Parameter(np.ones(2, dtype=np.float32))
    >>> opt = fastfc.optim.SGD([p], lr=0.5)
    >>> p.grad = np.float32([1, -1])
    >>> opt.step()
    >>> p.data
    array([0.5, 1.5], dtype=float32)
    """

    settings = ("lr", "momentum", "weight_decay", "nesterov")
    slots = ("momentum_buffer",)

    def __init__(self, params, lr, momentum=0.0, *, weight_decay=0.0, nesterov=False):
        self._check_settings(lr, momentum, weight_decay, nesterov)
        super().__init__(params)
        self.lr, self.momentum, self.weight_decay, self.nesterov = lr, momentum, weight_decay, bool(nesterov)
        self._scratch = {}

    @staticmethod
    def _check_settings(lr, momentum, weight_decay, nesterov):
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"SGD(): {name} must be finite and >= 0, got {value}")
        if nesterov and not momentum > 0:
            raise ValueError(f"SGD(): nesterov needs a momentum > 0, got {momentum}")

    def step(self):
        """Update, in place, every parameter that has a gradient.

        Raises
        ------
        ValueError
            If a parameter is read-only (call ``model.train()``), or its gradient is of another shape or dtype;
            no parameter is then changed.
        """
        # Python floats, so that a numpy scalar given as lr does not turn float32 work into float64 work.
        lr, momentum, decay = float(self.lr), float(self.momentum), float(self.weight_decay)
        for data, grad, state in self._work():
            first = momentum != 0 and state["momentum_buffer"] is None
            if first:
                state["momentum_buffer"] = np.empty_like(data)
            velocity = state["momentum_buffer"] if momentum else None
            w, g = data.reshape(-1), grad.reshape(-1)
            v = None if velocity is None else velocity.reshape(-1)
            scratch = self._scratch_for(data.dtype)
            for start in range(0, w.size, CHUNK):
                part = slice(start, start + CHUNK)
                self._update(w[part], g[part], None if v is None else v[part], scratch, lr, momentum, decay, first)

    def _update(self, w, g, v, scratch, lr, momentum, decay, first):
        scratch = scratch[:w.size]
        if decay:
            np.multiply(w, decay, out=scratch)
            g = np.add(g, scratch, out=scratch)
        if v is None:
            step = g
        elif first:
            v[...] = g
            step = v
        else:
            v *= momentum
            v += g
            step = v
        if self.nesterov and v is not None:
            step = np.add(g, np.multiply(v, momentum), out=scratch)
        np.multiply(step, lr, out=scratch)
        w -= scratch

    def _scratch_for(self, dtype):
        scratch = self._scratch.get(dtype)
        if scratch is None:
            scratch = self._scratch[dtype] = np.empty(CHUNK, dtype)
        return scratch
