"""Learning curves: the validation score over steps and over seconds, with the spread of seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnn_mtl.reports._methods import Method
from gnn_mtl.reports._svg import LINE, method_color, new_figure, style, to_svg

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def learning_curves(colors: Mapping[Method, int], name: str) -> str | None:
    """Draw validation AP of every method that has rows over all labels; None if none has.

    A line is the mean over seeds, its band runs from the lowest to the highest seed; where seeds
    stopped at different times the mean ends with the first, and thin lines go on.
    """
    drawn = {method: _curves(method, "step") for method in colors}
    if not any(drawn.values()):
        return None
    with style():
        figure = new_figure(10, 3.5)
        panels = figure.subplots(1, 2, sharey=True)
        for axis, unit in zip(panels, ("step", "seconds"), strict=True):
            for method, color in reversed(list(colors.items())):
                dashes = (0, (4, 1.6)) if method.kind == "joint" else "-"
                _draw(axis, _curves(method, unit), method_color(color), dashes)
                if not drawn[method] and not method.is_partial:
                    level = np.array(method.values("valid", "ap"))
                    if np.isfinite(level).all():
                        axis.axhline(100 * level.mean(), color=method_color(color), lw=1.2, ls=":")
            axis.grid(axis="y")
            axis.set_xlabel({"step": "optimizer steps", "seconds": "seconds"}[unit])
            axis.set_xlim(left=0)
            axis.tick_params(length=0)
            axis.spines["left"].set_visible(False)
            axis.spines["bottom"].set_color(LINE)
        panels[0].set_title("validation AP (%) by steps")
        panels[1].set_title("validation AP (%) by wall time")
        return to_svg(figure, name, "Validation average precision over training, a line per method")


def _curves(method: Method, unit: str) -> list[Curve]:
    curves = []
    for run in method.runs:
        rows = [row for row in run.valid if row.task is None and np.isfinite(row.ap)]
        if rows and not method.is_partial:
            x = np.array([float(getattr(row, unit)) for row in rows])
            order = np.argsort(x, kind="stable")
            curves.append((x[order], np.array([100 * row.ap for row in rows])[order]))
    return curves


def _draw(axis: Any, curves: list[Curve], color: str, dashes: Any) -> None:  # noqa: ANN401
    if not curves:
        return
    if len(curves) > 1:
        for x, y in curves:
            axis.plot(x, y, color=color, lw=0.7, alpha=0.35)
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x[(x >= start) & (x <= end)] for x, _ in curves]))
    if grid.size == 0:
        return
    rows = np.array([np.interp(grid, x, y) for x, y in curves])
    if len(curves) > 1:
        axis.fill_between(grid, rows.min(0), rows.max(0), color=color, alpha=0.14, lw=0)
    marker = "o" if grid.size == 1 else ""
    axis.plot(grid, rows.mean(0), color=color, marker=marker, ms=4, ls=dashes)
