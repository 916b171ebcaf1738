"""Classification: train a 64-128-10 network on scikit-learn's handwritten digits, and run the trained network.

    python examples/digits.py

1,797 images of 8 × 8 pixels, three quarters to train on, one quarter held out. Shows `fastfc.fit` with a schedule of
the learning rate, the accuracy on images that the network has not seen, and what inference costs. Needs scikit-learn
for the data: pip install fastfc scikit-learn
"""

import argparse
import sys
import time

import numpy as np

import fastfc

EPOCHS, BATCH = 30, 16


def train_digits(seed=0, quiet=False, epochs=EPOCHS):
    """Train, and return (model in eval, held-out accuracy, seconds of training, x_test, y_test)."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)  # pixels are 0 to 16
    order = rng.permutation(len(x))
    test, train = np.split(order, [len(x) // 4])

    model = fastfc.Sequential(fastfc.Linear(64, 128, rng=rng), fastfc.ReLU(), fastfc.Linear(128, 10, rng=rng))
    optimizer = fastfc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = fastfc.optim.CosineAnnealingLR(optimizer, epochs)
    start = time.perf_counter()
    fastfc.fit(model, x[train], labels[train], loss=fastfc.CrossEntropyLoss(), optimizer=optimizer, epochs=epochs,
               batch_size=BATCH, schedule=schedule, rng=rng, progress=not quiet)
    seconds = time.perf_counter() - start

    model.eval()
    accuracy = float((model(x[test]).argmax(axis=1) == labels[test]).mean())
    return model, accuracy, seconds, x[test], labels[test]


def seconds_per_call(model, x, calls=200):
    start = time.perf_counter()
    for _ in range(calls):
        model(x)
    return (time.perf_counter() - start) / calls


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 epochs instead of 30")
    options = parser.parse_args()
    try:
        import sklearn  # noqa: F401
    except ImportError:
        sys.exit("This example needs scikit-learn for its data: pip install scikit-learn")
    print("Training a 64-128-10 network on handwritten digits ...")
    model, accuracy, seconds, x_test, _ = train_digits(epochs=5 if options.quick else EPOCHS)
    print(f"Held-out accuracy {accuracy:.2%} on {len(x_test)} images, after {seconds:.2f} s of training.")
    one, all_at_once = seconds_per_call(model, x_test[:1]), seconds_per_call(model, x_test)
    print(f"Inference: {one * 1e6:.1f} µs for one image, "
          f"{all_at_once / len(x_test) * 1e6:.2f} µs per image for {len(x_test)} at once.")


if __name__ == "__main__":
    main()
