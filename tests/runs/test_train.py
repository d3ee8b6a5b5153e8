"""``train`` writes a complete run folder, the same one for the same configuration."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from gnn_mtl._core.errors import (
    DatasetNotFoundError,
    InterruptedRunError,
    RecordError,
    UsageError,
)
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.grouping import group_tasks
from gnn_mtl.nn import GCN, GIN, MLP, SIGN, GATv2, MLPHead, exact_logits
from gnn_mtl.records import read_run
from gnn_mtl.runs import RunConfig, default_folder, load_trained, train
from gnn_mtl.schedulers import Coloring, Joint, Random, Single, Static

T, STEPS = 6, 12
COLORING = Coloring(tau=0.05, refresh_period=4, ema_beta=0.0)
SCHEDULERS = [
    Joint(), COLORING, Random(num_groups=2, refresh_period=5),
    Static(groups=((0, 2, 4), (1, 3, 5))), Single(tasks=(1, 2, 5)),
]  # fmt: skip


def kind_of(value):
    return value.kind


def numbers(value):
    """Every number inside nested plain values; None counts as NaN."""
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers(item)]
    if isinstance(value, list | tuple):
        return [n for item in value for n in numbers(item)]
    if isinstance(value, int | float):
        return [float(value)]
    return [math.nan] if value is None else []


# what is written


@pytest.mark.parametrize("scheduler", SCHEDULERS[:-1], ids=kind_of)
def test_a_complete_run_folder(scheduler, quick, graph, tmp_path):
    config = quick(scheduler=scheduler)
    record = train(config, tmp_path / "run")
    assert record.done
    found = read_run(tmp_path / "run", finished=True)
    assert (found.config, found.kind, found.seed) == (config.to_dict(), scheduler.kind, 0)
    assert RunConfig.load(found.path) == config
    assert found.manifest.dataset["sha256"] == graph.fingerprint()
    assert found.label_names == graph.label_names
    assert {file.name for file in found.path.iterdir()} - {"affinity"} == {
        "config.json", "manifest.json", "metrics.jsonl", "groupings.jsonl", "summary.json",
        "checkpoints", "DONE",
    }  # fmt: skip
    names = {file.name for file in (found.path / "checkpoints").iterdir()}
    assert names == {"last.safetensors", "best.safetensors"}
    summary = json.loads((found.path / "summary.json").read_text())
    assert np.isfinite(numbers(summary)).all()
    for line in (found.path / "metrics.jsonl").read_text().splitlines():
        assert np.isfinite(numbers(json.loads(line))).all()
    assert [row.step for row in found.train] == list(range(1, STEPS + 1))
    assert [row.step for row in found.valid] == [6, 12]
    assert summary["tasks"] == list(range(T))
    cost = summary["cost"]
    assert cost["steps"] == STEPS
    assert cost["label_gradients"] == sum(row.num_active for row in found.train)
    divided = [row for row in found.refreshes if row.extra["probed"] or len(row.groups) > 1]
    assert cost["refreshes"] == len(divided)
    probed = sum(refresh.affinity is not None for refresh in found.refreshes)
    assert cost["probe_label_gradients"] == probed * T
    assert bool(probed) == (scheduler.kind == "coloring")
    for refresh in found.refreshes:
        assert sorted(task for group in refresh.groups for task in group) == list(range(T))
        affinity = found.affinity(refresh)
        assert affinity is None or affinity.num_tasks == T


def test_the_summary_scores_the_model_chosen_by_validation(quick, tmp_path):
    """Oracle: scikit-learn on the logits of the weights in ``best.safetensors``."""
    record = train(quick(), tmp_path / "run")
    config, graph, model = load_trained(tmp_path / "run")
    assert config == quick()
    assert record.summary.num_parameters == sum(p.numel() for p in model.parameters())
    nodes = graph.split_idx["test"]
    y, observed = graph.targets(nodes, "test")
    assert observed.all()
    logits = exact_logits(model, graph, nodes)
    scores = record.summary.per_label
    for task in range(T):
        truth, score = y[:, task], logits[:, task]
        assert scores["ap"][task] == pytest.approx(average_precision_score(truth, score))
        assert scores["auroc"][task] == pytest.approx(roc_auc_score(truth, score))
        assert scores["f1"][task] == pytest.approx(f1_score(truth, score > 0))
    for name in ("ap", "auroc", "f1"):
        assert record.summary.test[name] == pytest.approx(scores[name].mean())
    np.testing.assert_array_equal(scores["positives_test"], y.sum(axis=0))
    valid = record.valid[np.argmax([row.ap for row in record.valid])]
    assert (record.summary.best_step, record.summary.best_epoch) == (valid.step, valid.epoch)
    assert record.summary.valid["ap"] == valid.ap


@pytest.mark.parametrize("encoder", [GCN(), GATv2(), GIN(), SIGN(), MLP()], ids=kind_of)
def test_every_encoder_trains(encoder, quick, tmp_path, graph):
    config = quick(
        encoder=dataclasses.replace(encoder, hidden_channels=8), head=MLPHead(hidden_channels=4),
        train={"max_steps": 2},
    )  # fmt: skip
    record = train(config, tmp_path / "run", graph=graph)
    assert np.isfinite(record.summary.per_label["ap"]).all()
    assert load_trained(tmp_path / "run")[0] == config


# the same again


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=kind_of)
def test_equal_configurations_give_equal_runs(
    scheduler, quick, graph, tmp_path, assert_same_run, straight
):
    config = quick(scheduler=scheduler)
    torch.manual_seed(99)
    train(config, tmp_path / "run", graph=graph)
    assert_same_run(straight(config), tmp_path / "run")


def test_another_seed_gives_another_run(quick, tmp_path):
    one, two = (train(quick(seed=seed), tmp_path / str(seed)) for seed in (0, 1))
    assert one.summary.test["ap"] != two.summary.test["ap"]
    assert [row.loss for row in one.train] != [row.loss for row in two.train]


def test_test_labels_change_test_scores_only(quick, graph, tmp_path, assert_same_run):
    nodes = graph.split_idx["test"]
    y, _ = zip(*(graph.targets(np.arange(240), s) for s in graph.split_idx), strict=True)
    y = np.sum(y, axis=0)
    other = y.copy()
    other[nodes] = 1 - other[nodes]
    edges = graph.csc.to_edge_index()
    for name, labels in (("one", y), ("two", other)):
        made = TaskGraph.from_arrays(
            edges, labels, x=graph.x, split=graph.split_idx, name="planted",
            label_names=graph.label_names,
        )  # fmt: skip
        train(quick(scheduler=COLORING), tmp_path / name, graph=made)
    assert_same_run(tmp_path / "one", tmp_path / "two", but=["summary.json"])
    one, two = (read_run(tmp_path / name).summary for name in ("one", "two"))
    assert one.valid == two.valid
    assert one.test != two.test


# single-task models


def test_single_task_models(quick, graph, tmp_path):
    record = train(quick(scheduler=Single(tasks=(4, 1))), tmp_path / "run")
    assert record.summary.tasks == (1, 4)
    for name in ("ap", "auroc", "f1"):
        scores = record.summary.per_label[name]
        assert np.flatnonzero(np.isfinite(scores)).tolist() == [1, 4]
        assert record.summary.test[name] == pytest.approx(np.nanmean(scores))
    assert [row.task for row in record.valid] == [1, 1, 4, 4]
    assert record.summary.cost["steps"] == record.summary.cost["label_gradients"] == 2 * STEPS
    for task in (1, 4):
        alone = train(quick(), tmp_path / f"{task}", graph=graph.select_tasks([task]))
        for name in ("ap", "auroc", "f1"):
            assert record.summary.per_label[name][task] == alone.summary.per_label[name][0]
        rows = [row.ap for row in record.valid if row.task == task]
        assert rows == [row.ap for row in alone.valid]
    with pytest.raises(RecordError, match="one model per label"):
        load_trained(tmp_path / "run")


def test_sampled_labels_depend_on_the_seed(quick, tmp_path):
    config = quick(scheduler=Single(num_sampled=2), train={"max_steps": 1})
    record = train(config, tmp_path / "run")
    assert record.summary.tasks == config.scheduler.chosen_tasks(T, 0)
    assert len(record.summary.tasks) == 2


# matched controls and given groups


def test_random_groups_match_a_coloring_run(quick, tmp_path):
    leader = train(quick(scheduler=COLORING), tmp_path / "coloring")
    assert max(len(refresh.groups) for refresh in leader.refreshes) > 1
    lines = (tmp_path / "coloring" / "groupings.jsonl").read_text().splitlines()
    follow = Random.following(map(json.loads, lines))
    control = train(quick(scheduler=follow), tmp_path / "random")
    sizes = [
        [(refresh.step, [len(group) for group in refresh.groups]) for refresh in run.refreshes]
        for run in (leader, control)
    ]
    assert sizes[0] == sizes[1]
    assert [row.num_active for row in leader.train] == [row.num_active for row in control.train]
    assert leader.summary.cost["label_gradients"] == control.summary.cost["label_gradients"]
    assert [r.groups for r in leader.refreshes] != [r.groups for r in control.refreshes]


def test_groups_from_a_file(quick, tmp_path, assert_same_run):
    """The grouping of a run's own affinity, saved and trained on, is the one spelt out."""
    leader = train(quick(scheduler=COLORING), tmp_path / "coloring")
    grouping = group_tasks(leader.affinity(leader.refreshes[0]), tau=0.05)
    grouping.save(tmp_path / "groups.json", label_names=leader.label_names)
    spelt = train(quick(scheduler=Static(groups=grouping.groups)), tmp_path / "spelt")
    filed = train(quick(scheduler=Static(file=str(tmp_path / "groups.json"))), tmp_path / "filed")
    assert_same_run(spelt.path, filed.path, but=["config.json"])
    assert spelt.refreshes[0].groups == grouping.groups
    with pytest.raises(FileNotFoundError):
        train(quick(scheduler=Static(file=str(tmp_path / "none.json"))), tmp_path / "none")
    config = quick(scheduler=Static(groups=((0, 1), (2, 3, 4))))
    with pytest.raises(UsageError, match=r"every task|cover"):
        train(config, tmp_path / "few")


