"""How each library computes a case: one adapter a rival, one statement a kind of work.

Every adapter does what a user of that library who cares for speed would do, and no more: weights known ahead
are packed where the library can pack them, results go to arrays that exist already where the library can
write there, and nothing is copied or converted that need not be. The bias is included for everybody. What
cannot be imported is left out, with the reason.

To add a rival: a subclass of `Rival` with a `prepare`, and its class in `RIVALS`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import glob
import importlib
import importlib.metadata
import os
import shutil
import sys
import warnings
from collections.abc import Iterable

import numpy as np

from . import steps
from .cases import BLOCKS, KINDS, SPARSE_KINDS, Case, Data, empty, empty_like
from .measure import Task


class Rival:
    """A library under measurement.

    Attributes
    ----------
    name
        As in ``--rivals`` and in the tables.
    package
        The distribution whose version is reported.
    modules
        What must be importable.
    kinds
        The kinds of work (see `fastfc.bench.cases.KINDS`) it can do.
    dtypes
        The dtypes it computes in, at full precision.
    blas
        Whether it counts as "BLAS": what a numpy user has today.
    """

    name = ""
    package = ""
    modules: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()
    dtypes = ("float32", "float64")
    blas = False

    @classmethod
    def missing(cls) -> str | None:
        """Why this rival cannot run here, or ``None`` if it can."""
        for module in cls.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                return f"{module} is not installed" if isinstance(error, ModuleNotFoundError) else str(error)
            except OSError as error:  # a shared library that does not load
                return f"{module} does not load: {error}"
        return None

    @classmethod
    def version(cls) -> str:
        try:
            return importlib.metadata.version(cls.package)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    def supports(self, case: Case) -> bool:
        return case.kind in self.kinds and case.dtype in self.dtypes and not case.activation and not case.residual

    def set_threads(self, threads: int) -> None:
        """Set the thread count of what follows, `prepare` included."""

    def prepare(self, case: Case, data: Data) -> Task:
        raise NotImplementedError


def _training(case: Case, data: Data, make, convert=np.asarray) -> Task:
    step, parameters = make(case, data)
    return Task("step()", "*parameters()", {"step": step, "parameters": parameters}, convert)


def _empty(case: Case) -> np.ndarray:
    return empty((case.m, case.n), case.dtype)


@functools.cache
def _has_activation(name: str | None) -> bool:
    """Whether this fastfc knows the activation: so that new ones need no word here, and old builds can be measured."""
    import fastfc

    one = np.ones((1, 1), np.float32)
    try:
        fastfc.linear(one, one, activation=name)
    except (ValueError, NotImplementedError):
        return False
    return True


class Fastfc(Rival):
    """The subject. ``forward`` packs, ``plain`` does not."""

    name = "fastfc"
    package = "fastfc"
    modules = ("fastfc",)
    kinds = frozenset(KINDS)

    @classmethod
    def version(cls):
        import fastfc

        return getattr(fastfc, "__version__", None) or super().version()

    def supports(self, case):
        if case.kind not in self.kinds or case.dtype not in self.dtypes:
            return False
        return _has_activation(case.activation)

    def set_threads(self, threads):
        import fastfc

        fastfc.set_num_threads(threads)

    def prepare(self, case, data):
        import fastfc

        if case.kind == "train":
            return _training(case, data, steps.fastfc_step)
        if case.kind in BLOCKS:
            return Task("y = model(x)", "y", {"model": steps.fastfc_block(case, data), "x": data.x})
        if case.sparse:
            weight = fastfc.CSR(data.values, data.indices, data.indptr, (case.n, case.k))
            if case.kind == "sparse":
                weight = fastfc.pack(weight)
        elif case.kind in ("plain", "backward"):
            weight = data.w
        else:
            weight = fastfc.pack(data.w)
        names = {"x": data.x, "w": weight, "b": data.b}
        if case.backward:
            out = (
                empty_like(data.x),
                empty_like(data.values if case.sparse else data.w),
                empty_like(data.b),
            )
            names |= {"linear_backward": fastfc.linear_backward, "gy": data.gy, "out": out}
            return Task("gx, gw, gb = linear_backward(gy, x, w, out=out)", "gx, gw, gb", names)
        names["linear"] = fastfc.linear
        if case.kind == "call":  # as short as a user writes it
            return Task("y = linear(x, w, b)", "y", names)
        names["out"] = _empty(case)
        options = ""
        if case.activation:
            options += f", activation={case.activation!r}"
        if case.residual:
            names["r"] = data.residual
            options += ", residual=r"
        return Task(f"y = linear(x, w, b{options}, out=out)", "y", names)


class FastfcOut(Fastfc):
    """The small call once more, into an array that exists."""

    name = "fastfc-out"
    kinds = frozenset({"call"})

    def prepare(self, case, data):
        task = super().prepare(case, data)
        return Task("y = linear(x, w, b, out=out)", "y", {**task.names, "out": _empty(case)})


class FastfcBare(Fastfc):
    """The bare product, what an epilogue is measured against; the two of a feed-forward block, and the Linear before a
    LayerNorm.
    """

    name = "fastfc-bare"
    kinds = frozenset({"epilogue", *BLOCKS})

    def prepare(self, case, data):
        import fastfc

        if case.kind == "norm":
            return Task("y = model(x)", "y", {"model": steps.fastfc_block(case, data)[0].eval(), "x": data.x})
        if case.kind == "feedforward":
            names = {"linear": fastfc.linear, "x": data.x, "out": _empty(case)}
            names |= {"w1": fastfc.pack(data.weights[0]), "w2": fastfc.pack(data.weights[1])}
            names["h"] = empty((case.m, *case.hidden), case.dtype)
            return Task("y = linear(linear(x, w1, out=h), w2, out=out)", "y", names)
        names = {"linear": fastfc.linear, "x": data.x, "w": fastfc.pack(data.w), "out": _empty(case)}
        return Task("y = linear(x, w, out=out)", "y", names)


class FastfcDense(Fastfc):
    """The sparse weight filled up with zeros and packed: what pruning has to beat."""

    name = "fastfc-dense"
    kinds = frozenset({"sparse"})

    def prepare(self, case, data):
        import fastfc

        names = {"linear": fastfc.linear, "x": data.x, "w": fastfc.pack(data.w), "b": data.b, "out": _empty(case)}
        return Task("y = linear(x, w, b, out=out)", "y", names)


class FastfcSerial(Fastfc):
    """fastfc on one thread inside a cell of several: the speed-up from threads, in the same rounds."""

    name = "fastfc-1t"
    kinds = frozenset({"forward", "plain", "backward", *SPARSE_KINDS})

    def supports(self, case):
        return super().supports(case) and case.threads > 1

    def set_threads(self, threads):
        pass  # the statement says it

    def prepare(self, case, data):
        task = super().prepare(case, data)
        task.statement = task.statement.replace("out=out)", "out=out, threads=1)")
        return task


class _OpenBLAS(Rival):
    """numpy and scipy each bring an OpenBLAS of their own; both follow threadpoolctl, where it is installed."""

    def set_threads(self, threads):
        try:
            import threadpoolctl
        except ImportError:
            warnings.warn(
                "threadpoolctl is not installed, so the thread count of numpy's and scipy's BLAS stays as it is: "
                "pip install threadpoolctl",
                stacklevel=2,
            )
            return
        # Held, not used as a context: the limit stays until the next cell sets another.
        self._limits = threadpoolctl.threadpool_limits(threads, user_api="blas")


class Numpy(_OpenBLAS):
    """matmul into an existing array, bias added in place: numpy has no fused form."""

    name, package, modules, blas = "numpy", "numpy", ("numpy",), True
    kinds = frozenset({"forward", "plain", "backward", "call", "train"})

    def prepare(self, case, data):
        if case.kind == "train":
            return _training(case, data, steps.numpy_step)
        names = {"x": data.x, "wt": data.w.T, "b": data.b}
        if case.kind == "call":
            return Task("y = x @ wt + b", "y", names)
        if case.backward:
            names = {
                "matmul": np.matmul,
                "total": np.add.reduce,
                "gy": data.gy,
                "gyt": data.gy.T,
                "x": data.x,
            }
            names |= {"w": data.w, "gx": empty_like(data.x), "gw": empty_like(data.w)}
            names["gb"] = empty_like(data.b)
            return Task("matmul(gy, w, gx); matmul(gyt, x, gw); total(gy, 0, None, gb)", "gx, gw, gb", names)
        names |= {"matmul": np.matmul, "y": _empty(case)}
        return Task("matmul(x, wt, y); y += b", "y", names)


class Scipy(_OpenBLAS):
    """BLAS itself, through scipy: gemm accumulates into y, which holds the bias already.

    BLAS is column-major: it sees each C-contiguous array as its transpose, and no array is copied. So it is
    asked for ``yᵀ = w·xᵀ``.
    """

    name, package, modules, blas = "scipy", "scipy", ("scipy.linalg.blas",), True
    kinds = frozenset({"forward", "plain", "backward"})

    def prepare(self, case, data):
        from scipy.linalg import blas

        gemm = blas.sgemm if case.dtype == "float32" else blas.dgemm
        names = {"gemm": gemm, "xt": data.x.T, "wt": data.w.T, "b": data.b}
        if case.backward:
            gx, gw, gb = empty_like(data.x), empty_like(data.w), empty_like(data.b)
            names |= {"gyt": data.gy.T, "gxt": gx.T, "gwt": gw.T, "gy": data.gy, "total": np.add.reduce}
            names |= {"gx": gx, "gw": gw, "gb": gb}
            return Task(
                "gemm(1.0, wt, gyt, 0.0, gxt, 0, 0, 1); gemm(1.0, xt, gyt, 0.0, gwt, 0, 1, 1); total(gy, 0, None, gb)",
                "gx, gw, gb",
                names,
            )
        y = _empty(case)
        names |= {"y": y, "yt": y.T}
        return Task("y[:] = b; gemm(1.0, wt, xt, 1.0, yt, 1, 0, 1)", "y", names)


class ScipySparse(Rival):
    """scipy.sparse: single-threaded whatever is asked.

    The gradient of the stored entries has no routine there. A dense product and a gather is the fastest of
    the ways tried (gathering both factors first needs batch × stored entries of memory). The transpose for
    the gradient of x is a view: a converted one measured slower at batch 16 and above.
    """

    name, package, modules, blas = "scipy.sparse", "scipy", ("scipy.sparse",), True
    kinds = frozenset(SPARSE_KINDS)
    set_threads = _OpenBLAS.set_threads  # of the dense product in backward

    def prepare(self, case, data):
        import scipy.sparse

        w = scipy.sparse.csr_array((data.values, data.indices, data.indptr), shape=(case.n, case.k))
        if case.backward:
            places = data.rows * case.k + data.indices
            names = {
                "wt": w.T,
                "gy": data.gy,
                "x": data.x,
                "take": np.take,
                "places": places,
                "total": np.add.reduce,
            }
            return Task("gx = (wt @ gy.T).T; gw = take(gy.T @ x, places); gb = total(gy, 0)", "gx, gw, gb", names)
        names = {"w": w, "x": data.x, "b": data.b}
        if case.m == 1:  # a vector has a loop of its own there
            return Task("y = (w @ x[0] + b)[None]", "y", names)
        return Task("y = (w @ x.T).T; y += b", "y", names)


class Torch(Rival):
    """torch eager. Backward without autograd, straight into existing tensors: what its engine would call
    anyway.
    """

    name, package, modules = "torch", "torch", ("torch",)
    kinds = frozenset({"forward", "plain", "backward", "call", "train"})

    @classmethod
    def version(cls):
        import torch

        return torch.__version__

    def set_threads(self, threads):
        import torch

        torch.set_num_threads(threads)

    def prepare(self, case, data):
        import torch

        if case.kind == "train":
            return _training(case, data, steps.torch_step, _from_torch)
        names = {"linear": torch.nn.functional.linear}
        names |= {name: torch.from_numpy(getattr(data, name)) for name in "xwb"}
        if not case.backward:
            return Task("y = linear(x, w, b)", "y", names, _from_torch)
        gy = torch.from_numpy(data.gy)
        names = {
            "mm": torch.mm,
            "total": torch.sum,
            "gy": gy,
            "gyt": gy.t(),
            "x": names["x"],
            "w": names["w"],
        }
        names |= {"gx": torch.empty_like(names["x"]), "gw": torch.empty_like(names["w"])}
        names["gb"] = torch.empty(case.n, dtype=gy.dtype)
        return Task("mm(gy, w, out=gx); mm(gyt, x, out=gw); total(gy, 0, out=gb)", "gx, gw, gb", names, _from_torch)


def _from_torch(tensor) -> np.ndarray:
    return tensor.to_dense().numpy() if tensor.is_mkldnn else tensor.detach().numpy()


class TorchCompile(Torch):
    """A training step compiled by torch (its inductor needs a C++ compiler; setting up a case takes it some 20 s)."""

    name, kinds = "torch.compile", frozenset({"train"})

    @classmethod
    def missing(cls):
        return super().missing() or (None if shutil.which("g++") else "its compiler needs g++")

    def prepare(self, case, data):
        return _training(case, data, functools.partial(steps.torch_step, compiled=True), _from_torch)


class TorchOneDNN(Torch):
    """oneDNN with the weight reordered ahead for this batch: what torch.compile with freezing emits for a
    Linear.
    """

    name, kinds, dtypes = "onednn", frozenset({"forward"}), ("float32",)

    @classmethod
    def missing(cls):
        reason = super().missing()
        if reason:
            return reason
        import torch

        if not torch.backends.mkldnn.is_available():
            return "this torch is built without oneDNN"
        try:
            torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise  # noqa: B018
        except AttributeError:
            return f"torch {torch.__version__} has no mkldnn._reorder_linear_weight"
        return None

    def prepare(self, case, data):
        import torch

        x, w, b = (torch.from_numpy(a) for a in (data.x, data.w, data.b))
        packed = torch.ops.mkldnn._reorder_linear_weight(w, case.m)
        # .default skips the choice of an overload, a microsecond a call.
        names = {
            "linear": torch.ops.mkldnn._linear_pointwise.default,
            "x": x,
            "w": packed,
            "b": b,
            "none": [],
        }
        return Task('y = linear(x, w, b, "none", none, "")', "y", names, _from_torch)


class TorchSparse(Torch):
    """torch's CSR tensors (MKL underneath).

    Its transpose as a view is many times slower than a transposed copy, so it gets the copy, made ahead and
    not timed, although a training step would have to refresh it.
    """

    name, kinds = "torch.sparse", frozenset(SPARSE_KINDS)

    @classmethod
    def missing(cls):
        reason = super().missing()
        if reason:
            return reason
        import torch

        return None if torch.backends.mkl.is_available() else "this torch is built without MKL"

    def prepare(self, case, data):
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "CSR support is in beta state"
            w = torch.sparse_csr_tensor(
                *(torch.from_numpy(a) for a in (data.indptr, data.indices, data.values)),
                size=(case.n, case.k),
            )
            x, b = torch.from_numpy(data.x), torch.from_numpy(data.b)
            if not case.backward:
                names = {"addmv": torch.addmv, "w": w, "x": x, "b": b}
                if case.m == 1:
                    return Task("y = addmv(b, w, x[0])[None]", "y", names, _from_torch)
                return Task("y = (w @ x.t()).t(); y += b", "y", names, _from_torch)
            gy = torch.from_numpy(data.gy)
            names = {
                "wt": w.t().to_sparse_csr(),
                "w": w,
                "x": x,
                "gy": gy,
                "sddmm": torch.sparse.sampled_addmm,
            }
        return Task(
            "gx = (wt @ gy.t()).t(); gw = sddmm(w, gy.t(), x, beta=0.0).values(); gb = gy.sum(0)",
            "gx, gw, gb",
            names,
            _from_torch,
        )


class OnnxRuntime(Rival):
    """One Gemm node; the weight is an initializer, which the session packs. Input and output are bound once.

    The thread count belongs to the session. Its default of idle threads that spin is kept: users have it, and
    it is what makes its second thread start fast.
    """

    name, package, modules = "onnxruntime", "onnxruntime", ("onnxruntime", "onnx")
    kinds = frozenset({"forward", "call"})

    def prepare(self, case, data):
        import onnx
        import onnxruntime
        from onnx import helper, numpy_helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
        graph = helper.make_graph(
            [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
            "linear",
            [helper.make_tensor_value_info("x", kind, [case.m, case.k])],
            [helper.make_tensor_value_info("y", kind, [case.m, case.n])],
            [numpy_helper.from_array(data.w, "w"), numpy_helper.from_array(data.b, "b")],
        )
        # Both versions are ones that any runtime of the last years reads.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        x, y = (onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in (data.x, _empty(case)))
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_output("y", y)
        # Below the Python wrapper of run_with_iobinding, which costs a microsecond.
        names = {"run": session._sess.run_with_iobinding, "binding": binding._iobinding, "y": y, "x": x}
        return Task("run(binding, None)", "y", names, lambda value: value.numpy())


class OpenVINO(Rival):
    """MatMul and Add, compiled for latency; input and output tensors share memory with numpy and are set
    once.

    Float32 must be asked for: on CPUs with bfloat16 its default rounds to that. Float64 it computes in
    float32.
    """

    name, package, modules = "openvino", "openvino", ("openvino",)
    kinds, dtypes = frozenset({"forward"}), ("float32",)

    @classmethod
    def missing(cls):
        # Its telemetry package would otherwise report this run.
        os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
        return super().missing()

    def prepare(self, case, data):
        import openvino
        from openvino import opset13 as ops

        x = ops.parameter([case.m, case.k], np.dtype(case.dtype), name="x")
        product = ops.matmul(x, ops.constant(data.w), False, True)
        model = openvino.Model([ops.add(product, ops.constant(data.b[None]))], [x], "linear")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": case.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        y = _empty(case)
        inputs, outputs = openvino.Tensor(data.x, shared_memory=True), openvino.Tensor(y, shared_memory=True)
        request.set_input_tensor(inputs)
        request.set_output_tensor(outputs)
        names = {"infer": request.infer, "y": y, "hold": (inputs, outputs, data.x)}
        return Task("infer()", "y", names)


_ROW_MAJOR, _NO_TRANS, _TRANS, _PACKED, _B_MATRIX = 101, 111, 112, 151, 162


def _mkl_path() -> str | None:
    """The library of the wheel ``mkl``, which lies outside site-packages, or the system's."""
    for folder in (sys.prefix + "/lib", sys.prefix + "/Library/bin", os.path.expanduser("~/.local/lib")):
        found = sorted(glob.glob(folder + "/libmkl_rt.so*") + glob.glob(folder + "/mkl_rt*.dll"))
        if found:
            return found[-1]
    return ctypes.util.find_library("mkl_rt")


