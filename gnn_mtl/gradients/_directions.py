r"""Random directions in weight space: the matrix P of Grad-TAG, never stored.

P has one row per entry of the chosen parameters and d columns of :math:`\pm 1/\sqrt d`, so that
:math:`E[P P^\top] = I`. Column k is a pure function of (seed, k): whoever needs it draws it anew,
64 signs from one 64-bit number of a counter-based generator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.nn import LabelModel

ParameterFilter = Literal["shared", "all"] | Callable[[str], bool]
DIRECTIONS_AT_ONCE = 16


def chosen_parameters(
    model: LabelModel, parameters: ParameterFilter = "shared"
) -> dict[str, nn.Parameter]:
    """Return the parameters that are projected and moved, by name in the model, in its order.

    Args:
        model: The model.
        parameters: ``"shared"`` for the encoder's, ``"all"`` for the heads' too, or a predicate on
            their names (``"encoder.last.weight"``). Frozen parameters are never chosen.

    Raises:
        UsageError: If none is chosen.
    """
    if not callable(parameters) and parameters not in ("shared", "all"):
        raise UsageError(
            f"`parameters` should be 'shared', 'all' or a predicate on names. Found {parameters!r}."
        )
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if callable(parameters):
        chosen = {name: p for name, p in named.items() if parameters(name)}
    elif parameters == "shared":
        chosen = {name: p for name, p in named.items() if name.startswith("encoder.")}
    else:
        chosen = named
    if not chosen:
        raise UsageError(
            "`parameters` should choose at least one trainable parameter. Found none among "
            f"{list(named)[:6]}."
        )
    return chosen


def signs(size: int, seed: int, numbers: range) -> Tensor:
    """Return several directions as bits, 0 for -1 and 1 for +1, uint8 ``[c, size]``."""
    out = np.empty((len(numbers), size), dtype=np.uint8)
    for row, number in enumerate(numbers):
        drawn = generator(seed, "output direction", number).bytes(-(-size // 8))
        out[row] = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8), count=size)
    return torch.from_numpy(out)


def sign_tangents(
    chosen: Mapping[str, nn.Parameter], seed: int, numbers: range, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Return +-1 for every entry of every parameter along several directions, ``[c, *shape]``."""
    sizes = [p.numel() for p in chosen.values()]
    like = next(iter(chosen.values()))
    bits = signs(sum(sizes), seed, numbers).to(like.device)
    pieces = bits.split(sizes, dim=1)
    return [
        piece.to(dtype or p.dtype).mul_(2).sub_(1).view(len(numbers), *p.shape)
        for piece, p in zip(pieces, chosen.values(), strict=True)
    ]


def displacements(
    model: LabelModel, u: Tensor, *, seed: int = 0, parameters: ParameterFilter = "shared"
) -> Tensor:
    """Return ``P u`` for one or many u: ``[d]`` to ``[p]``, ``[d, m]`` to ``[m, p]``.

    Raises:
        ShapeError: If ``u`` is neither ``[d]`` nor ``[d, m]``, or d is 0.
        UsageError: If no parameter is chosen.

    Cost: 2 * p * d * m operations and d draws of p bits; P is never whole in memory.
    """
    chosen = chosen_parameters(model, parameters)
    like = next(iter(chosen.values()))
    if u.dim() not in (1, 2) or len(u) == 0:
        raise ShapeError(f"`u` should be [d] or [d, m]. Found {tuple(u.shape)}.")
    columns = u.detach().to(like.device, like.dtype).reshape(len(u), -1)
    size = sum(p.numel() for p in chosen.values())
    total = like.new_zeros((columns.shape[1], size))
    for start in range(0, len(u), DIRECTIONS_AT_ONCE):
        numbers = range(start, min(start + DIRECTIONS_AT_ONCE, len(u)))
        rows = signs(size, seed, numbers).to(like.device, like.dtype).mul_(2).sub_(1)
        total.addmm_(columns[numbers.start : numbers.stop].T, rows)
    total /= len(u) ** 0.5
    return total if u.dim() == 2 else total[0]


@contextlib.contextmanager
def displaced(
    model: LabelModel, u: Tensor, *, seed: int = 0, parameters: ParameterFilter = "shared"
) -> Iterator[LabelModel]:
    r"""Move the model to :math:`\theta^* + P u` in the block; bitwise back afterwards.

    Args:
        model: The model at :math:`\theta^*`.
        u: Coordinates ``[d]`` along the directions of :func:`output_features`.
        seed: Its ``seed``.
        parameters: Its ``parameters``.

    Raises:
        ShapeError: If ``u`` is not one vector.
        UsageError: If no parameter is chosen.

    Cost: one copy of the parameters; see :func:`displacements`.
    """
    if u.dim() != 1:
        raise ShapeError(f"`u` should be one vector [d]. Found {tuple(u.shape)}.")
    with moved(model, displacements(model, u, seed=seed, parameters=parameters), parameters):
        yield model


@contextlib.contextmanager
def moved(
    model: LabelModel, delta: Tensor, parameters: ParameterFilter = "shared"
) -> Iterator[None]:
    """Add a row ``[p]`` of ``displacements`` to the parameters in the block; bitwise back after."""
    chosen = list(chosen_parameters(model, parameters).values())
    kept = [p.detach().clone() for p in chosen]
    try:
        with torch.no_grad():
            for p, piece in zip(chosen, delta.split([p.numel() for p in chosen]), strict=True):
                p.add_(piece.view_as(p))
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(chosen, kept, strict=True):
                p.copy_(old)
