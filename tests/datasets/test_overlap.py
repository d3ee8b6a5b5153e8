"""Overlap, correlation and their null against loops over pairs and scikit-learn."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score, matthews_corrcoef

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.datasets import (
    NodeSplit,
    TaskGraph,
    label_correlation,
    overlap_flags,
    permutation_null,
    planted,
    sample_overlap,
    shuffle_labels,
)
from gnn_mtl.datasets import _pair_counts as pair_counts_module
from gnn_mtl.datasets._bits import BitMatrix
from gnn_mtl.datasets._overlap import FLAGS, GREEN_FROM, RED_BELOW
from gnn_mtl.datasets._splits import TaskNodeSplit
from gnn_mtl.datasets._targets import BitTargets
from gnn_mtl.graph import CSCGraph
from gnn_mtl.tasks import Grouping

pytestmark = pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.LabelWarning")


def small(split="task", *, nodes=140, tasks=7, share=0.3, unknown=0.2, seed=0):
    """Random labels with unknown cells; one label twice, one without positive."""
    rng = np.random.default_rng(seed)
    y = (rng.random((nodes, tasks)) < share).astype(float)
    y[:, 1] = y[:, 0]
    y[:, 2] = 0
    y[rng.random((nodes, tasks)) < unknown] = np.nan
    edges = rng.integers(0, nodes, (2, 3 * nodes))
    return TaskGraph.from_arrays(edges, y, split=split, seed=seed)


def training_sets(graph, positive=False):
    y, observed = graph.targets(np.arange(graph.num_nodes), "train")
    return [set(np.flatnonzero(y[:, t] if positive else observed[:, t])) for t in range(y.shape[1])]


def by_hand(sets, measure):
    out = np.full((len(sets), len(sets)), np.nan)
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            whole = len(a | b) if measure == "jaccard" else min(len(a), len(b))
            if whole:
                out[i, j] = len(a & b) / whole
    return out


@pytest.mark.parametrize("split", ["random", "task"])
@pytest.mark.parametrize("unknown", [0.0, 0.3])
@pytest.mark.parametrize("measure", ["jaccard", "containment"])
@pytest.mark.parametrize("positive", [False, True])
def test_overlap_against_sets(split, unknown, measure, positive):
    graph = small(split, unknown=unknown)
    found = getattr(sample_overlap(graph), measure)(positive=positive)
    np.testing.assert_allclose(found, by_hand(training_sets(graph, positive), measure))


@settings(max_examples=25, deadline=None)
@given(
    nodes=st.integers(20, 90), tasks=st.integers(1, 70), seed=st.integers(0, 999),
    share=st.floats(0.02, 0.9),
)  # fmt: skip
def test_any_size_of_bits_and_lists(nodes, tasks, seed, share):
    """Counts by popcount and by lists agree with a matrix product, at any number of words."""
    rng = np.random.default_rng(seed)
    cells = rng.random((nodes, tasks)) < share
    expected = cells.T.astype(int) @ cells.astype(int)
    by_bits, by_lists = (np.zeros((tasks, tasks), dtype=np.int64) for _ in range(2))
    words = pair_counts_module._words(cells)
    pair_counts_module._add_popcounts(words, words, False, by_bits)
    indptr = np.concatenate([[0], np.cumsum(cells.sum(axis=1))])
    pair_counts_module._add_list_pairs(indptr, np.nonzero(cells)[1], by_lists)
    np.testing.assert_array_equal(by_bits, expected)
    np.testing.assert_array_equal(by_lists, np.tril(expected))


def test_blocks_add_up(monkeypatch):
    """Counting in many blocks gives what one block gives."""
    graph = small()
    whole = sample_overlap(graph)
    phi = label_correlation(graph)
    monkeypatch.setattr(
        pair_counts_module, "row_slices",
        lambda rows, _: (slice(start, start + 9) for start in range(0, rows, 9)),
    )  # fmt: skip
    np.testing.assert_array_equal(sample_overlap(graph).observed, whole.observed)
    np.testing.assert_array_equal(sample_overlap(graph).positive, whole.positive)
    np.testing.assert_array_equal(label_correlation(graph), phi)


def test_masks_of_the_community_benchmark_are_red_although_all_labels_are_known():
    """20 % of each task's cells drawn apart: J = .2 / 1.8 and C = .2, below every threshold."""
    graph = planted(4_000, num_tasks=12, num_groups=3, num_features=0, split="task", seed=3)
    assert graph.labelled().all()
    overlap = sample_overlap(graph)
    pairs = np.triu_indices(12, 1)
    assert overlap.jaccard()[pairs].mean() == pytest.approx(0.111, abs=0.004)
    assert overlap.containment()[pairs].mean() == pytest.approx(0.200, abs=0.006)
    for measure in ("jaccard", "containment"):
        assert overlap.fractions(measure) == {"red": 1.0, "amber": 0.0, "green": 0.0}


