"""docs/guarantees.md names tests that exist, and each of the issues that it has to speak of."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "guarantees.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="tests run without the documentation")

#: Rows of the table of special values, sizes and layouts.
ROWS = [
    "NaN",
    "±Inf",
    "±0",
    "denormals",
    "overflow",
    "garbage in `out`",
    "empty dimensions",
    "1",
    "tails",
    "negative strides",
    "Fortran",
    "unaligned",
    "read-only",
    "memory-mapped",
    "overlapping",
    "2³¹ elements",
    "MXCSR",
]


def named():
    return re.findall(r"`(test_\w+)\.(\w+)`", PAGE.read_text())


def functions(module):
    tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_every_test_that_is_named_exists():
    found = named()
    assert len(found) > 60
    for module, function in found:
        assert function in functions(module), f"{module}.{function}"


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_there_and_names_a_test(row):
    table = PAGE.read_text().split("## Special values, sizes and layouts")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|") and row in line.split("|")[1]]
    assert lines and all(re.search(r"`test_\w+\.\w+`", line) for line in lines), row


def test_the_readme_links_the_page():
    assert "](docs/guarantees.md)" in (ROOT / "README.md").read_text()
