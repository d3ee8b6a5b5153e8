"""A budget of label-gradients is one for the whole run, however many models it trains."""

import pytest

from gnn_mtl.runs import train
from gnn_mtl.schedulers import Joint, Separate, Single


@pytest.mark.parametrize(
    ("plan", "steps", "spent"),
    [
        (Joint(), 6, 36),
        (Separate(groups=((0, 1, 2), (3, 4, 5))), 12, 36),  # as many steps as the joint model, each
        (Separate(groups=((0, 1, 2, 3), (3, 4, 5))), 10, 35),  # 4/7 and 3/7 of it
        (Single(), 36, 36),
        (Single(tasks=(4, 1)), 12, 12),  # a sample of labels spends its part
    ],
)
def test_models_of_some_labels_share_it(plan, steps, spent, quick, graph, tmp_path):
    told = {"max_label_gradients": 36, "epochs": 50, "patience": None}
    cost = train(quick(scheduler=plan, train=told), tmp_path / "run", graph=graph).summary.cost
    assert (cost["steps"], cost["label_gradients"]) == (steps, spent)
