"""Planted task groups under noise: when does the conflict graph of the gradients find them?

    python experiments/recovery/run.py                     # both parts, about ten minutes
    python experiments/recovery/run.py --part simulation   # noisy vectors
    python experiments/recovery/run.py --part network      # a trained GraphSAGE
    python experiments/recovery/run.py --smoke --records /tmp/smoke

Each part writes one file into ``--records``, from which ``table.py`` makes the README.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # products are small: threads would wait in turn

import torch
from network import network
from simulation import simulation

from gnn_mtl.records import manifest

HERE = Path(__file__).parent
PARTS = {"simulation": simulation, "network": network}


def packed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rows as one list of names and one list of values each."""
    return {"columns": list(rows[0]), "rows": [list(row.values()) for row in rows]}


def write(folder: Path, part: str, record: dict[str, Any], cpu_seconds: float) -> None:
    """Write what a part found, a row a line, and where it comes from."""
    made = manifest(dataset={"name": part}, seed=0)
    about = {key: made[key] for key in ("created", "commit", "dirty", "packages")}
    about |= {"hardware": made["hardware"]["cpu"], "cpu_seconds": round(cpu_seconds, 1)}
    tables = {
        name: packed(value) if isinstance(value, list) else value for name, value in record.items()
    }
    text = json.dumps({"about": about, **tables}, allow_nan=False)
    text = text.replace("], [", "],\n [").replace('"rows": [[', '"rows": [\n [')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{part}.json").write_text(text + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=list(PARTS), default=None, help="one part only")
    parser.add_argument("--records", type=Path, default=HERE / "records")
    parser.add_argument("--smoke", action="store_true", help="few trials, a tiny graph")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for part, call in PARTS.items():
        if args.part in (None, part):
            started = time.process_time()
            record = call(args.smoke)
            write(args.records, part, record, time.process_time() - started)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
