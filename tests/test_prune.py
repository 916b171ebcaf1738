"""Pruning: which weights go, that they stay away, and what becomes of the model."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastfc
from fastfc import prune
from fastfc.prune.masks import Units, keep_highest, n_of_m


def model(seed=0, dtype=np.float32, between=fastfc.ReLU, bias=True):
    rng = np.random.default_rng(seed)
    return fastfc.Sequential(fastfc.Linear(12, 20, bias, dtype=dtype, rng=rng), between(),
                             fastfc.Linear(20, 16, bias, dtype=dtype, rng=rng), between(),
                             fastfc.Linear(16, 5, bias, dtype=dtype, rng=rng))


def masks(net):
    return [layer.mask for layer in net if isinstance(layer, fastfc.MaskedLinear)]


def x_of(net, rows=7, dtype=np.float32):
    return np.random.default_rng(9).standard_normal((rows, net[0].in_features)).astype(dtype)


# -- masks from scores -------------------------------------------------------------------------------------------------


@given(size=st.integers(0, 40), count=st.integers(0, 40), levels=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_the_highest_are_kept_and_of_equal_ones_the_first(size, count, levels, seed):
    count = min(size, count)
    scores = np.random.default_rng(seed).integers(0, levels, size).astype(float)
    expected = np.zeros(size, bool)
    expected[sorted(range(size), key=lambda i: (-scores[i], i))[:count]] = True
    np.testing.assert_array_equal(keep_highest(scores, count), expected)


@given(rows=st.integers(0, 9), groups=st.integers(0, 4), m=st.integers(1, 6), data=st.data())
def test_n_of_m_keeps_n_in_each_group(rows, groups, m, data):
    n, shared = data.draw(st.integers(1, m)), data.draw(st.integers(1, 4))
    scores = np.random.default_rng(data.draw(st.integers(0, 99))).random((rows, groups * m))
    mask = n_of_m(scores, n, m, shared)
    assert mask.shape == scores.shape
    for r in range(rows):
        together = range(r // shared * shared, min(r // shared * shared + shared, rows))
        for g in range(groups):
            group = slice(g * m, g * m + m)
            sums = scores[together, group].sum(axis=0)
            assert set(np.flatnonzero(mask[r, group])) == set(np.argsort(-sums, kind="stable")[:n])


@given(rows=st.integers(1, 9), cols=st.integers(1, 9), height=st.integers(1, 4), width=st.integers(1, 4),
       largest=st.booleans())
def test_units_are_joined_and_spread(rows, cols, height, width, largest):
    scores = np.random.default_rng(0).random((rows, cols))
    units, join = Units(height, width, largest), np.max if largest else np.mean
    joined = units.reduce(scores)
    spread = units.expand(joined > 0.5, scores.shape)
    for r in range(rows):
        for c in range(cols):
            i, j = r // height, c // width
            block = scores[i * height:(i + 1) * height, j * width:(j + 1) * width]
            assert joined[i, j] == pytest.approx(join(block))
            assert spread[r, c] == (joined[i, j] > 0.5)


# -- each way of pruning -----------------------------------------------------------------------------------------------


def test_smallest_of_each_layer():
    net = model()
    weights = [layer.weight.data.copy() for layer in net[::2]]
    assert prune.l1_unstructured(net, 0.75) is net
    for mask, w in zip(masks(net), weights, strict=True):
        assert mask.sum() == w.size - round(0.75 * w.size)
        assert np.abs(w[mask]).min() >= np.abs(w[~mask]).max()
    y = net(x_of(net))
    by_hand = copy.deepcopy(net)
    for layer, w, mask in zip(by_hand[::2], weights, masks(net), strict=True):
        layer.weight.data = w * mask
        layer.mask = np.ones_like(mask)
    np.testing.assert_array_equal(y, by_hand(x_of(net)))


def test_smallest_of_all_layers_together():
    net = model()
    net[4].weight.data *= 100
    prune.global_unstructured(net, 0.5)
    first, second, last = masks(net)
    assert last.all() and first.sum() + second.sum() + last.sum() == 640 - 320
    assert prune.sparsity(net) == 0.5
    least = min(np.abs(layer.weight.data[layer.mask]).min() for layer in net[::2])
    assert least >= max(np.abs(layer.weight.data[~layer.mask]).max() for layer in net[:4:2])


def test_random_is_the_seeds_and_has_the_count():
    a, b, c = (prune.random_unstructured(model(), 0.3, rng=seed) for seed in (1, 1, 2))
    for one, same, other in zip(masks(a), masks(b), masks(c), strict=True):
        assert (one == same).all() and (one != other).any()
        assert one.sum() == one.size - round(0.3 * one.size)


def test_scores_of_gradients_and_of_any_kind():
    net = model()
    with pytest.raises(ValueError, match="run a backward pass first"):
        prune.global_unstructured(net, 0.5, scores="gradient")
    assert not prune.is_pruned(net) and isinstance(net[0], fastfc.Linear)
    y, backward = net.vjp(x_of(net))
    backward(y)
    expected = np.abs(net[0].weight.data * net[0].weight.grad)
    prune.global_unstructured(net, 0.5, scores="gradient", layers=["0"])
    assert expected[net[0].mask].min() >= expected[~net[0].mask].max()
    score = np.arange(320.0).reshape(16, 20)
    prune.global_unstructured(net, 0.25, scores=lambda layer: score, layers=["2"])
    np.testing.assert_array_equal(net[2].mask, score >= 80)


def test_n_m_and_blocks():
    net = prune.n_m(model(), 2, 4)
    for layer in net[::2]:
        groups = layer.mask.reshape(layer.out_features, -1, 4)
        assert (groups.sum(axis=2) == 2).all()
        w = np.abs(layer.weight.data).reshape(groups.shape)
        assert (np.where(groups, w, np.inf).min(axis=2) >= np.where(groups, 0, w).max(axis=2)).all()
    shared = prune.n_m(model(), 1, 4, shared=16)[2].mask
    assert (shared == shared[:1]).all()
    twice = prune.n_m(prune.n_m(model(), 3, 4, shared=3), 1, 4, shared=3)
    assert all((mask.reshape(len(mask), -1, 4).sum(axis=2) == 1).all() for mask in masks(twice))
    net = prune.blocks(model(), 0.5, (4, 4))
    for mask in (net[0].mask, net[2].mask):
        blocks = mask.reshape(mask.shape[0] // 4, 4, mask.shape[1] // 4, 4).sum(axis=(1, 3))
        assert set(np.unique(blocks)) == {0, 16} and (blocks == 0).sum() == round(blocks.size / 2)
    assert prune.blocks(model(), 0.5, (4, 4))[4].mask.shape == (5, 16)  # one row of blocks is not full


def test_what_is_hidden_stays_hidden_and_counts():
    net = prune.random_unstructured(model(), 0.5, rng=0)
    before = masks(net)
    prune.l1_unstructured(net, 0.75)
    for old, new in zip(before, masks(net), strict=True):
        assert not (new & ~old).any() and new.sum() == new.size - round(0.75 * new.size)
    prune.l1_unstructured(net, 0.1)  # less than there is: nothing comes back
    assert prune.sparsity(net) == 0.75


def test_custom_masks():
    keep = np.zeros((20, 12))
    keep[3] = 1
    net = prune.custom_from_mask(model(), {"0": keep})
    np.testing.assert_array_equal(net[0].mask, keep == 1)
    assert isinstance(net[2], fastfc.Linear)
    prune.custom_from_mask(net, {"0": 1 - keep})
    assert not net[0].mask.any()
    with pytest.raises(ValueError, match=r"layer 2: .*mask must have shape \(16, 20\), got \(20, 12\)"):
        prune.custom_from_mask(net, {"0": keep, "2": keep})
    with pytest.raises(TypeError, match="mapping"):
        prune.custom_from_mask(net, keep)


def test_models_of_other_kinds():
    layer = fastfc.Linear(4, 3, rng=0)
    assert isinstance(prune.l1_unstructured(layer, 0.5), fastfc.MaskedLinear)

    class Net(fastfc.Module):
        def __init__(self):
            self.body, self.head = model(), fastfc.Linear(5, 2, rng=1)
            self.block = fastfc.FeedForward(8, 16, rng=2)

    net = Net()
    prune.l1_unstructured(net, 0.5, layers=["body.2", "head"])
    assert isinstance(net.head, fastfc.MaskedLinear) and isinstance(net.body[2], fastfc.MaskedLinear)
    assert isinstance(net.body[0], fastfc.Linear)
    with pytest.raises(ValueError, match="names 'block.linear1'|names 'block.linear_1'|names 'block"):
        prune.l1_unstructured(net, 0.5, layers=["block.linear1"])
    named = fastfc.Sequential({"a": fastfc.Linear(4, 3), "b": fastfc.Linear(3, 2)})
    prune.l1_unstructured(named, 0.5, layers=["b"])
    assert list(named.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias", "b.mask"]


@pytest.mark.parametrize("frozen", [False, True])
def test_in_eval_as_in_training(frozen):
    net = model().train(not frozen)
    other = prune.l1_unstructured(model(), 0.8)
    prune.l1_unstructured(net, 0.8)
    x = x_of(net)
    assert net[0].weight.frozen == frozen and net[0].training != frozen
    np.testing.assert_array_equal(net(x), other(x))
    with pytest.raises(ValueError) if frozen else np.errstate():
        net[0].weight.data[0, 0] = 3
    plain = prune.remove(copy.deepcopy(other.train(not frozen)))
    assert type(plain[0]) is fastfc.Linear and (plain[0].weight.data == 0).mean() >= 0.8
    assert plain[0].weight.frozen == frozen
    np.testing.assert_allclose(plain(x), other(x), rtol=1e-5, atol=1e-6)
    sparse = prune.to_sparse(copy.deepcopy(other))
    assert type(sparse[0]) is fastfc.SparseLinear and sparse[0].training != frozen
    np.testing.assert_allclose(sparse(x), other(x), rtol=1e-4, atol=1e-6)
    assert prune.sparsity(sparse) == prune.sparsity(other)
    mixed = prune.l1_unstructured(prune.l1_unstructured(model(), 0.9, layers=["0"]), 0.2, layers=["2"])
    prune.to_sparse(mixed, at_least=0.5)
    assert [type(layer).__name__ for layer in mixed[::2]] == ["SparseLinear", "Linear", "Linear"]


def test_an_optimiser_goes_on_and_masks_stay():
    for make in (fastfc.optim.AdamW, lambda p, lr: fastfc.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=0.1)):
        net = model()
        opt = make(net.parameters(), lr=0.01)
        x = x_of(net)

        def step(net, x, opt):
            y, backward = net.vjp(x)
            backward(y)
            opt.step()
            opt.zero_grad()

        step(net, x, opt)
        prune.l1_unstructured(net, 0.9)
        assert opt.params == list(net.parameters())
        before, y = masks(net), net(x)
        for _ in range(5):
            step(net, x, opt)
        assert (net(x) != y).any()
        assert all((a == b).all() for a, b in zip(before, masks(net), strict=True))
        stored = prune.to_sparse(net)[0].to_dense()
        assert not stored[~before[0]].any()


# -- shrinking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [fastfc.ReLU, fastfc.Sigmoid, fastfc.Softplus, fastfc.Identity,
                                     lambda: fastfc.Dropout(0.5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("axis", ["outputs", "inputs"])
def test_shrinking_computes_the_same(between, bias, axis):
    net = model(dtype=np.float64, between=between, bias=bias)
    prune.ln_structured(net, 0.5, axis=axis)
    net.eval()
    x = x_of(net, dtype=np.float64)
    y = net(x)
    assert prune.shrink(net) is net
    assert [layer.weight.shape for layer in net[::2]] == [(10, 12), (8, 10), (5, 8)]
    assert all(type(layer) is fastfc.Linear for layer in net[::2]) and not net[0].training
    np.testing.assert_allclose(net(x), y, rtol=1e-12, atol=1e-12)
    net.train().vjp(x)[1](y)


def test_shrinking_with_other_masks_activations_and_nesting():
    rng = np.random.default_rng(0)
    net = fastfc.Sequential(fastfc.Linear(6, 8, activation="sigmoid", dtype=np.float64, rng=rng),
                            fastfc.Sequential(fastfc.Linear(8, 8, dtype=np.float64, rng=rng), fastfc.Tanh()),
                            fastfc.Linear(8, 4, False, dtype=np.float64, rng=rng))
    prune.ln_structured(net, 0.25)
    prune.l1_unstructured(net, 0.5, layers=["0", "1.0"])
    x = rng.standard_normal((5, 6))
    y = net(x)
    prune.shrink(net)
    assert isinstance(net[0], fastfc.MaskedLinear) and net[0].out_features == 6 == net[1][0].in_features
    assert net[2].bias is not None  # the constants of hidden outputs
    np.testing.assert_allclose(net(x), y, rtol=1e-12, atol=1e-12)
    again = net.state_dict()
    prune.shrink(net)  # nothing left to do
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, again[name])


def test_what_loses_its_last_use_goes_too():
    net = model(dtype=np.float64)
    keep = np.ones((16, 20), bool)
    keep[:, 3] = False
    keep[4, :] = False
    keep[4, 7] = True
    last = np.ones((5, 16), bool)
    last[:, 4] = False  # the only user of the rest of row 4
    keep[np.arange(16) != 4, 7] = False  # output 7 of the first layer is used by row 4 alone
    prune.custom_from_mask(net, {"2": keep, "4": last})
    y = net(x_of(net, dtype=np.float64))
    prune.shrink(net)
    assert [layer.weight.shape for layer in net[::2]] == [(18, 12), (15, 18), (5, 15)]
    np.testing.assert_allclose(net(x_of(net, dtype=np.float64)), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", [fastfc.LayerNorm, fastfc.RMSNorm,
                                  lambda n: fastfc.LayerNorm(n, elementwise_affine=False)])
def test_a_norm_follows(norm):
    rng = np.random.default_rng(0)
    net = fastfc.Sequential(fastfc.Linear(6, 8, rng=rng), norm(8), fastfc.ReLU(), fastfc.Linear(8, 4, rng=rng))
    if net[1].weight is not None:
        net[1].weight.data = np.arange(8, dtype=np.float32)
    prune.ln_structured(net, 0.5)
    keep = np.flatnonzero(net[0].mask.any(axis=1))
    prune.shrink(net)
    assert net[1].normalized_shape == (4,)
    if net[1].weight is not None:
        np.testing.assert_array_equal(net[1].weight.data, keep)
    assert net(np.ones((3, 6), np.float32)).shape == (3, 4)


def test_shrinking_refuses_what_cannot_follow():
    for layer in (fastfc.Softmax(), fastfc.Flatten(), fastfc.GroupedLinear(8, 8, 2), fastfc.SparseLinear(8, 8)):
        net = fastfc.Sequential(fastfc.Linear(6, 8, rng=0), layer, fastfc.Linear(8, 4, rng=1))
        prune.ln_structured(net, 0.5, layers=["0"])
        before = net.state_dict()
        with pytest.raises(ValueError, match=rf"layer 1, {type(layer).__name__}.* cannot follow .* layer 0"):
            prune.shrink(net)
        assert list(net.state_dict()) == list(before)
    with pytest.raises(TypeError, match="must be a Sequential, got Linear"):
        prune.shrink(fastfc.Linear(3, 2))
    net = model()  # nothing hidden: nothing to refuse
    net.insert(1, fastfc.Softmax())
    prune.shrink(net)
    net = prune.ln_structured(model(), 0.5, layers=["4"])  # the model's own outputs stay
    assert prune.shrink(net)[4].out_features == 5


# -- during fit --------------------------------------------------------------------------------------------------------


def task(seed=0, n=192):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 12), dtype=np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(int) + 2 * (x[:, 2] > 0)


def run(net, callbacks, epochs=6, **options):
    x, y = task()
    opt = fastfc.optim.AdamW(net.parameters(), lr=0.01)
    return fastfc.fit(net, x, y, loss=fastfc.CrossEntropyLoss(), optimizer=opt, epochs=epochs, rng=0, progress=False,
                      callbacks=callbacks, **options)


def test_gradual_follows_the_cubic_and_ends_exactly():
    net, seen = model(), []
    gradual = prune.Gradual(0.8, begin=4, end=24, every=5, initial=0.1)
    spy = type("Spy", (), {"before_step": lambda self, net: seen.append(prune.sparsity(net)),
                           "__call__": lambda self, *a: None})()
    run(net, [gradual, spy])
    assert len(seen) == 36 and seen[:4] == [0] * 4
    for step in range(4, 36):
        t = min((step - 4) // 5 * 5, 20)
        assert seen[step] == pytest.approx(0.8 - 0.7 * (1 - t / 20) ** 3, abs=2e-3)
        assert seen[step] == pytest.approx(gradual.at(min(step - (step - 4) % 5, 24)), abs=2e-3)
    assert prune.sparsity(net) == pytest.approx(0.8, abs=1e-9) and not gradual.pending and gradual.steps == 36
    uneven = prune.Gradual(0.5, end=7, every=5)  # the last step is no multiple
    net = model()
    run(net, [uneven], epochs=2)
    assert prune.sparsity(net) == 0.5


class Rising(fastfc.CrossEntropyLoss):
    """Of validation data each value is above the one before."""

    calls = 0

    def __call__(self, x, target):
        self.calls += 1
        return float(self.calls)


def test_no_epoch_is_the_best_before_the_end_of_pruning():
    net = model()
    opt = fastfc.optim.SGD(net.parameters(), lr=0.01)
    history = fastfc.fit(net, *task(), loss=Rising(), optimizer=opt, epochs=12, rng=0, progress=False, patience=3,
                         callbacks=[prune.Gradual(0.9, end=23)], validation_data=task(1))
    assert history.best_epoch == 4 and prune.sparsity(net) == pytest.approx(0.9, abs=1e-3)
    assert len(history) == 7  # patience counts from the end of pruning


@pytest.mark.parametrize("options", [{"scores": "gradient"}, {"scores": "random", "rng": 0}, {"shape": (4, 2)},
                                     {"together": True}, {"layers": ["0", "2"]}])
def test_gradual_of_every_kind(options):
    net = model()
    run(net, [prune.Gradual(0.5, end=10, every=2, **options)], epochs=3)
    assert prune.sparsity(prune.to_sparse(net)) == pytest.approx(0.5 if "layers" not in options else 0.4375, abs=0.02)


def test_movement():
    net, movement = model(), prune.Movement()
    start, totals = net[0].weight.data.copy(), np.zeros((20, 12))

    def total(self, net):
        totals[...] -= net[0].weight.data * net[0].weight.grad

    spy = type("Spy", (), {"before_step": total, "__call__": lambda self, *a: None})()
    run(net, [movement, spy])
    assert movement.steps == 36 and (start != net[0].weight.data).any()
    np.testing.assert_allclose(movement(net[0]), totals, rtol=1e-4, atol=1e-6)
    prune.global_unstructured(net, 0.5, scores=movement, layers=["0"])
    assert totals[net[0].mask].min() >= totals[~net[0].mask].max() - 1e-5
    with pytest.raises(ValueError, match="no step"):
        prune.global_unstructured(model(), 0.5, scores=movement)
    net, movement = model(), prune.Movement()
    run(net, [movement, prune.Gradual(0.9, begin=6, end=20, every=3, scores=movement)])
    assert prune.sparsity(net) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("grow", ["gradient", "random"])
def test_regrow_keeps_the_count_and_moves_the_mask(grow):
    net = model()
    net[0] = fastfc.MaskedLinear(12, 20, sparsity=0.8, rng=0)
    seen, first = [], net[0].mask

    def look(self, net):
        seen.append(net[0].mask)
        fresh = net[0].mask & ~seen[-2] if len(seen) > 1 else np.zeros_like(first)
        assert not net[0].weight.data[fresh].any()

    spy = type("Spy", (), {"before_step": look, "__call__": lambda self, *a: None})()
    regrow = prune.Regrow(end=30, every=6, fraction=0.4, grow=grow, rng=3)
    run(net, [regrow, spy])
    assert {mask.sum() for mask in seen} == {first.sum()}
    changed = [t for t in range(1, 36) if (seen[t] != seen[t - 1]).any()]
    assert changed == [6, 12, 18, 24] and not regrow.pending and net[0].full_gradient is None
    assert not net[0].keep_full_gradient
    for t in changed:
        share = 0.2 * (1 + math.cos(math.pi * t / 30))
        assert (seen[t] & ~seen[t - 1]).sum() == round(share * first.sum())


def test_regrow_grows_where_the_gradient_is_largest():
    layer = fastfc.MaskedLinear(6, 4, sparsity=0.5, rng=0)
    net = fastfc.Sequential(layer)
    regrow = prune.Regrow(end=10, every=1, fraction=0.5)
    x = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    for step in range(2):
        net.zero_grad()
        y, backward = net.vjp(x)
        g = np.random.default_rng(step).standard_normal(y.shape).astype(np.float32)
        backward(g)
        before, w = layer.mask, layer.weight.data.copy()
        regrow.before_step(net)
    full = np.abs(g.T @ x)
    grown, dropped = layer.mask & ~before, before & ~layer.mask
    assert grown.sum() == dropped.sum() > 0
    assert full[grown].min() >= full[~before & ~grown].max()
    assert np.abs(w[dropped]).max() <= np.abs(w[before & ~dropped]).min()


# -- the report --------------------------------------------------------------------------------------------------------


def test_report():
    net = fastfc.Sequential(fastfc.Linear(64, 300, rng=0), fastfc.ReLU(), fastfc.Linear(300, 300, rng=1), fastfc.ReLU(),
                            fastfc.Linear(300, 10, rng=2))
    prune.l1_unstructured(net, 0.9, layers=["0", "2"])
    prune.to_sparse(net, layers=["2"])
    before = net.state_dict()
    table = prune.report(net, batch=16, seconds=0.002)
    assert table["layer"] == ["0", "2", "4"] and len(table) == 3 and table[1]["layer"] == "2"
    assert table["format"][0] == "masked" and table["format"][2] == "dense"
    assert table["zeros"] == pytest.approx([0.9, 0.9, 0.0])
    assert table["dense_bytes"] == [4 * 64 * 300, 4 * 300 * 300, 4 * 3000]
    assert table["bytes"][1] < table["dense_bytes"][1] / 3
    assert all(speed > 0 for speed in table["measured"]) and table["expected"][1] > 1
    lines = repr(table).splitlines()
    assert len(lines) == 6 and lines[0].split()[:2] == ["layer", "out"]
    assert "90.0%" in lines[2] and "batch 16" in lines[-1]
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert prune.report(net, measure=False, threads=1)["measured"] == [None] * 3
    assert [row["layer"] for row in prune.report(net, measure=True, seconds=1e-6, threads=2)] == ["0", "2", "4"]


# -- mistakes ----------------------------------------------------------------------------------------------------------

SPARSITY = (lambda s: prune.l1_unstructured(model(), s), lambda s: prune.random_unstructured(model(), s),
            lambda s: prune.global_unstructured(model(), s), lambda s: prune.blocks(model(), s, (4, 4)),
            lambda s: prune.ln_structured(model(), s), lambda s: prune.random_structured(model(), s),
            lambda s: prune.Gradual(s, end=3))


@pytest.mark.parametrize("call", SPARSITY)
def test_sparsity_must_be_a_share(call):
    for wrong in (-0.1, 1, 1.0, 1.5, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got"):
            call(wrong)
    for wrong in ("0.5", None, True, [0.5]):
        with pytest.raises(TypeError, match="sparsity must be a number"):
            call(wrong)


@pytest.mark.parametrize("call, error, text", [
    (lambda: prune.l1_unstructured(np.ones((3, 3)), 0.5), TypeError, "model must be a Module, got ndarray"),
    (lambda: prune.l1_unstructured(fastfc.ReLU(), 0.5), ValueError, "no Linear or MaskedLinear"),
    (lambda: prune.l1_unstructured(model(), 0.5, layers=["1"]), ValueError, "names '1', the model has 0, 2, 4"),
    (lambda: prune.l1_unstructured(model(), 0.5, layers="0"), TypeError, "sequence of names"),
    (lambda: prune.l1_unstructured(fastfc.LazyLinear(3), 0.5), ValueError, "no Linear|uninitialised"),
    (lambda: prune.global_unstructured(model(), 0.5, scores="hessian"), ValueError, "scores must be .*'hessian'"),
    (lambda: prune.global_unstructured(model(), 0.5, scores=3), TypeError, "scores must be"),
    (lambda: prune.global_unstructured(model(), 0.5, scores=lambda layer: np.ones(3)), ValueError,
     r"scores of layer 0 must be numbers of the weight's shape \(20, 12\), got float64 of shape \(3,\)"),
    (lambda: prune.global_unstructured(model(), 0.5, scores=lambda layer: layer.weight.data * np.nan), ValueError,
     r"score of weight\[0, 0\] of layer 0 is NaN"),
    (lambda: prune.n_m(model(), 2, 5), ValueError, "m = 5 does not divide the 12 in_features of layer 0"),
    (lambda: prune.n_m(model(), 3, 2), ValueError, "n must be at most m = 2, got 3"),
    (lambda: prune.n_m(model(), 0, 4), ValueError, "n must be >= 1, got 0"),
    (lambda: prune.n_m(model(), 2.0, 4), TypeError, "n must be an integer, got float"),
    (lambda: prune.n_m(model(), 2, 4, shared=0), ValueError, "shared must be >= 1"),
    (lambda: prune.blocks(model(), 0.5, (0, 1)), ValueError, r"shape\[0\] must be >= 1, got 0"),
    (lambda: prune.blocks(model(), 0.5, 16), TypeError, "shape must be two integers"),
    (lambda: prune.ln_structured(model(), 0.5, axis="rows"), ValueError,
     "axis must be 'outputs' or 'inputs', got 'rows'"),
    (lambda: prune.ln_structured(model(), 0.5, norm=0), ValueError, "norm must be > 0, got 0"),
    (lambda: prune.ln_structured(fastfc.Linear(3, 2), 0.5), ValueError, "the model's own outputs"),
    (lambda: prune.remove(model()), ValueError, "the model has no MaskedLinear"),
    (lambda: prune.to_sparse(prune.l1_unstructured(fastfc.Linear(3, 2, activation="relu"), 0.5)), ValueError,
     "layer MaskedLinear: .*no activation"),
    (lambda: prune.Gradual(0.5, end=0), ValueError, "end must be >= 1, got 0"),
    (lambda: prune.Gradual(0.5, begin=5, end=5), ValueError, "end must be >= 6, got 5"),
    (lambda: prune.Gradual(0.5, end=5, every=0), ValueError, "every must be >= 1"),
    (lambda: prune.Gradual(0.5, end=5, initial=0.6), ValueError, "initial must be at most sparsity"),
    (lambda: prune.Regrow(end=5, grow="up"), ValueError, "grow must be 'gradient' or 'random', got 'up'"),
    (lambda: prune.ln_structured(model(), 0.5, layers=np.ones((2, 2))), ValueError, "layers names array"),
    (lambda: prune.ln_structured(model(), 0.5, together=np.ones(2)), TypeError, "together must be a bool, got ndarray"),
    (lambda: prune.Regrow(end=5, grow=np.array(["random", "up"])), ValueError, "or 'random', got array"),
    (lambda: prune.Regrow(end=5, fraction=1.0), ValueError, r"fraction must be in \[0, 1\), got 1.0"),
    (lambda: prune.report(np.ones(3)), TypeError, "model must be a Module"),
    (lambda: prune.is_pruned([]), TypeError, r"is_pruned\(\): model must be a Module, got list"),
    (lambda: prune.sparsity(3), TypeError, r"sparsity\(\): model must be a Module, got int"),
    (lambda: prune.l1_unstructured(model(), 0.5, layers=np.zeros(())), TypeError, "layers must be a sequence of names"),
    (lambda: prune.ln_structured(model(), 0.5, axis=np.zeros(2)), ValueError, "axis must be 'outputs' or 'inputs'"),
    (lambda: prune.blocks(model(), 0.5, (1, 2, 3)), TypeError, "shape must be two integers"),
    (lambda: prune.report(model(), batch=0), ValueError, "batch must be >= 1, got 0"),
    (lambda: fastfc.MaskedLinear.from_linear(fastfc.ReLU(), [[1]]), TypeError, "linear must be a Linear, got ReLU"),
])
def test_mistakes_are_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_mistake_leaves_the_model_as_it_was():
    net = model()
    net[4].weight.data[0, 0] = np.nan
    for call in (lambda: prune.l1_unstructured(net, 0.5), lambda: prune.n_m(net, 1, 4), lambda: prune.blocks(net, 0.5)):
        with pytest.raises(ValueError, match=r"weight\[0, 0\] of layer 4 is NaN"):
            call()
        assert all(type(layer) is not fastfc.MaskedLinear for layer in net)
