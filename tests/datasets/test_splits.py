"""Splits: what they refuse, what they draw."""

import numpy as np
import pytest
import scipy.sparse as sp

from gnn_mtl._core.errors import SplitError, UsageError
from gnn_mtl.datasets import (
    NodeSplit,
    TaskNodeSplit,
    make_targets,
    random_node_split,
    random_task_split,
)
from gnn_mtl.datasets._splits import SPLITS, make_split


def labels(num_nodes=400, num_tasks=12, seed=0, rate=0.1):
    return np.random.default_rng(seed).random((num_nodes, num_tasks)) < rate


def kdd_codes(y, train=0.2, valid=0.2, seed=1024):
    """The published protocol, written out: 0 train, 1 valid, 2 test."""
    rng = np.random.default_rng(seed)
    out = np.full(y.shape, 2)
    for task in range(y.shape[1]):
        for members in (np.flatnonzero(y[:, task]), np.flatnonzero(~y[:, task])):
            order = rng.permutation(members)
            first, second = int(len(order) * train), int(len(order) * valid)
            out[order[:first], task] = 0
            out[order[first : first + second], task] = 1
    return out


def test_node_split_answers():
    split = NodeSplit([4, 0], [1], [3], num_nodes=6)
    assert split.nodes("train").tolist() == [4, 0]
    assert split.mask(np.array([0, 1, 2, 4]), "train").tolist() == [
        [True],
        [False],
        [False],
        [True],
    ]
    assert split.mask(slice(None), "test")[:, 0].nonzero()[0].tolist() == [3]
    assert split.select(np.array([0])) is split


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (([], [1], [2]), "`train`.*non-empty"),
        (([0], [1], []), "`test`.*non-empty"),
        (([0, 1], [1], [2]), "both in `train` and `valid`.*node 1"),
        (([0], [1], [0]), "both in `train` and `test`"),
        (([0], [1], [5]), r"\[0, 5\).*5"),
        (([0], [-1], [2]), "-1"),
        (([0, 0], [1], [2]), "repeated"),
        (([0.5], [1], [2]), "integer"),
    ],
)
def test_node_splits_that_are_none(parts, words):
    with pytest.raises(SplitError, match=words):
        NodeSplit(*parts, num_nodes=5)


def test_task_split_answers():
    codes = np.array([[0, 1], [2, 2], [1, 0], [3, 3]])
    split = TaskNodeSplit(codes == 0, codes == 1, codes == 2)
    assert split.nodes("train").tolist() == [0, 2]
    np.testing.assert_array_equal(split.mask(np.array([2, 0]), "valid"), codes[[2, 0]] == 1)
    one = split.select(np.array([1]))
    np.testing.assert_array_equal(one.mask(slice(None), "test"), codes[:, 1:] == 2)
    assert one.num_tasks == 1


def test_task_splits_that_are_none():
    cells = np.eye(3, dtype=bool)
    others = np.roll(cells, 1, axis=1), np.roll(cells, 2, axis=1)
    with pytest.raises(SplitError, match=r"both in `train` and `test`.*node 0"):
        TaskNodeSplit(cells, others[0], cells)
    with pytest.raises(SplitError, match=r"`valid`.*at least one"):
        TaskNodeSplit(cells, np.zeros_like(cells), others[0])
    with pytest.raises(SplitError, match="one shape"):
        TaskNodeSplit(cells, others[0][:, :2], others[1])


def test_make_split_reads_ids_and_masks():
    masks = {name: np.arange(6) % 3 == k for k, name in enumerate(SPLITS)}
    by_mask = make_split(masks, 6, 2)
    by_ids = make_split({name: np.flatnonzero(mask) for name, mask in masks.items()}, 6, 2)
    for name in SPLITS:
        np.testing.assert_array_equal(by_mask.nodes(name), by_ids.nodes(name))
    cells = {name: np.stack([mask, mask], axis=1) for name, mask in masks.items()}
    assert isinstance(make_split(cells, 6, 2), TaskNodeSplit)
    with pytest.raises(SplitError, match="train, valid, test"):
        make_split({"train": [0], "val": [1], "test": [2]}, 6, 2)
    with pytest.raises(SplitError, match=r"\(6,\)"):
        make_split({name: mask[:5] for name, mask in masks.items()}, 6, 2)
    with pytest.raises(SplitError, match="one column"):
        make_split({name: np.ones((6, 10), dtype=bool) for name in SPLITS}, 6, 2)


