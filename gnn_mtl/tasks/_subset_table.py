"""``SubsetTable``: how well tasks do when they are trained in subsets, measured or predicted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.tasks._archive import checked_ids, checked_names, loaded_archive, save_archive

FORMAT = "gnn-mtl/subset-table"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class SubsetTable:
    """Scores :math:`f_i(S_k)` of the members of m subsets of T tasks, each trained together.

    Real trainings, linearised ones and surrogates write it; affinities (``subset_affinity``),
    surrogates and groupings read it. The same subset may occur several times (seeds).

    Attributes:
        masks: Members of each subset, bool ``[m, T]``; none is empty.
        scores: Score of each member, float64 ``[m, T]``, larger is better (a loss is stored as
            minus the loss); NaN outside the subset and where it was not measured.
        source: Where the scores come from: ``"trained"``, ``"finetuned"``, ``"linearised"``,
            ``"one_step"``, ``"surrogate:linear"``, ...
        metric: ``"loss"`` (minus the mean binary cross-entropy, in nats), ``"ap"``, ``"auroc"`` or
            ``"f1"``.
        split: Nodes scored, ``"valid"`` or ``"train"``; never the test split.
        seed: Seed of the subsets and of what trained on them.
        stderr: Standard error of each score, ``[m, T]``; None if not estimated.
        baseline: Score of each task in the model compared with (alone, or in the base model),
            ``[T]``; NaN where unknown, None if there is none.
        label_names: One name per task; None if the tasks are unnamed.
        details: How the scores came about (plain JSON values).
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float64]
    source: str
    metric: str = "loss"
    split: str = "valid"
    seed: int = 0
    stderr: NDArray[np.float64] | None = None
    baseline: NDArray[np.float64] | None = None
    label_names: tuple[str, ...] | None = None
    details: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        masks = np.array(self.masks, dtype=np.bool_)
        if masks.ndim != 2 or 0 in masks.shape:
            raise ShapeError(
                "`masks` should be a matrix [m, T] with a subset and a task at least. "
                f"Found shape {masks.shape}."
            )
        if not masks.any(axis=1).all():
            raise ShapeError(
                "Every subset of `masks` should hold a task. Found an empty one, row "
                f"{int(np.argmin(masks.any(axis=1)))}."
            )
        scores = _checked("scores", self.scores, masks.shape)
        if (~masks & ~np.isnan(scores)).any():
            row, task = np.argwhere(~masks & ~np.isnan(scores))[0].tolist()
            raise ShapeError(
                "`scores` should be NaN outside the subset. Found a score of task "
                f"{task}, which subset {row} does not hold."
            )
        if self.split == "test":
            raise UsageError(
                "A table of scores decides what is trained, so it should hold scores on the "
                "validation split. Found the test split."
            )
        object.__setattr__(self, "masks", _frozen(masks))
        object.__setattr__(self, "scores", _frozen(scores))
        for name, shape in (("stderr", masks.shape), ("baseline", masks.shape[1:])):
            extra = getattr(self, name)
            if extra is not None:
                object.__setattr__(self, name, _frozen(_checked(name, extra, shape)))
        if self.label_names is not None:
            names = checked_names(self.label_names, masks.shape[1])
            object.__setattr__(self, "label_names", names)

    @property
    def num_subsets(self) -> int:
        """Number of subsets m."""
        return int(self.masks.shape[0])

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return int(self.masks.shape[1])

    @property
    def known(self) -> NDArray[np.bool_]:
        """Boolean matrix ``[m, T]``: True where a score was measured."""
        return ~np.isnan(self.scores)

    def pair_counts(self) -> NDArray[np.int64]:
        """Return in how many subsets each pair of tasks is, ``[T, T]``; diagonal: each task."""
        members = self.masks.astype(np.float64)  # a product of floats is BLAS, of integers is not
        return np.rint(members.T @ members).astype(np.int64)

    def select_subsets(self, rows: Sequence[int] | NDArray[np.int64]) -> SubsetTable:
        """Return some of the subsets, in that order; ids in ``[0, m)``, at least one.

        Raises:
            UsageError: If they are not.
        """
        ids = np.asarray(rows, dtype=np.int64)
        if ids.ndim != 1 or not len(ids) or ids.min() < 0 or ids.max() >= self.num_subsets:
            raise UsageError(
                f"`rows` should be ids of subsets in [0, {self.num_subsets}). Found {rows!r}."
            )
        return replace(
            self, masks=self.masks[ids], scores=self.scores[ids],
            stderr=None if self.stderr is None else self.stderr[ids],
        )  # fmt: skip

    def select_tasks(self, tasks: Sequence[int]) -> SubsetTable:
        """Return the subsets that lie wholly among some tasks, as a table of those tasks.

        A score belongs to the whole subset, so a subset that holds other tasks too says nothing
        of the part inside.

        Args:
            tasks: Distinct ids in ``[0, T)``, at least one; columns come in their order.

        Raises:
            UsageError: If they are not, or no subset lies among them.
        """
        ids = checked_ids(tasks, self.num_tasks)
        kept = self.masks[:, ids].sum(axis=1) == self.masks.sum(axis=1)
        if not kept.any():
            raise UsageError(
                f"`tasks` should hold a whole subset of the table. None of {self.num_subsets} "
                f"lies among the {len(ids)} tasks; draw subsets of those tasks."
            )
        names = self.label_names
        return replace(
            self, masks=self.masks[kept][:, ids], scores=self.scores[kept][:, ids],
            stderr=None if self.stderr is None else self.stderr[kept][:, ids],
            baseline=None if self.baseline is None else self.baseline[ids],
            label_names=None if names is None else tuple(names[task] for task in ids),
        )  # fmt: skip

    def concat(self, other: SubsetTable) -> SubsetTable:
        """Return the subsets of both tables; seed and details are the first one's.

        A standard error unknown to one of them is NaN.

        Raises:
            ShapeError: If the number of tasks differs.
            UsageError: If source, metric, split, names or baseline do.
        """
        if self.num_tasks != other.num_tasks:
            raise ShapeError(
                "Two tables to put together should be of the same tasks. Found "
                f"{self.num_tasks} and {other.num_tasks}."
            )
        for name in ("source", "metric", "split", "label_names"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise UsageError(
                    f"Two tables to put together should have the same {name}. Found {ours!r} and "
                    f"{theirs!r}."
                )
        if not _same(self.baseline, other.baseline):
            raise UsageError(
                "Two tables to put together should have the same `baseline`. Found two; compare "
                "each with its own (subset_affinity), or set both to one."
            )
        stderr = None
        if self.stderr is not None or other.stderr is not None:
            parts = [
                np.full(t.masks.shape, np.nan) if t.stderr is None else t.stderr
                for t in (self, other)
            ]
            stderr = np.concatenate(parts)
        return replace(
            self, masks=np.concatenate([self.masks, other.masks]),
            scores=np.concatenate([self.scores, other.scores]), stderr=stderr,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to an ``.npz`` file (no pickle), atomically."""
        header = {
            "format": FORMAT, "version": FORMAT_VERSION, "source": self.source,
            "metric": self.metric, "split": self.split, "seed": int(self.seed),
            "details": self.details,
        }  # fmt: skip
        arrays = {
            "masks": self.masks, "scores": self.scores, "stderr": self.stderr,
            "baseline": self.baseline,
        }  # fmt: skip
        save_archive(path, header, arrays, self.label_names)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SubsetTable:
        """Read a table written by :meth:`save`.

        Raises:
            FileFormatError: If the file is not a table of subsets of a known version.
        """
        expected = "a table of subsets written by SubsetTable.save"
        with loaded_archive(path, FORMAT, FORMAT_VERSION, expected, "Measure it again.") as found:
            header, arrays = found
            return cls(
                arrays["masks"], arrays["scores"], header["source"], header["metric"],
                header["split"], header["seed"], arrays.get("stderr"), arrays.get("baseline"),
                arrays.get("label_names"), header["details"],
            )  # fmt: skip


def _checked(name: str, values: object, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A float64 copy of that shape without infinities, or ShapeError."""
    found = np.array(values, dtype=np.float64)
    if found.shape != shape:
        raise ShapeError(f"`{name}` should have shape {shape}. Found {found.shape}.")
    if np.isinf(found).any():
        raise ShapeError(f"`{name}` should be finite, or NaN where unknown. Found infinities.")
    return found


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def _same(first: NDArray[np.float64] | None, second: NDArray[np.float64] | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second, equal_nan=True)
