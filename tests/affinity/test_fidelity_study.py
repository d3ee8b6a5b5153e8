"""Every measurement of a small trained model against its exact cosines."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.affinity import _fidelity_study, fidelity_study, gradient_cosine
from gnn_mtl.datasets import planted
from gnn_mtl.gradients import _plan, probe
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import SAGE, GATv2, LabelModel, Linear, MLPHead
from gnn_mtl.tasks import conflict_graph


@pytest.fixture(autouse=True)
def _few_directions(monkeypatch):
    monkeypatch.setitem(_plan.SKETCH_DIMS, "jvp_sketch", 8)


@pytest.fixture(scope="module")
def graph():
    return planted(300, 900, 6, 2, num_features=8, seed=0)


def loader(graph, **options):
    return NeighborLoader(
        graph, "train", num_neighbors=[3, 3], batch_size=40, num_workers=0, seed=3, **options
    )


def model(graph, encoder=None, head=None, tasks=6):
    torch.manual_seed(0)
    config = encoder or SAGE(hidden_channels=8)
    return LabelModel(config.build(8), (head or Linear()).build(8, tasks))


def test_modes_costs_and_counts(graph):
    network, batches = model(graph), loader(graph)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    study = fidelity_study(network, batches, counts=(1, 3))
    assert batches.epoch == 0
    assert all(torch.equal(before[name], v) for name, v in network.state_dict().items())
    assert study.nodes == len(graph.split_idx["train"])
    rows = {(row.mode, row.nodes): row for row in study.rows}
    loop, full = (rows[mode, 40].fidelity.to_dict() for mode in ("loop", "full"))
    assert loop == pytest.approx(full, abs=1e-6)
    assert (rows["loop", 40].forwards, rows["loop", 40].backwards) == (1, 6)
    assert (rows["last_layer", 120].forwards, rows["last_layer", 120].backwards) == (3, 0)
    assert rows["jvp_sketch", 40].jvps == 8
    assert rows["streamed", 40].forwards == 0
    assert rows["last_layer split-half", 160].forwards == 4
    assert rows["last_layer split-half", 160].fidelity.noise > 0
    assert ("last_layer stratified", 120) in rows
    assert all(row.cost > 0 for row in study.rows)
    data = study.to_dict()
    assert data["format"] == "gnn-mtl/fidelity"
    assert len(data["rows"]) == len(study.rows)


def test_the_reference_is_the_whole_split(graph):
    """One batch of everything with all neighbours: nothing is drawn, all must agree."""
    batches = NeighborLoader(
        graph, "train", num_neighbors=[-1, -1], batch_size=1000, num_workers=0, seed=3
    )
    network = model(graph)
    study = fidelity_study(network, batches, counts=(1,), edge_share=0.2)
    (full,) = [row for row in study.rows if row.mode == "full"]
    assert full.fidelity.edge_f1 == study.noise.edge_f1 == 1.0
    assert full.fidelity.cosine_max < 1e-5
    exact = gradient_cosine(probe(network, batches.batch(0, 0), mode="full").jacobian)
    edges = conflict_graph(exact, study.tau)[np.triu_indices(6, 1)]
    assert edges.sum() == full.fidelity.exact_edges == 3


@pytest.mark.parametrize(
    ("encoder", "head"), [(GATv2(hidden_channels=8, heads=2), None), (None, MLPHead())]
)
def test_what_a_model_does_not_have_is_left_out(graph, encoder, head):
    study = fidelity_study(model(graph, encoder, head), loader(graph), counts=(1,))
    modes = {row.mode for row in study.rows}
    assert "full" in modes
    assert not any(mode.startswith("streamed") for mode in modes)


def test_nodes_are_sampled_as_the_loader_samples(graph, monkeypatch):
    made = []

    def recorded(*args, **options):
        made.append(NeighborLoader(*args, **options))
        return made[-1]

    monkeypatch.setattr(_fidelity_study, "NeighborLoader", recorded)
    for replace in (True, False):
        fidelity_study(model(graph), loader(graph, replace=replace), counts=(1,))
        assert made[-1].sampler.replace == replace


def test_one_task_has_no_pairs():
    single = planted(300, 900, 6, 2, num_features=8, seed=0).select_tasks([1])
    with pytest.raises(UsageError, match="one task"):
        fidelity_study(model(single, tasks=1), loader(single))
