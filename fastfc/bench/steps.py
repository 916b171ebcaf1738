"""A training step of a ReLU network, as someone who cares for speed writes it in each library.

Each function takes a case and its data and returns ``(step, parameters)``: a function of no arguments that does one
step on the whole batch (forward, cross-entropy with its value, backward, optimiser), and one that gives the parameters
as they then are, weight and bias layer by layer.
"""

from __future__ import annotations

import numpy as np

from .cases import OPTIMIZERS, Case, Data, copied, empty, empty_like


def fastfc_step(case: Case, data: Data):
    import fastfc

    layers = []
    for w, b in zip(data.weights, data.biases, strict=True):
        layers += [fastfc.Linear(w.shape[1], w.shape[0], dtype=w.dtype), fastfc.ReLU()]
        layers[-2].weight.data[...], layers[-2].bias.data[...] = w, b
    model, loss, x, target = fastfc.Sequential(*layers[:-1]), fastfc.CrossEntropyLoss(), data.x, data.target
    optimizer = {"sgd": "SGD", "adamw": "AdamW"}[case.optimizer]
    optimizer = getattr(fastfc.optim, optimizer)(model.parameters(), **OPTIMIZERS[case.optimizer])

    def step():
        logits, backward = model.vjp(x)
        _value, loss_backward = loss.vjp(logits, target)
        backward(loss_backward(), needs_input_grad=False)
        optimizer.step()
        optimizer.zero_grad()

    return step, lambda: [parameter.data for parameter in model.parameters()]


def fastfc_block(case: Case, data: Data):
    """The block of a case in ``eval()``, with the weights of the data."""
    import fastfc

    if case.kind == "feedforward":
        block = fastfc.FeedForward(case.k, *case.hidden, dropout=0.0, dtype=case.dtype)
        names = ("w1.weight", "w1.bias", "w2.weight", "w2.bias")
        arrays = [array for pair in zip(data.weights, data.biases, strict=True) for array in pair]
    else:
        linear, norm = fastfc.Linear(case.k, case.n, dtype=case.dtype), fastfc.LayerNorm(case.n, dtype=case.dtype)
        block = fastfc.Sequential(linear, norm)
        names = ("0.weight", "0.bias", "1.weight", "1.bias")
        arrays = [data.w, data.b, np.ones(case.n, case.dtype), np.zeros(case.n, case.dtype)]
    block.load_state_dict(dict(zip(names, arrays, strict=True)))
    return block.eval()


#: Elements that numpy's optimiser works on at a time: what it does to them in several passes stays in L2.
CHUNK = 1 << 15


def numpy_step(case: Case, data: Data):
    """Every array made ahead and written in place; all parameters in one, so that an update of a small network is not
    six updates.
    """
    dtype = data.x.dtype
    arrays = [array for pair in zip(data.weights, data.biases, strict=True) for array in pair]
    bounds = np.cumsum([0, *(array.size for array in arrays)])
    flat = copied(np.concatenate([array.ravel() for array in arrays]))
    flat_grad = empty_like(flat)

    def views(of):
        parts = [of[i:j].reshape(a.shape) for i, j, a in zip(bounds[:-1], bounds[1:], arrays, strict=True)]
        return parts[::2], parts[1::2]

    (weights, biases), (grad_weights, grad_biases) = views(flat), views(flat_grad)
    batch, rows, target, last = case.m, np.arange(case.m), data.target, len(weights) - 1
    outputs = [empty((batch, w.shape[0]), dtype) for w in weights]
    grads = [empty_like(y) for y in outputs]
    masks = [empty(y.shape, bool) for y in outputs]
    column = empty((batch, 1), dtype)
    inputs, transposed = [data.x, *outputs[:-1]], [w.T for w in weights]
    logits, probabilities = outputs[-1], grads[-1]
    update = _numpy_update(case.optimizer, flat, flat_grad)

    def step():
        for i in range(last + 1):
            y = outputs[i]
            np.matmul(inputs[i], transposed[i], y)
            y += biases[i]
            if i < last:
                np.maximum(y, 0, out=y)
        np.maximum.reduce(logits, 1, None, column, True)
        np.subtract(logits, column, logits)
        np.exp(logits, probabilities)
        np.add.reduce(probabilities, 1, None, column, True)
        _value = float((np.log(column[:, 0]) - logits[rows, target]).mean())
        column[...] *= batch
        np.divide(probabilities, column, probabilities)
        probabilities[rows, target] -= 1 / batch
        for i in range(last, -1, -1):
            g = grads[i]
            np.matmul(g.T, inputs[i], grad_weights[i])
            np.add.reduce(g, 0, None, grad_biases[i])
            if i:
                np.matmul(g, weights[i], grads[i - 1])
                np.greater(inputs[i], 0, masks[i - 1])
                np.multiply(grads[i - 1], masks[i - 1], grads[i - 1])
        update()

    return step, lambda: [array for pair in zip(weights, biases, strict=True) for array in pair]


