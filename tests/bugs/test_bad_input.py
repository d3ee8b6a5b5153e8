"""Bad input to the interference engine, to the library and on the command line.

What is out of range is refused (exit code 2), data that cannot be used too (3); a task that breaks
is skipped, counted and named and the run goes on (0), unless nothing is left to learn (4).
"""

import json

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import (
    ConfigError,
    LabelWarning,
    NonFiniteWarning,
    TrainingStoppedError,
    UsageError,
)
from gnn_mtl.affinity import GradientEMA, GramianEMA, ProximalAffinity
from gnn_mtl.datasets import TaskGraph, load_dataset, save_npz
from gnn_mtl.grouping import group_tasks
from gnn_mtl.nn import SAGE, LabelModel, Linear
from gnn_mtl.runs import RunConfig
from gnn_mtl.schedulers import (
    Coloring,
    ColoringScheduler,
    JointScheduler,
    Random,
    Selective,
    SelectiveScheduler,
    StaticScheduler,
    TauSchedule,
)
from gnn_mtl.tasks import Affinity, Grouping, conflict_graph
from gnn_mtl.training import fit

NAN, INF = float("nan"), float("inf")
COLORING = ("--scheduler.kind", "coloring", "--scheduler.refresh-period", "3")
KINDS = {
    "joint": (),
    "random": ("--scheduler.num-groups", "1"),
    "coloring": ("--scheduler.tau", "-1"),
    "selective": ("--scheduler.warmup-steps", "2"),
    "single": (),
}


def _cosines(num_tasks=3):
    return Affinity(np.eye(num_tasks), "test", "cosine")


# tau outside [-1, 1]


@pytest.mark.parametrize("tau", [1.0001, -1.5, 7.0, NAN, INF, -INF])
@pytest.mark.parametrize(
    "use",
    [
        lambda tau: Coloring(tau=tau),
        lambda tau: ColoringScheduler(3, tau=tau),
        lambda tau: Coloring(tau_initial=tau),
        lambda tau: TauSchedule(target=tau),
        lambda tau: group_tasks(_cosines(), method="coloring", tau=tau),
        lambda tau: conflict_graph(_cosines(), tau),
    ],
    ids=["Coloring", "ColoringScheduler", "tau_initial", "TauSchedule", "group_tasks", "graph"],
)
def test_tau_outside_its_range(use, tau):
    with pytest.raises(UsageError, match=r"\[-1, 1\]"):
        use(tau)


@pytest.mark.parametrize("tau", ["1.5", "-1.01", "nan", "inf"])
@pytest.mark.parametrize("name", ["tau", "tau-initial"])
def test_tau_outside_its_range_on_the_command_line(name, tau, train):
    said = train(*COLORING, f"--scheduler.{name}", tau)
    assert said.code == 2
    assert "[-1, 1]" in said.err
    assert "Traceback" not in said.err
    assert not (said.folder / "run").exists()


def test_tau_of_a_file_of_affinities(cli, tmp_path):
    _cosines().save(tmp_path / "a.npz")  # where the command line runs
    said = cli("group", "a.npz", "--tau", "1.5")
    assert said.code == 2
    assert "[-1, 1]" in said.err
    assert not (tmp_path / "groups.json").exists()


# R below 1


@pytest.mark.parametrize("period", [0, -1, -32])
def test_periods_below_1(period):
    for use in (
        lambda: Coloring(refresh_period=period),
        lambda: ColoringScheduler(3, refresh_period=period),
        lambda: Random(refresh_period=period),
        lambda: Selective(regroup_period=period),
        lambda: SelectiveScheduler(3, regroup_period=period),
    ):
        with pytest.raises(UsageError, match="at least 1"):
            use()


@pytest.mark.parametrize(
    "flags",
    [
        ("coloring", "--scheduler.refresh-period", "0"),
        ("random", "--scheduler.refresh-period", "-3"),
        ("selective", "--scheduler.regroup-period", "0"),
    ],
    ids=lambda flags: flags[0],
)
def test_periods_below_1_on_the_command_line(flags, train):
    said = train("--scheduler.kind", *flags)
    assert said.code == 2
    assert "at least 1 step" in said.err
    assert not (said.folder / "run").exists()


