"""Unbiased cosines and their errors, by simulation and on models."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients import draw_probe_nodes, estimate_cosines, probe, task_gramian
from gnn_mtl.graph import MiniBatch, NeighborLoader
from gnn_mtl.linalg import cosine_of_rows


@pytest.fixture(scope="module")
def rare_graph():
    """A planted graph with labels of very different frequency; some never positive in training."""
    from gnn_mtl.datasets import planted

    return planted(
        4000, num_tasks=8, num_groups=2, num_features=6, prevalence=(0.004, 0.4), seed=3,
        observed_share=0.7,
    )  # fmt: skip


def blocks(graph, nodes, size, hops=0):
    loader = NeighborLoader(
        graph, "train", num_neighbors=[-1] * hops, batch_size=size, input_nodes=nodes,
        shuffle=False,
    )  # fmt: skip
    return [
        MiniBatch(b.n_id, b.batch_size, b.x.double(), b.blocks, b.y, b.observed)
        for b in (loader.batch(0, i) for i in range(len(loader)))
    ]


@pytest.fixture(scope="module")
def eight(rare_graph):
    """A float64 model of the 8 tasks, a few steps into training."""
    from gnn_mtl.nn import MLP, LabelModel, Linear, masked_bce

    torch.manual_seed(0)
    encoder = MLP(hidden_channels=8, norm="none", dropout=0.0).build(6)
    model = LabelModel(encoder, Linear().build(8, 8)).double()
    batch = blocks(rare_graph, rare_graph.split_idx["train"], 10_000)[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        masked_bce(model(batch), batch.y, batch.observed).sum().backward()
        optimizer.step()
    return model


def test_products_between_blocks_are_unbiased_where_plain_ones_are_not(eight, rare_graph):
    """Over many random draws of nodes the mean is the Gramian of the whole split."""
    train = rare_graph.split_idx["train"]
    whole = blocks(rare_graph, train, 10_000)[0]
    truth = task_gramian(eight, whole, mode="full").gramian
    rng = np.random.default_rng(0)
    plain, unbiased = [], []
    for _ in range(80):
        drawn = rng.choice(train, 100, replace=True)
        found = task_gramian(eight, blocks(rare_graph, drawn, 50), mode="full", per_batch=True)
        plain.append(found.gramian)
        unbiased.append(found.unbiased())
    common = torch.tensor(rare_graph.positives("train") > 200)
    assert int(common.sum()) >= 2
    off = {}
    for name, draws in (("plain", plain), ("unbiased", unbiased)):
        draws = torch.stack(draws)
        error = (draws.mean(dim=0) - truth) / (draws.std(dim=0) / len(draws) ** 0.5)
        off[name] = error[common][:, common].diagonal()
    assert float(off["plain"].min()) > 5  # norms inflated, every time
    assert float(off["unbiased"].abs().max()) < 4


def test_errors_say_how_far_other_nodes_are(eight, rare_graph):
    """The jackknife's error is the spread of the estimate over draws, to a factor."""
    train = rare_graph.split_idx["train"]
    rng = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(40):
        drawn = rng.choice(train, 800, replace=True)
        found = estimate_cosines(eight, blocks(rare_graph, drawn, 100), mode="full", unbiased=False)
        values.append(found.cosine)
        errors.append(found.standard_error)
    assert found.num_blocks == 8
    assert found.label_gradients == 64
    common = np.flatnonzero(rare_graph.positives("train") > 200)
    i, j = np.array([(a, b) for a in common for b in common if a < b]).T
    spread = torch.stack(values).std(dim=0)[i, j]
    said = torch.stack(errors).square().mean(dim=0).sqrt()[i, j]
    ratio = (said / spread).tolist()
    assert min(ratio) > 0.6
    assert max(ratio) < 1.8


def test_unbiased_cosines_of_much_data_are_the_plain_ones(eight, rare_graph):
    nodes = np.random.default_rng(2).permutation(rare_graph.split_idx["train"])
    batches = blocks(rare_graph, nodes, 300)
    exact = cosine_of_rows(probe(eight, batches, mode="full").jacobian)
    common = torch.tensor(rare_graph.positives("train") > 200)
    for unbiased in (True, False):
        found = estimate_cosines(eight, batches, mode="full", unbiased=unbiased)
        near = (found.cosine - exact).abs()[common][:, common]
        assert float(near.max()) < (0.1 if unbiased else 1e-9)


