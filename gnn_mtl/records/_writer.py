"""Writing a run folder: one writer, whole files, logs that survive a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from gnn_mtl._core.errors import RecordError, StorageError, UsageError
from gnn_mtl._core.files import write_json, write_text
from gnn_mtl.records import _schema as schema
from gnn_mtl.records._jsonl import LineLog, plain, read_lines, to_line
from gnn_mtl.records._reader import read_run
from gnn_mtl.tasks import Affinity

OURS = frozenset(
    {schema.CONFIG, schema.MANIFEST, schema.SUMMARY, schema.METRICS, schema.GROUPINGS,
     schema.AFFINITY, schema.CHECKPOINTS, schema.DONE}
)  # fmt: skip


class RunWriter:
    """Writes the run folder at ``path``; open it with :meth:`open`, use it in a ``with`` block.

    Call :meth:`write_config` and :meth:`write_manifest` first, then log, then :meth:`write_summary`
    and :meth:`finish`. Leaving the block without ``finish`` leaves an unfinished run, which
    ``open(..., resume=True)`` takes up. Every method raises ``StorageError`` if the system refuses
    to write (disk full), and what was there before is then unchanged.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock
        self._num_tasks: int | None = None
        self._metrics = LineLog(path / schema.METRICS)
        self._groupings = LineLog(path / schema.GROUPINGS)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        step: int | None = None,
        task: int | None = None,
    ) -> RunWriter:
        """Open a new run folder, or an unfinished one to go on with.

        Args:
            path: The folder; created if absent.
            resume: Go on with an unfinished run. Its config and manifest stay as they are.
            step: Step of the checkpoint resumed from (optimizer steps done): rows of later steps
                are dropped. Needed with ``resume``.
            task: For single-task runs, the task the checkpoint belongs to: rows of tasks that
                began after it are dropped too.

        Raises:
            UsageError: If the folder holds files that are not a run's, or ``step`` is missing.
            RecordError: If the run is finished, unfinished and ``resume`` is False, absent and
                ``resume`` is True, or open in another process.
        """
        path = Path(path)
        if resume and step is None:
            raise UsageError("`step` is needed with `resume`: the step of the checkpoint loaded.")
        try:
            _check_folder(path, resume, locked=False)
            (path / schema.CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            lock = FileLock(path / schema.LOCK, timeout=0)
            lock.acquire()
        except Timeout as error:
            raise RecordError(
                f"{path} is being written by another process. Wait for it or choose another --out."
            ) from error
        except OSError as error:
            raise StorageError(
                f"Expected to create {path}, but the system answered: {error.strerror or error}. "
                "Free space or choose another --out."
            ) from error
        try:
            _check_folder(path, resume, locked=True)
            if resume and step is not None:
                _rewind(path, step, task)
            writer = cls(path, lock)
            if resume:
                writer._num_tasks = read_run(path).num_tasks
            return writer
        except BaseException:
            lock.release()
            raise

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints."""
        return self.path / schema.CHECKPOINTS

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the full configuration, plain JSON values only."""
        write_json(self.path / schema.CONFIG, plain(dict(config)))

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write what :func:`gnn_mtl.records.manifest` returned."""
        made = _checked(schema.MANIFEST, schema.parse_manifest, manifest)
        self._num_tasks = len(made.label_names)
        write_json(self.path / schema.MANIFEST, plain(dict(manifest)))

    def log_train(
        self,
        *,
        step: int,
        epoch: int,
        loss: float,
        num_active: int,
        lr: float,
        seconds: float,
        **extra: Any,  # noqa: ANN401
    ) -> None:
        """Append the state of training: optimizer steps done, seconds since the run began."""
        self._metrics.append(
            {"kind": "train", "step": step, "epoch": epoch, "loss": float(loss),
             "num_active": num_active, "lr": lr, "seconds": seconds, **extra}
        )  # fmt: skip

    def log_valid(
        self,
        *,
        step: int,
        epoch: int,
        ap: float,
        auroc: float,
        f1: float,
        seconds: float,
        **extra: Any,  # noqa: ANN401
    ) -> None:
        """Append macro scores of the validation split; ``task=`` for a single-task model."""
        self._metrics.append(
            {"kind": "valid", "step": step, "epoch": epoch, "ap": float(ap), "auroc": float(auroc),
             "f1": float(f1), "seconds": seconds, **extra}
        )  # fmt: skip

    def log_grouping(
        self,
        *,
        step: int,
        groups: Iterable[Iterable[int]],
        tau: float | None = None,
        num_edges: int | None = None,
        density: float | None = None,
        num_colors: int | None = None,
        churn: float | None = None,
        negative_share: float | None = None,
        warnings: Sequence[str] = (),
        seconds: float = 0.0,
        affinity: Affinity | None = None,
        **extra: Any,  # noqa: ANN401
    ) -> None:
        """Append one regrouping, its groups in schedule order, and keep its affinity matrix."""
        file = None
        if affinity is not None:
            file = f"{schema.AFFINITY}/step-{step:06d}.npz"
            affinity.save(self.path / file)
        row = {
            "kind": "refresh", "step": step, "tau": tau, "num_edges": num_edges,
            "density": density, "num_colors": num_colors,
            "groups": [[int(task) for task in group] for group in groups], "churn": churn,
            "negative_share": negative_share, "warnings": list(warnings), "seconds": seconds,
            "affinity": file, **extra,
        }  # fmt: skip
        _checked(schema.GROUPINGS, schema.parse_refresh, row, self._num_tasks)
        self._groupings.append(row)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the outcome, laid out as :class:`gnn_mtl.records.RunSummary`."""
        _checked(schema.SUMMARY, schema.parse_summary, summary, self._num_tasks)
        write_json(self.path / schema.SUMMARY, plain(dict(summary)))

    def finish(self) -> None:
        """Close the logs and mark the run as finished, last of all.

        Raises:
            RecordError: If the config, the manifest or the summary has not been written.
        """
        for name in (schema.CONFIG, schema.MANIFEST, schema.SUMMARY):
            if not (self.path / name).exists():
                raise RecordError(f"{self.path} needs {name} before the run can be finished.")
        self._metrics.close()
        self._groupings.close()
        write_text(self.path / schema.DONE, "")
        (self.path / schema.LOCK).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the logs and let go of the folder; closing again does nothing."""
        try:
            self._metrics.close()
            self._groupings.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_folder(path: Path, resume: bool, *, locked: bool) -> None:
    """Refuse a folder that is finished, foreign, or in the wrong state for ``resume``."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} should be a folder for the run. Found a file; choose another.")
    # Names with a leading dot are the lock and what an interrupted atomic write left.
    files = [] if not path.exists() else [f for f in path.iterdir() if not f.name.startswith(".")]
    names = {file.name for file in files}
    started = names >= {schema.MANIFEST, schema.CONFIG}
    foreign = names - OURS if started else {file.name for file in files if not _is_empty(file)}
    if foreign:
        raise UsageError(
            f"{path} should be empty or a run folder. Found other files: {sorted(foreign)[:5]}. "
            "Choose another --out or remove the folder; nothing was changed."
        )
    if schema.DONE in names:
        raise RecordError(
            f"{path} holds a finished run. Choose another --out, or remove the folder to run again."
        )
    if resume and not started:
        raise RecordError(f"{path} holds no run to resume. Start it without --resume.")
    if locked and started and not resume:
        raise RecordError(
            f"{path} holds an unfinished run. Go on with --resume, choose another --out, "
            "or remove the folder."
        )


