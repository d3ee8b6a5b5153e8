"""The tables of README.md, made from ``records/`` and ``expected.json`` alone.

python experiments/groups-in-models/table.py            # prints them
python experiments/groups-in-models/table.py --write    # puts them into README.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnn_mtl.reports import between_marks as between_marks
from gnn_mtl.reports import print_or_write

HERE = Path(__file__).parent
PARTS = ("planted", "recovery", "debian-tags")
UNITS = (
    "joint", "adapters", "branches", "whole_branches", "separate", "fork_merge", "cross_learning",
    "dmtg", "random_adapters", "random_branches", "random_separate", "cooccurrence", "data_maps",
)  # fmt: skip
PAIRED = ("adapters, rank 8", "branches on a stem", "separate")

TRAINED_ON = ("fine-tuned from joint", "fine-tuned, merged: average", "DMTG, pruned and trained on")
SCORED = ("valid", "test")

Record = dict[str, Any]
Row = dict[str, Any]


def read_records(folder: Path = HERE / "records") -> list[Record]:
    """Return the records, in the order of the tables."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    return sorted(records, key=lambda r: (PARTS.index(r["part"]), UNITS.index(r["unit"])))


def ways(records: Sequence[Record], part: str) -> dict[tuple[str, str], dict[int, Row]]:
    """Return the rows of a part by way and whose groups it was given, then by seed."""
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for record in records:
        if record["part"] != part:
            continue
        given = "random" if record["unit"].startswith("random_") else "given"
        for run in record["runs"]:
            for row in run["rows"]:
                found.setdefault((row["way"], given), {})[run["seed"]] = row
    return found


def tables(records: Sequence[Record], expected: Record) -> str:
    """Return all tables as Markdown."""
    parts = [
        "### Planted groups, the true ones given\n", *score_rows(records, "planted"),
        "\n### Planted groups: each way less its control\n", *control_rows(records, "planted"),
        "\n### Planted groups, learned: adjusted Rand index with the true ones\n",
        *recovery_rows(records),
        "\n### debian-tags, groups by label correlation\n", *score_rows(records, "debian-tags"),
        "\n### debian-tags: each way less its control\n",
        *control_rows(records, "debian-tags"),
        "\n### What was stated, found again\n", *stated_rows(records, expected),
        "\n### Where the numbers come from\n", *source_rows(records),
    ]  # fmt: skip
    return "\n".join(parts)


def score_rows(records: Sequence[Record], part: str) -> list[str]:
    rows = header(
        "way", "groups", "valid AP", "test AP", "less joint's", "parameters", "forwards",
        "MFLOP a node", "steps", "label-gradients",
    )  # fmt: skip
    found = ways(records, part)
    joint = found.get(("joint", "given"), {})
    for (way, given), runs in found.items():
        valid, test = ([run[f"{s}_ap"] for run in runs.values()] for s in SCORED)
        less = "" if way == "joint" else difference(runs, joint)
        costs = [mean(runs, key) for key in ("parameters", "forwards", "steps", "label_gradients")]
        rows.append(line(
            way, whose(way, given), spread(valid), spread(test), less, f"{costs[0]:,.0f}",
            f"{costs[1]:.0f}", decimal(mean(runs, "mflops_per_node")), f"{costs[2]:,.0f}",
            f"{costs[3]:,.0f}",
        ))  # fmt: skip
    return rows


def whose(way: str, given: str) -> str:
    """Return which groups a way was told."""
    if way.startswith("joint"):
        return "none"
    return "its own" if way.startswith("DMTG") else given


def control_rows(records: Sequence[Record], part: str) -> list[str]:
    rows = header("way", "less", "valid AP", "test AP")
    found = ways(records, part)
    pairs = [((way, "given"), (way, "random")) for way in PAIRED]
    pairs += [((way, "given"), ("joint, trained on", "given")) for way in TRAINED_ON]
    for one, other in pairs:
        if one in found and other in found:
            both = found[one], found[other]
            name = "with random groups" if other[1] == "random" else other[0]
            rows.append(line(one[0], name, *(difference(*both, f"{s}_ap") for s in SCORED)))
    return rows


