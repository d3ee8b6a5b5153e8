"""Jacobians on which aggregators go wrong, by name."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gnn_mtl._core.seeding import generator


def aggregator_cases(seed: int = 0) -> dict[str, Tensor]:
    """Return named Jacobians, float64 ``[S, P]``: the inputs of the contract battery.

    In those whose name starts with "stationary", a combination of the rows with positive weights
    is zero; in "weakly stationary" and "antiparallel pair" one with weights some of which are 0.

    Args:
        seed: Another seed, other numbers with the same properties.
    """
    return {name: jacobian.clone() for name, jacobian in _made(seed).items()}


@lru_cache(8)
def _made(seed: int) -> dict[str, Tensor]:
    draw = generator(seed, "testing", "aggregator_cases")

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(draw.standard_normal(shape))

    def spread(jacobian: Tensor, decades: float) -> Tensor:
        exponents = torch.linspace(-decades / 2, decades / 2, len(jacobian), dtype=torch.float64)
        return (
            jacobian * 10 ** exponents[torch.from_numpy(draw.permutation(len(jacobian)))][:, None]
        )

    typical = normal(5, 12)
    stationary = normal(4, 9)
    toward = -torch.from_numpy(draw.uniform(0.3, 2.0, 4)) @ stationary
    stationary = torch.cat([stationary, toward[None]])
    agreeing = normal(5, 12).abs()
    rotation = torch.linalg.qr(normal(12, 12)).Q
    lengths = normal(112).exp()[:, None]
    pair = normal(2, 12)
    zero, near_zero = typical.clone(), typical.clone()
    zero[2], near_zero[2] = 0.0, typical[2] * 1e-9
    return {
        "typical": typical,
        "scaled to 1e-10": typical * 1e-10,
        "scaled to 1e10": typical * 1e10,
        "badly scaled": spread(typical, 6),
        "rank-deficient": normal(6, 3) @ normal(3, 10),
        "fewer parameters than tasks": normal(9, 4),
        "duplicated rows": typical[[0, 1, 1, 2, 0]],
        "antiparallel pair": torch.cat([typical[:3], -2 * typical[1:2]]),
        "stationary": stationary,
        "stationary pair": torch.stack([typical[0], -2 * typical[0]]),
        "stationary and badly scaled": spread(stationary, 4),
        "weakly stationary": torch.cat([normal(2, 9), stationary]),
        "orthogonal": rotation[:5] * lengths[:5],
        "no conflict": agreeing,
        "no conflict and badly scaled": spread(agreeing, 6),
        "all conflicting": (torch.eye(6, 12, dtype=torch.float64) - _first(6, 12) / 12) @ rotation
        * lengths[:6],
        "single task": typical[:1],
        "zero row": zero,
        "near-zero row": near_zero,
        "no gradient": torch.zeros(3, 12, dtype=torch.float64),
        "two tasks": torch.stack([pair[0], 7 * pair[1] - 9 * pair[0]]),
        "50 tasks": normal(50, 70) * lengths[:50],
        "112 tasks": normal(112, 160) * lengths,
        "112 tasks, 40 parameters": normal(112, 40) * lengths,
    }  # fmt: skip


def _first(size: int, width: int) -> Tensor:
    """Ones ``[width]`` up to ``size``, zeros after."""
    return (torch.arange(width) < size).double()
