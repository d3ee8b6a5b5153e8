"""Pareto MTL: descent towards a chosen trade-off between the tasks, and vectors to choose from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.aggregation._base import DEAD, Promise, Weighting
from gnn_mtl.aggregation._gramian_method import GradientOptions
from gnn_mtl.linalg import min_norm_weights
from gnn_mtl.tasks import Grouping

MANY = 10
CANDIDATES = 4096
OVER = -1.0


def preference_vectors(num_objectives: int, number: int, *, seed: int = 0) -> Tensor:
    """Return directions spread over the nonnegative part of the unit sphere, for trade-off curves.

    One vector is the diagonal. Two objectives get equal angles from one axis to the other. For
    more, the axes come first and each next direction is the one of 4096 random ones (and the
    diagonal) farthest from all before it (Gonzalez, TCS 1985): at most twice as far apart as best.

    A run with a vector keeps the losses closer to it than to the others: (1, 0) allows a high loss
    of the first objective and asks for a low one of the second.

    Args:
        num_objectives: M.
        number: K.
        seed: Seed of the random candidates.

    Returns:
        float64 ``[K, M]``, rows of length 1.

    Raises:
        UsageError: If a number is below 1.
    """
    if num_objectives < 1 or number < 1:
        raise UsageError(
            "Preference vectors need at least one objective and one vector. "
            f"Found {num_objectives} and {number}."
        )
    diagonal = torch.full((1, num_objectives), num_objectives**-0.5, dtype=torch.float64)
    if number == 1:
        return diagonal
    if num_objectives == 2:
        angles = torch.linspace(0, math.pi / 2, number, dtype=torch.float64)
        return torch.stack([angles.cos(), angles.sin()], dim=1).clamp(min=0)
    draw = generator(seed, "preference_vectors", num_objectives)
    random = torch.from_numpy(abs(draw.standard_normal((CANDIDATES, num_objectives))))
    axes = torch.eye(num_objectives, dtype=torch.float64)
    candidates = torch.cat([axes, diagonal, random / random.norm(dim=1, keepdim=True)])
    chosen, nearest = [0], candidates @ candidates[0]
    while len(chosen) < number:
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, candidates @ candidates[chosen[-1]])
    return candidates[chosen]


def pareto_mtl_weights(
    gramian: Tensor, objectives: Tensor, vectors: Tensor, index: int, *, search: bool = False
) -> tuple[Tensor, bool]:
    r"""Return the weights of the objectives ``[M]`` and whether they meet all constraints.

    Args:
        gramian: Inner products of the objectives' gradients, ``[M, M]``; objectives whose row is
            zero count in the constraints but cannot be moved.
        objectives: F, their losses ``[M]``.
        vectors: Preference vectors u ``[K, M]``.
        index: Which one, k.
        search: Whether to descend the violated constraints alone, if there are any.
    """
    others = vectors - vectors[index]
    rounding = 1e-12 * (others.abs() @ objectives.abs())
    violated = others[others @ objectives > rounding]
    rows = torch.eye(len(objectives), dtype=torch.float64)
    if len(violated):
        rows = violated if search else torch.cat([rows, violated])
    squares = ((rows @ gramian) * rows).sum(dim=1)
    rows = rows[squares > DEAD * squares.max()]
    if len(rows) == 0:
        return torch.zeros_like(objectives), len(violated) == 0
    return min_norm_weights(rows @ gramian @ rows.T) @ rows, len(violated) == 0


class ParetoMTLWeighting(Weighting):
    """:class:`ParetoMTL` as a weighting.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Unused: nothing is random.

    Attributes:
        state: ``losses`` ``[T]``, each task's loss when last seen, NaN before; ``search`` ``[T]``,
            the calls a task has spent looking for a feasible point, -1 once that is over.

    Raises:
        UsageError: If groups are missing, or not every task is in exactly one.
    """

    kind: ClassVar[str] = "pareto_mtl"
    promises: ClassVar[frozenset[Promise]] = frozenset({"scaling"})

    def __init__(self, config: ParetoMTL, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, norm=config.norm, seed=seed)
        self.config = config
        self.group = _group_of_task(config.groups, num_tasks)
        self.vectors = preference_vectors(int(self.group.max()) + 1, config.number)
        self.state = {
            "losses": torch.full((num_tasks,), torch.nan, dtype=torch.float64),
            "search": torch.zeros(num_tasks, dtype=torch.float64),
        }

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:
        assert gramian is not None  # noqa: S101
        last, spent = self.state["losses"], self.state["search"]
        last[tasks] = losses
        known = (~last.isnan()).nonzero()[:, 0]
        objectives = self._means(known) @ last[known]
        shares = self._means(tasks)
        search = not bool((spent[tasks] == OVER).any())
        search = search and float(spent[tasks].max()) < self.config.patience
        weights, feasible = pareto_mtl_weights(
            shares @ gramian @ shares.T, objectives, self.vectors, self.config.index, search=search
        )
        spent[tasks] = spent[tasks] + 1 if search and not feasible else OVER
        found = weights @ shares
        total = float(found.abs().sum())
        return found * (len(found) / total) if total > 0 else found

    def _means(self, tasks: Tensor) -> Tensor:
        """The matrix ``[M, S]`` that takes the mean of the tasks of each group."""
        number = self.vectors.shape[1]
        member = torch.zeros(number, len(tasks), dtype=torch.float64)
        member[self.group[tasks], torch.arange(len(tasks))] = 1.0
        return member / member.sum(dim=1, keepdim=True).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class ParetoMTL(GradientOptions):
    r"""Descends towards the trade-off that one of several preference vectors stands for.

    Lin et al., "Pareto Multi-Task Learning", NeurIPS 2019, arXiv 1912.12854, eqs. 7, 9, 14 and 18.
    The K vectors divide the losses F into regions where each is the closest; that of vector k is

    .. math:: G_j(F) = (u_j - u_k) \cdot F \le 0 \quad \text{for all } j .

    As long as some :math:`G_j > 0`, a first phase descends those alone. Then the direction is the
    shortest convex combination of the tasks' gradients and those of the violated constraints:

    .. math:: d = \sum_i \lambda_i g_i + \sum_{j : G_j > 0} \beta_j \nabla G_j,
              \qquad w_i = \lambda_i + \sum_j \beta_j (u_j - u_k)_i ,

    scaled to :math:`\sum_i |w_i| = S`; without violated constraints it is MGDA. Weights may be
    negative. Train once for each ``index`` to get a trade-off curve of K points.

    As in the authors' code, a constraint counts once it is violated; in the paper a little earlier.
    Differs from that code, which is for two tasks: any number of objectives; these may be means
    over groups of labels, since K vectors say little in hundreds of dimensions; tasks that take no
    part in an update keep the loss they had when last seen; and only inner products are needed.

    Cost: one min-norm point of at most M + K - 1 vectors.
    """

    kind: ClassVar[str] = "pareto_mtl"

    number: int = 5
    """Number of preference vectors K, spread evenly."""

    index: int = 0
    """Which of them, from 0. With two objectives 0 prefers a low loss of the second, K - 1 of the
    first."""

    file: str | None = None
    """Grouping file (JSON) written by `gnn-mtl group` or `Grouping.save` whose groups are the
    objectives; read at once, so that the configuration holds the groups themselves."""

    groups: tuple[tuple[int, ...], ...] = ()
    """Labels of each objective, whose loss is their mean; every label once. None: each label is an
    objective of its own, for up to 10 labels."""

    patience: int = 1000
    """Updates after which the first phase ends even if no feasible point is found."""

    def __post_init__(self) -> None:
        if self.file is not None:
            if self.groups:
                raise UsageError("Give either `file` or `groups`, not both, for the objectives.")
            object.__setattr__(self, "groups", Grouping.load(self.file).groups)
            object.__setattr__(self, "file", None)
        super().__post_init__()
        if self.number < 1 or not 0 <= self.index < self.number:
            raise UsageError(
                "`index` should be one of `number` preference vectors, from 0. "
                f"Found index {self.index} of {self.number}."
            )
        if self.patience < 0:
            raise UsageError(f"`patience` should be 0 or more. Found {self.patience}.")

    def build(self, num_tasks: int, seed: int = 0) -> ParetoMTLWeighting:
        """Build the aggregator; it has no randomness."""
        return ParetoMTLWeighting(self, num_tasks, seed=seed)


def _group_of_task(groups: tuple[tuple[int, ...], ...], num_tasks: int) -> Tensor:
    """The objective of every task, int64 ``[T]``, checked."""
    if not groups:
        if num_tasks > MANY:
            raise UsageError(
                f"Preferences between {num_tasks} tasks would need far too many vectors. Put the "
                f"labels into at most {MANY} groups, each an objective: --aggregator.file "
                "groups.json, as gnn-mtl group writes it, or `groups` in a recipe."
            )
        return torch.arange(num_tasks)
    named = sorted(task for group in groups for task in group)
    if named != list(range(num_tasks)) or not all(groups):
        raise UsageError(
            f"`groups` should hold each of the {num_tasks} tasks once, and no empty group. Found "
            f"{len(named)} ids, {len(set(named))} different, in {len(groups)} groups."
        )
    group = torch.zeros(num_tasks, dtype=torch.int64)
    for number, members in enumerate(groups):
        group[list(members)] = number
    return group
