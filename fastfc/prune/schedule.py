"""Pruning during `fit`: more and more, or others in their place."""

import math

import numpy as np

from fastfc import init
from fastfc.layers import MaskedLinear
from fastfc.layers.arguments import among
from fastfc.prune import tree
from fastfc.prune.masks import Units, keep_highest
from fastfc.prune.methods import prune_units
from fastfc.prune.scores import full_gradient, resolve
from fastfc.prune.tree import places, whole

__all__ = ["Gradual", "Regrow"]


class Gradual:
    """Prunes more and more during `fit`, which it is given to among the callbacks [1]_.

    In step t the share of zeros is ``s + (s0 - s) (1 - (t - begin) / (end - begin))³`` for t from `begin` to `end`,
    with s = `sparsity` and s0 = `initial`: much at first, when there is much to spare, and little at the end.

    Parameters
    ----------
    sparsity : float in [0, 1)
        Share of zeros at the end.
    begin, end : int
        Steps of the optimiser, counted from 0; 0 <= begin < end. Training should go on after `end`, so that the weights
        that are left can make up for the others.
    every : int >= 1
        Steps from one pruning to the next.
    initial : float in [0, sparsity]
    scores : {"magnitude", "gradient", "random"} or callable(layer) -> array
        As for `global_unstructured`, from the gradients of the step's batch.
    shape : (int, int)
        Prune blocks of so many outputs by inputs, see `blocks`.
    together : bool
        Rank all layers together instead of each layer's weights.
    layers : sequence of str, optional
        Names of the layers; all by default.
    rng : numpy.random.Generator, int or None
        For random scores.

    Attributes
    ----------
    steps : int
        Seen so far.
    pending : bool
        Whether there is pruning to come. Until then `fit` takes no epoch for the best one, nor loses its patience.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Notes
    -----
    What a mask hid does not come back. A pruning costs a pass over the scores and a selection; between them a
    step costs a product of mask and weight more than that of the dense layer.

    References
    ----------
    .. [1] M. Zhu, S. Gupta, To prune, or not to prune, arXiv:1710.01878

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> from fastfc import prune
    >>> rng = np.random.default_rng(0)
    >>> model = fastfc.Sequential(fastfc.Linear(8, 64, rng=rng), fastfc.ReLU(), fastfc.Linear(64, 2, rng=rng))
    >>> x, y = rng.standard_normal((256, 8), dtype=np.float32), rng.integers(0, 2, 256)
    >>> opt = fastfc.optim.SGD(model.parameters(), lr=0.1)
    >>> _ = fastfc.fit(model, x, y, loss=fastfc.CrossEntropyLoss(), optimizer=opt, epochs=5, rng=rng, progress=False,
    ...                callbacks=[prune.Gradual(0.75, end=24, every=4)])
    >>> prune.sparsity(model)
    0.75
    """

    def __init__(self, sparsity, *, begin=0, end, every=1, initial=0.0, scores="magnitude", shape=(1, 1),
                 together=False, layers=None, rng=None):
        name = "Gradual"
        self.sparsity = tree.fraction(name, "sparsity", sparsity)
        self.initial = tree.fraction(name, "initial", initial)
        self.begin, self.every = whole(name, "begin", begin, 0), whole(name, "every", every)
        self.end = whole(name, "end", end, self.begin + 1)
        if self.initial > self.sparsity:
            raise ValueError(f"{name}(): initial must be at most sparsity = {self.sparsity}, got {self.initial}")
        self.score = resolve(name, scores, init.generator(rng))
        self.units = Units(whole(name, "shape[0]", shape[0]), whole(name, "shape[1]", shape[1]))
        self.together, self.layers, self.steps = bool(together), layers, 0

    @property
    def pending(self):
        return self.steps <= self.end

    def at(self, step):
        """The share of zeros that step `step` asks for."""
        left = 1 - (min(max(step, self.begin), self.end) - self.begin) / (self.end - self.begin)
        return self.sparsity + (self.initial - self.sparsity) * left ** 3

    def before_step(self, model):
        """`fit` calls this."""
        step, self.steps = self.steps, self.steps + 1
        if self.begin <= step <= self.end and ((step - self.begin) % self.every == 0 or step == self.end):
            prune_units("Gradual", model, self.at(step), layers=self.layers, scores=self.score, units=self.units,
                        together=self.together)

    def __call__(self, model, history):
        """After an epoch there is nothing to do."""


