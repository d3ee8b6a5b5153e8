"""What a running average of gradients is kept of: gradients, sketches of them, or their Gramian."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from gnn_mtl._core.errors import NonFiniteWarning, ShapeError, UsageError
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.affinity import GradientEMA, GramianEMA, ObservedGradients
from gnn_mtl.linalg import count_sketch
from gnn_mtl.tasks import Affinity

EMAOf = Literal["gradient", "sketch", "gramian"]
CHUNK_BYTES = 1 << 26


class RunningAffinity(Protocol):
    """What a schedule needs of an average, e.g. :class:`gnn_mtl.affinity.GradientEMA`."""

    ages: list[int]
    non_finite: list[int]

    def update(self, gradients: ObservedGradients) -> tuple[int, ...]:
        """Average in the usable rows; return the tasks that were updated."""

    def affinity(self) -> Affinity:
        """Return the cosines of the averages, NaN where a task was never observed."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""


def running_affinity(
    of: EMAOf, num_tasks: int, *, beta: float, sketch_dim: int, seed: int
) -> RunningAffinity:
    """Build the average that a schedule keeps.

    Args:
        of: ``"gradient"``: of the gradients themselves, 4 T P bytes. ``"sketch"``: of count
            sketches of them, 4 T K bytes (:class:`SketchEMA`). ``"gramian"``: of their products,
            16 T^2 bytes (:class:`ProductEMA`).
        num_tasks: Number of tasks T.
        beta: Share of the old average kept, in [0, 1).
        sketch_dim: Size K of a sketch.
        seed: Seed of the sketch.
    """
    if of == "sketch":
        return SketchEMA(num_tasks, beta=beta, sketch_dim=sketch_dim, seed=seed)
    if of == "gramian":
        return ProductEMA(num_tasks, beta=beta)
    return GradientEMA(num_tasks, beta=beta)


@dataclass(frozen=True)
class _Rows:
    tasks: tuple[int, ...]
    jacobian: Tensor
    valid: Tensor


class SketchEMA(GradientEMA):
    """Average of count sketches of task gradients (:func:`gnn_mtl.linalg.count_sketch`).

    The map is linear and the same for the whole run, so the average of sketches is the sketch of
    the average. Gradients of at most K parameters are kept as they are. Standard errors are of the
    sketches' cosines: what the sketch itself puts on a cosine, about 1 / sqrt(K), stays the same
    from one observation to the next and is no part of them.

    Args:
        num_tasks: Number of tasks T.
        beta: See :class:`gnn_mtl.affinity.GradientEMA`.
        sketch_dim: Size K.
        seed: Seed of the sketch.
    """

    def __init__(
        self, num_tasks: int, *, beta: float = 0.9, sketch_dim: int = 256, seed: int = 0
    ) -> None:
        super().__init__(num_tasks, beta=beta)
        if sketch_dim < 1:
            raise UsageError(f"`sketch_dim` should be at least 1. Found {sketch_dim}.")
        self.sketch_dim = sketch_dim
        self.seed = derive_seed(seed, "count_sketch")
        self._width: int | None = None  # P

    def update(self, gradients: ObservedGradients) -> tuple[int, ...]:
        """Average in sketches of the usable rows; see :class:`gnn_mtl.affinity.GradientEMA`."""
        jacobian = gradients.jacobian.detach()
        if jacobian.ndim == 2 and self._width not in (None, jacobian.shape[1]):
            raise ShapeError(
                f"Gradients should have {self._width} entries, as those before. "
                f"Found {jacobian.shape[1]}."
            )
        if jacobian.ndim == 2 and jacobian.shape[1] > self.sketch_dim:
            jacobian = count_sketch(jacobian.float(), self.sketch_dim, seed=self.seed)
        updated = super().update(_Rows(tuple(gradients.tasks), jacobian, gradients.valid))
        self._width = gradients.jacobian.shape[1]
        return updated

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs."""
        return {**super().state_dict(), "width": self._width, "sketch_dim": self.sketch_dim}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict` of an average with the same arguments.

        Raises:
            UsageError: If the state is incomplete or of another average.
        """
        if state.get("sketch_dim") != self.sketch_dim or "width" not in state:
            raise UsageError(
                f"Expected the state of sketches of size {self.sketch_dim}. "
                f"Found {state.get('sketch_dim')}."
            )
        super().load_state_dict(state)
        self._width = None if state["width"] is None else int(state["width"])


