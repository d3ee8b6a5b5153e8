"""Data maps: Welford against numpy, what they look at, and that looking changes nothing."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.cluster import KMeans

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.datasets import TaskGraph, planted
from gnn_mtl.nn import exact_logits
from gnn_mtl.schedulers import JointScheduler
from gnn_mtl.training import DataMapHooks, DataMaps, data_maps, fit


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    y = rng.random((7, 4)) < 0.3
    observed = rng.random((7, 4)) < 0.8
    observed[6] = False
    return y.astype(np.float32), observed, rng.random((9, 7, 4))


def test_welford_equals_numpy(cells):
    y, observed, epochs = cells
    maps = DataMaps(y, observed)
    for p in epochs:
        maps.add(p)
    true = np.where(y[None] > 0, epochs, 1 - epochs)
    np.testing.assert_allclose(maps.mean(), np.where(observed, true.mean(0), np.nan))
    np.testing.assert_allclose(maps.std(), np.where(observed, true.std(0), np.nan))


def test_unknown_cells_speak_for_nobody(cells):
    y, observed, epochs = cells
    maps = DataMaps(y, observed)
    maps.add(epochs[0])
    maps.add(epochs[1])
    rows = maps.features()
    assert rows.shape == (4, 14)
    np.testing.assert_allclose(rows[:, :7][observed.T], maps.mean().T[observed.T])
    np.testing.assert_allclose(rows[:, 7:][observed.T], maps.std().T[observed.T])
    for node in range(6):
        expected = np.nanmean(maps.mean()[node])
        np.testing.assert_allclose(rows[~observed[node], node], expected)
    assert not rows[:, [6, 13]].any()  # nobody is known there


def test_state_goes_on(cells):
    y, observed, epochs = cells
    whole, first, second = (DataMaps(y, observed) for _ in range(3))
    for p in epochs:
        whole.add(p)
    for p in epochs[:4]:
        first.add(p)
    second.load_state_dict(first.state_dict())
    first.add(np.zeros((7, 4)))  # no memory is shared
    kept = second.state_dict()
    before = {name: kept[name].numpy().copy() for name in ("mean", "squares")}
    for p in epochs[4:]:
        second.add(p)
    assert np.array_equal(second.features(), whole.features())
    for name, value in before.items():
        assert np.array_equal(kept[name], value)
    assert second.epochs == 9


def test_bad_arguments(cells, tiny, new_model, budget):
    y, observed, _ = cells
    with pytest.raises(ShapeError, match=r"\[n, T\]"):
        DataMaps(y, observed[:3])
    with pytest.raises(ShapeError, match=r"\(7, 4\)"):
        DataMaps(y, observed).add(np.zeros((7, 3)))
    with pytest.raises(UsageError, match="at least one epoch"):
        DataMaps(y, observed).features()
    with pytest.raises(UsageError, match="num_nodes"):
        DataMapHooks(new_model(), tiny, budget(), num_nodes=0)
    with pytest.raises(UsageError, match="raise --epochs"):
        data_maps(new_model(), tiny, budget(epochs=1))


@pytest.mark.parametrize("every", [1, 2])
def test_hooks_look_once_an_epoch_and_change_no_bit(
    tiny, new_model, budget, assert_same_weights, every
):
    plain, watched = new_model(), new_model()
    fit(plain, tiny, JointScheduler(5), budget(epochs=6))
    hooks = DataMapHooks(watched, tiny, budget(epochs=6), num_nodes=20, every=every, seed=1)
    fit(watched, tiny, JointScheduler(5), budget(epochs=6), hooks=hooks)
    assert_same_weights(plain, watched)
    assert hooks.maps.epochs == (6 - 1) // every  # the end of the last epoch is not seen
    assert set(hooks.nodes) <= set(tiny.split_idx["train"])


def test_what_is_recorded(tiny, new_model, budget, monkeypatch):
    """Weights of the ends of epochs, true classes of training cells only."""
    model, seen = new_model(), []
    hooks = DataMapHooks(model, tiny, budget(), num_nodes=12)
    original = DataMaps.add

    def add(self, probabilities):
        seen.append((exact_logits(model, tiny, hooks.nodes), probabilities))
        original(self, probabilities)

    monkeypatch.setattr(DataMaps, "add", add)
    fit(model, tiny, JointScheduler(5), budget(), hooks=hooks)
    assert len(seen) == 2
    for logits, probabilities in seen:
        np.testing.assert_allclose(probabilities, expit(logits), rtol=1e-6)
    y, observed = tiny.targets(hooks.nodes, "train")
    np.testing.assert_array_equal(np.isnan(hooks.maps.mean()), ~observed)
    p = np.mean([expit(logits) for logits, _ in seen], axis=0)
    np.testing.assert_allclose(
        hooks.maps.mean()[observed], np.where(y > 0, p, 1 - p)[observed], rtol=1e-5
    )


def test_a_resumed_training_collects_the_same(tiny, new_model, budget, tmp_path):
    def hooks_of(model):
        return DataMapHooks(model, tiny, budget(epochs=6), num_nodes=20)

    whole = new_model()
    expected = hooks_of(whole)
    fit(whole, tiny, JointScheduler(5), budget(epochs=6), hooks=expected)
    model = new_model()
    fit(
        model, tiny, JointScheduler(5), budget(epochs=6, max_steps=10, lr_schedule="constant"),
        hooks=hooks_of(model), checkpoints=tmp_path,
    )  # fmt: skip
    model, other = new_model(), new_model()
    again = hooks_of(model)
    fit(
        model, tiny, JointScheduler(5), budget(epochs=6, lr_schedule="constant"), hooks=again,
        checkpoints=tmp_path, resume=True,
    )  # fmt: skip
    straight = hooks_of(other)
    fit(other, tiny, JointScheduler(5), budget(epochs=6, lr_schedule="constant"), hooks=straight)
    assert again.maps.epochs == straight.maps.epochs == expected.maps.epochs == 5
    np.testing.assert_array_equal(again.maps.features(), straight.maps.features())


def test_duplicated_labels_cluster_together(new_model, budget):
    """Two labels, each three times: the maps of copies are alike, those of others are not."""
    graph = planted(
        300, num_tasks=2, num_groups=2, prevalence=(0.3, 0.4), label_noise=0.0,
        feature_noise=0.5, seed=2,
    )  # fmt: skip
    y = np.stack([graph.targets(np.array([n]), s)[0][0] for n, s in _cells(graph)])
    order = [0, 1, 0, 1, 0, 1]
    copies = TaskGraph.from_arrays(
        graph.csc.to_edge_index(), y[:, order], x=graph.features(np.arange(300)),
        split=graph.split_idx, name="copies",
    )  # fmt: skip
    model = new_model(dropout=0, num_tasks=6, in_channels=copies.num_features)
    maps = data_maps(model, copies, budget(epochs=25, batch_size=45), num_nodes=100)
    found = KMeans(2, n_init=10, random_state=0).fit_predict(maps.features())
    assert [int(c) for c in found == found[0]] == [1, 0, 1, 0, 1, 0]


def _cells(graph):
    split = {n: s for s, nodes in graph.split_idx.items() for n in nodes}
    return [(n, split[n]) for n in range(graph.num_nodes)]