# beta outside [0, 1)


@pytest.mark.parametrize("beta", [1.0, -0.1, 1.5, NAN, INF])
def test_beta_outside_its_range(beta):
    for use in (
        lambda: Coloring(ema_beta=beta),
        lambda: ColoringScheduler(3, ema_beta=beta),
        lambda: Selective(ema_beta=beta),
        lambda: GradientEMA(3, beta=beta),
        lambda: GramianEMA(3, beta=beta),
        lambda: ProximalAffinity(3, beta=beta),
    ):
        with pytest.raises(UsageError, match=r"\[0, 1\)"):
            use()


@pytest.mark.parametrize("beta", ["1", "-0.1"])
@pytest.mark.parametrize("kind", ["coloring", "selective"])
def test_beta_outside_its_range_on_the_command_line(kind, beta, train):
    said = train("--scheduler.kind", kind, "--scheduler.ema-beta", beta)
    assert said.code == 2
    assert "[0, 1)" in said.err


# an unknown key


def test_unknown_keys():
    for use in (
        lambda: ColoringScheduler(3, base_method="pcgrad"),
        lambda: SelectiveScheduler(3, gradient_transform=None),
        lambda: Coloring(min_updates_per_cycle=2),
    ):
        with pytest.raises(TypeError, match=r"base_method|gradient_transform|min_updates"):
            use()
    with pytest.raises(ConfigError, match="taus"):
        RunConfig.from_dict({"dataset": "x", "scheduler": {"kind": "coloring", "taus": 0.1}})


def test_unknown_keys_on_the_command_line(train, cli):
    said = train(*COLORING, "--scheduler.taus", "0.1")
    assert said.code == 2
    assert "--scheduler.tau" in said.err + said.out
    (said.folder / "r.toml").write_text(
        'dataset = "planted"\n[scheduler]\nkind = "coloring"\ntaus = 1\n'
    )
    said = cli("train", "r.toml")
    assert said.code == 2
    assert "taus" in said.err
    assert "r.toml" in said.err


# gradients and losses that are not finite


def _broken(model, task):
    with torch.no_grad():
        model.head_parameters()[0][task, 0] = NAN
    return model


def test_a_broken_task_is_skipped_counted_and_named(model, tiny, budget):
    schedule = ColoringScheduler(5, refresh_period=2, tau=-0.5)
    with pytest.warns(NonFiniteWarning) as warned:
        done = fit(_broken(model, 2), tiny, schedule, budget())
    said = " ".join(str(warning.message) for warning in warned)
    assert "tasks 2" in said  # its gradient at the probe
    assert "loss of 1 task(s) is not finite: ['task_2']" in said
    assert "score of 1 task(s) is not finite: ['task_2']" in said
    assert done.cost.skipped_losses > 0
    assert done.cost.skipped_scores == 3
    assert np.isnan(schedule.affinity().values[2]).all()
    others = [torch.isfinite(p).all() for p in model.shared_parameters()]
    assert all(others)
    assert 0.0 < done.valid["ap"] <= 1.0


@pytest.mark.parametrize("flags", [COLORING, ("--scheduler.kind", "selective"), ()],
                         ids=["coloring", "selective", "joint"])  # fmt: skip
def test_a_broken_task_on_the_command_line(flags, train, stored, monkeypatch):
    import gnn_mtl.runs._train as module

    build = module.build_model
    monkeypatch.setattr(module, "build_model", lambda *a: _broken(build(*a), 4))
    said = train(*flags)
    name = load_dataset(stored).label_names[4]
    assert said.code == 0, said.err
    assert f"loss of 1 task(s) is not finite: ['{name}']" in said.err
    assert f"score of 1 task(s) is not finite: ['{name}']" in said.err
    summary = json.loads((said.folder / "run" / "summary.json").read_text())
    assert summary["cost"]["skipped_losses"] > 0
    assert summary["cost"]["skipped_scores"] > 0
    assert summary["per_label"]["ap"][4] is None
    assert all(summary["per_label"]["ap"][task] > 0 for task in (0, 1, 2, 3, 5))
    assert summary["per_label"]["positives_test"][4] > 0


