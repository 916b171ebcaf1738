"""Pruning: which weights of a model go, how they stay away in training, and what that brings.

Pruning a model turns each `Linear` in it into a `MaskedLinear` with the very same parameters, so an optimiser that was
made before goes on as it was; hidden weights have no influence and get no gradient, so no step brings them back. At the
end `to_sparse` makes layers that store and multiply only what is left, `shrink` smaller dense ones where whole outputs
or inputs went, or `remove` plain ones with zeros. Names are those of ``torch.nn.utils.prune`` where it has them.

========================  ============================================================================================
`l1_unstructured`         the smallest weights of each layer
`global_unstructured`     the lowest scores of all layers together
`random_unstructured`     any
`n_m`                     all but n of each m along the inputs
`blocks`                  the lowest blocks of bh × bw
`ln_structured`           whole outputs or inputs
`random_structured`       likewise, any
`custom_from_mask`        what a mask says
`Gradual`, `Regrow`       during `fit`: more and more (Zhu & Gupta); others in their place (SET, RigL)
`Movement`                scores from the weights' movement during `fit`
`remove`, `to_sparse`     what becomes of the masks
`shrink`                  whole outputs and inputs leave the model
`report`                  a table: zeros, format, bytes, speed
========================  ============================================================================================
"""

from fastfc.prune.methods import (
    blocks,
    custom_from_mask,
    global_unstructured,
    is_pruned,
    l1_unstructured,
    ln_structured,
    n_m,
    random_structured,
    random_unstructured,
    remove,
    sparsity,
    to_sparse,
)
from fastfc.prune.reporting import Report, report
from fastfc.prune.schedule import Gradual, Regrow
from fastfc.prune.scores import Movement
from fastfc.prune.shrinking import shrink

__all__ = [
    "Gradual",
    "Movement",
    "Regrow",
    "Report",
    "blocks",
    "custom_from_mask",
    "global_unstructured",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "n_m",
    "random_structured",
    "random_unstructured",
    "remove",
    "report",
    "shrink",
    "sparsity",
    "to_sparse",
]
