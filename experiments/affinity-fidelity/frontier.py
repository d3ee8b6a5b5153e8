"""The plot of README.md: edge F1 against cost at both trained checkpoints, and what bounds it."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

Row = dict[str, Any]
INK, MUTED, LINE = "#1c1c1c", "#5c5c5c", "#d8d8d8"
LINES = {  # mode: label, colour, marker
    "full": ("all layers", "#3b6fb5", "o"),
    "full, debiased": ("all layers, debiased", "#8a5fb0", "s"),
    "last_layer": ("last layer", "#b8901c", "^"),
    "control variate, 16 steps older": ("control variate*", "#2c8a57", "D"),
    "streamed at fixed weights, 8 directions": ("streamed, fixed weights*", "#777777", "v"),
}
POINTS = {
    "streamed online, beta 0": ("streamed online", "#d1572e", "X"),
    "last_layer_sketch online, beta 0.5": ("small probes, averaged", "#b5417a", "X"),
    "full stratified": ("all layers, stratified", "#3aa0a8", "P"),
    "full by residuals": ("all layers, by residuals", "#1c1c1c", "P"),
}
BOUNDS = {
    "full on a window": "a window's nodes, exact",
    "sampled, 1 steps older": "everything, 1 step older",
    "sampled, 4 steps older": "everything, 4 steps older",
    "sampled, 16 steps older": "everything, 16 steps older",
}
TITLES = {"epoch 1": "After one epoch", "best": "Best checkpoint"}
WANTED = ((1.0, 895.0), (0.8, 0.95))
RIGHT = {  # labels of bounds that would be in the way at the left, and their shift
    ("sampled, 1 steps older", "epoch 1"): 0.012,
    ("full on a window", "epoch 1"): -0.032,
    ("sampled, 16 steps older", "epoch 1"): 0.012,
}
STYLE = {
    "font.family": "sans-serif", "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "fidelity",
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.edgecolor": LINE, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


def frontier(rows: list[Row]) -> str:
    """Return the plot of the rows of 112 tasks as a stand-alone SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.2))
        panels = figure.subplots(
            1, 2, sharey=True,
            gridspec_kw={"left": 0.055, "right": 0.8, "bottom": 0.12, "top": 0.92, "wspace": 0.07},
        )  # fmt: skip
        for panel, checkpoint in zip(panels, TITLES, strict=True):
            here = [row for row in rows if row["tasks"] == 112 and row["checkpoint"] == checkpoint]
            _panel(panel, here, TITLES[checkpoint])
        panels[0].set_ylabel("F1 of the conflict graph's edges")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="center left",
            bbox_to_anchor=(0.81, 0.55),
            frameon=False,
            fontsize=8,
        )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="#ffffff", metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    return text[text.index("<svg") :]


def _panel(panel: Any, rows: list[Row], title: str) -> None:
    panel.set_xscale("log")
    panel.set_xlim(0.6, 1500)
    panel.set_ylim(0, 1.02)
    panel.grid(axis="y", color=LINE, lw=0.6)
    panel.set_axisbelow(True)
    for shown, join in ((LINES, "-"), (POINTS, "none")):
        for mode, (label, color, marker) in shown.items():
            points = sorted(
                (row["cost_in_steps"], row["edge_f1"] or 0.0) for row in rows if row["mode"] == mode
            )
            panel.plot(
                [x for x, _ in points], [y for _, y in points],
                color=color, marker=marker, ms=4.5, lw=1.4, ls=join, label=label, clip_on=False,
            )  # fmt: skip
    for mode, label in BOUNDS.items():
        for row in rows:
            if row["mode"] == mode and row["edge_f1"] is not None:
                panel.axhline(row["edge_f1"], color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=0)
                shift = RIGHT.get((mode, row["checkpoint"]))
                panel.text(
                    1.4 if shift is None else 1450, row["edge_f1"] + (shift or 0.012), label,
                    ha="left" if shift is None else "right", fontsize=7, color=MUTED,
                )  # fmt: skip
    panel.plot(WANTED[0], WANTED[1], marker="*", ms=11, color="#c0392b", ls="none", label="wanted")
    panel.set_xticks([1, 10, 100, 1000])
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.tick_params(length=0)
    panel.set_xlabel("cost of a refresh in training steps")
    panel.set_title(title, loc="left", fontsize=10)
