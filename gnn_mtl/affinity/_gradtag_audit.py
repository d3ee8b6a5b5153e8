r"""How far the linearised network is from the network: errors of its logits, real scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.progress import Progress
from gnn_mtl.gradients import (
    OutputFeatures,
    ParameterFilter,
    chosen_parameters,
    displacements,
    frozen,
)
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.metrics import evaluate
from gnn_mtl.nn import LabelModel

METRICS = ("loss", "ap", "auroc", "f1")
DELTA_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class LinearisationAudit:
    r"""Errors of linearised logits along some displacements of the model.

    Attributes:
        error: Mean over the nodes of
            :math:`((f^* + \phi u - f(u)) / \max(|f(u)|, |f^*|))^2`, per displacement and task
            ``[k, T]`` (Grad-TAG's statistic).
        control: The same with the base logits alone, without the gradient: what an error has to be
            compared with ``[k, T]``.
        step: Length of each displacement over that of the weights moved ``[k]``.
    """

    error: NDArray[np.float64]
    control: NDArray[np.float64]
    step: NDArray[np.float64]

    def facts(self, masks: NDArray[np.bool_], **others: float) -> dict[str, object]:
        """Return means over the displacements and their members ``[k, T]``, as plain values."""
        numbers = {
            "error": self.error[masks].mean(), "largest_error": self.error[masks].max(),
            "error_without_gradient": self.control[masks].mean(),
            "step": self.step.mean(), "largest_step": self.step.max(), **others,
        }  # fmt: skip
        return {"subsets": len(self.step)} | {k: round(float(v), 6) for k, v in numbers.items()}

    def failed(
        self, lengths: ArrayLike, audited: ArrayLike, masks: ArrayLike, tolerance: float = 0.1
    ) -> NDArray[np.bool_]:
        """Return which scores of a table not to trust, bool ``[m, T]``.

        A task fails where its mean error over the audited displacements is above the tolerance; a
        subset where it is as long as the shortest audited one whose members' mean error is:
        linearisation gets worse with the length.

        Args:
            lengths: Length of every subset's u ``[m]``.
            audited: Row of each audited subset, int ``[k]``.
            masks: Members of each subset, bool ``[m, T]``.
            tolerance: Largest error trusted.
        """
        members, rows = np.asarray(masks, dtype=np.bool_), np.asarray(audited)
        norms = np.asarray(lengths, dtype=np.float64)
        tasks = self.error.mean(axis=0) > tolerance
        trusted = members[rows] & ~tasks
        inside = np.where(trusted, self.error, 0.0).sum(axis=1) / np.maximum(trusted.sum(axis=1), 1)
        limit = norms[rows][inside > tolerance].min(initial=np.inf)
        return members & (tasks | (norms >= limit)[:, None])


def audit_linearisation(
    model: LabelModel,
    batch: MiniBatch,
    features: OutputFeatures,
    u: Tensor,
    *,
    seed: int = 0,
    parameters: ParameterFilter = "shared",
) -> LinearisationAudit:
    r"""Compare the linearised logits at :math:`\theta^* + P u` with the network's own.

    Args:
        model: The model at :math:`\theta^*`; left as it is.
        batch: The nodes, at least one.
        features: Their features, or those of the first of them.
        u: One displacement a column ``[d, k]``.
        seed: Seed of the directions.
        parameters: What moves.

    Cost: k forwards of the batch.
    """
    rows = len(features.logits)
    chosen = chosen_parameters(model, parameters)
    norm = float(torch.cat([p.detach().flatten() for p in chosen.values()]).norm())
    errors, controls, steps = [], [], []
    base = features.logits
    for number, delta, moved in _displacements(model, u, seed, parameters):
        with frozen(model), torch.no_grad():
            real = functional_call(model, dict(moved), (batch,))[:rows]
        size = torch.maximum(real.abs(), base.abs()).clamp(min=1e-12)
        linear = features.at(u[:, number])
        errors.append((((linear - real) / size) ** 2).double().mean(dim=0).cpu().numpy())
        controls.append((((base - real) / size) ** 2).double().mean(dim=0).cpu().numpy())
        steps.append(float(delta.norm()) / norm if norm > 0 else float("inf"))
    return LinearisationAudit(np.array(errors), np.array(controls), np.array(steps))


def forward_scores(
    model: LabelModel,
    batches: Callable[[], Iterable[MiniBatch]],
    u: Tensor,
    masks: NDArray[np.bool_],
    *,
    metric: str = "loss",
    seed: int = 0,
    parameters: ParameterFilter = "shared",
) -> NDArray[np.float64]:
    """Return the members' scores of the network itself, moved to each subset's weights.

    Args:
        model: The base model; left as it is.
        batches: Gives the nodes to score, anew at every call.
        u: One displacement a column ``[d, m]``.
        masks: Members of each subset, bool ``[m, T]``.
        metric: ``"loss"`` (minus the mean cross-entropy), ``"ap"``, ``"auroc"`` or ``"f1"``.
        seed: Seed of the directions.
        parameters: What moves.

    Returns:
        float64 ``[m, T]``, NaN outside the subset and where the score is undefined.

    Raises:
        ShapeError: If ``u`` is not ``[d, m]``.
        UsageError: If there is no batch, or no metric of that name.

    Cost: m forwards of all batches, each batch prepared once for as many subsets as fit into
    memory, with the logits of all of them.
    """
    if metric not in METRICS:
        raise UsageError(f"`metric` should be one of {METRICS}. Found {metric!r}.")
    if u.dim() != 2 or u.shape[1] != len(masks):
        raise ShapeError(f"`u` should be [d, m = {len(masks)}]. Found {tuple(u.shape)}.")
    scores = np.full(masks.shape, np.nan)
    size = sum(p.numel() for p in chosen_parameters(model, parameters).values())
    many = max(1, DELTA_BYTES // (4 * size))
    with Progress("subsets through the network", len(masks)) as progress:
        for start in range(0, len(masks), many):
            part = range(start, min(start + many, len(masks)))
            moved = [
                dict(each)
                for *_, each in _displacements(
                    model, u[:, part.start : part.stop], seed, parameters
                )
            ]
            found = _outputs(model, batches(), moved, masks[part.start : part.stop])
            for row, (logits, y, observed) in zip(part, found, strict=True):
                scores[row, masks[row]] = _score(logits, y, observed, metric)
                progress.advance()
    return scores


def fresh(batches: Iterable[MiniBatch]) -> Callable[[], Iterable[MiniBatch]]:
    """Return what gives the batches anew at every call; a loader's epoch stays as it is.

    Raises:
        UsageError: When called again on an iterator, which is spent after the first pass.
    """
    if isinstance(batches, NeighborLoader):
        return lambda: batches.epoch_batches(batches.epoch)
    if isinstance(batches, MiniBatch):
        return lambda: [batches]
    if not isinstance(batches, Iterator):
        return lambda: batches
    spent = iter([batches])

    def once() -> Iterable[MiniBatch]:
        for each in spent:
            return each
        raise UsageError(
            "The batches are read several times here. Found an iterator, which can be read once; "
            "pass a list or a NeighborLoader."
        )

    return once


def _displacements(
    model: LabelModel, u: Tensor, seed: int, parameters: ParameterFilter
) -> Iterator[tuple[int, Tensor, Mapping[str, Tensor]]]:
    """Number, displacement ``[p]`` and moved parameters of each column of ``u`` ``[d, k]``."""
    chosen = chosen_parameters(model, parameters)
    sizes = [p.numel() for p in chosen.values()]
    many = max(1, DELTA_BYTES // (4 * sum(sizes)))
    for start in range(0, u.shape[1], many):
        deltas = displacements(model, u[:, start : start + many], seed=seed, parameters=parameters)
        for number, delta in enumerate(deltas, start):
            pieces = zip(chosen.items(), delta.split(sizes), strict=True)
            yield number, delta, {n: p.detach() + piece.view_as(p) for (n, p), piece in pieces}


def _outputs(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    moved: list[dict[str, Tensor]],
    masks: NDArray[np.bool_],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits, targets and mask of every subset's members over all batches, each ``[n, size]``."""
    members = [np.flatnonzero(row).tolist() for row in masks]
    logits: list[list[Tensor]] = [[] for _ in moved]
    ys, seen = [], []
    with frozen(model), torch.no_grad():
        for batch in batches:
            ys.append(batch.y.cpu())
            seen.append(batch.observed.cpu())
            for parts, state, tasks in zip(logits, moved, members, strict=True):
                parts.append(functional_call(model, state, (batch, tasks)).cpu())
    if not ys:
        raise UsageError("`batches` should hold at least one batch. Found none.")
    y, observed = torch.cat(ys), torch.cat(seen)
    for parts, tasks in zip(logits, members, strict=True):
        yield torch.cat(parts), y[:, tasks], observed[:, tasks]


def _score(logits: Tensor, y: Tensor, observed: Tensor, metric: str) -> NDArray[np.float64]:
    """The score of each column."""
    if metric != "loss":
        found = evaluate(logits.float().numpy(), y.float().numpy(), observed.numpy())
        return found.per_label[metric]
    loss = functional.binary_cross_entropy_with_logits(
        logits.double(), torch.where(observed, y, 0.0).double(), reduction="none"
    )
    number = observed.sum(dim=0)
    total = torch.where(observed, loss, 0.0).sum(dim=0)
    return -torch.where(number > 0, total / number.clamp(min=1), torch.nan).numpy()