def test_a_split_of_nodes_is_green():
    graph = planted(500, num_tasks=5, num_groups=1, num_features=0, seed=3)
    overlap = sample_overlap(graph)
    assert (overlap.jaccard() == 1).all()
    assert (overlap.containment() == 1).all()
    assert overlap.fractions() == {"red": 0.0, "amber": 0.0, "green": 1.0}


def test_a_sealed_graph_will_do():
    graph = small()
    sealed = sample_overlap(graph.sealed())
    np.testing.assert_array_equal(sealed.observed, sample_overlap(graph).observed)
    np.testing.assert_array_equal(label_correlation(graph.sealed()), label_correlation(graph))


def test_test_labels_do_not_matter():
    graph = small("random", unknown=0.0)
    y, _ = graph.targets(np.arange(140), "train")
    train = graph.split_idx["train"]
    rest = np.setdiff1d(np.arange(140), train)
    changed = y.copy()
    changed[rest] = 1 - changed[rest]
    other = TaskGraph.from_arrays(graph.csc.to_edge_index(), changed, split=graph._split)
    np.testing.assert_array_equal(label_correlation(other), label_correlation(graph))
    np.testing.assert_array_equal(sample_overlap(other).positive, sample_overlap(graph).positive)


def test_flags():
    shares = [[1.0, 0.2999], [0.3, 0.3999], [0.4, np.nan], [0.0, 1.0]]
    assert overlap_flags(shares).tolist() == [[2, 0], [1, 1], [2, 0], [0, 2]]
    assert (RED_BELOW, GREEN_FROM, FLAGS) == (0.30, 0.40, ("red", "amber", "green"))


def chain():
    """Training nodes of four tasks: two pairs that share half or more, nothing across."""
    train = np.zeros((40, 4), dtype=bool)
    for task, (start, stop) in enumerate([(0, 10), (0, 10), (20, 30), (26, 36)]):
        train[start:stop, task] = True
    rest = ~train
    valid, test = rest.copy(), rest.copy()
    valid[::2], test[1::2] = False, False
    y = np.arange(160).reshape(40, 4) % 3 == 0
    split = {"train": train, "valid": valid, "test": test}
    return TaskGraph.from_arrays(np.array([[0], [1]]), y, split=split)


def test_fractions_inside_groups():
    overlap = sample_overlap(chain())
    assert overlap.jaccard()[0, 1] == 1.0
    assert overlap.jaccard()[2, 3] == pytest.approx(4 / 16)
    assert overlap.containment()[2, 3] == pytest.approx(0.4)
    assert overlap.fractions() == pytest.approx({"red": 5 / 6, "amber": 0.0, "green": 1 / 6})
    assert overlap.fractions("containment")["green"] == pytest.approx(2 / 6)
    groups = Grouping.of([[0, 1], [2, 3]], 4)
    assert [one["red"] for one in overlap.inside(groups)] == [0.0, 1.0]
    assert [one["green"] for one in overlap.inside(groups, "containment")] == [1.0, 1.0]
    mixed = overlap.inside(Grouping.of([[0, 1, 2], [3]], 4))
    assert mixed[0] == pytest.approx({"red": 2 / 3, "amber": 0.0, "green": 1 / 3})
    assert all(np.isnan(share) for share in mixed[1].values())
    with pytest.raises(UsageError, match=r"over 4 tasks\. Found 3"):
        overlap.inside(Grouping.of([[0, 1, 2]], 3))
    with pytest.raises(UsageError, match="'jaccard' or 'containment'"):
        overlap.flags("cosine")


@pytest.mark.parametrize("split", ["random", "task"])
def test_closest_pairs(split):
    graph = small(split, nodes=200, unknown=0.0)
    y, _ = graph.targets(np.arange(200), "train")
    found = sample_overlap(graph).closest(4)
    expected = sorted(
        ((jaccard_score(y[:, i], y[:, j], zero_division=0), i, j)
         for i in range(7) for j in range(i + 1, 7)), key=lambda one: -one[0],
    )  # fmt: skip
    assert [share for *_, share in found] == pytest.approx([share for share, *_ in expected[:4]])
    assert found[0][:2] == expected[0][1:]
    assert len(sample_overlap(graph).closest(1_000)) == sum(share > 0 for share, *_ in expected)


def test_one_task():
    overlap = sample_overlap(small("random", tasks=3).select_tasks([0]))
    assert overlap.closest() == []
    assert np.isnan(list(overlap.fractions().values())).all()


