# Optimisers and the clipping of gradients: lists of arrays become one call. Checks are made here at C speed; what is
# unusual goes to the optimiser's own methods, which convert it or compose the error.

from libc.math cimport pow, sqrt

cdef extern from "fastfc.h" nogil:
    ctypedef enum fc_rule_kind:
        FC_SGD
        FC_ADAM
        FC_ADAGRAD
        FC_RMSPROP
        FC_SCALE
        FC_CLAMP
    ctypedef struct fc_rule:
        fc_rule_kind kind
        int nesterov
        double sign, lr, decay, shrink, momentum, fresh, beta1, beta2, eps, scale, limit
    ctypedef struct fc_tensor:
        fc_dtype dtype
        fc_rule rule
        void *w
        const void *grad
        void *state[3]
        Py_ssize_t n
        const int64_t *rows
        Py_ssize_t dim
    void fc_update(fc_tensor *tensors, Py_ssize_t count, int threads)
    fc_status fc_square_sum(fc_tensor *tensors, Py_ssize_t count, double scale, double *sum, int threads)

cdef dict _rules = {"sgd": FC_SGD, "adam": FC_ADAM, "adagrad": FC_ADAGRAD, "rmsprop": FC_RMSPROP, "scale": FC_SCALE,
                    "clamp": FC_CLAMP}


@cython.final
cdef class Rule:
    """What `optimizer_step` and `change` do to each element: src_c/fastfc.h says what the numbers mean. With `correct`,
    `optimizer_step` makes Adam's bias corrections: it divides lr by ``1 - beta1^t`` and scale by ``√(1 - beta2^t)``.
    """
    cdef fc_rule rule, corrected
    cdef bint correct
    cdef int64_t step

    def __init__(self, str kind not None, *, bint maximize=False, double lr=0, double decay=0, double shrink=1,
                 double momentum=0, double fresh=1, bint nesterov=False, double beta1=0, double beta2=0, double eps=0,
                 double scale=1, double limit=0, bint correct=False):
        self.correct = correct
        self.rule.kind = <fc_rule_kind><int>_rules[kind]
        self.rule.nesterov = nesterov
        self.rule.sign = -1 if maximize else 1
        self.rule.lr = lr
        self.rule.decay = decay
        self.rule.shrink = shrink
        self.rule.momentum = momentum
        self.rule.fresh = fresh
        self.rule.beta1 = beta1
        self.rule.beta2 = beta2
        self.rule.eps = eps
        self.rule.scale = scale
        self.rule.limit = limit

    cdef const fc_rule *at(self, int64_t step) noexcept:
        if not self.correct:
            return &self.rule
        if step != self.step:
            self.step = step
            self.corrected = self.rule
            self.corrected.lr = self.rule.lr / (1 - pow(self.rule.beta1, <double>step))
            self.corrected.scale = self.rule.scale / sqrt(1 - pow(self.rule.beta2, <double>step))
        return &self.corrected


cdef class _Tensors:
    """A list of tensors under construction, and references to the arrays that it points into."""
    cdef fc_tensor *tensors
    cdef Py_ssize_t count
    cdef double elements
    cdef list held

    def __cinit__(self, Py_ssize_t room):
        self.held = []
        self.tensors = <fc_tensor *>PyMem_Malloc(max(room, 1) * sizeof(fc_tensor))
        if self.tensors == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.tensors)

    cdef fc_tensor *add(self, cnp.ndarray w):
        cdef fc_tensor *t = &self.tensors[self.count]
        self.count += 1
        self.held.append(w)
        t.dtype = dtype_of(w)
        t.w = cnp.PyArray_DATA(w)
        t.n = cnp.PyArray_SIZE(w)
        t.grad = NULL
        t.state[0] = t.state[1] = t.state[2] = NULL
        t.rows = NULL
        self.elements += t.n
        return t

    cdef void update(self, int threads):
        # As in linear(): handing the GIL over costs more than a small step takes.
        if self.elements < 4096:
            fc_update(self.tensors, self.count, 1)
        else:
            with nogil:
                fc_update(self.tensors, self.count, threads)


cdef inline bint is_like(object array, cnp.ndarray data) noexcept:
    """Whether `array` is C-contiguous, aligned and of the shape and dtype of `data`."""
    cdef int i
    if not (type(array) is cnp.ndarray and cnp.PyArray_TYPE(array) == cnp.PyArray_TYPE(data) and
            cnp.PyArray_NDIM(array) == cnp.PyArray_NDIM(data) and cnp.PyArray_ISCARRAY_RO(array)):
        return False
    for i in range(cnp.PyArray_NDIM(data)):
        if cnp.PyArray_DIM(array, i) != cnp.PyArray_DIM(data, i):
            return False
    return True


cdef bint ascends(cnp.ndarray rows, Py_ssize_t end) noexcept:
    """Whether 0 <= rows[0] < rows[1] < ... < end."""
    cdef const int64_t *r = <const int64_t *>cnp.PyArray_DATA(rows)
    cdef int64_t last = -1
    cdef Py_ssize_t i
    for i in range(cnp.PyArray_SIZE(rows)):
        if r[i] <= last:
            return False
        last = r[i]
    return last < end


@cython.final
cdef class _Plan:
    """What follows from the options of a group: names of the states, and the rules of a first and of later steps."""
    cdef tuple options, slots
    cdef Rule first, later


