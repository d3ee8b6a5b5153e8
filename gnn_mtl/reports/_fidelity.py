"""``build_fidelity``: one page on how faithful each way of measuring conflict is, and its price."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gnn_mtl._core.files import write_text
from gnn_mtl.reports._svg import LINE, MUTED, method_color, new_figure, style, to_svg
from gnn_mtl.reports._templates import render_page

Rows = Sequence[Mapping[str, Any]]


def build_fidelity(
    study: Mapping[str, Any], out: str | os.PathLike[str], *, name: str, command: str = ""
) -> Path:
    """Write the page: the frontier of edge F1 against cost, and every mode's numbers.

    Args:
        study: ``FidelityStudy.to_dict()``, or the JSON file it was written to.
        out: The HTML file to write.
        name: What was measured, e.g. the run's folder.
        command: The command that makes the page, shown at its end.

    Returns:
        The path written.

    Raises:
        MissingExtraError: If matplotlib is not installed (extra ``plot``).
        StorageError: If the file cannot be written.
    """
    rows = sorted(study["rows"], key=lambda row: (row["cost"], row["mode"]))
    best = frontier(rows)
    page = render_page(
        "fidelity.html", name=name, study=study, rows=rows, command=command,
        best=best, headline=_headline(best), figure=frontier_figure(rows, "frontier"),
    )  # fmt: skip
    write_text(Path(out), page)
    return Path(out)


def frontier(rows: Rows, *, cost: str = "cost") -> list[Mapping[str, Any]]:
    """Return the rows that no cheaper one beats in edge F1, cheapest first."""
    found: list[Mapping[str, Any]] = []
    scored = [row for row in rows if row["edge_f1"] is not None and row[cost] is not None]
    for row in sorted(scored, key=lambda row: (row[cost], -row["edge_f1"])):
        if not found or row["edge_f1"] > found[-1]["edge_f1"]:
            found.append(row)
    return found


def frontier_figure(
    rows: Rows,
    name: str,
    *,
    cost: str = "cost",
    unit: str = "cost / cost of the exact measurement",
    label: str = "mode",
) -> str:
    """Return the plot of edge F1 against cost, a line per mode, as inline SVG."""
    modes: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["edge_f1"] is not None and row[cost] is not None and row[cost] > 0:
            modes.setdefault(str(row[label]), []).append(row)
    with style():
        figure = new_figure(10, 4.6)
        axis = figure.subplots()
        for index, (mode, points) in enumerate(modes.items()):
            points = sorted(points, key=lambda row: row[cost])
            axis.plot(
                [row[cost] for row in points], [row["edge_f1"] for row in points],
                color=method_color(index), marker="os^Dvx"[index // 8 % 6], ms=4, label=mode,
            )  # fmt: skip
        best = frontier(rows, cost=cost)
        axis.plot(
            [row[cost] for row in best], [row["edge_f1"] for row in best],
            color=MUTED, lw=0.9, ls=(0, (4, 2)), drawstyle="steps-post", zorder=0,
        )  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.set_ylim(0, 1.02)
        axis.grid(axis="y")
        axis.tick_params(length=0)
        axis.spines["left"].set_visible(False)
        axis.spines["bottom"].set_color(LINE)
        axis.set_xlabel(unit)
        axis.set_title("F1 of the conflict graph's edges")
        if modes:
            figure.legend(loc="outside right upper", frameon=False, fontsize=7.5)
        return to_svg(figure, name, "Edge F1 against cost, a line per way of measuring")


def _headline(best: list[Mapping[str, Any]]) -> str:
    if not best:
        return "No estimate has an edge at this tolerance."
    top = best[-1]
    text = f"Best: {top['mode']} on {top['nodes']:,} nodes, edge F1 {top['edge_f1']:.2f}"
    near = next(row for row in best if row["edge_f1"] >= 0.9 * top["edge_f1"])
    if near is not top:
        text += (
            f". {near['mode']} on {near['nodes']:,} nodes reaches {near['edge_f1']:.2f} at "
            f"{near['cost'] / top['cost']:.2g} of its cost"
        )
    return text + "."
