"""Pruning: nine tenths of a network's weights go during training, and what that does to accuracy, time and memory.

    python examples/prune.py

Two networks: 64-256-256-10 on scikit-learn's handwritten digits, and 256-1024-1024-20 on a synthetic task. Each is
trained dense; then trained on while `fastfc.prune.Gradual` hides more and more of the weights, up to 90 %, and a while
longer under the final mask; then its layers store what is left. Shows held-out accuracy, time and memory beside those
of the dense network, as a table and as a picture, prune.png. Needs scikit-learn for the digits and matplotlib for the
picture: pip install fastfc scikit-learn matplotlib
"""

import argparse
import sys
import time

import numpy as np

import fastfc
from fastfc import prune

SPARSITY, BATCH = 0.9, 64


def digits(rng):
    """Images and labels, three quarters to train on and one quarter held out, and the widths of a network for them."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    test, train = np.split(rng.permutation(len(images)), [len(images) // 4])
    x = (images / 16).astype(np.float32)
    return x[train], labels[train], x[test], labels[test], (64, 256, 256, 10)


def clusters(rng, samples=12_000, classes=20, centres=6, latent=24, features=256):
    """Classes of several clusters each in a space of few dimensions, seen through many features with noise."""
    places = 2.2 * rng.standard_normal((classes * centres, latent))
    which = rng.integers(0, classes * centres, samples)
    hidden = places[which] + rng.standard_normal((samples, latent))
    mix = rng.standard_normal((latent, features)) / np.sqrt(latent)
    x = (hidden @ mix + 0.5 * rng.standard_normal((samples, features))).astype(np.float32)
    cut = samples * 3 // 4
    return x[:cut], which[:cut] % classes, x[cut:], which[cut:] % classes, (features, 1024, 1024, classes)


def mlp(widths, rng):
    layers = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [fastfc.Linear(inputs, outputs, rng=rng), fastfc.ReLU()]
    return fastfc.Sequential(*layers[:-1])


def accuracy(logits, labels):
    return float((logits.argmax(axis=1) == labels).mean())


def train(model, data, epochs, lr, rng, callbacks=()):
    x, labels, x_test, labels_test = data
    optimizer = fastfc.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    return fastfc.fit(model, x, labels, loss=fastfc.CrossEntropyLoss(), optimizer=optimizer, epochs=epochs, rng=rng,
                      batch_size=BATCH, schedule=fastfc.optim.CosineAnnealingLR(optimizer, epochs), restore_best=False,
                      validation_data=(x_test, labels_test), metrics={"accuracy": accuracy}, callbacks=callbacks,
                      progress=False)


def seconds_per_batch(models, x, seconds=0.3):
    """The least time of a call of each model, measured in turn."""
    best = [np.inf] * len(models)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, model in enumerate(models):
            start = time.perf_counter()
            model(x)
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def run(name, load, epochs, prune_epochs):
    """Train, prune, and measure: everything that is shown of one task, as a dict."""
    rng = np.random.default_rng(0)
    *data, widths = load(rng)
    dense = mlp(widths, rng)
    train(dense, data, epochs, 2e-3, rng)

    model = mlp(widths, rng)
    model.load_state_dict(dense.state_dict())
    steps = -(-len(data[0]) // BATCH)
    curve = [(0.0, accuracy(dense(data[2]), data[3]))]

    def follow(model, history):
        curve.append((prune.sparsity(model), history[-1]["accuracy"]))

    # Two thirds of the epochs prune, one third makes up for it.
    gradual = prune.Gradual(SPARSITY, end=steps * prune_epochs * 2 // 3, every=max(1, steps // 4), together=True)
    train(model, data, prune_epochs, 2e-3, rng, [gradual, follow])
    sparse = prune.to_sparse(model).eval()
    dense.eval()

    x = np.resize(data[2], (BATCH, widths[0]))
    times = seconds_per_batch([dense, sparse], x)
    table = prune.report(sparse, batch=BATCH)
    return {"name": name, "curve": curve, "zeros": prune.sparsity(sparse), "report": table, "seconds": times,
            "accuracy": [accuracy(net(data[2]), data[3]) for net in (dense, sparse)],
            "bytes": (sum(table["dense_bytes"]), sum(table["bytes"]))}


def draw(results, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for result, colour in zip(results, ("#1f77b4", "#ff7f0e"), strict=False):
        zeros, points = zip(*result["curve"], strict=True)
        left.plot(range(len(points)), 100 * np.array(points), "o-", color=colour, markersize=3, label=result["name"])
        left.plot(range(len(zeros)), 100 * np.array(zeros), ":", color=colour)
    left.set(xlabel="epoch of pruning (dotted: zeros)", ylabel="held-out accuracy, %", ylim=(0, 103))
    left.legend(loc="lower right")
    names = [f"{result['name']}\n{what}" for result in results for what in ("time", "memory")]
    shares = [100 * part[1] / part[0] for result in results for part in (result["seconds"], result["bytes"])]
    bars = right.bar(names, shares, color=["#1f77b4"] * 2 + ["#ff7f0e"] * 2)
    right.bar_label(bars, fmt="%.0f")
    right.axhline(100, color="0.6", linestyle="--")
    right.set(ylabel="of the dense network, %", title=f"{SPARSITY:.0%} zeros, batch {BATCH}")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs, and a smaller synthetic task")
    parser.add_argument("--picture", default="prune.png", help="where it goes (default %(default)s)")
    options = parser.parse_args()
    try:
        import sklearn  # noqa: F401
    except ImportError:
        sys.exit("This example needs scikit-learn for its data: pip install scikit-learn")
    if options.quick:
        tasks = (("digits", digits, 8, 12), ("synthetic", lambda rng: clusters(rng, 2000, 10), 2, 3))
    else:
        tasks = (("digits", digits, 30, 45), ("synthetic", clusters, 10, 18))
    results = []
    print("task       zeros  accuracy dense  pruned   time dense   pruned  speed  memory dense   pruned")
    for task in tasks:
        result = run(*task)
        results.append(result)
        (dense, pruned), (slow, fast), (large, small) = (result[key] for key in ("accuracy", "seconds", "bytes"))
        print(f"{result['name']:9} {result['zeros']:6.1%} {dense:15.2%} {pruned:7.2%} {slow * 1e6:9.0f} µs "
              f"{fast * 1e6:5.0f} µs {slow / fast:5.2f}x {large / 1024:9.0f} KiB {small / 1024:4.0f} KiB", flush=True)
    for result in results:
        print(f"\n{result['name']}, layer by layer:\n{result['report']!r}")
    try:
        draw(results, options.picture)
    except ImportError:
        print("No picture: matplotlib is not installed (pip install matplotlib)")
    else:
        print(f"\nPicture: {options.picture}")


if __name__ == "__main__":
    main()
