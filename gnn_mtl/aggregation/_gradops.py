"""GradOPS: every gradient is replaced by what none of the others has a part in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.aggregation._base import Promise
from gnn_mtl.aggregation._gradops_span import CONFLICT, beside_all, beside_conflicting
from gnn_mtl.aggregation._gramian_method import GramianMethod
from gnn_mtl.linalg import min_norm_weights

GradOPSOrder = Literal["orthogonal", "sequential"]
GradOPSSequence = Literal["random", "norm", "given"]

NEGLIGIBLE = 1e-9
"""A projected gradient with a cosine below minus this with any gradient is rounding, and is 0."""

SMALLEST = 1e-12
"""Relative progress below this share of the largest counts as this share."""


@dataclass(frozen=True, kw_only=True)
class GradOPS(GramianMethod):
    r"""Project every conflicting gradient off the span of all the others, and sum.

    Zhu, Zhao, Wu, Wang, Deng, Xu and Zheng, "Gradient Deconfliction via Orthogonal Projections onto
    Subspaces For Multi-task Learning", WSDM 2025, arXiv 2503.03438:

    .. math:: g_i' = g_i - \operatorname{Proj}_{\operatorname{span}\{g_j : j \ne i\}} g_i, \qquad
        d = \sum_i w_i g_i', \quad w_i = \frac{R_i^\alpha}{\frac1T \sum_k R_k^\alpha}, \quad
        R_i = \frac{g_i \cdot \sum_k g_k'}{\lVert g_i \rVert^2} .

    With a Gramian G of full rank :math:`g_i' = \sum_k (G^{-1})_{ik} g_k / (G^{-1})_{ii}`. Then
    :math:`g_i' \cdot g_j \ge 0` for all i and j ("strong non-conflicting gradients"), so that no
    nonnegative weights bring a conflict back: that, the span of the others, weights of one exponent
    :math:`\alpha` for the trade-off and its value -3 for the reported results come from the paper,
    which has no public code. Our reading are R and w as written here, and that a gradient which
    conflicts with no other stays as it is (``gate``).

    The paper's projection needs no order. ``order="sequential"`` is ours: every gradient is
    projected off the others in turn, but only off those it then still conflicts with, each made
    orthogonal to the ones before (Gram-Schmidt), until no conflict is left. It keeps the same
    guarantee, and more of the gradient; where the others span everything, as with more tasks than
    dimensions, it leaves something where the full projection leaves nothing.

    A gradient in the span of the others has :math:`g_i' = 0`; two equal ones lose both. Where
    nothing is left of any, the direction is the shortest convex combination of the unit gradients,
    which conflicts with none either.

    Guarantees: :math:`d \cdot g_i \ge 0` for all tasks; with ``alpha = 0`` and ``gate`` all weights
    are 1 where nothing conflicts. With many tasks little is left of a gradient: use it in groups.

    Cost: one O(T^3) eigendecomposition, 0.1 s at T = 500; sequential: O(T^2 k^2) with k projections
    a task, 0.03 s at T = 50 but many seconds at 500.
    """

    kind: ClassVar[str] = "gradops"
    promises: ClassVar[frozenset[Promise]] = frozenset(
        {"permutation", "scaling", "non_conflicting", "balanced", "sum_without_conflict"}
    )

    alpha: float = 0.0
    """Trade-off: 0 sums the projected gradients, a negative value favours the tasks that make
    little progress, a positive one those that make much."""

    order: GradOPSOrder = "orthogonal"
    """Project off all others at once, or off the conflicting ones in turn."""

    sequence: GradOPSSequence = "random"
    """Whose turn it is first, in the sequential order: random, longest gradients first, or as the
    schedule lists the tasks."""

    gate: bool = True
    """Whether a gradient that conflicts with no other stays as it is; the sequential order never
    touches one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.alpha):
            raise UsageError(f"`alpha` should be finite. Found {self.alpha}.")
        for name, value, known in (
            ("order", self.order, get_args(GradOPSOrder)),
            ("sequence", self.sequence, get_args(GradOPSSequence)),
        ):
            if value not in known:
                raise UsageError(f"`{name}` should be one of {', '.join(known)}. Found {value!r}.")
        sequential = self.order == "sequential"
        if sequential and not self.gate:
            raise UsageError(
                "The sequential order projects conflicting gradients only: expected `gate` to be "
                "true. Found false; use `order` orthogonal to project every gradient."
            )
        broken = set[Promise]()
        if self.alpha != 0 or not self.gate:
            broken.add("sum_without_conflict")
        if sequential and self.sequence != "norm":
            broken.add("permutation")
        object.__setattr__(self, "promises", type(self).promises - broken)

    def solve(self, gramian: Tensor, *, draw: np.random.Generator, **_: object) -> Tensor:
        """Return the weights."""
        sequence: Tensor | None = None
        if self.order == "sequential":
            sequence = {
                "random": lambda: torch.from_numpy(draw.permutation(len(gramian))),
                "norm": lambda: gramian.diagonal().argsort(descending=True, stable=True),
                "given": lambda: torch.arange(len(gramian)),
            }[self.sequence]()
        return gradops_weights(gramian, alpha=self.alpha, sequence=sequence, gate=self.gate)


