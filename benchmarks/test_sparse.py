"""Layers with a CSR weight, forward and backward."""

KINDS = ("csr", "csr-backward")


def test_sparse(measure):
    measure()
