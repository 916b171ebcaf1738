"""Threads and processes around the library: Python threads at once, forks, the GIL, and memory that does not grow."""

import multiprocessing
import sys
import textwrap
import threading
import time
from functools import partial

import numpy as np
import pytest
from reference import assert_same_bits
from samples import at_once, gaussian, random_csr
from test_runtime import python

import fastfc
from fastfc import _core

openmp = pytest.mark.skipif(not _core.has_openmp(), reason="built without OpenMP")


def work(rng, dtype=np.float32):
    """Calls large enough for two threads: [() -> list of arrays]."""
    x, weight, grad = (gaussian(rng, s, dtype) for s in ((70, 400), (300, 400), (70, 300)))
    csr = fastfc.CSR(*random_csr(rng, (300, 400), dtype, 0.5, repeats=True))
    packed = fastfc.pack(weight)
    grad_t = np.ascontiguousarray(np.tile(grad, (5, 1))[:300, :70])
    return [
        lambda **o: [fastfc.linear(x, packed, activation="relu", **o)],
        lambda **o: [fastfc.linear(x, weight, **o)],
        lambda **o: [fastfc.linear(x[:3], weight, **o)],
        lambda **o: list(fastfc.linear_backward(grad, x, weight, activation="relu", preactivation=grad[::-1], **o)),
        lambda **o: [fastfc.linear(x, csr, **o)],
        lambda **o: [fastfc.linear(csr, x, **o)],
        lambda **o: list(fastfc.linear_backward(grad, x, csr, **o)),
        lambda **o: list(fastfc.linear_backward(grad_t, csr, x, **o)[1:]),
        lambda **o: [fastfc.pack(weight).unpack()],
    ]


@pytest.mark.parametrize("inner", [1, 2])
def test_python_threads_at_once(dtype, rng, inner):
    """Four of them on one packed weight and everything else; each result equal to the one computed alone."""
    calls = work(rng, dtype)
    expected = [call(threads=1) for call in calls]
    barrier = threading.Barrier(4)

    def run(start):
        barrier.wait()
        for i in range(3 * len(calls)):
            at = (start + i) % len(calls)
            for one, other in zip(calls[at](threads=inner), expected[at], strict=True):
                assert_same_bits(one, other, at)

    at_once(*(partial(run, 2 * i) for i in range(4)))


@pytest.mark.parametrize("call", range(9))
def test_the_gil_is_released(rng, call):
    """Another thread runs while a call computes. It gets the GIL only where the call lets go: nothing else makes the
    main thread do so within 1000 s. What it does then needs a few milliseconds, so the call repeats until it has."""
    count, stop, ready = 0, False, threading.Event()

    def other():
        nonlocal count
        ready.set()
        while not stop:
            count += 1
            time.sleep(1e-4)

    calls = work(rng)
    interval = sys.getswitchinterval()
    thread = threading.Thread(target=other)
    thread.start()
    ready.wait()
    try:
        sys.setswitchinterval(1000)
        before = count
        for _ in range(3000):
            calls[call](**({} if call == 8 else {"threads": 1}))
            if count > before + 2:
                break
        progress = count - before
    finally:
        sys.setswitchinterval(interval)
        stop = True
        thread.join()
    assert progress > 2


@openmp
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_python_threads_share_the_workers():
    """Four of them that ask for two threads each: one worker in all, so 5 threads at most compute, and never 8."""
    result = python(
        textwrap.dedent(
            """
            import os, threading, time
            import numpy as np, fastfc
            x, w = np.ones((300, 400), np.float32), np.ones((500, 400), np.float32)
            count = lambda: len(os.listdir("/proc/self/task"))
            before, most, barrier = count(), 0, threading.Barrier(5)
            def run():
                barrier.wait()
                for _ in range(50):
                    fastfc.linear(x, w, threads=2)
            threads = [threading.Thread(target=run) for _ in range(4)]
            [t.start() for t in threads]
            barrier.wait()
            while any(t.is_alive() for t in threads):
                most = max(most, count() - before)
            end = time.monotonic() + 10  # the system lists a thread for a moment after Python has seen its end
            while count() - before > 1 and time.monotonic() < end:
                time.sleep(0.001)
            print(most <= 5, count() - before)
            """
        ),
        OPENBLAS_NUM_THREADS="1",
    )
    assert result.stdout.split() == ["True", "1"], result.stdout + result.stderr


@openmp
def test_no_cpu_is_burnt_after_a_call():
    """From 5 ms after a call on the whole process's threads have done nothing. (The least of several windows: the
    process's clock also shows what the interpreter and the system do meanwhile.)"""
    result = python(
        textwrap.dedent(
            """
            import time
            import numpy as np, fastfc
            x, w = np.ones((300, 400), np.float32), np.ones((500, 400), np.float32)
            burnt = []
            for _ in range(10):
                for _ in range(20):
                    fastfc.linear(x, w, threads=4)
                time.sleep(0.005)
                begin = time.process_time()
                time.sleep(0.1)
                burnt.append(time.process_time() - begin)
            print(min(burnt))
            """
        ),
        OPENBLAS_NUM_THREADS="1",
    )
    assert result.returncode == 0 and float(result.stdout) < 0.001, result.stdout + result.stderr