class Regrow:
    """Trains sparse from the first step on: during `fit` it drops the smallest weights of each layer and grows as many
    others, so that the mask finds its places (SET [1]_, RigL [2]_).

    A share ``fraction/2 (1 + cos(π t / end))`` of the weights that are there is exchanged in each step t that is a
    multiple of `every`, until `end`. What grows begins at 0.

    Parameters
    ----------
    end : int >= 1
        Steps of the optimiser after which the mask stays; three quarters of training in RigL.
    every : int >= 1
    fraction : float in [0, 1)
    grow : {"gradient", "random"}
        Where the gradient is largest (RigL), or anywhere (SET).
    layers : sequence of str, optional
        Names of `MaskedLinear` layers; all of them by default.
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    steps, pending
        As for `Gradual`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the model has no `MaskedLinear`.

    Notes
    -----
    An exchange costs two selections among a layer's weights, and where the gradient decides the layer keeps one dense
    array more from each backward pass (`MaskedLinear.full_gradient`). The optimiser's states of exchanged weights stay:
    their momentum dies away by itself.

    References
    ----------
    .. [1] D. Mocanu et al., Nature Communications 9, 2018, arXiv:1707.04780
    .. [2] U. Evci et al., Rigging the Lottery, ICML 2020, arXiv:1911.11134

    Examples
    --------
    >>> import numpy as np, fastfc
    >>> from fastfc import prune
    >>> rng = np.random.default_rng(0)
    >>> model = fastfc.Sequential(fastfc.MaskedLinear(8, 64, sparsity=0.8, rng=rng), fastfc.ReLU(),
    ...                           fastfc.Linear(64, 2, rng=rng))
    >>> x, y, first = rng.standard_normal((256, 8), dtype=np.float32), rng.integers(0, 2, 256), model[0].mask
    >>> opt = fastfc.optim.SGD(model.parameters(), lr=0.1)
    >>> _ = fastfc.fit(model, x, y, loss=fastfc.CrossEntropyLoss(), optimizer=opt, epochs=5, rng=rng, progress=False,
    ...                callbacks=[prune.Regrow(end=30, every=4)])
    >>> model[0], bool((model[0].mask == first).all())
    (MaskedLinear(in_features=8, out_features=64, bias=True, kept=102), False)
    """

    def __init__(self, *, end, every=100, fraction=0.3, grow="gradient", layers=None, rng=None):
        name = "Regrow"
        self.end, self.every = whole(name, "end", end), whole(name, "every", every)
        self.fraction = tree.fraction(name, "fraction", fraction)
        if not among(grow, ("gradient", "random")):
            raise ValueError(f"{name}(): grow must be 'gradient' or 'random', got {grow!r}")
        self.grow, self.layers, self.rng, self.steps = grow, layers, init.generator(rng), 0

    @property
    def pending(self):
        return self.steps <= self.end - self.end % self.every

    def before_step(self, model):
        """`fit` calls this."""
        step, self.steps = self.steps, self.steps + 1
        # The gradient is kept in the passes of the step before which it is needed, and of no other.
        found = [place.layer for place in places("Regrow", model, self.layers, (MaskedLinear,))]
        if step and step % self.every == 0 and step <= self.end:
            share = self.fraction / 2 * (1 + math.cos(math.pi * step / self.end))
            for layer in found:
                self._exchange(layer, share)
        wanted = self.grow == "gradient" and self.steps % self.every == 0 and self.steps <= self.end
        for layer in found:
            layer.keep_full_gradient, layer.full_gradient = wanted, None

    def _exchange(self, layer, share):
        mask, weight = layer.mask, layer.weight.data
        kept = int(mask.sum())
        count = min(round(share * kept), mask.size - kept)
        stay = keep_highest(np.where(mask, np.abs(weight), -1.0), kept - count)
        if self.grow == "gradient":
            wish = np.abs(full_gradient(layer))
        else:
            wish = self.rng.random(mask.shape)
        # What was there a moment ago is not grown: it would be the old weights again.
        grown = keep_highest(np.where(mask, -1.0, wish), count)
        weight[grown] = 0
        if layer.weight.grad is not None:
            layer.weight.grad[mask & ~stay] = 0
        layer.mask = stay | grown

    def __call__(self, model, history):
        """After an epoch there is nothing to do."""

