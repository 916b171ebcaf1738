"""Embedding and EmbeddingBag: rows of a table looked up, and sums, means or maxima of them.

What they compute is a fully connected layer without a bias on one-hot or multi-hot x, whose weight is the table
transposed. `Linear` takes such an x as a CSR matrix too, which then also may have a bias and an activation; see
`Embedding`'s examples.
"""

import numpy as np

from fastfc import init
from fastfc.arrays import array_of, empty
from fastfc.layers.arguments import among, flag, float_array, float_dtype, integer, size
from fastfc.module import Module, Parameter
from fastfc.sparse import CSR, as_csr, is_sparse, product, transposed_product
from fastfc.sparse_grad import SparseGrad, distinct

__all__ = ["Embedding", "EmbeddingBag"]


class Table(Module):
    """What both share: the weight, and how a gradient is added to its rows."""

    def __init__(self, num_embeddings, embedding_dim, padding_idx, sparse, dtype, rng):
        name = type(self).__name__
        self.num_embeddings = size(name, "num_embeddings", num_embeddings)
        self.embedding_dim = size(name, "embedding_dim", embedding_dim)
        self.padding_idx = None if padding_idx is None else self._padding(padding_idx)
        self.sparse = flag(name, "sparse", sparse)
        dtype, rng = float_dtype(name, dtype), init.generator(rng)
        self.weight = Parameter(init.normal_(empty((self.num_embeddings, self.embedding_dim), dtype), rng=rng))
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    def _padding(self, value):
        name, rows = type(self).__name__, self.num_embeddings
        value = integer(name, "padding_idx", value)
        if not -rows <= value < rows:
            raise ValueError(f"{name}(): padding_idx must be in [-{rows}, {rows}), got {value}")
        return value % rows

    def _integers(self, x):
        """x as an array of intp; what does not fit in one becomes negative."""
        name = type(self).__name__
        x = array_of(f"{name}: x", x)
        if x.dtype.kind not in "iu":
            raise TypeError(f"{name}: x must be of integers, got {x.dtype}")
        return x.astype(np.intp, copy=False)

    def _indices(self, x):
        """x as an array of intp, all in range."""
        name, rows, indices = type(self).__name__, self.num_embeddings, self._integers(x)
        # Seen as unsigned, a negative index is a huge one: one pass finds both kinds.
        if indices.size and int(np.ascontiguousarray(indices).view(np.uintp).max()) >= rows:
            at = [int(i) for i in np.argwhere((indices < 0) | (indices >= rows))[0]]
            raise ValueError(f"{name}: x{at if at else ''} is {np.asarray(x)[tuple(at)]}, "
                             f"expected an index in [0, {rows})")
        return indices

    def _table(self):
        """The weight's array, of the shape that indices are checked against."""
        table, shape = self.weight.data, (self.num_embeddings, self.embedding_dim)
        if table.shape != shape:
            raise ValueError(f"{type(self).__name__}: weight must have shape {shape}, got {table.shape}")
        return table

    def _grad(self, name, grad_y, shape, dtype):
        grad_y = float_array(name, "grad_y", grad_y)
        if grad_y.dtype != dtype:
            raise TypeError(f"{name}: grad_y is {grad_y.dtype}, expected {dtype}")
        if grad_y.shape != shape:
            raise ValueError(f"{name}: grad_y must have shape {shape}, got {grad_y.shape}")
        return grad_y

    def extra_repr(self):
        return f"{self.num_embeddings}, {self.embedding_dim}"


