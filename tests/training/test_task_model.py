"""Models of some tasks: the same logits, whatever the heads; what a short training leaves out."""

import pytest
import torch

from gnn_mtl._core.errors import NonFiniteWarning, TrainingStoppedError, UsageError
from gnn_mtl.nn import SAGE, Adapters, Linear, MLPHead, branch_model, trunk_model
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import task_model, train_subset, training_loader

T = 5
GROUPS = Grouping.of([[0, 3], [1], [2, 4]], T)
ENCODER = SAGE(hidden_channels=8)


@pytest.fixture
def batch(tiny, new_model, budget):
    return training_loader(tiny, new_model(), budget(), seed=0).batch(0, 0)


@pytest.mark.parametrize("tasks", [[1, 3], [4, 2, 0], [2]])
@pytest.mark.parametrize("kind", ["linear", "mlp", "branch", "trunk"])
def test_logits_are_the_models_own(kind, tasks, batch, new_model):
    torch.manual_seed(0)
    made = {
        "linear": lambda: new_model(head=Linear()),
        "mlp": lambda: new_model(head=MLPHead()),
        "branch": lambda: branch_model(ENCODER, 6, GROUPS),
        "trunk": lambda: trunk_model(ENCODER, 6, T, 3, noise=1.0),
    }
    model = made[kind]().eval()
    part = task_model(model, tasks).eval()
    torch.testing.assert_close(part(batch), model(batch)[:, tasks])
    assert part.num_tasks == len(tasks)


def test_heads_that_groups_share_cannot_be_cut(new_model):
    model = new_model(head=Adapters(groups=GROUPS.groups))
    with pytest.raises(UsageError, match="AdapterHeads; begin with fresh heads"):
        task_model(model, [1, 3])


@pytest.mark.parametrize("tasks", [[0], [1, 3]])
def test_a_gradient_that_is_never_finite_stops_a_short_training(tasks, tiny, new_model, budget):
    """As in ``fit``, rather than going through the whole budget."""
    model = new_model(num_tasks=len(tasks))
    model.shared_parameters()[0].register_hook(lambda grad: grad * torch.nan)
    with (
        pytest.warns(NonFiniteWarning, match="gradient of the shared"),
        pytest.raises(TrainingStoppedError, match="10 steps in a row"),
    ):
        train_subset(model, tiny.select_tasks(tasks), budget())


def test_what_a_short_training_leaves_out_is_counted_by_name(tiny, new_model, budget):
    model = new_model(num_tasks=2)
    with torch.no_grad():
        model.heads.weight[1, 0] = torch.nan
    with pytest.warns(NonFiniteWarning, match="task_3"):
        done = train_subset(model, tiny.select_tasks([1, 3]), budget())
    assert done.cost.skipped_losses == 12
    assert done.cost.skipped_scores == 4