def gradops_weights(
    gramian: Tensor, *, alpha: float = 0.0, sequence: Tensor | None = None, gate: bool = True
) -> Tensor:
    """Return the weights of the original gradients in GradOPS's direction.

    Args:
        gramian: Inner products, float64 ``[S, S]``, with a positive diagonal.
        alpha: Exponent of the relative progress.
        sequence: See :func:`gradops_coefficients`.
        gate: See :func:`gradops_coefficients`.

    Returns:
        ``[S]``, of either sign.
    """
    coefficients = gradops_coefficients(gramian, sequence=sequence, gate=gate)
    left = (coefficients != 0).any(dim=1)
    norms = gramian.diagonal().sqrt()
    if not bool(left.any()):
        values, vectors = torch.linalg.eigh(gramian / norms[:, None] / norms)
        shortest = min_norm_weights((vectors * values.clamp(min=0)) @ vectors.T)
        return shortest * (len(norms) * norms.square().mean().sqrt() / norms)
    if alpha == 0:
        return coefficients.sum(dim=0)
    progress = (gramian @ coefficients.sum(dim=0) / norms.square())[left]
    progress = progress.clamp(min=SMALLEST * float(progress.max()))
    return len(progress) * torch.softmax(alpha * progress.log(), dim=0) @ coefficients[left]


def gradops_coefficients(
    gramian: Tensor, *, sequence: Tensor | None = None, gate: bool = True
) -> Tensor:
    """Return C such that the projected gradients are ``C J``, from ``J J^T`` alone.

    Args:
        gramian: Inner products, float64 ``[S, S]``, with a positive diagonal.
        sequence: Project off conflicting gradients in this order, a permutation ``[S]``; default
            off the span of all others.
        gate: Without a sequence: whether gradients that conflict with no other stay.

    Returns:
        float64 ``[S, S]``; zero rows for gradients that lie in the span, rows of the identity for
        those that stay.

    Raises:
        ShapeError: If ``gramian`` is not square.
        UsageError: If ``sequence`` is not a permutation of the tasks.
    """
    if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1]:
        raise ShapeError(f"`gramian` should be square. Found shape {list(gramian.shape)}.")
    norms = gramian.diagonal().sqrt()
    cosines = gramian / norms[:, None] / norms
    left, singular, resolution = _factors(cosines)
    projected, stays = _projected(left, singular, resolution, sequence, gate)
    found = torch.where(
        stays[:, None], torch.eye(len(norms), dtype=torch.float64), projected @ (left / singular).T
    )
    lengths = torch.linalg.vector_norm(projected, dim=1)
    return _without_noise(found, found @ cosines, lengths) * (norms[:, None] / norms)


