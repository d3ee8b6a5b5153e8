"""``GainPredictor``: what a group of tasks will gain, from affinities and a few trained groups.

ETAP (Ayman, Mukhopadhyay & Laszka, ICLR 2026, arXiv 2602.18591). The white-box term is
``linear_look_ahead``; here it is corrected to gains that were really measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity._group_gains import check_masks, group_gains
from gnn_mtl.tasks import Affinity

MIN_PAIRS = 8
"""Pairs (group, member) below which the map stays affine."""


class GainPredictor:
    """Predicts every member's gain in any group.

    Three stages, each fitted to what the ones before leave: (1) an affine map of the members' mean
    affinity (:func:`group_gains`) to gains, by least squares over all (group, member) pairs; (2) a
    spline with ridge on it and, if wanted, on the log of the group's size; (3) per member a ridge
    on which other tasks are in the group, one penalty for all. Stages 2 and 3 are kept only where
    cross-validation says that they help: over whole groups, so that no member's co-members vouch
    for it. A task alone gains 0 by definition; that is not predicted.

    Args:
        affinity: Directed or symmetric; ``tag_linear``, ``tag`` or any other.
        degrees: Degrees of the splines tried.
        knots: Numbers of knots tried.
        alphas: Ridge penalties tried for the spline.
        residual_alphas: Ridge penalties tried for the third stage; none skips it.
        use_size: Whether stage 2 sees the group's size.
        folds: Folds of the cross-validation, at most the number of groups.

    Attributes:
        slope: Slope of stage 1.
        intercept: Intercept of stage 1.
        spline: Chosen (degree, knots, alpha) of stage 2, or None where it stays affine.
        residual_alpha: Chosen penalty of stage 3, or None where it does not help.

    Note:
        Differs from the authors' analysis code, which does not run as released: residuals are gains
        minus predictions (not group vectors minus predictions), members are masked by the groups
        predicted for (not by the training groups), folds hold whole groups, and the third stage is
        shrunk per member, for T coefficients a member from few groups.
    """

    def __init__(
        self,
        affinity: Affinity,
        *,
        degrees: Sequence[int] = (2, 3),
        knots: Sequence[int] = (2, 3, 5, 8),
        alphas: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0),
        residual_alphas: Sequence[float] = tuple(np.logspace(-2, 3, 16).tolist()),
        use_size: bool = True,
        folds: int = 10,
    ) -> None:
        self.affinity = affinity
        self.degrees, self.knots, self.alphas = tuple(degrees), tuple(knots), tuple(alphas)
        self.residual_alphas = tuple(residual_alphas)
        self.use_size, self.folds = use_size, folds
        self.slope = self.intercept = 0.0
        self.spline: tuple[int, int, float] | None = None
        self.residual_alpha: float | None = None
        self._model: Any = None
        self._coefficients = np.zeros((affinity.num_tasks, affinity.num_tasks))
        self._fitted = False

    def fit(self, masks: ArrayLike, gains: ArrayLike) -> Self:
        """Fit to groups that were trained.

        Args:
            masks: Members of each trained group, bool ``[m, T]``; singletons say nothing.
            gains: Relative gain of each member over its single-task model, (loss alone - loss in
                the group) / loss alone or any other measure of it, ``[m, T]``; NaN where unknown;
                cells outside the group are not read.

        Raises:
            ShapeError: If the shapes do not fit.
            UsageError: If no group of two or more has a known gain.
        """
        masks = check_masks(masks, self.affinity.num_tasks)
        gains = np.asarray(gains, dtype=np.float64)
        if gains.shape != masks.shape:
            raise ShapeError(f"`gains` should have shape {masks.shape}. Found {gains.shape}.")
        use = masks & np.isfinite(gains) & (masks.sum(axis=1) > 1)[:, None]
        rows, members = np.nonzero(use)
        if len(rows) == 0:
            raise UsageError(
                "ETAP should be fitted to at least one trained group of two tasks or more with "
                "known gains. Found none."
            )
        raw, y = self._raw(masks), gains[use]
        self._fit_affine(raw[use], y)
        x = self._inputs(raw, masks)[rows, members]
        self._fit_spline(x, y, rows)
        self._fitted = True
        residual = np.where(use, gains - self._smooth(raw, masks), np.nan)
        self._fit_residual(masks, residual)
        return self

    def predict(self, masks: ArrayLike) -> NDArray[np.float64]:
        """Return the predicted gain of each member ``[m, T]``; NaN outside the group.

        Raises:
            UsageError: Before :meth:`fit`.
        """
        if not self._fitted:
            raise UsageError("There is nothing to predict from yet; call fit() first.")
        masks = check_masks(masks, self.affinity.num_tasks)
        gains = self._smooth(self._raw(masks), masks) + masks @ self._coefficients
        gains[masks.sum(axis=1) == 1] = 0.0
        return np.where(masks, gains, np.nan)

    def _raw(self, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Members' mean affinities; unknown ones count as the mean known cell."""
        values = self.affinity.values[~np.eye(self.affinity.num_tasks, dtype=np.bool_)]
        known = values[~np.isnan(values)]
        scores = group_gains(self.affinity, masks)
        return np.where(np.isnan(scores), known.mean() if len(known) else 0.0, scores)

    def _fit_affine(self, z: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        spread = z - z.mean()
        squares = float(spread @ spread)
        small = squares <= 1e-24 * max(1.0, float(z @ z))
        self.slope = 0.0 if small else float(spread @ (y - y.mean())) / squares
        self.intercept = float(y.mean() - self.slope * z.mean())

    def _inputs(self, raw: NDArray[np.float64], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Features of stage 2, ``[m, T, 1 or 2]``: the affine prediction, and the log size."""
        affine = self.slope * raw + self.intercept
        if not self.use_size:
            return affine[..., None]
        size = np.log(masks.sum(axis=1, keepdims=True)).repeat(raw.shape[1], axis=1)
        return np.stack([affine, size], axis=-1)

    def _fit_spline(
        self, x: NDArray[np.float64], y: NDArray[np.float64], groups: NDArray[np.int64]
    ) -> None:
        self.spline = self._model = None
        number = len(np.unique(groups))
        if len(y) < MIN_PAIRS or number < 3 or np.ptp(x[:, 0]) == 0:
            return
        from sklearn.model_selection import GroupKFold

        folds = list(GroupKFold(min(self.folds, number)).split(x, y, groups))
        best = sum(_affine_error(x[:, 0], y, fit, held) for fit, held in folds)
        for degree, knots in itertools.product(self.degrees, self.knots):
            basis = _basis(degree, knots).fit(x)
            design = basis.transform(x)
            for alpha in self.alphas:
                error = 0.0
                for fit, held in folds:
                    weights, offset = _ridge(design[fit], y[fit], alpha)
                    error += float(((design[held] @ weights + offset - y[held]) ** 2).sum())
                if error < best * (1.0 - 1e-9):
                    best, self.spline = error, (degree, knots, alpha)
                    self._model = (basis, *_ridge(design, y, alpha))

    def _smooth(self, raw: NDArray[np.float64], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Stages 1 and 2 for every cell."""
        x = self._inputs(raw, masks)
        if self._model is None:
            return x[..., 0]
        basis, weights, offset = self._model
        found = basis.transform(x.reshape(-1, x.shape[-1])) @ weights + offset
        return found.reshape(raw.shape)

    def _fit_residual(self, masks: NDArray[np.bool_], residual: NDArray[np.float64]) -> None:
        """Ridge of each member's residuals on its groups; leaving one out chooses the penalty."""
        self._coefficients = np.zeros_like(self._coefficients)
        self.residual_alpha = None
        known = ~np.isnan(residual)
        tasks = np.flatnonzero(known.sum(axis=0) >= 2).tolist()
        if not tasks or not self.residual_alphas:
            return
        designs = [masks[known[:, t]].astype(np.float64) for t in tasks]
        targets = [residual[known[:, t], t] for t in tasks]
        errors = np.zeros(len(self.residual_alphas))
        for design, target in zip(designs, targets, strict=True):
            values, vectors = np.linalg.eigh(design @ design.T)
            values = np.maximum(values, 0.0)
            for index, alpha in enumerate(self.residual_alphas):
                hat = (vectors * (values / (values + alpha))) @ vectors.T
                left = (target - hat @ target) / (1.0 - hat.diagonal())
                errors[index] += float(left @ left)
        if errors.min() >= sum(float(target @ target) for target in targets):
            return
        self.residual_alpha = float(self.residual_alphas[int(errors.argmin())])
        for task, design, target in zip(tasks, designs, targets, strict=True):
            kernel = design @ design.T + self.residual_alpha * np.eye(len(design))
            self._coefficients[:, task] = design.T @ np.linalg.solve(kernel, target)


def _basis(degree: int, knots: int) -> Any:  # noqa: ANN401
    """Splines of every input, linear beyond the data."""
    from sklearn.preprocessing import SplineTransformer

    return SplineTransformer(
        n_knots=knots, degree=degree, include_bias=False, extrapolation="linear"
    )


def _ridge(
    design: NDArray[np.float64], y: NDArray[np.float64], alpha: float
) -> tuple[NDArray[np.float64], float]:
    """Weights and the unpenalised offset."""
    centre = design.mean(axis=0)
    moved = design - centre
    square = moved.T @ moved + alpha * np.eye(moved.shape[1])
    weights = np.linalg.solve(square, moved.T @ (y - y.mean()))
    return weights, float(y.mean() - centre @ weights)


def _affine_error(
    x: NDArray[np.float64], y: NDArray[np.float64], fit: NDArray[np.int64], held: NDArray[np.int64]
) -> float:
    """Squared error on the held pairs of a line through the others."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    line = np.linalg.lstsq(design[fit], y[fit], rcond=None)[0]
    return float(((design[held] @ line - y[held]) ** 2).sum())
