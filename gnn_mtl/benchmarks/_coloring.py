"""``bench coloring``: colours and time against networkx's DSATUR on random conflict graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import mean
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.seeding import generator
from gnn_mtl.benchmarks._measure import interleaved, result
from gnn_mtl.grouping import color_graph, exact_coloring

TASKS = 500
SMALL = 20
DENSITIES = (0.1, 0.5, 0.9)
OURS = ("welsh_powell", "dsatur", "iterated_greedy", "tabu", "equitable")


def run(*, quick: bool = False) -> dict[str, Any]:
    """Colour G(n, p) for p = .1, .5, .9 by every method, each with its default budget.

    The ratios are those of ``tabu`` to networkx's DSATUR on the same graphs of 500 tasks, the worst
    over the three densities. Networkx is handed a ready graph; the kernels are compiled before.
    Rows give every method, and on 20 tasks the colours over the fewest possible ones. Full size: 3
    graphs a density, networkx timed on each of them; quick: one.
    """
    for coloring in OURS:
        color_graph(_graph(30, 0.5, 0), coloring)
    rows = []
    for p in DENSITIES:
        rows += _measure(p, num_graphs=1 if quick else 3)
    rows.append(_against_exact())
    best = [row for row in rows if row["method"] == "tabu" and row["tasks"] == TASKS]
    ratios = {
        "colors_over_dsatur_500": max(row["colors_over_dsatur"] for row in best),
        "time_over_dsatur_500": max(row["time_over_dsatur"] for row in best),
    }
    return result("coloring", ratios, rows)


def _graph(num_tasks: int, p: float, number: int) -> NDArray[np.bool_]:
    drawn = generator(number, "bench coloring", num_tasks, round(100 * p)).random(
        (num_tasks, num_tasks)
    )
    upper = np.triu(drawn < p, k=1)
    return upper | upper.T


def _measure(p: float, num_graphs: int) -> list[dict[str, Any]]:
    graphs = [_graph(TASKS, p, number) for number in range(num_graphs)]
    drawn = [nx.from_numpy_array(graph) for graph in graphs]
    colors: dict[str, dict[int, int]] = {name: {} for name in ("networkx_dsatur", *OURS)}

    def theirs(number: int) -> None:
        found = nx.greedy_color(drawn[number], strategy="DSATUR")
        colors["networkx_dsatur"][number] = 1 + max(found.values())

    def ours(coloring: str, number: int) -> None:
        colors[coloring][number] = len(color_graph(graphs[number], coloring))

    candidates: dict[str, Callable[[int], object]] = {
        "networkx_dsatur": theirs,
        **{name: partial(ours, name) for name in OURS},
    }
    times = interleaved(candidates, num_graphs)
    reference = mean(colors["networkx_dsatur"].values())
    return [
        {
            "method": name,
            "tasks": TASKS,
            "p": p,
            "colors": mean(colors[name].values()),
            "colors_over_dsatur": mean(colors[name].values()) / reference,
            "cpu_ms": 1e3 * times[name]["cpu_s"],
            "time_over_dsatur": times[name]["cpu_s"] / times["networkx_dsatur"]["cpu_s"],
        }
        for name in candidates
    ]


def _against_exact() -> dict[str, Any]:
    """Return how far each method is from the fewest colours where those can be computed."""
    graphs = [_graph(SMALL, p, number) for p in DENSITIES for number in range(5)]
    fewest = sum(len(exact_coloring(graph)) for graph in graphs)
    over = {name: sum(len(color_graph(graph, name)) for graph in graphs) / fewest for name in OURS}
    return {"method": "over the fewest possible", "tasks": SMALL, **over}
