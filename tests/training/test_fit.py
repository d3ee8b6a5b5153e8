"""``fit``: schedules, sealed labels, model choice, interruption and resume."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from gnn_mtl._core.errors import (
    SealedLabelsError,
    TrainingStoppedError,
    UsageError,
)
from gnn_mtl.datasets import TaskGraph, planted
from gnn_mtl.metrics import Scores
from gnn_mtl.nn import MLP, SAGE, LabelModel, Linear, exact_logits
from gnn_mtl.schedulers import ColoringScheduler, JointScheduler, RandomGroupsScheduler
from gnn_mtl.training import (
    Cost,
    Train,
    choose_device,
    evaluate_split,
    fit,
    labels_per_node,
    load_weights,
    peak_rss_mb,
)

T = 5
LOOP = "gnn_mtl.training._loop"
pytestmark = pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning")

SCHEDULES = ["joint", "random", "coloring"]


class Writer:
    """Collects the rows of a run."""

    def __init__(self):
        self.train, self.valid, self.groupings = [], [], []

    def log_train(self, **row):
        self.train.append(row)

    def log_valid(self, **row):
        self.valid.append(row)

    def log_grouping(self, **row):
        self.groupings.append(row)


def scripted(monkeypatch, scores):
    """Let the evaluations of the validation split give these scores, one after the other."""
    remaining = iter(scores)

    def evaluate(model, graph, split, **options):
        assert split == "valid"
        score, every = next(remaining), np.ones(T, dtype=np.int64)
        means = {"ap": score, "auroc": score / 2, "f1": 0.0}
        per_label = {name: np.full(T, value) for name, value in means.items()}
        return Scores(means, per_label, positives=every, observed=2 * every, top_k=1)

    monkeypatch.setattr(f"{LOOP}.evaluate_split", evaluate)


# schedules


def test_coloring_at_tau_1_is_joint_training_bit_for_bit(
    tiny, new_model, budget, assert_same_weights
):
    models = [new_model() for _ in range(2)]
    fit(models[0], tiny, JointScheduler(T), budget())
    fit(models[1], tiny, ColoringScheduler(T, tau=1.0, refresh_period=3), budget())
    assert_same_weights(*models)
    assert_same_weights(models[0], new_model(), equal=False)


@pytest.mark.parametrize("probe", ["last_layer", "last_layer_sketch", "full"])
def test_probes_leave_no_trace_in_a_training(probe, tiny, new_model, budget, assert_same_weights):
    """With tau just below 1 every refresh measures gradients and draws no edge."""
    models = [new_model() for _ in range(2)]
    fit(models[0], tiny, JointScheduler(T), budget())
    done = fit(
        models[1], tiny, ColoringScheduler(T, tau=0.999999, refresh_period=3), budget(probe=probe)
    )
    assert done.cost.probe_label_gradients == done.cost.refreshes * T == 4 * T
    assert_same_weights(*models)


def test_tau_minus_1_is_one_task_after_the_other(tiny, new_model, budget, steps_seen):
    schedule = ColoringScheduler(T, tau=-1.0, refresh_period=3)
    done = fit(new_model(norm="layer"), tiny, schedule, budget(epochs=5))
    assert len(steps_seen.list) == 20
    for start in range(0, 20, T):  # a window is as long as there are classes
        tasks = [step.tasks for step in steps_seen.list[start : start + T]]
        assert sorted(tasks) == [(0,), (1,), (2,), (3,), (4,)]
    assert done.cost.label_gradients == 20
    for step in steps_seen.list:
        for before, after in zip(step.before, step.after, strict=True):
            moved = {t for t in range(T) if not torch.equal(before[t], after[t])}
            assert moved <= set(step.tasks)
    assert moved


def test_only_active_tasks_count_and_everything_is_recorded(
    tiny, new_model, budget, steps_seen, new_schedule
):
    writer = Writer()
    done = fit(new_model(), tiny, new_schedule("random"), budget(log_every=3), writer=writer)
    active = [len(step.tasks) for step in steps_seen.list]
    assert set(active) == {2, 3}
    assert done.cost.steps == len(active) == 12
    assert done.cost.label_gradients == sum(active)
    assert [row["step"] for row in writer.train] == [3, 6, 9, 12]
    assert [row["num_active"] for row in writer.train] == active[2::3]
    assert [row["epoch"] for row in writer.train] == [0, 1, 2, 2]
    for row in writer.train:
        _, losses = steps_seen.list[row["step"] - 1].result
        assert row["loss"] == pytest.approx(float(losses.mean()))
    assert [row["step"] for row in writer.valid] == [4, 8, 12]
    assert [row["epoch"] for row in writer.valid] == [1, 2, 3]
    assert [row["step"] for row in writer.groupings] == [0, 5, 10]
    assert done.cost.refreshes == 3
    assert done.cost.seconds > done.cost.eval_seconds > 0
    tagged = Writer()
    fit(new_model(), tiny, JointScheduler(T), budget(), writer=tagged, task=2)
    assert {row["task"] for row in tagged.train + tagged.valid} == {2}
    assert tagged.groupings == []


def test_learning_rates_and_positive_weights_reach_the_steps(tiny, new_model, budget, steps_seen):
    writer = Writer()
    config = budget(pos_weight="sqrt", lr=1e-2, lr_schedule="linear", grad_clip=0.5)
    fit(new_model(), tiny, JointScheduler(T), config, writer=writer)
    positives = tiny.positives("train")
    ratio = (tiny.observed_counts("train") - positives) / positives
    weights = steps_seen.list[0].options["pos_weight"]
    np.testing.assert_allclose(weights, np.clip(np.sqrt(ratio), 1, 100), rtol=1e-6)
    assert steps_seen.list[0].options["grad_clip"] == 0.5
    rates = [row["lr"] for row in writer.train]
    np.testing.assert_allclose(rates, [5e-3, 1e-2, *(1e-2 * (1 - k / 10) for k in range(10))])


# labels


def poisoned(graph, rng):
    """The same graph with other test labels: mostly NaN, the rest turned round."""
    data = graph.to_pyg()
    y = data.y.numpy().copy()
    rows = graph.split_idx["test"]
    y[rows] = 1 - y[rows]
    y[rows[1:]] = np.where(rng.random(y[rows[1:]].shape) < 0.8, np.nan, y[rows[1:]])
    return TaskGraph.from_arrays(
        data.edge_index.numpy(), y, x=data.x.numpy(), split=graph.split_idx, name="poisoned"
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_test_labels_change_nothing(
    schedule, tiny, new_model, budget, assert_same_weights, new_schedule
):
    other = poisoned(tiny, np.random.default_rng(0))
    nodes = tiny.split_idx["test"]
    assert not np.array_equal(tiny.targets(nodes, "test")[1], other.targets(nodes, "test")[1])
    models, results = [new_model(), new_model()], []
    for model, graph in zip(models, (tiny, other), strict=True):
        config = budget(pos_weight="balanced", patience=1)
        done = fit(model, graph, new_schedule(schedule), config)
        results.append((done.best_step, done.best_epoch, done.valid))
    assert_same_weights(*models)
    assert results[0] == results[1]


def test_test_cells_of_training_nodes_change_nothing(
    make_graph, new_model, budget, assert_same_weights, new_schedule
):
    """A split per (node, task): the same node may be trained on for one label and tested on
    for another."""
    graph = make_graph(60, split="task", missing=0.0)
    nodes = np.arange(60)
    hidden = graph.targets(nodes, "test")[1]
    assert hidden[graph.split_idx["train"]].any()
    data = graph.to_pyg()
    masks = {s: graph.targets(nodes, s)[1] for s in ("train", "valid", "test")}
    flipped = np.where(hidden, 1 - data.y.numpy(), data.y.numpy())
    other = TaskGraph.from_arrays(data.edge_index.numpy(), flipped, x=data.x.numpy(), split=masks)
    models = [new_model(), new_model()]
    for model, each in zip(models, (graph, other), strict=True):
        fit(model, each, new_schedule("coloring"), budget())
    assert_same_weights(*models)


def test_the_graph_is_sealed_while_training(tiny, new_model, budget, monkeypatch, new_schedule):
    asked = set()
    original = TaskGraph.targets

    def watch(self, nodes, split):
        asked.add((split, self.is_sealed))
        return original(self, nodes, split)

    monkeypatch.setattr(TaskGraph, "targets", watch)
    model = new_model()
    fit(model, tiny, new_schedule("coloring"), budget())
    assert asked == {("train", True), ("valid", True)}
    with pytest.raises(SealedLabelsError):
        evaluate_split(model, tiny.sealed(), "test")


# model choice


def test_the_best_model_by_validation_is_kept(
    tiny, new_model, budget, monkeypatch, steps_seen, assert_same_weights, tmp_path
):
    for checkpoints in (None, tmp_path):
        scripted(monkeypatch, [0.1, 0.5, 0.4, 0.5, 0.3, 0.9])
        snapshots = {}
        steps_seen.hooks[:] = [
            lambda step, s=snapshots: s.update(
                {step: {k: v.clone() for k, v in steps_seen.list[-1].model.state_dict().items()}}
            )
        ]
        steps_seen.list.clear()
        model = new_model()
        config = budget(epochs=50, patience=3)
        done = fit(model, tiny, JointScheduler(T), config, checkpoints=checkpoints)
        assert len(steps_seen.list) == done.cost.steps == 20  # stopped after evaluation 5
        assert (done.best_step, done.best_epoch) == (8, 2)  # a tie keeps the first
        assert done.valid == {"ap": 0.5, "auroc": 0.25, "f1": 0.0}
        expected = new_model()
        expected.load_state_dict(snapshots[8])
        assert_same_weights(model, expected)
    for name, step in (("best", 8), ("last", 20)):
        loaded = new_model(1)
        load_weights(tmp_path / f"{name}.safetensors", loaded)
        expected.load_state_dict(snapshots[step])
        assert_same_weights(loaded, expected)


@pytest.mark.parametrize(
    ("options", "steps", "best"),
    [
        ({"epochs": 3}, 12, (12, 3)),
        ({"epochs": 3, "max_steps": 6}, 6, (6, 1)),
        ({"epochs": 3, "max_steps": 8}, 8, (8, 2)),
        ({"epochs": 3, "max_steps": 99}, 12, (12, 3)),
        ({"epochs": 3, "max_steps": 1}, 1, (1, 0)),
        ({"epochs": 3, "eval_every": 2}, 12, (12, 3)),
    ],
)
def test_the_budget_and_the_last_evaluation(
    options, steps, best, tiny, new_model, budget, monkeypatch
):
    scripted(monkeypatch, [0.1, 0.2, 0.3, 0.4])
    done = fit(new_model(), tiny, JointScheduler(T), budget(**options))
    assert done.cost.steps == steps
    assert (done.best_step, done.best_epoch) == best


def test_the_monitored_score_is_a_choice(tiny, new_model, budget):
    for monitor in ("ap", "auroc", "f1"):
        writer = Writer()
        done = fit(new_model(), tiny, JointScheduler(T), budget(monitor=monitor), writer=writer)
        best = max(writer.valid, key=lambda row: row[monitor])
        assert done.valid[monitor] == best[monitor]
        assert done.best_step == best["step"]


def test_scores_are_those_of_exact_inference(tiny, new_model):
    model = new_model()
    scores = evaluate_split(model, tiny, "valid")
    nodes = tiny.split_idx["valid"]
    y, observed = tiny.targets(nodes, "valid")
    logits = exact_logits(model, tiny, nodes)
    for task in range(T):
        seen = observed[:, task]
        truth, score = y[seen, task], logits[seen, task]
        assert scores.per_label["auroc"][task] == pytest.approx(roc_auc_score(truth, score))
        assert scores.per_label["ap"][task] == pytest.approx(average_precision_score(truth, score))
    positives = tiny.targets(tiny.split_idx["train"], "train")[0].sum()
    assert labels_per_node(tiny) == round(positives / len(tiny.split_idx["train"])) >= 1


# determinism


def test_weights_do_not_depend_on_the_number_of_threads(
    tiny, new_model, budget, assert_same_weights, new_schedule
):
    models = [new_model() for _ in range(3)]
    for model, num_workers in zip(models, (0, 1, 2), strict=True):
        fit(model, tiny, new_schedule("coloring"), budget(num_workers=num_workers))
    assert_same_weights(models[0], models[1])
    assert_same_weights(models[0], models[2])


def test_the_seed_decides(tiny, new_model, budget, assert_same_weights):
    models = [new_model() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.manual_seed(np.random.default_rng().integers(1 << 30))  # the caller's state
        fit(model, tiny, JointScheduler(T), budget(), seed=seed)
    assert_same_weights(models[0], models[1])
    assert_same_weights(models[0], models[2], equal=False)


# ordinary and odd input


def test_learns_a_planted_graph():
    graph = planted(600, num_tasks=6, num_groups=2, feature_noise=1.0, seed=1)
    torch.manual_seed(0)
    model = LabelModel(SAGE(hidden_channels=32).build(graph.num_features), Linear().build(32, 6))
    untrained = evaluate_split(model, graph, "test").macro["auroc"]
    config = Train(epochs=12, batch_size=60, num_neighbors=(8, 8), eval_every=3, device="cpu")
    done = fit(model, graph, JointScheduler(6), config)
    learned = evaluate_split(model, graph, "test").macro["auroc"]
    assert learned > 0.8 > 0.65 > untrained
    assert done.valid["auroc"] > 0.8


def test_a_last_batch_of_one_node(make_graph, new_model, budget):
    graph = make_graph(60)  # 36 training nodes
    done = fit(new_model(), graph, JointScheduler(T), budget(epochs=1, batch_size=35))
    assert done.cost.steps == 2


def test_models_without_sampling(tiny, budget, new_schedule):
    torch.manual_seed(0)
    model = LabelModel(MLP(hidden_channels=8).build(6), Linear().build(8, T))
    done = fit(model, tiny, new_schedule("coloring"), budget())
    assert done.cost.steps == 12


def test_batches_without_any_label_are_steps_that_change_nothing(
    tiny, new_model, budget, steps_seen
):
    """Where no group has a label in the batch, one is named all the same and nothing moves."""
    graph = tiny.select_tasks([2, 4])
    nodes = graph.split_idx["train"]
    y = graph.to_pyg().y.numpy().copy()
    y[nodes[1:]] = np.nan  # both tasks are observed on one training node alone
    y[nodes[0]] = 1
    data = graph.to_pyg()
    rare = TaskGraph.from_arrays(
        data.edge_index.numpy(), y, x=data.x.numpy(), split=graph.split_idx
    )
    schedule = RandomGroupsScheduler(2, sizes=(1, 1), refresh_period=2, seed=0)
    done = fit(new_model(num_tasks=2), rare, schedule, budget())
    empty = [step for step in steps_seen.list if step.result[0] == ()]
    assert empty
    for step in empty:
        assert all(map(torch.equal, step.before, step.after))
    assert done.cost.label_gradients == done.cost.steps > 0


def test_choose_device():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="device"):
        choose_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="--device auto"):
            choose_device("cuda:0")


@pytest.mark.gpu
def test_cuda_trains_like_the_cpu(tiny, new_model, budget, new_schedule):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    results = []
    for device in ("cpu", "cuda"):
        model = new_model(dropout=0.0, norm="layer")
        results.append(fit(model, tiny, new_schedule("coloring"), budget(device=device)).valid)
    assert results[0]["auroc"] == pytest.approx(results[1]["auroc"], abs=0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0}, {"batch_size": 0}, {"eval_every": 0}, {"probe_batch_size": 0},
        {"log_every": 0}, {"max_steps": 0}, {"patience": 0}, {"lr": 0.0}, {"lr": float("nan")},
        {"lr": float("inf")}, {"weight_decay": -0.1}, {"warmup_steps": -1}, {"num_workers": -1},
        {"grad_clip": 0.0}, {"grad_clip": float("nan")}, {"num_neighbors": ()},
        {"num_neighbors": (3, 0)}, {"num_neighbors": (-2,)}, {"max_label_gradients": 0},
        {"gramian_every": 0},
    ],
)  # fmt: skip
def test_bad_budgets_are_refused(change):
    (name,) = change
    with pytest.raises(UsageError, match=name):
        Train(**change)


def test_fan_outs_and_steps():
    config = Train(num_neighbors=(15, 10), epochs=3)
    assert [config.fan_outs(n) for n in (0, 1, 2, 4)] == [(), (15,), (15, 10), (15, 10, 10, 10)]
    assert config.total_steps(7) == 21
    assert Train(epochs=3, max_steps=5).total_steps(7) == 5


def test_costs_add_up():
    total = Cost(seconds=1, steps=2, peak_rss_mb=5)
    total.add(Cost(seconds=2, steps=3, label_gradients=4, peak_rss_mb=3))
    assert (total.seconds, total.steps, total.label_gradients, total.peak_rss_mb) == (3, 5, 4, 5)
    assert peak_rss_mb() > 10
    assert Cost().to_dict()["peak_rss_mb"] == pytest.approx(peak_rss_mb(), rel=0.1)


def test_the_callers_random_state_is_left_alone(make_graph):
    graph = make_graph()
    before = torch.get_rng_state()
    encoder = SAGE(hidden_channels=8, num_layers=1, dropout=0.5).build(6)
    model = LabelModel(encoder, Linear().build(8, graph.num_tasks))
    state = torch.get_rng_state()
    assert not torch.equal(before, state)
    fit(model, graph, JointScheduler(graph.num_tasks), Train(epochs=2, batch_size=16))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_schedule_of_other_tasks_is_refused(make_graph):
    graph = make_graph(num_tasks=4)
    model = LabelModel(SAGE().build(6), Linear().build(128, 4))
    with pytest.raises(UsageError, match="same tasks"):
        fit(model, graph, JointScheduler(3), Train(epochs=1))


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.NonFiniteWarning")
def test_a_training_that_diverges_is_stopped(make_graph, tmp_path):
    graph = make_graph()
    encoder = SAGE(hidden_channels=8, norm="none", dropout=0.0).build(6)
    model = LabelModel(encoder, Linear().build(8, graph.num_tasks))
    with pytest.raises(TrainingStoppedError, match=r"diverged|finite"):
        fit(
            model, graph, JointScheduler(graph.num_tasks),
            Train(epochs=60, lr=1e30, warmup_steps=0, batch_size=8, eval_every=60),
            checkpoints=tmp_path,
        )  # fmt: skip
    assert (tmp_path / "last.state").exists()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is reset on Linux")
def test_the_peak_memory_is_the_training_s_own(make_graph):
    big = np.ones(60_000_000)  # 480 MB that the training does not need
    before = peak_rss_mb()
    del big
    graph = make_graph()
    model = LabelModel(SAGE().build(6), Linear().build(128, graph.num_tasks))
    done = fit(model, graph, JointScheduler(graph.num_tasks), Train(epochs=1))
    assert done.cost.to_dict()["peak_rss_mb"] < before - 300


@pytest.mark.parametrize("probe", ["last_layer", "full"])
def test_gradients_of_active_tasks_feed_the_schedule(
    probe, tiny, new_model, budget, steps_seen, assert_same_weights
):
    """At every step and on its own batch; a schedule that does not act on them trains the same."""
    seen = []

    class Watched(ColoringScheduler):
        def observe_active(self, gradients):
            seen.append(gradients)
            super().observe_active(gradients)

    schedule = Watched(T, refresh_period=3, tau=-0.2, ema_source="active")
    done = fit(new_model(), tiny, schedule, budget(probe=probe))
    assert (done.cost.probes, len(seen)) == (0, 12)
    assert [found.tasks for found in seen] == [step.tasks for step in steps_seen.list]
    assert min(len(step.tasks) for step in steps_seen.list) < T
    assert done.cost.probe_label_gradients == sum(len(found.tasks) for found in seen)
    models = [new_model(), new_model()]
    fit(models[0], tiny, JointScheduler(T), budget())
    far = {"tau": 0.99999, "refresh_period": 3, "ema_source": "active"}
    fit(models[1], tiny, ColoringScheduler(T, **far), budget(probe=probe))
    assert_same_weights(*models)


def test_streamed_gradients_are_of_every_step_already(tiny, new_model, budget):
    with pytest.raises(UsageError, match="sum up every step already"):
        fit(new_model(), tiny, ColoringScheduler(T, ema_source="both"), budget(probe="streamed"))


@pytest.mark.parametrize("sizes", [(5,), (3, 2)])
def test_a_budget_of_label_gradients_ends_the_training(sizes, tiny, new_model, budget):
    """Groups of fewer labels get more steps of it; the learning rate falls with what is spent."""
    import gnn_mtl.training._loop as loop

    rates, original = [], loop.set_learning_rate

    def watch(*args):
        rates.append(original(*args))
        return rates[-1]

    loop.set_learning_rate = watch
    try:
        config = budget(epochs=50, max_label_gradients=30, warmup_steps=2, patience=None)
        done = fit(new_model(), tiny, RandomGroupsScheduler(5, sizes=sizes), config)
    finally:
        loop.set_learning_rate = original
    assert 30 <= done.cost.label_gradients < 30 + max(sizes)
    assert done.cost.steps == (6 if sizes == (5,) else 12)
    assert rates[0] == pytest.approx(rates[1] / 2)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.15 * max(rates)


@pytest.mark.parametrize("stop", [1, 5, 10])
def test_a_budget_of_label_gradients_is_resumed(
    stop, tiny, new_model, budget, tmp_path, assert_same_weights, monkeypatch
):
    import gnn_mtl.training._loop as loop

    rates, set_rate, original = [], loop.set_learning_rate, loop._Training._step

    def watch(*args):
        rates.append(set_rate(*args))
        return rates[-1]

    def step(self, batch, started):
        if self.at.step == stop and "stopped" not in told:
            told.append("stopped")
            self._save()
            raise KeyboardInterrupt
        original(self, batch, started)

    def schedule():
        return RandomGroupsScheduler(T, sizes=(3, 2))

    monkeypatch.setattr(loop, "set_learning_rate", watch)
    config = budget(epochs=50, max_label_gradients=30, warmup_steps=2, patience=None)
    straight, cut, told = new_model(), new_model(1), []
    wanted = fit(straight, tiny, schedule(), config)
    expected, rates[:] = list(rates), []
    monkeypatch.setattr(loop._Training, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        fit(new_model(), tiny, schedule(), config, checkpoints=tmp_path)
    done = fit(cut, tiny, schedule(), config, checkpoints=tmp_path, resume=True)
    assert_same_weights(straight, cut)
    assert rates == expected
    assert (done.valid, done.best_step) == (wanted.valid, wanted.best_step)
    assert done.cost.label_gradients == wanted.cost.label_gradients


def test_the_end_of_a_budget_of_label_gradients_is_evaluated(tiny, new_model, budget):
    """In the middle of an epoch, once."""
    told = Writer()
    config = budget(epochs=50, eval_every=2, max_label_gradients=23, patience=None)
    done = fit(new_model(), tiny, JointScheduler(T), config, writer=told)
    assert done.cost.steps == 5
    steps = [row["step"] for row in told.valid]
    assert steps[-1] == 5
    assert len(set(steps)) == len(steps)
