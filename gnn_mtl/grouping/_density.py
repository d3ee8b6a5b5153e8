"""What a grouping is worth: average density, TAG's, PTG's and the normalised association."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping._pair_values import pair_values
from gnn_mtl.tasks import Affinity

ObjectiveName = Literal["density", "ptg", "tag", "association"]
Members = Sequence[Sequence[int]]


def average_density(values: NDArray[np.float64], groups: Members) -> float:
    r"""Return :math:`\sum_G v_G^\top A v_G / |G|`, the sum of the groups' densities.

    The goal of Grad-TAG's clustering (arXiv 2409.06091) and, each group counted once, PTG's
    (arXiv 2402.15328: every membership counts). The diagonal enters as it is.

    Args:
        values: ``[T, T]``, finite, symmetric or directed.
        groups: Any groups.

    Example:
        >>> average_density(np.ones((3, 3)) - np.eye(3), [(0, 1), (2,)])
        1.0
    """
    return sum(float(values[np.ix_(g, g)].sum()) / len(g) for g in map(list, groups))


def tag_value(values: NDArray[np.float64], groups: Members) -> float:
    r"""Return :math:`\sum_t \max_{G \ni t} \text{mean}_{i \in G \setminus t} A_{it}`.

    TAG's goal (arXiv 2109.04617): each task counts in the group that serves it best, by what the
    others give it on average; alone it counts 0. The diagonal does not enter.

    Args:
        values: ``values[giver, recipient]``, finite.
        groups: Groups that cover all tasks.
    """
    best = np.full(len(values), -np.inf)
    for members in map(list, groups):
        inside = values[np.ix_(members, members)]
        given = inside.sum(axis=0) - inside.diagonal()
        best[members] = np.maximum(best[members], given / max(len(members) - 1, 1))
    return float(best.sum())


def normalized_association(values: NDArray[np.float64], groups: Members) -> float:
    r"""Return :math:`\sum_G A(G, G) / A(G, V)` (Shi & Malik 2000): k minus the normalised cut.

    Args:
        values: ``[T, T]``, symmetric, not negative.
        groups: Any groups; one without any affinity counts 0.
    """
    degree = values.sum(axis=1)
    total = 0.0
    for members in map(list, groups):
        reach = float(degree[members].sum())
        total += float(values[np.ix_(members, members)].sum()) / reach if reach > 0 else 0.0
    return total


@dataclass(frozen=True, eq=False)
class Objective:
    r"""A sum over disjoint groups of :math:`W(G) / (\sum_{t \in G} c_t - s)`, W the pairs inside.

    All goals here have that form, which is what the searches need: density and PTG with c = 1,
    s = 0; TAG with c = 1, s = 1; association with the degrees and s = 0. Where the denominator is 0
    the group counts 0.

    Attributes:
        name: Which goal.
        values: ``[T, T]`` symmetric and finite; for the association over the mean degree.
        weights: c, ``[T]``.
        shift: s.
        num_imputed: Pairs that were unknown.
    """

    name: str
    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    shift: float
    num_imputed: int

    def of(self, groups: Members) -> float:
        """Return the value of disjoint groups."""
        return sum(self.of_group(group) for group in groups)

    def of_group(self, group: Sequence[int]) -> float:
        """Return what one group adds."""
        members = list(group)
        scale = float(self.weights[members].sum()) - self.shift
        return float(self.values[np.ix_(members, members)].sum()) / scale if scale > 0 else 0.0


def objective(
    affinity: Affinity, name: str = "density", *, keep_diagonal: bool = False
) -> Objective:
    """Return a goal for the searches over partitions.

    Args:
        affinity: Symmetric or directed; unknown pairs count as the median of the known ones.
        name: ``"density"`` or ``"ptg"`` (:func:`average_density`; on partitions they are one),
            ``"tag"`` (:func:`tag_value`) or ``"association"`` (:func:`normalized_association`).
        keep_diagonal: Let self-affinities count (not for ``"tag"``); see :func:`pair_values`.

    Raises:
        UsageError: If there is no goal of that name, or ``"association"`` meets a negative pair.
    """
    if name not in SHIFTS:
        raise UsageError(f"`objective` should be one of {', '.join(SHIFTS)}. Found {name!r}.")
    pairs = pair_values(affinity, keep_diagonal=keep_diagonal and name != "tag")
    weights = np.ones(affinity.num_tasks)
    if name == "association":
        if pairs.values.min() < 0:
            raise UsageError(
                "The normalised association needs affinities that are not negative. Found "
                f"{pairs.values.min():g}; use density, or shift the affinity."
            )
        degree = pairs.values.sum(axis=1)
        unit = float(degree.mean()) or 1.0  # it cancels, and the searches' tolerances fit
        return Objective(name, pairs.values / unit, degree / unit, 0.0, pairs.num_imputed)
    return Objective(name, pairs.values, weights, SHIFTS[name], pairs.num_imputed)


SHIFTS: Mapping[str, float] = {"density": 0.0, "ptg": 0.0, "tag": 1.0, "association": 0.0}
