"""``bench refresh``: how faithful one interference refresh is after training, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gnn_mtl._core.threads import one_thread
from gnn_mtl.benchmarks._measure import result
from gnn_mtl.benchmarks._refresh_modes import Row, measure
from gnn_mtl.benchmarks._refresh_training import Size, train

FULL = Size(
    nodes=170_000, edges=1_500_000, batch_size=1024, hidden=128, epochs=10, reference_epochs=2,
    counts=(1, 4, 16, 64), ages=(1, 4, 16), tasks=(112, 500), repeats=5,
)  # fmt: skip
QUICK = Size(
    nodes=6_000, edges=40_000, batch_size=256, hidden=32, epochs=4, reference_epochs=1,
    counts=(1, 4), ages=(2, 8), tasks=(112,), repeats=2,
)  # fmt: skip

NOT_COUNTED = (
    "sampled", "all neighbours", "streamed at fixed weights", "control variate", "co-occurrence"
)  # fmt: skip
BELOW_EXACT = 0.95


def run(*, quick: bool = False) -> dict[str, Any]:
    """Measure every mode against exact cosines of the whole training split, on one thread.

    The model is a two-layer GraphSAGE with batch norm and dropout, trained jointly. **Reference**
    (``"sampled"``): gradients of all shared parameters over all training nodes with the fan-out of
    the training and dropout and norms frozen, summed over independent epochs (2 at the best
    checkpoint, 1 elsewhere; ``"sampled epoch 2"`` is one against the other). Neighbour sampling is
    a bias and not only noise: gradients with *all* neighbours are other quantities, whose cosines
    more sampled batches do not approach, but the training only ever follows the sampled ones.

    Rows: F1 at the tau that gives the reference 10 % edges (``edge_f1``) and of as many lowest
    cosines (``edge_f1_as_many``), mean absolute difference and correlation of cosines, by mode,
    number of tasks, checkpoint (``init``, ``epoch 1``, ``best`` by validation AP) and training
    nodes read. ``cost_in_steps`` is CPU time over that of a training step, sampling and averages
    included, interleaved; a refresh is due every 32 steps, and what steps leave behind is charged
    to it.

    Rows that count for no ratio, each for a reason:

    - ``"sampled"``, ``"sampled, ..."``: the reference and what bounds it. Exact gradients by some
      layers, and of the weights some steps earlier (other neighbours drawn): how long any conflict
      graph is true.
    - ``"all neighbours"``: another quantity.
    - ``"streamed at fixed weights"``: the sums of the ``online`` modes without the drift of the
      weights, which no training offers at that price.
    - ``"control variate"``: two probes, but the exact gradient of the snapshot is charged nowhere.
    - ``"co-occurrence"``: correlation of the labels; only its order means anything.

    All others count: probes at their price, ``"full"`` up to the whole split (other neighbours than
    the reference: what its own noise leaves of it), ``"full on a window"`` of the batches of the
    last 32 steps at the present weights (what statistics of these steps could know at best),
    ``online`` modes as the last refresh before the checkpoint left them. Ratios are of the first
    number of tasks, and take the worse of the two trained checkpoints; ``edge_f1_best`` is over
    modes below 0.95 of the cost of one exact epoch; null where no mode is as cheap, or its graph
    has no edge.
    """
    size = QUICK if quick else FULL
    rows: list[Row] = []
    with one_thread():
        for tasks in size.tasks:
            rows += measure(train(size, tasks, main=tasks == size.tasks[0]))
    return result("refresh", ratios([row for row in rows if row["tasks"] == size.tasks[0]]), rows)


def ratios(rows: Sequence[Row]) -> dict[str, float | None]:
    """Return the three ratios of the rows of 112 tasks."""
    whole = min((row["cost_in_steps"] for row in rows if row["mode"] == "sampled"), default=0.0)
    counted = [row for row in rows if not row["mode"].startswith(NOT_COUNTED)]
    speed = [row["over_loop"] for row in rows if row.get("over_loop") is not None]
    return {
        "edge_f1_at_one_step_112": best(counted, 1.0),
        "edge_f1_best_112": best(counted, BELOW_EXACT * whole),
        "best_exact_over_loop_112": max(speed, default=None),
    }


def best(rows: Sequence[Row], cost: float) -> float | None:
    """Return the best mode's F1 at its worse trained checkpoint, among modes of that cost."""
    found: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        if row["checkpoint"] != "init":
            varies = "online" in row["mode"] or "window" in row["mode"]
            key = (row["mode"], 0 if varies else row["nodes"])
            found.setdefault(key, {})[row["checkpoint"]] = row
    scores = [
        min(row["edge_f1"] for row in both.values())
        for both in found.values()
        if len(both) == 2
        and all(
            row["edge_f1"] is not None and row["cost_in_steps"] <= cost for row in both.values()
        )
    ]
    return max(scores, default=None)
