"""The tables of README.md, made from ``records/`` alone.

python experiments/aggregators-in-groups/table.py            # prints them
python experiments/aggregators-in-groups/table.py --write    # puts them into README.md
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from run import DATASETS, METHODS, SEEDS
from scipy.stats import t as student

from gnn_mtl.reports import between_marks as between_marks
from gnn_mtl.reports import print_or_write

HERE = Path(__file__).parent
BASE = "coloring"
WITHOUT_GROUPS = ("joint+nash_mtl", "joint")
LEVEL = 0.95

Run = dict[str, Any]
Record = dict[str, Any]
Records = dict[tuple[str, str], Record]


def read_records(folder: Path = HERE / "records") -> Records:
    """Return the records by dataset and method."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    return {(record["dataset"], record["method"]): record for record in records}


def tables(records: Records) -> str:
    """Return all tables as Markdown; what has no record is said to be missing."""
    parts: list[str] = []
    for dataset in DATASETS:
        parts += [f"### {dataset}\n", *score_rows(records, dataset), ""]
    parts += [
        "### Against SON-GOKU alone, and without groups\n",
        *verdict_rows(records),
        "",
        rule(records),
        "",
    ]
    parts += ["### Where the numbers come from\n", *source_rows(records), *commands(records)]
    return "\n".join(parts)


def score_rows(records: Records, dataset: str) -> list[str]:
    rows = header(
        "method", "seeds", "test AP", "test AUROC", "AP less `coloring`", "labels won / lost",
        "steps", "best at", "groups", "label-gradients", "refreshes", "Gramians", "CPU s",
        "over `coloring`",
    )  # fmt: skip
    base = runs_of(records, dataset, BASE)
    for method in METHODS:
        runs = runs_of(records, dataset, method)
        if not runs:
            rows.append(line(method, "not run", *[""] * 12))
            continue
        made = list(runs.values())
        seeds = str(len(made)) if len(made) == len(SEEDS) else f"{len(made)} of {len(SEEDS)}"
        against = ["", ""]
        if method != BASE and runs.keys() & base.keys():
            won, lost = labels_won(runs, base)
            against = [spread(differences(runs, base), sign=True), f"{won} / {lost}"]
        rows.append(line(
            method, seeds, *(spread([run["test"][m] for run in made]) for m in ("ap", "auroc")),
            *against, count(made, cost("steps")), f"{mean(made, best_share):.0%}",
            f"{mean(made, lambda run: run['mean_groups']):.1f}",
            count(made, cost("label_gradients")), count(made, refresh_gradients),
            count(made, gramian_gradients),
            f"{np.median([cpu_seconds(run) for run in made]):.0f}",
            f"{cpu_ratio(runs, base):.1f}" if runs.keys() & base.keys() else "",
        ))  # fmt: skip
    return rows


def pairs() -> list[tuple[str, str]]:
    """Return what is compared with what."""
    return [*((method, BASE) for method in METHODS if method != BASE), WITHOUT_GROUPS]


def verdict_rows(records: Records) -> list[str]:
    rows = header("method", "less", *DATASETS, "runs ahead")
    for method, base in pairs():
        found = [compared(records, dataset, method, base) for dataset in DATASETS]
        every = [value for values in found for value in values]
        ahead = f"{sum(value > 0 for value in every)} of {len(every)}" if every else ""
        rows.append(line(method, base, *(judged(values) for values in found), ahead))
    return rows


def rule(records: Records) -> str:
    """Say how it was judged, and how many such verdicts chance alone would give."""
    found = [compared(records, dataset, *pair) for dataset in DATASETS for pair in pairs()]
    verdicts = [verdict(values) for values in found if len(values) == len(SEEDS)]
    told = sum(one in ("better", "worse") for one in verdicts)
    at = student.ppf((1 + LEVEL) / 2, len(SEEDS) - 1)
    chance = round((1 - LEVEL) * len(verdicts), 1)
    return (
        f"*Better* or *worse*: the {LEVEL:.0%} interval of the difference of test AP, paired by "
        f"seed, leaves out 0: mean ± {at:.2f} standard errors (se) at {len(SEEDS)} seeds. All else "
        f"is *no difference* beyond noise. {told} of {len(verdicts)} comparisons are either; about "
        f"{chance:g} would be by chance alone. *Runs ahead*: over all columns and seeds."
    )


def source_rows(records: Records) -> list[str]:
    rows = header(
        "dataset", "runs", "joint steps", "budget", "label-gradients of a run", "commit",
        "changed since", "data, SHA-256", "hardware", "CPU minutes",
    )  # fmt: skip
    for dataset in DATASETS:
        those = [records[dataset, m] for m in METHODS if (dataset, m) in records]
        runs = [run for record in those for run in record["runs"]]
        if not runs:
            rows.append(line(dataset, "none", *[""] * 8))
            continue
        steps = sorted({record["joint_steps"] for record in those})
        budgets = (number * len(runs[0]["per_label_ap"]) for number in steps)
        spent = [run["cost"]["label_gradients"] for run in runs]
        rows.append(line(
            dataset, f"{len(runs)} of {len(METHODS) * len(SEEDS)}", listed(steps),
            listed(f"{budget:,}" for budget in budgets), f"{min(spent):,.0f} to {max(spent):,.0f}",
            listed(f"`{run['commit'][:10]}`" for run in runs),
            "yes" if any(run["dirty"] for run in runs) else "no",
            listed(f"`{run['dataset_sha256'][:10]}`" for run in runs),
            listed(run["hardware"] for run in runs), f"{sum(map(cpu_seconds, runs)) / 60:.0f}",
        ))  # fmt: skip
    return rows


