"""Each example runs with one command and says what it shows."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name, folder, *options):
    """What an example prints, run in an empty folder as a user would."""
    command = [sys.executable, "-I", str(EXAMPLES / name), "--quick", *options]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_example_is_tested():
    text = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in text, path.name
        assert path.read_text().splitlines()[2] == f"    python examples/{path.name}"


def test_digits(tmp_path):
    pytest.importorskip("sklearn", reason="has the data")
    text = run("digits.py", tmp_path)
    accuracy = float(re.search(r"Held-out accuracy ([\d.]+)% on 449 images", text)[1])
    assert accuracy >= 90 and "µs for one image" in text
    assert runpy.run_path(str(EXAMPLES / "digits.py"))["train_digits"](quiet=True)[1] >= 0.975


def test_diabetes_predicts_no_worse_than_scikit_learn(tmp_path):
    pytest.importorskip("sklearn", reason="has the data")
    text = run("diabetes.py", tmp_path)
    assert re.search(r"fastfc .* mean 0\.\d+", text) and re.search(r"scikit-learn .* mean", text)
    scores, _ = runpy.run_path(str(EXAMPLES / "diabetes.py"))["compare"](5)
    assert np.mean(scores["fastfc"]) >= np.mean(scores["scikit-learn"])


def test_vgg_head(tmp_path):
    text = run("vgg_head.py", tmp_path)
    found = re.search(r"fastfc +\d+ ms a step, peak memory \d+ MB, loss ([\d.]+) → ([\d.]+)", text)
    assert float(found[2]) < float(found[1])


def test_feedforward(tmp_path):
    text = run("feedforward.py", tmp_path)
    assert re.search(r"\n +8 .*%", text) and re.search(r"\n +512 .*%", text)
    assert "y differs from torch's by" in text or "torch is not installed" in text


def test_low_rank(tmp_path):
    pytest.importorskip("sklearn", reason="has the data")
    text = run("low_rank.py", tmp_path)
    rows = [[float(number.strip("%")) for number in line.split()] for line in text.splitlines()
            if re.match(r" +\d+ ", line)]
    ranks, numbers, errors, accuracies = zip(*rows, strict=True)
    assert list(ranks) == sorted(ranks) and list(numbers) == sorted(numbers)
    assert list(errors) == sorted(errors, reverse=True)
    assert accuracies[-1] >= float(re.search(r"accuracy ([\d.]+)%", text)[1]) - 1 > accuracies[0]
    pytest.importorskip("matplotlib", reason="draws the picture")
    assert (tmp_path / "low_rank.png").read_bytes().startswith(b"\x89PNG")


def test_prune(tmp_path):
    pytest.importorskip("sklearn", reason="has the data")
    text = run("prune.py", tmp_path)
    rows = re.findall(r"\n(digits|synthetic) +([\d.]+)% +([\d.]+)% +([\d.]+)% .*x .* KiB", text)
    assert [row[0] for row in rows] == ["digits", "synthetic"]
    for _, zeros, dense, pruned in rows:
        assert float(zeros) == 90 and float(pruned) >= float(dense) - 3
    assert text.count("speed against dense at batch 64") == 2 and " tiled " in text
    pytest.importorskip("matplotlib", reason="draws the picture")
    assert (tmp_path / "prune.png").read_bytes().startswith(b"\x89PNG")
