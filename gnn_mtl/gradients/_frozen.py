"""A model that can be measured without leaving a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluate the model in the block without changing it (SON-GOKU spec T12, refresh purity).

    Every module is put into evaluation mode, so dropout draws nothing and batch normalisation keeps
    its running statistics; each module's own mode, the CPU and CUDA random states and the gradients
    already stored on the parameters are as before when the block ends (inside there are none).
    """
    modes = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        model.eval()
        for parameter in gradients:
            parameter.grad = None  # a backward pass in the block would add to it in place
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for parameter, gradient in gradients.items():
                parameter.grad = gradient
