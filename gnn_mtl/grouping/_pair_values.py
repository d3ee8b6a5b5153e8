"""What clusterings read from an affinity: one finite number for every pair of tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._affinity_propagation import similarities
from gnn_mtl.tasks import Affinity


@dataclass(frozen=True, eq=False)
class PairValues:
    """The symmetric, finite matrix behind a clustering.

    Attributes:
        values: ``[T, T]``, symmetric, without NaN.
        num_imputed: Pairs of tasks that were known in neither direction.
    """

    values: NDArray[np.float64]
    num_imputed: int


def pair_values(affinity: Affinity, *, keep_diagonal: bool = False) -> PairValues:
    r"""Return the mean of both directions of every pair; nothing else of A enters a density.

    :math:`v^\top A v = v^\top \frac{A + A^\top}{2} v`, so that symmetrising loses nothing where
    pairs are summed inside groups. A pair known one way only takes that value; one known in neither
    takes the median of the known pairs, and is counted.

    Args:
        affinity: Symmetric or directed, unknown cells NaN.
        keep_diagonal: Keep self-affinities (unknown ones are 0); else they are 0, so that a task
            alone is worth 0, its own baseline. On a diagonal of one value c the sum of densities of
            k groups grows by c k: it is a price on the number of groups.

    Raises:
        UsageError: If no pair of the tasks is known.
    """
    both = np.stack([affinity.values, affinity.values.T])
    unknown = np.asarray(np.isnan(both).all(axis=0))
    apart = ~np.eye(affinity.num_tasks, dtype=np.bool_)
    if affinity.num_tasks > 1 and unknown[apart].all():
        raise UsageError(
            "Grouping by affinity needs a pair of tasks whose affinity is known. Found only NaN; "
            "measure more subsets."
        )
    values = similarities(affinity, normalize=False)
    assert values is not None  # noqa: S101 - only None where it normalises
    own = np.nan_to_num(affinity.values.diagonal()) if keep_diagonal else 0.0
    np.fill_diagonal(values, own)
    return PairValues(values, int(np.triu(unknown, k=1).sum()))


def directed_values(affinity: Affinity) -> tuple[NDArray[np.float64], int]:
    """Return ``values[giver, recipient]`` without NaN and with a zero diagonal, and cells imputed.

    An unknown cell takes its pair's other direction, or the median of the known pairs.
    """
    values = np.array(affinity.values)
    unknown = np.isnan(values)
    np.fill_diagonal(unknown, False)
    values[unknown] = pair_values(affinity).values[unknown]
    np.fill_diagonal(values, 0.0)
    return values, int(unknown.sum())


def check_num_groups(num_groups: int, num_tasks: int) -> int:
    """Return the number of groups, or raise UsageError if there are fewer tasks."""
    if not 1 <= num_groups <= num_tasks:
        raise UsageError(
            f"`num_groups` should lie in [1, {num_tasks}], the number of tasks. Found {num_groups}."
        )
    return num_groups
