"""Whatever a user does in whatever order: a model that is packed, trained, saved, copied, forked and called by threads
gives the bits of its twin, which is only ever trained."""

import copy
import os
import pickle
import select
import sys
import tempfile
import threading
import warnings

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from reference import assert_same_bits

import fastfc

WIDTHS = (5, 19, 4)


def model_of(kind, seed):
    k, hidden, n = WIDTHS
    first = {
        "dense": lambda: fastfc.Linear(k, hidden, activation="relu", rng=seed),
        "norm": lambda: fastfc.Sequential(fastfc.Linear(k, hidden, rng=seed), fastfc.ReLU(), fastfc.LayerNorm(hidden)),
        "sparse": lambda: fastfc.SparseLinear(k, hidden, sparsity=0.5, rng=seed),
        "block": lambda: fastfc.Sequential(
            fastfc.FeedForward(k, 8, 0.0, rng=seed), fastfc.Linear(k, hidden, rng=seed + 2)
        ),
    }[kind]()
    return fastfc.Sequential(first, fastfc.Linear(hidden, n, rng=seed + 1))


class States(RuleBasedStateMachine):
    @initialize(kind=st.sampled_from(["dense", "norm", "sparse", "block"]))
    def begin(self, kind):
        self.kind = kind
        self.model, self.twin = model_of(kind, 0), model_of(kind, 0)
        self.evaluating, self.packs, self.snapshot, self.structure = False, [], None, "plain"
        self.rng = np.random.default_rng(0)

    def teardown(self):
        fastfc.set_num_threads(1)

    # -- what both do -------------------------------------------------------------------------------------------------

    @rule(rows=st.integers(0, 9), lr=st.sampled_from([0.1, 0.01]))
    def step(self, rows, lr):
        x = self.rng.standard_normal((rows, WIDTHS[0]), dtype=np.float32)
        opt = fastfc.optim.SGD(self.model.parameters(), lr)
        if self.evaluating:
            # Gradients are there in eval() too, a step is not.
            y, backward = self.model.vjp(x)
            backward(np.ones_like(y))
            with pytest.raises(ValueError, match="read-only"):
                opt.step()
            opt.zero_grad()
            return
        for model in (self.model, self.twin):
            y, backward = model.vjp(x)
            backward(np.ones_like(y))
            opt = fastfc.optim.SGD(model.parameters(), lr)
            fastfc.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            opt.zero_grad()

    @rule(which=st.integers(0, 20))
    def assign(self, which):
        """Of a parameter's whole array: allowed in either mode, and packed anew in eval()."""
        names = list(self.model.named_parameters())
        name = names[which % len(names)]
        name = name if isinstance(name, str) else name[0]
        for model in (self.model, self.twin):
            parameter = dict(model.named_parameters())[name]
            parameter.data = np.full(parameter.shape, 0.25, parameter.dtype)

    @rule(which=st.integers(0, 20))
    def write(self, which):
        mine, other = (list(model.parameters()) for model in (self.model, self.twin))
        p, q = mine[which % len(mine)], other[which % len(mine)]
        if self.evaluating:
            with pytest.raises(ValueError, match="read-only"):
                p.data[...] = 1
        else:
            p.data[...] = q.data[...] = 0.5

    @precondition(lambda self: not self.evaluating and self.structure != "sparse")
    @rule(
        sparsity=st.sampled_from([0.0, 0.5, 0.9]),
        how=st.sampled_from(["l1_unstructured", "ln_structured", "blocks"]),
    )
    def prune(self, sparsity, how):
        if self.kind == "sparse" and how == "ln_structured":  # its only Linear has the model's own outputs
            how = "l1_unstructured"
        for model in (self.model, self.twin):
            getattr(fastfc.prune, how)(model, sparsity)
        self.structure, self.snapshot = "masked", None

    @precondition(lambda self: not self.evaluating and self.structure == "masked")
    @rule(what=st.sampled_from(["remove", "to_sparse"]))
    def finish_pruning(self, what):
        """A layer with an activation of its own has no sparse form, and says so."""
        if what == "to_sparse" and self.kind == "dense":
            with pytest.raises(ValueError, match="activation"):
                fastfc.prune.to_sparse(self.model)
            return
        for model in (self.model, self.twin):
            getattr(fastfc.prune, what)(model)
        self.structure, self.snapshot = "plain" if what == "remove" else "sparse", None

    @rule()
    def keep(self):
        self.snapshot = self.model.state_dict()

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def go_back(self):
        for model in (self.model, self.twin):
            model.load_state_dict(self.snapshot)

    # -- what only the model does ------------------------------------------------------------------------------------

    @rule()
    def evaluate(self):
        self.model.eval()
        self.evaluating = True

    @rule()
    def train(self):
        self.model.train()
        self.evaluating = False

    @rule(suffix=st.sampled_from([".npz", ".safetensors"]))
    def save_and_load(self, suffix):
        if suffix == ".safetensors":
            pytest.importorskip("safetensors")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model" + suffix)
            fastfc.save(path, self.model)
            if self.kind == "sparse" or self.structure != "plain":  # a structure that the constructor does not make
                self.model.load_state_dict(fastfc.load(path))
                return
            self.model = model_of(self.kind, 7).train(not self.evaluating)
            self.model.load_state_dict(fastfc.load(path))

    @rule(how=st.sampled_from([copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]))
    def duplicate(self, how):
        self.model = how(self.model)

    @rule(n=st.integers(1, 3))
    def set_threads(self, n):
        fastfc.set_num_threads(n)

    @rule()
    def pack(self):
        """A pack is of the weight as it was, whatever becomes of the model."""
        weight = next((p.data for p in self.model.parameters() if p.data.ndim == 2), None)
        if weight is not None:
            self.packs.append((fastfc.pack(weight), weight.copy()))

    @precondition(lambda self: self.packs)
    @rule(rows=st.integers(0, 40), which=st.integers(0, 20))
    def use_pack(self, rows, which):
        packed, weight = self.packs[which % len(self.packs)]
        x = self.rng.standard_normal((rows, weight.shape[1]), dtype=np.float32)
        assert_same_bits(fastfc.linear(x, packed), fastfc.linear(x, weight))

    @precondition(lambda self: self.evaluating)
    @rule(rows=st.integers(1, 300))
    def call_from_threads(self, rows):
        x = self.rng.standard_normal((rows, WIDTHS[0]), dtype=np.float32)
        expected, results = self.twin(x), [None] * 4

        def work(i):
            results[i] = self.model(x)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for y in results:
            assert_same_bits(y, expected)

    @precondition(lambda self: hasattr(os, "fork"))
    @rule(rows=st.integers(1, 300))
    def fork(self, rows):
        x = self.rng.standard_normal((rows, WIDTHS[0]), dtype=np.float32)
        expected = self.twin(x).tobytes()
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            try:
                right = self.model(x).tobytes() == expected
                os.write(writing, b"1" if right else b"0")
            finally:
                os._exit(0)
        os.close(writing)
        ready, _, _ = select.select([reading], [], [], 60)
        answer = os.read(reading, 1) if ready else b"hangs"
        os.close(reading)
        if not ready:
            os.kill(child, 9)
        os.waitpid(child, 0)
        assert answer == b"1"

    # -- what holds after each ---------------------------------------------------------------------------------------

    @invariant()
    def same(self):
        x = np.linspace(-2, 2, 3 * WIDTHS[0], dtype=np.float32).reshape(3, -1)
        assert_same_bits(self.model(x), self.twin(x))
        mine, other = self.model.state_dict(), self.twin.state_dict()
        assert mine.keys() == other.keys()
        for name in mine:
            assert_same_bits(mine[name], other[name], name) if mine[name].dtype.kind == "f" else None
            assert np.array_equal(mine[name], other[name], equal_nan=mine[name].dtype.kind == "f"), name


TestStates = States.TestCase
TestStates.settings = settings(max_examples=25 if sys.platform == "linux" else 5, stateful_step_count=25, deadline=None)
