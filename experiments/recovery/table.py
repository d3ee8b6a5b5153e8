"""The tables of README.md, made from ``records/`` and ``expected.json`` alone.

python experiments/recovery/table.py            # prints them
python experiments/recovery/table.py --write    # puts them into README.md
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from gnn_mtl.reports import between_marks as between_marks
from gnn_mtl.reports import print_or_write

HERE = Path(__file__).parent
ESTIMATORS = ("plain", "two halves", "eight blocks")
STATES = ("init", "half epoch", "1 epoch", "best")
MEASURED = ("plain", "eight blocks", "noise alone")
CHANCE = 0.01
"""A difference that noise alone would make at most as often counts as a difference."""
OFTEN = 0.95

Row = dict[str, Any]
Record = dict[str, Any]


def read_record(part: str, folder: Path = HERE / "records") -> Record:
    """Return a record with its tables as lists of rows."""
    record = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
    return {key: unpacked(value) for key, value in record.items()}


def unpacked(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"columns", "rows"}:
        return [dict(zip(value["columns"], row, strict=True)) for row in value["rows"]]
    return value


def tables(simulation: Record, network: Record, expected: Record) -> str:
    """Return all tables as Markdown."""
    parts = [
        "### What was stated, found again\n", *stated_rows(simulation, expected),
        "\n### Samples it takes\n", *needed_rows(simulation),
        "\n### What too few samples look like, at noise 16\n",
        "Shares of true edges found / of other pairs with an edge / of pairs unknown / of trials "
        "with the\nexact partition.\n", *few_rows(simulation),
        "\n### One pair, cosine -.6, whose samples share noise\n", *bias_rows(simulation, expected),
        "\n### A trained network: AUROC of pairs of one group\n", *auroc_rows(network),
        "\n### A trained network: the graph, on all training nodes\n", *graph_rows(network),
        "\n### Where the numbers come from\n", *source_rows(simulation, network),
    ]  # fmt: skip
    return "\n".join(parts)


# -- noisy vectors ---------------------------------------------------------------------------------


def stated_rows(simulation: Record, expected: Record) -> list[str]:
    rows = header("groups", "noise", "samples", "exact", "stated", "found", "agrees")
    for what in ("edges", "partition"):
        for goal in expected[what]:
            found = pick(
                simulation["recovery"], estimator="plain", dim=100,
                **{key: goal[key] for key in ("problem", "noise", "samples")},
            )[what]  # fmt: skip
            stated = goal["share"]
            rows.append(line(
                goal["problem"], number(goal["noise"]), goal["samples"], what,
                decimal(stated, 2), decimal(found), verdict(stated, found, simulation),
            ))  # fmt: skip
    return rows


def verdict(stated: float, found: float, simulation: Record) -> str:
    """Say whether both shares, over as many trials, may be of one probability."""
    trials = simulation["trials"]
    counts = [round(share * trials) for share in (stated, found)]
    chance = fisher_exact([[count, trials - count] for count in counts]).pvalue
    return "yes" if chance > CHANCE else "no"


def needed_rows(simulation: Record) -> list[str]:
    rows = header("groups", "noise", "dimensions", "exact", *ESTIMATORS, "bound / plain")
    bounds = {(b["problem"], b["noise"]): b["samples"] for b in simulation["bound"]}
    for problem, noise, dim in settings(simulation):
        for what in ("edges", "partition"):
            needed = [
                samples_needed(simulation, problem, noise, dim, each, what) for each in ESTIMATORS
            ]
            over = ""
            if what == "edges" and needed[0] is not None:
                over = f"{bounds[problem, noise] / needed[0]:.0f}"
            shown = ["more" if n is None else str(n) for n in needed]
            rows.append(line(problem, number(noise), dim, what, *shown, over))
    return rows


def samples_needed(
    simulation: Record, problem: str, noise: float, dim: int, estimator: str, what: str
) -> int | None:
    """Return the smallest number from which on it is exact in 95 of 100 trials; None if none."""
    found = [
        row for row in simulation["recovery"]
        if (row["problem"], row["noise"], row["dim"], row["estimator"])
        == (problem, noise, dim, estimator)
    ]  # fmt: skip
    needed = None
    for row in sorted(found, key=lambda row: -row["samples"]):
        if row[what] < OFTEN:
            break
        needed = row["samples"]
    return needed


def few_rows(simulation: Record) -> list[str]:
    kept = ("found", "false", "unknown", "partition")
    rows = header("groups", "dimensions", "samples", *ESTIMATORS)
    for problem, noise, dim in settings(simulation):
        if noise != 16.0:
            continue
        for samples in (4, 8, 16, 32):
            cells = []
            for estimator in ESTIMATORS:
                row = pick(
                    simulation["recovery"], problem=problem, noise=noise, dim=dim,
                    samples=samples, estimator=estimator,
                )  # fmt: skip
                cells.append(" / ".join(decimal(row[k], 2) for k in kept))
            rows.append(line(problem, dim, samples, *cells))
    return rows


def bias_rows(simulation: Record, expected: Record) -> list[str]:
    rows = header("shared noise", "estimator", "stated", "found", "agrees")
    goals = {(goal["shared"], goal["estimator"]): goal for goal in expected["bias"]}
    for row in simulation["bias"]:
        goal = goals.get((row["shared"], row["estimator"]))
        found = f"{decimal(row['mean'])} ± {decimal(row['std'])}"
        stated = agrees = ""
        if goal is not None:
            stated = decimal(goal["mean"]) + (f" ± {decimal(goal['std'])}" if "std" in goal else "")
            # the stated mean is rounded, and a mean over as many trials itself
            error = 2.6 * row["std"] * (2 / simulation["trials"]) ** 0.5 + 0.0005
            agrees = "yes" if abs(goal["mean"] - row["mean"]) <= error else "no"
        rows.append(line(decimal(row["shared"], 1), row["estimator"], stated, found, agrees))
    return rows


def settings(simulation: Record) -> Iterable[tuple[str, float, int]]:
    """Return the problems, noises and dimensions, each once, in the order they were run."""
    return dict.fromkeys((r["problem"], r["noise"], r["dim"]) for r in simulation["recovery"])


# -- a trained network -----------------------------------------------------------------------------


def auroc_rows(network: Record) -> list[str]:
    """Return how well pairs of one group rank above the others, by what they are ranked by."""
    columns = [f"{number} nodes" for number in dict.fromkeys(nodes for _, nodes in sizes(network))]
    rows = header("groups", "by", *columns)
    for groups in dict.fromkeys(groups for groups, _ in sizes(network)):
        for state, estimator in [("-", "phi"), *itertools.product(STATES, MEASURED)]:
            cells = [
                spread(chosen(network, groups, nodes, state, estimator), "same_auroc")
                for each, nodes in sizes(network) if each == groups
            ]  # fmt: skip
            rows.append(line(groups, named(state, estimator), *cells))
    return rows


def named(state: str, estimator: str) -> str:
    return estimator if state == "-" else f"{state}, {estimator}"


def graph_rows(network: Record) -> list[str]:
    """Return what becomes of the conflict graph, its colours and the clusters."""
    rows = header(
        "groups", "by", "valid AP", "edges at .25 (right)", "colours, ARI",
        "F1 of as many edges as are true", "clusters, ARI", "unknown",
    )  # fmt: skip
    for groups, nodes in sizes(network):
        if nodes != max(each for _, each in sizes(network)):
            continue
        cases = [("-", "phi"), *itertools.product(STATES, MEASURED[:2])]
        for state, estimator in cases:
            found = chosen(network, groups, nodes, state, estimator)
            ap = "" if state == "-" else spread(found, "valid_ap")
            edges, right = (np.mean([row[k] for row in found]) for k in ("edges", "edges_right"))
            rows.append(line(
                groups, named(state, estimator), ap,
                f"{edges:.1f} ({right:.1f})", spread(found, "colors_ari"),
                spread(found, "f1_as_many"), spread(found, "clusters_ari"),
                decimal(np.mean([row["unknown"] for row in found]), 2),
            ))  # fmt: skip
    return rows


def sizes(network: Record) -> list[tuple[int, int]]:
    return list(dict.fromkeys((row["groups"], row["nodes"]) for row in network["rows"]))


def chosen(network: Record, groups: int, nodes: int, state: str, estimator: str) -> list[Row]:
    """Return the rows of all seeds, of gradients by all shared parameters."""
    wanted = {"groups": groups, "nodes": nodes, "state": state, "estimator": estimator}
    return [
        row for row in network["rows"]
        if row["gradients"] != "last_layer" and wanted.items() <= row.items()
    ]  # fmt: skip


def source_rows(*records: Record) -> list[str]:
    rows = header("part", "spread", "commit", "changed since", "hardware", "CPU seconds, one core")
    for name, what, record in zip(
        ("simulation", "network"),
        ("200 trials: a share is within .035 of itself (one standard error at most)",
         "mean ± standard deviation over 5 seeds of graph, model and nodes"),
        records, strict=True,
    ):  # fmt: skip
        about = record["about"]
        changed = "yes" if about["dirty"] else "no"
        rows.append(line(
            f"`records/{name}.json`", what, f"`{about['commit'][:10]}`", changed,
            about["hardware"], f"{about['cpu_seconds']:.0f}",
        ))  # fmt: skip
    return rows


# -- rows ------------------------------------------------------------------------------------------


def pick(rows: Iterable[Row], **values: Any) -> Row:
    (row,) = [row for row in rows if all(row[key] == value for key, value in values.items())]
    return row


def header(*names: str) -> list[str]:
    return [line(*names), "|" + "---|" * len(names)]


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def spread(rows: list[Row], name: str) -> str:
    values = [row[name] for row in rows]
    return f"{decimal(np.mean(values), 2)} ± {decimal(np.std(values, ddof=1), 2)}"


def number(value: float) -> str:
    return f"{value:g}"


def decimal(value: float, digits: int = 3) -> str:
    """Return a number without the zero before its point."""
    text = f"{value + 0.0:.{digits}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def main(argv: list[str]) -> int:
    expected = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
    return print_or_write(
        tables(read_record("simulation"), read_record("network"), expected),
        HERE / "README.md",
        argv,
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
