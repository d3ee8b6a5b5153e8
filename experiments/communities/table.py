"""The tables of README.md, made from ``records/`` alone.

python experiments/communities/table.py            # prints them
python experiments/communities/table.py --write    # puts them into README.md
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
CELLS = ("amazon100-v3", "dblp20-v2")
METHODS = (
    "joint", "joint_long", "single", "random", "higher_order", "gradtag_sdp", "coloring",
    "coloring_long", "label_propagation", "spectral_lr",
)  # fmt: skip
PREDICTORS = (
    "gradtag", "gradtag, untuned", "gradtag, pairs", "gradtag, all weights", "gradtag, long base",
    "gradtag, forward", "constant", "co-occurrence (phi)", "gradient cosine",
)  # fmt: skip
FLOOR = "trained with another seed"
Record = dict[str, Any]


def read_records(folder: Path = HERE / "records") -> dict[str, Record]:
    """Return the records by file name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def tables(records: dict[str, Record]) -> str:
    """Return all tables as Markdown; what has no record is said to be missing."""
    parts = ["### Scores on the test cells\n", *score_rows(records)]
    parts += ["\n### Predicted against trained subsets\n", *fidelity_rows(records)]
    parts += ["\n### 500 planted labels\n", *planted_rows(records)]
    return "\n".join(parts)


def score_rows(records: dict[str, Record]) -> list[str]:
    rows = [
        "| cell | method | AP | AUROC | F1 at .5 | AP, 8 labels | AUROC, 8 labels | models | seeds "
        "| s |",
        "|---|---|" + "---|" * 8,
    ]
    for cell in CELLS:
        for number, method in enumerate(METHODS):
            record = records.get(f"{cell}-{method}")
            name = f"`{cell}`" if number == 0 else ""
            if record is None:
                rows.append(f"| {name} | {method} | not run |" + " |" * 7)
                continue
            runs = record["runs"]
            whole = ["", "", ""]
            if method != "single":  # trained on the eight labels only
                whole = [mean_std([r["test"][m] for r in runs]) for m in ("ap", "auroc", "f1")]
            few = [mean_std([r["few"][m] for r in runs]) for m in ("ap", "auroc")]
            models = np.mean([r["cost"].get("inference_forwards", 0) for r in runs])
            seconds = np.mean([r["cost"]["seconds"] for r in runs])
            rows.append(
                f"| {name} | {method} | {' | '.join([*whole, *few])} | {models:.0f} | {len(runs)} "
                f"| {seconds:.0f} |"
            )
    return rows


def fidelity_rows(records: dict[str, Record]) -> list[str]:
    rows = [
        "| cell | score | predictor | distance | Spearman | distance, pairs | Spearman, pairs | "
        "unknown | s |",
        "|---|---|---|" + "---|" * 6,
    ]
    for cell in CELLS:
        record = records.get(f"{cell}-fidelity")
        if record is None:
            rows.append(f"| `{cell}` |  | not run |" + " |" * 6)
            continue
        last = None
        for row in with_floor(record["rows"]):
            name = f"`{cell}`" if last is None else ""
            score = row["metric"] if row["metric"] != last else ""
            last = row["metric"]
            values = [
                row.get(k) for k in ("distance", "spearman", "pair_distance", "pair_spearman")
            ]
            share = row.get("unknown")
            unknown = "" if share is None else f"{share:.0%}"
            seconds = "" if row.get("seconds") is None else f"{row['seconds']:.0f}"
            rows.append(
                f"| {name} | {score} | {row['predictor']} | {' | '.join(map(number, values))} | "
                f"{unknown} | {seconds} |"
            )
    return rows


def with_floor(rows: list[Record]) -> list[Record]:
    """Return the rows in order, those of single training seeds averaged into one per metric."""
    out = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == metric]
        out += [row for name in PREDICTORS for row in own if row["predictor"] == name]
        floor = [row for row in own if row["predictor"].startswith("trained")]
        if floor:
            keys = ("distance", "spearman", "pair_distance", "pair_spearman")
            means = {k: float(np.mean([row[k] for row in floor])) for k in keys}
            out.append({"metric": metric, "predictor": FLOOR, **means})
    return out


def planted_rows(records: dict[str, Record]) -> list[str]:
    record = records.get("planted500")
    if record is None:
        return ["not run"]
    seconds = record["seconds"]
    rows = ["| stage | s | CPU s |", "|---|---|---|"]
    rows += [f"| {name} | {wall:.0f} | {cpu:.0f} |" for name, (wall, cpu) in seconds.items()]
    totals = np.sum(list(seconds.values()), axis=0)
    rows.append(f"| the whole | {totals[0]:.0f} | {totals[1]:.0f} |")
    rows += ["", "| groups from | adjusted Rand index |", "|---|---|"]
    rows += [f"| {name} | {number(value)} |" for name, value in record["ari"].items()]
    rows += [
        "",
        f"{record['nodes']:,} nodes, {record['train_nodes']:,} of them train {record['tasks']} "
        f"labels; {record['subsets']:,} subsets, {record['dim']} directions; penalty "
        f"{record['lam']:g}; {record['unknown']:.0%} of the scores unknown; at most "
        f"{record['peak_rss_mb'] / 1000:.1f} GB.",
    ]
    return rows


def mean_std(values: list[float]) -> str:
    """Return mean ± unbiased standard deviation over the seeds; no ± for one."""
    spread = f" ± {number(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    return number(float(np.mean(values))) + spread


def number(value: float | None) -> str:
    if value is None:
        return ""
    sign = "-" if round(value, 3) < 0 else ""
    return sign + f"{abs(value):.3f}".removeprefix("0")


def main(argv: list[str]) -> int:
    return print_or_write(tables(read_records()), HERE / "README.md", argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
