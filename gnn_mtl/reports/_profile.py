"""``build_profile``: one self-contained HTML page about a dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gnn_mtl._core.files import write_text
from gnn_mtl.datasets import (
    CatalogEntry,
    LocalCopy,
    SampleOverlap,
    TaskGraph,
    describe,
    distributions,
    sample_overlap,
)
from gnn_mtl.reports._profile_figures import (
    PART_COLORS,
    alike_labels,
    degrees,
    label_sizes,
    labels_per_node,
    labels_to_draw,
)
from gnn_mtl.reports._svg import method_variable
from gnn_mtl.reports._templates import render_page

CLOSE = 0.9
FLAG_WORDS = {"red": "below .30", "amber": ".30 to .40", "green": ".40 and more"}


def build_profile(
    graph: TaskGraph,
    out: str | os.PathLike[str],
    *,
    facts: Mapping[str, Any] | None = None,
    overlap: SampleOverlap | None = None,
    entry: CatalogEntry | None = None,
    copies: Sequence[LocalCopy] = (),
    command: str = "",
) -> Path:
    """Write a page about a dataset: labels, graph, splits, overlap of tasks, origin, citation.

    The page holds everything it shows and asks nothing of the network.

    Args:
        graph: The graph; open, since label counts of all splits are shown.
        out: The HTML file to write.
        facts: What :func:`describe` said of it, if that is known already.
        overlap: What :func:`sample_overlap` said of it, if that is known already.
        entry: What the catalog says of it.
        copies: Where its files lie.
        command: The command that makes the page, shown at its end.

    Returns:
        The path written.

    Raises:
        SealedLabelsError: If the graph is sealed.
        MissingExtraError: If matplotlib is not installed (extra ``plot``).
        StorageError: If the file cannot be written.
    """
    overlap = sample_overlap(graph) if overlap is None else overlap
    facts = describe(graph, overlap=overlap) if facts is None else facts
    found = distributions(graph)
    page = render_page(
        "profile.html",
        facts=facts,
        headline=_headline(facts, entry),
        remarks=_remarks(facts, entry),
        tone=_tone(facts),
        figures={
            "sizes": label_sizes(found, "sizes"),
            "per_node": labels_per_node(found, "pernode"),
            "degrees": degrees(found, "degrees"),
            "alike": alike_labels(overlap, graph.label_names, "alike")
            if graph.num_tasks > 1 else None,
        },
        drawn=len(labels_to_draw(overlap)),
        parts=[
            {"name": name, "color": method_variable(PART_COLORS[name]),
             "nodes": facts["split_sizes"][name], "positives": int(counts.sum()),
             "least": int(counts.min()), "empty": int((counts == 0).sum()),
             "cells": int(graph.observed_counts(name).sum())}
            for name, counts in found.positives.items()
        ],
        flags=_flags(facts),
        closest=[
            {"one": one, "other": other, "share": f"{share:.2f}", "width": round(100 * share, 1)}
            for one, other, share in facts["closest_labels"]
        ],
        entry=None if entry is None else {
            "what": entry.what, "features": entry.features, "split": entry.split,
            "licence": entry.licence, "citation": entry.citation, "note": entry.note,
            "source": entry.source.removeprefix("https://").removeprefix("http://"),
            "numbers_from": entry.numbers_from,
        },
        copies=[
            {"kind": copy.kind, "path": str(copy.path), "size": f"{copy.num_bytes / 1e6:,.1f} MB"}
            for copy in copies
        ],
        command=command,
        fingerprint=graph.fingerprint(),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    out = Path(out)
    write_text(out, page)
    return out


def _headline(facts: Mapping[str, Any], entry: CatalogEntry | None) -> str:
    what = "" if entry is None else f" ({entry.what})"
    labels = f"{facts['tasks']:,} label{'s' if facts['tasks'] != 1 else ''}"
    on, of = facts["labelled_nodes"], facts["nodes"]
    nodes = f"all {of:,} nodes" if on == of else f"{on:,} of {of:,} nodes"
    return f"{labels} on {nodes}{what}, {facts['labels_per_node']:.2g} a node"


def _tone(facts: Mapping[str, Any]) -> str:
    """Colour of the box: that of the worst flag more than a twentieth of the pairs has."""
    overlap = facts["overlap"]
    if overlap is None or overlap["red"] > 0.05:
        return "same" if overlap is None else "worse"
    return "same" if overlap["amber"] > 0.05 else "better"


def _remarks(facts: Mapping[str, Any], entry: CatalogEntry | None) -> list[str]:
    """What a user should know before training on it, in sentences."""
    said = []
    overlap, correlation = facts["overlap"], facts["label_correlation"]
    if overlap is not None:
        jaccard = overlap["jaccard"]["median"]
        if overlap["green"] == 1.0:
            said.append("All pairs of labels are trained on enough of the same nodes for their "
                        "gradients to be compared.")  # fmt: skip
        else:
            few = _percent(overlap["red"] + overlap["amber"])
            said.append(
                f"{few} of the pairs of labels share fewer than 40 % of their training nodes "
                f"(median {_percent(jaccard)}): an affinity measured on the training nodes of each "
                "is doubtful. Measure it on nodes all labels share."
            )
    if facts["homophily"] is not None and facts["homophily_random"]:
        times = facts["homophily"] / facts["homophily_random"]
        said.append(
            f"Neighbours are {times:.1f} times as alike in their labels as random nodes "
            f"(homophily {facts['homophily']:.3f} against {facts['homophily_random']:.3f})."
        )
    if correlation is not None:
        said.append(
            f"{_percent(correlation['beyond'])} of the pairs of labels go together, or exclude "
            "each other, more than chance explains (5 % would by chance)."
        )
    if facts["duplicate_labels"]:
        copies = facts["duplicate_labels"]
        said.append(
            f"{copies} label{'s repeat others' if copies > 1 else ' repeats another'} exactly: "
            "grouping will look good for the wrong reason."
        )
    near = sum(1 for *_, share in facts["closest_labels"] if share >= CLOSE)
    if near > facts["duplicate_labels"]:
        several = near > 1
        said.append(
            f"{near} pair{'s' if several else ''} of labels {'are' if several else 'is'} nearly "
            "the same in training."
        )
    if facts["no_positive_in_training"]:
        said.append(f"{facts['no_positive_in_training']} labels have no positive in training.")
    if facts["one_class_labels"]:
        said.append(f"{facts['one_class_labels']} labels have one class only: they have no score.")
    if facts["labelled_nodes"] < facts["nodes"]:
        said.append(
            f"{facts['nodes'] - facts['labelled_nodes']:,} nodes are unlabelled, which is not "
            "negative: they carry messages and are never scored."
        )
    if not facts["features"]:
        said.append("Nodes have no features: without structural ones a GNN sees degrees only.")
    different = "" if entry is None else entry.differences(facts)
    if different:
        said.insert(0, f"This is not the published graph: {different}.")
    return said


def _flags(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The bar of flags and the range of both measures."""
    overlap = facts["overlap"]
    if overlap is None:
        return None
    pairs = facts["tasks"] * (facts["tasks"] - 1) // 2
    return {
        "pairs": f"{pairs:,}",
        "bars": [
            {"flag": flag, "words": words, "width": round(100 * overlap[flag], 2),
             "text": _percent(overlap[flag], 1)}
            for flag, words in FLAG_WORDS.items()
        ],
        "measures": [
            {"name": name, **{end: f"{overlap[key][end]:.2f}" for end in ("min", "median", "max")}}
            for name, key in (("Jaccard", "jaccard"), ("Containment", "containment"))
        ],
    }  # fmt: skip


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"
