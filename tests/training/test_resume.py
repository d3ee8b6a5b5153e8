"""An interrupted training, resumed, is bit for bit one that never stopped."""

import signal

import pytest
import torch

from gnn_mtl._core.errors import InterruptedRunError, TrainingStoppedError, UsageError
from gnn_mtl.schedulers import JointScheduler
from gnn_mtl.training import checkpoint_values, fit, load_state, load_weights

T = 5


def state_of(folder, model):
    """Everything in the last state but the clock."""
    parts, values = load_state(folder / "last.state", model)
    for name in ("seconds", "eval_seconds", "refresh_seconds", "peak_rss_mb"):
        values["cost"].pop(name)
    return parts, values


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize(
    ("stops", "num_workers"), [((1,), 0), ((4,), 0), ((6,), 2), ((12,), 0), ((2, 3, 4, 9), 0)]
)
@pytest.mark.parametrize("schedule", ["joint", "random", "coloring"])
def test_resume_equals_no_interruption(
    schedule, stops, num_workers, tiny, new_model, budget, steps_seen, tmp_path,
    assert_same_weights, new_schedule,
):  # fmt: skip
    """Mid-epoch, mid-window, at an epoch's end, after the last step; once or several times."""
    config = budget(num_workers=num_workers, patience=9)
    straight = new_model()
    expected = fit(
        straight, tiny, new_schedule(schedule), config, checkpoints=tmp_path / "straight"
    )
    wanted = [(s.tasks, s.batch.n_id) for s in steps_seen.list]
    steps_seen.list.clear()

    def interrupt(step):
        if step in stops and step not in fired:
            fired.add(step)
            signal.raise_signal(signal.SIGTERM if step % 2 else signal.SIGINT)

    fired = set()
    steps_seen.hooks.append(interrupt)
    folder, resume = tmp_path / "stopped", False
    for number, stop in enumerate([*stops, None]):
        model, schedule_ = new_model(number + 1), new_schedule(schedule)
        if number == 0:
            model = new_model()
        arguments = {"checkpoints": folder, "resume": resume}
        if stop is None:
            done = fit(model, tiny, schedule_, config, **arguments)
            break
        with pytest.raises(InterruptedRunError, match=f"after step {stop};") as error:
            fit(model, tiny, schedule_, config, **arguments)
        assert error.value.exit_code == (143 if stop % 2 else 130)
        assert checkpoint_values(folder / "last.state")["at"]["step"] == stop
        resume = True
    assert_same_weights(model, straight)
    assert (done.best_step, done.best_epoch, done.valid) == (
        expected.best_step, expected.best_epoch, expected.valid,
    )  # fmt: skip
    for found, (tasks, n_id) in zip(steps_seen.list, wanted, strict=True):
        assert found.tasks == tasks
        assert torch.equal(found.batch.n_id, n_id)
    a, b = (state_of(tmp_path / name, new_model(9)) for name in ("straight", "stopped"))
    assert equal(a, b)
    best = [new_model(8), new_model(9)]
    for each, name in zip(best, ("straight", "stopped"), strict=True):
        load_weights(tmp_path / name / "best.safetensors", each)
    assert_same_weights(*best)


def test_a_finished_training_resumes_to_its_result(
    tiny, new_model, budget, tmp_path, steps_seen, assert_same_weights
):
    model, again = new_model(), new_model(1)
    done = fit(model, tiny, JointScheduler(T), budget(), checkpoints=tmp_path)
    steps_seen.list.clear()
    redone = fit(again, tiny, JointScheduler(T), budget(), checkpoints=tmp_path, resume=True)
    assert steps_seen.list == []
    assert_same_weights(model, again)
    assert redone.valid == done.valid


def test_signal_handlers_are_put_back(tiny, new_model, budget, steps_seen, tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    steps_seen.hooks.append(lambda step: signal.raise_signal(signal.SIGINT) if step == 2 else None)
    with pytest.raises(InterruptedRunError):
        fit(new_model(), tiny, JointScheduler(T), budget(), checkpoints=tmp_path)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_signal_acts_at_once(tiny, new_model, budget, steps_seen):
    def twice(step):  # os.kill may reach another thread, and then both arrive as one
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    steps_seen.hooks.append(twice)
    with pytest.raises(KeyboardInterrupt):
        fit(new_model(), tiny, JointScheduler(T), budget())


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.NonFiniteWarning")
def test_a_stopped_training_leaves_a_checkpoint(tiny, new_model, budget, tmp_path, steps_seen):
    def spoil(step):
        if step == 5:
            with torch.no_grad():
                steps_seen.list[-1].model.heads.bias[:] = torch.nan

    steps_seen.hooks.append(spoil)
    with pytest.raises(TrainingStoppedError):
        fit(new_model(), tiny, JointScheduler(T), budget(eval_every=9), checkpoints=tmp_path)
    assert checkpoint_values(tmp_path / "last.state")["at"]["step"] == 5


def test_resume_needs_checkpoints(tiny, new_model, budget, tmp_path):
    with pytest.raises(UsageError, match="folder of the checkpoints"):
        fit(new_model(), tiny, JointScheduler(T), budget(), resume=True)
    with pytest.raises(FileNotFoundError):
        fit(
            new_model(), tiny, JointScheduler(T), budget(), resume=True, checkpoints=tmp_path / "no"
        )


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.NonFiniteWarning")
def test_steps_left_out_in_a_row_go_on_counting(tiny, new_model, budget, tmp_path, steps_seen):
    """Else a training that diverged and is resumed every few steps would never stop."""

    def diverging(seed=0):
        model = new_model(seed, dropout=0.0, norm="layer")
        model.encoder.convs[0].lin_l.weight.register_hook(lambda grad: grad * torch.inf)
        return model

    steps_seen.hooks.append(lambda s: signal.raise_signal(signal.SIGINT) if s == 6 else None)
    config = budget(epochs=5, eval_every=9)
    with pytest.raises(InterruptedRunError):
        fit(diverging(), tiny, JointScheduler(T), config, checkpoints=tmp_path)
    with pytest.raises(TrainingStoppedError, match="10 steps in a row"):
        fit(diverging(1), tiny, JointScheduler(T), config, checkpoints=tmp_path, resume=True)
    assert len(steps_seen.list) == 9
