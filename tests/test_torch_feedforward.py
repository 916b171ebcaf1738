"""FeedForward and checkpoint against the same block in torch: values and all gradients, relative to the norm."""

import numpy as np
import pytest

import fastfc

torch = pytest.importorskip("torch", reason="compares with torch's modules")

TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}
# name -> (gated, torch's function)
BLOCKS = {
    "gelu": (False, torch.nn.functional.gelu),
    "relu": (False, torch.nn.functional.relu),
    "gelu_tanh": (False, lambda z: torch.nn.functional.gelu(z, approximate="tanh")),
    "silu": (False, torch.nn.functional.silu),
    "swiglu": (True, torch.nn.functional.silu),
    "geglu": (True, torch.nn.functional.gelu),
}


class Block(torch.nn.Module):
    def __init__(self, d_model, d_ff, function, gated, bias):
        super().__init__()
        self.w1 = torch.nn.Linear(d_model, d_ff, bias)
        self.w2 = torch.nn.Linear(d_ff, d_model, bias)
        self.w3 = torch.nn.Linear(d_model, d_ff, bias) if gated else None
        self.function = function
        self.mask = 1.0  # of the dropout, with its factor

    def forward(self, x):
        h = self.function(self.w1(x))
        return self.w2((h if self.w3 is None else h * self.w3(x)) * self.mask)


def close(ours, theirs, what):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert np.linalg.norm(ours - theirs) <= TOLERANCE[ours.dtype] * np.linalg.norm(theirs), what


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("how", ["plain", "recompute", "checkpoint"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_parity(name, dtype, bias, how, dropout):
    torch.manual_seed(0)
    gated, function = BLOCKS[name]
    theirs = Block(48, 200, function, gated, bias).to(torch.float32 if dtype == np.float32 else torch.float64)
    recompute = how == "recompute"
    ours = fastfc.FeedForward(48, 200, dropout, activation=name, bias=bias, recompute=recompute, dtype=dtype, rng=0)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(1)
    x, grad_y = rng.standard_normal((2, 4, 7, 48)).astype(dtype)
    if dropout:  # torch is given our mask
        mask = ours.dropout(np.ones((4, 7, 200), dtype))
        ours.dropout.calls = 0
        assert set(np.unique(mask)) == {0, dtype(1) / dtype(1 - dropout)}
        theirs.mask = torch.from_numpy(mask)

    model = fastfc.checkpoint(ours) if how == "checkpoint" else ours
    y, backward = model.vjp(x)
    gx = backward(grad_y)
    xt = torch.from_numpy(x).requires_grad_()
    yt = theirs(xt)
    yt.backward(torch.from_numpy(grad_y))
    close(y, yt, "y")
    close(gx, xt.grad, "x")
    for (key, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        close(mine.grad, other.grad, key)
    theirs.mask = 1.0
    close(model.eval()(x), theirs(xt), "y in eval")
