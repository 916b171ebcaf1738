"""onnx's own node tests, of every operator that fastfc implements, through onnx_backend.py."""

import importlib
import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="has the node tests")

import onnx_backend  # noqa: E402
from onnx.backend.test.case import node as node_tests  # noqa: E402

# Operator -> the module of its tests, where it is not named as the operator.
MODULES = {"SoftmaxCrossEntropyLoss": "softmax_cross_entropy_loss"}

#: Tests that are not passed, and why; by the end of their names or their whole.
NOT_PASSED = {
    "test_training_dropout": "the mask is one of numpy's generator, which the specification leaves open",
    "test_training_dropout_default": "likewise",
    "test_training_dropout_default_mask": "likewise",
    "test_training_dropout_mask": "likewise",
}


def cases():
    """Each once: importing a module of tests makes its cases."""
    found = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for operator in onnx_backend.OPERATORS:
            importlib.import_module(f"onnx.backend.test.case.node.{MODULES.get(operator, operator.lower())}")
        for case in node_tests._NodeTestCases:
            nodes = case.model.graph.node
            if len(nodes) == 1 and nodes[0].op_type in onnx_backend.OPERATORS:
                found.append(case)
    return found


CASES = cases()


def refused(case):
    """Why this case is not for fastfc, or None: what is no array of float32 or float64."""
    if case.name in NOT_PASSED:
        return NOT_PASSED[case.name]
    for inputs, _ in case.data_sets:
        for value in inputs:
            if isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64):
                return None
    if case.model.graph.node[0].op_type == "Identity":
        return None
    return "is of a type that fastfc refuses"


@pytest.mark.parametrize("case", [case for case in CASES if not refused(case)], ids=lambda case: case.name)
def test_node(case):
    for inputs, expected in case.data_sets:
        results = onnx_backend.run(case.model, inputs)
        assert len(results) == len(expected)
        for got, want in zip(results, expected, strict=True):
            if not isinstance(want, np.ndarray | np.generic):
                assert got is want or got == want
                continue
            got = np.asarray(got)
            assert got.dtype == want.dtype and got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize(
    "case", [case for case in CASES if refused(case) and case.name not in NOT_PASSED], ids=lambda case: case.name
)
def test_other_types_are_refused(case):
    for inputs, _ in case.data_sets:
        with pytest.raises((TypeError, ValueError)):
            onnx_backend.run(case.model, inputs)


def test_every_operator_has_cases():
    run = {case.model.graph.node[0].op_type for case in CASES if not refused(case)}
    assert run == set(onnx_backend.OPERATORS)
    assert set(NOT_PASSED) <= {case.name for case in CASES}
