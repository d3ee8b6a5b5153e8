"""From a configuration to dataset, features and model."""

import dataclasses

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import FeatureError, RecordError, UsageError
from gnn_mtl.datasets import planted, structural_features
from gnn_mtl.nn import GCN, GIN, MLP, SIGN, GATv2, MLPHead
from gnn_mtl.runs import Features, RunConfig, build_graph, build_model, load_trained, with_features


def all_features(graph):
    return graph.features(np.arange(graph.num_nodes))


@pytest.mark.parametrize(
    ("use", "own", "structural"),
    [("auto", 1, 1), ("both", 1, 1), ("own", 1, 0), ("structural", 0, 1)],
)
def test_features(use, own, structural, graph, quick):
    config = quick(features=Features(use=use, dim=4))
    x = all_features(build_graph(config))
    expected = [all_features(graph)] * own + [
        structural_features(graph, dim=4, seed=0)
    ] * structural
    np.testing.assert_array_equal(x, np.concatenate(expected, axis=1))
    np.testing.assert_array_equal(x, all_features(with_features(graph, config)))


@pytest.mark.parametrize("use", ["auto", "structural", "both"])
def test_a_graph_without_features_gets_structural_ones(use, quick):
    bare = planted(60, num_tasks=2, num_groups=1, num_features=0)
    x = all_features(with_features(bare, quick(features=Features(use=use, dim=3))))
    np.testing.assert_array_equal(x, structural_features(bare, dim=3, seed=0))


def test_features_of_its_own_that_a_graph_has_not(quick):
    bare = planted(60, num_tasks=2, num_groups=1, num_features=0)
    with pytest.raises(FeatureError, match="no features of its own"):
        with_features(bare, quick(features=Features(use="own")))
    with pytest.raises(UsageError, match="dim"):
        Features(dim=0)


def test_a_graph_smaller_than_the_embedding(make_graph):
    graph = make_graph(30, num_features=3)
    x = all_features(with_features(graph, RunConfig()))
    assert x.shape == (30, 3 + 30 + 1)
    assert np.isfinite(x).all()


def test_the_embedding_depends_on_the_graph_alone(graph, make_graph, quick):
    """It is kept between calls, so another graph must not get it."""
    config = quick(features=Features(use="structural", dim=4))
    one = all_features(with_features(graph, config))
    other = make_graph(240, num_tasks=6)
    np.testing.assert_array_equal(
        all_features(with_features(other, config)), structural_features(other, dim=4, seed=0)
    )
    np.testing.assert_array_equal(all_features(with_features(graph, config)), one)
    part = graph.select_tasks([2])
    np.testing.assert_array_equal(all_features(with_features(part, config)), one)
    seeded = all_features(with_features(graph, dataclasses.replace(config, seed=5)))
    np.testing.assert_array_equal(seeded, one)


def test_sign_sees_its_neighbourhood(graph, quick):
    plain = quick(features=Features(use="own"))
    hops = dataclasses.replace(plain, encoder=SIGN(hops=2))
    x = all_features(with_features(graph, hops))
    assert x.shape[1] == 3 * graph.num_features
    np.testing.assert_allclose(x[:, : graph.num_features], all_features(graph), rtol=1e-6)


@pytest.mark.parametrize("encoder", [GCN(), GATv2(), GIN(), SIGN(), MLP()], ids=lambda e: e.kind)
def test_the_model_depends_on_the_seed_alone(encoder, graph, quick):
    config = quick(encoder=dataclasses.replace(encoder, hidden_channels=8), head=MLPHead())
    seen = with_features(graph, config)
    state = torch.get_rng_state()
    model = build_model(config, seen)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    again = build_model(config, seen)
    other = build_model(dataclasses.replace(config, seed=1), seen)
    weights, equal = model.state_dict(), again.state_dict()
    assert all(torch.equal(weights[name], equal[name]) for name in weights)
    different = other.state_dict()
    assert not all(torch.equal(weights[name], different[name]) for name in weights)
    assert model.num_tasks == graph.num_tasks


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_load_trained_needs_a_run(where, tmp_path):
    with pytest.raises(RecordError, match=r"best\.safetensors"):
        load_trained(tmp_path / where)
