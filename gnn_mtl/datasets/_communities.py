"""Community labels as tasks: which communities, on which nodes, and which cells train.

The benchmark of "Boosting Multitask Learning on Graphs through Higher-Order Task Affinities" (Li,
Ju, Sharma & Zhang, KDD 2023), used again by Grad-TAG (KDD 2024): the largest communities of a SNAP
graph, one binary task each, on the sub-graph they induce. Everything here is a function of edges
and member lists; :mod:`gnn_mtl.datasets._snap` reads those from files.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.errors import LabelError, LabelWarning, UsageError
from gnn_mtl.datasets._draw import draw_cells, random_node_split
from gnn_mtl.datasets._introsort import introsort_order
from gnn_mtl.datasets._snap_text import Communities
from gnn_mtl.datasets._splits import TaskNodeSplit
from gnn_mtl.datasets._targets import store_csr
from gnn_mtl.datasets._task_graph import TaskGraph
from gnn_mtl.graph import CSCGraph
from gnn_mtl.graph._csc import EdgeChunks

Version = Literal["v1", "v2", "v3"]
Members = Sequence[NDArray[np.integer]]

RULES: dict[str, tuple[int, int | None]] = {"v1": (5, None), "v2": (5, 10), "v3": (50, 2)}
"""One training positive in so many members, and how many there are of more than 100 members."""

SHARED = (0.2, 0.2, 0.6)
CHOICES = {
    "ties": ("numpy", "first"),
    "graph": ("induced", "full"),
    "background": ("unlabelled", "negative"),
    "masks": ("per_task", "shared"),
    "version": ("paper", *RULES),
}


@dataclass(frozen=True, kw_only=True)
class CommunityOptions:
    """Which communities become tasks, and how their labels are split.

    The published sets are ``distinct=False, truncate=True``; the defaults mend what is wrong there.

    Attributes:
        k: How many of the largest communities; all there are if there are fewer.
        min_members: Leave out smaller ones.
        distinct: Leave out communities that repeat another one member for member; SNAP's files do
            (39 of the 100 largest of Amazon, whose tasks then agree for the wrong reason).
        ties: Which of equally large communities are kept: ``"numpy"``, those that the unstable
            ``argsort`` of NumPy before 1.25 puts last, as in the published sets, whatever NumPy
            runs here; or ``"first"``, those earlier in the file (SNAP puts the best first). Tasks
            ascend by size, equal ones in the same order.
        graph: ``"induced"``: only members of a kept community and the edges between them;
            ``"full"``: all nodes.
        background: What a node of the full graph is that is in no community of the file, kept or
            not: unlabelled, or negative for every task.
        masks: ``"per_task"``: every task splits all labelled nodes anew, so that a node may train
            one task and test another; ``"shared"``: one split of the nodes for all tasks, 20/20/60
            and stratified, so that tasks train on the same nodes (gradients of tasks that share few
            of them say little about the tasks: Zhang & Cheng, arXiv 2604.07848).
        version: Positives of a task that train, of ``n``: ``"v1"`` 20 %; ``"v2"`` the same up to
            ``n`` = 100, then 10; ``"v3"`` 2 % up to ``n`` = 100, then 2. 20 % of them validate and
            the rest are tested on; negatives are split 20/20/60 throughout. ``"paper"`` is the
            version published for the set, v1 if there is none. For masks per task only.
        truncate: Compute training positives as the released code does: ``int()`` of a product of
            floats gives 9 instead of 10 for 112 sizes up to 8,000 (1 instead of 2 for 1,057), and
            none where 2 % of a community is less than one node. Otherwise whole parts are exact,
            and a community of three or more has a positive to train and one to validate.
        seed: Seed of the masks.

    Raises:
        UsageError: If a value is none of these, or options contradict each other.
    """

    k: int = 100
    min_members: int = 1
    distinct: bool = True
    ties: Literal["numpy", "first"] = "numpy"
    graph: Literal["induced", "full"] = "induced"
    background: Literal["unlabelled", "negative"] = "unlabelled"
    masks: Literal["per_task", "shared"] = "per_task"
    version: Literal["paper", "v1", "v2", "v3"] = "paper"
    truncate: bool = False
    seed: int = 1024

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"`{name}` should be {' or '.join(known)}. Found {getattr(self, name)!r}."
                )
        for name, least in (("k", 1), ("min_members", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UsageError(
                    f"`{name}` should be a whole number from {least}. Found {value!r}."
                )
        for name in ("distinct", "truncate"):
            if getattr(self, name) not in (0, 1):
                raise UsageError(f"`{name}` should be 0 or 1. Found {getattr(self, name)!r}.")
        if self.masks == "shared" and (self.version != "paper" or self.truncate):
            raise UsageError(
                "`version` and `truncate` say how each task is split. Found masks='shared', one "
                "split for all: leave them out."
            )
        if self.graph == "induced" and self.background == "negative":
            raise UsageError(
                "`background` is about nodes outside every community. Found graph='induced', which "
                "has none: use graph='full'."
            )

    def tag(self) -> str:
        """Return what differs from the defaults as part of a file name."""
        changed = [
            f"{field.name}={value if isinstance(value, str) else int(value)}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return "-".join(changed) or "default"


def community_graph(
    edges: EdgeChunks,
    num_nodes: int,
    communities: Communities,
    options: CommunityOptions,
    *,
    paper_version: Version = "v1",
    name: str = "communities",
    orig_id: NDArray[np.integer] | None = None,
) -> TaskGraph:
    """Return the graph whose tasks are the largest communities.

    Args:
        edges: A repeatable stream of undirected edges, each once.
        num_nodes: Number of nodes N of the whole graph.
        communities: Member lists of node numbers.
        options: Which communities, nodes and masks.
        paper_version: What ``version="paper"`` means.
        name: Name of the dataset.
        orig_id: Original ids ``[N]``; kept in ``extras`` for the nodes that stay.

    Returns:
        The graph, without features. ``extras`` hold ``orig_id``, ``community_row`` (the line of
        each task's community in the file, from 0) and, as ``"snap"``, the options and how many of
        the largest communities repeat others.

    Raises:
        LabelError: If no community is large enough.
        SplitError: If a part stays empty.

    Note:
        O(E + N T) time; memory is that of the result, at three bits a cell for masks per task.
    """
    rows, repeats = choose_communities(communities, options)
    lists: Members = [communities[row] for row in rows]
    nodes = np.arange(num_nodes) if orig_id is None else orig_id
    if options.graph == "induced":
        kept = np.unique(np.concatenate(lists))
        number = np.full(num_nodes, -1, dtype=np.int32)
        number[kept] = np.arange(len(kept), dtype=np.int32)
        csc = CSCGraph.from_edge_chunks(lambda: _within(edges, number), len(kept), undirected=True)
        lists, nodes = [number[members] for members in lists], nodes[kept]
        known = np.ones(len(kept), dtype=np.bool_)
    else:
        csc = CSCGraph.from_edge_chunks(edges, num_nodes, undirected=True)
        known = np.full(num_nodes, options.background == "negative")
        known[communities.members] = True
    labels = store_csr(_as_csr(lists, csc.num_nodes), known)
    version = paper_version if options.version == "paper" else options.version
    split = (
        random_node_split(labels, shares=SHARED, seed=options.seed)
        if options.masks == "shared"
        else community_split(
            lists, known, version=version, truncate=options.truncate, seed=options.seed
        )
    )
    facts = {
        "version": version if options.masks == "per_task" else None, "options": options.tag(),
        "repeats": repeats, "distinct": bool(options.distinct),
    }  # fmt: skip
    return TaskGraph(
        csc, labels, split, name=name,
        label_names=[
            f"community {row} ({len(members)} members)"
            for row, members in zip(rows, lists, strict=True)
        ],
        extras={"orig_id": nodes, "community_row": rows, "snap": facts},
    )  # fmt: skip


def choose_communities(
    communities: Communities, options: CommunityOptions
) -> tuple[NDArray[np.int64], int]:
    """Return the rows of the largest communities, smallest first, and how many repeat others.

    The second result counts, among the ``k`` largest as they stand in the file, those that repeat
    another one.

    Raises:
        LabelError: If no community is large enough.
    """
    sizes = communities.sizes
    by_numpy = options.ties == "numpy"
    order = introsort_order(sizes)[::-1] if by_numpy else np.argsort(-sizes, kind="stable")
    order = order[sizes[order] >= options.min_members]
    if len(order) == 0:
        raise LabelError(
            f"Expected communities of {options.min_members} members or more. The largest has "
            f"{int(sizes.max(initial=0))}; lower `min_members`."
        )
    first: dict[bytes, int] = {}
    repeats = 0
    for place, row in enumerate(order):
        if place >= options.k and (not options.distinct or len(first) == options.k):
            break
        content = communities[row].tobytes()
        if content in first:
            repeats += place < options.k
        else:
            first[content] = row
    kept = np.array(list(first.values())) if options.distinct else order[: options.k]
    if by_numpy:
        return kept[::-1].copy(), repeats
    kept = np.sort(kept)
    return kept[np.argsort(sizes[kept], kind="stable")], repeats


def community_split(
    members: Members,
    known: NDArray[np.bool_],
    *,
    version: Version = "v1",
    truncate: bool = False,
    seed: int = 1024,
) -> TaskNodeSplit:
    """Split the cells of every task: its members by the rules of a version, the others 20/20/60.

    Members and then the other labelled nodes are shuffled task by task by one
    ``numpy.random.default_rng(seed)``, as in the released code (which spends O(N * size) steps a
    task on finding the others).

    Args:
        members: Member lists, one a task, ascending.
        known: Labelled nodes, bool ``[N]``.
        version: ``"v1"``, ``"v2"`` or ``"v3"``, see :class:`CommunityOptions`.
        truncate: See :class:`CommunityOptions`.
        seed: Seed of the draw.

    Raises:
        SplitError: If a part stays empty.
    """
    everyone = np.flatnonzero(known)

    def cut(size: int, is_member: bool) -> tuple[int, int, int]:
        train = valid = size // 5
        if is_member:
            train = train_positives(size, version, truncate=truncate)
            valid = valid if truncate else max(valid, min(1, size // 3))
        return train, train, train + valid

    return draw_cells(lambda task: (members[task], everyone), cut, len(known), len(members), seed)


def train_positives(size: int, version: Version, *, truncate: bool = False) -> int:
    """Return how many of the ``size`` members of a community train, see :class:`CommunityOptions`.

    Raises:
        UsageError: If there is no such version.
    """
    if version not in RULES:
        raise UsageError(f"`version` should be {', '.join(RULES)}. Found {version!r}.")
    divisor, most = RULES[version]
    if most is not None and size > 100:
        return int(size * (most / size)) if truncate else most
    return size // divisor if truncate else max(size // divisor, min(1, size // 3))


def warn_repeats(graph: TaskGraph) -> None:
    """Warn of communities that repeat others, left out or kept."""
    facts = graph.extras["snap"]
    if not facts["repeats"]:
        return
    what = (
        "They are left out and smaller ones take their places; distinct=False keeps them."
        if facts["distinct"]
        else "Their tasks agree for the wrong reason; leave them out with distinct=True."
    )
    warnings.warn(
        f"{facts['repeats']} of the largest communities of {graph.name} repeat others member for "
        f"member. {what}",
        LabelWarning,
        stacklevel=4,
    )


def _within(
    edges: EdgeChunks, number: NDArray[np.int32]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the edges between nodes that are kept, renumbered; -1 marks the others."""
    for source, target in edges():
        source, target = number[source], number[target]
        inside = (source >= 0) & (target >= 0)
        yield source[inside], target[inside]


def _as_csr(members: Members, num_nodes: int) -> sp.csr_matrix:
    indptr = np.concatenate([[0], np.cumsum([len(nodes) for nodes in members])])
    cells = (np.ones(indptr[-1], dtype=np.bool_), np.concatenate(members), indptr)
    return sp.csc_matrix(cells, shape=(num_nodes, len(members))).tocsr()