class MKL(Rival):
    """cblas gemm through ctypes: numpy and scipy from PyPI never use MKL, some distributions' do.

    The packed interface is an entrant of its own: on AMD it lost to the plain one by 0 to 10 %.
    """

    name, package = "mkl", "mkl"
    kinds = frozenset({"forward", "plain", "backward"})
    _library = None

    @classmethod
    def library(cls):
        if MKL._library is None:
            path = _mkl_path()
            if path is None:
                raise ImportError("libmkl_rt is not installed (pip install mkl)")
            try:
                MKL._library = ctypes.CDLL(path)
            except OSError as error:
                raise ImportError(f"{path} does not load: {error}") from None
        return MKL._library

    @classmethod
    def missing(cls):
        try:
            cls.library()
        except ImportError as error:
            return str(error)
        return None

    def set_threads(self, threads):
        self.library().MKL_Set_Num_Threads(ctypes.c_int(threads))
        # Its idle threads would spin for 200 ms, and every turn of the others would wait for that. A millisecond
        # spans the gaps between the calls of a burst, so its own speed stays what it is.
        path = os.path.join(os.path.dirname(_mkl_path() or ""), "libiomp5.so")
        if os.path.exists(path):
            ctypes.CDLL(path).kmp_set_blocktime(ctypes.c_int(1))

    def _gemm(self, case):
        """``gemm(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc)``, with everything fixed in
        advance.
        """
        gemm = getattr(self.library(), "cblas_sgemm" if case.dtype == "float32" else "cblas_dgemm")
        real = ctypes.c_float if case.dtype == "float32" else ctypes.c_double
        as_int, pointer = ctypes.c_int, ctypes.c_void_p

        def arguments(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc):
            sizes = (as_int(v) for v in (_ROW_MAJOR, trans_a, trans_b, m, n, k))
            a, b, c = (pointer(array.ctypes.data) for array in (a, b, c))
            return (*sizes, real(1), a, as_int(lda), b, as_int(ldb), real(beta), c, as_int(ldc))

        return gemm, arguments

    def prepare(self, case, data):
        gemm, arguments = self._gemm(case)
        m, n, k = case.m, case.n, case.k
        if case.backward:
            gx, gw, gb = empty_like(data.x), empty_like(data.w), empty_like(data.b)
            names = {"gemm": gemm, "total": np.add.reduce, "gy": data.gy, "gx": gx, "gw": gw, "gb": gb}
            names["for_x"] = arguments(_NO_TRANS, _NO_TRANS, m, k, n, data.gy, n, data.w, k, 0, gx, k)
            names["for_w"] = arguments(_TRANS, _NO_TRANS, n, k, m, data.gy, n, data.x, k, 0, gw, k)
            names["hold"] = data
            return Task("gemm(*for_x); gemm(*for_w); total(gy, 0, None, gb)", "gx, gw, gb", names)
        y = _empty(case)
        names = {"gemm": gemm, "y": y, "b": data.b, "hold": data}
        names["for_y"] = arguments(_NO_TRANS, _TRANS, m, n, k, data.x, k, data.w, k, 1, y, n)
        return Task("y[:] = b; gemm(*for_y)", "y", names)


