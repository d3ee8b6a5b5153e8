"""Whether an affinity can be trusted: chance, shared samples, noise, beside the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl._core.progress import Progress
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.affinity._proximal import effective_samples
from gnn_mtl.datasets import PermutationNull, SampleOverlap
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.tasks import Affinity

FLAGS = ("red", "amber", "green")


def shuffled_batches(batches: Iterable[MiniBatch], *, seed: int = 0) -> Iterator[MiniBatch]:
    """Yield the batches with each task's labels dealt anew among its observed seeds.

    Which cells are observed, how many of them are positive, features and edges all stay; what ties
    a label to other labels, to features and to edges goes.

    Args:
        batches: Mini-batches.
        seed: Seed of the shuffling.
    """
    for number, batch in enumerate(batches):
        stream = torch.Generator().manual_seed(derive_seed(seed, "shuffled batches", number))
        keys = torch.rand(batch.y.shape, generator=stream).to(batch.y.device)
        hidden = ~batch.observed
        source = torch.argsort(keys + 2.0 * hidden, dim=0)  # observed cells first, in random order
        target = torch.argsort(hidden.to(torch.int8), dim=0, stable=True)  # and in their own
        y = torch.empty_like(batch.y).scatter_(0, target, batch.y.gather(0, source))
        yield replace(batch, y=torch.where(batch.observed, y, batch.y))


def affinity_null(
    estimate: Callable[[Iterable[MiniBatch]], Affinity],
    batches: Iterable[MiniBatch],
    *,
    num_permutations: int = 10,
    quantile: float = 0.95,
    familywise: bool = False,
    seed: int = 0,
) -> PermutationNull:
    """Find how far an affinity goes by chance: the same estimate with the labels shuffled.

    Gradients of tasks whose labels mean nothing still align, as all come through one network. The
    null keeps network, nodes, sample sizes and base rates and so says which values need no relation
    of the tasks to explain them (the data-driven threshold asked for in arXiv 2604.07848).

    Args:
        estimate: Takes batches, returns an affinity, e.g. a partial of :func:`estimate_affinity`.
        batches: The mini-batches; held in memory once.
        num_permutations: Shufflings, each the cost of an estimate.
        quantile: Which quantile of the absolute values off the diagonal is the threshold.
        familywise: Take it of the largest value of each shuffling.
        seed: Seed of the shuffling.

    Returns:
        The threshold.

    Raises:
        UsageError: If a number is out of range, or no pair has a value.
    """
    if num_permutations < 1 or not 0 < quantile < 1:
        raise UsageError(
            "`num_permutations` should be at least 1 and `quantile` between 0 and 1. "
            f"Found {num_permutations} and {quantile}."
        )
    if isinstance(batches, NeighborLoader):  # its epoch stays as it is
        batches = batches.epoch_batches(batches.epoch)
    held = list(batches)
    found = []
    with Progress("permutations", num_permutations) as progress:
        for number in range(num_permutations):
            shuffled = shuffled_batches(held, seed=derive_seed(seed, "affinity null", number))
            values = np.abs(_off_diagonal(estimate(shuffled).values))
            values = values[np.isfinite(values)]
            found.append(values.max(keepdims=True) if familywise and len(values) else values)
            progress.advance()
    pooled = np.concatenate(found)
    if len(pooled) == 0:
        raise UsageError("The estimate should know at least one pair of tasks. Found NaN only.")
    return PermutationNull(
        float(np.quantile(pooled, quantile)), quantile, familywise, num_permutations
    )


def affinity_facts(
    affinity: Affinity,
    *,
    overlap: SampleOverlap | None = None,
    null: PermutationNull | None = None,
) -> dict[str, Any]:
    """Return what there is to know of an affinity before it is trusted, as plain JSON values.

    Args:
        affinity: The affinity.
        overlap: Training samples the tasks share, from :func:`gnn_mtl.datasets.sample_overlap`.
        null: What chance does, from :func:`affinity_null`.

    Returns:
        ``tasks``, ``pairs``, ``unknown`` (share of ordered pairs), ``median``, ``negative`` (share
        of the known). ``noise``: median standard error over the spread of the values, above .5 the
        matrix is mostly noise; ``noise_share``: median over tasks, where measured.
        ``effective_samples``: what a moving average is worth, median over pairs. ``flags``: share
        of pairs red, amber and green by shared training samples. ``beyond_chance``: share of
        known pairs beyond the null's threshold. None where there is nothing to tell from.

    Raises:
        ShapeError: If ``overlap`` is of another number of tasks.
    """
    _check_overlap(affinity, overlap)
    values = _off_diagonal(affinity.values)
    known = values[np.isfinite(values)]
    facts: dict[str, Any] = {
        "tasks": affinity.num_tasks, "pairs": affinity.num_tasks * (affinity.num_tasks - 1) // 2,
        "unknown": _rounded(1.0 - len(known) / len(values)) if len(values) else None,
        "median": _rounded(np.median(known)) if len(known) else None,
        "negative": _rounded(np.mean(known < 0)) if len(known) else None,
        "noise": None, "noise_share": None, "effective_samples": None, "flags": None,
        "beyond_chance": None,
    }  # fmt: skip
    if affinity.stderr is not None:
        errors = _off_diagonal(affinity.stderr)
        errors = errors[np.isfinite(errors)]
        if len(errors) and known.std() > 0:
            facts["noise"] = _rounded(np.median(errors) / known.std())
    shares = affinity.details.get("noise_share")
    if isinstance(shares, list) and any(share is not None for share in shares):
        facts["noise_share"] = _rounded(np.median([s for s in shares if s is not None]))
    beta = affinity.details.get("ema_beta")
    if isinstance(beta, float) and affinity.counts is not None and len(values):
        facts["effective_samples"] = _rounded(
            np.median(effective_samples(beta, _off_diagonal(affinity.counts)))
        )
    if overlap is not None and len(values):
        facts["flags"] = {name: _rounded(share) for name, share in overlap.fractions().items()}
    if null is not None and len(known):
        facts["beyond_chance"] = _rounded(np.mean(np.abs(known) > null.threshold))
    return facts


def pair_table(
    affinity: Affinity,
    *,
    overlap: SampleOverlap | None = None,
    null: PermutationNull | None = None,
    count: int | None = None,
) -> list[dict[str, Any]]:
    """Return the known pairs with all that qualifies them, largest absolute values first.

    Args:
        affinity: The affinity; a directed one gives two rows a pair.
        overlap: Adds ``jaccard``, ``containment`` and ``flag`` (red, amber or green, by Jaccard).
        null: Adds ``beyond_chance``.
        count: Rows, at most.

    Returns:
        Rows of plain values: ``giver``, ``recipient`` (names where there are), ``value``,
        ``stderr``, ``count``; None where unknown.

    Raises:
        ShapeError: If ``overlap`` is of another number of tasks.
    """
    _check_overlap(affinity, overlap)
    values = affinity.values
    wanted = ~np.isnan(values) & ~np.eye(len(values), dtype=np.bool_)
    if affinity.symmetric:
        wanted &= np.triu(np.ones_like(wanted))
    givers, recipients = np.nonzero(wanted)
    order = np.argsort(-np.abs(values[givers, recipients]), kind="stable")[:count]
    names = affinity.label_names
    jaccard = containment = flags = None
    if overlap is not None:
        jaccard, containment = overlap.jaccard(), overlap.containment()
        flags = overlap.flags()
    rows = []
    for i, j in zip(givers[order].tolist(), recipients[order].tolist(), strict=True):
        row: dict[str, Any] = {
            "giver": names[i] if names else i,
            "recipient": names[j] if names else j,
            "value": float(values[i, j]),
            "stderr": _cell(affinity.stderr, i, j),
            "count": None if affinity.counts is None else int(affinity.counts[i, j]),
        }
        if jaccard is not None and containment is not None and flags is not None:
            row |= {
                "jaccard": _cell(jaccard, i, j), "containment": _cell(containment, i, j),
                "flag": FLAGS[flags[i, j]],
            }  # fmt: skip
        if null is not None:
            row["beyond_chance"] = bool(abs(values[i, j]) > null.threshold)
        rows.append(row)
    return rows


def _off_diagonal(matrix: NDArray[Any]) -> NDArray[Any]:
    return matrix[~np.eye(len(matrix), dtype=np.bool_)]


def _cell(matrix: NDArray[np.float64] | None, i: int, j: int) -> float | None:
    return None if matrix is None or np.isnan(matrix[i, j]) else float(matrix[i, j])


def _rounded(value: float | np.floating[Any]) -> float | None:
    return float(f"{float(value):.4g}") if np.isfinite(value) else None


def _check_overlap(affinity: Affinity, overlap: SampleOverlap | None) -> None:
    if overlap is not None and len(overlap.observed) != affinity.num_tasks:
        raise ShapeError(
            f"The overlap should be of {affinity.num_tasks} tasks. Found {len(overlap.observed)}."
        )