class _Break(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, task):
        ctx.task = task
        return logits.clone()

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        grad[:, ctx.task] *= INF
        return grad.nan_to_num(0.0, INF, -INF), None


def _breaking(model, task):
    """The model, whose loss on a task is finite and has a gradient that is not."""
    heads = model.heads.forward

    def forward(h, tasks=None):
        logits = _Break.apply(heads(h), task)
        return logits if tasks is None else logits[:, list(tasks)]

    model.heads.forward = forward
    return model


@pytest.mark.parametrize("use", ["one_group_per_batch", "all_groups_per_batch"])
def test_a_broken_gradient_is_skipped_counted_and_named(use, model, tiny, budget):
    schedule = StaticScheduler(5, Grouping.of([[0, 2, 4], [1, 3]], 5), use=use)
    row = [p.detach()[2].clone() for p in model.head_parameters()]
    with pytest.warns(NonFiniteWarning, match=r"gradient of 1 task\(s\) .*: \['task_2'\]"):
        done = fit(_breaking(model, 2), tiny, schedule, budget())
    turns = 12 if use == "all_groups_per_batch" else 6
    assert done.cost.skipped_losses == turns
    assert done.cost.skipped_updates == 0
    assert done.cost.label_gradients == turns * 4
    for before, after in zip(row, model.head_parameters(), strict=True):
        assert torch.equal(before, after.detach()[2])


def test_a_broken_gradient_on_the_command_line(train, stored, monkeypatch):
    import gnn_mtl.runs._train as module

    build = module.build_model
    monkeypatch.setattr(module, "build_model", lambda *a: _breaking(build(*a), 4))
    said = train()
    name = load_dataset(stored).label_names[4]
    assert said.code == 0, said.err
    assert said.err.count(f"gradient of 1 task(s) is not finite: ['{name}']") == 1
    cost = json.loads((said.folder / "run" / "summary.json").read_text())["cost"]
    assert cost["steps"] == cost["skipped_losses"] == 12
    assert cost["label_gradients"] == 5 * 12


def test_nothing_left_to_learn_stops(model, tiny, budget):
    for task in range(5):
        _broken(model, task)
    schedule = ColoringScheduler(5, refresh_period=2, tau=1.0)
    with (
        pytest.warns(NonFiniteWarning),
        pytest.raises(TrainingStoppedError, match="finite losses"),
    ):
        fit(model, tiny, schedule, budget())


@pytest.mark.parametrize("flags", [COLORING, ("--scheduler.kind", "selective"), ()],
                         ids=["coloring", "selective", "joint"])  # fmt: skip
def test_nothing_left_to_learn_on_the_command_line(flags, train):
    said = train(*flags, "--lr", "1e30")
    assert said.code == 4
    assert "Found NaN or infinity" in said.err
    assert (said.folder / "run" / "checkpoints" / "last.state").exists()


