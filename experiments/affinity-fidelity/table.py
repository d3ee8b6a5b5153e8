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

HERE = Path(__file__).parent
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
CHECKPOINTS = ("init", "epoch 1", "best")
LIGHT = {"ink": "#1c1c1c", "muted": "#5c5c5c", "line": "#cccccc", "surface": "#ffffff"}
COLORS = (
    "#3b6fb5", "#d1572e", "#2c8a57", "#8a5fb0", "#b8901c", "#3aa0a8", "#b5417a", "#777777",
)  # fmt: skip

Row = dict[str, Any]


def read(part: str) -> dict[str, Any]:
    return json.loads((HERE / "records" / f"{part}.json").read_text(encoding="utf-8"))


def tables() -> str:
    """Return all tables as Markdown."""
    parts = ["", *refresh_tables(), *which_table(), *real_tables(), *truth_table(), *sources(), ""]
    return "\n".join(parts)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def refresh_tables() -> list[str]:
    record = read("refresh")
    out = ["### The planted graph, 112 tasks: edge F1 (correlation of cosines)", ""]
    of_112 = [row for row in record["rows"] if row["tasks"] == 112]
    out += grid(of_112, CHECKPOINTS)
    of_500 = [row for row in record["rows"] if row["tasks"] == 500]
    if of_500:
        out += ["### The same with 500 tasks, best checkpoint", "", *grid(of_500, ("best",))]
    keys = [f"`{key}` {number(value, '.3g')}" for key, value in record["ratios"].items()]
    return [*out, "Ratios: " + ", ".join(keys) + ".", ""]


def grid(rows: list[Row], checkpoints: Sequence[str]) -> list[str]:
    """One line per mode and number of nodes (online: per mode), one column per checkpoint."""
    lines: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        one = row["mode"] == "sampled" or "online" in row["mode"]
        nodes = 0 if one or row["mode"].startswith("sampled,") else row["nodes"]
        lines.setdefault((row["mode"], nodes), {})[row["checkpoint"]] = row
    body = []
    for (mode, nodes), found in lines.items():
        any_row = next(iter(found.values()))
        cells = [
            ""
            if at not in found
            else f"{number(found[at]['edge_f1'])} ({number(found[at]['pearson'], '.2f')})"
            for at in checkpoints
        ]
        price = number(any_row["cost_in_steps"], ".3g")
        body.append([mode, f"{nodes:,}" if nodes else "", price, *cells])
    return markdown(["mode", "nodes", "cost in steps", *checkpoints], body)


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
    rows = [["refresh", "`gnn-mtl bench refresh --json`", read("refresh")["commit"][:10], "0"]]
    for part in ("which", "real", "truth"):
        record = read(part)
        rows.append([part, f"`{record['command']}`", record["commit"][:10], "0"])
    rows[-1][-1] = "0, 1, 2"
    return [*lines, *markdown(["record", "command", "commit (working tree on)", "seeds"], rows)]


def between_marks(text: str) -> str:
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)]


def plot() -> str:
    """Return the frontier at the worse trained checkpoint as a stand-alone SVG."""
    from gnn_mtl.reports import frontier_figure

    groups: dict[tuple[str, int], list[Row]] = {}
    for row in read("refresh")["rows"]:
        skip = row["mode"].startswith(("sampled", "all"))
        if row["tasks"] == 112 and row["checkpoint"] != "init" and not skip:
            key = (row["mode"], 0 if "online" in row["mode"] else row["nodes"])
            groups.setdefault(key, []).append(row)
    worst = [
        min(both, key=lambda row: row["edge_f1"] or 0.0)
        for both in groups.values()
        if len(both) == 2
    ]
    svg = frontier_figure(
        worst, "frontier", cost="cost_in_steps", unit="cost of a refresh in training steps"
    )
    variables = "".join(f"--{name}:{value};" for name, value in LIGHT.items())
    variables += "".join(f"--m{i}:{value};" for i, value in enumerate(COLORS))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" style="{variables}background:#ffffff" '
    return svg.replace("<svg ", head, 1) + "\n"


def main() -> None:
    text = tables()
    if "--write" not in sys.argv[1:]:
        print(text)
        return
    readme = HERE / "README.md"
    old = readme.read_text(encoding="utf-8")
    head, tail = old[: old.index(BEGIN) + len(BEGIN)], old[old.index(END) :]
    readme.write_text(head + text + tail, encoding="utf-8")
    (HERE / "frontier.svg").write_text(plot(), encoding="utf-8")


if __name__ == "__main__":
    main()