def recovery_rows(records: Sequence[Record]) -> list[str]:
    found = ways(records, "recovery")
    seeds = sorted({seed for runs in found.values() for seed in runs})
    rows = header("groups by", *(f"seed {seed}" for seed in seeds), "mean", "sizes")
    for (way, _), runs in found.items():
        shown = [decimal(runs[seed]["ari"], 2) for seed in seeds]
        sizes = "; ".join(", ".join(map(str, runs[seed]["sizes"])) for seed in seeds)
        rows.append(line(way, *shown, spread([run["ari"] for run in runs.values()], 2), sizes))
    return rows


def stated_rows(records: Sequence[Record], expected: Record) -> list[str]:
    rows = header("stated", "found", "holds")
    for claim in expected["claims"]:
        if not ways(records, claim["part"]):
            continue
        low, high = measured(records, claim)
        holds = claim.get("at_least", -np.inf) <= low and high <= claim.get("at_most", np.inf)
        shown = signed(low) if low == high else f"{signed(low)} to {signed(high)}"
        rows.append(line(claim["claim"], shown, "yes" if holds else "no"))
    return rows


def measured(records: Sequence[Record], claim: Record) -> tuple[float, float]:
    """Return the smallest and largest number that a claim speaks of."""
    found = ways(records, claim["part"])
    if claim["of"] == "ari":
        values = [run["ari"] for run in found[claim["ways"][0], "given"].values()]
    else:
        joint = found["joint", "given"]
        values = [float(np.mean(differences(found[way, "given"], joint))) for way in claim["ways"]]
    return round(min(values), 3), round(max(values), 3)


def source_rows(records: Sequence[Record]) -> list[str]:
    rows = header(
        "part", "spread", "epochs", "commit", "changed since", "hardware", "CPU seconds, one core"
    )
    for part in PARTS:
        those = [record for record in records if record["part"] == part]
        runs = [run for record in those for run in record["runs"]]
        if not runs:
            continue
        seeds = len({run["seed"] for run in runs})
        over = f"{seeds} seeds, mean ± std" if seeds > 1 else "one seed"
        commits = ", ".join(f"`{c[:10]}`" for c in sorted({run["commit"] for run in runs}))
        more = those[0]["more_epochs"]
        rows.append(line(
            f"`records/{part}-*.json`", over, f"{those[0]['epochs']}{f' + {more}' if more else ''}",
            commits, "yes" if any(run["dirty"] for run in runs) else "no",
            ", ".join(sorted({run["hardware"] for run in runs})),
            f"{sum(run['cpu_seconds'] for run in runs):.0f}",
        ))  # fmt: skip
    return rows


# -- numbers ---------------------------------------------------------------------------------------


def differences(runs: dict[int, Row], other: dict[int, Row], key: str = "test_ap") -> list[float]:
    """Return a way less another, seed by seed."""
    return [runs[seed][key] - other[seed][key] for seed in runs if seed in other]


def difference(runs: dict[int, Row], other: dict[int, Row], key: str = "test_ap") -> str:
    """Return mean ± std over the seeds of a way less another."""
    values = differences(runs, other, key)
    return spread(values, sign=True) if values else ""


def mean(runs: dict[int, Row], key: str) -> float:
    return float(np.mean([run[key] for run in runs.values()]))


def spread(values: Sequence[float], digits: int = 3, *, sign: bool = False) -> str:
    """Return mean ± unbiased standard deviation over the seeds; no ± for one."""
    show = signed if sign else decimal
    after = f" ± {decimal(float(np.std(values, ddof=1)), digits)}" if len(values) > 1 else ""
    return show(float(np.mean(values)), digits) + after


def signed(value: float, digits: int = 3) -> str:
    shown = decimal(value, digits)
    return shown if value <= 0 or not float(shown) else f"+{shown}"


def decimal(value: float, digits: int = 3) -> str:
    shown = f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"
    return shown.removeprefix("-") if not float(shown) else shown


def header(*names: str) -> list[str]:
    return [line(*names), "|" + "---|" * len(names)]


def line(*values: object) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


def main(argv: list[str]) -> int:
    expected = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
    return print_or_write(tables(read_records(), expected), HERE / "README.md", argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
