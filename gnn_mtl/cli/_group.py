"""``gnn-mtl group``: from an affinity file to groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gnn_mtl.cli._parse import parse
from gnn_mtl.grouping import group_tasks
from gnn_mtl.tasks import Affinity


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the grouping."""

    affinity: Annotated[Path, tyro.conf.Positional]
    """File written by `gnn-mtl affinity`."""
    method: Literal["coloring"] = "coloring"
    """Colour the conflict graph."""
    tau: float = 0.25
    """Tolerance: tasks conflict where their cosine is below -tau."""
    coloring: Literal["welsh_powell", "dsatur"] = "dsatur"
    """Order in which tasks are coloured."""
    out: Path = Path("groups.json")
    """File to write."""


def run(argv: Sequence[str]) -> int:
    """Group, write the file and print the groups."""
    options = parse(Options, argv, "group", "Group the tasks of an affinity file.")
    affinity = Affinity.load(options.affinity).symmetrized()
    groups = group_tasks(
        affinity, method=options.method, tau=options.tau, coloring=options.coloring
    )
    groups.save(options.out, label_names=affinity.label_names)
    names = affinity.label_names or tuple(map(str, range(affinity.num_tasks)))
    for number, group in enumerate(groups.groups):
        print(f"group {number} ({len(group)}): {', '.join(names[t] for t in group)}")
    print(f"groups: {options.out}\nnext:   gnn-mtl train --groups {options.out}")
    return 0
