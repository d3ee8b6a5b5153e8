"""Training whose schedule is fed by what the steps leave behind, and the passes a run counts."""

import signal

import pytest
import torch

from gnn_mtl._core.errors import InterruptedRunError, UsageError
from gnn_mtl.nn import MLPHead
from gnn_mtl.schedulers import ColoringScheduler, JointScheduler
from gnn_mtl.training import fit

pytestmark = pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning")


def schedule(**options):
    return ColoringScheduler(5, **({"refresh_period": 5, "tau": -0.2, "seed": 1} | options))


def test_the_schedule_is_refreshed_from_the_steps(tiny, new_model, budget):
    config = budget(probe="streamed", stream_every=2)
    coloring = schedule()
    done = fit(new_model(), tiny, coloring, config)
    assert done.cost.refreshes == done.cost.probes >= 2
    assert done.cost.forwards == done.cost.steps + 1  # only the first window has a pass of its own
    assert done.cost.backwards == done.cost.steps
    assert coloring.affinity().values.shape == (5, 5)


def test_streaming_changes_no_weight_of_a_joint_training(
    tiny, new_model, budget, assert_same_weights
):
    """Colouring at tau = 1 trains jointly and asks at the end of a warm-up only."""
    one, other, warm = new_model(), new_model(), new_model()
    fit(one, tiny, JointScheduler(5), budget())
    fit(other, tiny, schedule(tau=1.0), budget(probe="streamed"))
    assert_same_weights(one, other)
    config = budget(probe="streamed", stream_every=2)
    done = fit(warm, tiny, schedule(warmup_steps=12), config)
    assert done.cost.probes > 0
    assert_same_weights(one, warm)


@pytest.mark.parametrize("source", ["active", "both"])
def test_gradients_of_active_tasks_are_refused_before_the_first_step(
    source, tiny, new_model, budget, steps_seen, assert_same_weights
):
    """Also where the warm-up would not ask for them yet."""
    model = new_model()
    with pytest.raises(UsageError, match="ema-source probe"):
        fit(model, tiny, schedule(ema_source=source, warmup_steps=6), budget(probe="streamed"))
    assert not steps_seen.list
    assert_same_weights(model, new_model())


def test_what_is_watched_does_not_change_the_steps(tiny, new_model, budget, assert_same_weights):
    """Equal groups, so equal training, however the gradients are measured: tau = -1."""
    trained = [new_model(), new_model()]
    for model, probe in zip(trained, ("streamed", "last_layer"), strict=True):
        fit(model, tiny, schedule(tau=-1.0), budget(probe=probe))
    assert_same_weights(*trained)


@pytest.mark.parametrize("stop", [3, 7])
def test_resume_equals_no_interruption(
    stop, tiny, new_model, budget, steps_seen, tmp_path, assert_same_weights
):
    config = budget(probe="streamed", stream_every=2, patience=9)
    straight, first, second = new_model(), new_model(), new_model(1)
    expected = fit(straight, tiny, schedule(), config, checkpoints=tmp_path / "straight")
    steps_seen.list.clear()

    def interrupt(step):
        if step == stop:
            signal.raise_signal(signal.SIGTERM)

    steps_seen.hooks.append(interrupt)
    with pytest.raises(InterruptedRunError):
        fit(first, tiny, schedule(), config, checkpoints=tmp_path / "stopped")
    steps_seen.hooks.clear()
    again = schedule()
    done = fit(second, tiny, again, config, checkpoints=tmp_path / "stopped", resume=True)
    assert_same_weights(second, straight)
    assert done.cost.refreshes == expected.cost.refreshes


def test_a_model_it_does_not_cover_is_refused_before_training(tiny, new_model, budget):
    with pytest.raises(UsageError, match="Streamed gradients need linear heads"):
        fit(new_model(head=MLPHead()), tiny, schedule(), budget(probe="streamed"))


def test_passes_are_counted(tiny, new_model, budget):
    done = fit(new_model(), tiny, JointScheduler(5), budget())
    assert (done.cost.forwards, done.cost.backwards) == (done.cost.steps, done.cost.steps)
    probed = fit(new_model(), tiny, schedule(), budget(probe="full"))
    assert probed.cost.forwards == probed.cost.steps + probed.cost.probes
    updates = fit(new_model(), tiny, schedule(use="all_groups_per_batch"), budget())
    assert updates.cost.backwards == updates.cost.steps > done.cost.steps
    assert updates.cost.forwards == updates.cost.steps + updates.cost.probes
    assert updates.cost.jvps == 0
    assert torch.is_grad_enabled()


def test_bad_arguments(budget):
    with pytest.raises(UsageError, match="stream_every"):
        budget(stream_every=0)
