"""Wins and losses label by label, and what a score cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gnn_mtl.reports._compare import MethodComparison
from gnn_mtl.reports._groups import NAMES_UP_TO
from gnn_mtl.reports._methods import Method
from gnn_mtl.reports._svg import (
    HELPS,
    HURTS,
    INK,
    MUTED,
    SURFACE,
    method_color,
    new_figure,
    short,
    style,
    to_svg,
)  # fmt: skip


def label_deltas(one: MethodComparison, reference: Method, names: Sequence[str], name: str) -> str:
    """Draw the AP difference of every label, sorted; whiskers are the lowest and highest seed."""
    tasks = np.array(one.tasks)
    tasks = tasks[np.argsort(-one.delta[tasks], kind="stable")]
    difference = one.method.per_label("ap", one.seeds) - reference.per_label("ap", one.seeds)
    tips = {}
    with style():
        figure = new_figure(10, 3.9)
        axis = figure.subplots()
        for place, task in enumerate(tasks):
            value = 100 * one.delta[task]
            steady = bool(one.consistent[task])
            (bar,) = axis.bar(
                place,
                value,
                0.74,
                color=HELPS if value > 0 else HURTS,
                alpha=0.95 if steady else 0.4,
            )
            bar.set_gid(f"tip{task}")
            agree = "every seed agrees" if steady else "seeds differ in sign"
            tips[f"tip{task}"] = f"{names[task]}: {value:+.2f} points, {agree}"
        if len(one.seeds) > 1:
            each = 100 * difference[:, tasks]
            axis.vlines(
                np.arange(len(tasks)), each.min(0), each.max(0), color=INK, lw=0.6, alpha=0.45
            )
        axis.axhline(0, color=MUTED, lw=0.8)
        axis.grid(axis="y")
        axis.set_xlim(-0.8, len(tasks) - 0.2)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        test = one.tests["ap"]
        axis.set_title(
            f"test AP of {short(one.method.label, 40)} minus {reference.label}, points: "
            f"{test.wins} labels gained, {test.losses} lost"
        )
        if len(tasks) <= NAMES_UP_TO:
            font = float(np.clip(480 / len(tasks), 5, 8))
            ticks = [short(names[task], 22) for task in tasks]
            axis.set_xticks(range(len(tasks)), ticks, rotation=90, fontsize=font)
        else:
            axis.set_xticks([])
            axis.set_xlabel(f"{len(tasks)} labels, sorted")
        alt = f"Difference of test AP for each of {len(tasks)} labels, sorted"
        return to_svg(figure, name, alt, tips)


def cost_and_score(colors: Mapping[Method, int], name: str) -> str | None:
    """Draw test AP against wall time and label-gradients, a small dot per run, a large per mean."""
    full = {method: color for method, color in colors.items() if not method.is_partial}
    with style():
        figure = new_figure(10, 3.3)
        panels = figure.subplots(1, 2, sharey=True)
        drawn = False
        for axis, (key, words) in zip(
            panels, (("seconds", "seconds"), ("label_gradients", "label-gradients")), strict=True
        ):
            for method, color in full.items():
                x = np.array(method.values("cost", key))
                y = 100 * np.array(method.values("test", "ap"))
                kept = np.isfinite(x) & np.isfinite(y)
                if not kept.any():
                    continue
                drawn = True
                paint = method_color(color)
                axis.plot(
                    x[kept], y[kept], "o", ms=3.5, color=paint, alpha=0.45, mew=0, clip_on=False
                )
                axis.plot(
                    x[kept].mean(),
                    y[kept].mean(),
                    "o",
                    ms=9,
                    mfc=paint,
                    mec=SURFACE,
                    mew=1.5,
                    clip_on=False,
                )
            axis.set_xlabel(words)
            axis.set_xlim(left=0)
            axis.grid()
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
            axis.ticklabel_format(axis="x", style="plain", useOffset=False)
            axis.xaxis.set_major_formatter(_thousands)
        panels[0].set_title("test AP (%) by wall time")
        panels[1].set_title("test AP (%) by label-gradients")
        if not drawn:
            return None
        return to_svg(figure, name, "Test average precision of every run against its cost")


def _thousands(value: float, _position: int) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # .05 s is a tick of its own
