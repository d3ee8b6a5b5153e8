"""What a prediction costs, against numbers counted by hand."""

import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import MLP, SAGE, Adapters, LabelModel, Linear, branch_model
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import count_flops, inference_cost

T, F, H = 5, 6, 8
GROUPS = Grouping.of([[0, 3], [1], [2, 4]], T)


def joint(encoder=None, head=None):
    return LabelModel(encoder or SAGE(hidden_channels=H).build(F), (head or Linear()).build(H, T))


def test_matrix_products_by_hand(tiny):
    """An MLP reads 60 nodes: F x H, H x H and H x T products, two operations an entry."""
    found = inference_cost(joint(MLP(hidden_channels=H).build(F)), tiny, num_nodes=60)
    assert found.mflops_per_node * 1e6 == pytest.approx(2 * (F * H + H * H + H * T))
    assert found.parameters == (F + 1) * H + (H + 1) * H + 4 * H + (H + 1) * T
    assert found.forwards == 1
    assert found.ms_per_1000_nodes > 0


def test_aggregations_by_hand(tiny):
    model = joint()
    batch = NeighborLoader(tiny, num_neighbors=[3, 2], batch_size=60, seed=0).batch(0, 0)
    first, second = batch.blocks
    expected = (
        first.num_edges * F + second.num_edges * H
        + 2 * 2 * (first.num_dst * F * H + second.num_dst * H * H)
        + 2 * batch.batch_size * H * T
    )  # fmt: skip
    with torch.no_grad():
        assert count_flops(lambda: model.eval()(batch)) == expected


def test_one_forward_or_one_per_group(tiny):
    one = inference_cost(joint(), tiny, repeats=0)
    deep = joint(SAGE(hidden_channels=H, num_layers=3).build(F))
    of_two_depths = inference_cost([joint(), deep], tiny, repeats=0).mflops_per_node
    alone = inference_cost(deep, tiny, repeats=0).mflops_per_node
    assert of_two_depths == pytest.approx(one.mflops_per_node + alone)
    three = inference_cost([joint() for _ in range(3)], tiny, repeats=0)
    assert three.forwards == 3 * one.forwards == 3
    assert three.parameters == 3 * one.parameters
    assert three.mflops_per_node == pytest.approx(3 * one.mflops_per_node)
    assert one.ms_per_1000_nodes is None
    trunks = inference_cost(branch_model(SAGE(hidden_channels=H), F, GROUPS), tiny, repeats=0)
    assert trunks.forwards == 1
    heads = 2 * H * T / 1e6
    assert trunks.mflops_per_node == pytest.approx(3 * (one.mflops_per_node - heads) + heads)
    adapted = inference_cost(joint(head=Adapters(groups=GROUPS.groups, rank=2)), tiny, repeats=0)
    extra = 2 * (3 * H * 2 + 2 * T) / 1e6
    products = 2 * T * H * 2 / 60 / 1e6  # heads by adapters, once a batch
    assert adapted.mflops_per_node - one.mflops_per_node == pytest.approx(extra + products)
    assert adapted.parameters - one.parameters == 3 * ((H + 1) * 2 + 2 * H)


def test_models_stay_as_they_are(tiny):
    model = joint().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    assert inference_cost(model, tiny, seed=1).to_dict()["forwards"] == 1
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("options", [{"num_nodes": 0}, {"repeats": -1}, {"num_neighbors": ()}])
def test_bad_arguments(tiny, options):
    with pytest.raises(UsageError, match="Expected a model"):
        inference_cost(joint(), tiny, **options)
    with pytest.raises(UsageError, match="Found 0 models"):
        inference_cost([], tiny)
