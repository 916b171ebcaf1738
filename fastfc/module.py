"""What every layer is made of: `Parameter`, an array with its gradient, and `Module`, a named tree of them.

The one subtle rule lives here. In ``eval()`` a parameter's array is immutable and its packed form is made from
that very array; both are replaced together or not at all. So a pack that disagrees with its weight cannot exist.
"""

import copy
import operator
from collections import namedtuple
from collections.abc import Mapping

import numpy as np

from fastfc._core import Trainable, clear_grads
from fastfc.arrays import array_of, copied, immutable

__all__ = ["Module", "Parameter", "UninitializedParameter"]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

LoadResult = namedtuple("LoadResult", "missing_keys unexpected_keys")


def float_dtype(layer, dtype):
    try:
        known = None if dtype is None else np.dtype(dtype)  # numpy's None is float64
    except (TypeError, ValueError):
        known = None
    if known is None or known not in FLOATS:  # in which None is, because numpy says that float64 == None
        raise TypeError(f"{layer}(): dtype must be float32 or float64, got {repr(dtype) if known is None else known}")
    return known


class Parameter(Trainable):
    """An array that is trained, and the gradient of the loss with respect to it.

    Parameters
    ----------
    data : ndarray of float32 or float64
        The values. The array is taken as it is, not copied, if it is C-contiguous, aligned and
        writeable.
    packer : callable, optional
        Turns the array into the form that inference multiplies by, such as `fastfc.pack`; used in ``eval()``.

    Attributes
    ----------
    data : ndarray
        The values. Assign an array of the same shape and dtype to replace them: in ``train()`` that array is
        taken as above; in ``eval()`` it is copied into a read-only array and packed anew.
    grad : ndarray or None
        The gradient, of the shape and dtype of `data`; a backward pass adds to it, or sets it if it is None. After
        `clear_grad` in ``train()`` its memory waits for the next gradient, unless somebody else holds the array.
    operand : ndarray or packed weight
        What a product multiplies by: the packed form in ``eval()``, if there is one, otherwise `data`.
    frozen : bool
        Whether `data` is immutable, as in ``eval()``.
    shape, dtype
        Those of `data`.

    Raises
    ------
    TypeError
        If `data` is not an ndarray, or of another dtype than expected.
    ValueError
        If an array assigned to `data` has another shape.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.Parameter(np.zeros((2, 3), dtype=np.float32))
    >>> p.data = np.ones((2, 3), dtype=np.float32)
    >>> p
    Parameter(shape=(2, 3), dtype=float32)
    >>> p.grad is None
    True
    """

    # Where a pass reads it often, at C speed: `_data`, `_operand`, `_frozen`, `grad` and `_spare` are the base's.
    __slots__ = ("__weakref__", "_packer")

    def __init__(self, data, *, packer=None):
        if not isinstance(data, np.ndarray):
            raise TypeError(f"Parameter(): data must be a numpy array, got {type(data).__name__}")
        if data.dtype not in FLOATS:
            raise TypeError(f"Parameter(): data must be float32 or float64, got {data.dtype}")
        self._packer = packer
        self._frozen = False
        self.grad = self._spare = None
        self._commit(self._stage(data))

    def _assign(self, array):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"Parameter.data: expected a numpy array, got {type(array).__name__}")
        if array.shape != self._data.shape:
            raise ValueError(f"Parameter.data: expected shape {self._data.shape}, got {array.shape}")
        if array.dtype != self._data.dtype:
            raise TypeError(f"Parameter.data: expected dtype {self._data.dtype}, got {array.dtype}")
        self._commit(self._stage(array))

    # Read several times in each pass: a getter in C takes half the time of one in Python.
    data = property(operator.attrgetter("_data"), _assign)
    operand = property(operator.attrgetter("_operand"))
    frozen = property(operator.attrgetter("_frozen"))
    shape = property(operator.attrgetter("_data.shape"))
    dtype = property(operator.attrgetter("_data.dtype"))

    def freeze(self):
        """Move the values into a fresh read-only array and pack that. `Module.eval` calls this."""
        if not self._frozen:
            self._commit(self._stage(self._data, frozen=True))
            self._frozen, self._spare = True, None

    def thaw(self):
        """Drop the pack and move the values into a fresh writeable array. `Module.train` calls this."""
        if self._frozen:
            data = copied(self._data)
            self._commit((data, data))
            self._frozen = False

    def pack_with(self, packer):
        """Turn the array into another form from now on (see `packer`); None: into none."""
        frozen = self._frozen
        self.thaw()
        self._packer = packer
        if frozen:
            self.freeze()

    # A change has two halves, so that all that can fail (memory, packing) is over before anything is replaced.

    def _stage(self, array, frozen=None):
        if self._frozen if frozen is None else frozen:
            array = immutable(array)
            return array, array if self._packer is None else self._packer(array)
        array = np.require(np.asarray(array), requirements="CAW")
        return array, array

    def _commit(self, staged):
        self._data, self._operand = staged

    def __getstate__(self):
        return {"data": self._data, "grad": self.grad, "packer": self._packer, "frozen": self._frozen}

    def __setstate__(self, state):
        # The pack is made again: it belongs to the kernels of the machine that it was made on.
        self.grad, self._packer, self._frozen, self._spare = state["grad"], state["packer"], state["frozen"], None
        self._commit(self._stage(state["data"]))

    def add_grad(self, grad):
        """Add the array `grad`, which nobody else may hold, to the gradient."""
        if self.grad is None:
            self.grad = grad
        else:
            self.grad += grad

    def __repr__(self):
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"