cdef _Plan plan_of(object optimizer, Py_ssize_t number, dict group):
    """The plan of a group; made, and the options checked, when one of them is another object than the last time."""
    cdef tuple options = tuple([group[name] for name in <dict>optimizer.defaults])
    cdef _Plan plan = (<dict>optimizer._plans).get(number)
    cdef Py_ssize_t i
    if plan is not None:
        for i in range(len(options)):
            if options[i] is not plan.options[i]:
                break
        else:
            return plan
    optimizer._check_now(group)
    plan = _Plan.__new__(_Plan)
    plan.options = options
    plan.slots = optimizer._plan(group)
    try:
        hash(options)
        optimizer._plans[number] = plan
    except TypeError:  # a list or an array, which may change and be the same object
        pass
    return plan


def optimizer_step(optimizer):
    """Update every parameter that has a gradient; nothing is changed if any of them cannot be.

    Of the optimiser it takes `param_groups` and `state`, and asks it for: `_check_now(group)`, an error for options out of range;
    `_plan(group)`, the names of the states that its rule uses, in their order (None: not used); `_rule(group, step)`, a `Rule` for
    the step-th step of a parameter; `_begin(group, name, data)`, a new state; `_unusual(place, parameter, group)`, whatever is no
    dense gradient as it should be, as an array, or as rows (ascending) and values. `takes_dense` is False if all gradients go
    there; `counts`, if states have a "step"; `by_step`, if each step has a rule of its own, otherwise 1 stands for a first step
    and 2 for all others. `_plans` is a dict for what follows from the options.
    """
    cdef list groups = optimizer.param_groups, params, fresh = [], made = [], counted = []
    cdef dict states = optimizer.state, state, group
    cdef bint takes_dense = optimizer.takes_dense, counts = optimizer.counts, by_step = optimizer.by_step, first
    cdef Py_ssize_t room = 0, place = -1, number = -1
    cdef int64_t step, last
    cdef int i, threads = _default_threads
    cdef Trainable parameter
    cdef cnp.ndarray data, grad, rows
    cdef fc_tensor *t
    cdef _Plan plan
    cdef Rule rule
    for group in groups:
        room += len(<list>group["params"])
    cdef _Tensors tensors = _Tensors(room)
    for group in groups:
        number += 1
        plan = plan_of(optimizer, number, group)
        params = group["params"]
        last = -1
        for entry in params:
            place += 1
            parameter = trainable(entry)
            gradient = parameter.grad
            if gradient is None:
                continue
            data = parameter._data
            if not cnp.PyArray_ISCARRAY(data):
                optimizer._read_only(place)
            rows = None
            if not (takes_dense and is_like(gradient, data)):
                gradient = optimizer._unusual(place, parameter, group)
                if type(gradient) is tuple:
                    rows, gradient = gradient
            grad = gradient
            state = states.get(parameter)
            if state is None:
                state = {}
                fresh.append((parameter, state))
            first = False
            t = tensors.add(data)
            tensors.held.append(grad)
            t.grad = cnp.PyArray_DATA(grad)
            for i in range(len(plan.slots)):
                name = plan.slots[i]
                if name is None:
                    continue
                array = state.get(name)
                if array is None:
                    array = optimizer._begin(group, name, data)
                    made.append((state, name, array))
                    first = True
                if not (is_like(array, data) and cnp.PyArray_ISWRITEABLE(array)):
                    optimizer._bad_state(place, name)
                tensors.held.append(array)
                t.state[i] = cnp.PyArray_DATA(array)
            step = 1 if first else 2
            if counts:
                step = state.get("step", 0) + 1
                counted.append(state)
            if by_step:
                if step != last:
                    rule = optimizer._rule(group, step)
                    last = step
            elif first:
                if plan.first is None:
                    plan.first = optimizer._rule(group, 1)
                rule = plan.first
            else:
                if plan.later is None:
                    plan.later = optimizer._rule(group, 2)
                rule = plan.later
            t.rule = rule.at(step)[0]
            if rows is not None:
                if not ascends(rows, cnp.PyArray_DIM(data, 0)):
                    raise ValueError("SparseGrad: indices have changed while they were in use")
                tensors.held.append(rows)
                t.rows = <const int64_t *>cnp.PyArray_DATA(rows)
                t.n = cnp.PyArray_SIZE(grad)
                t.dim = cnp.PyArray_DIM(data, 1)
    for state, name, array in made:
        state[name] = array
    for state in counted:
        state["step"] = state.get("step", 0) + 1
    for parameter, state in fresh:
        if state:
            states[parameter] = state
    tensors.update(threads)


def change(Rule rule not None, list arrays not None):
    """Apply a rule that needs no gradient to C-contiguous, writeable arrays of float32 or float64, in place."""
    cdef _Tensors tensors = _Tensors(len(arrays))
    for array in arrays:
        tensors.add(array).rule = rule.rule
    tensors.update(_default_threads)


def square_sum(list arrays not None, double scale=1):
    """Sum of (scale * x)^2 over C-contiguous arrays of float32 or float64, in float64."""
    cdef _Tensors tensors = _Tensors(len(arrays))
    cdef fc_status status
    cdef double total = 0
    cdef int threads = _default_threads
    for array in arrays:
        tensors.add(array)
    if tensors.elements < 4096:
        status = fc_square_sum(tensors.tensors, tensors.count, scale, &total, 1)
    else:
        with nogil:
            status = fc_square_sum(tensors.tensors, tensors.count, scale, &total, threads)
    if status != FC_OK:
        raise MemoryError("no memory for workspace")
    return total
