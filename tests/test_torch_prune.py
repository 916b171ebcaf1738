"""Pruning against torch.nn.utils.prune: the same masks, and the same numbers after training under them."""

import numpy as np
import pytest

import fastfc
from fastfc import prune

torch = pytest.importorskip("torch", reason="what it compares with")
theirs = pytest.importorskip("torch.nn.utils.prune", reason="what it compares with")


def pair(dtype=np.float64):
    """The same three layers here and there."""
    rng = np.random.default_rng(0)
    ours = fastfc.Sequential(fastfc.Linear(12, 20, dtype=dtype, rng=rng), fastfc.Tanh(),
                             fastfc.Linear(20, 16, dtype=dtype, rng=rng), fastfc.Tanh(),
                             fastfc.Linear(16, 5, dtype=dtype, rng=rng))
    net = torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.Tanh(), torch.nn.Linear(20, 16), torch.nn.Tanh(),
                              torch.nn.Linear(16, 5)).to(torch.float64 if dtype == np.float64 else torch.float32)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})
    return ours, net


def same_masks(ours, net):
    for layer, other in zip(ours[::2], net[::2], strict=True):
        assert isinstance(layer, fastfc.MaskedLinear) == hasattr(other, "weight_mask")
        if isinstance(layer, fastfc.MaskedLinear):
            np.testing.assert_array_equal(layer.mask, other.weight_mask.numpy() != 0)


def test_masks_are_torchs():
    ours, net = pair()
    prune.l1_unstructured(ours, 0.7)
    for layer in net[::2]:
        theirs.l1_unstructured(layer, "weight", 0.7)
    same_masks(ours, net)

    ours, net = pair()
    prune.global_unstructured(ours, 0.7)
    theirs.global_unstructured([(layer, "weight") for layer in net[::2]], theirs.L1Unstructured, amount=0.7)
    same_masks(ours, net)

    for norm, axis in ((2, "outputs"), (1, "inputs"), (float("inf"), "outputs")):
        ours, net = pair()
        prune.ln_structured(ours, 0.4, norm=norm, axis=axis, layers=["0", "2"])
        for layer in net[:4:2]:
            theirs.ln_structured(layer, "weight", 0.4, n=norm, dim=0 if axis == "outputs" else 1)
        same_masks(ours, net)

    ours, net = pair()
    mask = np.random.default_rng(1).random((16, 20)) < 0.5
    prune.custom_from_mask(ours, {"2": mask})
    theirs.custom_from_mask(net[2], "weight", torch.from_numpy(mask))
    same_masks(ours, net)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_training_under_masks(dtype, tolerance):
    ours, net = pair(dtype)
    prune.l1_unstructured(ours, 0.8)
    for layer in net[::2]:
        theirs.l1_unstructured(layer, "weight", 0.8)
    optimizer = fastfc.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    other = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x = np.random.default_rng(2).standard_normal((9, 12)).astype(dtype)
    for _ in range(5):
        y, backward = ours.vjp(x)
        backward(y)
        optimizer.step()
        optimizer.zero_grad()
        other.zero_grad()
        (net(torch.from_numpy(x)) ** 2).sum().div(2).backward()
        other.step()
    prune.remove(ours)
    for layer in net[::2]:
        theirs.remove(layer, "weight")
    expected = net.state_dict()
    for name, array in ours.state_dict().items():
        wanted = expected[name].numpy()
        assert np.linalg.norm(array - wanted) <= tolerance * np.linalg.norm(wanted), name


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_sparse_products(dtype, tolerance):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(3)
    a = scipy_sparse.random_array((50, 40), density=0.2, format="csr", dtype=dtype, rng=rng)
    tensor = torch.sparse_csr_tensor(torch.from_numpy(a.indptr), torch.from_numpy(a.indices), torch.from_numpy(a.data),
                                     a.shape)
    for n in (1, 7, 33):
        b = rng.standard_normal((40, n)).astype(dtype)
        wanted = (tensor @ torch.from_numpy(b)).numpy()
        assert np.linalg.norm(fastfc.sparse_matmul(a, b) - wanted) <= tolerance * np.linalg.norm(wanted)
