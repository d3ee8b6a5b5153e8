"""Named tensors of several models into one: averaging, TIES, truncated task vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError

State = Mapping[str, Tensor]


def average_states(
    states: Sequence[State], weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """Return the weighted mean of states, tensor by tensor.

    Of models that share a start it is a uniform model soup (Wortsman et al., ICML 2022, arXiv
    2203.05482).

    A weight of 0 leaves a state out altogether, so that weights 1, 0, 0 copy the first one bit for
    bit; tensors of whole numbers (batch counters) are those of the heaviest state.

    Args:
        states: Named tensors, of the same names and shapes.
        weights: One number per state, not negative; normalised to sum 1. Default: equal.

    Raises:
        ShapeError: If the states do not match.
        UsageError: If there is no state, or weights are negative, all 0 or of another number.
    """
    check_states(states)
    shares = _shares(len(states), weights)
    used = [(state, share) for state, share in zip(states, shares, strict=True) if share > 0]
    heaviest = max(used, key=lambda pair: pair[1])[0]

    def mean(name: str) -> Tensor:
        if len(used) == 1 or not heaviest[name].is_floating_point():
            return heaviest[name].detach().clone()
        total = sum(state[name].detach().double() * share for state, share in used)
        return total.to(heaviest[name].dtype)  # type: ignore[union-attr]

    return {name: mean(name) for name in heaviest}


def ties_states(
    base: State,
    states: Sequence[State],
    *,
    density: float = 0.2,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    r"""Return the base plus the states' changes where those agree (TIES-Merging).

    Yadav et al., NeurIPS 2023, arXiv 2306.01708: of each task vector :math:`\tau_m = \theta_m -
    \theta_0` keep the ``density`` largest entries by size (trim); elect the sign
    :math:`\gamma = \mathrm{sgn} \sum_m \hat\tau_m`; average the kept entries of that sign (disjoint
    mean) and add ``scale`` times that to the base. The trim is over all tensors at once.

    Args:
        base: What the models were trained from.
        states: The trained models.
        density: Share of the entries of a task vector that are kept, in (0, 1]; the paper's 0.2.
        scale: The paper's lambda.

    Raises:
        ShapeError: If the states do not match the base.
        UsageError: If ``density`` is outside (0, 1].
    """
    if not 0.0 < density <= 1.0:
        raise UsageError(f"`density` should lie in (0, 1]. Found {density}.")
    check_states([base, *states])
    names = [name for name, value in base.items() if value.is_floating_point()]
    start = _flat(base, names)
    vectors = torch.stack([_flat(state, names) - start for state in states])
    kept = max(1, round(density * vectors.shape[1]))
    if kept < vectors.shape[1]:
        largest = vectors.abs().topk(kept, dim=1).indices
        vectors = torch.zeros_like(vectors).scatter(1, largest, vectors.gather(1, largest))
    sign = vectors.sum(dim=0).sign()
    agree = (vectors.sign() == sign) & (sign != 0)
    mean = torch.where(agree, vectors, 0.0).sum(dim=0) / agree.sum(dim=0).clamp(min=1)
    return _unflat(start + scale * mean, base, names)


def low_rank_states(base: State, states: Sequence[State], *, rank: int) -> dict[str, Tensor]:
    """Return the base plus the mean of the states' changes, each matrix cut to a rank.

    Each model's change of each matrix is replaced by its best approximation of that rank (truncated
    singular value decomposition): what separates the models is mostly noise of small singular
    values. Vectors (biases, norms) are averaged as they are. Full rank is the average.

    Low-rank changes are those of Task Singular Vectors (Gargiulo et al., CVPR 2025), which sums
    them after making the singular vectors of different tasks orthogonal; here they are averaged
    as they are.

    Args:
        base: What the models were trained from.
        states: The trained models.
        rank: Singular values kept of each model's change.

    Raises:
        ShapeError: If the states do not match the base.
        UsageError: If ``rank`` is below 1.
    """
    if rank < 1:
        raise UsageError(f"`rank` should be at least 1. Found {rank}.")
    check_states([base, *states])
    merged = average_states(states)
    for name, value in base.items():
        if value.is_floating_point() and value.dim() >= 2:
            start = value.detach().double().flatten(1)
            changes = torch.stack([s[name].detach().double().flatten(1) - start for s in states])
            u, sigma, vh = torch.linalg.svd(changes, full_matrices=False)
            cut = (u[..., :rank] * sigma[:, None, :rank]) @ vh[:, :rank]
            merged[name] = (start + cut.mean(dim=0)).to(value.dtype).view_as(value)
    return merged


def check_states(states: Sequence[State]) -> None:
    """Raise unless there are states, all of the same names and shapes."""
    if not states:
        raise UsageError("Expected at least one state to merge. Found none.")
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
    other = next((found for found in shapes if found != shapes[0]), None)
    if other is not None:
        name = next(n for n in [*shapes[0], *other] if shapes[0].get(n) != other.get(n))
        raise ShapeError(
            f"States to merge should have the same tensors. Found {name} of shape "
            f"{shapes[0].get(name)} and {other.get(name)}."
        )


def _shares(number: int, weights: Sequence[float] | None) -> list[float]:
    """The weights, of sum 1."""
    values = [1.0] * number if weights is None else [float(weight) for weight in weights]
    if len(values) != number or not all(v >= 0 for v in values) or not 0 < sum(values) < math.inf:
        raise UsageError(
            f"`weights` should be {number} numbers that are not negative, one of them positive. "
            f"Found {values}."
        )
    return [value / sum(values) for value in values]


def _flat(state: State, names: Sequence[str]) -> Tensor:
    return torch.cat([state[name].detach().double().flatten() for name in names])


def _unflat(values: Tensor, like: State, names: Sequence[str]) -> dict[str, Tensor]:
    """The state with the named tensors' values replaced."""
    out = {name: value.detach().clone() for name, value in like.items()}
    pieces = values.split([like[name].numel() for name in names])
    for name, piece in zip(names, pieces, strict=True):
        out[name] = piece.view_as(like[name]).to(like[name].dtype)
    return out
