"""The tables of README.md, made from ``records/`` and ``expected.json`` alone.

python experiments/baselines/table.py            # prints them
python experiments/baselines/table.py --write    # puts them into README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gnn_mtl.reports import between_marks as between_marks
from gnn_mtl.reports import print_or_write

HERE = Path(__file__).parent
COLUMNS = {
    "ap": "AP", "auroc": "AUROC", "f1": "F1 at .5", "f1_true_k_micro": "micro-F1 true k",
    "f1_true_k_all": "macro-F1 true k",
}  # fmt: skip
ORDER = {
    "method": (
        "sage", "sage_structural", "sage_netmf", "sage_labels", "spectral_lr", "netmf_lr",
        "label_propagation",
    ),
    "dataset": ("blogcatalog", "ppi_homo", "pcg", "dblp100"),
}  # fmt: skip
COMPARED = ("sage", "sage_structural", "sage_netmf", "spectral_lr", "netmf_lr")

Record = dict[str, Any]


def read_records(folder: Path = HERE / "records") -> list[Record]:
    """Return the records, in the order of the table."""
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]

    def place(record: Record) -> tuple[Any, ...]:
        known = [
            order.index(record[key]) if record[key] in order else len(order)
            for key, order in ORDER.items()
        ]
        return known[1], record["dataset"], record["protocol"], known[0], record["method"]

    return sorted(records, key=place)


def tables(records: list[Record], targets: dict[str, list[Record]]) -> str:
    """Return all tables as Markdown."""
    parts = ["### Scores on the test nodes\n", *score_rows(records)]
    parts += ["\n### The defaults against what is to be reached\n", *verdict_rows(records, targets)]
    return "\n".join(parts)


def score_rows(records: list[Record]) -> list[str]:
    rows = [
        f"| cell | method | {' | '.join(COLUMNS.values())} | seeds | s |",
        "|---|---|" + "---|" * (len(COLUMNS) + 2),
    ]
    last = None
    for record in records:
        cell = cell_of(record)
        scores = [mean_std(record, metric) for metric in COLUMNS]
        seconds = np.mean([run["cost"]["seconds"] for run in record["runs"]])
        shown = f"`{cell}`" if cell != last else ""
        rows.append(
            f"| {shown} | {record['method']} | {' | '.join(scores)} | {len(record['runs'])} | "
            f"{seconds:.0f} |"
        )
        last = cell
    return rows


def verdict_rows(records: list[Record], targets: dict[str, list[Record]]) -> list[str]:
    found = {(cell_of(record), record["method"]): record for record in records}
    rows = [
        f"| cell | score | to reach | whose | {' | '.join(COMPARED)} | the defaults |",
        "|---|---|---|---|" + "---|" * (len(COMPARED) + 1),
    ]
    for cell, goals in targets.items():
        for goal in goals:
            metric, value = goal["metric"], goal["value"]
            ours = {name: found.get((cell, name)) for name in COMPARED}
            if ours["sage"] is None:
                continue
            shown = ["" if r is None else decimal(mean(r, metric)) for r in ours.values()]
            rows.append(
                f"| `{cell}` | {COLUMNS[metric]} | {decimal(value)} | {goal['source']} | "
                f"{' | '.join(shown)} | {verdict(ours['sage'], metric, value)} |"
            )
    return rows


def verdict(record: Record, metric: str, value: float) -> str:
    """Return whether the defaults reach a value, as it is printed, to three decimals."""
    short = round(round(value, 3) - round(mean(record, metric), 3), 3)
    if short <= 0:
        return "reached"
    values = numbers(record, metric)
    is_noise = len(values) > 1 and short <= round(float(np.std(values, ddof=1)), 3)
    return f"short by {decimal(short)}{', within one std' if is_noise else ''}"


def cell_of(record: Record) -> str:
    return f"{record['dataset']}-{record['protocol']}"


def numbers(record: Record, metric: str) -> list[float]:
    return [run["test"][metric] for run in record["runs"]]


def mean(record: Record, metric: str) -> float:
    return float(np.mean(numbers(record, metric)))


def mean_std(record: Record, metric: str) -> str:
    """Return mean ± unbiased standard deviation over the seeds; no ± for one."""
    values = numbers(record, metric)
    spread = f" ± {decimal(np.std(values, ddof=1))}" if len(values) > 1 else ""
    return decimal(mean(record, metric)) + spread


def decimal(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def main(argv: list[str]) -> int:
    targets = json.loads((HERE / "expected.json").read_text())["targets"]
    return print_or_write(tables(read_records(), targets), HERE / "README.md", argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
