"""One model per group: what is trained, who serves a task, and that it can be resumed anywhere."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from gnn_mtl._core.errors import InterruptedRunError, LabelError, RecordError, UsageError
from gnn_mtl.nn import GCN, exact_logits
from gnn_mtl.records import read_run
from gnn_mtl.reports import build_report
from gnn_mtl.runs import RunConfig, build_model, load_trained, train
from gnn_mtl.runs._build import with_inputs
from gnn_mtl.runs._several import _serve
from gnn_mtl.schedulers import Joint, Separate
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import load_weights

GROUPS = ((0, 2, 4), (1, 3), (5,))
STEPS = 12


@pytest.fixture(scope="module")
def apart(quick, tmp_path_factory):
    """A finished run of three models."""
    config = quick(scheduler=Separate(groups=GROUPS))
    return train(config, tmp_path_factory.mktemp("separate") / "run")


def test_each_group_is_a_joint_run_on_its_labels(apart, quick, graph, tmp_path):
    summary = apart.summary
    assert (summary.method, apart.kind, summary.tasks) == ("separate", "separate", tuple(range(6)))
    for number, group in enumerate(GROUPS):
        alone = train(quick(), tmp_path / f"{number}", graph=graph.select_tasks(group))
        for name in ("ap", "auroc", "f1"):
            np.testing.assert_array_equal(
                summary.per_label[name][list(group)], alone.summary.per_label[name]
            )
        rows = [row.ap for row in apart.valid if row.task == number]
        assert rows == [row.ap for row in alone.valid]
    assert summary.cost["steps"] == 3 * STEPS
    assert summary.cost["label_gradients"] == 6 * STEPS
    assert [refresh.groups for refresh in apart.refreshes] == [GROUPS]


def test_the_macro_scores_are_of_all_tasks_together(apart, graph, quick):
    summary = apart.summary
    assert summary.test["ap"] == pytest.approx(np.mean(summary.per_label["ap"]))
    config = quick(scheduler=Separate(groups=GROUPS))
    full = with_inputs(graph, config)
    nodes = full.split_idx["test"]
    y, _ = full.targets(nodes, "test")
    for number, group in enumerate(GROUPS):
        one = full.select_tasks(group)
        model = build_model(config, one)
        file = apart.path / "checkpoints" / f"group-{number:04d}" / "best.safetensors"
        load_weights(file, model)
        logits = exact_logits(model, one, nodes)
        for column, task in enumerate(group):
            wanted = average_precision_score(y[:, task], logits[:, column])
            assert summary.per_label["ap"][task] == pytest.approx(wanted)


def test_inference_costs_one_pass_a_model(apart, quick, straight, graph):
    joint = read_run(straight(quick())).summary
    three = apart.summary
    assert (joint.cost["inference_forwards"], three.cost["inference_forwards"]) == (1, 3)
    assert three.cost["inference_ms_per_1k_nodes"] > 0 < joint.cost["inference_ms_per_1k_nodes"]
    encoder = joint.num_parameters - 6 * 9  # heads: 8 weights and a bias a label
    assert three.num_parameters == 3 * encoder + 6 * 9


class Fixed(torch.nn.Module):
    """A model of fixed logits, one row per node."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))


def test_overlapping_groups_serve_each_task_by_validation(graph, quick, monkeypatch):
    """Task 0 is in both groups: perfect in validation by the second, in test by the first."""
    grouping = Grouping.of([[0, 1, 2], [0, 3, 4, 5]], 6)
    y = np.zeros((graph.num_nodes, 6), np.float32)
    for split in ("valid", "test"):
        y[graph.split_idx[split]] = graph.targets(graph.split_idx[split], split)[0]
    right, wrong = y.copy(), 1 - y
    first, second = wrong.copy(), right.copy()
    first[graph.split_idx["test"], 0] = right[graph.split_idx["test"], 0]
    second[graph.split_idx["test"], 0] = wrong[graph.split_idx["test"], 0]
    models = [Fixed(first[:, [0, 1, 2]]), Fixed(second[:, [0, 3, 4, 5]])]
    monkeypatch.setattr(
        "gnn_mtl.runs._several.timed_logits",
        lambda model, graph, nodes: (model.logits.detach().numpy()[nodes], 0.25),
    )
    served = _serve(quick(), graph, grouping, models)
    assert served.by.tolist() == [1, 0, 0, 1, 1, 1]
    for split in ("valid", "test"):
        nodes = graph.split_idx[split]
        np.testing.assert_array_equal(served.logits[split][:, 0], second[nodes, 0])
        np.testing.assert_array_equal(served.logits[split][:, 1], first[nodes, 1])
    assert served.cost["inference_forwards"] == 2
    # Were group 0 no use to any task, it would not be run.
    alone = _serve(quick(), graph, Grouping.of([[0], [0, 1, 2, 3, 4, 5]], 6),
                   [Fixed(wrong[:, [0]]), Fixed(right)])  # fmt: skip
    assert alone.by.tolist() == [1] * 6
    nodes = len(graph.split_idx["valid"]) + len(graph.split_idx["test"])
    assert alone.cost == {
        "inference_forwards": 1, "inference_ms_per_1k_nodes": pytest.approx(250 / (nodes / 1e3)),
    }  # fmt: skip