@pytest.mark.parametrize("stratify", [True, False])
def test_random_split_shares_out_the_labelled_nodes(stratify):
    labelled = np.arange(400) % 4 != 0
    store = make_targets(labels(), observed=labelled)
    split = random_node_split(store, stratify=stratify, seed=3)
    parts = [split.nodes(name) for name in SPLITS]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.flatnonzero(labelled))
    for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        assert abs(len(part) - share * 300) <= (12 if stratify else 0)
    again = random_node_split(store, stratify=stratify, seed=3)
    np.testing.assert_array_equal(parts[0], again.nodes("train"))
    other = random_node_split(store, stratify=stratify, seed=4)
    assert not np.array_equal(parts[0], other.nodes("train"))


def test_stratified_split_gives_rare_labels_to_every_part():
    y = np.zeros((3_000, 40), dtype=bool)
    rng = np.random.default_rng(0)
    for task in range(40):
        y[rng.choice(3_000, 5 + task, replace=False), task] = True
    split = random_node_split(make_targets(y), seed=0)
    counts = np.stack([y[split.nodes(name)].sum(axis=0) for name in SPLITS])
    assert counts.min() >= 1
    shares = counts / counts.sum(axis=0)
    assert np.abs(shares - np.array([[0.6], [0.2], [0.2]])).max() <= 0.2
    plain = random_node_split(make_targets(y), stratify=False, seed=0)
    spread = [
        np.stack([y[s.nodes(n)].sum(0) for n in SPLITS])[0] / y.sum(0) for s in (split, plain)
    ]
    assert spread[0].std() < 0.5 * spread[1].std()


def test_stratified_split_of_identical_rows_still_fills_every_part():
    split = random_node_split(make_targets(np.ones((10, 3))), seed=0)
    assert [len(split.nodes(name)) for name in SPLITS] == [6, 2, 2]
    tiny = random_node_split(make_targets(np.ones((3, 1))), seed=0)
    assert [len(tiny.nodes(name)) for name in SPLITS] == [1, 1, 1]


def test_random_split_needs_nodes_and_shares():
    with pytest.raises(SplitError, match="at least 3"):
        random_node_split(make_targets([1, 0]))
    with pytest.raises(UsageError, match="sum 1"):
        random_node_split(make_targets(labels()), shares=(0.5, 0.2, 0.2))
    with pytest.raises(UsageError, match="sum 1"):
        random_task_split(make_targets(labels()), shares=(1.0, 0.0, 0.0))


@pytest.mark.parametrize("sparse", [False, True])
def test_task_split_is_the_published_protocol(sparse):
    y = labels(rate=0.01 if sparse else 0.2, num_tasks=60)
    split = random_task_split(make_targets(sp.csr_matrix(y) if sparse else y))
    codes = kdd_codes(y)
    for code, name in enumerate(SPLITS):
        np.testing.assert_array_equal(split.mask(slice(None), name), codes == code)


def test_task_split_can_cut_training_positives():
    y = labels(rate=0.3)
    split = random_task_split(make_targets(y), max_train_positives=2)
    train, valid, test = (split.mask(slice(None), name) for name in SPLITS)
    assert ((train & y).sum(axis=0) == 2).all()
    codes = kdd_codes(y)
    np.testing.assert_array_equal(valid, codes == 1)
    np.testing.assert_array_equal(test, codes == 2)
    np.testing.assert_array_equal(train & ~y, (codes == 0) & ~y)
    with pytest.raises(UsageError, match="max_train_positives"):
        random_task_split(make_targets(y), max_train_positives=0)


def test_task_split_leaves_unknown_cells_out():
    y = labels().astype(float)
    y[np.random.default_rng(1).random(y.shape) < 0.3] = np.nan
    split = random_task_split(make_targets(y))
    total = sum(split.mask(slice(None), name).astype(int) for name in SPLITS)
    np.testing.assert_array_equal(total, ~np.isnan(y))
    by_node = random_task_split(make_targets(labels(), observed=np.arange(400) < 300))
    assert by_node.nodes("test").max() < 300