def _is_empty(file: Path) -> bool:
    return not any(file.iterdir()) if file.is_dir() else file.stat().st_size == 0


def _rewind(path: Path, step: int, task: int | None) -> None:
    """Drop what was logged after the checkpoint, and the files only it points to."""
    (path / schema.SUMMARY).unlink(missing_ok=True)
    kept: list[dict[str, Any]] = []
    # A metric's step counts the steps done; a grouping's is the step it is for, not yet done.
    for name, last in ((schema.METRICS, step), (schema.GROUPINGS, step - 1)):
        rows = [row for _, row in read_lines(path / name)]
        kept = _until(rows, last, task)
        write_text(path / name, "".join(map(to_line, kept)))
    wanted = {row.get("affinity") for row in kept}
    for file in sorted((path / schema.AFFINITY).glob("*.npz")):
        if f"{schema.AFFINITY}/{file.name}" not in wanted:
            file.unlink()


def _until(rows: list[dict[str, Any]], step: int, task: int | None) -> list[dict[str, Any]]:
    """Return the rows up to ``step``, of ``task`` and of the tasks that began before it."""
    if task is None:
        return [row for row in rows if row.get("step", 0) <= step]
    order = list(dict.fromkeys(row.get("task") for row in rows))
    before = set(order[: order.index(task)]) if task in order else set(order)
    return [
        row
        for row in rows
        if row.get("task") in before or (row.get("task") == task and row.get("step", 0) <= step)
    ]


def _checked(
    name: str,
    parse: Callable[..., Any],
    value: Mapping[str, Any],
    *arguments: int | None,
) -> Any:  # noqa: ANN401
    """Parse what is about to be written, so that only readable folders are written."""
    try:
        return parse(plain(dict(value)), *arguments)
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"What was to be written to {name} is not as documented: {error}."
        ) from error