def commands(records: Records) -> list[str]:
    """Return the command lines of the runs, as a block."""
    found = sorted({run["command"] for record in records.values() for run in record["runs"]})
    return ["\n```console", *(f"python {command}" for command in found), "```"] if found else []


# -- comparisons -----------------------------------------------------------------------------------


def runs_of(records: Records, dataset: str, method: str) -> dict[int, Run]:
    """Return the runs by seed; none where there is no record."""
    record = records.get((dataset, method), {"runs": []})
    return {run["seed"]: run for run in record["runs"]}


def compared(records: Records, dataset: str, method: str, base: str = BASE) -> list[float]:
    """Return a method's test AP less another's, seed by seed."""
    return differences(runs_of(records, dataset, method), runs_of(records, dataset, base))


def differences(runs: dict[int, Run], base: dict[int, Run]) -> list[float]:
    seeds = sorted(runs.keys() & base.keys())
    return [runs[seed]["test"]["ap"] - base[seed]["test"]["ap"] for seed in seeds]


def labels_won(runs: dict[int, Run], base: dict[int, Run]) -> tuple[int, int]:
    """Return how many labels have a better and a worse AP, mean over the seeds both have."""
    seeds = sorted(runs.keys() & base.keys())
    ours, theirs = (
        np.mean([np.array(those[seed]["per_label_ap"], dtype=float) for seed in seeds], axis=0)
        for those in (runs, base)
    )
    return int((ours > theirs).sum()), int((ours < theirs).sum())


def verdict(values: Sequence[float]) -> str:
    """Return what paired differences say: better, worse, no difference, or open."""
    if len(values) < len(SEEDS):
        return "open" if values else "not run"
    center, error = float(np.mean(values)), standard_error(values)
    if abs(center) <= student.ppf((1 + LEVEL) / 2, len(values) - 1) * error or center == 0:
        return "no difference"
    return "better" if center > 0 else "worse"


def judged(values: Sequence[float]) -> str:
    """Return the verdict with the numbers behind it."""
    said = verdict(values)
    if said == "open":
        return f"open, {len(values)} of {len(SEEDS)} seeds"
    if said == "not run":
        return said
    center, error = float(np.mean(values)), standard_error(values)
    errors = f"{abs(center) / error:.1f} se" if error else "0 se"
    return f"{said} ({signed(center)}, {errors})"


def standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


# -- numbers ---------------------------------------------------------------------------------------


def cost(key: str) -> Callable[[Run], float]:
    return lambda run: run["cost"][key]


def cpu_seconds(run: Run) -> float:
    return run["cpu_seconds"]


def best_share(run: Run) -> float:
    return run["best_step"] / run["cost"]["steps"]


def refresh_gradients(run: Run) -> float:
    """Label-gradients measured for the groups: all labels at every refresh."""
    return run["cost"]["refreshes"] * len(run["per_label_ap"])


def gramian_gradients(run: Run) -> float:
    """Label-gradients measured for Gramians: those that no refresh measured."""
    return run["cost"]["probe_label_gradients"] - refresh_gradients(run)


def cpu_ratio(runs: dict[int, Run], base: dict[int, Run]) -> float:
    """Return the median over seeds: the first run of a process pays for what is compiled."""
    seeds = runs.keys() & base.keys()
    return float(np.median([cpu_seconds(runs[seed]) / cpu_seconds(base[seed]) for seed in seeds]))


def mean(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return float(np.mean([value(run) for run in runs]))


def count(runs: Sequence[Run], value: Callable[[Run], float]) -> str:
    return f"{mean(runs, value):,.0f}"


def spread(values: Sequence[float], *, sign: bool = False) -> str:
    """Return mean ± unbiased standard deviation over the seeds; no ± for one."""
    after = f" ± {decimal(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    return (signed if sign else decimal)(float(np.mean(values))) + after


def signed(value: float) -> str:
    shown = decimal(value)
    return shown if value <= 0 or not float(shown) else f"+{shown}"


def decimal(value: float) -> str:
    shown = f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"
    return shown.removeprefix("-") if not float(shown) else shown


def listed(values: Iterable[object]) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def header(*names: str) -> list[str]:
    return [line(*names), "|" + "---|" * len(names)]


def line(*values: object) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


def main(argv: list[str]) -> int:
    return print_or_write(tables(read_records()), HERE / "README.md", argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
