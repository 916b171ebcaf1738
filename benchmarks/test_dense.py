"""Dense layers: packed, plain and backward; small calls."""

KINDS = ("forward", "plain", "backward", "call")


def test_dense(measure):
    measure()