# interruption


@pytest.mark.parametrize("step", [3, 8, 12])
@pytest.mark.parametrize("scheduler", SCHEDULERS[:3], ids=kind_of)
def test_a_terminated_run_goes_on(
    scheduler, step, quick, tmp_path, at_step, terminate, assert_same_run, straight
):
    config = quick(scheduler=scheduler)
    at_step(step, terminate)
    with pytest.raises(InterruptedRunError, match=f"after step {step}") as caught:
        train(config, tmp_path / "stopped")
    assert caught.value.exit_code == 143
    assert not read_run(tmp_path / "stopped").done
    assert train(config, tmp_path / "stopped", resume=True).done
    assert_same_run(straight(config), tmp_path / "stopped")


def crash():
    raise RuntimeError("the power went")


@pytest.mark.parametrize("step", [7, 12])
@pytest.mark.parametrize("scheduler", [COLORING, SCHEDULERS[3]], ids=kind_of)
def test_a_crashed_run_goes_on_from_its_last_checkpoint(
    scheduler, step, quick, tmp_path, at_step, assert_same_run, straight
):
    """Checkpoints are at steps 6 and 12; what was logged after the last one is dropped."""
    config = quick(scheduler=scheduler)
    at_step(step, crash)
    with pytest.raises(RuntimeError, match="power"):
        train(config, tmp_path / "stopped")
    train(config, tmp_path / "stopped", resume=True)
    assert_same_run(straight(config), tmp_path / "stopped")