class MKLPacked(MKL):
    """MKL's gemm with the weight packed ahead."""

    name, kinds = "mkl-packed", frozenset({"forward"})

    def prepare(self, case, data):
        library, char = self.library(), "s" if case.dtype == "float32" else "d"
        real = ctypes.c_float if char == "s" else ctypes.c_double
        get_size = getattr(library, f"cblas_{char}gemm_pack_get_size")
        get_size.restype = ctypes.c_size_t
        as_int, pointer = ctypes.c_int, ctypes.c_void_p
        m, n, k = (as_int(v) for v in (case.m, case.n, case.k))
        packed = empty((get_size(as_int(_B_MATRIX), m, n, k),), np.uint8)
        start = pointer(packed.ctypes.data)
        row_major, trans = as_int(_ROW_MAJOR), as_int(_TRANS)
        getattr(library, f"cblas_{char}gemm_pack")(
            row_major, as_int(_B_MATRIX), trans, m, n, k, real(1), pointer(data.w.ctypes.data), k, start
        )
        y = _empty(case)
        compute = getattr(library, f"cblas_{char}gemm_compute")
        x, out = pointer(data.x.ctypes.data), pointer(y.ctypes.data)
        for_y = (row_major, as_int(_NO_TRANS), as_int(_PACKED), m, n, k, x, k, start, k, real(1), out, n)
        names = {"compute": compute, "for_y": for_y, "y": y, "b": data.b, "hold": (data, packed)}
        return Task("y[:] = b; compute(*for_y)", "y", names)


