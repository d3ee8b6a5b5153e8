"""Label co-occurrence by counting node by node, and blends of two affinities."""

import numpy as np
import pytest
from scipy.stats import rankdata, zscore

from gnn_mtl._core.errors import LabelWarning, ShapeError, UsageError
from gnn_mtl.affinity import CellMean, blend, label_cooccurrence, prior_weight
from gnn_mtl.datasets import planted
from gnn_mtl.tasks import Affinity

NAN = float("nan")


def counted(graph, measure):
    """The measure of every pair, one pair at a time over the nodes observed for both."""
    y, observed = graph.targets(graph.split_idx["train"], "train")
    values = np.full((graph.num_tasks,) * 2, NAN)
    for i in range(graph.num_tasks):
        for j in range(graph.num_tasks):
            both = observed[:, i] & observed[:, j]
            a, b = y[both, i], y[both, j]
            if measure == "phi" and len(a) and a.std() > 0 and b.std() > 0:
                values[i, j] = np.corrcoef(a, b)[0, 1]
            if measure == "jaccard" and (a + b).any():
                values[i, j] = (a * b).sum() / ((a + b) > 0).sum()
            if measure == "lift" and a.any() and b.any():
                values[i, j] = (a * b).mean() / (a.mean() * b.mean()) - 1
    return values


@pytest.mark.parametrize("measure", ["phi", "jaccard", "lift"])
def test_equals_counting(measure, make_graph):
    graph = make_graph(80, 6, missing=0.3, seed=2)
    found = label_cooccurrence(graph.sealed(), measure)  # reads no test label
    np.testing.assert_allclose(found.values, counted(graph, measure), atol=1e-6)
    assert found.symmetric
    assert found.label_names == graph.label_names
    _, observed = graph.targets(graph.split_idx["train"], "train")
    both = observed.T.astype(int) @ observed.astype(int)
    np.testing.assert_array_equal(found.counts, both)


def test_a_label_without_positives_is_unknown(make_graph):
    graph = make_graph(40, 3, missing=0.0)
    y, _ = graph.targets(np.arange(40), "train")
    train = graph.split_idx["train"]
    labels = np.zeros((40, 3))
    labels[train] = y[train]
    labels[:, 1] = 0
    edges = np.array([[0, 1], [1, 0]])
    split = dict(graph.split_idx)
    with pytest.warns(LabelWarning):
        bare = type(graph).from_arrays(edges, labels, split=split, name="bare")
    assert np.isnan(label_cooccurrence(bare).values[1]).all()
    assert np.isnan(label_cooccurrence(bare, "lift").values[1]).all()
    assert np.isnan(label_cooccurrence(bare, "jaccard").values[1, 1])
    assert label_cooccurrence(bare, "jaccard").values[0, 1] == 0.0
    with pytest.raises(UsageError, match="measure"):
        label_cooccurrence(bare, "cosine")


def test_planted_groups_show():
    graph = planted(
        600, num_tasks=6, num_groups=2, num_features=8, conflict=1.0, prevalence=(0.3, 0.4), seed=1
    )
    groups = np.array([name.split("_")[0] for name in graph.label_names])
    same = (groups[:, None] == groups) & ~np.eye(6, dtype=bool)
    values = label_cooccurrence(graph).values
    assert values[same].min() > values[groups[:, None] != groups].max()


def random_affinity(seed, *, symmetric=False, unit="cosine"):
    values = np.random.default_rng(seed).uniform(-1, 1, (5, 5))
    values = (values + values.T) / 2 if symmetric else values
    return Affinity(values, f"m{seed}", unit, symmetric=symmetric)


