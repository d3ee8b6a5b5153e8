"""The errors and warnings of gnn_mtl.

Every message says three things: what was expected, what was found, what to do. Each family of
errors carries the exit code with which the command line ends when one escapes (design: 2 usage,
3 data, 4 training stopped by a guard, 130/143 interrupted and resumable).
"""

from __future__ import annotations

from typing import ClassVar


class GnnMtlError(Exception):
    """Base of all errors raised on purpose by this package."""

    exit_code: ClassVar[int] = 1


class UsageError(GnnMtlError, ValueError):
    """An argument, option or configuration key is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A recipe or run configuration holds an unknown key or a value of the wrong kind."""


class ShapeError(UsageError):
    """An array has another shape than the contract of the function says."""


class MissingExtraError(UsageError, ImportError):
    """An optional dependency is needed and not installed; the message holds the install command."""


class DataError(GnnMtlError, ValueError):
    """A dataset, a label matrix or a file cannot be used as it is."""

    exit_code = 3


class GraphError(DataError):
    """Edges or node counts are inconsistent (ids out of range, negative ids, wrong shape)."""


class FeatureError(DataError):
    """Node or edge features are not finite or do not match the graph."""


class LabelError(DataError):
    """Labels are not 0, 1 or NaN, or do not match the graph."""


class SplitError(DataError):
    """A split is empty, overlaps another one, or points outside the graph."""


class FileFormatError(DataError):
    """A file is truncated, tampered with, of another version, or not of the documented layout."""


class DatasetNotFoundError(DataError, FileNotFoundError):
    """No dataset of that name or path exists here."""


class SealedLabelsError(DataError, PermissionError):
    """Test labels were asked for while a training holds them sealed."""


class RecordError(DataError):
    """A run folder is incomplete, locked by another process, or of an unknown version."""


class StorageError(GnnMtlError, OSError):
    """Writing failed (disk full, no permission); nothing half-written was left behind."""

    exit_code = 3


class TrainingStoppedError(GnnMtlError, RuntimeError):
    """A guard ended the training (for example every loss became non-finite)."""

    exit_code = 4


class InterruptedRunError(GnnMtlError):
    """The run was interrupted by a signal after a checkpoint; go on with ``--resume``."""

    exit_code = 130

    def __init__(self, message: str, *, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # type: ignore[misc]


class GnnMtlWarning(UserWarning):
    """Base of all warnings raised on purpose by this package."""


class LabelWarning(GnnMtlWarning):
    """A label cannot be learned or scored as it stands (no positive in training, one class...)."""


class CoverageWarning(GnnMtlWarning):
    """A task cannot be scheduled as often as asked without meeting a conflicting one."""


class EmptyConflictGraphWarning(GnnMtlWarning):
    """The conflict graph has no edge, so the schedule equals joint training for this window."""


class NonFiniteWarning(GnnMtlWarning):
    """A task's loss or gradient was NaN or infinite; that task was skipped and counted."""
