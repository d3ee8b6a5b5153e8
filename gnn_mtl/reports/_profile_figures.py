"""The figures of a dataset's profile: label counts, labels per node, degrees, alike labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from gnn_mtl.datasets import Distributions, SampleOverlap
from gnn_mtl.reports._svg import (
    HELPS,
    LINE,
    MUTED,
    UNKNOWN,
    method_color,
    new_figure,
    short,
    style,
    to_svg,
)  # fmt: skip

WIDE, HIGH = 4.5, 2.95
PART_COLORS = {"train": 1, "valid": 3, "test": 2}
DOTS_UP_TO = 400
BARS_UP_TO = 30
TAIL_FROM = 99.5
LABELS_DRAWN = 60
COLUMN_NAMES_UP_TO = 36


def label_sizes(found: Distributions, name: str) -> str:
    """Draw the positives of every label in every split, largest label first, on a log scale."""
    order = np.argsort(-sum(found.positives.values()), kind="stable")
    ranks = np.arange(1, len(order) + 1)
    with style():
        figure, axis = _axis()
        for part, counts in found.positives.items():
            values, color = np.maximum(counts[order], 0.5), method_color(PART_COLORS[part])
            if len(order) > DOTS_UP_TO:
                axis.plot(ranks, values, color=color, lw=1.2, ls="--" if part == "valid" else "-")
            elif part == "valid":  # a ring: it often lies around a dot of the test split
                axis.plot(ranks, values, "o", ms=4.6, mfc="none", mec=color, mew=0.8)
            else:
                axis.plot(ranks, values, "o", ms=3, mew=0, color=color)
        axis.set_yscale("log")
        _plain_log(axis.yaxis)
        if any((counts == 0).any() for counts in found.positives.values()):
            axis.axhline(0.5, color=LINE, lw=0.8)
            axis.text(len(order), 0.53, "none", ha="right", va="bottom", fontsize=8, color=MUTED)
        axis.set_xlabel("labels, largest first")
        axis.set_title("positives of each label")
        return to_svg(figure, name, f"Positives of {len(order)} labels in each split, log scale")


def labels_per_node(found: Distributions, name: str) -> str:
    """Draw how many labels the labelled nodes have."""
    shares = 100 * found.labels_per_node / found.labels_per_node.sum()
    most = int(np.searchsorted(np.cumsum(shares), TAIL_FROM))
    width = most // BARS_UP_TO + 1
    starts = np.arange(0, most + 1, width)
    held = np.add.reduceat(shares, starts)
    with style():
        figure, axis = _axis()
        places = np.arange(len(starts))
        axis.bar(places, held, width=0.78, color=method_color(1))
        shown = places[:: -(-len(places) // 10)]
        texts = [_range(start, width) for start in starts.tolist()]
        if starts[-1] + width < len(shares):
            texts[-1] = f"{starts[-1]}+"
            shown = np.append(shown[places[-1] - shown >= len(places) / 20], places[-1])
        axis.set_xticks(shown, [texts[place] for place in shown])
        axis.set_xlim(-0.8, len(starts) - 0.2)
        axis.set_xlabel("labels of a node")
        axis.set_title("labelled nodes (%)")
        return to_svg(figure, name, "Share of labelled nodes with 0, 1, 2 and more labels")


def degrees(found: Distributions, name: str) -> str:
    """Draw how many nodes have at least so many neighbours, on two logarithmic scales."""
    counts = found.degrees
    at_least = 100 * np.cumsum(counts[::-1])[::-1] / max(counts.sum(), 1)
    places = np.unique(np.geomspace(1, max(len(counts) - 1, 1), 120).round().astype(np.int64))
    places = places[places < len(counts)]
    with style():
        figure, axis = _axis()
        axis.plot(places, at_least[places], color=method_color(1), lw=2)
        axis.set(xscale="log", yscale="log")
        if len(places) == 0:
            axis.set(xlim=(1, 10), ylim=(1, 100))
        _plain_log(axis.xaxis)
        _plain_log(axis.yaxis)
        axis.set_xlabel("neighbours a node gets messages from")
        axis.set_title("nodes with that many or more (%)")
        return to_svg(figure, name, "Share of nodes with at least so many neighbours, log scales")


def alike_labels(overlap: SampleOverlap, names: Sequence[str], name: str) -> str:
    """Draw how far labels are positive on the same training nodes, similar labels together."""
    chosen = labels_to_draw(overlap)
    shares = np.nan_to_num(overlap.jaccard(positive=True)[np.ix_(chosen, chosen)])
    order = cluster_order(shares)
    values, labels = shares[np.ix_(order, order)], [names[chosen[place]] for place in order]
    np.fill_diagonal(values, 0.0)
    size = len(values)
    limit = max(float(np.quantile(values, 0.995)), float(values.max()) / 2, 1e-6)
    with style():
        from matplotlib.colors import to_rgb

        pixels = np.zeros((size, size, 4))
        pixels[..., :3] = to_rgb(HELPS)
        pixels[..., 3] = np.sqrt(np.clip(values / limit, 0, 1))
        pixels[np.arange(size), np.arange(size)] = (*to_rgb(UNKNOWN), 0.35)
        figure = new_figure(8, 7.5)
        axis, bar = figure.subplots(2, 1, height_ratios=[46, 1])
        axis.imshow(pixels, interpolation="none", extent=(0, size, size, 0), aspect="equal")
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, pad=5)
        font = float(np.clip(400 / size, 5.5, 9))
        texts = [short(label, 28) for label in labels]
        axis.set_yticks(np.arange(size) + 0.5, texts, fontsize=font)
        axis.set_xticks([])
        if size <= COLUMN_NAMES_UP_TO:
            axis.set_xticks(np.arange(size) + 0.5, texts, fontsize=font, rotation=90)
        shades = np.zeros((1, 101, 4))
        shades[0, :, :3] = to_rgb(HELPS)
        shades[0, :, 3] = np.sqrt(np.linspace(0, 1, 101))
        bar.imshow(shades, interpolation="none", extent=(0, limit, 0, 1), aspect="auto")
        bar.set_yticks([])
        ends = [0, limit / 4, limit]
        most = f"{limit:.2g}" if values.max() <= limit else f"≥ {limit:.2g}"
        bar.set_xticks(ends, ["0", f"{ends[1]:.2g}", most])
        bar.tick_params(length=0)
        bar.spines[:].set_visible(False)
        return to_svg(figure, name, f"How far {size} labels are positive on the same nodes")


def labels_to_draw(overlap: SampleOverlap) -> NDArray[np.int64]:
    """Return at most 60 labels, ascending: half the largest, half those most like another one."""
    sizes = np.diagonal(overlap.positive)
    if len(sizes) <= LABELS_DRAWN:
        return np.arange(len(sizes))
    largest = np.argsort(-sizes, kind="stable")[: LABELS_DRAWN // 2]
    shares = np.nan_to_num(overlap.jaccard(positive=True))
    np.fill_diagonal(shares, 0.0)
    alike = np.argsort(-shares.max(axis=1), kind="stable")
    rest = alike[~np.isin(alike, largest)][: LABELS_DRAWN - len(largest)]
    return np.sort(np.concatenate([largest, rest]))


def cluster_order(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return an order in which similar labels are neighbours (average linkage, best leaf order)."""
    if len(shares) < 3:
        return np.arange(len(shares))
    distance = 1.0 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0.0)
    flat = squareform(distance, checks=False)
    return leaves_list(optimal_leaf_ordering(linkage(flat, "average"), flat)).astype(np.int64)


def _range(start: int, width: int) -> str:
    return str(start) if width == 1 else f"{start}–{start + width - 1}"  # noqa: RUF001


def _axis() -> tuple[Any, Any]:
    figure = new_figure(WIDE, HIGH)
    axis = figure.subplots()
    axis.grid(axis="y")
    axis.tick_params(length=0, which="both")
    axis.spines["left"].set_visible(False)
    axis.spines["bottom"].set_color(LINE)
    return figure, axis


def _plain_log(axis: Any) -> None:  # noqa: ANN401
    """Label powers of ten as 0.1, 1, 1,000, with 2 and 5 between where there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    between = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=between, numticks=12))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:.6g}")
    )
    axis.set_minor_formatter(NullFormatter())