@pytest.mark.parametrize(
    ("step", "how"), [(9, "terminate"), (15, "crash"), (21, "terminate"), (24, "crash")]
)
def test_single_task_models_go_on_where_they_were(
    step, how, quick, tmp_path, at_step, terminate, assert_same_run, straight
):
    """In the first, between and in the second of three models; finished ones are not repeated."""
    config = quick(scheduler=SCHEDULERS[-1])
    at_step(step, {"crash": crash, "terminate": terminate}[how])
    with pytest.raises((InterruptedRunError, RuntimeError)):
        train(config, tmp_path / "stopped")
    before = {row.task for row in read_run(tmp_path / "stopped").train}
    results = sorted((tmp_path / "stopped" / "checkpoints").glob("task-*/result.json"))
    assert len(results) == (step - 1) // STEPS
    times = [file.stat().st_mtime_ns for file in results]
    train(config, tmp_path / "stopped", resume=True)
    assert_same_run(straight(config), tmp_path / "stopped")
    assert [file.stat().st_mtime_ns for file in results] == times
    assert before <= {1, 2}


def test_a_run_stopped_before_its_first_checkpoint_starts_over(
    quick, tmp_path, at_step, assert_same_run, straight
):
    config = quick(train={"eval_every": 4})
    at_step(5, crash)
    with pytest.raises(RuntimeError, match="power"):
        train(config, tmp_path / "stopped")
    assert not list((tmp_path / "stopped" / "checkpoints").glob("last*"))
    train(config, tmp_path / "stopped", resume=True)
    assert_same_run(straight(config), tmp_path / "stopped")


