"""``SubsetOracle``: the scores of task subsets by really training each of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gnn_mtl._core.errors import (
    InterruptedRunError,
    ShapeError,
    TrainingStoppedError,
    UsageError,
)
from gnn_mtl._core.files import sha256
from gnn_mtl._core.progress import Progress
from gnn_mtl._core.threads import one_thread
from gnn_mtl.datasets import TaskGraph, load_dataset
from gnn_mtl.nn import Adapters, LabelModel
from gnn_mtl.runs._build import build_model, load_base, with_inputs
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.runs._subset_journal import Row, SubsetJournal
from gnn_mtl.runs._train import MACHINE_SETTINGS
from gnn_mtl.tasks import SubsetTable
from gnn_mtl.training import SUBSET_METRICS, SubsetMetric, task_model, train_subset
from gnn_mtl.training._signals import StopSignal

POLL_S = 0.5
NOT_READ = ("monitor", "probe", "probe_batch_size", "stream_every", "group_moments")
"""Fields of ``Train`` that decide nothing here."""


@dataclass(frozen=True, kw_only=True)
class SubsetOracle:
    """Trains one model per subset of tasks and returns the validation score of each member.

    The ground truth that predicted affinities are judged by, and the first stage of higher-order
    affinities (Li et al., KDD 2023). Every training is a function of the configuration, the subset
    and the seed: the same numbers with one process or many, in any order, interrupted or not.
    Trainings of one seed start from the same encoder weights.

    Attributes:
        config: Dataset, encoder, head, features and budget of every model; its scheduler, name and
            seed are not read, and neither is ``train.monitor``.
        seeds: Every subset is trained once with each; scores are means, with standard errors.
        metric: Score reported, and the one that stops a training early.
        train_share: Share of the training nodes to train on; see
            :func:`gnn_mtl.training.train_subset`.
        base: Folder of a finished run with the same encoder: fine-tune from its weights.
        heads: With ``base``: start from its heads' rows of the subset, or from fresh ones.
        workers: Processes, each with one thread; 1 trains here.
        journal: File that keeps every training, so that an interrupted call goes on and another
            call trains only what is new; None keeps nothing.
        graph: The dataset, if it is loaded already (else every process loads ``config.dataset``,
            whose arrays are memory-mapped); it is copied to every process.

    Raises:
        UsageError: If a value is out of range, or ``base`` is of another model.

    Example:
        >>> oracle = SubsetOracle(config=RunConfig(), seeds=(0, 1), workers=2)  # doctest: +SKIP
        >>> table = oracle(draw_subsets(60, 5, 200, seed=0))  # doctest: +SKIP
    """

    config: RunConfig
    seeds: tuple[int, ...] = (0,)
    metric: SubsetMetric = "loss"
    train_share: float = 1.0
    base: str | os.PathLike[str] | None = None
    heads: Literal["copied", "fresh"] = "copied"
    workers: int = 1
    journal: str | os.PathLike[str] | None = None
    graph: TaskGraph | None = None

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError(f"`seeds` should be distinct, at least one. Found {self.seeds}.")
        if self.workers < 1:
            raise UsageError(f"`workers` should be at least 1. Found {self.workers}.")
        if self.metric not in SUBSET_METRICS:
            raise UsageError(f"`metric` should be one of {SUBSET_METRICS}. Found {self.metric!r}.")
        if self.heads not in ("copied", "fresh"):
            raise UsageError(f"`heads` should be copied or fresh. Found {self.heads!r}.")
        if not 0 < self.train_share <= 1:
            raise UsageError(f"`train_share` should lie in (0, 1]. Found {self.train_share}.")
        if isinstance(self.config.head, Adapters):
            raise UsageError(
                "Adapters hold all groups in one model, so models of subsets cannot have them. "
                "Found them; take a configuration with other heads, e.g. a joint run's."
            )
        if self.base is not None and self.config.features.labels:
            raise UsageError(
                "Fine-tuning on a subset needs inputs that do not depend on the subset. Found "
                "labels as inputs; leave out features.labels or the base run."
            )

    def __call__(self, masks: ArrayLike, *, baseline: bool = False) -> SubsetTable:
        """Train what has not been trained yet and return the table of all ``masks``.

        Args:
            masks: Subsets, bool ``[m, T]``; equal rows are trained once.
            baseline: Also train every task of them alone, as the table's baseline.

        Raises:
            ShapeError: If ``masks`` is not a matrix of the dataset's tasks, or has an empty row.
            RecordError: If the journal holds trainings of another setting.
            InterruptedRunError: On SIGINT or SIGTERM; what was trained is in the journal.
            TrainingStoppedError: If a worker process was killed.

        Cost: subsets * seeds trainings.
        """
        graph = self._loaded()
        members = _checked(masks, graph.num_tasks)
        subsets = [tuple(np.flatnonzero(row).tolist()) for row in members]
        wanted = list(dict.fromkeys(subsets))
        if baseline:
            alone = [(int(task),) for task in np.flatnonzero(members.any(axis=0))]
            wanted = list(dict.fromkeys([*wanted, *alone]))
        file = None if self.journal is None else Path(self.journal)
        with SubsetJournal(file, self._setting(graph)) as journal:
            jobs = [(tasks, s) for tasks in wanted for s in self.seeds]
            self._train([job for job in jobs if job not in journal.rows], journal)
            return self._table(graph, members, subsets, journal, baseline)

    def _loaded(self) -> TaskGraph:
        if self.graph is not None:
            return self.graph
        return load_dataset(self.config.dataset, self.config.root)

    def _train(self, jobs: list[tuple[tuple[int, ...], int]], journal: SubsetJournal) -> None:
        total = len(jobs) + len(journal.rows)
        with StopSignal() as stop, Progress("subsets", total) as progress:
            progress.done = len(journal.rows)
            try:
                for row in self._rows(jobs, stop):
                    journal.add(row)
                    progress.advance()
            except (InterruptedRunError, BrokenProcessPool) as error:
                kept = f"{len(journal.rows)} of {total} trainings are kept"
                where = f" in {self.journal}" if self.journal else " nowhere: name a journal"
                if isinstance(error, BrokenProcessPool) and stop.number is None:
                    raise TrainingStoppedError(
                        f"A worker process was killed (out of memory?); {kept}{where}. Go on with "
                        "fewer --workers."
                    ) from error
                raise InterruptedRunError(
                    f"Stopped by signal {stop.number}; {kept}{where}. The same command goes on.",
                    signal_number=stop.number or signal.SIGINT,
                ) from error

    def _rows(self, jobs: list[tuple[tuple[int, ...], int]], stop: StopSignal) -> Iterator[Row]:
        """Train the jobs here or in processes; yield each as it ends."""
        if not jobs:
            return
        if self.workers == 1:
            with one_thread():
                worker = _Worker(self, lambda: stop.number is not None)
                for job in jobs:
                    yield worker.train(*job)
            return
        with_inputs(self._loaded(), self.config)  # made features are on disk before all want them
        context = multiprocessing.get_context("spawn")
        halt = context.Event()
        with ProcessPoolExecutor(
            min(self.workers, len(jobs)), mp_context=context, initializer=_start,
            initargs=(self, halt),
        ) as pool:  # fmt: skip
            pending = {pool.submit(_work, job) for job in jobs}
            try:
                while pending:
                    done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
                    if stop.number is not None:
                        raise InterruptedRunError("stopped")
            finally:
                halt.set()
                for future in pending:
                    future.cancel()

    def _setting(self, graph: TaskGraph) -> dict[str, Any]:
        """What decides the numbers."""
        plain = self.config.to_dict()
        train = plain["train"]
        weights = None
        if self.base is not None:
            load_base(self.base, self.config, with_inputs(graph, self.config))  # says what is wrong
            weights = sha256(Path(self.base) / "checkpoints" / "best.safetensors")
        return {
            "data": graph.fingerprint(),
            **{name: plain[name] for name in ("encoder", "head", "features")},
            "train": {k: v for k, v in train.items() if k not in {*MACHINE_SETTINGS, *NOT_READ}},
            "monitor": self.metric, "train_share": self.train_share, "base": weights,
            "heads": None if weights is None else self.heads,
        }  # fmt: skip

    def _table(
        self,
        graph: TaskGraph,
        members: NDArray[np.bool_],
        subsets: Sequence[tuple[int, ...]],
        journal: SubsetJournal,
        baseline: bool,
    ) -> SubsetTable:
        scores, stderr = np.full((2, *members.shape), np.nan)
        used: dict[Any, Row] = {}
        for number, tasks in enumerate(subsets):
            rows = [journal.rows[tasks, seed] for seed in self.seeds]
            used |= {(tasks, row["seed"]): row for row in rows}
            values = np.array([row["scores"][self.metric] for row in rows], dtype=np.float64)
            scores[number, list(tasks)] = values.mean(axis=0)
            if len(rows) > 1:
                stderr[number, list(tasks)] = values.std(axis=0, ddof=1) / np.sqrt(len(rows))
        alone = None
        if baseline:
            alone = np.full(graph.num_tasks, np.nan)
            for task in np.flatnonzero(members.any(axis=0)).tolist():
                rows = [journal.rows[(task,), seed] for seed in self.seeds]
                used |= {((task,), row["seed"]): row for row in rows}
                alone[task] = np.mean(
                    np.array([row["scores"][self.metric][0] for row in rows], dtype=np.float64)
                )
        totals = {
            name: float(sum(row[name] for row in used.values()))
            for name in ("seconds", "steps", "label_gradients")
        }
        return SubsetTable(
            members, scores, source="trained" if self.base is None else "finetuned",
            metric=self.metric, split="valid", seed=self.seeds[0],
            stderr=stderr if len(self.seeds) > 1 else None, baseline=alone,
            label_names=graph.label_names,
            details={
                "seeds": list(self.seeds), "dataset": graph.name, "sha256": graph.fingerprint(),
                "train_share": self.train_share, "trainings": len(used), **totals,
            },
        )  # fmt: skip


def train_table(
    config: RunConfig,
    masks: ArrayLike,
    out: str | os.PathLike[str],
    *,
    baseline: bool = False,
    **options: Any,  # noqa: ANN401
) -> SubsetTable:
    """Train the subsets, write the table to ``out`` and return it.

    Args:
        config: As for :class:`SubsetOracle`.
        masks: Subsets, bool ``[m, T]``.
        out: File of the table (``.npz``). Beside it, with the ending ``.journal``, the journal is
            kept: the same call goes on after an interruption, and one with more subsets trains only
            the new ones.
        baseline: Also train every task alone.
        **options: The other attributes of :class:`SubsetOracle`.

    Raises:
        UsageError: If a value is out of range, or ``base`` is of another model.
        ShapeError: If ``masks`` is not a matrix of the dataset's tasks, or has an empty row.
        RecordError: If the journal holds trainings of another setting.
        InterruptedRunError: On SIGINT or SIGTERM; what was trained is in the journal.
        TrainingStoppedError: If a worker process was killed.
        StorageError: If ``out`` cannot be written.
    """
    out = Path(out)
    journal = options.pop("journal", None) or out.with_suffix(".journal")
    table = SubsetOracle(config=config, journal=journal, **options)(masks, baseline=baseline)
    table.save(out)
    return table


class _Worker:
    """One process's dataset and base model, loaded once."""

    def __init__(self, oracle: SubsetOracle, should_stop: Any) -> None:  # noqa: ANN401
        config = oracle.config
        self.graph = with_inputs(oracle._loaded(), config).sealed()
        self.oracle, self.should_stop = oracle, should_stop
        self.base: LabelModel | None = None
        if oracle.base is not None:
            self.base = load_base(oracle.base, config, self.graph)

    def train(self, tasks: tuple[int, ...], seed: int) -> Row:
        """Train one subset; a training without a finite loss gives scores of NaN."""
        config = replace(self.oracle.config, seed=seed)
        one = self.graph.select_tasks(tasks)
        model = build_model(config, one)
        if self.base is not None:
            heads = model.heads if self.oracle.heads == "fresh" else None
            model = task_model(self.base, tasks, heads=heads)
        try:
            done = train_subset(
                model, one, config.train, seed=seed, monitor=self.oracle.metric,
                train_share=self.oracle.train_share, should_stop=self.should_stop,
            )  # fmt: skip
        except TrainingStoppedError as error:
            nothing = {name: [None] * len(tasks) for name in SUBSET_METRICS}
            cost = {"seconds": 0.0, "steps": 0, "label_gradients": 0}
            return {"tasks": tasks, "seed": seed, "scores": nothing, "error": str(error), **cost}
        names = ("seconds", "eval_seconds", "steps", "label_gradients", "forwards", "backwards")
        cost = {name: getattr(done.cost, name) for name in names}
        scores = {name: values.tolist() for name, values in done.scores.items()}
        return {
            "tasks": tasks, "seed": seed, "scores": scores, "best_epoch": done.best_epoch, **cost,
        }  # fmt: skip


_here: _Worker


def _start(oracle: SubsetOracle, halt: Any) -> None:  # noqa: ANN401
    """Make a process ready: one thread, the parent decides on signals."""
    global _here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _here = _Worker(oracle, halt.is_set)


def _work(job: tuple[tuple[int, ...], int]) -> Row:
    return _here.train(*job)


def _checked(masks: ArrayLike, num_tasks: int) -> NDArray[np.bool_]:
    members = np.array(masks)
    if members.dtype != np.bool_ or members.ndim != 2 or members.shape[1] != num_tasks:
        raise ShapeError(
            f"`masks` should be bool [m, {num_tasks}], one row a subset of the dataset's tasks. "
            f"Found {members.dtype} {list(members.shape)}."
        )
    if not len(members) or not members.any(axis=1).all():
        raise ShapeError("`masks` should hold a subset, and every subset a task. Found none.")
    return members
