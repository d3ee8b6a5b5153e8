"""``SubsetSurrogate``: scores of subsets never trained, from a table of those that were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.affinity._group_gains import check_masks
from gnn_mtl.affinity._higher_order import Normalize, score_scale, score_unit
from gnn_mtl.tasks import Affinity, SubsetTable

Kind = Literal["linear", "kernel"]
RIDGES = {"linear": 1e-2, "kernel": 1e-3}


class SubsetSurrogate:
    r"""Predicts the score of every member of any subset from the subset's indicator.

    One ridge regression per recipient i on the indicators of the subsets that hold it:
    ``"linear"``: :math:`\hat f_i(S) = c_i + \sum_{j \in S} \theta_{ji}` (Li et al., TMLR 2023),
    whose weights are an affinity; ``"kernel"``: with the kernel
    :math:`e^{-\gamma |1_S - 1_{S'}|^2}` (ICLR 2026, arXiv 2602.03783), which sees interactions.
    Targets are centred per recipient.

    Args:
        kind: ``"linear"`` or ``"kernel"``.
        ridge: Penalty; default 1e-2 (linear) and 1e-3 (kernel), the authors'.
        gamma: Width of the kernel; default 1 / T.

    Raises:
        UsageError: If the kind is unknown or a number is not positive.
    """

    def __init__(
        self, kind: Kind = "linear", *, ridge: float | None = None, gamma: float | None = None
    ) -> None:
        if kind not in get_args(Kind):
            raise UsageError(f"`kind` should be one of {get_args(Kind)}. Found {kind!r}.")
        self.kind = kind
        self.ridge = RIDGES[kind] if ridge is None else ridge
        self.gamma = gamma
        if not self.ridge > 0 or not (gamma is None or gamma > 0):
            raise UsageError(
                f"`ridge` and `gamma` should be positive. Found {self.ridge} and {gamma}."
            )
        self.table: SubsetTable | None = None
        self._fits: list[_Fit | None] = []

    def fit(self, table: SubsetTable) -> Self:
        """Fit to the known scores of a table.

        Raises:
            UsageError: If no score is known.
        """
        if not table.known.any():
            raise UsageError("A surrogate should be fitted to a known score at least. Found none.")
        self.table = table
        self._fits = self._fitted(table.masks, table.scores)
        return self

    def predict(self, masks: ArrayLike) -> SubsetTable:
        """Return the predicted scores of some subsets ``[m, T]`` as a table.

        Its ``source`` is ``"surrogate:linear"`` or ``"surrogate:kernel"``; tasks without a known
        score in the table fitted to stay NaN.

        Raises:
            UsageError: Before :meth:`fit`.
        """
        table = self._known_table()
        members = check_masks(masks, table.num_tasks)
        return SubsetTable(
            members, self._predicted(self._fits, members), f"surrogate:{self.kind}", table.metric,
            table.split, table.seed, None, table.baseline, table.label_names,
            {
                "fitted_to": table.source, "subsets": table.num_subsets, "ridge": self.ridge,
                **({"gamma": self._width(table.num_tasks)} if self.kind == "kernel" else {}),
            },
        )  # fmt: skip

    def affinity(self, *, normalize: Normalize = "zscore") -> Affinity:
        r"""Return the weights :math:`\theta_{ji}` of the linear surrogate: what giver j adds.

        They do not carry the noise of who else was in the subsets, as the means of
        :func:`subset_affinity` do: on 1,533 subsets of 66 tasks as Grad-TAG predicts them, weights
        of two halves of the table correlate by .99, means by .60.

        Args:
            normalize: Unit of each recipient: ``"zscore"``, the standard deviation of its scores;
                ``"relative"``, the size of its baseline; ``"none"``.

        Returns:
            A directed affinity; the diagonal, and givers never seen with a recipient, are unknown.

        Raises:
            UsageError: Before :meth:`fit`, of the kernel, which has no weights, or if there is no
                baseline to be relative to.
        """
        table = self._known_table()
        if self.kind != "linear":
            raise UsageError("Only the linear surrogate has weights. Found the kernel one.")
        values = np.full((table.num_tasks, table.num_tasks), np.nan)
        for task, fit in enumerate(self._fits):
            if fit is not None:
                weights = (fit.design - fit.centre).T @ fit.dual
                seen = fit.design.any(axis=0)
                values[:, task] = np.where(seen, weights, np.nan)
        np.fill_diagonal(values, np.nan)
        counts = table.masks.T.astype(np.float64) @ table.known
        return Affinity(
            values / score_scale(table, normalize), "surrogate_linear",
            score_unit(table, normalize), False, np.rint(counts).astype(np.int64), None,
            table.label_names,
            {"scores": table.source, "ridge": self.ridge, "normalize": normalize},
        )  # fmt: skip

    def cross_validated_r2(
        self, table: SubsetTable, *, folds: int = 5, seed: int = 0
    ) -> tuple[float, NDArray[np.float64]]:
        r"""Return how much of the scores' variation the surrogate predicts, over all and per task.

        :math:`1 - \sum e^2 / \sum e_0^2` over held-out subsets, e_0 being the error of each
        recipient's mean over the other subsets: 0 is a constant per task, below 0 worse than it.

        Args:
            table: Scores; folds hold whole subsets.
            folds: Number of folds, at most that of subsets.
            seed: Seed of the folds.

        Returns:
            The pooled number, and one per task ``[T]``; NaN where nothing can be held out.

        Raises:
            UsageError: If ``folds`` is below 2 or there are fewer than 2 subsets.
        """
        number = table.num_subsets
        if folds < 2 or number < 2:
            raise UsageError(
                "Cross-validation needs 2 folds and 2 subsets at least. Found "
                f"{folds} and {number}."
            )
        order = generator(seed, "surrogate-folds").permutation(number)
        ours, constant = np.zeros(table.num_tasks), np.zeros(table.num_tasks)
        for held in np.array_split(order, min(folds, number)):
            rest = np.setdiff1d(order, held)
            fits = self._fitted(table.masks[rest], table.scores[rest])
            found = self._predicted(fits, table.masks[held])
            means = np.array([np.nan if fit is None else fit.mean for fit in fits])
            ours += np.nansum((table.scores[held] - found) ** 2, axis=0)
            constant += np.nansum((table.scores[held] - means) ** 2, axis=0)
        share = np.divide(ours, constant, out=np.full_like(ours, np.nan), where=constant > 0)
        total = float(constant.sum())
        return (1.0 - float(ours.sum()) / total if total > 0 else float("nan")), 1.0 - share

    def _known_table(self) -> SubsetTable:
        if self.table is None:
            raise UsageError("There is nothing to predict from yet; call fit() first.")
        return self.table

    def _width(self, num_tasks: int) -> float:
        return 1.0 / num_tasks if self.gamma is None else self.gamma

    def _fitted(self, masks: NDArray[np.bool_], scores: NDArray[np.float64]) -> list[_Fit | None]:
        """One dual ridge a recipient; None where it has no known score."""
        fits: list[_Fit | None] = []
        for task in range(masks.shape[1]):
            rows = ~np.isnan(scores[:, task])
            if not rows.any():
                fits.append(None)
                continue
            design = masks[rows].astype(np.float64)
            design[:, task] = 0.0  # always there
            target = scores[rows, task]
            mean = float(target.mean())
            centre = design.mean(axis=0) if self.kind == "linear" else np.zeros(design.shape[1])
            square = self._kernel(design, design, centre) + self.ridge * np.eye(len(design))
            fits.append(_Fit(design, centre, mean, np.linalg.solve(square, target - mean)))
        return fits

    def _predicted(self, fits: list[_Fit | None], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
        found = np.full(masks.shape, np.nan)
        for task, fit in enumerate(fits):
            rows = masks[:, task]
            if fit is not None and rows.any():
                asked = masks[rows].astype(np.float64)
                asked[:, task] = 0.0
                found[rows, task] = (
                    fit.mean + self._kernel(asked, fit.design, fit.centre) @ fit.dual
                )
        return found

    def _kernel(
        self, a: NDArray[np.float64], b: NDArray[np.float64], centre: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if self.kind == "linear":
            return (a - centre) @ (b - centre).T
        squares = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - 2.0 * a @ b.T
        return np.exp(-self._width(a.shape[1]) * squares)


@dataclass(frozen=True, eq=False)
class _Fit:
    """The regression of one recipient: its subsets, and what multiplies their kernel."""

    design: NDArray[np.float64]
    centre: NDArray[np.float64]
    mean: float
    dual: NDArray[np.float64]