def test_a_failed_scoring_can_be_repeated(quick, tmp_path, assert_same_run, monkeypatch, straight):
    config = quick()
    with monkeypatch.context() as patch:
        patch.setattr("gnn_mtl.runs._train.score_test", lambda model, graph: crash())
        with pytest.raises(RuntimeError, match="power"):
            train(config, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "DONE").exists()
    train(config, tmp_path / "stopped", resume=True)
    assert_same_run(straight(config), tmp_path / "stopped")


def test_a_refresh_after_the_last_checkpoint_is_not_logged_twice(
    quick, tmp_path, at_step, assert_same_run, straight
):
    config = quick(scheduler=dataclasses.replace(COLORING, refresh_period=3))
    at_step(7, crash)  # checkpoint at 6, refresh at 6
    with pytest.raises(RuntimeError, match="power"):
        train(config, tmp_path / "stopped")
    train(config, tmp_path / "stopped", resume=True)
    assert_same_run(straight(config), tmp_path / "stopped")


# what is refused


def test_folders_that_are_not_free(quick, tmp_path, at_step, assert_same_run, straight):
    done = straight(quick())
    for resume in (False, True):
        with pytest.raises(RecordError, match="finished"):
            train(quick(), done, resume=resume)
    with pytest.raises(RecordError, match="no run to resume"):
        train(quick(), tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()
    at_step(8, crash)
    with pytest.raises(RuntimeError, match="power"):
        train(quick(), tmp_path / "half")
    with pytest.raises(RecordError, match="--resume"):
        train(quick(), tmp_path / "half")
    with pytest.raises(RecordError, match=r"differs in seed, train.*--resume"):
        train(quick(seed=3, train={"epochs": 9}), tmp_path / "half", resume=True)
    train(quick(), tmp_path / "half", resume=True)
    assert_same_run(done, tmp_path / "half")


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_damaged_configuration_is_not_resumed(text, quick, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RecordError, match=r"config\.json should be the configuration"):
        train(quick(), tmp_path, resume=True)


def test_nothing_is_written_without_a_dataset(quick, tmp_path):
    with pytest.raises(DatasetNotFoundError, match="debian-tags"):
        train(quick(dataset="debian-tag"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "folder"),
    [
        ({}, "joint-seed0"),
        ({"name": "tau 0.1/log", "seed": 3}, "tau-0.1-log-seed3"),
        ({"name": "../../up"}, "..-..-up-seed0"),
    ],
)
def test_default_folders_stay_below_runs(changes, folder):
    made = default_folder(RunConfig(dataset="data/some.npz", **changes))
    assert made == Path("runs") / "some" / folder


def test_the_default_folder_is_used(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = train(quick(train={"max_steps": 1}))
    assert record.path == Path("runs/opposed/joint-seed0")
    assert (tmp_path / record.path / "DONE").exists()
