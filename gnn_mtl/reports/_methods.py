"""From runs to methods: one method is one configuration on several seeds; one study, one graph."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import RecordError
from gnn_mtl.records import RunRecord
from gnn_mtl.reports._method_names import (
    aggregator_name,
    aggregator_options,
    flatten,
    method_names,
)  # fmt: skip
from gnn_mtl.reports._table import count

# Kinds of schedule that group nothing by affinity: what a grouping method has to beat.
BASELINE_KINDS = frozenset(
    {"joint", "aggregated", "single", "random", "unknown", "none", "shallow"}
)


@dataclass(frozen=True, eq=False)
class Method:
    """One configuration, run on one or more seeds.

    Attributes:
        label: Its name in tables.
        kind: Kind of its task scheduler; ``aggregated``: joint steps, but not of the plain sum.
        runs: Its finished runs, by seed.
        tasks: The labels that every run scored.
        num_tasks: All labels of the graph.
    """

    label: str
    kind: str
    runs: tuple[RunRecord, ...]
    tasks: tuple[int, ...]
    num_tasks: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds run, ascending."""
        return tuple(run.seed for run in self.runs)

    @property
    def is_partial(self) -> bool:
        """Whether it scored a sample of the labels only."""
        return len(self.tasks) < self.num_tasks

    @property
    def aggregator(self) -> str:
        """Name of what combines its gradients; ``sum``: nothing more than adding the losses."""
        return aggregator_name(self.runs[0].config)

    @property
    def as_joint(self) -> str:
        """Name of joint training with its aggregator: what it is where it finds one group."""
        return "joint" if self.aggregator == "sum" else f"joint+{self.aggregator}"

    @property
    def is_trivial(self) -> bool:
        """Whether it regrouped, and always into one group: ``as_joint`` under another name."""
        refreshes = [refresh for run in self.runs for refresh in run.refreshes]
        if self.kind == "adapters":  # its steps are joint, its groups are in the model
            return False
        return bool(refreshes) and all(len(refresh.groups) == 1 for refresh in refreshes)

    @property
    def measurers(self) -> str:
        """What its label-gradients beside the updates were measured for.

        A refresh measures at most one gradient a label; what an aggregator's run has beyond that
        went into Gramians.
        """
        refreshed, gramians = False, False
        for run in self.runs:
            cost = run.summary.cost if run.summary is not None else {}
            spent = float(cost.get("probe_label_gradients", 0))
            refreshes = float(cost.get("probes", cost.get("refreshes", 0)))
            gramians |= self.aggregator != "sum" and spent > refreshes * self.num_tasks
            refreshed |= spent > 0 and refreshes > 0
        words = ["refreshes"] if refreshed or not gramians else []
        return " and ".join(words + ["Gramians"] * gramians)

    @property
    def is_candidate(self) -> bool:
        """Whether it groups labels by something measured, as opposed to a baseline."""
        return self.kind not in BASELINE_KINDS

    def values(self, part: str, key: str) -> list[float]:
        """Return ``summary.<part>[key]`` of every run; NaN where a run lacks it."""
        return [float(getattr(run.summary, part).get(key, np.nan)) for run in self.runs]

    def per_label(self, metric: str, seeds: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Return the test scores ``[seeds, T]`` of every label, NaN outside ``tasks``."""
        rows = []
        for run in self.runs:
            if seeds is not None and run.seed not in seeds:
                continue
            found = run.summary.per_label.get(metric) if run.summary is not None else None
            row = np.full(self.num_tasks, np.nan)
            if found is not None:
                row[list(self.tasks)] = found[list(self.tasks)]
            rows.append(row)
        return np.array(rows).reshape(-1, self.num_tasks)


@dataclass(frozen=True, eq=False)
class Study:
    """All methods run on one graph.

    Attributes:
        dataset: Name of the graph.
        label_names: Names of its labels.
        methods: Joint first, then the other baselines, then the methods that group.
        notes: What a reader must know: runs left out, graphs that differ.
    """

    dataset: str
    label_names: tuple[str, ...]
    methods: tuple[Method, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_tasks(self) -> int:
        """Number of labels."""
        return len(self.label_names)

    @property
    def joint(self) -> Method | None:
        """Joint training of the plain sum, what methods are compared with; None if not run."""
        return next((method for method in self.methods if method.kind == "joint"), None)

    def reference(self, method: Method) -> Method | None:
        """Return joint training with the method's aggregator, or None if it was not run.

        Of several with other options of that aggregator, the one most like the method's.
        """
        if method.aggregator == "sum":
            return self.joint
        found = [
            one
            for one in self.methods
            if one.kind == "aggregated" and one.aggregator == method.aggregator
        ]
        return min(found, key=lambda one: len(other_options(one, method)), default=None)

    def find(self, label: str) -> Method | None:
        """Return the method of that name, or None."""
        return next((method for method in self.methods if method.label == label), None)


def other_options(one: Method, other: Method) -> tuple[str, ...]:
    """Return the options of their aggregator in which two methods differ."""
    mine, theirs = (aggregator_options(method.runs[0].config) for method in (one, other))
    return tuple(name for name in sorted(mine | theirs) if mine.get(name) != theirs.get(name))


PER_SEED = frozenset({"seed", "out", "scheduler.follow"})
"""Keys in which the seeds of one method differ: a matched control follows the run of its seed."""


def studies(records: Iterable[RunRecord]) -> list[Study]:
    """Sort runs into studies (one per graph) and methods (one per configuration).

    Runs of one name but different configurations become methods told apart by what differs, e.g.
    ``coloring (tau=0.1)``. Unfinished runs are left out and named in the notes.

    Raises:
        RecordError: If no run is finished, two finished runs are the same configuration and seed,
            or runs on graphs of one name disagree about the labels.
    """
    every = list(records)
    by_graph: dict[str, list[RunRecord]] = {}
    for record in every:
        if record.done:
            by_graph.setdefault(record.dataset, []).append(record)
    if not by_graph:
        raise RecordError(
            f"A report needs at least one finished run. Found {len(every)} unfinished ones; "
            "finish them with --resume."
        )
    return [_study(name, runs, every) for name, runs in by_graph.items()]


def _study(name: str, runs: list[RunRecord], every: list[RunRecord]) -> Study:
    labels = runs[0].label_names
    for run in runs:
        if run.label_names != labels:
            raise RecordError(
                f"{runs[0].path} and {run.path} say `{name}` but their labels differ. "
                "Report on them apart, or rename one graph."
            )
    notes = []
    unfinished = [run for run in every if run.dataset == name and not run.done]
    if unfinished:
        paths = ", ".join(str(run.path) for run in unfinished)
        notes.append(f"{count(len(unfinished), 'unfinished run')} left out: {paths}.")
    digests = {run.manifest.dataset.get("sha256") for run in runs}
    if len(digests) > 1:
        notes.append("The runs were made on different versions of the graph (SHA-256 differs).")
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault((run.method, _fingerprint(run.config)), []).append(run)
    names = method_names(list(groups))
    methods = [_method(names[key], runs) for key, runs in groups.items()]
    order = {"joint": 0, "aggregated": 1, "single": 2, "random": 4}
    order |= dict.fromkeys(("unknown", "none", "shallow"), 3)
    methods.sort(key=lambda method: (order.get(method.kind, 5), method.label))
    return Study(name, labels, tuple(methods), tuple(notes))


def _method(label: str, runs: list[RunRecord]) -> Method:
    runs = sorted(runs, key=lambda run: run.seed)
    for one, other in pairwise(runs):
        if one.seed == other.seed:
            raise RecordError(
                f"{one.path} and {other.path} are the same method ({label}) and seed ({one.seed}). "
                "Leave one out, or give them different names."
            )
    scored = [set(run.summary.tasks) for run in runs if run.summary is not None]
    tasks = tuple(sorted(set.intersection(*scored))) if scored else ()
    kind = runs[0].kind
    if kind == "joint" and flatten(runs[0].config).get("head.kind") == "adapters":
        kind = "adapters"  # groups inside the model: not what groups are compared with
    if flatten(runs[0].config).get("scheduler.control"):
        kind = "random"
    if kind == "joint" and aggregator_name(runs[0].config) != "sum":
        kind = "aggregated"  # all labels at every step, and not their plain sum
    return Method(label, kind, tuple(runs), tasks, runs[0].num_tasks)


def _fingerprint(config: dict[str, Any]) -> str:
    """The configuration without what may differ between the seeds of one method."""
    flat = {key: value for key, value in flatten(config).items() if key not in PER_SEED}
    if flat.get("scheduler.base"):  # as a sweep names its folders: METHOD-seedN
        flat["scheduler.base"] = flat["scheduler.base"].removesuffix(f"-seed{config.get('seed')}")
    if flat.get("scheduler.control"):  # every seed draws its own
        flat.pop("scheduler.groups", None)
        flat.pop("scheduler.file", None)
    return json.dumps(flat, sort_keys=True)
