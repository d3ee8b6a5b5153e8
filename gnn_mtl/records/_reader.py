"""Reading run folders back: typed, checked, and without running anything in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnn_mtl._core.errors import FileFormatError, RecordError
from gnn_mtl.records import _schema as schema
from gnn_mtl.records._jsonl import read_lines
from gnn_mtl.tasks import Affinity


@dataclass(frozen=True, eq=False)
class RunRecord:
    """Everything a run folder says.

    Attributes:
        path: The folder.
        config: The full configuration as plain JSON.
        manifest: Where and with what it was made.
        train: Training rows in the order written.
        valid: Validation rows in the order written.
        refreshes: Groupings in the order written.
        summary: The outcome; None while the run is not finished.
        done: Whether the run finished (its ``DONE`` file is there).
    """

    path: Path
    config: dict[str, Any]
    manifest: schema.Manifest
    train: tuple[schema.TrainRow, ...] = ()
    valid: tuple[schema.ValidRow, ...] = ()
    refreshes: tuple[schema.Refresh, ...] = ()
    summary: schema.RunSummary | None = None
    done: bool = False
    _affinities: dict[str, Affinity] = field(default_factory=dict, repr=False)

    @property
    def method(self) -> str:
        """Label of the method for tables: the configured name, or the summary's, or its kind."""
        name = self.config.get("name")
        if isinstance(name, str) and name:
            return name
        return self.summary.method if self.summary is not None else self.kind

    @property
    def kind(self) -> str:
        """Kind of the task scheduler (``joint``, ``coloring``...), or ``unknown``."""
        scheduler = self.config.get("scheduler")
        kind = scheduler.get("kind") if isinstance(scheduler, dict) else None
        return kind if isinstance(kind, str) else "unknown"

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.manifest.seed

    @property
    def dataset(self) -> str:
        """Name of the graph."""
        return str(self.manifest.dataset["name"])

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of all tasks of the dataset."""
        return self.manifest.label_names

    @property
    def num_tasks(self) -> int:
        """Number of tasks of the dataset."""
        return len(self.manifest.label_names)

    def affinity(self, refresh: schema.Refresh) -> Affinity | None:
        """Load the affinity matrix behind ``refresh``; None if none was kept.

        Raises:
            FileFormatError: If the file is missing or is no affinity of this many tasks.
        """
        if refresh.affinity is None:
            return None
        if refresh.affinity not in self._affinities:
            file = self.path / refresh.affinity
            try:
                affinity = Affinity.load(file)
            except FileNotFoundError as error:
                raise FileFormatError(
                    f"{file} is named in {schema.GROUPINGS} but missing; restore it from the run."
                ) from error
            if affinity.num_tasks != self.num_tasks:
                raise FileFormatError(
                    f"{file} should hold {self.num_tasks} tasks. Found {affinity.num_tasks}."
                )
            self._affinities[refresh.affinity] = affinity
        return self._affinities[refresh.affinity]


def read_run(path: str | os.PathLike[str], *, finished: bool = False) -> RunRecord:
    """Read a run folder.

    Args:
        path: The folder.
        finished: Refuse a run that has not finished.

    Returns:
        The :class:`RunRecord`. A cut last line of a log, as a kill leaves it, is ignored.

    Raises:
        RecordError: If the folder is no run, is of a newer version, or lacks a file it needs.
        FileFormatError: If a file is damaged; the message names file and line.
    """
    path = Path(path)
    made = _manifest(path)
    done = (path / schema.DONE).exists()
    if finished and not done:
        raise RecordError(
            f"{path} should be a finished run. Found no {schema.DONE} in it; "
            "finish it with --resume or leave it out."
        )
    metrics = [
        _at(path / schema.METRICS, number, schema.parse_metric, row)
        for number, row in read_lines(path / schema.METRICS)
    ]
    refreshes = [
        _at(path / schema.GROUPINGS, number, schema.parse_refresh, row, len(made.label_names))
        for number, row in read_lines(path / schema.GROUPINGS)
    ]
    summary = None
    if done or (path / schema.SUMMARY).exists():
        value = _object(path / schema.SUMMARY)
        summary = _at(
            path / schema.SUMMARY, None, schema.parse_summary, value, len(made.label_names)
        )
    return RunRecord(
        path=path,
        config=_object(path / schema.CONFIG),
        manifest=made,
        train=tuple(row for row in metrics if isinstance(row, schema.TrainRow)),
        valid=tuple(row for row in metrics if isinstance(row, schema.ValidRow)),
        refreshes=tuple(row for row in refreshes if row is not None),
        summary=summary,
        done=done,
    )


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the run folders at or below ``paths``, sorted within each, each once.

    Links are not followed, and a run folder is not searched for others.

    Raises:
        RecordError: If a path does not exist or holds no run.
    """
    found: dict[Path, Path] = {}
    for start in map(Path, paths):
        if not start.is_dir():
            raise RecordError(f"{start} should be a run folder or a folder of runs. Found none.")
        before = len(found)
        known = False
        for folder, below, files in os.walk(start):
            if schema.MANIFEST in files and schema.CONFIG in files:
                below.clear()
                known |= Path(folder).resolve() in found
                found.setdefault(Path(folder).resolve(), Path(folder))
            below.sort()
        if len(found) == before and not known:
            raise RecordError(
                f"{start} holds no run, a folder with {schema.MANIFEST} and {schema.CONFIG}. "
                "Give the folder that `gnn-mtl train --out` or `gnn-mtl demo --out` wrote."
            )
    return list(found.values())


def _manifest(path: Path) -> schema.Manifest:
    value = _object(path / schema.MANIFEST)
    version = value.get("version")
    ours = value.get("format") == schema.FORMAT
    if ours and isinstance(version, int) and version > schema.FORMAT_VERSION:
        raise RecordError(
            f"{path} is of run format {version}; this program reads up to "
            f"{schema.FORMAT_VERSION}. Upgrade gnn-mtl."
        )
    return _at(path / schema.MANIFEST, None, schema.parse_manifest, value)


def _object(file: Path) -> dict[str, Any]:
    """Read one JSON object; a missing file means the folder is no complete run."""
    try:
        value = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordError(
            f"{file.parent} should be a run folder, with {file.name} in it. "
            f"Found {'no such folder' if not file.parent.is_dir() else 'no such file'}."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise FileFormatError(
            f"{file}{line} should be JSON. Found: {error}. Restore the file or leave this run out."
        ) from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{file} should hold a JSON object. Found {type(value).__name__}.")
    return value


def _at(file: Path, line: int | None, parse: Any, *arguments: Any) -> Any:  # noqa: ANN401
    """Call a parser and say where in the folder it failed."""
    try:
        return parse(*arguments)
    except (ValueError, OverflowError) as error:
        where = f"{file}:{line}" if line is not None else f"{file}"
        raise FileFormatError(
            f"{where} is not as written by this program: {error}. Restore it or leave this run out."
        ) from error
