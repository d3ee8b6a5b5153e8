"""Progress for anything over two seconds: a bar on a terminal, a log line elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

logger = logging.getLogger("gnn_mtl")

LOG_EVERY_S = 10.0
SILENT_S = 2.0


class Progress:
    """Counts work towards ``total``; shows nothing for the first two seconds.

    On a terminal it draws a rich bar on stderr, nested counts one below the other; without one it
    logs a line every ten seconds.

    Args:
        title: What is being done, e.g. ``"training"``.
        total: How many units there are; None if unknown.
    """

    _display: ClassVar[RichProgress | None] = None

    def __init__(self, title: str, total: int | None = None) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self._started = time.monotonic()
        self._logged = self._started
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count ``units`` more and show ``note`` (a short state such as a score) beside the bar."""
        self.done += units
        now = time.monotonic()
        if now - self._started < SILENT_S:
            return
        if sys.stderr.isatty():
            self._draw(note)
        elif now - self._logged >= LOG_EVERY_S:
            self._logged = now
            share = f"/{self.total}" if self.total else ""
            seconds = now - self._started
            logger.info("%s: %d%s after %.0f s %s", self.title, self.done, share, seconds, note)

    def close(self) -> None:
        """Remove the bar."""
        display = Progress._display
        if self._bar is None or display is None:
            return
        display.remove_task(self._bar)
        self._bar = None
        if not display.tasks:
            display.stop()
            Progress._display = None

    def _draw(self, note: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        if Progress._display is None:
            Progress._display = RichProgress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TextColumn("{task.fields[note]}"),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            Progress._display.start()
        if self._bar is None:
            self._bar = Progress._display.add_task(self.title, total=self.total, note=note)
        Progress._display.update(self._bar, completed=self.done, note=note)
