"""The table of methods, and what every member of it promises."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.affinity import LABEL_METHODS, MODEL_METHODS, cosine_affinity, estimate_affinity
from gnn_mtl.gradients import estimate_cosines, probe
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.tasks import Affinity

OPTIONS = {"jvp_sketch": {"sketch_dim": 8}}
ORDER = [3, 1, 4, 0, 2]
SYMMETRIC = set(LABEL_METHODS) | set(MODEL_METHODS) - {"tag", "tag_linear"}


def permuted(model, order):
    """The model with its tasks in another order."""
    with torch.no_grad():
        for parameter in model.head_parameters():
            parameter.copy_(parameter[order].clone())
    return model


@pytest.mark.parametrize("method", MODEL_METHODS)
class TestEveryModelMethod:
    def test_permuting_tasks_permutes_cells(self, method, make_model, make_batches):
        found = estimate_affinity(
            make_model(), make_batches(), method=method, **OPTIONS.get(method, {})
        )
        moved = estimate_affinity(
            permuted(make_model(), ORDER), make_batches(order=ORDER), method=method,
            **OPTIONS.get(method, {}),
        )  # fmt: skip
        cells = np.ix_(ORDER, ORDER)
        np.testing.assert_allclose(moved.values, found.values[cells], rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(moved.counts, found.counts[cells])
        assert found.known.all()

    def test_a_task_never_observed_is_unknown(self, method, make_model, make_batches):
        found = estimate_affinity(
            make_model(), make_batches(hidden=[2]), method=method, **OPTIONS.get(method, {})
        )
        assert np.isnan(found.values[2]).all()
        assert np.isnan(found.values[:, 2]).all()
        rest = [0, 1, 3, 4]
        assert found.known[np.ix_(rest, rest)].all()
        assert (found.counts[2] == 0).all()
        everyone = estimate_affinity(
            make_model(), make_batches(), method=method, **OPTIONS.get(method, {})
        ).values
        np.testing.assert_allclose(
            found.values[np.ix_(rest, rest)], everyone[np.ix_(rest, rest)], rtol=1e-6, atol=1e-9
        )

    def test_one_task(self, method, make_model, make_batches):
        found = estimate_affinity(
            make_model(1), make_batches(1), method=method, **OPTIONS.get(method, {})
        )
        assert found.values.shape == (1, 1)
        assert found.values[0, 0] > 0  # its own step helps

    def test_is_what_it_says_and_survives_a_file(self, method, make_model, make_batches, tmp_path):
        found = estimate_affinity(
            make_model(), make_batches(), method=method, **OPTIONS.get(method, {})
        )
        assert found.symmetric == (method in SYMMETRIC)
        assert np.isfinite(found.stderr[~np.eye(5, dtype=bool)]).all()
        found.save(tmp_path / "a.npz")
        again = Affinity.load(tmp_path / "a.npz")
        np.testing.assert_array_equal(again.values, found.values)
        np.testing.assert_array_equal(again.stderr, found.stderr)
        assert again.details == found.details

    def test_leaves_the_model_and_the_loader(self, method, make_model, make_graph):
        model = make_model().float().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        graph = make_graph(60, 5, seed=5)
        loader = NeighborLoader(graph, num_neighbors=[3, 3], batch_size=12, num_workers=0)
        random = torch.get_rng_state()
        found = estimate_affinity(
            model, loader, method=method, max_batches=2, **OPTIONS.get(method, {})
        )
        assert found.label_names == graph.label_names
        assert loader.epoch == 0
        assert model.training
        assert torch.equal(torch.get_rng_state(), random)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])


@pytest.mark.parametrize("method", LABEL_METHODS)
def test_label_methods_need_a_graph_only(method, make_graph):
    graph = make_graph(60, 5, seed=5)
    found = estimate_affinity(None, graph, method=method)
    loader = NeighborLoader(graph, num_neighbors=[3], batch_size=12)
    np.testing.assert_array_equal(
        estimate_affinity(None, loader, method=method).values, found.values
    )
    assert found.label_names == graph.label_names
    with pytest.raises(UsageError, match="TaskGraph"):
        estimate_affinity(None, [], method=method)


def test_what_does_not_exist_is_answered_with_what_does(make_model, make_batches, make_graph):
    model, batches = make_model(), make_batches()
    with pytest.raises(
        UsageError, match=r"last_layer, .*tag, .*lift. Found 'tga'. Did you mean 'tag'"
    ):
        estimate_affinity(model, batches, method="tga")
    with pytest.raises(UsageError, match=r"'tag' has no option debias. It has: lr, rule"):
        estimate_affinity(model, batches, method="tag", debias=True)
    with pytest.raises(UsageError, match=r"'lift' has no option measure. It has: none"):
        estimate_affinity(None, make_graph(), method="lift", measure="phi")
    with pytest.raises(UsageError, match="needs a model"):
        estimate_affinity(None, batches)
    with pytest.raises(UsageError, match="needs a model"):
        estimate_affinity(model, make_graph())
    with pytest.raises(UsageError, match="max_batches"):
        estimate_affinity(model, batches, max_batches=0)
    with pytest.raises(UsageError, match="at least one batch"):
        estimate_affinity(model, [])


def test_cosines_are_those_of_all_batches_as_one(make_model, make_batches):
    model, batches = make_model(), make_batches(batch_size=5)
    assert len(batches) > 4
    rows = probe(model, batches, mode="full").jacobian
    expected = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
    for sections in (1, 2, 4, 100):
        found = cosine_affinity(model, batches, mode="full", sections=sections)
        np.testing.assert_allclose(found.values, expected, atol=1e-9)
        assert (found.stderr is None) == (sections == 1)
    observed = sum(b.observed.sum(0) for b in batches).numpy()
    assert (found.counts == np.minimum.outer(observed, observed)).all()
    assert found.details["cost"]["label_gradients"] == 5 * len(batches)


def test_errors_and_noise_free_cosines_equal_those_of_the_gradients_room(make_model, make_batches):
    """One batch a section: the jackknife over cross products of blocks."""
    model, batches = make_model(), make_batches(batch_size=9)
    assert len(batches) == 4
    for debias in (False, True):
        found = cosine_affinity(model, batches, debias=debias)
        other = estimate_cosines(model, batches, unbiased=debias)
        known = ~np.isnan(found.values)
        assert known.sum() > 9
        if not debias:
            np.testing.assert_allclose(found.stderr, other.standard_error, atol=1e-9)
        np.testing.assert_allclose(found.values[known], other.cosine.numpy()[known], atol=1e-6)


def test_noise_share_is_what_noise_adds_to_norms(make_model, make_batches):
    """Against the spread of the batches' gradients: E|mean|^2 = |truth|^2 + variance / n."""
    model, batches = make_model(), make_batches(batch_size=4, hidden=[1])
    batches = [b for b in batches if b.batch_size == 4]
    shares = cosine_affinity(model, batches, mode="full", sections=100).details["noise_share"]
    assert shares[1] is None
    full = [b for b in batches if bool(b.observed[:, 0].all())]  # equal weights for task 0
    rows = torch.stack([probe(model, b, mode="full").jacobian[0] for b in full])
    variance = rows.var(dim=0).sum() / len(rows)
    found = cosine_affinity(model, full, mode="full", sections=100).details["noise_share"][0]
    assert found == pytest.approx(float(variance / (rows.mean(0) ** 2).sum()), abs=1e-3)


def test_debias_needs_two_batches(make_model, make_batches):
    with pytest.raises(UsageError, match="two batches"):
        cosine_affinity(make_model(), make_batches(batch_size=100), debias=True)
    with pytest.raises(UsageError, match="sections"):
        cosine_affinity(make_model(), make_batches(), sections=0)