@pytest.mark.parametrize(("scale", "oracle"), [
    ("rank", lambda cells: 2 * (rankdata(cells) - 1) / (len(cells) - 1) - 1), ("zscore", zscore)
])  # fmt: skip
def test_blend_scales_cells_off_the_diagonal(scale, oracle):
    a, b = random_affinity(0), random_affinity(1, symmetric=True, unit="share")
    off = ~np.eye(5, dtype=bool)
    found = blend(a, b, weight=0.3, scale=scale)
    expected = 0.7 * oracle(a.values[off]) + 0.3 * oracle(b.values[off])
    np.testing.assert_allclose(found.values[off], expected, atol=1e-9)
    assert (np.diag(found.values) == expected.max()).all()
    assert not found.symmetric
    both = blend(random_affinity(0, symmetric=True), b, weight=0.3, scale=scale)
    assert both.symmetric


def test_blend_takes_what_is_known_and_weighs_by_counts():
    values = np.array([[1.0, NAN, 0.2], [NAN, 1.0, NAN], [0.2, NAN, 1.0]])
    prior = np.array([[1.0, 0.5, 0.4], [0.5, 1.0, NAN], [0.4, NAN, 1.0]])
    a, b = Affinity(values, "a"), Affinity(prior, "b")
    found = blend(
        a, b, weight=prior_weight([[0, 0, 3], [0, 0, 0], [3, 0, 0]], half=1), scale="none"
    )
    np.testing.assert_allclose(found.values[0], [1.0, 0.5, 0.75 * 0.2 + 0.25 * 0.4])
    assert np.isnan(found.values[1, 2])
    assert found.unit == "cosine"
    np.testing.assert_array_equal(blend(a, a, weight=0.0, scale="none").values, values)


def test_blend_refuses():
    a = random_affinity(0)
    with pytest.raises(ShapeError, match="same tasks"):
        blend(a, Affinity(np.eye(3), "b"))
    with pytest.raises(ShapeError, match="weight"):
        blend(a, a, weight=np.zeros(5))
    for weight in (-0.1, 1.1, NAN):
        with pytest.raises(UsageError, match="weight"):
            blend(a, a, weight=weight)
    with pytest.raises(UsageError, match="scale"):
        blend(a, a, scale="minmax")
    with pytest.raises(UsageError, match="unit"):
        blend(a, random_affinity(1, unit="nats"), scale="none")
    with pytest.raises(UsageError, match="half"):
        prior_weight(np.ones((2, 2)), 0)


def test_cell_mean_equals_numpy_and_resumes():
    rng = np.random.default_rng(0)
    stream = rng.standard_normal((9, 3, 3))
    stream[rng.random(stream.shape) < 0.3] = NAN
    stream[:, 1, 2] = NAN
    stream[1:, 0, 1] = NAN
    stream[0, 0, 1] = 2.0
    mean, resumed = CellMean(3), CellMean(3)
    for number, values in enumerate(stream):
        mean.update(values)
        if number == 4:
            resumed.load_state_dict(mean.state_dict())
        if number > 4:
            resumed.update(values)
    found = mean.affinity("m", "nats")
    known = ~np.isnan(stream)
    np.testing.assert_array_equal(found.counts, known.sum(0))
    for i in range(3):
        for j in range(3):
            cells = stream[known[:, i, j], i, j]
            expected = cells.mean() if len(cells) else NAN
            error = cells.std(ddof=1) / np.sqrt(len(cells)) if len(cells) > 1 else NAN
            np.testing.assert_allclose(found.values[i, j], expected)
            np.testing.assert_allclose(found.stderr[i, j], error)
    np.testing.assert_array_equal(resumed.affinity("m", "nats").values, found.values)
    np.testing.assert_array_equal(resumed.affinity("m", "nats").stderr, found.stderr)
    assert np.isnan(mean.affinity("m", "nats", min_count=2).values[0, 1])
    with pytest.raises(ShapeError, match="values"):
        mean.update(np.zeros((2, 2)))
    with pytest.raises(UsageError, match="counts"):
        mean.load_state_dict({})
    with pytest.raises(UsageError, match="at least one task"):
        CellMean(0)
