"""Files that torch and fastfc exchange: the same names, the same layout, the same numbers."""

import numpy as np
import pytest

import fastfc

torch = pytest.importorskip("torch", reason="exchanges files with torch")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="the files are safetensors")


def pair():
    nn = torch.nn
    return (fastfc.Sequential(fastfc.Linear(5, 7, rng=0), fastfc.ReLU(), fastfc.Linear(7, 3, bias=False, rng=1)),
            nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3, bias=False)))


def compare(ours, theirs, rtol=1e-5):
    x = np.random.default_rng(0).standard_normal((4, 5), dtype=np.float32)
    with torch.no_grad():
        expected = theirs.float()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours(x), expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("eval_mode", [False, True])
def test_torch_reads_our_file(tmp_path, eval_mode):
    ours, theirs = pair()
    ours.train(not eval_mode)
    fastfc.save(tmp_path / "x.safetensors", ours)
    theirs.load_state_dict(safetensors_torch.load_file(tmp_path / "x.safetensors"), strict=True)
    compare(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_we_read_torchs_file(tmp_path, dtype):
    ours, theirs = pair()
    theirs.to(dtype)
    safetensors_torch.save_file(theirs.state_dict(), tmp_path / "x.safetensors", metadata={"format": "pt"})
    state = fastfc.load(tmp_path / "x.safetensors")
    assert state.metadata == {"format": "pt"}
    assert {array.dtype.name for array in state.values()} == {"float64" if dtype == torch.float64 else "float32"}
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(state[name], tensor.to(torch.float64).numpy())
    ours.load_state_dict(state)
    compare(ours, theirs)


def test_every_bfloat16_widens_as_in_torch(tmp_path):
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    safetensors_torch.save_file({"x": every}, tmp_path / "x.safetensors")
    widened = fastfc.load(tmp_path / "x.safetensors")["x"]
    np.testing.assert_array_equal(widened, every.float().numpy())
    assert np.array_equal(np.signbit(widened), torch.signbit(every).numpy())


def test_kept_bfloat16_goes_back_to_torch(tmp_path):
    pytest.importorskip("ml_dtypes", reason="has bfloat16 for numpy")
    weight = torch.randn(3, 4).bfloat16()
    safetensors_torch.save_file({"w": weight}, tmp_path / "x.safetensors")
    fastfc.save(tmp_path / "y.safetensors", fastfc.load(tmp_path / "x.safetensors", keep_dtype=True))
    back = safetensors_torch.load_file(tmp_path / "y.safetensors")["w"]
    assert back.dtype == torch.bfloat16 and torch.equal(back, weight)


def test_tensors_are_saved_as_they_are(tmp_path):
    _, theirs = pair()
    fastfc.save(tmp_path / "x.npz", theirs.state_dict())
    with np.load(tmp_path / "x.npz") as archive:
        for name, tensor in theirs.state_dict().items():
            np.testing.assert_array_equal(archive[name], tensor.numpy())
