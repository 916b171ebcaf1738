"""The main job: train a small network on real data with fastfc, then use it."""

from __future__ import annotations

import time

import numpy as np

#: What a 64-128-10 network must reach on digits it has not seen.
LEAST_ACCURACY = 0.97


def run(epochs: int = 30, batch: int = 32, seed: int = 0) -> dict:
    """Train 64-128-10 on scikit-learn's handwritten digits (1,797 images of 8×8) and run the trained model.

    Returns
    -------
    dict
        ``accuracy`` on the quarter of the images that was held out, ``train_seconds``, ``epochs``,
        ``inference_us`` (one image, best of many) and ``images_per_second`` (the held-out images as one
        batch).

    Raises
    ------
    ImportError
        Without scikit-learn, which holds the data.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    import fastfc

    images, labels = load_digits(return_X_y=True)
    images = np.ascontiguousarray(images / 16, dtype=np.float32)
    x, x_test, target, target_test = train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)

    rng = np.random.default_rng(seed)
    model = fastfc.Sequential(fastfc.Linear(64, 128, rng=rng), fastfc.ReLU(), fastfc.Linear(128, 10, rng=rng))
    loss = fastfc.CrossEntropyLoss()
    optimizer = fastfc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    start = time.perf_counter()
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for first in range(0, len(x), batch):
            some = order[first : first + batch]
            logits, backward = model.vjp(x[some])
            _, loss_backward = loss.vjp(logits, target[some])
            optimizer.zero_grad()
            backward(loss_backward())
            optimizer.step()
    train_seconds = time.perf_counter() - start

    model.eval()  # packs the weights
    accuracy = float(np.mean(model(x_test).argmax(1) == target_test))
    return {
        "accuracy": accuracy,
        "train_seconds": train_seconds,
        "epochs": epochs,
        "train_images": len(x),
        "test_images": len(x_test),
        "inference_us": 1e6 * _best(lambda: model(x_test[:1])),
        "images_per_second": len(x_test) / _best(lambda: model(x_test)),
    }


def _best(call, repeats: int = 200) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def describe(result: dict) -> str:
    """The result in two lines."""
    return (
        f"digits, 64-128-10: trained {result['epochs']} epochs of {result['train_images']} images in "
        f"{result['train_seconds']:.2f} s, held-out accuracy {100 * result['accuracy']:.1f} % "
        f"({result['test_images']} images)\n"
        f"  inference with the trained model: {result['inference_us']:.1f} µs for one image, "
        f"{result['images_per_second'] / 1e6:.2f} million images a second in one batch"
    )
