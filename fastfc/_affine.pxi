# Parameters as C code reads them, and the two passes of an affine layer: a small layer takes no longer than a few calls of
# Python.

from cpython.ref cimport Py_REFCNT


@cython.auto_pickle(False)
cdef class Trainable:
    """What a pass and an optimiser read and write of a `fastfc.Parameter`, which says what it all means."""
    cdef public object _data, _operand, grad, _spare
    cdef public bint _frozen

    cpdef clear_grad(self):
        """Set `grad` to None."""
        grad = self.grad
        self.grad = None
        # To fault in fresh pages costs as much as half the optimiser's step. One reference is ours.
        if isinstance(grad, cnp.ndarray) and not self._frozen and Py_REFCNT(grad) == 1 and \
                cnp.PyArray_CHKFLAGS(grad, cnp.NPY_ARRAY_OWNDATA):
            self._spare = grad

    cpdef take_spare(self):
        """An array of the shape and dtype of `data` with any values in it, to become the gradient; or None."""
        spare = self._spare
        self._spare = None
        return spare


cdef Trainable trainable(object parameter):
    """`parameter` itself, which is one and not None."""
    if not isinstance(parameter, Trainable):
        raise TypeError(f"expected a Parameter, got {type(parameter).__name__}")
    return parameter


def clear_grads(parameters):
    """Set the gradient of each to None."""
    for parameter in parameters:
        trainable(parameter).clear_grad()


cpdef tuple needs_of(bias, bint needs_input_grad):
    """The gradients to compute, as linear_backward calls them."""
    if bias is None:
        return ("x", "weight") if needs_input_grad else ("weight",)
    return ("x", "weight", "bias") if needs_input_grad else ("weight", "bias")


@cython.final
@cython.freelist(8)
cdef class AffineBackward:
    """The backward pass of an affine layer, with what it needs of the forward pass."""
    cdef object x, matrix, activation, z
    cdef Trainable weight, bias

    def __call__(self, grad_y, bint needs_input_grad=True):
        return self.run(grad_y, needs_input_grad, False)

    cdef object run(self, grad_y, bint needs_input_grad, bint overwrite):
        """`overwrite`: grad_y may be, because nobody else will read it."""
        cdef Trainable weight = self.weight, bias = self.bias
        old_w, old_b = weight.grad, None if bias is None else bias.grad
        cdef bint accumulate = old_w is not None or old_b is not None
        if not accumulate:
            old_w, old_b = weight.take_spare(), None if bias is None else bias.take_spare()
        grad_x, grad_w, grad_b = run_backward(
            grad_y, self.x, self.matrix, self.activation, self.z, needs_of(bias, needs_input_grad), (None, old_w, old_b),
            accumulate, None, overwrite)
        weight.grad = grad_w
        if bias is not None:
            bias.grad = grad_b
        return grad_x


def affine_vjp(x, operand, matrix, Trainable weight not None, Trainable bias, activation, bint hidden=False):
    """``act(x Wᵀ + b)`` and its backward pass, which adds to the gradients of the parameters `weight` and `bias`.

    W comes twice: `operand` in the form that is fastest forward, `matrix` as the backward pass takes it. `hidden`: nobody will
    write into y.
    """
    return run_affine(x, operand, matrix, weight, bias, activation, hidden)


def linear_vjp(self, x, activation, bint hidden=False):
    """`forward_vjp` of a `Linear`."""
    cdef Trainable weight = trainable(self.weight)
    return run_affine(x, weight._operand, weight._data, weight, self.bias, activation, hidden)


cdef tuple run_affine(x, operand, matrix, Trainable weight, Trainable bias, activation, bint hidden):
    cdef AffineBackward backward = AffineBackward.__new__(AffineBackward)
    b = None if bias is None else bias._data
    if activation is None:
        y = run_linear(x, operand, b, None, None, None, None, False)
    elif hidden and type(activation) is str and activation == "relu":  # positive, zero and NaN where z is
        y = backward.z = run_linear(x, operand, b, activation, None, None, None, False)
    else:  # y is the caller's alone
        y, backward.z = run_linear(x, operand, b, activation, None, None, None, True)
    backward.x = x
    backward.matrix = matrix
    backward.weight = weight
    backward.bias = bias
    backward.activation = activation
    return y, backward


@cython.final
@cython.freelist(8)
cdef class ChainBackward:
    """The backward pass of the steps of a `Sequential`; `blame` has an error name the step that raised it."""
    cdef list passes, steps
    cdef object blame

    def __init__(self, list passes not None, list steps not None, blame):
        self.passes = passes
        self.steps = steps
        self.blame = blame

    def __call__(self, grad_y, bint needs_input_grad=True):
        cdef list passes = self.passes
        cdef Py_ssize_t at = len(passes) - 1
        cdef bint ours = False, needed
        if at < 0:
            return grad_y if needs_input_grad else None
        try:
            while at >= 0:
                needed = at > 0 or needs_input_grad
                backward = passes[at]
                if type(backward) is AffineBackward:  # what it gives is a new array, of which nobody else knows
                    grad_y = (<AffineBackward>backward).run(grad_y, needed, ours)
                    ours = True
                else:
                    grad_y = backward(grad_y, needed)
                    ours = False
                at -= 1
            return grad_y
        except (TypeError, ValueError) as error:
            self.blame(error, self.steps[at])
            raise