def test_beside_numpys_blas(dtype, rng):
    """numpy's products in one thread, ours in others: each gets what it got alone."""
    x, weight = gaussian(rng, (120, 400), dtype), gaussian(rng, (300, 400), dtype)
    packed = fastfc.pack(weight)
    expected, theirs = fastfc.linear(x, packed, threads=1), x @ weight.T

    def mine():
        for _ in range(30):
            assert_same_bits(fastfc.linear(x, packed, threads=2), expected)

    def numpys():
        for _ in range(30):
            assert np.allclose(x @ weight.T, theirs, rtol=1e-5, atol=1e-5 * abs(theirs).max())

    at_once(numpys, mine, mine)


# ---- Fork -----------------------------------------------------------------------------------------------------------

FORK = textwrap.dedent(
    """
    import multiprocessing, os, signal, sys, threading
    import numpy as np
    import fastfc

    x = np.arange(300. * 400).reshape(300, 400) % 7
    w = np.arange(500. * 400).reshape(500, 400) % 5
    csr = fastfc.CSR(w[w != 3], np.nonzero(w != 3)[1], np.concatenate([[0], np.cumsum((w != 3).sum(1))]), w.shape)
    packed = fastfc.pack(w)
    y, sparse = x @ w.T, x @ np.where(w != 3, w, 0).T

    def right():
        ok = (fastfc.linear(x, packed, threads=2) == y).all() and (fastfc.linear(x, w, threads=2) == y).all()
        ok &= (fastfc.linear(x, csr, threads=2) == sparse).all()
        gx, gw, gb = fastfc.linear_backward(y, x, w, threads=2)
        return bool(ok and (gx == y @ w).all() and (gw == y.T @ x).all() and (gb == y.sum(0)).all())

    def fork(then):
        signal.alarm(60)
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            status = 9
            try:
                status = 0 if then() else 3
            finally:
                os._exit(status)
        return os.waitpid(pid, 0)[1]
    """
)


def forked(script):
    result = python(FORK + textwrap.dedent(script), timeout=120)
    assert result.returncode == 0 and result.stdout.strip() == "done", result.stdout + result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize(
    "script",
    {
        "after parallel work": "assert right(); assert fork(right) == 0; assert right(); print('done')",
        "before any work": "assert fork(right) == 0; assert right(); print('done')",
        "twice": "assert right(); assert fork(lambda: right() and right() and fork(right) == 0) == 0; print('done')",
        "many": "assert right(); assert [fork(right) for _ in range(5)] == [0] * 5; assert right(); print('done')",
        "threads in the child": """
            def many():
                results = []
                threads = [threading.Thread(target=lambda: results.append(right())) for _ in range(3)]
                [t.start() for t in threads]
                [t.join() for t in threads]
                return results == [True] * 3
            assert right()
            assert fork(many) == 0
            print('done')
            """,
        "while another thread computes": """
            stop = False
            def compute():
                while not stop:
                    fastfc.linear(x, packed, threads=2)
            thread = threading.Thread(target=compute)
            thread.start()
            assert right()
            statuses = [fork(right) for _ in range(5)]
            stop = True
            thread.join()
            assert statuses == [0] * 5, statuses
            print('done')
            """,
        "from a thread while others compute": """
            stop = False
            def compute():
                while not stop:
                    fastfc.linear(x, packed, threads=3)
            others = [threading.Thread(target=compute) for _ in range(2)]
            [t.start() for t in others]
            statuses = []
            def forks():
                for _ in range(5):
                    statuses.append(fork(right))
            for _ in range(2):
                thread = threading.Thread(target=forks)
                thread.start()
                thread.join()
            stop = True
            [t.join() for t in others]
            assert statuses == [0] * 10, statuses
            assert right()
            print('done')
            """,
        "a hundred times, at any moment of a call": """
            stop = False
            def compute():
                while not stop:
                    fastfc.linear(x[:40], packed, threads=2)
            thread = threading.Thread(target=compute)
            thread.start()
            few = lambda: bool((fastfc.linear(x, packed, threads=2) == y).all())
            statuses = {fork(few) for _ in range(100)}
            stop = True
            thread.join()
            assert statuses == {0}, statuses
            print('done')
            """,
        "multiprocessing": """
            def child(results):
                results.put(right())
            assert right()
            context = multiprocessing.get_context("fork")
            results = context.Queue()
            processes = [context.Process(target=child, args=(results,)) for _ in range(2)]
            [p.start() for p in processes]
            assert [results.get(timeout=60) for p in processes] == [True] * 2
            [p.join(60) for p in processes]
            assert [p.exitcode for p in processes] == [0] * 2
            print('done')
            """,
        "the default count in the child": """
            fastfc.set_num_threads(2)
            assert right()
            assert fork(lambda: fastfc.get_num_threads() == 2 and (fastfc.linear(x, packed) == y).all()) == 0
            print('done')
            """,
    }.items(),
    ids=lambda item: item[0],
)
def test_a_forked_child_computes(script):
    forked(script[1])


