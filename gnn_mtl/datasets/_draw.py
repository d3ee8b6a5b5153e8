"""Random splits: stratified over nodes, or per (node, task) as in the community benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gnn_mtl._core.errors import SplitError, UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.datasets._bits import BitMatrix
from gnn_mtl.datasets._splits import SPLITS, NodeSplit, TaskNodeSplit
from gnn_mtl.datasets._targets import TargetStore, labelled_nodes, positive_lists

SHARES = (0.6, 0.2, 0.2)


def random_node_split(
    targets: TargetStore,
    *,
    shares: tuple[float, float, float] = SHARES,
    stratify: bool = True,
    seed: int = 0,
) -> NodeSplit:
    """Split the labelled nodes at random.

    With ``stratify`` labels are shared out from the rarest to the commonest, each positive node
    going to the part that still lacks most positives of that label; so every label with a few
    positives has some in each part. This is iterative stratification (Sechidis, Tsoumakas &
    Vlahavas, ECML PKDD 2011, Alg. 1) with the order of the labels fixed in advance. Sizes are then
    only close to the shares; without it they are exact.

    Args:
        targets: The labels; nodes without an observed cell are in no part.
        shares: Shares of train, valid and test, positive, with sum 1.
        stratify: Whether to balance every label over the parts.
        seed: Seed of the draw.

    Returns:
        The split, ids ascending.

    Raises:
        UsageError: If the shares are not three positive numbers that sum to 1.
        SplitError: If there are too few labelled nodes.
    """
    _check_shares(shares)
    nodes = np.flatnonzero(labelled_nodes(targets))
    if len(nodes) < 3:
        raise SplitError(f"A random split needs at least 3 labelled nodes. Found {len(nodes)}.")
    order = generator(seed, "split").permutation(nodes)
    if not stratify:
        first = max(1, round(shares[0] * len(order)))
        second = min(max(first + 1, round((shares[0] + shares[1]) * len(order))), len(order) - 1)
        parts = np.split(order, [min(first, second - 1), second])
    else:
        code = _stratified_codes(targets, order, np.asarray(shares))
        parts = [order[code == k] for k in range(3)]
        if any(len(part) == 0 for part in parts):
            return random_node_split(targets, shares=shares, stratify=False, seed=seed)
    return NodeSplit(*(np.sort(part) for part in parts), num_nodes=targets.num_nodes)


def random_task_split(
    targets: TargetStore,
    *,
    shares: tuple[float, float, float] = (0.2, 0.2, 0.6),
    max_train_positives: int | None = None,
    seed: int = 1024,
) -> TaskNodeSplit:
    """Split the cells of every task apart: shares of its positives and of its negatives.

    The protocol of "Boosting Multitask Learning on Graphs through Higher-Order Task Affinities"
    (Li, Ju, Sharma & Zhang, KDD 2023) for community tasks: 20 % of the positives and 20 % of the
    negatives of each task to train, the same to validate, the rest to test, drawn task by task from
    ``numpy.random.default_rng(seed)`` (their seed is 1024). Their sparser variants, which test on
    the positives that training does without, are those of :func:`gnn_mtl.datasets.load_snap`; here
    those cut by ``max_train_positives`` belong to no part.

    Args:
        targets: The labels; unobserved cells are in no part.
        shares: Shares of train, valid and test within positives and within negatives.
        max_train_positives: At most this many training positives a task.
        seed: Seed of the draw.

    Raises:
        UsageError: If the shares are not three positive numbers that sum to 1.
        SplitError: If a part stays empty.

    Note:
        O(N T) time; memory is three bits a cell.
    """
    _check_shares(shares)
    if max_train_positives is not None and max_train_positives < 1:
        raise UsageError(
            f"`max_train_positives` should be at least 1. Found {max_train_positives}."
        )
    indptr, tasks = positive_lists(targets)
    shape = (targets.num_nodes, targets.num_tasks)
    positives = sp.csr_matrix((np.ones(len(tasks), dtype=np.bool_), tasks, indptr), shape).tocsc()
    everyone = np.arange(targets.num_nodes)
    is_partial = isinstance(targets.observed, BitMatrix)
    whole = everyone if is_partial else np.flatnonzero(labelled_nodes(targets))

    def cells(task: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        known = whole
        if is_partial:
            known = everyone[targets.select(np.array([task])).gather(slice(None))[1][:, 0]]
        start, stop = positives.indptr[task : task + 2]
        return np.sort(positives.indices[start:stop]), known

    def cut(size: int, is_positive: bool) -> tuple[int, int, int]:
        first = int(size * shares[0])
        limit = max_train_positives if is_positive and max_train_positives else first
        return min(first, limit), first, first + int(size * shares[1])

    return draw_cells(cells, cut, *shape, seed)


def draw_cells(
    cells: Callable[[int], tuple[NDArray[np.integer], NDArray[np.integer]]],
    cut: Callable[[int, bool], tuple[int, int, int]],
    num_nodes: int,
    num_tasks: int,
    seed: int,
) -> TaskNodeSplit:
    """Shuffle the positives, then the negatives of one task after the other and cut them in three.

    Args:
        cells: For a task its positives and all its known nodes, both ascending.
        cut: For a number of cells, and whether they are the positives, where the training part
            ends, where the validation part begins and where it ends; the rest are for the test.
        num_nodes: Number of nodes N.
        num_tasks: Number of tasks T.
        seed: Seed of ``numpy.random.default_rng``, from which all tasks draw in turn.

    Raises:
        SplitError: If a part stays empty.

    Note:
        O(N T) time. Eight tasks, one byte of each node's row, are written at once.
    """
    rng = np.random.default_rng(seed)
    parts = [BitMatrix.zeros(num_nodes, num_tasks) for _ in SPLITS]
    outside = np.ones(num_nodes, dtype=np.bool_)
    for start in range(0, num_tasks, 8):
        column = np.zeros((len(SPLITS), num_nodes), dtype=np.uint8)
        for task in range(start, min(start + 8, num_tasks)):
            positive, known = cells(task)
            outside[positive] = False
            negative = known[outside[known]]
            outside[positive] = True
            bit = np.uint8(1 << (task - start))
            for nodes, is_positive in ((positive, True), (negative, False)):
                nodes = rng.permutation(nodes)
                stop, first, second = cut(len(nodes), is_positive)
                column[0, nodes[:stop]] |= bit
                column[1, nodes[first:second]] |= bit
                column[2, nodes[second:]] |= bit
        for part, byte in zip(parts, column, strict=True):
            part.bits[:, start // 8] = byte
    return TaskNodeSplit(*parts)


def _check_shares(shares: tuple[float, float, float]) -> None:
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1.0) > 1e-9:
        raise UsageError(f"`shares` should be three positive numbers with sum 1. Found {shares}.")


def _stratified_codes(
    targets: TargetStore, order: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.int8]:
    """Return the part (0, 1, 2) of each node of ``order``, rarest labels placed first."""
    indptr, tasks = positive_lists(targets)
    counts = np.bincount(tasks, minlength=targets.num_tasks)
    rows = sp.csr_matrix(
        (np.ones(len(tasks), dtype=np.bool_), tasks, indptr),
        shape=(targets.num_nodes, targets.num_tasks),
    )[order]
    columns = rows.tocsc()
    return _stratify(
        rows.indptr, rows.indices, columns.indptr, columns.indices,
        np.argsort(counts, kind="stable"), counts[:, None] * shares, len(order) * shares,
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _stratify(row_ptr, row_tasks, col_ptr, col_rows, task_order, wanted, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Give every row a part; ``wanted [T, 3]`` and ``room [3]`` are what each part still lacks."""
    code = np.full(len(row_ptr) - 1, -1, dtype=np.int8)
    for task in task_order:
        for e in range(col_ptr[task], col_ptr[task + 1]):
            row = col_rows[e]
            if code[row] >= 0:
                continue
            best = 0
            for part in range(1, 3):
                gain = wanted[task, part] - wanted[task, best]
                if gain > 0 or (gain == 0 and room[part] > room[best]):
                    best = part
            code[row] = best
            room[best] -= 1
            for k in range(row_ptr[row], row_ptr[row + 1]):
                wanted[row_tasks[k], best] -= 1
    for row in range(len(code)):
        if code[row] < 0:
            best = 0
            for part in range(1, 3):
                if room[part] > room[best]:
                    best = part
            code[row] = best
            room[best] -= 1
    return code