@pytest.mark.parametrize("split", ["random", "task"])
@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_phi_is_matthews_correlation(split, unknown):
    graph = small(split, unknown=unknown)
    y, observed = graph.targets(np.arange(graph.num_nodes), "train")
    found = label_correlation(graph)
    np.testing.assert_array_equal(found, found.T)
    for i in range(7):
        for j in range(7):
            both = observed[:, i] & observed[:, j]
            a, b = y[both, i], y[both, j]
            if both.any() and len(set(a)) == 2 and len(set(b)) == 2:
                assert found[i, j] == pytest.approx(matthews_corrcoef(a, b), abs=1e-12)
            else:
                assert np.isnan(found[i, j])


@pytest.mark.parametrize("split", ["random", "task"])
def test_shuffling_keeps_counts_and_the_rest(split):
    graph = small(split)
    nodes = np.arange(graph.num_nodes)
    shuffled = shuffle_labels(graph, seed=5)
    for part in ("train", "valid", "test"):
        before, after = graph.targets(nodes, part), shuffled.targets(nodes, part)
        np.testing.assert_array_equal(before[1], after[1])
        np.testing.assert_array_equal(before[0].sum(axis=0), after[0].sum(axis=0))
        assert np.array_equal(before[0], after[0]) == (part != "train")
    again = shuffle_labels(graph, seed=5)
    assert again.fingerprint() == shuffled.fingerprint() != graph.fingerprint()
    assert shuffle_labels(graph, seed=6).fingerprint() != shuffled.fingerprint()


def test_the_null_passes_the_share_it_says():
    """Independent labels exceed the threshold as often as announced, a repeated one always."""
    rng = np.random.default_rng(0)
    y = (rng.random((600, 30)) < rng.uniform(0.1, 0.5, 30)).astype(float)
    y[:, 29] = y[:, 28]
    graph = TaskGraph.from_arrays(rng.integers(0, 600, (2, 900)), y, split="random")
    phi = label_correlation(graph)
    null = permutation_null(graph, num_permutations=10, quantile=0.9, seed=1)
    upper = np.triu_indices(30, 1)
    assert null.exceeding(phi)[upper].mean() == pytest.approx(0.10, abs=0.04)
    assert null.exceeding(phi)[28, 29]
    assert not np.diagonal(null.exceeding(phi)).any()
    strict = permutation_null(graph, num_permutations=20, quantile=0.95, familywise=True, seed=1)
    assert strict.threshold > null.threshold
    assert strict.exceeding(phi).sum() == 2


def test_the_null_takes_any_statistic():
    graph = small("random")

    def labelled_alike(one):
        return sample_overlap(one).jaccard(positive=True)

    first, again = (permutation_null(graph, labelled_alike, num_permutations=3) for _ in range(2))
    assert first.threshold == again.threshold
    assert 0 < first.threshold < labelled_alike(graph)[0, 1]
    with pytest.raises(ShapeError, match=r"shape \(7, 7\)"):
        permutation_null(graph, lambda _: np.zeros(3))
    with pytest.raises(UsageError, match="NaN only"):
        permutation_null(graph, lambda _: np.full((7, 7), np.nan))
    for wrong in ({"num_permutations": 0}, {"quantile": 1.0}):
        with pytest.raises(UsageError, match="`quantile` between 0 and 1"):
            permutation_null(graph, **wrong)


def test_selected_tasks_and_other_splits():
    graph = small()
    phi = label_correlation(graph)
    some = [4, 0, 6]
    np.testing.assert_array_equal(
        label_correlation(graph.select_tasks(some)), phi[np.ix_(some, some)]
    )
    parts = np.array_split(np.random.default_rng(0).permutation(140), 3)
    nodes = graph.with_split(NodeSplit(*parts, num_nodes=140))
    sets = training_sets(nodes)
    np.testing.assert_allclose(sample_overlap(nodes).jaccard(), by_hand(sets, "jaccard"))


@pytest.mark.slow
def test_a_million_nodes_and_500_tasks_in_bounded_memory():
    """Bits, not floats: no more than a few hundred MB above the graph itself."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 256, (1_000_000, 63), dtype=np.uint8)
    bits[:, -1] &= 15  # 500 tasks
    split = TaskNodeSplit(*(BitMatrix(bits & part, 500) for part in (0x55, 0x22, 0x88)))
    labels = BitTargets(BitMatrix(bits, 500), np.ones(1_000_000, dtype=bool))
    nothing = np.zeros((2, 0), dtype=np.int64)
    graph = TaskGraph(CSCGraph.from_edge_index(nothing, 1_000_000), labels, split)
    tracemalloc.start()
    overlap = sample_overlap(graph)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400e6
    both = split.cells("train").gather(slice(None))[:, [4, 8]].all(axis=1)
    assert overlap.observed[4, 8] == both.sum() > 0
