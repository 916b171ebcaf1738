"""Regression: predict how diabetes goes on in 442 patients, and compare with scikit-learn's MLPRegressor.

    python examples/diabetes.py

Ten measurements a patient, a quarter of the patients held out. Shows `fastfc.fit` with validation data and early
stopping, and that it predicts no worse than scikit-learn's network of the same shape on the same splits. Needs
scikit-learn: pip install fastfc scikit-learn
"""

import argparse
import sys
import time

import numpy as np

import fastfc

HIDDEN = 64


def r2(prediction, target):
    """The share of the variance that is explained."""
    return 1 - np.square(target - prediction).sum() / np.square(target - target.mean()).sum()


def split(x, y, seed):
    """Training and held-out patients, in units of the training patients' deviations."""
    order = np.random.default_rng(seed).permutation(len(x))
    test, train = np.split(order, [len(x) // 4])
    x = (x - x[train].mean(0)) / x[train].std(0)
    y = (y - y[train].mean()) / y[train].std()
    return x[train], y[train], x[test], y[test]


def with_fastfc(x, y, seed):
    """Train on nine tenths, stop by the last tenth; return a function that predicts."""
    rng = np.random.default_rng(seed)
    x, y = x.astype(np.float32), y.astype(np.float32)[:, None]
    model = fastfc.Sequential(fastfc.Linear(x.shape[1], HIDDEN, rng=rng), fastfc.ReLU(),
                              fastfc.Linear(HIDDEN, 1, rng=rng))
    tenth = len(x) // 10
    optimizer = fastfc.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    history = fastfc.fit(model, x[tenth:], y[tenth:], loss=fastfc.MSELoss(), optimizer=optimizer, epochs=300,
                         batch_size=32, validation_data=(x[:tenth], y[:tenth]), patience=20, rng=rng, progress=False)
    model.eval()
    return lambda x: model(x.astype(np.float32))[:, 0], len(history)


def with_sklearn(x, y, seed):
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(hidden_layer_sizes=(HIDDEN,), learning_rate_init=3e-3, batch_size=32, max_iter=300,
                         early_stopping=True, n_iter_no_change=20, random_state=seed)
    model.fit(x, y)
    return model.predict, model.n_iter_


def compare(splits):
    """R² of both on each split, and their seconds."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    scores, seconds = {}, {}
    for name, train in (("fastfc", with_fastfc), ("scikit-learn", with_sklearn)):
        scores[name], start = [], time.perf_counter()
        for seed in range(splits):
            x_train, y_train, x_test, y_test = split(x, y, seed)
            predict, _ = train(x_train, y_train, seed)
            scores[name].append(float(r2(predict(x_test), y_test)))
        seconds[name] = time.perf_counter() - start
    return scores, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two splits instead of ten")
    options = parser.parse_args()
    try:
        import sklearn  # noqa: F401
    except ImportError:
        sys.exit("This example needs scikit-learn for its data and to compare with: pip install scikit-learn")
    scores, seconds = compare(2 if options.quick else 10)
    print(f"Held-out R² of 10-{HIDDEN}-1 networks on the diabetes data, split by split:")
    for name, values in scores.items():
        print(f"  {name:12}  {'  '.join(f'{value:.3f}' for value in values)}   mean {np.mean(values):.3f}, "
              f"{seconds[name]:.1f} s")


if __name__ == "__main__":
    main()
