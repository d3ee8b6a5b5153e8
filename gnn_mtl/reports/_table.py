"""``Table``: numbers with their seeds, spread and run folders, before any rendering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gnn_mtl.metrics import Summary, summarize
from gnn_mtl.records import RunRecord

DASH, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
Unit = Literal[
    "percent", "points", "seconds", "count", "probability", "megabytes", "text", "change"
]


@dataclass(frozen=True)
class Column:
    """A column: key of its cells, heading, unit of its numbers, and what it means in a sentence."""

    key: str
    title: str
    unit: Unit
    meaning: str = ""
    oracle: bool = False


@dataclass(frozen=True, eq=False)
class Cell:
    """A number: its values per run, and those runs. Text cells have text instead."""

    values: tuple[float, ...] = ()
    runs: tuple[RunRecord, ...] = ()
    text: str = ""

    @property
    def summary(self) -> Summary | None:
        """Mean, unbiased std and number of the values; None if there are none."""
        return summarize(self.values) if self.values else None


@dataclass(frozen=True, eq=False)
class Row:
    """A method's cells by column key; ``remark`` says what the reader must know about it."""

    method: str
    kind: str
    cells: dict[str, Cell]
    remark: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one title and the notes that belong under them."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def number_cell(values: Sequence[float], runs: tuple[RunRecord, ...]) -> Cell:
    """Return a cell of the finite values and the runs they come from."""
    kept = [(v, run) for v, run in zip(values, runs, strict=True) if math.isfinite(v)]
    return Cell(tuple(value for value, _ in kept), tuple(run for _, run in kept))


def format_number(value: float, unit: Unit) -> str:
    """Write one number in its unit: scores in percent as on the OGB leaderboards."""
    if not math.isfinite(value):
        return DASH
    if unit == "percent":
        return f"{100 * value:.2f}"
    if unit == "points":
        return f"{100 * value:+.2f}".replace("-", MINUS)
    if unit == "seconds" and value == 0:
        return "0"
    if unit == "seconds":
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
    if unit == "probability":
        return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"
    if unit == "change":
        return f"{100 * value:+.1f} %".replace("-", MINUS)
    if unit == "megabytes":
        return f"{value:,.0f}"
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e6:,.2f} M"


def count(number: int, noun: str) -> str:
    """Write a number of things: ``1 run``, ``2 runs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_cell(cell: Cell | None, column: Column) -> str:
    """Write ``mean ± std``; no ± for one seed, a dash for nothing."""
    if cell is None or (not cell.values and not cell.text):
        return DASH
    summary = cell.summary
    if summary is None:
        return cell.text
    mean = format_number(summary.mean, column.unit)
    if summary.std is None or column.unit in ("probability", "text"):
        return mean
    if summary.std == 0 and column.unit in ("count", "megabytes", "seconds"):
        return mean
    return f"{mean} ± {format_number(summary.std, column.unit).removeprefix('+')}"
