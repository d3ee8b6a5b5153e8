"""The tables and the plot of README.md, made from ``records/`` alone.

python experiments/affinity-fidelity/table.py            # prints the tables
python experiments/affinity-fidelity/table.py --write    # puts them into README.md, draws the plot
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gnn_mtl.reports import between_marks as between_marks
from gnn_mtl.reports import print_or_write

HERE = Path(__file__).parent
CHECKPOINTS = ("init", "epoch 1", "best")
TRAINED = CHECKPOINTS[1:]
Row = dict[str, Any]


def read(part: str) -> dict[str, Any]:
    return json.loads((HERE / "records" / f"{part}.json").read_text(encoding="utf-8"))


def tables() -> str:
    """Return all tables as Markdown."""
    parts = [*refresh_tables(), *which_table(), *real_tables(), *truth_table(), *sources()]
    return "\n".join(parts).strip("\n")


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def refresh_tables() -> list[str]:
    record = read("refresh")
    rows = [row for row in record["rows"] if row["tasks"] == 112]
    whole = max(row["nodes"] for row in rows if row["mode"] == "full")
    bounds = [row for row in rows if bounds_all(row, whole)]
    used = [
        row
        for row in rows
        if row["mode"].startswith(("full", "control variate")) and row not in bounds
    ]
    others = [
        row for row in rows if row not in bounds and (row not in used or row["mode"] == "full")
    ]
    parts = {
        "What bounds every estimate (112 tasks)": (bounds, TRAINED),
        "The same nodes, used better (112 tasks)": (
            sorted(used, key=lambda row: (row["nodes"], row["cost_in_steps"])), TRAINED,
        ),
        "All other modes (112 tasks)": (others, CHECKPOINTS),
        "500 tasks, best checkpoint": (
            read("refresh-500")["rows"], ("best",),
        ),
    }  # fmt: skip
    out = []
    for title, (some, checkpoints) in parts.items():
        if some:
            out += [f"### {title}", "", *grid(some, checkpoints)]
    keys = [f"`{key}` {number(value, '.3g')}" for key, value in record["ratios"].items()]
    return [*out, "Ratios: " + ", ".join(keys) + ".", ""]


def bounds_all(row: Row, whole: int) -> bool:
    """Exact over everything, over a window, or at older weights."""
    mode = row["mode"]
    if mode == "full":
        return row["nodes"] == whole
    older = mode.startswith("sampled") and mode.endswith("steps older")
    return older or mode == "sampled epoch 2" or mode.startswith("full on a window")


def grid(rows: list[Row], checkpoints: Sequence[str]) -> list[str]:
    """One line per mode and number of nodes (online: per mode), one column per checkpoint."""
    lines: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        if row["checkpoint"] in checkpoints:
            one = row["mode"] == "sampled" or "online" in row["mode"]
            nodes = 0 if one or row["mode"].startswith("sampled, exact") else row["nodes"]
            lines.setdefault((row["mode"], nodes), {})[row["checkpoint"]] = row
    body = []
    for (mode, nodes), found in lines.items():
        cells = [
            ", ".join(
                number(found[at][key], ".2f") for key in ("edge_f1", "edge_f1_as_many", "pearson")
            )
            if at in found
            else ""
            for at in checkpoints
        ]
        groups = [
            number(found[at]["in_group_conflict"], ".3f")
            for at in checkpoints
            if at in found and at in TRAINED
        ]
        price = number(next(iter(found.values()))["cost_in_steps"], ".3g")
        body.append([mode, f"{nodes:,}" if nodes else "", price, *cells, " / ".join(groups)])
    return markdown(["mode", "nodes", "cost in steps", *checkpoints, "conflict in groups"], body)


def which_table() -> list[str]:
    record = read("which")
    return [
        f"### Which gradient? One model, {record['tasks']} tasks",
        "",
        *markdown(
            ["gradient", "against", "edge F1", "as many", "correlation", "edges (exact)"],
            (
                [
                    row["gradient"], row["against"], number(row["edge_f1"]),
                    number(row["edge_f1_as_many"]),
                    number(row["pearson"]), f"{row['edges']} ({row['exact_edges']})",
                ]
                for row in record["rows"]
            ),
        ),
    ]  # fmt: skip


def real_tables() -> list[str]:
    record = read("real")
    return [
        f"### {record['dataset']}: {record['nodes']:,} training nodes, tau {record['tau']:.3f}",
        "",
        *markdown(
            ["exact gradients by", "share of squared norm", "edge F1", "as many", "correlation"],
            (
                [
                    row["layer"], number(row["share_of_squared_norm"]), number(row["edge_f1"]),
                    number(row["edge_f1_as_many"]),
                    number(row["pearson"]),
                ]
                for row in record["layers"]
            ),
        ),
        *markdown(
            [
                "mode", "nodes", "cost / exact", "edge F1", "as many", "correlation",
                "conflict in groups",
            ],
            (
                [
                    row["mode"], f"{row['nodes']:,}", number(row["cost"], ".3g"),
                    number(row["edge_f1"]), number(row["edge_f1_as_many"]),
                    number(row["pearson"]), number(row["in_group_conflict"]),
                ]
                for row in sorted(record["rows"], key=lambda row: row["cost"])
            ),
        ),
        f"The exact measurement repeated with other neighbours: edge F1 "
        f"{number(record['noise']['edge_f1'])}, correlation {number(record['noise']['pearson'])}.",
        "",
    ]  # fmt: skip


def truth_table() -> list[str]:
    record = read("truth")
    return [
        f"### Pairs really trained: {len(record['gains'])} pairs, {len(record['seeds'])} seeds",
        "",
        *markdown(
            ["prediction", "rank correlation", "within a task", "same sign"],
            (
                [
                    row["method"], number(row["spearman"], ".2f"),
                    number(row["row_spearman"], ".2f"), number(row["sign_agreement"], ".2f"),
                ]
                for row in record["rows"]
            ),
        ),
        "Correlation of the real gains between two seeds: "
        f"{number(record['gain_correlation_between_seeds'], '.2f')}.",
        "",
    ]  # fmt: skip


def sources() -> list[str]:
    lines = ["### Where the numbers come from", ""]
    rows = [
        [part, "`gnn-mtl bench refresh --json`", read(part)["commit"][:10], "0"]
        for part in ("refresh", "refresh-500")
    ]
    for part in ("which", "real", "truth"):
        record = read(part)
        rows.append([part, f"`{record['command']}`", record["commit"][:10], "0"])
    rows[-1][-1] = "0, 1, 2"
    return [*lines, *markdown(["record", "command", "commit (working tree on)", "seeds"], rows)]


def main(argv: list[str]) -> int:
    if "--write" in argv:
        from frontier import frontier

        (HERE / "frontier.svg").write_text(frontier(read("refresh")["rows"]), encoding="utf-8")
    return print_or_write(tables(), HERE / "README.md", argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
