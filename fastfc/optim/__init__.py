"""Optimisers, schedules of the learning rate, and the clipping of gradients, with torch's names and numbers.

Examples
--------
>>> import numpy as np, fastfc
>>> model = fastfc.Sequential(fastfc.Linear(4, 8, rng=0), fastfc.ReLU(), fastfc.Linear(8, 1, rng=1))
>>> opt = fastfc.optim.AdamW(model.parameters(), lr=1e-2)
>>> schedule = fastfc.optim.CosineAnnealingLR(opt, T_max=10)
>>> x = np.ones((2, 4), dtype=np.float32)
>>> for epoch in range(3):
...     for half in np.split(x, 2):                 # gradients of both halves add up
...         y, backward = model.vjp(half)
...         _ = backward(y / len(x))
...     norm = fastfc.clip_grad_norm_(model.parameters(), 1.0)
...     opt.step()
...     opt.zero_grad()
...     schedule.step()
>>> round(schedule.get_last_lr()[0], 6)
0.007939
"""

from fastfc.clip import clip_grad_norm_, clip_grad_value_
from fastfc.optim.adagrad import Adagrad
from fastfc.optim.adam import Adam, AdamW, SparseAdam
from fastfc.optim.base import Optimizer
from fastfc.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from fastfc.optim.rmsprop import RMSprop
from fastfc.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "RMSprop",
    "ReduceLROnPlateau",
    "SequentialLR",
    "SparseAdam",
    "StepLR",
    "clip_grad_norm_",
    "clip_grad_value_",
]
