"""A separate run into one model: heads stay, trunks merge, the folder is a run like any other."""

import json

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import RecordError, UsageError
from gnn_mtl.nn import exact_logits
from gnn_mtl.runs import Merge, RunConfig, build_graph, load_trained, merge_run, train
from gnn_mtl.schedulers import Joint, Separate
from gnn_mtl.training import evaluate_split, load_weights

GROUPS = ((0, 2, 4), (1, 3, 5))


@pytest.fixture(scope="module")
def joint(quick, tmp_path_factory):
    return train(quick(scheduler=Joint()), tmp_path_factory.mktemp("merge") / "joint").path


@pytest.fixture(scope="module")
def tuned(quick, joint):
    """One model per group, each fine-tuned from the joint one."""
    plan = Separate(groups=GROUPS, init="base", base=str(joint))
    return train(quick(scheduler=plan), joint.with_name("tuned")).path


@pytest.mark.parametrize(
    "options",
    [Merge(), Merge(method="ties", density=0.5), Merge(method="low_rank", rank=2),
     Merge(batch_norm="average")],
    ids=lambda o: f"{o.method} {o.batch_norm}",
)  # fmt: skip
def test_the_merged_run(tuned, tmp_path, options):
    run = merge_run(tuned, tmp_path / "merged", options)
    assert run.done
    assert run.method == f"separate-merged-{options.method}"
    config, graph, model = load_trained(run.path)
    assert config.scheduler == RunConfig.load(tuned).scheduler
    assert run.refreshes[0].groups == GROUPS
    said = json.loads((run.path / "summary.json").read_text())
    before = json.loads((tuned / "summary.json").read_text())
    assert said["merged"]["run"] == str(tuned)
    assert said["merged"]["method"] == options.method
    assert said["merged"]["models"] == 2
    assert "served_by" not in said
    for split in ("valid", "test"):
        assert said[split]["ap"] == pytest.approx(evaluate_split(model, graph, split).macro["ap"])
    assert said["num_parameters"] < 0.6 * before["num_parameters"]
    assert said["cost"]["inference_forwards"] == 1
    assert before["cost"]["inference_forwards"] == 2
    assert said["cost"]["steps"] == before["cost"]["steps"]
    for number, group in enumerate(GROUPS):
        own = _model_of(tuned, config, graph, number, group)
        assert torch.equal(model.heads.weight[list(group)], own.heads.weight)


def _model_of(folder, config, graph, number, group):
    from gnn_mtl.runs import build_model

    own = build_model(config, graph.select_tasks(group))
    load_weights(folder / "checkpoints" / f"group-{number:04d}" / "best.safetensors", own)
    return own


def test_trunks_are_averaged(tuned, tmp_path):
    run = merge_run(tuned, tmp_path / "merged")
    config, graph, model = load_trained(run.path)
    parts = [_model_of(tuned, config, graph, n, g) for n, g in enumerate(GROUPS)]
    for name, value in model.encoder.named_parameters():
        mean = sum(dict(p.encoder.named_parameters())[name] for p in parts) / 2
        torch.testing.assert_close(value, mean)


def test_fine_tuned_for_no_step_merges_to_the_joint_run(quick, joint, tmp_path):
    """Models that never moved from their base are their base, by every method."""
    plan = Separate(groups=GROUPS, init="base", base=str(joint))
    still = quick(scheduler=plan, train={"lr": 1e-12, "weight_decay": 0.0, "epochs": 1})
    source = train(still, tmp_path / "still").path
    _, graph, base = load_trained(joint)
    nodes = np.arange(graph.num_nodes)
    for method in ("average", "ties", "low_rank"):
        merged = merge_run(source, tmp_path / method, Merge(method=method, rank=8))
        model = load_trained(merged.path)[2]
        for one, other in zip(model.encoder.parameters(), base.encoder.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    kept = merge_run(source, tmp_path / "kept", Merge(batch_norm="average"))
    found = exact_logits(load_trained(kept.path)[2], graph, nodes)
    assert np.isfinite(found).all()


def test_from_scratch_the_base_is_the_initial_weights(quick, tmp_path):
    source = train(quick(scheduler=Separate(groups=GROUPS)), tmp_path / "scratch").path
    one = merge_run(source, tmp_path / "ties", Merge(method="ties"))
    assert np.isfinite(one.summary.valid["ap"])


def test_refusals(joint, tuned, quick, tmp_path):
    with pytest.raises(RecordError, match="one model per group"):
        merge_run(joint, tmp_path / "out")
    with pytest.raises(RecordError):
        merge_run(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UsageError, match="folder of its own"):
        merge_run(tuned, tuned)
    with pytest.raises(UsageError, match="density"):
        merge_run(tuned, tmp_path / "out", Merge(method="ties", density=2.0))
    assert not (tmp_path / "out").exists()
    graph = build_graph(RunConfig.load(tuned))
    other = graph.with_features(graph.features(np.arange(graph.num_nodes)) + 1)
    with pytest.raises(RecordError, match="SHA-256"):
        merge_run(tuned, tmp_path / "out", graph=other)
    merge_run(tuned, tmp_path / "twice")
    with pytest.raises(RecordError):
        merge_run(tuned, tmp_path / "twice")
    assert Merge().density == 0.2
