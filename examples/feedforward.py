"""The feed-forward block of BERT-base (768-3072-768, gelu), with the weights of a block in torch.

    python examples/feedforward.py

Loads torch's state dict into `fastfc.FeedForward`, compares results and gradients, and measures: inference against its
two bare products, and its memory; with torch also against torch. torch is optional: without it the block has random
weights, and the comparison is left out.
"""

import argparse
import time
import tracemalloc

import numpy as np

import fastfc

D_MODEL, D_FF = 768, 3072
ROWS = (8, 64, 512)  # sequences times their length


def torch_block():
    """The block as a torch module with names as here, or None if torch is not installed."""
    try:
        import torch
    except ImportError:
        return None

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w1 = torch.nn.Linear(D_MODEL, D_FF)
            self.w2 = torch.nn.Linear(D_FF, D_MODEL)

        def forward(self, x):
            return self.w2(torch.nn.functional.gelu(self.w1(x)))

    torch.manual_seed(0)
    return Block()


def compare(block, theirs):
    """Differences of y, the gradient of x and those of the parameters from torch's, relative to the norm."""
    import torch

    rng = np.random.default_rng(1)
    x, grad_y = rng.standard_normal((2, 4, 16, D_MODEL), dtype=np.float32)
    y, backward = block.vjp(x)
    grad_x = backward(grad_y)
    x_torch = torch.from_numpy(x).requires_grad_()
    y_torch = theirs(x_torch)
    y_torch.backward(torch.from_numpy(grad_y))
    pairs = [(y, y_torch), (grad_x, x_torch.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(block.parameters(), theirs.parameters(), strict=True)]
    pairs = [(ours, tensor.detach().numpy()) for ours, tensor in pairs]
    return [float(np.linalg.norm(ours - other) / np.linalg.norm(other)) for ours, other in pairs]


def milliseconds(functions, seconds):
    """The lower quartile of the times of a call of each, taken in turn."""
    times = [[] for _ in functions]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 8:
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [1e3 * float(np.quantile(taken, 0.25)) for taken in times]


def array_memory(function):
    """Bytes of arrays that a call makes, at their most."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def main(seconds=1.0):
    block = fastfc.FeedForward(D_MODEL, D_FF, dropout=0.0, rng=0)
    theirs = torch_block()
    if theirs is None:
        print("torch is not installed: random weights, and the comparison with torch is left out.")
    else:
        block.load_state_dict(theirs.state_dict())
        worst = compare(block, theirs)
        print(f"With torch's weights: y differs from torch's by {worst[0]:.1e} of its norm, "
              f"gradients by at most {max(worst[1:]):.1e}.")
        if max(worst) > 1e-5:
            raise SystemExit("That is more than rounding explains.")

    block.eval()
    threads = fastfc.get_num_threads()
    print(f"\nInference, {threads} thread{'s' * (threads > 1)}, milliseconds a call:")
    print("rows   two bare products   block   its speed of theirs   " + "torch" * (theirs is not None))
    for rows in ROWS:
        x = np.random.default_rng(rows).standard_normal((rows, D_MODEL), dtype=np.float32)
        w1, w2 = block.w1.weight.operand, block.w2.weight.operand
        functions = [lambda: fastfc.linear(fastfc.linear(x, w1), w2), lambda: block(x)]  # noqa: B023
        bare, ours = milliseconds(functions, seconds)
        # On its own: threads of torch that still wait for work would take the time of others.
        other = [] if theirs is None else milliseconds([inference(theirs, x, threads)], seconds)
        print(f"{rows:4}   {bare:17.2f}   {ours:5.2f}   {bare / ours:19.0%}   " + "".join(f"{t:5.2f}" for t in other))
    print(f"\nAt {rows} rows the bare products make arrays of {array_memory(functions[0]) / 2**20:.1f} MiB, "
          f"the block of {array_memory(functions[1]) / 2**20:.1f} MiB, y alone;\n"
          "its intermediate passes through a workspace of 2.25 MiB.")


def inference(theirs, x, threads):
    import torch

    torch.set_num_threads(threads)
    tensor = torch.from_numpy(x)

    def call():
        with torch.inference_mode():
            return theirs(tensor)

    return call


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    main(0.05 if parser.parse_args().quick else 1.0)