def test_too_few_blocks_are_refused(eight, rare_graph):
    batches = blocks(rare_graph, rare_graph.split_idx["train"][:200], 100)
    with pytest.raises(UsageError, match="at least 3 blocks"):
        estimate_cosines(eight, batches)
    with pytest.raises(UsageError, match="at least 2 blocks"):
        estimate_cosines(eight, batches[:1], unbiased=False)
    assert estimate_cosines(eight, batches, unbiased=False).num_blocks == 2


def test_every_task_has_positives_among_few_probe_nodes(rare_graph):
    train = rare_graph.split_idx["train"]
    y, observed = rare_graph.targets(train, "train")
    positives = (observed & (y > 0)).sum(axis=0)
    assert positives.min() < 15
    for seed in range(5):
        sample = draw_probe_nodes(rare_graph, 200, seed=seed)
        assert len(sample.nodes) == len(np.unique(sample.nodes)) == 200
        assert np.isin(sample.nodes, train).all()
        y, observed = rare_graph.targets(sample.nodes, "train")
        drawn = (observed & (y > 0)).sum(axis=0)
        assert (drawn >= np.minimum(positives, 8)).all()
        uniform = draw_probe_nodes(rare_graph, 200, rare_share=0.0, seed=seed)
        np.testing.assert_allclose(uniform.inclusion, 200 / len(train))
    same = draw_probe_nodes(rare_graph, 200, seed=4)
    assert np.array_equal(same.nodes, sample.nodes)
    everything = draw_probe_nodes(rare_graph, 10**6)
    assert sorted(everything.nodes) == sorted(train)
    assert (everything.inclusion == 1).all()


def test_probabilities_are_those_of_the_draw(rare_graph):
    """How often a node is drawn is what its inclusion says."""
    train = np.sort(rare_graph.split_idx["train"])
    said = np.full(len(train), np.nan)
    hits = np.zeros(len(train))
    for seed in range(300):
        sample = draw_probe_nodes(rare_graph, 400, seed=seed)
        place = np.searchsorted(train, sample.nodes)
        hits[place] += 1
        known = ~np.isnan(said[place])
        np.testing.assert_allclose(said[place][known], sample.inclusion[known])
        said[place] = sample.inclusion
    drawn = ~np.isnan(said)
    expected = said[drawn]
    deviation = (hits[drawn] / 300 - expected) / np.sqrt(expected * (1 - expected) / 300 + 1e-12)
    assert np.abs(deviation[expected < 1]).max() < 5.5
    assert (hits[drawn][expected == 1] == 300).all()


@pytest.mark.parametrize("mode", ["full", "last_layer", "representation"])
def test_weighted_probes_are_unbiased(mode, eight, rare_graph):
    train = rare_graph.split_idx["train"]
    whole = probe(eight, blocks(rare_graph, train, 10_000), mode="full").jacobian
    if mode == "last_layer":
        whole = probe(eight, blocks(rare_graph, train, 10_000), mode=mode).jacobian
    rows = []
    for seed in range(60):
        sample = draw_probe_nodes(rare_graph, 300, seed=seed)
        batches = blocks(rare_graph, sample.nodes, 120)
        if mode == "representation":  # its columns are the nodes; all of them sum to the bias's
            found = probe(eight, batches, mode=mode, sample=sample).jacobian
            assert found.shape == (8, 300 * 8)
            gram = task_gramian(eight, batches, mode=mode, sample=sample).gramian
            torch.testing.assert_close(gram, found @ found.T, rtol=1e-9, atol=1e-12)
            return
        rows.append(probe(eight, batches, mode=mode, sample=sample).jacobian)
    rows = torch.stack(rows)
    error = (rows.mean(dim=0) - whole) / (rows.std(dim=0) / len(rows) ** 0.5 + 1e-12)
    assert float(error.abs().max()) < 5.5
    assert float(error.square().mean()) < 1.3


def test_nodes_outside_the_sample_are_refused(eight, rare_graph):
    sample = draw_probe_nodes(rare_graph, 50)
    train = rare_graph.split_idx["train"]
    with pytest.raises(UsageError, match="of the sample only"):
        probe(eight, blocks(rare_graph, train, 100), sample=sample)
    for arguments in ({"num_nodes": 0}, {"num_nodes": 5, "rare_share": 1.0}):
        with pytest.raises(UsageError, match="num_nodes"):
            draw_probe_nodes(rare_graph, **arguments)
