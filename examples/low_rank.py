"""Compression: replace a trained layer by two of low rank, and see what that costs in accuracy.

    python examples/low_rank.py

Trains a 64-256-256-10 network on scikit-learn's handwritten digits, then factors its 256 × 256 layer by SVD at ranks
from 1 up, without training again. Shows held-out accuracy and the error of the weight against the share of numbers
that is left, as a table and as a picture, low_rank.png. Needs scikit-learn for the data and matplotlib for the
picture: pip install fastfc scikit-learn matplotlib
"""

import argparse
import sys

import numpy as np

import fastfc

WIDTH = 256
RANKS = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128)


def trained(epochs):
    """A trained network in eval, and held-out images and labels."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)
    test, train = np.split(rng.permutation(len(x)), [len(x) // 4])
    model = fastfc.Sequential(fastfc.Linear(64, WIDTH, rng=rng), fastfc.ReLU(), fastfc.Linear(WIDTH, WIDTH, rng=rng),
                              fastfc.ReLU(), fastfc.Linear(WIDTH, 10, rng=rng))
    optimizer = fastfc.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.3)
    fastfc.fit(model, x[train], labels[train], loss=fastfc.CrossEntropyLoss(), optimizer=optimizer, epochs=epochs,
               schedule=fastfc.optim.CosineAnnealingLR(optimizer, epochs), rng=rng, progress=False)
    return model.eval(), x[test], labels[test]


def curve(model, x, labels):
    """Rank, share of the layer's numbers, relative error of its weight, held-out accuracy: one row a rank."""
    layer, rows = model[2], []
    weight = layer.weight.data
    for rank in RANKS:
        small = fastfc.LowRankLinear.from_linear(layer, rank=rank)
        product = small.B.weight.data @ small.A.weight.data
        error = float(np.linalg.norm(product - weight) / np.linalg.norm(weight))
        numbers = sum(p.data.size for p in small.parameters()) / sum(p.data.size for p in layer.parameters())
        compressed = fastfc.Sequential(*model[:2], small, *model[3:]).eval()
        rows.append((rank, numbers, error, float((compressed(x).argmax(1) == labels).mean())))
    return rows


def draw(rows, full, path):
    from matplotlib.figure import Figure

    ranks, numbers, errors, accuracies = zip(*rows, strict=True)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(100 * full, color="0.6", linestyle="--", label=f"as trained: {full:.1%}")
    axes.plot(100 * np.array(numbers), 100 * np.array(accuracies), "o-", label="held-out accuracy")
    axes.plot(100 * np.array(numbers), 100 * np.array(errors), "s:", color="#ff7f0e", label="error of the weight")
    for rank, share, accuracy in zip(ranks, numbers, accuracies, strict=True):
        axes.annotate(f"{rank}", (100 * share, 100 * accuracy), xytext=(0, 6), textcoords="offset points", fontsize=8,
                      ha="center")
    axes.set(xscale="log", xlabel="numbers left in the layer, % (the ranks stand at the points)", ylabel="%",
             ylim=(0, 108), title=f"A {WIDTH} × {WIDTH} layer at low rank")
    axes.legend(loc="center right")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 epochs of training instead of 30")
    parser.add_argument("--picture", default="low_rank.png", help="where it goes (default %(default)s)")
    options = parser.parse_args()
    try:
        import sklearn  # noqa: F401
    except ImportError:
        sys.exit("This example needs scikit-learn for its data: pip install scikit-learn")
    model, x, labels = trained(5 if options.quick else 30)
    full = float((model(x).argmax(1) == labels).mean())
    print(f"Held-out accuracy {full:.2%} as trained. The {WIDTH} × {WIDTH} layer at low rank:")
    print("  rank  numbers left  error of the weight  accuracy")
    rows = curve(model, x, labels)
    for rank, numbers, error, accuracy in rows:
        print(f"  {rank:4}  {numbers:12.1%}  {error:19.3f}  {accuracy:8.2%}")
    try:
        draw(rows, full, options.picture)
    except ImportError:
        print("No picture: matplotlib is not installed (pip install matplotlib)")
    else:
        print(f"Picture: {options.picture}")


if __name__ == "__main__":
    main()