def _numpy_update(name, flat, flat_grad):
    settings = OPTIMIZERS[name]
    slots = [copied(np.zeros_like(flat)) for _ in range(1 if name == "sgd" else 2)]
    scratch = empty((min(CHUNK, flat.size),), flat.dtype)
    parts = [[array[i : i + CHUNK] for array in (flat, flat_grad, *slots)] for i in range(0, flat.size, CHUNK)]
    count = 0

    def sgd():
        lr, momentum = settings["lr"], settings["momentum"]
        for w, g, v in parts:
            v *= momentum
            v += g
            w -= np.multiply(v, lr, scratch[: w.size])

    def adamw():
        nonlocal count
        count += 1
        lr, (beta1, beta2), eps, decay = (settings[key] for key in ("lr", "betas", "eps", "weight_decay"))
        step, scale = lr / (1 - beta1**count), 1 / (1 - beta2**count) ** 0.5
        for w, g, m, v in parts:
            s = scratch[: w.size]
            w *= 1 - lr * decay
            m *= beta1
            m += np.multiply(g, 1 - beta1, s)
            v *= beta2
            np.multiply(g, g, s)
            s *= 1 - beta2
            v += s
            np.sqrt(v, s)
            s *= scale
            s += eps
            np.divide(m, s, s)
            s *= step
            w -= s

    return sgd if name == "sgd" else adamw


def torch_step(case: Case, data: Data, compiled: bool = False):
    """With ``fused=True`` the optimiser is one kernel a parameter, in eager mode the fastest of the three kinds; with
    ``compiled`` the forward pass with the loss is compiled, which gives the backward pass too.
    """
    import torch

    layers = []
    for w, b in zip(data.weights, data.biases, strict=True):
        layers += [torch.nn.Linear(w.shape[1], w.shape[0], dtype=torch.from_numpy(w).dtype), torch.nn.ReLU()]
        with torch.no_grad():
            layers[-2].weight.copy_(torch.from_numpy(w))
            layers[-2].bias.copy_(torch.from_numpy(b))
    model = torch.nn.Sequential(*layers[:-1])
    x, target = torch.from_numpy(data.x), torch.from_numpy(data.target)
    cross_entropy = torch.nn.functional.cross_entropy
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[case.optimizer]
    optimizer = kind(model.parameters(), fused=True, **OPTIMIZERS[case.optimizer])

    def forward(x, target):
        return cross_entropy(model(x), target)

    if compiled:
        torch._dynamo.reset()  # the cases before are none of this one's business
        forward = torch.compile(forward)

    def step():
        forward(x, target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, lambda: list(model.parameters())


def reference(case: Case, data: Data, steps: int) -> list[np.ndarray]:
    """The parameters after so many steps, in float64 and as slowly as the formulas say."""
    parameters = [a.astype(np.float64) for pair in zip(data.weights, data.biases, strict=True) for a in pair]
    settings, x = OPTIMIZERS[case.optimizer], data.x.astype(np.float64)
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    for step in range(1, steps + 1):
        activations = [x]
        for w, b in zip(parameters[::2], parameters[1::2], strict=True):
            z = activations[-1] @ w.T + b
            activations.append(np.maximum(z, 0))
        activations.pop()
        e = np.exp(z - z.max(1, keepdims=True))
        g = e / e.sum(1, keepdims=True)
        g[np.arange(case.m), data.target] -= 1
        g /= case.m
        grads = []
        for w, h in zip(parameters[-2::-2], reversed(activations), strict=True):
            grads += [g.sum(0), g.T @ h]
            g = g @ w * (h > 0)
        for p, g, m, v in zip(parameters, reversed(grads), first, second, strict=True):
            if case.optimizer == "sgd":
                m[...] = settings["momentum"] * m + g
                p -= settings["lr"] * m
            else:
                lr, (beta1, beta2), eps = settings["lr"], settings["betas"], settings["eps"]
                p *= 1 - lr * settings["weight_decay"]
                m[...] = beta1 * m + (1 - beta1) * g
                v[...] = beta2 * v + (1 - beta2) * g * g
                p -= lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)
    return parameters