class Embedding(Table):
    """Looks up rows of a table, ``y = weight[x]``.

    x : (...) integers in [0, num_embeddings), array_like; y : (..., embedding_dim).

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        Rows of the table and their length.
    padding_idx : int, optional
        A row, from the end if negative, that is 0 at first and gets no gradient.
    sparse : bool
        The gradient is a `fastfc.SparseGrad` of the rows that x names, in place of an array as large as the table.
    dtype : float32 or float64
    rng : numpy.random.Generator, int or None
        Source of the initial values, which are torch's: N(0, 1).

    Attributes
    ----------
    weight : Parameter, (num_embeddings, embedding_dim)

    Raises
    ------
    TypeError, ValueError
        If a size is no integer >= 0 or `padding_idx` no row. In a call, if x is not of integers, or one is out of
        range: the message names the first.

    Notes
    -----
    ``backward(grad_y)`` returns None: there is no gradient of x. Rows that x names more than once get the sum of their
    gradients in the order of x, so the same batch gives the same bits.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> table = fastfc.Embedding(1000, 256, rng=0)
    >>> table
    Embedding(1000, 256)
    >>> x = np.array([[5, 7, 5]])
    >>> table(x).shape
    (1, 3, 256)

    A projection of one-hot rows is the same, and so is a `Linear` of the table transposed:

    >>> one_hot = fastfc.CSR(np.ones(3, np.float32), [5, 7, 5], [0, 1, 2, 3], (3, 1000))
    >>> projection = fastfc.Linear(1000, 256, bias=False)
    >>> projection.weight.data = table.weight.data.T.copy()
    >>> bool((projection(one_hot) == table(x[0])).all())
    True
    """

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None, *, sparse=False, dtype=np.float32, rng=None):
        super().__init__(num_embeddings, embedding_dim, padding_idx, sparse, dtype, rng)

    def __call__(self, x):
        return np.take(self.weight.data, self._indices(x), axis=0)

    def vjp(self, x):
        weight, indices = self.weight, self._indices(x)
        y = np.take(weight.data, indices, axis=0)
        shape = y.shape

        def backward(grad_y, needs_input_grad=True):
            grad_y = self._grad("Embedding", grad_y, shape, weight.dtype)
            rows, values = indices.reshape(-1), grad_y.reshape(indices.size, self.embedding_dim)
            if self.padding_idx is not None:
                kept = rows != self.padding_idx
                rows, values = rows[kept], values[kept]
            elif self.sparse:
                rows, values = rows.copy(), values.copy()  # those that are kept must be nobody else's
            add_rows(weight, SparseGrad(rows, values, weight.shape), self.sparse)

        return y, backward

    def extra_repr(self):
        text = super().extra_repr()
        text += "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{text}, sparse=True" if self.sparse else text