def gradops_rows(jacobian: Tensor, *, sequence: Tensor | None = None, gate: bool = True) -> Tensor:
    """Return the projected gradients, from the gradients themselves.

    The exact form: it resolves residuals of 1e-12 of a gradient, where a Gramian's end at 1e-7.

    Args:
        jacobian: Gradients ``[S, P]``, finite; zero rows stay zero.
        sequence: See :func:`gradops_coefficients`.
        gate: See :func:`gradops_coefficients`.

    Returns:
        float64 ``[S, P]``, on the device of ``jacobian``.

    Raises:
        ShapeError: If ``jacobian`` is not a matrix with at least one row.
        UsageError: If ``sequence`` is not a permutation of the tasks, or anything is not finite.

    Complexity:
        One singular value decomposition, O(S^2 P).
    """
    if jacobian.ndim != 2 or len(jacobian) == 0:
        raise ShapeError(
            f"`jacobian` should be a matrix [S, P] with S >= 1. Found {list(jacobian.shape)}."
        )
    rows = jacobian.detach().double()
    if not bool(rows.isfinite().all()):
        raise UsageError("`jacobian` should be finite. Leave out the tasks whose gradient is not.")
    largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=1, keepdim=True)
    units = rows / torch.where(largest > 0, largest, torch.ones_like(largest))
    norms = torch.linalg.vector_norm(units, dim=1, keepdim=True)
    units = units / torch.where(norms > 0, norms, torch.ones_like(norms))
    left, singular, right = torch.linalg.svd(units, full_matrices=False)
    noise = max(units.shape) * torch.finfo(torch.float64).eps * float(singular.max())
    kept = singular > noise
    projected, stays = _projected(left[:, kept].cpu(), singular[kept].cpu(), noise, sequence, gate)
    found = torch.where(stays.to(rows.device)[:, None], units, projected.to(rows) @ right[kept])
    return found * (norms * largest)


def _factors(cosines: Tensor) -> tuple[Tensor, Tensor, float]:
    """U and Sigma of unit rows that have these products, and the length that is noise."""
    values, vectors = torch.linalg.eigh(cosines)
    noise = max(
        4 * len(values) * torch.finfo(torch.float64).eps * float(values[-1]), -4 * float(values[0])
    )  # negative eigenvalues show the error of Gramians summed in lower precision
    kept = values > noise
    return vectors[:, kept], values[kept].sqrt(), math.sqrt(noise)


def _projected(
    left: Tensor, singular: Tensor, resolution: float, sequence: Tensor | None, gate: bool
) -> tuple[Tensor, Tensor]:
    """Projected rows of U Sigma in their coordinates ``[S, r]``, and which are as they were."""
    rows = left * singular
    if sequence is not None:
        if not torch.equal(sequence.sort().values, torch.arange(len(rows))):
            raise UsageError(
                f"`sequence` should be a permutation of 0 to {len(rows) - 1}. "
                f"Found {sequence.tolist()[:8]}."
            )
        projected = beside_conflicting(rows, sequence, max(resolution, SMALLEST))
    else:
        projected = beside_all(left, singular)
    stays = ((rows @ rows.T) >= CONFLICT).all(dim=1)
    if sequence is None and not gate:
        stays = torch.zeros_like(stays)
    projected = torch.where(stays[:, None], rows, projected)
    lengths = torch.linalg.vector_norm(projected, dim=1)
    return _without_noise(projected, projected @ rows.T, lengths), stays


def _without_noise(found: Tensor, products: Tensor, lengths: Tensor) -> Tensor:
    """The rows, zero where the products with unit gradients show that rounding is all there is."""
    sound = (products >= -NEGLIGIBLE * lengths[:, None]).all(dim=1)
    return torch.where(sound[:, None], found, torch.zeros_like(found))
