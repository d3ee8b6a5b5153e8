"""What the page shows of a study, as plain values for the template."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from gnn_mtl.records import Refresh, RunRecord
from gnn_mtl.reports._compare import Comparison, MethodComparison, compare_runs, interval
from gnn_mtl.reports._curves import learning_curves
from gnn_mtl.reports._groups import (
    COLUMN_NAMES_UP_TO,
    affinity_heatmap,
    conflict_drawing,
    group_of,
    group_timeline,
    steady_groups,
    task_order,
)  # fmt: skip
from gnn_mtl.reports._labels import cost_and_score, label_deltas
from gnn_mtl.reports._method_names import flatten
from gnn_mtl.reports._methods import Method, Study
from gnn_mtl.reports._scores import common_label_table, score_table
from gnn_mtl.reports._svg import group_color, method_variable
from gnn_mtl.reports._table import (
    DASH,
    TIMES,
    Cell,
    Column,
    Row,
    Table,
    count,
    format_cell,
    format_number,
    number_cell,
)  # fmt: skip
from gnn_mtl.reports._verdict import LEVEL, Verdict, verdict

COSTS = (
    Column("seconds", "seconds", "seconds", "wall time of the run"),
    Column("steps", "steps", "count", "optimizer steps"),
    Column("label_gradients", "label-gradients", "count", "sum over steps of active labels"),
    Column("probe_label_gradients", "probe gradients", "count", "spent on refreshes"),
    Column("refreshes", "refreshes", "count", "times the labels were regrouped"),
    Column("refresh_seconds", "refresh s", "seconds", "seconds spent regrouping, within the total"),
    Column("eval_seconds", "evaluation s", "seconds", "seconds spent on validation"),
    Column("peak_rss_mb", "peak MB", "megabytes", "largest resident memory"),
)  # fmt: skip
MEASURED = Column(
    "probe_label_gradients", "probe + Gramian gradients", "count",
    "label-gradients beside the updates: spent on refreshes and on aggregators' Gramians",
)  # fmt: skip
ROLES = {
    "joint": "reference", "single": "baseline", "random": "control", "aggregated": "aggregator"
}  # fmt: skip
HELPED = {
    "grouping": ("Grouping helped", "Grouping hurt", "No measurable gain from grouping"),
    "aggregator": (
        "The aggregator helped", "The aggregator hurt", "No measurable gain from an aggregator"
    ),
    "both": (
        "Grouping and aggregator together helped", "Grouping and aggregator together hurt",
        "No measurable gain from grouping and aggregator together",
    ),
}  # fmt: skip


def study_page(study: Study, index: int, folder: Path) -> dict[str, Any]:
    """Return everything the template shows of one study.

    Args:
        study: The study.
        index: Its number on the page, for unique ids.
        folder: The folder of the page, which links are relative to.
    """
    page = _Page(study, index, folder)
    finding = verdict(study)
    better, worse, same = HELPED[finding.subject]
    words = {"better": better, "worse": worse, "same": same, "trivial": "No grouping took place",
             "open": "No verdict"}  # fmt: skip
    scores = score_table(study)
    return {
        "id": f"s{index}",
        "dataset": study.dataset,
        "facts": _facts(study),
        "verdict": {"outcome": finding.outcome, "word": words[finding.outcome],
                    "headline": finding.headline, "details": finding.details},
        "legend": [
            {"label": method.label, "color": method_variable(color), "kind": method.kind}
            for method, color in page.colors.items() if not method.is_partial
        ],
        "scores": page.table(scores),
        "common": [page.table(common_label_table(study, m)) for m in study.methods if m.is_partial],
        "comparisons": page.comparisons(finding.comparison),
        "curves": learning_curves(page.colors, f"s{index}c"),
        "groups": page.groups(finding),
        "labels": page.labels(finding),
        "costs": page.table(page.cost_table()),
        "cost_figure": cost_and_score(page.colors, f"s{index}k"),
        "config": page.config(),
        "runs": [page.run(method, run) for method in study.methods for run in method.runs],
        "notes": study.notes,
    }  # fmt: skip


class _Page:
    """One study with what its parts share: colours and links."""

    def __init__(self, study: Study, index: int, folder: Path) -> None:
        self.study, self.index, self.folder = study, index, folder
        self.colors: dict[Method, int] = {}
        for number, method in enumerate(study.methods, start=0 if study.joint else 1):
            self.colors[method] = number

    def href(self, path: Path) -> str:
        """Link to a file or folder, relative to the page."""
        relative = Path(os.path.relpath(path.resolve(), self.folder.resolve())).as_posix()
        return quote(relative) + ("/" if path.is_dir() else "")

    def color(self, label: str) -> str:
        """CSS colour of the method of that name."""
        found = self.study.find(label)
        return method_variable(self.colors[found]) if found is not None else "var(--muted)"

    def table(self, table: Table) -> dict[str, Any]:
        """Return a table with each cell's text and its seeds, placed on the column's scale."""
        spans = {}
        for column in table.columns:
            numbers = [v for row in table.rows for v in _values(row.cells.get(column.key))]
            spans[column.key] = (min(numbers), max(numbers)) if numbers else (0.0, 0.0)
        return {
            "title": table.title,
            "columns": [
                {"title": column.title, "meaning": column.meaning, "oracle": column.oracle}
                for column in table.columns
            ],
            "rows": [
                {
                    **self._head(row.method, row.kind),
                    "remark": row.remark,
                    "cells": [
                        {
                            "text": format_cell(row.cells.get(column.key), column),
                            "seeds": self._dots(row.cells.get(column.key), column, spans),
                        }
                        for column in table.columns
                    ],
                }
                for row in table.rows
            ],
            "notes": table.notes,
        }  # fmt: skip

    def comparisons(self, judged: Comparison | None) -> list[dict[str, Any]]:
        """Return the comparison judged by, and the one with joint training of the plain sum."""
        found = [] if judged is None else [judged]
        joint = self.study.joint
        if judged is not None and joint is not None and judged.reference is not joint:
            found.append(compare_runs(self.study, joint.label))
        return [self._comparison(one) for one in found if one.methods]

    def _comparison(self, comparison: Comparison) -> dict[str, Any]:
        """Return a comparison with every interval placed on one scale."""
        tests = [one.tests["ap"] for one in comparison.methods]
        reach = 1.08 * max(1e-6, *(abs(end) for test in tests for end in (test.low, test.high)))
        return {
            "reference": comparison.reference.label,
            "reach": format_number(reach, "points").removeprefix("+"),
            "has_delta_p": any(one.delta_p is not None for one in comparison.methods),
            "notes": comparison.notes,
            "rows": [self._compared(one, reach) for one in comparison.methods],
        }

    def _compared(self, one: MethodComparison, reach: float) -> dict[str, Any]:
        test = one.tests["ap"]
        places = {
            name: round(105 + 105 * value / reach, 1)
            for name, value in (("low", test.low), ("mid", test.delta), ("high", test.high))
        }
        return {
            **self._head(one.method.label, one.method.kind),
            "remark": count(len(one.tasks), "label") if one.method.is_partial else "",
            "forest": {**places, "significant": test.p_holm < LEVEL},
            "metrics": [
                {"delta": format_number(one.tests[metric].delta, "points"),
                 "interval": interval(one.tests[metric]),
                 "p": format_number(one.tests[metric].p_holm, "probability")}
                if metric in one.tests else None
                for metric in ("ap", "auroc")
            ],
            "wilcoxon": format_number(test.p_wilcoxon, "probability"),
            "counts": f"{test.wins} / {test.ties} / {test.losses}",
            "delta_p": "" if one.delta_p is None else format_number(one.delta_p, "change"),
            "base": f"{len(one.seeds)} {TIMES} {len(one.tasks)}",
            "links": [self._link(run) for run in one.method.runs if run.seed in one.seeds],
        }  # fmt: skip

    def groups(self, finding: Verdict) -> dict[str, Any] | None:
        """Return the pictures of one run's groups: of the method judged, its first seed."""
        chosen = self._shown(finding)
        if chosen is None:
            return None
        method, run, refresh = chosen
        names, prefix = self.study.label_names, f"s{self.index}"
        steady = steady_groups(run.refreshes, self.study.num_tasks)
        last = steady[run.refreshes.index(refresh)]
        affinity = run.affinity(refresh)
        order = task_order(last, affinity)
        tau = refresh.tau
        raw = group_of(refresh, self.study.num_tasks)
        return {
            "method": method.label,
            "seed": run.seed,
            "href": self.href(run.path),
            "step": f"{refresh.step:,}",
            "tau": None if tau is None else f"{tau:g}",
            "conflicts": None if refresh.num_edges is None
            else count(refresh.num_edges, "conflict"),
            "density": None if refresh.density is None else f"{100 * refresh.density:.1f} %",
            "unit": affinity.unit if affinity is not None else "",
            "estimator": affinity.method if affinity is not None else "",
            "heatmap": affinity_heatmap(affinity, last, order, names, f"{prefix}h")
            if affinity is not None else None,
            "graph": conflict_drawing(affinity, tau, last, order, names, f"{prefix}g")
            if affinity is not None and tau is not None else None,
            "is_small": self.study.num_tasks <= COLUMN_NAMES_UP_TO,
            "timeline": group_timeline(run.refreshes, steady, order, names, f"{prefix}t"),
            "refreshes": len(run.refreshes),
            "legend": [
                {"number": int(last[raw == number][0]) + 1,
                 "color": group_color(int(last[raw == number][0])),
                 "names": [names[task] for task in np.flatnonzero(raw == number)]}
                for number in sorted(np.unique(raw[raw >= 0]), key=lambda one: last[raw == one][0])
            ],
        }  # fmt: skip

    def labels(self, finding: Verdict) -> dict[str, Any] | None:
        """Return the wins and losses of the method judged, as a figure and as a table."""
        if finding.comparison is None or not finding.comparison.methods:
            return None
        wanted = finding.method.label if finding.method is not None else ""
        one = finding.comparison.find(wanted) or finding.comparison.methods[0]
        base = finding.comparison.reference
        ours = one.method.per_label("ap", one.seeds).mean(axis=0)
        theirs = base.per_label("ap", one.seeds).mean(axis=0)
        summary = base.runs[0].summary
        positives = summary.per_label.get("positives_test") if summary is not None else None
        tasks = sorted(one.tasks, key=lambda task: -one.delta[task])
        return {
            "method": one.method.label,
            "reference": base.label,
            "count": len(tasks),
            "seeds": len(one.seeds),
            "steady": int(one.consistent[list(tasks)].sum()),
            "figure": label_deltas(one, base, self.study.label_names, f"s{self.index}d"),
            "links": [self._link(run) for run in one.method.runs if run.seed in one.seeds],
            "base_links": [self._link(run) for run in base.runs if run.seed in one.seeds],
            "rows": [
                {"name": self.study.label_names[task], "ours": format_number(ours[task], "percent"),
                 "theirs": format_number(theirs[task], "percent"),
                 "delta": format_number(one.delta[task], "points"),
                 "steady": bool(one.consistent[task]),
                 "positives": "" if positives is None else format_number(positives[task], "count")}
                for task in tasks
            ],
        }  # fmt: skip

    def cost_table(self) -> Table:
        """Return what every method spent."""
        rows = tuple(
            Row(method.label, method.kind,
                {c.key: number_cell(method.values("cost", c.key), method.runs) for c in COSTS},
                f"{len(method.tasks)} of {method.num_tasks} labels" if method.is_partial else "")
            for method in self.study.methods
        )  # fmt: skip
        used = [c for c in COSTS if any(row.cells[c.key].values for row in rows)]
        if any("Gramians" in method.measurers for method in self.study.methods):
            used = [MEASURED if c.key == MEASURED.key else c for c in used]
        return Table("Cost", tuple(used), rows)

    def config(self) -> dict[str, Any]:
        """Return the settings all methods share and those in which they differ."""
        flat = {method.label: flatten(method.runs[0].config) for method in self.study.methods}
        keys = sorted({key for one in flat.values() for key in one} - {"seed", "name", "out"})
        shared: list[dict[str, Any]] = []
        differing: list[dict[str, Any]] = []
        for key in keys:
            texts = [_json(one[key]) if key in one else DASH for one in flat.values()]
            (shared if len(set(texts)) == 1 else differing).append({"key": key, "texts": texts})
        return {"methods": list(flat), "shared": shared, "differing": differing}

    def run(self, method: Method, run: RunRecord) -> dict[str, Any]:
        """Return one line of the list of runs."""
        manifest = run.manifest
        return {
            "method": method.label, "seed": run.seed, "color": self.color(method.label),
            "href": self.href(run.path),
            "files": [
                {"name": name, "href": self.href(run.path / name)}
                for name in ("summary.json", "config.json", "manifest.json", "metrics.jsonl",
                             "groupings.jsonl")
                if (run.path / name).exists()
            ],
            "command": manifest.command,
            "commit": (manifest.commit or "")[:10] + ("*" if manifest.dirty else ""),
            "created": manifest.created,
            "best_step": "" if run.summary is None or run.summary.best_step is None
            else f"{run.summary.best_step:,}",
        }  # fmt: skip

    def _shown(self, finding: Verdict) -> tuple[Method, RunRecord, Refresh] | None:
        """The run whose groups are drawn: of the judged method, or else of the most divided one."""
        candidates = [  # the records of adapters say how they were trained: all labels in one group
            method
            for method in self.study.methods
            if method.is_candidate and method.kind != "adapters"
        ]
        ordered = sorted(candidates, key=_typical_groups, reverse=True)
        if finding.method is not None and _typical_groups(finding.method) >= 2:
            ordered.insert(0, finding.method)
        ordered += [method for method in self.study.methods if method.kind == "random"]
        for method in ordered:
            for run in method.runs:
                if run.refreshes:
                    kept = [one for one in run.refreshes if one.affinity is not None]
                    return method, run, (kept or run.refreshes)[-1]
        return None

    def _head(self, label: str, kind: str) -> dict[str, str]:
        """The first cell of a row: name, role and colour of its method."""
        found = self.study.find(label)
        groups = found is not None and found.is_candidate
        role = ROLES.get(kind, "grouping" if groups else "baseline")
        return {"method": label, "role": role, "color": self.color(label)}

    def _dots(
        self, cell: Cell | None, column: Column, spans: Mapping[str, tuple[float, float]]
    ) -> list[dict[str, Any]]:
        """The seeds of a cell, each placed on the scale of its column and linked to its run."""
        if cell is None or len(cell.values) != len(cell.runs):
            return []
        low, high = spans[column.key]
        width = high - low
        return [
            {**self._link(run), "left": round(100 * (value - low) / width, 1) if width > 0 else 50,
             "title": f"seed {run.seed}: {format_number(value, column.unit)}"}
            for value, run in zip(cell.values, cell.runs, strict=True)
        ]  # fmt: skip

    def _link(self, run: RunRecord) -> dict[str, Any]:
        return {"seed": run.seed, "href": self.href(run.path)}


def _typical_groups(method: Method) -> float:
    """Median number of groups over all refreshes of a method."""
    counts = [len(refresh.groups) for run in method.runs for refresh in run.refreshes]
    return float(np.median(counts)) if counts else 0.0


def _facts(study: Study) -> list[dict[str, str]]:
    """The graph, the seeds and the machine in a few words."""
    run = study.methods[0].runs[0]
    graph: Mapping[str, Any] = run.manifest.dataset
    numbers = [
        (graph[key], noun)
        for key, noun in (("num_nodes", "node"), ("num_edges", "edge"), ("num_tasks", "label"))
        if isinstance(graph.get(key), int)
    ]
    runs = [run for method in study.methods for run in method.runs]
    seeds = sorted({run.seed for run in runs})
    numbers += [(len(study.methods), "method"), (len(seeds), "seed"), (len(runs), "run")]
    facts = []
    for number, noun in numbers:
        value, name = count(number, noun).split()
        facts.append({"value": value, "name": name})
    return facts


def _values(cell: Cell | None) -> tuple[float, ...]:
    return cell.values if cell is not None else ()


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