class EmbeddingBag(Table):
    """Sums, means or maxima of rows of a table, without the rows themselves: a bag of indices gives one row.

    ``y[b] = Σ w[i] · weight[x[i]]`` over the elements i of bag b, with w = 1 or `per_sample_weights`; for "mean"
    divided by their number; for "max" the largest of each column. An empty bag gives 0.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
    mode : {"mean", "sum", "max"}
    padding_idx : int, optional
        A row, 0 at first, that gets no gradient and does not count in any bag.
    sparse : bool
        As for `Embedding`; not with "max".
    dtype, rng
        As for `Embedding`.

    Attributes
    ----------
    weight : Parameter, (num_embeddings, embedding_dim)

    Raises
    ------
    TypeError, ValueError
        If a size, `mode` or `padding_idx` is none of these. In a call, if x is not of integers or one is out of range,
        the offsets do not start at 0, fall or overrun, or weights of another shape or with another mode are given.

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> bag = fastfc.EmbeddingBag(1000, 256, mode="sum", rng=0)
    >>> bag
    EmbeddingBag(1000, 256, mode='sum')
    >>> bag(np.array([[1, 2, 4], [4, 3, 2]])).shape       # two bags of three
    (2, 256)
    >>> bag(np.array([1, 2, 4, 4]), offsets=[0, 1]).shape  # one of one, one of three
    (2, 256)
    """

    modes = ("mean", "sum", "max")

    def __init__(self, num_embeddings, embedding_dim, *, mode="mean", padding_idx=None, sparse=False,
                 dtype=np.float32, rng=None):
        if not among(mode, self.modes):
            raise ValueError(f'EmbeddingBag(): mode must be "mean", "sum" or "max", got {mode!r}')
        if mode == "max" and flag("EmbeddingBag", "sparse", sparse):
            raise ValueError('EmbeddingBag(): mode "max" has no sparse gradient')
        self.mode = mode
        super().__init__(num_embeddings, embedding_dim, padding_idx, sparse, dtype, rng)

    def __call__(self, x, offsets=None, per_sample_weights=None):
        """See `vjp`."""
        return self.vjp(x, offsets, per_sample_weights)[0]

    def vjp(self, x, offsets=None, per_sample_weights=None):
        """Return y and the backward pass.

        Parameters
        ----------
        x : array_like of integers, (bags, length), or (n,) with `offsets`; or CSR, (bags, num_embeddings)
            Of a CSR (fastfc's or scipy's), whose rows are the bags and whose values are the weights of the samples, the
            mode must be "sum".
        offsets : array_like of integers, (bags,), optional
            Where in x each bag begins, the first one at 0.
        per_sample_weights : ndarray of the weight's dtype and x's shape, optional
            For "sum" only.

        Returns
        -------
        y : ndarray, (bags, embedding_dim)
        backward : callable
            ``backward(grad_y)`` returns the gradient of `per_sample_weights`, or None if there are none.
        """
        weight, dtype = self.weight, self.weight.dtype
        if is_sparse(x):
            x, offsets, per_sample_weights = self._of_csr(x, offsets, per_sample_weights)
        table = self._table()
        indices, indptr = self._bags(x, offsets)
        samples = None
        if per_sample_weights is not None:
            samples = np.array(self._grad_like(per_sample_weights, np.shape(x)), order="C").reshape(-1)
        kept = None
        if self.padding_idx is not None:
            kept = np.flatnonzero(indices != self.padding_idx)
            indices, indptr = indices[kept], np.searchsorted(kept, indptr)
            samples = None if samples is None else samples[kept]
        shape = (len(indptr) - 1, self.embedding_dim)
        if self.mode == "max":
            return self._max(np.take(table, indices, axis=0), indices, indptr, shape)
        ones = np.ones(len(indices), dtype) if samples is None else samples
        # At least 1: what an empty bag's sum, 0, is divided by.
        sizes = np.maximum(indptr[1:] - indptr[:-1], 1)[:, None] if self.mode == "mean" else None
        # Sums of rows are a product with a sparse matrix whose rows are the bags, the gradient one with its transpose.
        y = product(CSR._of(ones, indices, indptr, (shape[0], self.num_embeddings)), table)
        if y is None or not y.size:
            self._indices(x)  # says which one is out of range
        if self.mode == "mean":
            y /= sizes.astype(dtype)

        def backward(grad_y, needs_input_grad=True):
            grad_y = self._grad("EmbeddingBag", grad_y, shape, dtype)
            lengths = np.diff(indptr)
            factors = ones if sizes is None else np.repeat((1 / sizes[:, 0]).astype(dtype), lengths)
            if self.sparse or isinstance(weight.grad, SparseGrad):
                rows, places = distinct(indices, self.num_embeddings)
            else:
                rows, places = None, indices
            bags = CSR._of(factors, places, indptr, (shape[0], self.num_embeddings if rows is None else len(rows)))
            sums = transposed_product(bags, grad_y)
            if rows is None:
                weight.add_grad(sums)
            else:
                add_rows(weight, SparseGrad(rows, sums, weight.shape), self.sparse)
            if per_sample_weights is None or not needs_input_grad:
                return None
            grad = np.zeros(np.size(x), dtype)
            of_bags = np.repeat(np.arange(shape[0]), lengths)
            grad[slice(None) if kept is None else kept] = np.einsum("nd,nd->n", weight.data[indices], grad_y[of_bags])
            return grad.reshape(np.shape(x))

        return y, backward

    def _max(self, rows, indices, indptr, shape):
        weight = self.weight
        full = np.flatnonzero(np.diff(indptr))
        starts = indptr[full]
        y = np.zeros(shape, weight.dtype)
        if full.size:
            y[full] = np.maximum.reduceat(rows, starts, axis=0)
        winners = y.copy()  # y is the caller's

        def backward(grad_y, needs_input_grad=True):
            grad_y = self._grad("EmbeddingBag", grad_y, shape, weight.dtype)
            if not full.size:
                return add_rows(weight, SparseGrad([], np.empty((0, shape[1]), weight.dtype), weight.shape), False)
            # The first element of the bag that is the largest, column by column, gets the gradient.
            best = np.repeat(winners[full], np.diff(indptr)[full], axis=0)
            places = np.where((rows == best) | np.isnan(rows), np.arange(len(rows))[:, None], len(rows))
            first = np.minimum.reduceat(places, starts, axis=0)
            cells = indices[first] * shape[1] + np.arange(shape[1])
            grad = SparseGrad(cells.reshape(-1), grad_y[full].reshape(-1, 1), (weight.data.size, 1)).coalesce()
            if weight.grad is None:
                weight.grad = np.zeros(weight.shape, weight.dtype)
            weight.grad.reshape(-1)[grad.indices] += grad.values[:, 0]

        return y, backward

    def _of_csr(self, x, offsets, per_sample_weights):
        if offsets is not None or per_sample_weights is not None:
            raise ValueError("EmbeddingBag: with a CSR x there are no offsets or per_sample_weights: they are its own")
        x = as_csr("EmbeddingBag", "x", x)
        if x.shape[1] != self.num_embeddings:
            raise ValueError(f"EmbeddingBag: x must have {self.num_embeddings} columns, got shape {x.shape}")
        return x.indices[:x.nnz], x.indptr[:-1], x.data[:x.nnz]

    def _bags(self, x, offsets):
        """All indices as one row, and where each bag begins in it, its length at the end. Sums check their range."""
        # A copy: the backward pass needs what was looked up, and in C they stand side by side.
        indices = np.array(self._indices(x) if self.mode == "max" else self._integers(x), order="C")
        if offsets is None:
            if indices.ndim != 2:
                raise ValueError(f"EmbeddingBag: x must be (bags, length), or 1-D with offsets, got shape "
                                 f"{indices.shape}")
            bags, length = indices.shape
            return indices.reshape(-1), np.arange(bags + 1) * length
        if indices.ndim != 1:
            raise ValueError(f"EmbeddingBag: x must be 1-D with offsets, got shape {indices.shape}")
        offsets = array_of("EmbeddingBag: offsets", offsets)
        if offsets.ndim != 1 or (offsets.dtype.kind not in "iu" and offsets.size):
            raise TypeError(f"EmbeddingBag: offsets must be a row of integers, got {offsets.dtype} of shape "
                            f"{offsets.shape}")
        indptr = np.empty(len(offsets) + 1, np.intp)
        indptr[:-1], indptr[-1] = offsets, len(indices)
        if len(offsets) and indptr[0] != 0 or not len(offsets) and len(indices):
            raise ValueError(f"EmbeddingBag: offsets must start at 0, got {offsets[:1]}")
        falls = indptr[1:] < indptr[:-1]
        if falls.any():
            at = int(falls.argmax())
            raise ValueError(f"EmbeddingBag: offsets[{at}] is {indptr[at]}, more than what follows it, "
                             f"{indptr[at + 1]}")
        return indices, indptr

    def _grad_like(self, samples, shape):
        samples = float_array("EmbeddingBag", "per_sample_weights", samples)
        if self.mode != "sum":
            raise ValueError(f'EmbeddingBag: per_sample_weights need mode "sum", this layer has {self.mode!r}')
        if samples.dtype != self.weight.dtype:
            raise TypeError(f"EmbeddingBag: per_sample_weights are {samples.dtype}, the weight {self.weight.dtype}")
        if samples.shape != shape:
            raise ValueError(f"EmbeddingBag: per_sample_weights must have shape {shape}, got {samples.shape}")
        return samples

    def extra_repr(self):
        text = f"{super().extra_repr()}, mode={self.mode!r}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"


def add_rows(parameter, grad, sparse):
    """Add a SparseGrad to the gradient, as it is or as rows of an array."""
    old = parameter.grad
    if sparse or isinstance(old, SparseGrad):
        parameter.grad = grad if old is None else old + grad
        return
    grad = grad.coalesce()
    if old is None:
        parameter.grad = grad.to_dense()
    else:
        old[grad.indices] += grad.values