class UninitializedParameter(Parameter):
    """A parameter that has no values yet, because its shape follows from the first batch (`LazyLinear`).

    Reading its values raises. Assigning an array to `data`, or loading a state, turns this very object into a
    `Parameter`, so that whoever holds it need not look for another.

    Parameters
    ----------
    shape : tuple of int or None
        None stands for a length that is not known yet.
    dtype : float32 or float64
    packer : callable, optional
        As for `Parameter`.

    Raises
    ------
    ValueError
        If its values are read, or an array of another shape is assigned.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> p = fastfc.UninitializedParameter((3, None), np.float32)
    >>> p
    UninitializedParameter(shape=(3, None), dtype=float32)
    >>> p.data = np.zeros((3, 5), dtype=np.float32)
    >>> p
    Parameter(shape=(3, 5), dtype=float32)
    """

    __slots__ = ()  # of the layout of Parameter, which it becomes

    def __init__(self, shape, dtype, *, packer=None):
        self.grad, self._packer, self._frozen, self._spare = None, packer, False, None
        dtype = float_dtype("UninitializedParameter", dtype)
        if not isinstance(shape, tuple) or not all(n is None or isinstance(n, int | np.integer) for n in shape):
            raise TypeError(f"UninitializedParameter(): shape must be a tuple of integers or None, got {shape!r}")
        self._data = shape, dtype

    shape = property(lambda self: self._data[0])
    dtype = property(lambda self: self._data[1])

    def _no_values(self, *_, **__):
        raise ValueError("this parameter is uninitialised, its shape follows from the first batch: call the model on "
                         "one, or load a state, before its values are used")

    def _assign(self, array):
        if not isinstance(array, np.ndarray) or array.dtype != self.dtype or not fits(array.shape, self.shape):
            got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"Parameter.data: expected {self.dtype} of shape {self.shape}, got {got}")
        self._commit(self._stage(array))

    data = property(_no_values, _assign)
    operand = property(_no_values)
    __array__ = _no_values

    def freeze(self):
        self._frozen = True

    def thaw(self):
        self._frozen = False

    def _commit(self, staged):
        self.__class__ = Parameter
        self._commit(staged)

    def __setstate__(self, state):
        self.grad, self._packer, self._frozen, self._spare = state["grad"], state["packer"], state["frozen"], None
        self._data = state["data"]


