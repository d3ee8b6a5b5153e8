"""Counters add up and show by name."""

from gnn_mtl._core.cost import CostMeter


def test_counters_add_up():
    meter = CostMeter(forwards=1, nodes=10)
    meter.backwards += 2
    meter.add(CostMeter(forwards=3, jvps=4, optimizer_steps=5, label_gradients=6, nodes=7))
    assert meter.to_dict() == {
        "forwards": 4,
        "backwards": 2,
        "jvps": 4,
        "optimizer_steps": 5,
        "label_gradients": 6,
        "nodes": 17,
    }