class _Matrix(ctypes.Structure):
    """MKL's ``struct matrix_descr``."""

    _fields_ = [("type", ctypes.c_int), ("mode", ctypes.c_int), ("diag", ctypes.c_int)]


class MKLSparse(MKL):
    """MKL's inspector-executor: a CSR handle made once, told what is coming, and optimised for it."""

    name, kinds = "mkl.sparse", frozenset({"sparse", "csr"})

    def prepare(self, case, data):
        library, char = self.library(), "s" if case.dtype == "float32" else "d"
        real = ctypes.c_float if char == "s" else ctypes.c_double
        as_int, pointer = ctypes.c_int, ctypes.c_void_p

        def call(name, *arguments):
            status = getattr(library, name)(*arguments)
            if status:
                raise RuntimeError(f"{name} returned {status}")

        handle = pointer()
        starts, ends = np.ascontiguousarray(data.indptr[:-1]), np.ascontiguousarray(data.indptr[1:])
        call(
            f"mkl_sparse_{char}_create_csr", ctypes.byref(handle), as_int(0), as_int(case.n), as_int(case.k),
            *(pointer(a.ctypes.data) for a in (starts, ends, data.indices, data.values)),
        )  # fmt: skip
        general, no_trans, row_major = _Matrix(20, 0, 0), as_int(10), as_int(101)
        hint = "mkl_sparse_set_mv_hint" if case.m == 1 else "mkl_sparse_set_mm_hint"
        extra = () if case.m == 1 else (row_major, as_int(case.m))
        call(hint, handle, no_trans, general, *extra, as_int(1000))
        call("mkl_sparse_optimize", handle)
        names = {"b": data.b, "hold": (data, starts, ends, general)}
        if case.m == 1:
            y = empty((case.n,), case.dtype)
            x, out = pointer(data.x.ctypes.data), pointer(y.ctypes.data)
            names |= {"multiply": getattr(library, f"mkl_sparse_{char}_mv"), "y": y}
            names["for_y"] = (no_trans, real(1), handle, general, x, real(1), out)
            return Task("y[:] = b; multiply(*for_y)", "y[None]", names)
        # A dense operand of [k, m] rows is the only layout with a fast path: the two transposes are part of
        # the job.
        xt, yt = empty((case.k, case.m), case.dtype), empty((case.n, case.m), case.dtype)
        m = as_int(case.m)
        names |= {"multiply": getattr(library, f"mkl_sparse_{char}_mm"), "x": data.x, "xt": xt, "yt": yt}
        xt_, yt_ = pointer(xt.ctypes.data), pointer(yt.ctypes.data)
        names["for_y"] = (no_trans, real(1), handle, general, row_major, xt_, m, m, real(0), yt_, m)
        return Task("xt[:] = x.T; multiply(*for_y); y = yt.T + b", "y", names)