class Module:
    """Base of layers and models: finds the parameters, saves and loads them, switches between train and eval.

    A subclass assigns `Parameter` and `Module` objects to attributes, and defines ``__call__(x)``, which returns y,
    and ``vjp(x)``, which returns ``(y, backward)``. ``backward(grad_y, needs_input_grad=True)`` adds to the ``grad``
    of each parameter and returns the gradient of the loss with respect to x (None if it is not needed).
    Attributes named in `buffers` are arrays that belong to the state but are not trained. A layer that maps
    ``in_features`` to ``out_features`` has attributes of these names, one whose y is as wide as its x sets
    `keeps_width`; `Sequential` goes by them when it checks that its layers fit.

    Notes
    -----
    ``eval()`` trades memory for speed: each weight that is multiplied by is then held twice, as a read-only
    array and packed. A model in ``eval()`` may be called by several threads at once.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> class Residual(fastfc.Module):
    ...     def __init__(self, width):
    ...         self.fc = fastfc.Linear(width, width, rng=0)
    ...     def __call__(self, x):
    ...         return x + self.fc(x)
    >>> model = Residual(4)
    >>> [name for name, _ in model.named_parameters()]
    ['fc.weight', 'fc.bias']
    >>> model(np.ones((2, 4), dtype=np.float32)).shape
    (2, 4)
    """

    training = True
    buffers = ()
    keeps_width = False

    def __call__(self, x):
        raise NotImplementedError(f"{type(self).__name__} defines no __call__(x)")

    def vjp(self, x):
        """Return ``(y, backward)``; see the class."""
        raise NotImplementedError(f"{type(self).__name__} defines no vjp(x)")

    # -- the tree -------------------------------------------------------------------------------------------------

    def named_children(self):
        """Iterate over ``(name, module)`` of the modules directly below this one."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def modules(self):
        """Iterate over this module and all below it, each once."""
        seen, stack = set(), [self]
        while stack:
            module = stack.pop()
            if module not in seen:
                seen.add(module)
                yield module
                stack.extend(reversed([child for _, child in module.named_children()]))

    def named_parameters(self):
        """Iterate over ``(name, parameter)``, names dotted and in torch's order, a shared parameter once.

        Examples
        --------
        >>> import fastfc
        >>> model = fastfc.Sequential(fastfc.Linear(4, 3), fastfc.ReLU(), fastfc.Linear(3, 2, bias=False))
        >>> [name for name, _ in model.named_parameters()]
        ['0.weight', '0.bias', '2.weight']
        """
        seen = set()
        for name, module, attribute in self._entries():
            value = getattr(module, attribute)
            if isinstance(value, Parameter) and value not in seen:
                seen.add(value)
                yield name, value

    def parameters(self):
        """Iterate over the parameters, in the order of `named_parameters`."""
        return (parameter for _, parameter in self.named_parameters())

    def has_uninitialized_params(self):
        """Whether a parameter of this module or below waits for the first batch to learn its shape."""
        return any(isinstance(parameter, UninitializedParameter) for parameter in self.parameters())

    def zero_grad(self):
        """Set the gradient of each parameter to None, as torch does: the next backward pass starts afresh."""
        clear_grads(self.parameters())

    def _entries(self, prefix=""):
        """Name, module and attribute of each array of the state: parameters, buffers, then those of children."""
        for attribute, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + attribute, self, attribute
        for attribute in self.buffers:
            yield prefix + attribute, self, attribute
        for name, child in self.named_children():
            yield from child._entries(f"{prefix}{name}.")

    # -- mode -----------------------------------------------------------------------------------------------------

    def train(self, mode=True):
        """Make the parameters writeable and drop the packed weights; ``train(False)`` is `eval`. Returns self.

        The values move into fresh arrays: views taken in ``eval()`` stay read-only and keep their values.
        """
        for module in self.modules():
            module.training = bool(mode)
        for parameter in self.parameters():
            parameter.thaw() if mode else parameter.freeze()
        return self

    def eval(self):
        """Pack the weights and move the parameters into fresh read-only arrays. Returns self.

        Views taken earlier no longer belong to the model. Writing into a parameter now raises numpy's
        ``ValueError``; assigning ``parameter.data`` and `load_state_dict` stay possible and pack anew.

        Examples
        --------
        >>> import fastfc
        >>> layer = fastfc.Linear(3, 2).eval()
        >>> layer.weight.data[0, 0] = 1.0
        Traceback (most recent call last):
            ...
        ValueError: assignment destination is read-only
        """
        return self.train(False)

    # -- state ----------------------------------------------------------------------------------------------------

    def state_dict(self):
        """Return a dict from dotted names to arrays, with torch's names, order and shapes.

        The arrays are writeable copies (torch's share memory with the model): a saved state stays as it was. For
        a parameter that waits for the first batch there is an `UninitializedParameter`, as in torch.
        """
        return {name: _saved(getattr(module, attribute)) for name, module, attribute in self._entries()}

    def load_state_dict(self, state_dict, strict=True):
        """Replace the parameters and buffers by copies of the arrays in `state_dict`.

        Floating-point arrays are converted to the parameter's dtype, as in torch; so are integers for a buffer of
        integers. In ``eval()`` the weights are packed anew. The values move into fresh arrays. A layer that waits
        for its first batch takes its shape from the state, or goes on waiting if it is uninitialised there too.

        Parameters
        ----------
        state_dict : mapping from str to array_like
            As `state_dict` returns it; whatever ``numpy.asarray`` takes, so tensors on the CPU too.
        strict : bool
            False: missing and unexpected names are no error.

        Returns
        -------
        namedtuple of missing_keys, unexpected_keys : lists of str

        Raises
        ------
        TypeError
            If `state_dict` is not a mapping.
        ValueError
            Lists all names that are missing or unexpected (if `strict`) and all arrays of a wrong shape, kind of
            dtype or structure. The model is then left as it was.

        Examples
        --------
        >>> import fastfc
        >>> a, b = fastfc.Linear(3, 2, rng=0), fastfc.Linear(3, 2, rng=1)
        >>> b.load_state_dict(a.state_dict())
        LoadResult(missing_keys=[], unexpected_keys=[])
        >>> bool((a.weight.data == b.weight.data).all())
        True
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_state_dict(): state_dict must be a mapping, got {type(state_dict).__name__}")
        if isinstance(strict, np.ndarray):
            raise TypeError("load_state_dict(): strict must be a bool, got ndarray")
        missing, wrong, known, fresh = [], [], set(), {}
        for name, module, attribute in self._entries():
            known.add(name)
            if name not in state_dict:
                missing.append(name)
                continue
            old, new = getattr(module, attribute), state_dict[name]
            if isinstance(new, UninitializedParameter):
                if not isinstance(old, UninitializedParameter):
                    wrong.append(f"{name}: expected shape {old.shape}, got an uninitialised parameter")
                continue
            try:
                new = array_of(name, new)
            except (TypeError, ValueError) as error:
                wrong.append(str(error))
                continue
            if not fits(new.shape, old.shape):
                wrong.append(f"{name}: expected shape {old.shape}, got {new.shape}")
            elif not _converts(new, old.dtype):
                wrong.append(f"{name}: expected dtype {old.dtype}, got {new.dtype}")
            else:
                prefix = name.removesuffix(attribute)
                fresh.setdefault(module, (prefix, {}))[1][attribute] = np.array(new, dtype=old.dtype, order="C")
        unexpected = [name for name in state_dict if name not in known]
        for module, (prefix, arrays) in fresh.items():
            wrong.extend(f"{prefix}{problem}" for problem in module._problems(arrays))

        lines = wrong
        if strict:
            lines = [f"{name}: missing" for name in missing]
            lines += [f"{name}: unexpected" for name in unexpected] + wrong
        if lines:
            raise ValueError("load_state_dict(): nothing was loaded, because of\n  " + "\n  ".join(lines))

        staged, buffers = [], []
        for module, (_, arrays) in fresh.items():
            parameters = {name: value for name, value in vars(module).items() if isinstance(value, Parameter)}
            staged += [(parameters[name], parameters[name]._stage(arrays[name])) for name in parameters.keys() & arrays]
            buffers.append((module, {name: immutable(arrays[name]) for name in arrays.keys() - parameters}))
        for parameter, new in staged:
            parameter._commit(new)
        for module, arrays in buffers:
            module._replace_buffers(arrays)
            module._loaded()
        return LoadResult(missing, unexpected)

    def _problems(self, arrays):
        """What is wrong with loading `arrays` (attribute to array, shapes and dtypes checked), as lines of text."""
        return ()

    def _replace_buffers(self, arrays):
        """Set buffers to fresh immutable arrays (name to array) that have passed `_problems`."""
        vars(self).update(arrays)

    def _loaded(self):
        """Called when arrays of this module have been loaded."""

    # -- text -----------------------------------------------------------------------------------------------------

    def extra_repr(self):
        """What stands between the brackets of ``repr``, or on its own line before the children."""
        return ""

    def __repr__(self):
        extra = self.extra_repr()
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        inside = "\n  " + "\n  ".join([extra, *lines] if extra else lines) + "\n" if lines else extra
        return f"{type(self).__name__}({inside})"


def fits(shape, expected):
    """Whether a shape is the expected one, in which None stands for any length."""
    return len(shape) == len(expected) and all(b is None or a == b for a, b in zip(shape, expected, strict=True))


def _saved(value):
    if isinstance(value, UninitializedParameter):
        return copy.copy(value)
    return (value.data if isinstance(value, Parameter) else value).copy()


def _converts(array, dtype):
    """Whether load_state_dict takes `array` for `dtype`: floats for floats, integers that fit for integers, and for
    bools whatever is 0 or 1 throughout."""
    if dtype.kind == "f":
        return array.dtype.kind == "f"
    if dtype.kind == "b":
        return array.dtype.kind in "biuf" and bool(((array == 0) | (array == 1)).all())
    if array.dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return array.size == 0 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max)