@pytest.mark.parametrize("row", [5, 13, 30])
def test_interrupted_in_any_group_it_goes_on(row, quick, tmp_path, at_step, terminate, apart,
                                             assert_same_run):  # fmt: skip
    config = quick(scheduler=Separate(groups=GROUPS))
    at_step(row, terminate)
    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True)
    assert_same_run(apart.path, tmp_path / "run")


def test_killed_between_groups_it_goes_on(quick, tmp_path, monkeypatch, apart, assert_same_run):
    config = quick(scheduler=Separate(groups=GROUPS))
    with monkeypatch.context() as patch:
        patch.setattr("gnn_mtl.runs._several._serve", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config, tmp_path / "run")
        patch.setattr("gnn_mtl.runs._several.fit", lambda *_: 1 / 0)  # nothing is trained again
        with pytest.raises(ZeroDivisionError):
            train(config, tmp_path / "run", resume=True)
    train(config, tmp_path / "run", resume=True)
    assert_same_run(apart.path, tmp_path / "run")


# fine-tuning


def test_fine_tuning_begins_with_the_base_run(quick, straight, graph, tmp_path):
    folder = straight(quick())
    options = {"groups": GROUPS, "init": "base", "base": str(folder)}
    one_step = {"max_steps": 1, "lr": 1e-12, "weight_decay": 0.0, "warmup_steps": 0}
    tuned = train(quick(scheduler=Separate(**options), train=one_step), tmp_path / "tuned")
    fresh = train(
        quick(scheduler=Separate(**options, heads="fresh"), train=one_step), tmp_path / "fresh"
    )
    _, full, base = load_trained(folder)
    for run, is_same in ((tuned, True), (fresh, False)):
        for number, group in enumerate(GROUPS):
            one = full.select_tasks(group)
            model = build_model(quick(), one)
            load_weights(
                run.path / "checkpoints" / f"group-{number:04d}" / "best.safetensors", model
            )
            for mine, its in zip(
                model.encoder.parameters(), base.encoder.parameters(), strict=True
            ):
                torch.testing.assert_close(mine, its, rtol=0, atol=1e-8)
            rows = torch.tensor(group)
            assert torch.allclose(model.heads.weight, base.heads.weight[rows], atol=1e-8) == is_same
    assert len(tuned.summary.extra["base_sha256"]) == 64
    assert torch.equal(base.heads.weight, load_trained(folder)[2].heads.weight)


def test_a_base_run_has_to_fit(quick, straight, tmp_path):
    folder = straight(quick())
    plan = Separate(groups=GROUPS, init="base", base=str(folder))
    with pytest.raises(UsageError, match="differs in encoder"):
        train(quick(scheduler=plan, encoder=GCN(hidden_channels=8)), tmp_path / "run")
    nowhere = dataclasses.replace(plan, base=str(tmp_path))
    with pytest.raises(RecordError, match=r"best\.safetensors"):
        train(quick(scheduler=nowhere), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# what is refused


@pytest.mark.parametrize(
    "options",
    [
        {}, {"groups": GROUPS, "file": "g.json"}, {"groups": GROUPS, "init": "base"},
        {"groups": GROUPS, "base": "runs/joint"}, {"groups": GROUPS, "heads": "fresh"},
        {"groups": GROUPS, "init": "warm"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_plans(options):
    with pytest.raises(UsageError):
        Separate(**options)


def test_bad_groups_fail_before_anything_is_written(quick, tmp_path):
    for groups in (((0, 1),), ((0, 1, 2, 3, 4, 6),)):
        with pytest.raises(UsageError):
            train(quick(scheduler=Separate(groups=groups)), tmp_path / "run")
    Grouping.of(((0,), (1,)), 2).save(tmp_path / "two.json")
    with pytest.raises(UsageError, match="6 tasks"):
        train(quick(scheduler=Separate(file=str(tmp_path / "two.json"))), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="one model a group"):
        Separate(groups=GROUPS).build(6)


def test_a_group_without_a_label_to_choose_by(quick, graph, tmp_path):
    y = np.zeros((graph.num_nodes, 6), np.float32)
    for split, nodes in graph.split_idx.items():
        y[nodes] = graph.targets(nodes, split)[0]
    y[graph.split_idx["valid"], 5] = 0
    other = type(graph).from_arrays(
        np.array([[0, 1], [1, 2]]), y, split=graph.split_idx, x=np.asarray(graph.x)
    )
    with pytest.raises(LabelError, match="Group 2"):
        train(quick(scheduler=Separate(groups=GROUPS)), tmp_path / "run", graph=other)


# reports


def test_reports_and_comparisons_read_it(apart, quick, straight, tmp_path):
    config = json.loads((apart.path / "config.json").read_text())
    assert RunConfig.from_dict(config).scheduler == Separate(groups=GROUPS)
    page = tmp_path / "page.html"
    build_report([apart.path, straight(quick(scheduler=Joint()))], page)
    text = page.read_text(encoding="utf-8")
    assert "separate" in text
    with pytest.raises(RecordError, match="one per group"):
        load_trained(apart.path)