class ProductEMA:
    r"""Average of the products of task gradients (:class:`gnn_mtl.affinity.GramianEMA`).

    Costs :math:`T^2` numbers whatever P is, and works where the parameters differ from one
    observation to the next. But a product of a noisy gradient with itself holds the noise's square,
    which no averaging removes: cosines shrink towards 0 by
    :math:`\|\mu\|^2 / (\|\mu\|^2 + \sigma^2)`, so a conflict graph has fewer edges than with
    averaged gradients (SON-GOKU spec T5). Observations may bring their own ``gramian`` ``[S, S]``,
    e.g. one without that bias, instead of a jacobian.

    Args:
        num_tasks: Number of tasks T.
        beta: Share of the old average kept, in [0, 1).

    Attributes:
        ages: Calls of :meth:`update` since the last observation, for each task.
        non_finite: Calls that offered a row that was not finite, for each task.
    """

    def __init__(self, num_tasks: int, *, beta: float = 0.9) -> None:
        self._products = GramianEMA(num_tasks, beta=beta)
        self.ages = [0] * num_tasks
        self.non_finite = [0] * num_tasks

    def update(self, gradients: ObservedGradients) -> tuple[int, ...]:
        """Average in the products of the usable rows; return the tasks that were updated.

        Raises:
            ShapeError: If the rows do not fit the tasks.
            UsageError: If a task is repeated or outside ``[0, T)``.

        Warns:
            NonFiniteWarning: The first time a task's gradient is not finite.
        """
        tasks = tuple(int(task) for task in gradients.tasks)
        given = getattr(gradients, "gramian", None)
        gramian = given if isinstance(given, Tensor) else _gramian(gradients.jacobian.detach())
        valid, own = gradients.valid.cpu(), gramian.diagonal().cpu()
        if valid.shape == own.shape:
            valid = valid & (own != 0)  # a zero gradient has no direction
        updated = self._products.update(gramian, tasks, valid)
        self.ages = [age + 1 for age in self.ages]
        for task in updated:
            self.ages[task] = 0
        finite = own.isfinite().tolist()
        broken = [task for task, good in zip(tasks, finite, strict=True) if not good]
        new = [task for task in broken if not self.non_finite[task]]
        for task in broken:
            self.non_finite[task] += 1
        if new:
            warnings.warn(
                f"Gradients should be finite. Found NaN or infinity for tasks {new[:8]}; their "
                "averages are kept as they were. Look at these labels' losses, or lower the rate.",
                NonFiniteWarning,
                stacklevel=2,
            )
        return updated

    def affinity(self) -> Affinity:
        """Return the cosines of the averaged products; cells never observed are NaN."""
        return self._products.affinity()

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs: plain values and tensors."""
        return {
            "products": self._products.state_dict(),
            "ages": list(self.ages),
            "non_finite": list(self.non_finite),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict` of an average of the same tasks and ``beta``.

        Raises:
            UsageError: If the state is incomplete or of another average; nothing is changed then.
        """
        if missing := sorted(self.state_dict().keys() - state.keys()):
            raise UsageError(f"The state of averaged products should hold {missing}; it does not.")
        self._products.load_state_dict(
            {k: v.cpu().numpy() if torch.is_tensor(v) else v for k, v in state["products"].items()}
        )
        self.ages = [int(age) for age in state["ages"]]
        self.non_finite = [int(count) for count in state["non_finite"]]


def _gramian(jacobian: Tensor) -> Tensor:
    """Return the products of the rows in float64; those of rows that are not finite are NaN."""
    if jacobian.ndim != 2:
        return jacobian.double()
    gramian = jacobian.new_zeros(len(jacobian), len(jacobian), dtype=torch.float64)
    width = max(1, CHUNK_BYTES // (8 * max(1, len(jacobian))))
    for block in jacobian.split(width, dim=1):
        wide = block.double()
        gramian.addmm_(wide, wide.T)
    broken = ~gramian.diagonal().isfinite()
    gramian[broken] = torch.nan
    gramian[:, broken] = torch.nan
    return gramian
