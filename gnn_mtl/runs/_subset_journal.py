"""What a :class:`SubsetOracle` has trained so far, one line a training; survives a kill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from gnn_mtl._core.errors import FileFormatError, RecordError
from gnn_mtl.records._jsonl import LineLog, plain, read_lines

FORMAT = "gnn-mtl/subset-journal"
FORMAT_VERSION = 1

Key = tuple[tuple[int, ...], int]
Row = dict[str, Any]


class SubsetJournal:
    """Trainings by (tasks, seed), kept in a file of JSON lines if there is one.

    The first line says what was trained (:meth:`open` refuses a file of another setting), every
    other line is one training. A line is written whole or not at all, in the order the trainings
    end; more subsets can be added at any later time.

    Args:
        path: The file; None keeps everything in memory.
        setting: What decides the numbers, plain JSON.

    Raises:
        RecordError: If the file holds trainings of another setting, or is open elsewhere.
        FileFormatError: If it is damaged or of another kind.
    """

    def __init__(self, path: Path | None, setting: Mapping[str, Any]) -> None:
        self.rows: dict[Key, Row] = {}
        self._log: LineLog | None = None
        self._lock: FileLock | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise RecordError(
                f"{path} is being written by another process. Wait for it or choose another file."
            ) from error
        try:
            self._read(path, plain(dict(setting)))
        except BaseException:
            self.close()
            raise

    def add(self, row: Row) -> None:
        """Keep one training."""
        row = plain({"kind": "subset", **row})
        self.rows[_key(row)] = row
        if self._log is not None:
            self._log.append(row)

    def close(self) -> None:
        """Close the file and let go of it; closing again does nothing."""
        if self._log is not None:
            self._log.close()
        if self._lock is not None:
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

    def _read(self, path: Path, setting: dict[str, Any]) -> None:
        header = {"kind": "header", "format": FORMAT, "version": FORMAT_VERSION, "setting": setting}
        lines = read_lines(path)
        if lines:
            found = lines[0][1]
            if found.get("format") != FORMAT or found.get("version", 0) > FORMAT_VERSION:
                raise FileFormatError(
                    f"{path} should be a journal of trained subsets (version <= {FORMAT_VERSION})."
                    " Found something else; choose another file."
                )
            other = found.get("setting", {})
            changed = sorted(k for k in {*other, *setting} if other.get(k) != setting.get(k))
            if changed:
                raise RecordError(
                    f"{path} holds subsets trained in another setting (differs in "
                    f"{', '.join(changed)}). Choose another file, or remove it to train anew."
                )
        for number, row in lines[1:]:
            try:
                self.rows[_key(row)] = row
            except (KeyError, TypeError, ValueError) as error:
                raise FileFormatError(
                    f"{path}:{number} should be one trained subset. Found {error!r}. Restore the "
                    "file or remove it."
                ) from error
        self._log = LineLog(path)
        if not lines:
            self._log.append(header)


def _key(row: Row) -> Key:
    return tuple(int(task) for task in row["tasks"]), int(row["seed"])
