"""Size: train the classifier head of VGG-16 as it is, 25088-4096-4096-1000 with dropout, and say what that takes.

    python examples/vgg_head.py

124 million parameters, batches of 32 synthetic feature vectors (what the convolutions would give for 8 kinds of
image). Shows the time of a training step, forward, loss, backward and SGD with momentum, and the peak memory of the
process; where torch is installed, also torch's, each in a process of its own. Takes a minute and 2.5 GB of memory.
Needs nothing but fastfc.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

WIDTHS, BATCH = (25088, 4096, 4096, 1000), 32
QUICK_WIDTHS = (1568, 256, 256, 1000)
STEPS = 6


def features(inputs, batch):
    """Non-negative vectors around one prototype a kind, half of them zeros as after a ReLU; and the kinds."""
    rng = np.random.default_rng(0)
    prototypes = rng.standard_normal((8, inputs), dtype=np.float32)
    kinds = rng.integers(0, len(prototypes), batch)
    noise = rng.standard_normal((batch, inputs), dtype=np.float32)
    return np.maximum(prototypes[kinds] + noise, 0), kinds


def fastfc_steps(widths, steps):
    import fastfc

    rng = np.random.default_rng(0)
    a, b, c, d = widths
    model = fastfc.Sequential(
        fastfc.Linear(a, b, rng=rng), fastfc.ReLU(), fastfc.Dropout(0.5, rng=rng),
        fastfc.Linear(b, c, rng=rng), fastfc.ReLU(), fastfc.Dropout(0.5, rng=rng),
        fastfc.Linear(c, d, rng=rng))
    optimizer = fastfc.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, y = features(a, BATCH)
    # An epoch of one batch is a step.
    history = fastfc.fit(model, x, y, loss=fastfc.CrossEntropyLoss(), optimizer=optimizer, epochs=steps,
                         batch_size=BATCH, shuffle=False, progress=False)
    return history["seconds"], history["loss"]


def torch_steps(widths, steps):
    import torch

    a, b, c, d = widths
    nn = torch.nn
    model = nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.5), nn.Linear(b, c), nn.ReLU(), nn.Dropout(0.5),
                          nn.Linear(c, d))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    x, y = map(torch.from_numpy, features(a, BATCH))
    seconds, losses = [], []
    for _ in range(steps):
        start = time.perf_counter()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    return seconds, losses


def measure(library, quick):
    """Run one library's steps in a process of its own: its best step, its losses, its peak memory in bytes."""
    command = [sys.executable, *(["-I"] if sys.flags.isolated else []), __file__, "--library", library]
    run = subprocess.run([*command, *(["--quick"] if quick else [])], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="all but the last width a sixteenth")
    parser.add_argument("--library", choices=["fastfc", "torch"], help="only this one's numbers, as JSON")
    options = parser.parse_args()
    widths = QUICK_WIDTHS if options.quick else WIDTHS
    if options.library:
        run = fastfc_steps if options.library == "fastfc" else torch_steps
        seconds, losses = run(widths, STEPS)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": min(seconds), "losses": losses, "peak": peak}))
        return
    parameters = sum((k + 1) * n for k, n in zip(widths, widths[1:], strict=False))
    print(f"{'-'.join(map(str, widths))}, {parameters / 1e6:.1f} million parameters, batch {BATCH}:")
    print(f"  weights, gradients and momentum alone take {3 * 4 * parameters / 1e6:.0f} MB")
    for library in ("fastfc", "torch"):
        try:
            result = measure(library, options.quick)
        except subprocess.CalledProcessError:
            print(f"  {library}: not installed, or it failed")
            continue
        print(f"  {library:6}  {result['seconds'] * 1e3:6.0f} ms a step, peak memory {result['peak'] / 1e6:.0f} MB, "
              f"loss {result['losses'][0]:.2f} → {result['losses'][-1]:.2f} in {STEPS} steps")


if __name__ == "__main__":
    main()