#: Every rival by name; the subject comes first. Order is the order of turns.
RIVALS: dict[str, type[Rival]] = {
    rival.name: rival
    for rival in (
        Fastfc, FastfcOut, FastfcBare, FastfcDense, FastfcSerial, Numpy, Scipy, ScipySparse, Torch, TorchCompile,
        TorchOneDNN, TorchSparse, OnnxRuntime, OpenVINO, MKL, MKLPacked, MKLSparse,
    )
}  # fmt: skip
SUBJECT = Fastfc.name
#: The subject in other clothes: never "the best rival".
VARIANTS = (FastfcOut.name, FastfcBare.name, FastfcDense.name, FastfcSerial.name)
BLAS = tuple(name for name, rival in RIVALS.items() if rival.blas)
DEFAULT = tuple(name for name in RIVALS if name != SUBJECT and name not in VARIANTS)


def find(names: Iterable[str] | None = None) -> tuple[list[Rival], dict[str, str]]:
    """The adapters that can run here, and why others cannot.

    Parameters
    ----------
    names
        Which rivals; all by default. The subject is always there, and first.

    Returns
    -------
    found : list of Rival
    missing : dict
        Name to reason.

    Raises
    ------
    ValueError
        For a name that is no rival's.
    """
    wanted = list(DEFAULT if names is None else names)
    unknown = [name for name in wanted if name not in RIVALS]
    if unknown:
        raise ValueError(f"unknown rival {unknown[0]!r}; there are {', '.join(DEFAULT)}")
    found, missing = [], {}
    for name in dict.fromkeys([SUBJECT, *wanted]):
        reason = RIVALS[name].missing()
        if reason is None:
            found.append(RIVALS[name]())
        else:
            missing[name] = reason
    return found, missing