@openmp
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_forked_child_computes_in_parallel():
    """Not only right: the child's work is shared, by a team of its own."""
    forked(
        """
        def busy():
            # Threads that were alive during a call, beside this one and the watcher.
            most, stop = [0], threading.Event()
            def watch():
                while not stop.is_set():
                    most[0] = max(most[0], len(os.listdir('/proc/self/task')))
            watcher = threading.Thread(target=watch)
            watcher.start()
            for _ in range(200):
                fastfc.linear(x, packed, threads=2)
                if most[0] > 2:
                    break
            stop.set()
            watcher.join()
            return most[0] > 2
        assert right()
        assert fork(busy) == 0
        print('done')
        """
    )


def _child(arguments):
    x, packed = arguments
    return fastfc.linear(x, packed, threads=2)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_packed_weights_travel_to_a_pool(rng, method):
    """By pickle, however the processes start, and the result comes back the same."""
    x, weight = gaussian(rng, (70, 300), np.float32), gaussian(rng, (200, 300), np.float32)
    packed = fastfc.pack(weight)
    expected = fastfc.linear(x, packed, threads=2)
    with multiprocessing.get_context(method).Pool(2) as pool:
        for got in pool.map_async(_child, [(x, packed)] * 4).get(60):
            assert_same_bits(got, expected)


@openmp
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_no_more_threads_than_asked_for():
    result = python(
        "import os, fastfc, numpy as np\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "x, w = np.ones((300, 400), np.float32), np.ones((500, 400), np.float32)\n"
        "before = count()\n"
        "for _ in range(3): fastfc.linear(x[:2, :20], w[:3, :20], threads=8)\n"
        "small = count() - before\n"
        "fastfc.linear(x, w, threads=1)\n"
        "one = count() - before\n"
        "fastfc.linear(x, w, threads=3)\n"
        "import time\n"  # the workers come up beside the first call, which does not wait for them
        "for _ in range(500):\n"
        "    if count() - before >= 2: break\n"
        "    time.sleep(0.01)\n"
        "for _ in range(20): fastfc.linear(x, w, threads=3)\n"
        "print(small, one, count() - before)\n",
        OPENBLAS_NUM_THREADS="1",
    )
    assert result.stdout.split() == ["0", "0", "2"], result.stdout + result.stderr


# ---- Memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.measures_memory
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow():
    """10^5 calls over 10^3 shapes, forward, backward and packing, after a first round over all of them: flat within
    1 MiB, so that a leak of 11 bytes a call would be seen."""
    script = """
        import resource, numpy as np, fastfc
        rng = np.random.default_rng(0)
        shapes = [tuple(rng.integers(0, 60, 3)) for _ in range(1000)]
        def resident():
            with open('/proc/self/statm') as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        def calls(m, n, k):
            x, w, g = np.ones((m, k), np.float32), np.ones((n, k), np.float32), np.ones((m, n), np.float32)
            packed = fastfc.pack(w)
            fastfc.linear(x, packed, threads=2)
            fastfc.linear(x[:, ::-1], w, activation='relu', return_preactivation=True)
            fastfc.linear_backward(g, x, w, activation='relu', preactivation=g)
            csr = fastfc.CSR(w.ravel(), np.tile(np.arange(k), n), np.arange(n + 1) * k, (n, k))
            fastfc.linear(x, csr)
            fastfc.linear(csr, x)
            fastfc.linear_backward(g, x, csr)
            for bad in (w[:, :-1], 'w'):
                try:
                    fastfc.linear(x, bad)
                except (TypeError, ValueError):
                    pass
            packed.unpack()
        for shape in shapes:
            calls(*shape)
        for shape in shapes[:200]:
            calls(*shape)
        before = resident()
        for _ in range(10):
            for shape in shapes:
                calls(*shape)
        print(resident() - before)
        """
    result = python(textwrap.dedent(script))
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 1 << 20


@pytest.mark.measures_memory
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_no_memory_is_a_memory_error():
    """And leaves out untouched and everything usable."""
    script = """
        import resource, numpy as np, fastfc
        x = np.ones((1 << 21, 40), np.float32)
        w = np.ones((3, 40), np.float32)
        out = np.full((1 << 21, 3), 7, np.float32)
        fortran = np.asfortranarray(x)
        expected = fastfc.linear(x, w)
        with open('/proc/self/statm') as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
        for call in (
            lambda: fastfc.linear(fortran, w, out=out),
            lambda: fastfc.linear(x, np.ones((1 << 20, 40), np.float32)),
            lambda: fastfc.pack(np.broadcast_to(w[:1], (1 << 24, 40))),
        ):
            try:
                call()
            except MemoryError as error:
                print('MemoryError')
        assert (out == 7).all()
        assert (fastfc.linear(x[:1000], w) == expected[:1000]).all()
        """
    result = python(textwrap.dedent(script), FASTFC_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["MemoryError"] * 3
