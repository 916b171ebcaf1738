"""canonical.c from Python: the canonical order of summation, computed one scalar at a time.

Functions take arrays of any layout with two axes and return new C-ordered arrays. CSR operands come as
``(data, indices, indptr, shape)``.
"""

import ctypes
import os
import pathlib
import shutil
import subprocess

import numpy as np

BLOCK = 192  # as in canonical.c


def compile_c(source, folder):
    """A shared library of one C file, loaded."""
    compiler = os.environ.get("CC", "cc").split()
    if not shutil.which(compiler[0]):
        raise FileNotFoundError(f"the tests need a C compiler; {compiler[0]!r} is none (set CC)")
    library = pathlib.Path(folder) / (pathlib.Path(source).stem + ".so")
    command = [
        *compiler,
        "-std=c11",
        "-O2",
        "-ffp-contract=off",
        "-fPIC",
        "-shared",
        str(source),
        "-o",
        str(library),
        "-lm",
    ]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def _argument(value):
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.c_int64(value)


class Canonical:
    def __init__(self, folder):
        self.library = compile_c(pathlib.Path(__file__).with_name("canonical.c"), folder)

    def _call(self, name, dtype, *arguments):
        function = self.library[name + ("_f32" if dtype == np.float32 else "_f64")]
        function.restype = None
        function(*map(_argument, arguments))

    def product(self, a, b):
        """a @ b.T"""
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
        out = np.empty((len(a), len(b)), a.dtype)
        k = a.shape[1]
        self._call("product", a.dtype, len(a), len(b), k, a, k, 1, b, k, 1, out)
        return out

    def finish(self, total, bias=None, residual=None, activation=None):
        """(y, z) from finished sums."""
        bias = None if bias is None else np.ascontiguousarray(bias)
        residual = None if residual is None else np.ascontiguousarray(residual)
        y, z = np.empty_like(total), np.empty_like(total)
        self._call("finish", total.dtype, *total.shape, total, bias, residual, int(activation == "relu"), y, z)
        return y, z

    def linear(self, x, weight, bias=None, residual=None, activation=None):
        return self.finish(self.product(x, weight), bias, residual, activation)

    def gate(self, grad_y, z, activation):
        grad_y = np.ascontiguousarray(grad_y)
        if activation is None:
            return grad_y
        z, out = np.ascontiguousarray(z), np.empty_like(grad_y)
        self._call("gate", grad_y.dtype, grad_y.size, grad_y, z, out)
        return out

    def column_sum(self, g):
        out = np.empty(g.shape[1], g.dtype)
        self._call("column_sum", g.dtype, *g.shape, g, out)
        return out

    def backward(self, grad_y, x, weight, z=None, activation=None):
        g = self.gate(grad_y, z, activation)
        return self.product(g, weight.T), self.product(g.T, x.T), self.column_sum(g)

    def _csr_product(self, csr, dense):
        """csr @ dense, in stored order."""
        data, indices, indptr, shape = csr
        data = np.ascontiguousarray(data)
        indices, indptr = (np.ascontiguousarray(a, np.int64) for a in (indices, indptr))
        dense = np.ascontiguousarray(dense)
        out = np.empty((shape[0], dense.shape[1]), data.dtype)
        self._call("csr_product", data.dtype, *out.shape, indptr, indices, data, dense, dense.shape[1], 1, out)
        return out

    def linear_csr_weight(self, x, csr, bias=None, residual=None, activation=None):
        total = np.ascontiguousarray(self._csr_product(csr, x.T).T)
        return self.finish(total, bias, residual, activation)

    def linear_csr_x(self, csr, weight, bias=None, residual=None, activation=None):
        return self.finish(self._csr_product(csr, weight.T), bias, residual, activation)

    def backward_csr_weight(self, grad_y, x, csr, z=None, activation=None):
        data, indices, indptr, (n, k) = csr
        g, x = self.gate(grad_y, z, activation), np.ascontiguousarray(x)
        gx = np.ascontiguousarray(self._csr_product(transposed(csr), g.T).T)
        values = np.zeros(len(data), g.dtype)
        indices, indptr = (np.ascontiguousarray(a, np.int64) for a in (indices, indptr))
        self._call("sddmm", g.dtype, len(g), n, k, indptr, indices, g, x, values)
        return gx, values, self.column_sum(g)

    def backward_csr_x(self, grad_y, csr, z=None, activation=None):
        g = self.gate(grad_y, z, activation)
        return np.ascontiguousarray(self._csr_product(transposed(csr), g).T), self.column_sum(g)


def transposed(csr):
    """Entries of a column in the order of their rows, as they are stored within each row."""
    data, indices, indptr, (rows, cols) = csr
    nnz = int(indptr[-1])
    order = np.argsort(indices[:nnz], kind="stable")
    row = np.repeat(np.arange(rows), np.diff(indptr))
    counts = np.bincount(indices[:nnz], minlength=cols)
    return data[:nnz][order], row[order], np.concatenate([[0], np.cumsum(counts)]), (cols, rows)
