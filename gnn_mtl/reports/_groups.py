"""What was grouped with what: affinity heatmap, conflict graph in its colours, group timeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gnn_mtl.records import Refresh
from gnn_mtl.reports._svg import (
    HELPS,
    HURTS,
    INK,
    MUTED,
    SURFACE,
    UNKNOWN,
    group_color,
    new_figure,
    short,
    style,
    to_svg,
)  # fmt: skip
from gnn_mtl.tasks import Affinity, conflict_graph

NAMES_UP_TO = 90
COLUMN_NAMES_UP_TO = 36
MOST_CHORDS = 3000


def group_of(refresh: Refresh, num_tasks: int) -> NDArray[np.int64]:
    """Return the number of the first group that holds each task, ``[T]``; -1 for none."""
    groups = np.full(num_tasks, -1)
    for number, tasks in reversed(list(enumerate(refresh.groups))):
        groups[list(tasks)] = number
    return groups


def steady_groups(refreshes: Sequence[Refresh], num_tasks: int) -> NDArray[np.int64]:
    """Return group numbers ``[refreshes, T]`` that follow the groups from refresh to refresh.

    Groups have no names: after every refresh each is given the number of the earlier group it
    shares most tasks with (an optimal assignment), or a new one.
    """
    steady = np.array([group_of(refresh, num_tasks) for refresh in refreshes])
    for row in range(1, len(steady)):
        before, now = steady[row - 1], steady[row].copy()
        old, new = np.unique(before), np.unique(now)
        shared = np.array([[np.sum((now == n) & (before == o)) for o in old] for n in new])
        matched = zip(*linear_sum_assignment(-shared), strict=True)
        pairs = {int(new[i]): int(old[j]) for i, j in matched if shared[i, j] > 0}
        free = iter(sorted(set(range(num_tasks)) - set(pairs.values())))
        for number in new.tolist():
            steady[row][now == number] = pairs[number] if number in pairs else next(free)
    return steady


def task_order(groups: NDArray[np.int64], affinity: Affinity | None) -> NDArray[np.int64]:
    """Order tasks by group, and within a group so that similar ones are neighbours."""
    within = np.zeros(len(groups))
    if affinity is not None:
        values = np.nan_to_num(affinity.symmetrized().values)
        for number in np.unique(groups):
            members = np.flatnonzero(groups == number)
            within[members] = np.linalg.eigh(values[np.ix_(members, members)])[1][:, -1]
    return np.lexsort((within, groups))


def affinity_heatmap(
    affinity: Affinity, groups: NDArray[np.int64], order: NDArray[np.int64], names: Sequence[str],
    name: str,
) -> str:  # fmt: skip
    """Draw the affinity, rows = giver, columns = recipient, both in ``order``; unknown is grey."""
    values = affinity.values[np.ix_(order, order)].copy()
    np.fill_diagonal(values, 0.0)
    size = len(order)
    known = np.abs(values[np.isfinite(values)])
    limit = float(np.quantile(known[known > 0], 0.98)) if (known > 0).any() else 1.0
    with style():
        from matplotlib.colors import to_rgb

        pixels = np.zeros((size, size, 4))
        pixels[..., :3] = np.where((values > 0)[..., None], to_rgb(HELPS), to_rgb(HURTS))
        pixels[..., 3] = np.clip(np.abs(np.nan_to_num(values)) / limit, 0, 1)
        pixels[np.isnan(values)] = (*to_rgb(UNKNOWN), 0.45)
        side = 8 if size > COLUMN_NAMES_UP_TO else 6
        figure = new_figure(side, side - 0.65)
        axis, bar = figure.subplots(2, 1, height_ratios=[46, 1])
        axis.imshow(pixels, interpolation="none", extent=(0, size, size, 0), aspect="equal")
        for edge in np.flatnonzero(np.diff(groups[order])) + 1:
            axis.axhline(edge, color=SURFACE, lw=1.6)
            axis.axvline(edge, color=SURFACE, lw=1.6)
        _name_ticks(axis, order, names)
        _group_strip(axis, groups[order])
        shades = np.zeros((1, 101, 4))
        scale = np.linspace(-1, 1, 101)
        shades[0, :, :3] = np.where((scale > 0)[:, None], to_rgb(HELPS), to_rgb(HURTS))
        shades[0, :, 3] = np.abs(scale)
        bar.imshow(shades, interpolation="none", extent=(-limit, limit, 0, 1), aspect="auto")
        bar.set_yticks([])
        bar.set_xticks([-limit, 0, limit], [f"≤ −{limit:.2g} hurts", "0", f"helps ≥ {limit:.2g}"])  # noqa: RUF001
        bar.tick_params(length=0)
        bar.spines[:].set_visible(False)
        alt = f"Affinity between {size} labels, ordered by group"
        return to_svg(figure, name, alt)


def conflict_drawing(
    affinity: Affinity, tau: float, groups: NDArray[np.int64], order: NDArray[np.int64],
    names: Sequence[str], name: str,
) -> str:  # fmt: skip
    """Draw the conflict graph at ``tau`` on a circle, every label in the colour of its group."""
    strength = np.nan_to_num(-affinity.symmetrized().values)
    graph = nx.from_numpy_array(conflict_graph(affinity.symmetrized(), tau))
    angles = _angles(groups, order)
    places = {node: np.array([np.cos(turn), np.sin(turn)]) for node, turn in angles.items()}
    top = max((strength[edge] for edge in graph.edges), default=1.0)
    tips = {}
    with style():
        from matplotlib.collections import PathCollection
        from matplotlib.colors import to_rgba
        from matplotlib.patches import Circle
        from matplotlib.path import Path

        side = 8 if len(names) > COLUMN_NAMES_UP_TO else 6
        figure = new_figure(side, side)
        axis = figure.subplots()
        chords, paints = [], []
        crowd = float(np.clip(90 / max(1, graph.number_of_edges()), 0.25, 1.0))
        for one, other in graph.edges:
            bend = 0.18 * (places[one] + places[other])
            chords.append(Path([places[one], bend, places[other]], [1, 3, 3]))
            paints.append(to_rgba(HURTS, crowd * (0.25 + 0.65 * strength[one, other] / top)))
        axis.add_collection(
            PathCollection(chords, facecolors="none", edgecolors=paints, linewidths=0.9,
                           rasterized=len(chords) > MOST_CHORDS)
        )  # fmt: skip
        radius = float(np.clip(1.7 / len(names), 0.006, 0.045))
        for node, (x, y) in places.items():
            number, degree = int(groups[node]), int(graph.degree(node))
            mark = Circle((x, y), radius, fc=group_color(number), ec=SURFACE, lw=1, zorder=3)
            mark.set_gid(f"tip{node}")
            axis.add_patch(mark)
            tips[f"tip{node}"] = f"{names[node]}: group {number + 1}, {degree} conflicts"
            if len(names) <= NAMES_UP_TO:
                name_of = short(names[node], 24)
                _radial_text(axis, angles[node], 1.03 + radius, name_of, len(names), degree > 0)
        axis.set(aspect="equal", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
        axis.set_axis_off()
        alt = f"Conflict graph of {len(names)} labels with {len(chords)} edges, coloured by group"
        return to_svg(figure, name, alt, tips)


def group_timeline(
    refreshes: Sequence[Refresh], steady: NDArray[np.int64], order: NDArray[np.int64],
    names: Sequence[str], name: str,
) -> str:  # fmt: skip
    """Draw which group every label was in after every refresh, a column per refresh."""
    with style():
        from matplotlib.colors import to_rgba

        palette = np.array([to_rgba(group_color(i), 0.78) for i in range(int(steady.max()) + 1)])
        columns, size = steady.shape
        figure = new_figure(
            10, float(np.clip(0.7 + (0.1 if size > COLUMN_NAMES_UP_TO else 0.17) * size, 1.4, 8))
        )
        axis = figure.subplots()
        axis.imshow(palette[steady.T[order]], interpolation="none", aspect="auto",
                    extent=(0, columns, size, 0))  # fmt: skip
        if columns <= 60:
            for edge in range(1, columns):
                axis.axvline(edge, color=SURFACE, lw=1.0)
        if size <= NAMES_UP_TO:
            for edge in range(1, size):
                axis.axhline(edge, color=SURFACE, lw=0.5)
        _name_ticks(axis, order, names, heatmap=False)
        shown = np.arange(0, columns, -(-columns // 16))
        axis.set_xticks(shown + 0.5, [f"{refreshes[i].step:,}" for i in shown])
        axis.set_xlabel("step of the refresh")
        alt = f"Group of each of {size} labels after each of {columns} refreshes"
        return to_svg(figure, name, alt)


def _angles(groups: NDArray[np.int64], order: NDArray[np.int64]) -> dict[int, float]:
    """Spread the labels over a circle in the given order, with a gap between groups."""
    gaps = np.concatenate([[0], np.cumsum(np.diff(groups[order]) != 0)]) * 1.6
    steps = np.arange(len(order)) + gaps
    turns = np.pi / 2 - 2 * np.pi * steps / (steps[-1] + 2.6)
    return {int(node): float(turn) for node, turn in zip(order, turns, strict=True)}


def _radial_text(
    axis: Any,  # noqa: ANN401
    angle: float,
    distance: float,
    text: str,
    count: int,
    linked: bool,
) -> None:
    x, y = distance * np.cos(angle), distance * np.sin(angle)
    left = x < 0
    axis.text(
        x, y, text, ha="right" if left else "left", va="center", rotation_mode="anchor",
        rotation=np.degrees(angle) + (180 if left else 0), color=INK if linked else MUTED,
        fontsize=float(np.clip(480 / count, 5, 9)),
    )  # fmt: skip


def _name_ticks(
    axis: Any,  # noqa: ANN401
    order: NDArray[np.int64],
    names: Sequence[str],
    *,
    heatmap: bool = True,
) -> None:
    size = len(order)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, pad=6)
    if size > NAMES_UP_TO:
        axis.set_yticks([])
        if heatmap:
            axis.set_xticks([])
        return
    labels = [short(names[task], 24) for task in order]
    font = float(np.clip(400 / size, 4.5, 8.5))
    axis.set_yticks(np.arange(size) + 0.5, labels, fontsize=font)
    if heatmap:
        axis.set_xticks([])
    if heatmap and size <= COLUMN_NAMES_UP_TO:
        axis.set_xticks(np.arange(size) + 0.5, labels, fontsize=font, rotation=90)


def _group_strip(axis: Any, groups: NDArray[np.int64]) -> None:  # noqa: ANN401
    """Draw the colour of every row's group along the left edge and of every column's on top."""
    size = len(groups)
    for place, number in enumerate(groups):
        bar = {
            "color": group_color(int(number)),
            "clip_on": False,
            "solid_capstyle": "butt",
            "lw": 3,
        }
        axis.plot([-0.008 * size] * 2, [place, place + 1], **bar)
        axis.plot([place, place + 1], [-0.008 * size] * 2, **bar)
    axis.set_xlim(0, size)
    axis.set_ylim(size, 0)