def test_features_that_are_not_finite_on_the_command_line(train, stored, tmp_path):
    with np.load(stored, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["x"] = arrays["x"].copy()
    arrays["x"][3, 1] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    said = train(*COLORING, dataset=tmp_path / "nan.npz")
    assert said.code == 3
    assert "Traceback" not in said.err
    assert not (said.folder / "run").exists()


# a task never observed


@pytest.fixture(scope="module")
def unobserved(make_graph):
    """The graph of the other tests with a sixth task that no node is labelled for."""
    plain = make_graph(num_nodes=240, missing=0.0)
    nodes = np.arange(plain.num_nodes)
    y = sum(plain.targets(nodes, split)[0] for split in ("train", "valid", "test"))
    edges = plain.to_pyg().edge_index.numpy()
    with pytest.warns(LabelWarning, match="task_5"):
        return TaskGraph.from_arrays(
            edges, np.concatenate([y, np.full((len(y), 1), np.nan)], axis=1), x=plain.x,
            split=dict(plain.split_idx), name="unobserved",
        )  # fmt: skip


@pytest.mark.parametrize(
    "schedule",
    [
        lambda: JointScheduler(6),
        lambda: ColoringScheduler(6, refresh_period=2, tau=-1.0),
        lambda: ColoringScheduler(6, refresh_period=2, tau=-0.5, ema_of="gramian"),
        lambda: ColoringScheduler(6, refresh_period=2, tau=-0.5, ema_source="both"),
        lambda: ColoringScheduler(6, refresh_period=2, use="all_groups_per_batch"),
        lambda: ColoringScheduler(6, refresh_period=2, use="group_weights"),
        lambda: SelectiveScheduler(6, warmup_steps=3, regroup_period=3),
        lambda: SelectiveScheduler(6, warmup_steps=3, use="one_group_per_batch"),
    ],
    ids=["joint", "coloring", "gramian", "both", "all", "weights", "selective", "selective_turns"],
)
@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning")
def test_a_task_never_observed(schedule, unobserved, budget):
    torch.manual_seed(0)
    made = SAGE(hidden_channels=8, norm="batch", dropout=0.0).build(6)
    model = LabelModel(made, Linear().build(8, 6))
    row = [p.detach()[5].clone() for p in model.head_parameters()]
    schedule = schedule()
    done = fit(model, unobserved, schedule, budget(batch_size=40))
    assert done.cost.label_gradients > 0
    assert done.cost.skipped_losses == done.cost.skipped_scores == 0
    for before, after in zip(row, model.head_parameters(), strict=True):
        assert torch.equal(before, after.detach()[5])  # never moved
    if hasattr(schedule, "affinity"):
        values = schedule.affinity().values
        assert np.isnan(values[5]).all()
        assert np.isnan(values[:, 5]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_never_observed_on_the_command_line(kind, unobserved, train, tmp_path):
    save_npz(unobserved, tmp_path / "u.npz")
    said = train("--scheduler.kind", kind, *KINDS[kind], dataset=tmp_path / "u.npz")
    assert said.code == 0, said.err
    assert "task_5" in said.err  # warned of by name
    summary = json.loads((said.folder / "run" / "summary.json").read_text())
    assert summary["per_label"]["ap"][5] is None
    assert all(value is not None for value in summary["per_label"]["ap"][:5])


# one task


@pytest.mark.parametrize(
    "schedule",
    [
        JointScheduler(1), ColoringScheduler(1, tau=-1.0), ColoringScheduler(1, rule="quantile"),
        ColoringScheduler(1, ema_source="active"), ColoringScheduler(1, use="group_weights"),
        ColoringScheduler(1, use="inner_outer"), SelectiveScheduler(1),
        ColoringScheduler(1, coloring="tabu", max_colors=1, fill=True, min_coverage=1),
    ],
    ids=repr,
)  # fmt: skip
def test_one_task(schedule, tiny, budget):
    one = tiny.select_tasks([3])
    torch.manual_seed(0)
    encoder = SAGE(hidden_channels=8, norm="batch", dropout=0.0).build(6)
    done = fit(LabelModel(encoder, Linear().build(8, 1)), one, schedule, budget())
    assert done.cost.steps == done.cost.label_gradients == 12
    assert done.cost.probe_label_gradients == 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_task_on_the_command_line(kind, train, tiny, tmp_path):
    save_npz(tiny.select_tasks([3]), tmp_path / "one.npz")
    said = train("--scheduler.kind", kind, *KINDS[kind], dataset=tmp_path / "one.npz")
    assert said.code == 0, said.err
    summary = json.loads((said.folder / "run" / "summary.json").read_text())
    assert len(summary["per_label"]["ap"]) == 1
